//! Pairing: two nodes that share nothing but a short code, carried over by a person, learn each other's certificate.
//! docs/wire.md, "Pairing".
//!
//! The code is the password of a SPAKE2 exchange (RFC 9382's construction, Ed25519 group). Both [`Card`]s, which hold
//! the certificate hashes and addresses, go into the hash that the confirmations cover, so nobody in between can
//! change a card or learn more than one guess per try. The dialling side confirms first: whoever offers a code and
//! meets a wrong one reveals nothing.
//!
//! Invariants
//! - A code is good for one pairing, [`TRIES`] wrong codes, or [`VALID`], whichever ends first.
//! - One attempt at a time per offer, each within [`TIME_OUT`]: attempts can't be run side by side to get more tries.
//! - Neither side believes a card before the other side's confirmation of it has been checked.

use crate::framing::{read_frame, write_frame};
use crate::identity::Pin;
use base::{Formats, NodeId};
use control::settings::Role;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use spake2::{Ed25519Group, Identity as Spake2Identity, Password, Spake2};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// First bytes of a pairing connection, sent by the side that dials. TLS starts with 0x16.
pub const PREFACE: [u8; 8] = *b"FUTAPAIR";
/// How long a code is good for.
pub const VALID: Duration = Duration::from_secs(600);
/// Wrong codes after which an offer ends.
pub const TRIES: u32 = 5;
/// How long one attempt may take.
pub const TIME_OUT: Duration = Duration::from_secs(10);
/// Largest pairing frame.
const MAX_FRAME_BYTES: usize = 4096;
const VERSION: u32 = 1;

/// What a node tells about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its cluster port.
    pub cluster_address: SocketAddr,
    /// Its replication port.
    pub replication_address: SocketAddr,
    /// SHA-256 of its certificate's DER, hex.
    pub certificate_sha256: String,
    /// What every release understands that it may start.
    pub formats: Formats,
}

impl Card {
    /// The certificate hash; `None` if it is malformed.
    #[must_use]
    pub fn pin(&self) -> Option<Pin> {
        self.certificate_sha256.parse().ok()
    }

    /// Whether every field can be used.
    fn is_sound(&self) -> bool {
        self.node != NodeId(0)
            && control::settings::is_name(&self.name)
            && self.pin().is_some()
            && self.formats.are_sound()
    }
}

/// Nine decimal digits, shown in groups of three.
#[derive(Clone, PartialEq, Eq)]
pub struct Code(String);

impl Code {
    /// A random code.
    ///
    /// # Errors
    /// The kernel's random source failed.
    pub fn random() -> io::Result<Self> {
        const COUNT: u64 = 1_000_000_000;
        loop {
            let number = crate::random_u64()?;
            // Equal odds for every code: the last, incomplete run of codes is not used.
            if number < u64::MAX - u64::MAX % COUNT {
                return Ok(Self(format!("{:09}", number % COUNT)));
            }
        }
    }

    /// The code that a person typed; spaces and hyphens do not count. `None` unless nine digits remain.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
        (digits.len() == 9 && digits.bytes().all(|b| b.is_ascii_digit())).then_some(Self(digits))
    }
}

impl fmt::Display for Code {
    /// `123-456-789`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, digit) in self.0.chars().enumerate() {
            if i > 0 && i % 3 == 0 {
                f.write_str("-")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(…)")
    }
}

/// Why a pairing did not come about. Nothing has changed on either side.
#[derive(Debug, thiserror::Error)]
pub enum PairingError {
    /// The codes differ (or someone in between changed something).
    #[error("wrong pairing code; {tries_left} tries left")]
    WrongCode {
        /// How often the offer can still be tried.
        tries_left: u32,
    },
    /// The other node offers no pairing, or its offer has ended.
    #[error("the node at {0} offers no pairing at the moment")]
    NotOffered(SocketAddr),
    /// The other node is in the middle of another attempt.
    #[error("the node at {0} is pairing with someone else at the moment")]
    Busy(SocketAddr),
    /// The other side did not prove that it knows the code.
    #[error("the node at {0} could not prove that it knows the code")]
    NotProven(SocketAddr),
    /// The other side says something that is no pairing message.
    #[error("the node at {peer} sent something else than {expected}")]
    Protocol {
        /// The other end.
        peer: SocketAddr,
        /// What should have come.
        expected: &'static str,
    },
    /// The connection failed.
    #[error("pairing with {peer}")]
    Io {
        /// The other end.
        peer: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// Not done in time.
    #[error("pairing with {0}: no answer within 10 s")]
    TimedOut(SocketAddr),
}

/// Frames 1 and 2: card and SPAKE2 element.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Introduction {
    version: u32,
    card: Card,
    element: String,
}

/// Every answer of the offering side.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Reply {
    Introduction(Introduction),
    Confirmed { confirmation: String },
    WrongCode { tries_left: u32 },
    NotOffered,
    Busy,
}

/// Frame 3: the dialling side's confirmation.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmation {
    confirmation: String,
}

#[derive(Clone, Copy)]
enum Side {
    Dials,
    Offers,
}

/// A code that was offered, and how often it can still be tried.
struct Open {
    code: Code,
    until: Instant,
    tries_left: u32,
}

/// A node's readiness to pair.
#[derive(Default)]
pub struct Offer {
    open: Mutex<Option<Open>>,
    attempt: tokio::sync::Mutex<()>,
}

impl Offer {
    /// Starts an offer; one that was open ends. Answers the code to show.
    ///
    /// # Errors
    /// The kernel's random source failed.
    pub fn open(&self) -> io::Result<Code> {
        let code = Code::random()?;
        let open = Open { code: code.clone(), until: Instant::now() + VALID, tries_left: TRIES };
        *self.lock() = Some(open);
        Ok(code)
    }

    /// Ends the offer.
    pub fn close(&self) {
        *self.lock() = None;
    }

    /// Whether a pairing could start now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.code().is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn code(&self) -> Option<Code> {
        let mut open = self.lock();
        if open.as_ref().is_some_and(|open| open.tries_left == 0 || open.until <= Instant::now()) {
            *open = None;
        }
        open.as_ref().map(|open| open.code.clone())
    }

    /// Counts a wrong code against the offer `code` (a newer offer keeps its tries).
    fn spend(&self, code: &Code) -> u32 {
        let mut open = self.lock();
        match open.as_mut().filter(|open| open.code == *code) {
            Some(offer) => {
                offer.tries_left = offer.tries_left.saturating_sub(1);
                let left = offer.tries_left;
                if left == 0 {
                    *open = None;
                }
                left
            }
            None => 0,
        }
    }

    /// Does the offering half on a connection whose first byte is [`PREFACE`]'s. Answers the other side's card.
    ///
    /// # Errors
    /// [`PairingError`]; the other side was told, as far as it could be.
    pub async fn respond(&self, mut stream: TcpStream, own: &Card) -> Result<Card, PairingError> {
        let peer = stream.peer_addr().map_err(unknown_peer)?;
        match timeout(TIME_OUT, self.answer(&mut stream, peer, own)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PairingError::TimedOut(peer)),
        }
    }

    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        peer: SocketAddr,
        own: &Card,
    ) -> Result<Card, PairingError> {
        let io_error = |source| PairingError::Io { peer, source };
        let protocol = |expected| PairingError::Protocol { peer, expected };
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await.map_err(io_error)?;
        if preface != PREFACE {
            return Err(protocol("a pairing preface"));
        }
        let first = receive(stream, peer).await?;
        let theirs: Introduction = decode(&first).ok_or(protocol("an introduction"))?;
        if theirs.version != VERSION || !theirs.card.is_sound() {
            return Err(protocol("an introduction of version 1"));
        }
        let Ok(_alone) = self.attempt.try_lock() else {
            send(stream, peer, &Reply::Busy).await?;
            return Err(PairingError::Busy(peer));
        };
        let Some(code) = self.code() else {
            send(stream, peer, &Reply::NotOffered).await?;
            return Err(PairingError::NotOffered(peer));
        };
        let (exchange, element) = start(Side::Offers, &code);
        let reply = Reply::Introduction(Introduction {
            version: VERSION,
            card: own.clone(),
            element: hex::encode(element),
        });
        let second = send(stream, peer, &reply).await?;
        let keys = finish(exchange, &theirs.element, &first, &second).ok_or(protocol("a SPAKE2 element"))?;
        let confirmation: Confirmation =
            decode(&receive(stream, peer).await?).ok_or(protocol("a confirmation"))?;
        if !keys.check(Side::Dials, &confirmation.confirmation) {
            let tries_left = self.spend(&code);
            send(stream, peer, &Reply::WrongCode { tries_left }).await?;
            return Err(PairingError::WrongCode { tries_left });
        }
        self.close();
        send(stream, peer, &Reply::Confirmed { confirmation: keys.confirm(Side::Offers) }).await?;
        // Reading the other side's end makes sure that it had the confirmation before this connection goes.
        let mut end = [0; 1];
        let _ended = stream.read(&mut end).await.map_err(io_error)?;
        Ok(theirs.card)
    }
}

/// Does the dialling half toward the node at `address`, which offers `code`. Answers that node's card.
///
/// # Errors
/// [`PairingError`].
pub async fn dial(address: SocketAddr, code: &Code, own: &Card) -> Result<Card, PairingError> {
    match timeout(TIME_OUT, ask(address, code, own)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(PairingError::TimedOut(address)),
    }
}

async fn ask(peer: SocketAddr, code: &Code, own: &Card) -> Result<Card, PairingError> {
    let io_error = |source| PairingError::Io { peer, source };
    let mut stream = TcpStream::connect(peer).await.map_err(io_error)?;
    stream.set_nodelay(true).map_err(io_error)?;
    ask_on(&mut stream, peer, code, own).await
}

async fn ask_on<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    peer: SocketAddr,
    code: &Code,
    own: &Card,
) -> Result<Card, PairingError> {
    let io_error = |source| PairingError::Io { peer, source };
    stream.write_all(&PREFACE).await.map_err(io_error)?;
    let (exchange, element) = start(Side::Dials, code);
    let introduction = Introduction { version: VERSION, card: own.clone(), element: hex::encode(element) };
    let first = send(stream, peer, &introduction).await?;
    let second = receive(stream, peer).await?;
    let theirs = match reply(&second, peer)? {
        Reply::Introduction(theirs) if theirs.version == VERSION && theirs.card.is_sound() => theirs,
        Reply::Introduction(_) | Reply::Confirmed { .. } => {
            return Err(PairingError::Protocol { peer, expected: "an introduction of version 1" });
        }
        refusal => return Err(refusal_error(&refusal, peer)),
    };
    let keys = finish(exchange, &theirs.element, &first, &second)
        .ok_or(PairingError::Protocol { peer, expected: "a SPAKE2 element" })?;
    send(stream, peer, &Confirmation { confirmation: keys.confirm(Side::Dials) }).await?;
    match reply(&receive(stream, peer).await?, peer)? {
        Reply::Confirmed { confirmation } if keys.check(Side::Offers, &confirmation) => Ok(theirs.card),
        Reply::Confirmed { .. } => Err(PairingError::NotProven(peer)),
        Reply::Introduction(_) => Err(PairingError::Protocol { peer, expected: "a confirmation" }),
        refusal => Err(refusal_error(&refusal, peer)),
    }
}

fn reply(frame: &[u8], peer: SocketAddr) -> Result<Reply, PairingError> {
    decode(frame).ok_or(PairingError::Protocol { peer, expected: "a pairing reply" })
}

fn refusal_error(refusal: &Reply, peer: SocketAddr) -> PairingError {
    match refusal {
        Reply::WrongCode { tries_left } => PairingError::WrongCode { tries_left: *tries_left },
        Reply::NotOffered => PairingError::NotOffered(peer),
        Reply::Busy => PairingError::Busy(peer),
        Reply::Introduction(_) | Reply::Confirmed { .. } => {
            PairingError::Protocol { peer, expected: "a refusal" }
        }
    }
}

fn unknown_peer(source: io::Error) -> PairingError {
    PairingError::Io { peer: SocketAddr::from(([0, 0, 0, 0], 0)), source }
}

fn decode<'a, T: Deserialize<'a>>(frame: &'a [u8]) -> Option<T> {
    serde_json::from_slice(frame).ok()
}

/// Sends `message`; answers its bytes, which the transcript needs.
async fn send<S: AsyncWrite + Unpin, T: Serialize>(
    stream: &mut S,
    peer: SocketAddr,
    message: &T,
) -> Result<Vec<u8>, PairingError> {
    let io_error = |source| PairingError::Io { peer, source };
    let bytes = serde_json::to_vec(message).map_err(|error| io_error(error.into()))?;
    write_frame(stream, &bytes).await.map_err(io_error)?;
    Ok(bytes)
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S, peer: SocketAddr) -> Result<Vec<u8>, PairingError> {
    let io_error = |source| PairingError::Io { peer, source };
    let frame = read_frame(stream, MAX_FRAME_BYTES).await.map_err(io_error)?;
    frame.ok_or_else(|| io_error(io::ErrorKind::UnexpectedEof.into()))
}

fn start(side: Side, code: &Code) -> (Spake2<Ed25519Group>, Vec<u8>) {
    let password = Password::new(code.0.as_bytes());
    let (dials, offers) = (Spake2Identity::new(b"futago dials"), Spake2Identity::new(b"futago offers"));
    match side {
        Side::Dials => Spake2::<Ed25519Group>::start_a(&password, &dials, &offers),
        Side::Offers => Spake2::<Ed25519Group>::start_b(&password, &dials, &offers),
    }
}

/// Ends the exchange with the other side's `element`; the keys cover both introductions, byte for byte.
fn finish(exchange: Spake2<Ed25519Group>, element: &str, first: &[u8], second: &[u8]) -> Option<Keys> {
    let shared = exchange.finish(&hex::decode(element).ok()?).ok()?;
    let mut transcript = Sha256::new();
    transcript.update(PREFACE);
    for frame in [first, second] {
        transcript.update(u64::try_from(frame.len()).ok()?.to_le_bytes());
        transcript.update(frame);
    }
    Some(Keys { shared, transcript: transcript.finalize().into() })
}

/// The shared secret and what it vouches for.
struct Keys {
    shared: Vec<u8>,
    transcript: [u8; 32],
}

impl Keys {
    /// HMAC-SHA-256 over side and transcript.
    fn mac(&self, side: Side) -> Option<Hmac<Sha256>> {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.shared).ok()?;
        mac.update(match side {
            Side::Dials => b"futago pairing 1: dialler knows the code",
            Side::Offers => b"futago pairing 1: offerer knows the code",
        });
        mac.update(&self.transcript);
        Some(mac)
    }

    fn confirm(&self, side: Side) -> String {
        // HMAC takes keys of any length, so there is always one; an empty text would be refused by `check`.
        self.mac(side).map(|mac| hex::encode(mac.finalize().into_bytes())).unwrap_or_default()
    }

    /// Whether `confirmation` is that of `side` (compared in constant time).
    fn check(&self, side: Side, confirmation: &str) -> bool {
        let Ok(bytes) = hex::decode(confirmation) else { return false };
        self.mac(side).is_some_and(|mac| mac.verify_slice(&bytes).is_ok())
    }
}

/// Both halves on any stream, without time-outs: for fuzzing.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use super::{
        AsyncRead, AsyncWrite, Card, Code, Instant, Offer, Open, PairingError, SocketAddr, TRIES, VALID,
        ask_on,
    };

    const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    /// As [`Offer::respond`], of a node that offers `code`.
    ///
    /// # Errors
    /// [`PairingError`].
    pub async fn answer<S>(stream: &mut S, code: &Code, own: &Card) -> Result<Card, PairingError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let offer = Offer::default();
        let open = Open { code: code.clone(), until: Instant::now() + VALID, tries_left: TRIES };
        *offer.lock() = Some(open);
        offer.answer(stream, PEER, own).await
    }

    /// As [`super::dial`], once connected.
    ///
    /// # Errors
    /// [`PairingError`].
    pub async fn ask<S>(stream: &mut S, code: &Code, own: &Card) -> Result<Card, PairingError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        ask_on(stream, PEER, code, own).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    fn card(number: u64) -> Card {
        Card {
            node: NodeId(number),
            name: format!("n{number}"),
            role: Role::Data,
            cluster_address: "127.1.0.1:1".parse().unwrap(),
            replication_address: "127.1.0.1:2".parse().unwrap(),
            certificate_sha256: "ab".repeat(32),
            formats: Formats::CURRENT,
        }
    }

    async fn attempt(
        offer: &Arc<Offer>,
        code: &Code,
    ) -> (Result<Card, PairingError>, Result<Card, PairingError>) {
        let listener = TcpListener::bind("127.1.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let offer = offer.clone();
        let other = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            offer.respond(stream, &card(2)).await
        });
        let dialled = dial(address, code, &card(1)).await;
        (dialled, other.await.unwrap())
    }

    #[tokio::test]
    async fn the_right_code_tells_each_side_the_others_card_once() {
        let offer = Arc::new(Offer::default());
        let code = Code::parse(&offer.open().unwrap().to_string()).unwrap();
        let (dialled, offered) = attempt(&offer, &code).await;
        assert_eq!((dialled.unwrap(), offered.unwrap()), (card(2), card(1)));
        assert!(!offer.is_open());
        let (dialled, offered) = attempt(&offer, &code).await;
        assert!(matches!(dialled, Err(PairingError::NotOffered(_))));
        assert!(matches!(offered, Err(PairingError::NotOffered(_))));
    }

    #[tokio::test]
    async fn five_wrong_codes_end_the_offer() {
        let offer = Arc::new(Offer::default());
        let right = offer.open().unwrap();
        let wrong = Code(if right.0 == "123456789" { "123456780".into() } else { "123456789".into() });
        for left in (0..TRIES).rev() {
            let (dialled, offered) = attempt(&offer, &wrong).await;
            assert!(matches!(dialled, Err(PairingError::WrongCode { tries_left }) if tries_left == left));
            assert!(matches!(offered, Err(PairingError::WrongCode { tries_left }) if tries_left == left));
        }
        let (dialled, _) = attempt(&offer, &right).await;
        assert!(matches!(dialled, Err(PairingError::NotOffered(_))));
    }

    #[tokio::test]
    async fn a_changed_card_is_noticed() {
        // Someone in between passes everything on, but puts another certificate hash into the offerer's card.
        let offer = Arc::new(Offer::default());
        let code = offer.open().unwrap();
        let listener = TcpListener::bind("127.1.0.1:0").await.unwrap();
        let offers_at = listener.local_addr().unwrap();
        let between = TcpListener::bind("127.1.0.1:0").await.unwrap();
        let between_at = between.local_addr().unwrap();
        let offerer = {
            let offer = offer.clone();
            tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                offer.respond(stream, &card(2)).await
            })
        };
        let meddler = tokio::spawn(async move {
            let (mut dialler, _) = between.accept().await.unwrap();
            let mut offerer = TcpStream::connect(offers_at).await.unwrap();
            let mut preface = [0; 8];
            dialler.read_exact(&mut preface).await.unwrap();
            offerer.write_all(&preface).await.unwrap();
            write_frame(&mut offerer, &read_frame(&mut dialler, 4096).await.unwrap().unwrap()).await.unwrap();
            let second = String::from_utf8(read_frame(&mut offerer, 4096).await.unwrap().unwrap()).unwrap();
            write_frame(&mut dialler, second.replace("abab", "cdcd").as_bytes()).await.unwrap();
            write_frame(&mut offerer, &read_frame(&mut dialler, 4096).await.unwrap().unwrap()).await.unwrap();
            write_frame(&mut dialler, &read_frame(&mut offerer, 4096).await.unwrap().unwrap()).await.unwrap();
        });
        assert!(matches!(
            dial(between_at, &code, &card(1)).await,
            Err(PairingError::WrongCode { tries_left: 4 })
        ));
        assert!(offerer.await.unwrap().is_err());
        meddler.await.unwrap();
    }

    #[test]
    fn codes_are_nine_digits() {
        assert_eq!(Code::parse("123-456 789").unwrap().to_string(), "123-456-789");
        for text in ["", "12345678", "1234567890", "12345678a", "１２３456789"] {
            assert_eq!(Code::parse(text), None);
        }
        assert_eq!(format!("{:?}", Code::random().unwrap()), "Code(…)");
    }
}
