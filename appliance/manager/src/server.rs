//! The cluster port: pairing in the clear, everything else over mutual TLS. What consoles say to each other goes on to the
//! web process ([`tunnel`]).
//!
//! Invariants
//! - Before its handshake is done, a connection costs at most one of [`HANDSHAKES`] places, which it loses to newcomers
//!   ([`transport::door`]), and the endpoint's time-out.
//! - A request is taken from a peer only while that is a peer.

use crate::clock;
use crate::heartbeat;
use crate::messages::{MAX_FRAME_BYTES, Proposed, Request, RequestFrame, Response, ResponseFrame};
use crate::node::Node;
use crate::pairing;
use crate::peers::chain;
use crate::{hand_over, proposals, tunnel};
use base::{NodeId, Repeats};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::WriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use transport::door::Door;
use transport::framing::{read_frame, write_frame};
use transport::{Protocol, TlsStream, protocol_of};

/// Connections that may be in their handshake at once.
const HANDSHAKES: usize = 64;
/// Requests of one peer that may be under way at once.
const UNDER_WAY: usize = 64;
/// How long a connection may stay silent before it says what it is.
const FIRST_BYTE: Duration = Duration::from_secs(5);
/// First byte of a TLS record that holds a ClientHello, RFC 8446 §5.1.
const TLS_HANDSHAKE: u8 = 0x16;

/// Strangers that were refused.
#[derive(Default)]
struct Strangers(Mutex<Repeats<IpAddr>>);

impl Strangers {
    fn log(&self, address: IpAddr, error: &str) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unsaid) = refused.ask(&address, error, clock::now().boot) {
            tracing::warn!(%address, error, unsaid, "connection refused");
        }
    }
}

/// Accepts connections for ever.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener) {
    let door = Door::new(HANDSHAKES);
    let strangers = Arc::new(Strangers::default());
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let (node, strangers) = (node.clone(), strangers.clone());
                let place = door.enter(from.ip());
                tokio::spawn(async move {
                    match place.hold(greet(&node, stream)).await {
                        Some(Ok(Some((stream, peer)))) if protocol_of(&stream) == Some(Protocol::Console) => {
                            tunnel::accept(&node, stream, peer).await;
                        }
                        Some(Ok(Some((stream, peer)))) => peer_connection(node, stream, peer).await,
                        Some(Ok(None)) => {}
                        Some(Err(error)) => strangers.log(from.ip(), &error),
                        None => strangers.log(from.ip(), "too many connections that say not who they are"),
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to come back.
                tracing::warn!(%error, "cluster port: accept");
                tokio::time::sleep(node.timing.renew).await;
            }
        }
    }
}

/// Everything before a peer is known: a peer, or none (a pairing is done then), or why not.
async fn greet(node: &Node, stream: TcpStream) -> Result<Option<(TlsStream, NodeId)>, String> {
    let mut first = [0; 1];
    match timeout(FIRST_BYTE, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first == [TLS_HANDSHAKE] => {
            node.endpoint.accept(stream).await.map(Some).map_err(|error| chain(&error))
        }
        Ok(Ok(1)) if Some(&first[0]) == transport::pairing::PREFACE.first() => {
            pairing::respond(node, stream).await;
            Ok(None)
        }
        Ok(Ok(0)) => Ok(None),
        Ok(Ok(_)) => Err("it speaks neither TLS nor pairing".into()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it says nothing".into()),
    }
}

/// Takes requests from a peer until it goes, and answers each as soon as it can.
async fn peer_connection(node: Arc<Node>, stream: TlsStream, peer: NodeId) {
    let (mut reader, writer) = tokio::io::split(stream);
    let (answers, queue) = mpsc::channel(UNDER_WAY);
    let writing = tokio::spawn(write(writer, queue));
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    loop {
        let bytes = match read_frame(&mut reader, MAX_FRAME_BYTES).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(error) => {
                tracing::info!(node = %peer, %error, "peer connection ended");
                break;
            }
        };
        if !node.peers.contains(peer) {
            break;
        }
        let RequestFrame { number, request } = match serde_json::from_slice(&bytes) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::warn!(node = %peer, %error, "peer sent something else than a request");
                break;
            }
        };
        // Signs of life are answered here and now, whatever else is under way.
        if let Request::Heartbeat { lease, report } = request {
            let response = heartbeat::handle(&node, peer, &lease, report);
            if answers.send(ResponseFrame { number, response }).await.is_err() {
                break;
            }
            continue;
        }
        let Ok(place) = under_way.clone().acquire_owned().await else { break };
        let (node, answers) = (node.clone(), answers.clone());
        tokio::spawn(async move {
            let response = handle(&node, peer, request).await;
            let _gone = answers.send(ResponseFrame { number, response }).await;
            drop(place);
        });
    }
    writing.abort();
}

async fn write(mut writer: WriteHalf<TlsStream>, mut queue: mpsc::Receiver<ResponseFrame>) {
    while let Some(frame) = queue.recv().await {
        let Ok(bytes) = serde_json::to_vec(&frame) else { return };
        if write_frame(&mut writer, &bytes).await.is_err() {
            return;
        }
    }
}

async fn handle(node: &Arc<Node>, peer: NodeId, request: Request) -> Response {
    match request {
        Request::AppendEntries(rpc) => {
            let committed = rpc.leader_commit.map_or(0, |committed| committed.index);
            node.events.heard(committed, clock::now().boot, node.timing.raft_election_max);
            Response::AppendEntries(node.raft.append_entries(rpc).await)
        }
        Request::Vote(rpc) => Response::Vote(node.raft.vote(rpc).await),
        Request::InstallSnapshot(rpc) => Response::InstallSnapshot(node.raft.install_snapshot(rpc).await),
        Request::Propose(command) => {
            let proposed = proposals::here(node, command, node.attempt_time()).await;
            Response::Proposed(proposed.unwrap_or(Proposed::NotLeader))
        }
        Request::Heartbeat { lease, report } => heartbeat::handle(node, peer, &lease, report),
        Request::HandOver { volume, to, instance } => {
            Response::Answer(hand_over::on_primary(node, volume, to, instance).await)
        }
        Request::Welcome(introduction) => Response::Answer(pairing::welcomed(node, peer, introduction).await),
    }
}
