//! `key=value` text of login and text PDUs (RFC 7143 §6.1).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Longest iSCSI name, bytes (RFC 7143 §4.2.7.1).
pub const MAX_NAME_BYTES: usize = 223;
/// Longest key name, bytes.
const MAX_KEY_BYTES: usize = 63;
/// Longest value of a key that has no limit of its own, bytes.
const MAX_VALUE_BYTES: usize = 255;
/// Longest value of a key with large binary values, such as a CHAP challenge, bytes: 1024 octets in hex.
const MAX_BINARY_BYTES: usize = 2 + 2 * 1024;
/// Most keys in one exchange: the RFC names about 30.
const MAX_KEYS: usize = 128;

/// Text that breaks the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedText;

/// The pairs of a complete text, in order. Empty runs between NULs are skipped (some initiators pad with them).
pub fn parse(bytes: &[u8]) -> Result<Vec<(&str, &str)>, MalformedText> {
    let mut pairs = Vec::new();
    for item in bytes.split(|&byte| byte == 0).filter(|item| !item.is_empty()) {
        let item = core::str::from_utf8(item).map_err(|_| MalformedText)?;
        let (key, value) = item.split_once('=').ok_or(MalformedText)?;
        let longest = if is_binary(key) { MAX_BINARY_BYTES } else { MAX_VALUE_BYTES };
        if key.is_empty() || key.len() > MAX_KEY_BYTES || value.len() > longest || pairs.len() >= MAX_KEYS {
            return Err(MalformedText);
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

fn is_binary(key: &str) -> bool {
    matches!(key, "CHAP_C" | "CHAP_R" | "CHAP_N")
}

/// Appends `key=value` and its NUL.
pub fn push(out: &mut Vec<u8>, key: &str, value: impl core::fmt::Display) {
    let mut text = String::new();
    // Writing into a string can't fail.
    let _ = write!(text, "{key}={value}");
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// A number as text: decimal or 0x-hex (RFC 7143 §6.1, numerical-value).
#[must_use]
pub fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) if !hex.starts_with('+') => u32::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None if value.starts_with('+') => None,
        None => value.parse().ok(),
    }
}

/// Whether `name` can be an iSCSI name: `iqn.`, `eui.` or `naa.` form, of legal length and characters
/// (RFC 7143 §4.2.7, RFC 3722: lower case letters, digits, `-`, `.`, `:` and whatever Unicode allows).
#[must_use]
pub fn is_name(name: &str) -> bool {
    let form = ["iqn.", "eui.", "naa."].iter().any(|prefix| name.starts_with(prefix));
    form && name.len() <= MAX_NAME_BYTES && name.chars().all(|c| !c.is_control() && c != ' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn pairs_are_split_at_nuls() {
        assert_eq!(parse(b"A=1\0B=\0\0C=x=y\0"), Ok(vec![("A", "1"), ("B", ""), ("C", "x=y")]));
        assert_eq!(parse(b""), Ok(vec![]));
        for bad in [&b"A\0"[..], b"=1\0", b"A=\xff\0"] {
            assert_eq!(parse(bad), Err(MalformedText));
        }
    }

    #[test]
    fn lengths_are_limited() {
        let long_key = [vec![b'k'; 64], b"=1\0".to_vec()].concat();
        let long_value = [b"A=".to_vec(), vec![b'v'; 256]].concat();
        let challenge = [b"CHAP_C=0x".to_vec(), vec![b'0'; 2048]].concat();
        assert_eq!(parse(&long_key), Err(MalformedText));
        assert_eq!(parse(&long_value), Err(MalformedText));
        assert!(parse(&challenge).is_ok());
        assert_eq!(parse(&b"A=1\0".repeat(129)), Err(MalformedText));
    }

    #[test]
    fn numbers_are_decimal_or_hex() {
        assert_eq!(number("262144"), Some(262_144));
        assert_eq!(number("0x40000"), Some(262_144));
        assert_eq!(
            (number("+1"), number("0x+1"), number("4294967296"), number("")),
            (None, None, None, None)
        );
    }

    #[test]
    fn names_have_a_form_and_a_length() {
        assert!(is_name("iqn.2026-11.local.futago:demo"));
        assert!(!is_name("demo") && !is_name("iqn.a b"));
        let longest = "iqn.".len() + 219;
        assert!(is_name(&alloc::format!("iqn.{}", "x".repeat(219))) && longest == MAX_NAME_BYTES);
        assert!(!is_name(&alloc::format!("iqn.{}", "x".repeat(220))));
    }
}
