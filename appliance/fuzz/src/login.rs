//! The login machine with and without CHAP: any requests with any text, and CHAP done right at any point.
//!
//! Checked: nobody enters the full-feature phase without the proof that the gate asks for, nor twice; a refusal has a
//! status and closes; answers parse, keep to their size, and answer no key twice; what was negotiated is within the RFC's
//! ranges.

use arbitrary::{Arbitrary, Unstructured};
use iscsi::chap::{Credentials, Nonce};
use iscsi::login::{Access, Answer, Gate, Identity, Login, Next};
use iscsi::pdu::{LoginRequest, LoginStatus};
use iscsi::text;

const NONCE: Nonce = Nonce { id: 7, challenge: [0xa5; 16] };
/// MD5(7, "secret-secret", a5 × 16), RFC 1994: what the initiator that knows the secret answers.
const RESPONSE: &str = "0x71cb743ccfc3009cc633b710fe1d1a63";

/// Pieces that login texts are made of.
const WORDS: &[&str] = &[
    "InitiatorName=iqn.2026-11.x:i\0",
    "TargetName=iqn.2026-11.x:t\0",
    "SessionType=Normal\0",
    "SessionType=Discovery\0",
    "AuthMethod=CHAP,None\0",
    "AuthMethod=None\0",
    "AuthMethod=CHAP\0",
    "CHAP_A=5\0",
    "CHAP_A=7,6\0",
    "CHAP_N=user\0",
    "CHAP_I=9\0",
    "CHAP_C=0x0102\0",
    "CHAP_C=0xa5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\0",
    "CHAP_C=0bAQID\0",
    "CHAP_R=0x00\0",
    "HeaderDigest=CRC32C,None\0",
    "DataDigest=None\0",
    "MaxRecvDataSegmentLength=512\0",
    "MaxBurstLength=16777215\0",
    "FirstBurstLength=512\0",
    "InitialR2T=No\0",
    "ImmediateData=Yes\0",
    "MaxOutstandingR2T=65535\0",
    "MaxConnections=1\0",
    "ErrorRecoveryLevel=2\0",
    "SendTargets=All\0",
    "TargetPortalGroupTag=1\0",
    "X-other=1\0",
    "=\0",
    "\0",
];

#[derive(Arbitrary, Debug)]
enum Piece {
    Word(u8),
    /// The proof, at whatever point it is sent.
    Proof,
    Bytes(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Step {
    header: Header,
    pieces: Vec<Piece>,
}

#[derive(Arbitrary, Debug)]
enum Header {
    /// Security stage, going on or not.
    Security {
        transit: bool,
    },
    /// Operational stage.
    Operational {
        transit: bool,
    },
    /// From security straight to the full-feature phase.
    Straight,
    Any {
        bytes: [u8; 16],
        more: bool,
    },
}

impl Header {
    fn request(&self) -> LoginRequest {
        let plain = |transit, stages| LoginRequest { transit, stages, ..LoginRequest::default() };
        match self {
            Self::Security { transit } => plain(*transit, u8::from(*transit)),
            Self::Operational { transit } => plain(*transit, 0b0100 | if *transit { 3 } else { 0 }),
            Self::Straight => plain(true, 3),
            Self::Any { bytes, more } => {
                let mut bhs = [0; 48];
                bhs[..16].copy_from_slice(bytes);
                LoginRequest { more: *more, ..LoginRequest::decode(&bhs) }
            }
        }
    }
}

struct Door {
    chap: bool,
    refuse: bool,
    opened: u32,
    asked: Option<(String, bool)>,
}

impl Gate for Door {
    fn access(&mut self, initiator: &str, target: Option<&str>) -> Access {
        assert!(text::is_name(initiator), "{initiator:?} reached the gate");
        assert!(self.asked.is_none(), "asked twice in one login");
        self.asked = Some((initiator.to_owned(), target.is_none()));
        match target {
            Some("iqn.2026-11.x:t") | None if self.chap => Access::Chap(Credentials {
                name: "user".into(),
                secret: b"secret-secret".to_vec(),
                mutual: Some(("target".into(), b"other-secret!".to_vec())),
            }),
            Some("iqn.2026-11.x:t") | None => Access::Open,
            Some(name) if name.len() % 3 == 0 => Access::Unknown,
            Some(name) if name.len() % 3 == 1 => Access::Forbidden,
            Some(_) => Access::NotServed,
        }
    }

    fn nonce(&mut self) -> Nonce {
        NONCE
    }

    fn open_session(&mut self, identity: &Identity) -> Result<u16, LoginStatus> {
        self.opened += 1;
        let (initiator, discovery) = self.asked.as_ref().expect("opened before access was asked");
        assert_eq!((&identity.initiator, identity.discovery), (initiator, *discovery));
        if self.refuse { Err(LoginStatus::OutOfResources) } else { Ok(1) }
    }
}

/// One login.
pub fn target(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let _ = run(&mut input);
}

fn run(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut door = Door { chap: input.arbitrary()?, refuse: input.ratio(1, 16)?, opened: 0, asked: None };
    let mut login = Login::default();
    let mut proved = false;
    let mut answered = Vec::new();
    while !input.is_empty() {
        let step: Step = input.arbitrary()?;
        let mut segment = Vec::new();
        for piece in &step.pieces {
            match piece {
                Piece::Word(word) => {
                    segment.extend_from_slice(WORDS[usize::from(*word) % WORDS.len()].as_bytes());
                }
                Piece::Proof => {
                    proved = true;
                    segment.extend_from_slice(format!("CHAP_N=user\0CHAP_R={RESPONSE}\0").as_bytes());
                }
                Piece::Bytes(bytes) => segment.extend_from_slice(bytes),
            }
        }
        let request = step.header.request();
        let answer = login.handle_request(&request, &segment, &mut door);
        check(&answer, &request, &mut answered);
        match answer.next {
            Next::GoOn => {}
            Next::Close | Next::Drop => return Ok(()),
            Next::FullFeature(parameters) => {
                assert!(!door.chap || proved, "in without the proof");
                assert_eq!(door.opened, 1);
                assert_ne!(answer.response.tsih, 0);
                assert!(parameters.first_burst_bytes <= parameters.max_burst_bytes);
                assert!((512..=0xff_ffff).contains(&parameters.max_send_bytes));
                assert!((512..=0xff_ffff).contains(&parameters.max_burst_bytes));
                assert!((512..=0xff_ffff).contains(&parameters.first_burst_bytes));
                assert!((1..=8).contains(&parameters.max_outstanding_r2t));
                return Ok(());
            }
        }
    }
    Ok(())
}

fn check(answer: &Answer, request: &LoginRequest, answered: &mut Vec<String>) {
    let response = &answer.response;
    assert!(answer.text.len() <= 8192, "{} bytes of text", answer.text.len());
    assert_eq!(response.initiator_task_tag, request.initiator_task_tag);
    match answer.next {
        Next::Close => assert!(response.status != 0 && answer.text.is_empty() && !response.transit),
        Next::Drop => {}
        _ => assert_eq!(response.status, 0),
    }
    assert!(!response.transit || request.transit, "transit that nobody asked for");
    // Not by `text::parse`: it takes fewer keys than offers and declarations together may be.
    for pair in answer.text.split_inclusive(|byte| *byte == 0) {
        let pair = pair.strip_suffix(&[0]).expect("an answer without its NUL");
        let pair = std::str::from_utf8(pair).expect("an answer that is no text");
        let (key, value) = pair.split_once('=').expect("an answer that is no pair");
        assert!(
            !answered.iter().any(|known| known == key) || value == "NotUnderstood",
            "{key} answered twice"
        );
        answered.push(key.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The constant proof is right: with it the login succeeds, so that the fuzzer reaches what is behind it.
    #[test]
    fn the_proof_opens_the_door() {
        let mut door = Door { chap: true, refuse: false, opened: 0, asked: None };
        let mut login = Login::default();
        let first = "InitiatorName=iqn.2026-11.x:i\0TargetName=iqn.2026-11.x:t\0AuthMethod=CHAP\0";
        let proof = format!("CHAP_N=user\0CHAP_R={RESPONSE}\0");
        for (header, text) in [
            (Header::Security { transit: false }, first),
            (Header::Security { transit: false }, "CHAP_A=5\0"),
            (Header::Straight, proof.as_str()),
        ] {
            let answer = login.handle_request(&header.request(), text.as_bytes(), &mut door);
            assert_eq!(answer.response.status, 0, "{text}");
        }
        assert_eq!(door.opened, 1);
    }
}
