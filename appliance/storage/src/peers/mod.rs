//! Replication connections: TLS, frames in, frames out. Decides nothing.
//!
//! Invariants
//! - One connection carries one session of one volume (S4). Its id is drawn by the side that dials.
//! - Events of one session come in order: opened, frames, closed; after [`SessionHandle::close`] none.
//! - A frame is passed on only whole and with good checksums of header and body; the payload's checksum (S17) is
//!   the replica's to judge.
//! - Until its first frame has come, an accepted connection costs at most one of [`HANDSHAKES`] places, which it loses to
//!   newcomers ([`transport::door`]), and the endpoint's time-out twice.

mod receive;
mod send;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use base::{NodeId, SessionId, VolumeId};
use disk::{Buffer, BufferPool};
use replication::frame::Frame;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use transport::door::Door;
use transport::{Endpoint, Pin, TlsStream, version_of};

use crate::inbox::Inbox;
pub(crate) use send::Outgoing;

/// Connections whose first frame has not come yet.
const HANDSHAKES: usize = 64;

/// What happens on replication connections.
pub(crate) enum PeerEvent {
    /// A session is open; an accepted one's first frame follows.
    Opened {
        volume: VolumeId,
        peer: NodeId,
        dialled: bool,
        handle: SessionHandle,
    },
    DialFailed {
        volume: VolumeId,
        peer: NodeId,
    },
    Frame {
        session: SessionId,
        frame: Frame,
        payload: Option<Buffer>,
    },
    Closed {
        session: SessionId,
    },
}

/// The engine's end of one session. Dropping it closes the connection: at once, or after the last frame.
pub(crate) struct SessionHandle {
    pub(crate) id: SessionId,
    /// Of its frames, in both directions.
    pub(crate) version: u16,
    outgoing: Inbox<Outgoing>,
    reading: AbortHandle,
    writing: AbortHandle,
    ending: Cell<bool>,
}

impl SessionHandle {
    pub(crate) fn send(&self, outgoing: Outgoing) {
        self.ending.set(outgoing.last);
        self.outgoing.push(outgoing);
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.reading.abort();
        // A peer that was refused is to learn why (S4); the writer ends by itself then.
        if !self.ending.get() {
            self.writing.abort();
        }
    }
}

/// This node's end of all replication connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    endpoint: Endpoint,
    buffers: BufferPool,
    event: Rc<dyn Fn(PeerEvent)>,
}

impl Peers {
    pub(crate) fn new(endpoint: Endpoint, buffers: BufferPool, event: Rc<dyn Fn(PeerEvent)>) -> Self {
        Self { endpoint, buffers, event }
    }

    /// Whom to let in from now on.
    pub(crate) fn set_members(&self, members: impl Iterator<Item = (Pin, NodeId)>) {
        self.endpoint.set_peers(members.collect());
    }

    /// Accepts connections for ever.
    pub(crate) async fn listen(self, listener: TcpListener) {
        let door = Door::new(HANDSHAKES);
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let peers = self.clone();
                    let place = door.enter(address.ip());
                    tokio::task::spawn_local(async move {
                        match place.hold(peers.accept(stream)).await {
                            Some(Ok(())) => {}
                            Some(Err(error)) => {
                                tracing::info!(%address, "replication connection refused: {error:#}");
                            }
                            None => {
                                tracing::info!(%address, "replication connection gave way to a newer one")
                            }
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: a pause lets others end.
                    tracing::warn!(%error, "replication port can't accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn accept(&self, stream: tokio::net::TcpStream) -> anyhow::Result<()> {
        let (mut stream, peer) = self.endpoint.accept(stream).await?;
        let version = version_of(&stream).context("no version was agreed")?;
        let first = receive::frame(&mut stream, version, &self.buffers);
        let first = tokio::time::timeout(self.endpoint.time_out(), first);
        let (header, frame, payload) = first.await.context("first frame")?.context("first frame")?;
        self.open(stream, version, header.volume, peer, header.session, false);
        (self.event)(PeerEvent::Frame { session: header.session, frame, payload });
        Ok(())
    }

    /// Dials `peer` for `volume`, in the background.
    pub(crate) fn dial(&self, volume: VolumeId, peer: NodeId, address: SocketAddr, pin: Pin) {
        let peers = self.clone();
        tokio::task::spawn_local(async move {
            let dialled = async {
                let session = SessionId(transport::random_id()?);
                let stream = peers.endpoint.connect(address, pin).await?;
                let version = version_of(&stream).context("no version was agreed")?;
                anyhow::Ok((stream, version, session))
            };
            match dialled.await {
                Ok((stream, version, session)) => {
                    if version < replication::frame::VERSIONS.newest {
                        tracing::info!(%address, version, "the peer speaks an older version");
                    }
                    peers.open(stream, version, volume, peer, session, true);
                }
                Err(error) => {
                    tracing::debug!(%address, "replication peer can't be reached: {error:#}");
                    (peers.event)(PeerEvent::DialFailed { volume, peer });
                }
            }
        });
    }

    fn open(
        &self,
        stream: TlsStream,
        version: u16,
        volume: VolumeId,
        peer: NodeId,
        session: SessionId,
        dialled: bool,
    ) {
        let (reader, writer) = tokio::io::split(stream);
        let outgoing = Inbox::new();
        // Neither task runs before this function returns to the runtime, so `Opened` comes first.
        let reading = tokio::task::spawn_local(receive::run(
            reader,
            version,
            self.buffers.clone(),
            session,
            Rc::clone(&self.event),
        ));
        let writing =
            tokio::task::spawn_local(send::run(writer, outgoing.clone(), session, Rc::clone(&self.event)));
        let handle = SessionHandle {
            id: session,
            version,
            outgoing,
            reading: reading.abort_handle(),
            writing: writing.abort_handle(),
            ending: Cell::new(false),
        };
        (self.event)(PeerEvent::Opened { volume, peer, dialled, handle });
    }
}
