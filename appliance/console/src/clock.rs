//! The wall clock as people read and type it: UTC, to the second. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Times before it, 2025-01-01, are typing errors: this program is younger.
const FIRST: Duration = Duration::from_secs(1_735_689_600);
/// And so are times after it, 2100-01-01.
const LAST: Duration = Duration::from_secs(4_102_444_800);

/// `2026-11-28 01:02:03`.
#[must_use]
pub fn show(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").trim_end_matches('Z').to_owned()
}

/// What was typed: `YYYY-MM-DD HH:MM`, with seconds or without.
///
/// # Errors
/// It is no time, or none of this century from 2025 on.
pub fn typed(text: &str) -> Result<SystemTime, String> {
    let text = text.trim();
    let with_seconds =
        if text.len() == "YYYY-MM-DD HH:MM".len() { format!("{text}:00") } else { text.into() };
    let wrong = |_| format!("{text:?} is no time, as 2026-11-28 14:05 or 2026-11-28 14:05:30");
    let time = humantime::parse_rfc3339_weak(&with_seconds).map_err(wrong)?;
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) if (FIRST..LAST).contains(&since) => Ok(time),
        Ok(_) | Err(_) => Err(format!("{text} is not between 2025 and 2100")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed() {
        let time = UNIX_EPOCH + Duration::from_secs(1_795_828_923);
        assert_eq!(show(time), "2026-11-28 01:22:03");
        assert_eq!(typed(&show(time)), Ok(time));
        assert_eq!(typed(" 2026-11-28 01:22 "), Ok(time - Duration::from_secs(3)));
        assert!(typed("2028-02-29 00:00").is_ok());
        for wrong in
            ["", "now", "2026-11-28", "2026-13-28 01:22", "2027-02-29 00:00", "2026-11-28 24:00", "12:00"]
        {
            assert!(typed(wrong).unwrap_err().contains("is no time"), "{wrong}");
        }
        for far in ["1970-01-01 00:00", "2024-12-31 23:59:59", "2100-01-01 00:00"] {
            assert!(typed(far).unwrap_err().contains("between"), "{far}");
        }
    }
}
