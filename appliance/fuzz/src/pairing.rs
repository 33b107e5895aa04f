//! Pairing, both halves: what a stranger sends to a node that offers a code, and what a node that dials gets back.
//!
//! Checked: without the code nobody is believed.

use arbitrary::{Arbitrary, Unstructured};
use base::NodeId;
use control::settings::Role;
use futures_util::FutureExt;
use transport::pairing::{Card, Code, PREFACE, fuzzing};

#[derive(Arbitrary, Debug)]
enum Piece {
    /// A frame of any bytes.
    Frame(Vec<u8>),
    Introduction {
        reply: bool,
        version: u8,
        card: u8,
        element: Vec<u8>,
        group: u8,
    },
    Confirmation {
        reply: bool,
        bytes: Vec<u8>,
    },
    Refusal(u8),
    /// Bytes in no frame.
    Bytes(Vec<u8>),
}

/// One attempt.
pub fn target(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((dials, preface)) = input.arbitrary::<(bool, bool)>() else { return };
    let mut stream = Vec::new();
    if !dials && !preface {
        stream.extend_from_slice(&PREFACE);
    }
    while !input.is_empty() {
        let Ok(piece) = input.arbitrary::<Piece>() else { break };
        put(&mut stream, &piece);
    }
    let code = Code::parse("123-456-789").unwrap();
    let mut ends = tokio::io::join(&stream[..], Vec::new());
    let believed = if dials {
        fuzzing::ask(&mut ends, &code, &card(0)).now_or_never()
    } else {
        fuzzing::answer(&mut ends, &code, &card(0)).now_or_never()
    };
    let believed = believed.expect("it waits for more than there is");
    assert!(believed.is_err(), "{believed:?} was believed");
}

fn card(flaw: u8) -> Card {
    Card {
        node: NodeId(u64::from(flaw != 1)),
        name: if flaw == 2 { "no name".into() } else { "n1".into() },
        role: Role::Data,
        cluster_address: "127.1.0.1:1".parse().unwrap(),
        replication_address: "127.1.0.1:2".parse().unwrap(),
        certificate_sha256: if flaw == 3 { "ab".into() } else { "ab".repeat(32) },
        formats: base::Formats::CURRENT,
    }
}

fn put(stream: &mut Vec<u8>, piece: &Piece) {
    let typed = |reply: bool, kind: &str| if reply { format!("\"type\":\"{kind}\",") } else { String::new() };
    let frame = match piece {
        Piece::Bytes(bytes) => return stream.extend_from_slice(bytes),
        Piece::Frame(bytes) => bytes.clone(),
        Piece::Introduction { reply, version, card: flaw, element, group } => {
            // The group's byte and 32 of a point; others are refused.
            let mut point = vec![if group % 4 == 0 { *group } else { b"AB"[usize::from(*reply)] }];
            point.extend_from_slice(element);
            if group % 2 == 1 {
                point.resize(33, 0);
            }
            let card = serde_json::to_string(&card(*flaw)).unwrap();
            let element = hex::encode(point);
            let version = u32::from(*version).max(1);
            let kind = typed(*reply, "introduction");
            format!("{{{kind}\"version\":{version},\"card\":{card},\"element\":\"{element}\"}}").into_bytes()
        }
        Piece::Confirmation { reply, bytes } => {
            format!("{{{}\"confirmation\":\"{}\"}}", typed(*reply, "confirmed"), hex::encode(bytes))
                .into_bytes()
        }
        Piece::Refusal(kind) => match kind % 3 {
            0 => br#"{"type":"busy"}"#.to_vec(),
            1 => br#"{"type":"not_offered"}"#.to_vec(),
            _ => br#"{"type":"wrong_code","tries_left":4294967295}"#.to_vec(),
        },
    };
    stream.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_le_bytes());
    stream.extend_from_slice(&frame);
}
