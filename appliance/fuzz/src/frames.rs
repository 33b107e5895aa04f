//! Replication frames: any bytes, and well-formed frames with any content behind good checksums.

use arbitrary::{Arbitrary, Unstructured};
use base::crc32c;
use replication::frame::{Frame, HEADER_BYTES, Header, MAX_BODY_BYTES, MAX_PAYLOAD_BYTES};

#[derive(Arbitrary, Debug)]
struct Shaped {
    kind: u16,
    numbers: [u64; 4],
    payload_len: u32,
    payload_crc: u32,
    reserved: bool,
    body: Vec<u8>,
}

/// The bytes as they are, then as the content of a sealed frame.
pub fn target(data: &[u8]) {
    if let Some((header, rest)) = data.split_first_chunk::<HEADER_BYTES>()
        && let Ok(header) = Header::decode(header)
    {
        let body = rest.get(..header.body_len as usize).unwrap_or(rest);
        let _ = header.decode_body(body);
    }
    let Ok(shaped) = Unstructured::new(data).arbitrary::<Shaped>() else { return };
    let header = seal(&shaped);
    let Ok(header) = Header::decode(&header) else {
        let fits = shaped.body.len() <= MAX_BODY_BYTES as usize && shaped.payload_len <= MAX_PAYLOAD_BYTES;
        assert!(!fits || shaped.reserved, "a sealed header is refused: {shaped:?}");
        return;
    };
    assert!(header.body_len <= MAX_BODY_BYTES && header.payload_len <= MAX_PAYLOAD_BYTES);
    let Ok(frame) = header.decode_body(&shaped.body) else { return };
    // What was understood is what is sent: bit for bit the same frame.
    let again = frame.encode();
    let (head, body) = again.split_first_chunk::<HEADER_BYTES>().unwrap();
    let decoded: Frame = Header::decode(head).unwrap().decode_body(body).unwrap();
    assert_eq!(decoded, frame);
    assert_eq!(body, shaped.body, "a body with two encodings");
}

/// docs/wire.md, "Replication frames".
fn seal(shaped: &Shaped) -> [u8; HEADER_BYTES] {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(b"FtgR");
    header.extend_from_slice(&base::formats::WIRE_VERSION.to_le_bytes());
    header.extend_from_slice(&(shaped.kind % 18).to_le_bytes());
    for number in shaped.numbers {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(&u32::try_from(shaped.body.len()).unwrap().to_le_bytes());
    header.extend_from_slice(&shaped.payload_len.to_le_bytes());
    header.extend_from_slice(&shaped.payload_crc.to_le_bytes());
    header.extend_from_slice(&crc32c(&shaped.body).to_le_bytes());
    header.extend_from_slice(&u32::from(shaped.reserved).to_le_bytes());
    let crc = crc32c(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    header.try_into().unwrap()
}
