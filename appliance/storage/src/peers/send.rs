//! Frames out: what has gathered goes out in one write.

use std::rc::Rc;

use base::SessionId;
use disk::Buffer;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::PeerEvent;
use crate::inbox::Inbox;

/// One encoded frame and its payload.
pub(crate) struct Outgoing {
    pub(crate) frame: Vec<u8>,
    pub(crate) payload: Option<Buffer>,
}

/// Payloads up to this size are copied behind their header, so that small frames share a TLS record.
const COPY_BYTES: usize = 16 << 10;
/// Gathered bytes that are written without waiting for more.
const BATCH_BYTES: usize = 64 << 10;

/// Writes frames until the connection breaks.
pub(super) async fn run(
    mut stream: impl AsyncWrite + Unpin,
    outgoing: Inbox<Outgoing>,
    session: SessionId,
    event: Rc<dyn Fn(PeerEvent)>,
) {
    let mut batch = Vec::with_capacity(2 * BATCH_BYTES);
    loop {
        outgoing.ready().await;
        if let Err(error) = write_gathered(&mut stream, &outgoing, &mut batch).await {
            tracing::debug!(%session, %error, "replication connection can't be written");
            return event(PeerEvent::Closed { session });
        }
    }
}

async fn write_gathered(
    stream: &mut (impl AsyncWrite + Unpin),
    outgoing: &Inbox<Outgoing>,
    batch: &mut Vec<u8>,
) -> std::io::Result<()> {
    while let Some(next) = outgoing.pop() {
        batch.extend_from_slice(&next.frame);
        match next.payload {
            Some(payload) if payload.len() <= COPY_BYTES => batch.extend_from_slice(payload.as_slice()),
            Some(payload) => {
                stream.write_all(batch).await?;
                batch.clear();
                stream.write_all(payload.as_slice()).await?;
            }
            None => {}
        }
        if batch.len() >= BATCH_BYTES {
            stream.write_all(batch).await?;
            batch.clear();
        }
    }
    stream.write_all(batch).await?;
    batch.clear();
    stream.flush().await
}
