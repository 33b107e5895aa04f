//! Frames in.

use std::rc::Rc;

use base::SessionId;
use disk::{Buffer, BufferPool};
use replication::frame::{Frame, HEADER_BYTES, Header};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::PeerEvent;

/// Reads one frame of `version` with its payload.
pub(super) async fn frame(
    stream: &mut (impl AsyncRead + Unpin),
    version: u16,
    buffers: &BufferPool,
) -> anyhow::Result<(Header, Frame, Option<Buffer>)> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let header = Header::decode(&header)?;
    if header.version != version {
        anyhow::bail!("a frame of version {} where {version} was agreed", header.version);
    }
    let mut body = vec![0; usize::try_from(header.body_len)?];
    stream.read_exact(&mut body).await?;
    let frame = header.decode_body(&body)?;
    let payload = if header.payload_len == 0 {
        None
    } else {
        // Bounded by what the peer may have in flight; refusing it would only break the session.
        let mut buffer = buffers.take_urgent(usize::try_from(header.payload_len)?)?;
        stream.read_exact(buffer.as_mut_slice()).await?;
        Some(buffer.freeze())
    };
    Ok((header, frame, payload))
}

/// Reads frames until the connection ends.
pub(super) async fn run(
    mut stream: impl AsyncRead + Unpin,
    version: u16,
    buffers: BufferPool,
    session: SessionId,
    event: Rc<dyn Fn(PeerEvent)>,
) {
    loop {
        match frame(&mut stream, version, &buffers).await {
            Ok((_, frame, payload)) => event(PeerEvent::Frame { session, frame, payload }),
            Err(error) => {
                tracing::debug!(%session, "replication connection ended: {error:#}");
                return event(PeerEvent::Closed { session });
            }
        }
    }
}
