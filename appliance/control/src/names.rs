//! iSCSI names and patterns of them (RFC 7143 §4.2.7, RFC 3722).
//!
//! Invariant: a name that [`is_iscsi_name`] accepts is in its normal form, so two names are the same exactly if their
//! bytes are. What people type or initiators send is brought there by [`normal`] first.

use alloc::{format, string::String};
use core::fmt;
use serde::{Deserialize, Serialize};

/// Longest iSCSI name, bytes (RFC 7143 §4.2.7.1).
pub const MAX_NAME_BYTES: usize = 223;

/// The normal form of what was typed: without blanks around it, in lower case (RFC 7143 §4.2.7.2: "any upper-case
/// characters input via a user interface MUST be mapped to their lower-case equivalents"). Beyond ASCII that is
/// Unicode's lower case; compatibility forms, which RFC 3722 maps too, are taken as they come.
#[must_use]
pub fn normal(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Whether `name` is an iSCSI name in its normal form: `iqn.` with year, month and a reversed domain, then if wanted a
/// colon and a text; `eui.` with 16 hexadecimal digits; `naa.` with 16 or 32 (RFC 7143 §4.2.7.3 to §4.2.7.5).
#[must_use]
pub fn is_iscsi_name(name: &str) -> bool {
    if name.len() > MAX_NAME_BYTES || !name.chars().all(is_name_character) {
        return false;
    }
    let hex = |digits: &str| digits.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(digits) = name.strip_prefix("eui.") {
        return digits.len() == 16 && hex(digits);
    }
    if let Some(digits) = name.strip_prefix("naa.") {
        return matches!(digits.len(), 16 | 32) && hex(digits);
    }
    name.strip_prefix("iqn.").is_some_and(is_qualified)
}

/// `YYYY-MM.reversed.domain[:text]`.
fn is_qualified(rest: &str) -> bool {
    let Some((date, authority)) = rest.split_once('.') else { return false };
    let Some((year, month)) = date.split_once('-') else { return false };
    let digits = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    let domain = authority.split(':').next().unwrap_or_default();
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    digits(year, 4) && digits(month, 2) && ("01"..="12").contains(&month) && domain.split('.').all(label)
}

/// RFC 3722 §6: of ASCII only letters (lower case), digits, `-`, `.` and `:`; beyond it letters and digits of any script.
fn is_name_character(c: char) -> bool {
    match c {
        'a'..='z' | '0'..='9' | '-' | '.' | ':' => true,
        _ => !c.is_ascii() && c.is_alphanumeric() && c.to_lowercase().eq([c]),
    }
}

/// A pattern of initiator names: `*` stands for any text, `?` for any one character; the rest stands for itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern that was typed, in its normal form.
    #[must_use]
    pub fn typed(text: &str) -> Self {
        Self(normal(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Why it can't match any name as it stands, if so: wrong characters, too long, empty, or without wildcard and no name.
    pub fn check(&self) -> Result<(), String> {
        let text = &self.0;
        let wild = |c: char| matches!(c, '*' | '?');
        let sound = !text.is_empty()
            && text.len() <= MAX_NAME_BYTES
            && text.chars().all(|c| wild(c) || is_name_character(c))
            && (text.contains(wild) || is_iscsi_name(text));
        if sound {
            return Ok(());
        }
        Err(format!(
            "{text:?} is neither an iSCSI name (iqn., eui. or naa.) nor a pattern of names with * or ?"
        ))
    }

    /// Whether it covers `name`, which is in its normal form.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut name) = (self.0.chars(), name.chars());
        // Behind the last `*`: the pattern, and the name from where it was tried last.
        let mut retry: Option<(core::str::Chars<'_>, core::str::Chars<'_>)> = None;
        loop {
            let before = name.clone();
            match (pattern.next(), name.next()) {
                (Some('*'), _) => {
                    name = before.clone();
                    retry = Some((pattern.clone(), before));
                }
                (Some('?'), Some(_)) => {}
                (Some(wanted), Some(found)) if wanted == found => {}
                (None, None) => return true,
                _ => {
                    let Some((behind, from)) = &mut retry else { return false };
                    if from.next().is_none() {
                        return false;
                    }
                    (pattern, name) = (behind.clone(), from.clone());
                }
            }
        }
    }

    /// How closely it describes what it covers: a name before every pattern, then the longer text that stands for itself.
    #[must_use]
    pub fn precision(&self) -> (bool, usize) {
        let wildcards = self.0.chars().filter(|c| matches!(c, '*' | '?')).count();
        (wildcards == 0, self.0.chars().count().saturating_sub(wildcards))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_names() {
        for name in [
            "iqn.2026-11.local.futago:demo",
            "iqn.1998-01.com.vmware:esx-01:1a2b",
            "iqn.2026-11.local",
            "iqn.2026-11.local:grün.müller",
            "eui.02004567a425678d",
            "naa.52004567ba64678d",
            "naa.62004567ba64678d0123456789abcdef",
        ] {
            assert!(is_iscsi_name(name), "{name}");
        }
        for name in [
            "",
            "demo",
            "iqn.2026-11",
            "iqn.2026-11.",
            "iqn.26-11.local:x",
            "iqn.2026-13.local:x",
            "iqn.2026-11.local:X",
            "iqn.2026-11.local..x",
            "iqn.2026-11.local:a b",
            "iqn.2026-11.local:a_b",
            "iqn.2026-11.local:Ü",
            "eui.12",
            "eui.02004567a425678g",
            "naa.52004567ba64678d0",
        ] {
            assert!(!is_iscsi_name(name), "{name}");
        }
        assert!(!is_iscsi_name(&format!("iqn.2026-11.local:{}", "x".repeat(223))));
        assert_eq!(normal(" IQN.2026-11.Local:X\n"), "iqn.2026-11.local:x");
        assert_eq!(normal("EUI.02004567A425678D"), "eui.02004567a425678d");
    }

    #[test]
    fn wildcards_match_as_they_say() {
        for (pattern, name, matches) in [
            ("iqn.a:b", "iqn.a:b", true),
            ("iqn.a:b", "iqn.a:bc", false),
            ("*", "", true),
            ("*", "anything", true),
            ("?", "", false),
            ("?", "ü", true),
            ("iqn.*:esx-?", "iqn.1998-01.com.vmware:esx-1", true),
            ("iqn.*:esx-?", "iqn.1998-01.com.vmware:esx-12", false),
            ("iqn.*:esx-??", "iqn.1998-01.com.vmware:esx-12", true),
            ("*a*b*c", "xxaxbxaxbxc", true),
            ("*a*b*c", "xxaxbxaxbx", false),
            ("a*", "ba", false),
            ("*.x", "a.x.x", true),
            ("**", "a", true),
            ("a?*", "a", false),
        ] {
            assert_eq!(Pattern::typed(pattern).matches(name), matches, "{pattern} {name}");
        }
        assert!(Pattern::typed("IQN.2026-11.*").matches("iqn.2026-11.x:y"));
        // A pattern that makes naive matching take exponential time.
        assert!(!Pattern::typed(&"a*".repeat(100)).matches(&"a".repeat(99)));
    }

    #[test]
    fn patterns_that_cover_nothing_are_faults() {
        for good in ["*", "iqn.2026-11.x:a", "iqn.*", "?qn.2026-11.x:y", "eui.02004567A425678D"] {
            assert_eq!(Pattern::typed(good).check(), Ok(()), "{good}");
        }
        for bad in ["", "esx1", "iqn.*:a b", "iqn.[ab]*", "iqn.x"] {
            assert!(Pattern::typed(bad).check().is_err(), "{bad}");
        }
        assert!(Pattern::typed(&"*".repeat(224)).check().is_err());
    }

    #[test]
    fn names_are_more_precise_than_patterns() {
        let precision = |text| Pattern::typed(text).precision();
        assert!(precision("iqn.2026-11.x:a") > precision("iqn.2026-11.x:aaaaaaaaaaa*"));
        assert!(precision("iqn.2026-11.x:*") > precision("iqn.*"));
    }
}
