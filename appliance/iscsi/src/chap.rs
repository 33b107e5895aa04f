//! CHAP with SHA-256 or MD5 (RFC 7143 §12.1.3, RFC 1994, IANA's registry of PPP authentication algorithms), one-way and
//! mutual, seen from the target.
//!
//! Invariant: the target answers no challenge that it gave itself, and none by the initiator's own secret (RFC 7143
//! §9.2.1): either would let a stranger have it compute the response that the stranger lacks.

use crate::text::{self, number};
use alloc::string::String;
use alloc::vec::Vec;
use md5::{Digest, Md5};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Longest challenge or response, octets (RFC 7143 §12.1.3).
const MAX_OCTETS: usize = 1024;

/// What an initiator must know.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// CHAP name of the initiator.
    pub name: String,
    /// Its secret.
    pub secret: Vec<u8>,
    /// Name and secret of the target, for initiators that want to authenticate it.
    pub mutual: Option<(String, Vec<u8>)>,
}

impl core::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Credentials({})", self.name)
    }
}

/// Random values of one authentication, from the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    /// CHAP_I.
    pub id: u8,
    /// CHAP_C.
    pub challenge: [u8; 16],
}

/// Why the initiator is not proved to be who it says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAuthentic {
    /// It offers no hash that is known here.
    NoHash,
    /// A key is missing, malformed or out of order.
    Malformed,
    /// There is no such CHAP name.
    UnknownName,
    /// Its secret is another.
    WrongSecret,
    /// It wants to authenticate the target, which has no secret for that.
    NoMutual,
    /// It sends the target's challenge back, or both have the same secret.
    Reflected,
}

impl NotAuthentic {
    /// For people; follows the initiator's name.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoHash => "offers no CHAP hash that is known here",
            Self::Malformed => "sends CHAP keys that are missing, malformed or out of order",
            Self::UnknownName => "gives a CHAP name that is not set here",
            Self::WrongSecret => "has another CHAP secret",
            Self::NoMutual => "wants mutual CHAP, which is not set here",
            Self::Reflected => "sends the target's own challenge back, or has the same secret as the target",
        }
    }
}

/// One authentication.
#[derive(Debug)]
pub(crate) struct Chap {
    /// The initiator must prove to be one of these.
    candidates: Vec<Credentials>,
    nonce: Nonce,
    step: Step,
}

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Md5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// CHAP was chosen; the initiator names algorithms next.
    Algorithm,
    /// The challenge was sent; the response comes next, by this hash.
    Response(Algorithm),
    /// Authentic.
    Done,
}

impl Chap {
    pub(crate) fn new(candidates: Vec<Credentials>, nonce: Nonce) -> Self {
        Self { candidates, nonce, step: Step::Algorithm }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// Takes the keys of one request; `pairs` may hold others too. Nothing of CHAP in them: no step.
    pub(crate) fn keys(&mut self, pairs: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), NotAuthentic> {
        let find = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        match (self.step, find("CHAP_A"), find("CHAP_R")) {
            (Step::Algorithm, Some(algorithms), None) => {
                // The initiator's order of preference counts (RFC 7143 §12.1.3, §6.2.1).
                let chosen =
                    algorithms.split(',').find_map(Algorithm::from_code).ok_or(NotAuthentic::NoHash)?;
                text::push(out, "CHAP_A", chosen.code());
                text::push(out, "CHAP_I", self.nonce.id);
                text::push(out, "CHAP_C", Hex(&self.nonce.challenge));
                self.step = Step::Response(chosen);
                Ok(())
            }
            (Step::Response(algorithm), None, Some(response)) => {
                let name = find("CHAP_N").ok_or(NotAuthentic::Malformed)?;
                let response = octets(response).ok_or(NotAuthentic::Malformed)?;
                let proven = self.candidates.iter().find(|candidate| {
                    let expected = algorithm.digest(self.nonce.id, &candidate.secret, &self.nonce.challenge);
                    candidate.name == name && bool::from(response.as_slice().ct_eq(&expected))
                });
                let named = self.candidates.iter().any(|candidate| candidate.name == name);
                let failure = if named { NotAuthentic::WrongSecret } else { NotAuthentic::UnknownName };
                let proven = proven.ok_or(failure)?;
                self.answer_mutual(proven, algorithm, find("CHAP_I"), find("CHAP_C"), out)?;
                self.step = Step::Done;
                Ok(())
            }
            (_, None, None) => Ok(()),
            _ => Err(NotAuthentic::Malformed),
        }
    }

    /// The initiator authenticates the target, too. Its challenge must not be ours sent back, nor the secret the same.
    fn answer_mutual(
        &self,
        proven: &Credentials,
        algorithm: Algorithm,
        id: Option<&str>,
        challenge: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Result<(), NotAuthentic> {
        let (id, challenge) = match (id, challenge) {
            (None, None) => return Ok(()),
            (Some(id), Some(challenge)) => (id, challenge),
            _ => return Err(NotAuthentic::Malformed),
        };
        let id = number(id).and_then(|id| u8::try_from(id).ok()).ok_or(NotAuthentic::Malformed)?;
        let challenge = octets(challenge).ok_or(NotAuthentic::Malformed)?;
        let (name, secret) = proven.mutual.as_ref().ok_or(NotAuthentic::NoMutual)?;
        let same_secret = secret.as_slice().ct_eq(&proven.secret);
        if challenge == self.nonce.challenge || bool::from(same_secret) {
            return Err(NotAuthentic::Reflected);
        }
        text::push(out, "CHAP_N", name);
        text::push(out, "CHAP_R", Hex(&algorithm.digest(id, secret, &challenge)));
        Ok(())
    }
}

impl Algorithm {
    fn from_code(code: &str) -> Option<Self> {
        [Self::Sha256, Self::Md5].into_iter().find(|algorithm| algorithm.code() == code)
    }

    /// Value of CHAP_A.
    fn code(self) -> &'static str {
        match self {
            Self::Sha256 => "7",
            Self::Md5 => "5",
        }
    }

    fn digest(self, id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
            D::new().chain_update([id]).chain_update(secret).chain_update(challenge).finalize().to_vec()
        }
        match self {
            Self::Sha256 => hash::<Sha256>(id, secret, challenge),
            Self::Md5 => hash::<Md5>(id, secret, challenge),
        }
    }
}

/// The response of an initiator that knows `secret`.
#[cfg(test)]
pub(crate) fn md5_response(id: u8, secret: &[u8], challenge: &[u8]) -> alloc::string::String {
    alloc::string::ToString::to_string(&Hex(&Algorithm::Md5.digest(id, secret, challenge)))
}

struct Hex<'a>(&'a [u8]);

impl core::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A binary value: 0x-hex or 0b-base64 (RFC 7143 §6.1).
fn octets(value: &str) -> Option<Vec<u8>> {
    let (form, digits) = value.split_at_checked(2)?;
    let bytes = match form {
        "0x" | "0X" => hex(digits)?,
        "0b" | "0B" => base64(digits)?,
        _ => return None,
    };
    (!bytes.is_empty() && bytes.len() <= MAX_OCTETS).then_some(bytes)
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits = digits.as_bytes();
    // An odd number of digits has an implicit leading zero.
    let (first, rest) = if digits.len() % 2 == 1 { digits.split_at_checked(1)? } else { (&[][..], digits) };
    let head = first.first().map(|&byte| nibble(byte));
    head.into_iter()
        .chain(rest.chunks_exact(2).map(|pair| match pair {
            [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
            _ => None,
        }))
        .collect()
}

fn base64(digits: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut have) = (0_u32, 0_u32);
    for byte in digits.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push(u8::try_from(bits >> have & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    const NONCE: Nonce = Nonce { id: 7, challenge: [0xa5; 16] };

    fn credentials(mutual: Option<&str>) -> Credentials {
        let secret = |text: &str| text.as_bytes().to_vec();
        Credentials {
            name: "user".into(),
            secret: secret("secret-secret"),
            mutual: mutual.map(|own| ("target".into(), secret(own))),
        }
    }

    /// One that has chosen `algorithm`, which `offered` names.
    fn chosen(credentials: Credentials, offered: &str, algorithm: &str) -> Chap {
        let mut chap = Chap::new([credentials].to_vec(), NONCE);
        let mut out = Vec::new();
        chap.keys(&[("CHAP_A", offered)], &mut out).unwrap();
        let challenge = "a5".repeat(16);
        assert_eq!(out, format!("CHAP_A={algorithm}\0CHAP_I=7\0CHAP_C=0x{challenge}\0").into_bytes());
        chap
    }

    fn chap(mutual: bool) -> Chap {
        chosen(credentials(mutual.then_some("other-secret!")), "6,5", "5")
    }

    fn digest(id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        Algorithm::Md5.digest(id, secret, challenge)
    }

    fn response() -> String {
        Hex(&digest(7, b"secret-secret", &[0xa5; 16])).to_string()
    }

    #[test]
    fn the_right_secret_is_accepted_and_a_wrong_one_is_not() {
        let mut good = chap(false);
        assert_eq!(good.keys(&[("CHAP_N", "user"), ("CHAP_R", &response())], &mut Vec::new()), Ok(()));
        assert!(good.is_done());
        for (name, value, failure) in [
            ("user", "0x00", NotAuthentic::WrongSecret),
            ("other", response().as_str(), NotAuthentic::UnknownName),
            ("user", "secret-secret", NotAuthentic::Malformed),
        ] {
            let mut bad = chap(false);
            assert_eq!(bad.keys(&[("CHAP_N", name), ("CHAP_R", value)], &mut Vec::new()), Err(failure));
            assert!(!bad.is_done());
        }
    }

    #[test]
    fn the_target_proves_itself_but_never_on_its_own_challenge() {
        let mut out = Vec::new();
        let keys = [("CHAP_N", "user"), ("CHAP_R", &response()), ("CHAP_I", "9"), ("CHAP_C", "0x0102")];
        chap(true).keys(&keys, &mut out).unwrap();
        let expected = Hex(&digest(9, b"other-secret!", &[1, 2])).to_string();
        assert_eq!(out, format!("CHAP_N=target\0CHAP_R={expected}\0").into_bytes());
        let mirror = format!("0x{}", "a5".repeat(16));
        let keys =
            [("CHAP_N", "user"), ("CHAP_R", &response()), ("CHAP_I", "7"), ("CHAP_C", mirror.as_str())];
        assert_eq!(chap(true).keys(&keys, &mut Vec::new()), Err(NotAuthentic::Reflected));
        assert_eq!(chap(false).keys(&keys, &mut Vec::new()), Err(NotAuthentic::NoMutual));
    }

    #[test]
    fn one_of_several_is_proven() {
        let other = Credentials { name: "other".into(), secret: b"another-secret".to_vec(), mutual: None };
        let proof = |secret: &[u8]| Hex(&digest(7, secret, &[0xa5; 16])).to_string();
        for (name, secret, good) in [
            ("user", &b"secret-secret"[..], true),
            ("other", b"another-secret", true),
            ("user", b"another-secret", false),
            ("third", b"another-secret", false),
        ] {
            let mut chap = Chap::new([credentials(None), other.clone()].to_vec(), NONCE);
            chap.keys(&[("CHAP_A", "5")], &mut Vec::new()).unwrap();
            let keys = [("CHAP_N", name), ("CHAP_R", &*proof(secret))];
            assert_eq!(chap.keys(&keys, &mut Vec::new()).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn steps_out_of_order_fail() {
        let credentials = Credentials { name: "u".into(), secret: b"s".to_vec(), mutual: None };
        let mut early = Chap::new([credentials.clone()].to_vec(), NONCE);
        assert_eq!(
            early.keys(&[("CHAP_N", "u"), ("CHAP_R", "0x00")], &mut Vec::new()),
            Err(NotAuthentic::Malformed)
        );
        let mut sha_1_only = Chap::new([credentials].to_vec(), NONCE);
        assert_eq!(sha_1_only.keys(&[("CHAP_A", "6")], &mut Vec::new()), Err(NotAuthentic::NoHash));
    }

    #[test]
    fn the_initiator_s_first_known_algorithm_is_used() {
        for (offered, used) in [("5,6,7,8", "5"), ("5,7", "5"), ("8,6,5,7", "5"), ("8,6,7,5", "7")] {
            chosen(credentials(None), offered, used);
        }
        for unknown in ["56", "", "6,8"] {
            let mut chap = Chap::new([credentials(None)].to_vec(), NONCE);
            assert_eq!(chap.keys(&[("CHAP_A", unknown)], &mut Vec::new()), Err(NotAuthentic::NoHash));
        }
    }

    #[test]
    fn sha_256_is_used_both_ways() {
        // FIPS 180-4's own example: SHA-256 of "abc".
        assert_eq!(
            Hex(&Algorithm::Sha256.digest(0x61, b"b", b"c")).to_string(),
            "0xba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let proof = |secret: &[u8], id, challenge: &[u8]| {
            Hex(&Algorithm::Sha256.digest(id, secret, challenge)).to_string()
        };
        for offered in ["7", "7,5", "8,6,7,5"] {
            let mut chap = chosen(credentials(Some("other-secret!")), offered, "7");
            let response = proof(b"secret-secret", 7, &[0xa5; 16]);
            let keys = [("CHAP_N", "user"), ("CHAP_R", &*response), ("CHAP_I", "9"), ("CHAP_C", "0x0102")];
            let mut out = Vec::new();
            assert_eq!(chap.keys(&keys, &mut out), Ok(()));
            let expected = proof(b"other-secret!", 9, &[1, 2]);
            assert_eq!(out, format!("CHAP_N=target\0CHAP_R={expected}\0").into_bytes());
        }
        let mut downgraded = chosen(credentials(None), "7,5", "7");
        let keys = [("CHAP_N", "user"), ("CHAP_R", &*response())];
        assert_eq!(downgraded.keys(&keys, &mut Vec::new()), Err(NotAuthentic::WrongSecret));
    }

    #[test]
    fn one_secret_does_not_serve_both_directions() {
        let keys = [("CHAP_N", "user"), ("CHAP_R", &*response()), ("CHAP_I", "9"), ("CHAP_C", "0x0102")];
        let mut same = chosen(credentials(Some("secret-secret")), "5", "5");
        assert_eq!(same.keys(&keys, &mut Vec::new()), Err(NotAuthentic::Reflected));
        assert!(!same.is_done());
    }

    #[test]
    fn binary_values_are_hex_or_base64() {
        assert_eq!(octets("0x0aFf"), Some(Vec::from([0x0a, 0xff])));
        assert_eq!(octets("0xaff"), Some(Vec::from([0x0a, 0xff])));
        assert_eq!(octets("0bCv8="), Some(Vec::from([0x0a, 0xff])));
        for bad in ["", "0", "0x", "0xzz", "0b?", "12"] {
            assert_eq!(octets(bad), None, "{bad}");
        }
    }
}
