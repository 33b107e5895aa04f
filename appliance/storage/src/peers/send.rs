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
    /// The session ends with this frame.
    pub(crate) last: bool,
}

/// Payloads up to this size are copied behind their header, so that small frames share a TLS record.
const COPY_BYTES: usize = 16 << 10;
/// Gathered bytes that are written without waiting for more.
const BATCH_BYTES: usize = 64 << 10;

/// Writes frames until the last one, or until the connection breaks.
pub(super) async fn run(
    mut stream: impl AsyncWrite + Unpin,
    outgoing: Inbox<Outgoing>,
    session: SessionId,
    event: Rc<dyn Fn(PeerEvent)>,
) {
    let mut batch = Vec::with_capacity(2 * BATCH_BYTES);
    loop {
        outgoing.ready().await;
        match write_gathered(&mut stream, &outgoing, &mut batch).await {
            Ok(false) => {}
            Ok(true) => return,
            Err(error) => {
                tracing::debug!(%session, %error, "replication connection can't be written");
                return event(PeerEvent::Closed { session });
            }
        }
    }
}

/// Answers whether the last frame of the session was among them.
async fn write_gathered(
    stream: &mut (impl AsyncWrite + Unpin),
    outgoing: &Inbox<Outgoing>,
    batch: &mut Vec<u8>,
) -> std::io::Result<bool> {
    let mut ended = false;
    while let Some(next) = outgoing.pop() {
        ended |= next.last;
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
    stream.flush().await?;
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn the_last_frame_arrives_and_ends_the_connection() {
        let (near, mut far) = tokio::io::duplex(4096);
        let outgoing = Inbox::new();
        outgoing.push(Outgoing { frame: b"refused".to_vec(), payload: None, last: true });
        run(near, outgoing, SessionId(1), Rc::new(|_| ())).await;
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"refused");
    }
}
