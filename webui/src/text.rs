//! Times, sizes and durations as people read them.

use base::ByteCount;
use control::api::Event;
use control::settings::Settings;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// `2026-11-22T10:02:11Z`, for programs (and `<time datetime>`).
pub(crate) fn iso(at: u64) -> String {
    // The last second of the year 9999, past which RFC 3339 has no form.
    let at = UNIX_EPOCH + Duration::from_secs(at.min(253_402_300_799));
    humantime::format_rfc3339_seconds(at).to_string()
}

/// `2026-11-22 10:02:11 UTC`, for people.
pub(crate) fn stamp(at: u64) -> String {
    iso(at).replace('T', " ").replace('Z', " UTC")
}

/// [`stamp`] of when it happened; `by …`: it may have been earlier.
pub(crate) fn event_time(event: &Event) -> String {
    if event.late { format!("by {}", stamp(event.at)) } else { stamp(event.at) }
}

/// `1 h 5 min`, `2 min 10 s`, `8 s`: the two largest units.
pub(crate) fn duration(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let Some(first) = parts.iter().position(|(n, _)| *n > 0) else { return "0 s".to_owned() };
    let words = parts.iter().skip(first).take(2).filter(|(n, _)| *n > 0);
    words.map(|(n, unit)| format!("{n} {unit}")).collect::<Vec<_>>().join(" ")
}

/// `12.5 MiB/s`.
pub(crate) fn rate(bytes_per_s: u64) -> String {
    format!("{}/s", ByteCount(bytes_per_s))
}

/// Where the console of a node with these settings is.
pub(crate) fn console_url(settings: &Settings) -> String {
    match (SocketAddr::new(settings.address, settings.ports.web), settings.ports.web) {
        (SocketAddr::V4(address), 443) => format!("https://{}/", address.ip()),
        (SocketAddr::V6(address), 443) => format!("https://[{}]/", address.ip()),
        (address, _) => format!("https://{address}/"),
    }
}

/// `4096`, `512MiB`, `10 GiB`, `1.5TiB`, `20G` (binary units). Must come out as a multiple of 4096 bytes, not 0.
pub fn parse_size(text: &str) -> Result<ByteCount, String> {
    let fault = || format!("{text:?} is no size; examples: 512MiB, 100GiB, 1.5TiB");
    let compact: String = text.trim().chars().filter(|c| !c.is_whitespace()).collect();
    let (number, unit) = compact
        .find(|c: char| c.is_ascii_alphabetic())
        .and_then(|at| compact.split_at_checked(at))
        .unwrap_or((&compact, ""));
    let shift = match unit.to_ascii_lowercase().trim_end_matches("ib") {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(fault()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| fault())?;
    if fraction.is_empty() || fraction.len() > 6 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(fault());
    }
    let digits = u32::try_from(fraction.len()).map_err(|_| fault())?;
    let fraction: u64 = fraction.parse().map_err(|_| fault())?;
    let bytes = (u128::from(whole) << shift) + (u128::from(fraction) << shift) / 10_u128.pow(digits);
    let bytes = u64::try_from(bytes).map_err(|_| format!("{text:?} is too large"))?;
    if bytes == 0 {
        return Err("a size of 0 is none; the smallest is 4096 bytes".to_owned());
    }
    if !bytes.is_multiple_of(4096) {
        return Err(format!("{text:?} is not a multiple of 4096 bytes"));
    }
    Ok(ByteCount(bytes))
}

/// `10.0.0.5` or `10.0.0.5:7780`, `fe80::1` or `[fe80::1]:7780`.
pub(crate) fn parse_address(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    let text = text.trim();
    let whole = text.parse().ok();
    let alone = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, default_port));
    whole
        .or_else(alone)
        .ok_or_else(|| format!("{text:?} is no address; examples: 10.0.0.5, 10.0.0.5:{default_port}"))
}

/// `text` as one segment of a path (RFC 3986 §3.3; the colon of an IQN may stay).
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    // A segment of dots would be folded away.
    if out.bytes().all(|b| b == b'.') { out.replace('.', "%2E") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_units() {
        for (text, bytes) in [
            ("4096", 4096),
            ("512MiB", 512 << 20),
            ("10 GiB", 10 << 30),
            ("1.5tib", 3 << 39),
            ("20G", 20 << 30),
            ("4k", 4096),
        ] {
            assert_eq!(parse_size(text), Ok(ByteCount(bytes)), "{text}");
        }
        for text in ["", "x", "0", "1", "-4096", "1e3G", "1.G", "4097", "99999999T", "1GB/s", "1.1.1G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_may_be_left_out() {
        for (text, expected) in
            [("10.0.0.5", "10.0.0.5:7780"), (" 10.0.0.5:9 ", "10.0.0.5:9"), ("::1", "[::1]:7780")]
        {
            assert_eq!(parse_address(text, 7780).unwrap().to_string(), expected);
        }
        assert!(parse_address("esx1", 7780).is_err());
    }

    #[test]
    fn segments_stay_segments() {
        for (text, path) in
            [("iqn.2026-11.a:b", "iqn.2026-11.a:b"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), ("ü", "%C3%BC")]
        {
            assert_eq!(segment(text), path);
        }
    }

    #[test]
    fn times_and_durations() {
        assert_eq!(iso(0), "1970-01-01T00:00:00Z");
        assert_eq!(stamp(1_795_255_331), "2026-11-21 10:02:11 UTC");
        assert!(iso(u64::MAX).starts_with("9999"));
        let event = |late| Event { number: 1, at: 0, late, severity: "info".into(), text: "x".into() };
        assert_eq!(event_time(&event(false)), "1970-01-01 00:00:00 UTC");
        assert_eq!(event_time(&event(true)), "by 1970-01-01 00:00:00 UTC");
        for (seconds, text) in
            [(0, "0 s"), (8, "8 s"), (130, "2 min 10 s"), (3600, "1 h"), (90_061, "1 d 1 h")]
        {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(rate(1536), "1.5 KiB/s");
    }
}
