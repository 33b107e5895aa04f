//! Requests that another site makes a browser send.
//!
//! Two independent guards for whatever changes something with a session cookie: the browser's own word on where the
//! request comes from, and a token of the session that only our pages carry.

use crate::errors::{ApiError, ErrorKind};
use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

/// Carries the session's token in REST requests.
pub(crate) const HEADER: &str = "x-csrf-token";

/// Where a request says that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// One of our pages.
    Ours,
    /// Another site, or an address typed in.
    Foreign,
    /// It says nothing: not a browser of this decade.
    Unknown,
}

/// By `Sec-Fetch-Site`, else by `Origin` against `Host`.
pub(crate) fn origin(headers: &HeaderMap) -> Origin {
    let text = |name: header::HeaderName| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site")) {
        return if site == "same-origin" { Origin::Ours } else { Origin::Foreign };
    }
    match (text(header::ORIGIN), text(header::HOST)) {
        (None, _) => Origin::Unknown,
        (Some(origin), Some(host)) if origin.strip_prefix("https://") == Some(host) => Origin::Ours,
        (Some(_), _) => Origin::Foreign,
    }
}

/// A request that changes something and needs no session (set-up, sign-in, HTTP Basic): not from another site.
pub(crate) fn refuse_foreign(headers: &HeaderMap) -> Result<(), ApiError> {
    match origin(headers) {
        Origin::Ours | Origin::Unknown => Ok(()),
        Origin::Foreign => Err(foreign()),
    }
}

/// A request that changes something with a session cookie: provably from our pages.
pub(crate) fn require_ours(headers: &HeaderMap) -> Result<(), ApiError> {
    match origin(headers) {
        Origin::Ours => Ok(()),
        Origin::Foreign | Origin::Unknown => Err(foreign()),
    }
}

/// The token must be the session's.
pub(crate) fn require_token(given: Option<&str>, expected: &str) -> Result<(), ApiError> {
    if given.is_some_and(|given| bool::from(given.as_bytes().ct_eq(expected.as_bytes()))) {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorKind::Forbidden,
        "This page is out of date. Load it again and repeat what you did.",
    ))
}

fn foreign() -> ApiError {
    ApiError::new(ErrorKind::Forbidden, "The request did not come from this console; nothing was done.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn where_a_request_comes_from() {
        for (pairs, expected) in [
            (&[("sec-fetch-site", "same-origin")][..], Origin::Ours),
            (&[("sec-fetch-site", "same-site"), ("origin", "https://h"), ("host", "h")], Origin::Foreign),
            (&[("sec-fetch-site", "cross-site")], Origin::Foreign),
            (&[("sec-fetch-site", "none")], Origin::Foreign),
            (&[("origin", "https://h:8443"), ("host", "h:8443")], Origin::Ours),
            (&[("origin", "https://h"), ("host", "h:8443")], Origin::Foreign),
            (&[("origin", "http://h"), ("host", "h")], Origin::Foreign),
            (&[("origin", "null"), ("host", "h")], Origin::Foreign),
            (&[("host", "h")], Origin::Unknown),
        ] {
            assert_eq!(origin(&headers(pairs)), expected, "{pairs:?}");
        }
        assert!(require_ours(&headers(&[])).is_err());
        assert!(refuse_foreign(&headers(&[])).is_ok());
        assert!(require_token(Some("ab"), "ab").is_ok());
        assert!(require_token(Some("a"), "ab").is_err());
        assert!(require_token(None, "ab").is_err());
    }
}
