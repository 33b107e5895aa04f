//! The session cookie.

use axum::http::{HeaderMap, HeaderValue, header};

/// The prefix makes browsers insist on Secure, Path=/ and no Domain.
const NAME: &str = "__Host-futago";

/// The token that the browser sent.
pub(crate) fn token(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(NAME)?.strip_prefix('='))
}

/// Sets the cookie.
pub(crate) fn set(token: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("{NAME}={token}; Path=/; HttpOnly; Secure; SameSite=Strict")).ok()
}

/// Removes it.
pub(crate) fn clear() -> HeaderValue {
    HeaderValue::from_static("__Host-futago=; Path=/; HttpOnly; Secure; SameSite=Strict; Max-Age=0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; __Host-futagox=2"));
        assert_eq!(token(&headers), None);
        headers.append(header::COOKIE, HeaderValue::from_static("b=3; __Host-futago=abc"));
        assert_eq!(token(&headers), Some("abc"));
        assert!(set("abc").unwrap().to_str().unwrap().contains("HttpOnly; Secure; SameSite=Strict"));
    }
}
