//! Tables of logins: what is sent, what must come back.

use super::*;
use crate::pdu::LoginStatus as Status;
use alloc::{format, vec};

struct Door {
    access: Access,
    opened: Vec<Identity>,
    failures: Vec<(String, &'static str)>,
}

impl Door {
    fn new(access: Access) -> Self {
        Self { access, opened: Vec::new(), failures: Vec::new() }
    }
}

impl Gate for Door {
    fn access(&mut self, _: &str, _: Option<&str>) -> Access {
        self.access.clone()
    }
    fn nonce(&mut self) -> Nonce {
        Nonce { id: 1, challenge: [2; 16] }
    }
    fn open_session(&mut self, identity: &Identity) -> Result<u16, LoginStatus> {
        self.opened.push(identity.clone());
        Ok(9)
    }
    fn not_authentic(&mut self, identity: &Identity, reason: &'static str) {
        self.failures.push((identity.initiator.clone(), reason));
    }
}

/// Current and next stage, with the transit bit.
fn request(stages: u8) -> LoginRequest {
    LoginRequest { transit: true, stages, isid: [1; 6], initiator_task_tag: 5, ..LoginRequest::default() }
}

const NAMES: &[u8] = b"InitiatorName=iqn.2026-01.x:i\0TargetName=iqn.2026-01.x:t\0SessionType=Normal\0";

fn with_names(rest: &str) -> Vec<u8> {
    [NAMES, rest.as_bytes()].concat()
}

#[test]
fn straight_through_both_stages() {
    let mut door = Door::new(Access::Open);
    let mut login = Login::default();
    let first = login.handle_request(&request(0b0001), &with_names("AuthMethod=CHAP,None\0"), &mut door);
    assert_eq!(first.next, Next::GoOn);
    assert!(first.response.transit && first.response.stages == 0b0001);
    assert_eq!(first.text, b"TargetPortalGroupTag=1\0AuthMethod=None\0");
    let text = b"MaxRecvDataSegmentLength=131072\0InitialR2T=No\0";
    let second = login.handle_request(&request(0b0111), text, &mut door);
    assert_eq!(second.text, b"InitialR2T=No\0MaxRecvDataSegmentLength=262144\0");
    assert_eq!((second.response.tsih, second.response.status), (9, 0));
    let Next::FullFeature(parameters) = second.next else { panic!("{second:?}") };
    assert!(!parameters.initial_r2t && parameters.max_send_bytes == 131_072);
    assert_eq!(door.opened[0].target, "iqn.2026-01.x:t");
}

#[test]
fn discovery_needs_no_target() {
    let mut door = Door::new(Access::Open);
    let text = b"InitiatorName=iqn.2026-01.x:i\0SessionType=Discovery\0";
    let answer = Login::default().handle_request(&request(0b0111), text, &mut door);
    assert!(matches!(answer.next, Next::FullFeature(_)));
    assert!(door.opened[0].discovery && door.opened[0].target.is_empty());
}

#[test]
fn text_may_come_in_pieces_but_not_without_end() {
    let mut door = Door::new(Access::Open);
    let mut login = Login::default();
    let piece = LoginRequest { transit: false, more: true, ..request(0b0100) };
    let (head, tail) = NAMES.split_at(20);
    let answer = login.handle_request(&piece, head, &mut door);
    assert_eq!((answer.next, answer.text.len(), answer.response.transit), (Next::GoOn, 0, false));
    assert!(matches!(login.handle_request(&request(0b0111), tail, &mut door).next, Next::FullFeature(_)));

    let mut login = Login::default();
    for _ in 0..2 {
        assert_eq!(login.handle_request(&piece, &[b'x'; 8192], &mut door).next, Next::GoOn);
    }
    assert_eq!(login.handle_request(&piece, b"x", &mut door).response.status, Status::InitiatorError.code());
}

#[test]
fn every_refusal_has_its_status() {
    let long_name = alloc::format!("InitiatorName=iqn.{}\0SessionType=Discovery\0", "x".repeat(230));
    let both = LoginRequest { more: true, ..request(0b0111) };
    let version = LoginRequest { version_min: 1, ..request(0b0111) };
    for (request, text, status) in [
        (request(0b0111), &b"SessionType=Discovery\0"[..], Status::MissingParameter),
        (request(0b0111), b"InitiatorName=iqn.2026-01.x:i\0", Status::MissingParameter),
        (request(0b0111), b"InitiatorName=iqn.x\0SessionType=Odd\0", Status::SessionTypeNotSupported),
        (request(0b0111), long_name.as_bytes(), Status::InitiatorError),
        (request(0b0111), b"nonsense\0", Status::InitiatorError),
        (request(0b0100), NAMES, Status::InitiatorError),
        (request(0b0101), NAMES, Status::InitiatorError),
        (request(0b1011), NAMES, Status::InvalidDuringLogin),
        (request(0b1111), NAMES, Status::InvalidDuringLogin),
        (both, NAMES, Status::InitiatorError),
        (version, NAMES, Status::UnsupportedVersion),
    ] {
        let answer = Login::default().handle_request(&request, text, &mut Door::new(Access::Open));
        assert_eq!((answer.response.status, answer.next), (status.code(), Next::Close), "{request:?}");
        assert!(answer.text.is_empty() && !answer.response.transit);
    }
}

#[test]
fn access_decides() {
    for (access, status, next) in [
        (Access::Unknown, Status::NotFound, Next::Close),
        (Access::Forbidden, Status::AuthorizationFailure, Next::Close),
        (Access::NotServed, Status::Success, Next::Drop),
    ] {
        let answer = Login::default().handle_request(&request(0b0111), NAMES, &mut Door::new(access));
        assert_eq!((answer.response.status, answer.next), (status.code(), next));
    }
}

#[test]
fn the_header_may_not_change_on_the_way() {
    for changed in [
        LoginRequest { isid: [2; 6], ..request(0b0111) },
        LoginRequest { initiator_task_tag: 6, ..request(0b0111) },
        LoginRequest { cid: 1, ..request(0b0111) },
        LoginRequest { tsih: 1, ..request(0b0111) },
        request(0b0001),
    ] {
        let mut door = Door::new(Access::Open);
        let mut login = Login::default();
        login.handle_request(&request(0b0001), NAMES, &mut door);
        let answer = login.handle_request(&changed, b"", &mut door);
        assert_eq!(answer.response.status, Status::InvalidDuringLogin.code(), "{changed:?}");
    }
}

#[test]
fn without_the_proof_there_is_no_session() {
    let credentials = Credentials { name: "u".into(), secret: b"s".to_vec(), mutual: None };
    let closed = || Door::new(Access::Chap(credentials.clone()));
    // Skipping the stage, offering only None, leaving the stage early, a wrong response.
    let answer = Login::default().handle_request(&request(0b0111), NAMES, &mut closed());
    assert_eq!(answer.response.status, Status::AuthenticationFailure.code());
    let answer =
        Login::default().handle_request(&request(0b0001), &with_names("AuthMethod=None\0"), &mut closed());
    assert_eq!(answer.response.status, Status::AuthenticationFailure.code());
    let (mut door, mut login) = (closed(), Login::default());
    let answer = login.handle_request(&request(0b0011), &with_names("AuthMethod=CHAP,None\0"), &mut door);
    assert_eq!((answer.next, answer.response.transit), (Next::GoOn, false));
    let answer = login.handle_request(&request(0b0011), b"CHAP_A=5\0", &mut door);
    assert_eq!((answer.next, answer.response.transit), (Next::GoOn, false));
    let answer = login.handle_request(&request(0b0011), b"CHAP_N=u\0CHAP_R=0x00\0", &mut door);
    assert_eq!(answer.response.status, Status::AuthenticationFailure.code());
    assert!(door.opened.is_empty());
}

#[test]
fn who_fails_to_prove_itself_is_named_with_the_reason() {
    let credentials = Credentials { name: "u".into(), secret: b"s".to_vec(), mutual: None };
    let reason = |access: Access, texts: &[&str]| {
        let (mut door, mut login) = (Door::new(access), Login::default());
        for (at, text) in texts.iter().enumerate() {
            let text = if at == 0 { with_names(text) } else { text.as_bytes().to_vec() };
            login.handle_request(&request(0b0011), &text, &mut door);
        }
        assert!(door.opened.is_empty());
        door.failures
    };
    let chap = || Access::Chap(credentials.clone());
    let good = crate::chap::md5_response(1, b"s", &[2; 16]);
    let wrong = crate::chap::md5_response(1, b"x", &[2; 16]);
    let proof = |name: &str, response: &str| format!("CHAP_N={name}\0CHAP_R={response}\0");
    let (begin, hash) = ("AuthMethod=CHAP\0", "CHAP_A=5\0");
    for (texts, expected) in [
        (vec!["AuthMethod=None\0"], "does not offer CHAP, which is set here"),
        (vec![begin, "CHAP_A=6\0"], NotAuthentic::NoHash.reason()),
        (vec![begin, hash, &proof("u", "zz")], NotAuthentic::Malformed.reason()),
        (vec![begin, hash, &proof("v", &good)], NotAuthentic::UnknownName.reason()),
        (vec![begin, hash, &proof("u", &wrong)], NotAuthentic::WrongSecret.reason()),
        (
            vec![begin, hash, &(proof("u", &good) + "CHAP_I=1\0CHAP_C=0x01\0")],
            NotAuthentic::NoMutual.reason(),
        ),
    ] {
        assert_eq!(reason(chap(), &texts), [("iqn.2026-01.x:i".into(), expected)], "{texts:?}");
    }
    let open = reason(Access::Open, &[begin]);
    assert_eq!(open, [("iqn.2026-01.x:i".into(), "insists on CHAP, which is not set here")]);
}

#[test]
fn a_login_ends_some_time() {
    let mut door = Door::new(Access::Open);
    let mut login = Login::default();
    let idle = LoginRequest { transit: false, ..request(0b0100) };
    let answers: Vec<_> =
        (0..=MAX_REQUESTS).map(|_| login.handle_request(&idle, NAMES_ONCE, &mut door)).collect();
    assert_eq!(answers.last().unwrap().next, Next::Close);
}

/// Repeating names would be refused as repeated keys; an alias alone is not enough to identify, so names come first.
const NAMES_ONCE: &[u8] = b"";

#[test]
fn discovery_takes_chap_from_who_insists_on_it() {
    let credentials = Credentials { name: "u".into(), secret: b"s".to_vec(), mutual: None };
    let names = "InitiatorName=iqn.2026-01.x:i\0SessionType=Discovery\0AuthMethod=";
    let first = |access: Access, methods: &str| {
        let (mut door, mut login) = (Door::new(access), Login::default());
        let text = format!("{names}{methods}\0");
        let answer = login.handle_request(&request(0b0011), text.as_bytes(), &mut door);
        (login, door, answer)
    };
    let known = || Access::OpenOrChap(vec![credentials.clone()]);
    for methods in ["None", "CHAP,None"] {
        let (_, door, answer) = first(known(), methods);
        assert!(matches!(answer.next, Next::FullFeature(_)) && door.opened[0].discovery, "{methods}");
    }
    let (_, _, answer) = first(Access::OpenOrChap(vec![]), "CHAP");
    assert_eq!(answer.response.status, Status::AuthenticationFailure.code());
    for (secret, good) in [(b"x", false), (b"s", true)] {
        let (mut login, mut door, answer) = first(known(), "CHAP");
        assert_eq!((answer.next, answer.response.transit), (Next::GoOn, false));
        login.handle_request(&request(0b0011), b"CHAP_A=5\0", &mut door);
        let proof = crate::chap::md5_response(1, secret, &[2; 16]);
        let text = format!("CHAP_N=u\0CHAP_R={proof}\0");
        let answer = login.handle_request(&request(0b0011), text.as_bytes(), &mut door);
        assert_eq!(matches!(answer.next, Next::FullFeature(_)), good);
        assert_eq!(door.opened.len(), usize::from(good));
    }
}

#[test]
fn chap_names_of_511_bytes_and_secrets_of_255_log_in() {
    let long = |byte: &str, len: usize| byte.repeat(len);
    let (name, secret) = (long("n", 511), long("s", 255));
    for (user, proof_of, good) in [(511, 255, true), (510, 255, false), (511, 254, false)] {
        let mutual = Some((long("t", 511), long("u", 255).into_bytes()));
        let credentials = Credentials { name: name.clone(), secret: secret.clone().into_bytes(), mutual };
        let (mut door, mut login) = (Door::new(Access::Chap(credentials)), Login::default());
        login.handle_request(&request(0b0011), &with_names("AuthMethod=CHAP\0"), &mut door);
        login.handle_request(&request(0b0011), b"CHAP_A=5\0", &mut door);
        let proof = crate::chap::md5_response(1, &secret.as_bytes()[..proof_of], &[2; 16]);
        // The longest challenge that RFC 7143 §12.1.3 allows: 1024 bytes.
        let challenge = long("7", 2048);
        let text = format!("CHAP_N={}\0CHAP_R={proof}\0CHAP_I=3\0CHAP_C=0x{challenge}\0", &name[..user]);
        let answer = login.handle_request(&request(0b0011), text.as_bytes(), &mut door);
        assert_eq!(matches!(answer.next, Next::FullFeature(_)), good, "{user} {proof_of}");
        if good {
            let own = format!("CHAP_N={}\0", long("t", 511));
            assert!(answer.text.starts_with(own.as_bytes()));
        }
    }
}
