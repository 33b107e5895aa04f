//! Frames on a byte stream: length (u32, little-endian), then that many bytes. docs/wire.md, "TLS and framing".
//!
//! Invariant: a length over the reader's maximum ends the connection before a byte of it is stored.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of the length prefix.
pub const HEADER_BYTES: usize = 4;

/// Reads one frame of at most `max_bytes`; `None` if the stream ended cleanly between frames.
///
/// Not safe to cancel: a dropped call may have consumed part of a frame.
///
/// # Errors
/// `InvalidData` for a length over the maximum, `UnexpectedEof` for an end within a frame, else the stream's own.
pub async fn read_frame<S: AsyncRead + Unpin>(
    stream: &mut S,
    max_bytes: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; HEADER_BYTES];
    let first = match stream.read(&mut header[..1]).await {
        Ok(count) => count,
        // TLS peers that die leave out the close alert; between frames that loses nothing.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
        Err(error) => return Err(error),
    };
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[1..]).await?;
    let length = u32::from_le_bytes(header) as usize;
    if length > max_bytes {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("frame of {length} bytes, at most {max_bytes} are allowed"),
        ));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok(Some(payload))
}

/// Writes one frame and flushes it.
///
/// # Errors
/// `InvalidInput` if `payload` does not fit a u32 length, else the stream's own.
pub async fn write_frame<S: AsyncWrite + Unpin>(stream: &mut S, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("frame of {} bytes", payload.len()))
    })?;
    // One buffer, so that header and payload share a TLS record and a packet.
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(payload);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_round_trip_and_end_cleanly() {
        let (mut a, mut b) = tokio::io::duplex(64);
        let writer = tokio::spawn(async move {
            write_frame(&mut a, b"one").await.unwrap();
            write_frame(&mut a, b"").await.unwrap();
        });
        assert_eq!(read_frame(&mut b, 16).await.unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(read_frame(&mut b, 16).await.unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(read_frame(&mut b, 16).await.unwrap(), None);
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn an_oversized_or_cut_frame_is_an_error() {
        let read = async |bytes: &[u8]| {
            let mut bytes = bytes;
            read_frame(&mut bytes, 16).await.unwrap_err().kind()
        };
        assert_eq!(read(&17_u32.to_le_bytes()).await, io::ErrorKind::InvalidData);
        assert_eq!(read(&[1, 0]).await, io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&[2, 0, 0, 0, 9]).await, io::ErrorKind::UnexpectedEof);
    }
}
