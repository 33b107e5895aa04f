//! Targets as they are committed: who may log in and how he proves it, which LUNs he sees, and how volumes are shown.
//!
//! Invariants
//! - A [`Secret`] leaves this process only towards the voters and the storage process: neither [`fmt::Debug`] nor an error
//!   of its decoding shows it, and no status has a field for it.
//! - Without a rule everyone may log in; with rules, only whom one of them covers.

use crate::names::Pattern;
use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use base::VolumeId;
use core::fmt;
use core::ops::RangeInclusive;
use serde::{Deserialize, Deserializer, Serialize, de};

/// Highest LUN of the flat space addressing method, SAM-5 §4.7.6.
pub const MAX_LUN: u16 = 16383;
/// Most rules of one target, and most patterns of one LUN.
pub const MAX_PATTERNS: usize = 256;
/// Length of a CHAP secret, bytes (RFC 7143 §9.2.1 asks for 96 bits).
pub const SECRET_BYTES: RangeInclusive<usize> = 12..=255;
/// Length of a CHAP name, bytes.
pub const CHAP_NAME_BYTES: RangeInclusive<usize> = 1..=511;

/// One iSCSI target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// iSCSI name.
    pub iqn: String,
    /// Who may log in.
    pub access: Access,
    /// LUN → what it shows.
    pub luns: BTreeMap<u16, Mapping>,
}

/// Who may log in to a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// The most precise rule that covers an initiator counts ([`Pattern::precision`]); empty: everyone may log in.
    pub rules: Vec<Rule>,
    /// What initiators must know unless their rule says something else; `None`: nothing.
    pub chap: Option<Chap>,
}

/// Initiators that may log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which.
    pub pattern: Pattern,
    /// What these must know; `None`: what the target asks for.
    pub chap: Option<Chap>,
}

/// CHAP (RFC 7143 §12.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chap {
    /// Name of the initiator.
    pub user: String,
    /// Its secret.
    pub secret: Secret,
    /// Name and secret of the target, for initiators that want it to prove itself.
    #[serde(default)]
    pub mutual: Option<Login>,
}

/// A name and its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// CHAP name.
    pub user: String,
    /// CHAP secret.
    pub secret: Secret,
}

/// A CHAP secret.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

/// One LUN of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// The volume behind it.
    pub volume: VolumeId,
    /// Writes are refused.
    pub read_only: bool,
    /// Who sees it of those who may log in; empty: all of them.
    pub initiators: Vec<Pattern>,
}

/// How a volume is shown to initiators, wherever it is mapped. Fixed at its creation: initiators take a disk whose
/// geometry changes for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Presentation {
    /// Size of its physical blocks.
    pub block_format: BlockFormat,
    /// UNMAP is offered, and unmapped blocks read as zeroes (LBPME, LBPRZ).
    pub thin: bool,
}

/// Logical blocks have 512 bytes in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockFormat {
    /// Physical blocks of 4096 bytes.
    #[default]
    #[serde(rename = "512e")]
    Emulated,
    /// Physical blocks of 512 bytes.
    #[serde(rename = "512n")]
    Native,
}

/// What a target says to an initiator at its door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// No rule covers it.
    Refused,
    /// It may come in.
    Open,
    /// It may come in once it has proved who it is.
    Chap(&'a Chap),
}

impl Access {
    /// What `initiator` (in the normal form of its name) is told.
    #[must_use]
    pub fn admit(&self, initiator: &str) -> Admission<'_> {
        let own = if self.rules.is_empty() {
            None
        } else {
            let covering = self.rules.iter().filter(|rule| rule.pattern.matches(initiator));
            let Some(rule) = covering.max_by_key(|rule| rule.pattern.precision()) else {
                return Admission::Refused;
            };
            rule.chap.as_ref()
        };
        own.or(self.chap.as_ref()).map_or(Admission::Open, Admission::Chap)
    }

    /// Every CHAP of the target and its rules.
    pub fn chaps(&self) -> impl Iterator<Item = &Chap> {
        self.chap.iter().chain(self.rules.iter().filter_map(|rule| rule.chap.as_ref()))
    }
}

impl Mapping {
    /// Whether `initiator` (in the normal form of its name), which may log in, sees the LUN.
    #[must_use]
    pub fn is_shown_to(&self, initiator: &str) -> bool {
        is_shown_to(&self.initiators, initiator)
    }
}

/// Whether `initiator` is covered by one of `patterns`, or there are none.
#[must_use]
pub fn is_shown_to(patterns: &[Pattern], initiator: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(initiator))
}

impl Chap {
    /// What can't be used of it, if anything. The text quotes no secret.
    pub fn check(&self) -> Result<(), String> {
        check_login(&self.user, &self.secret, "the initiator's")?;
        let Some(mutual) = &self.mutual else { return Ok(()) };
        check_login(&mutual.user, &mutual.secret, "the target's")?;
        if mutual.secret == self.secret {
            return Err("the initiator's and the target's CHAP secret must differ (RFC 7143 §9.2.1)".into());
        }
        Ok(())
    }
}

fn check_login(user: &str, secret: &Secret, whose: &str) -> Result<(), String> {
    let printable = |text: &str| !text.chars().any(char::is_control);
    let (least, most) = (CHAP_NAME_BYTES.start(), CHAP_NAME_BYTES.end());
    if !CHAP_NAME_BYTES.contains(&user.len()) || !printable(user) {
        return Err(format!("{whose} CHAP name must have {least} to {most} bytes and no control characters"));
    }
    let (least, most) = (SECRET_BYTES.start(), SECRET_BYTES.end());
    if !SECRET_BYTES.contains(&secret.0.len()) || !printable(&secret.0) {
        return Err(format!(
            "{whose} CHAP secret must have {least} to {most} bytes and no control characters"
        ));
    }
    Ok(())
}

impl Secret {
    /// A secret; [`Chap::check`] judges it.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Its bytes, for the proof.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(set)")
    }
}

/// By hand, for any type of value: the errors that serde makes by itself quote what they did not expect.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        fn no_text<T, E: de::Error>() -> Result<T, E> {
            Err(E::custom("a secret must be a text"))
        }
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(text.into()))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Secret, E> {
                Ok(Secret(text))
            }
            fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<Secret, E> {
                no_text()
            }
            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
                no_text()
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                no_text()
            }
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
                no_text()
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
                no_text()
            }
            fn visit_unit<E: de::Error>(self) -> Result<Secret, E> {
                no_text()
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<Secret, A::Error> {
                no_text()
            }
            fn visit_map<A: de::MapAccess<'de>>(self, _: A) -> Result<Secret, A::Error> {
                no_text()
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Default for Presentation {
    fn default() -> Self {
        Self { block_format: BlockFormat::default(), thin: true }
    }
}

impl BlockFormat {
    /// `512e` or `512n`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Emulated => "512e",
            Self::Native => "512n",
        }
    }
}

impl core::str::FromStr for BlockFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "512e" => Ok(Self::Emulated),
            "512n" => Ok(Self::Native),
            _ => Err(format!("{text:?} is no block format; there are 512e and 512n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn chap(secret: &str, mutual: Option<&str>) -> Chap {
        let login = |secret: &str| Login { user: "target".into(), secret: Secret::new(secret.into()) };
        Chap { user: "user".into(), secret: Secret::new(secret.into()), mutual: mutual.map(login) }
    }

    fn rule(pattern: &str, chap: Option<Chap>) -> Rule {
        Rule { pattern: Pattern::typed(pattern), chap }
    }

    #[test]
    fn the_most_precise_rule_counts() {
        let own = chap("own-secret-here", None);
        let all = chap("for-everyone-else", None);
        let mut access = Access::default();
        assert_eq!(access.admit("iqn.2026-11.x:a"), Admission::Open);
        access.chap = Some(all.clone());
        assert_eq!(access.admit("iqn.2026-11.x:a"), Admission::Chap(&all));
        access.rules = vec![
            rule("iqn.2026-11.x:*", None),
            rule("iqn.2026-11.x:a", Some(own.clone())),
            rule("iqn.2026-11.x:a*", None),
        ];
        assert_eq!(access.admit("iqn.2026-11.x:a"), Admission::Chap(&own));
        assert_eq!(access.admit("iqn.2026-11.x:ab"), Admission::Chap(&all));
        assert_eq!(access.admit("iqn.2026-11.y:a"), Admission::Refused);
        access.chap = None;
        assert_eq!(access.admit("iqn.2026-11.x:ab"), Admission::Open);
        assert_eq!(access.chaps().count(), 1);
    }

    #[test]
    fn an_empty_mask_hides_nothing() {
        let mut mapping = Mapping { volume: VolumeId(1), read_only: false, initiators: vec![] };
        assert!(mapping.is_shown_to("iqn.2026-11.x:a"));
        mapping.initiators = vec![Pattern::typed("*:b"), Pattern::typed("*:c")];
        assert!(mapping.is_shown_to("iqn.2026-11.x:c") && !mapping.is_shown_to("iqn.2026-11.x:a"));
    }

    #[test]
    fn lengths_of_names_and_secrets_are_kept() {
        let mut good = chap("twelve-bytes", Some(&"x".repeat(255)));
        assert_eq!(good.check(), Ok(()));
        good.user = "u".repeat(511);
        assert_eq!(good.check(), Ok(()));
        good.user.push('u');
        assert!(good.check().unwrap_err().contains("CHAP name"));
        for secret in ["eleven-byte".into(), "x".repeat(256), "line\nbreak-in-it".into()] {
            let error = chap(&secret, None).check().unwrap_err();
            assert!(error.contains("CHAP secret") && !error.contains(&secret), "{error}");
            assert!(chap("twelve-bytes", Some(&secret)).check().is_err());
        }
        let error = chap("the-same-both-ways", Some("the-same-both-ways")).check().unwrap_err();
        assert!(error.contains("differ") && !error.contains("the-same"), "{error}");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let hidden = chap("do-not-show-me", Some("nor-show-me-too"));
        let shown = format!("{hidden:?}");
        assert!(!shown.contains("show-me") && shown.contains("Secret(set)"), "{shown}");
        for wrong in
            ["12345678901234", "[\"do-not-show-me\"]", "{\"do-not-show-me\":1}", "true", "null", "-5"]
        {
            let json = format!("{{\"user\":\"u\",\"secret\":{wrong}}}");
            let error = serde_json::from_str::<Chap>(&json).unwrap_err();
            assert!(format!("{error}").starts_with("a secret must be a text"), "{error}");
        }
        let json = serde_json::to_string(&hidden).unwrap();
        assert_eq!(serde_json::from_str::<Chap>(&json).unwrap(), hidden, "voters and storage get it");
    }

    #[test]
    fn block_formats_have_names() {
        for format in [BlockFormat::Emulated, BlockFormat::Native] {
            assert_eq!(format.word().parse(), Ok(format));
            assert_eq!(serde_json::to_string(&format).unwrap(), format!("\"{}\"", format.word()));
        }
        assert!("4kn".parse::<BlockFormat>().unwrap_err().contains("4kn"));
    }
}
