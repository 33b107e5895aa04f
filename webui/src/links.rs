//! Download links that work once, without sign-in: for whoever stands at the node's console and has a browser elsewhere.
//!
//! Invariants
//! - A link is good for one download within [`VALID`] of its making; what it was is forgotten then.
//! - A guess takes the same time, however much of it is right. There are 2^128 of them.
//! - They are in memory alone, [`MOST`] at a time; a new one takes the place of the oldest.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use subtle::{Choice, ConstantTimeEq};

/// How long a link is good for.
pub(crate) const VALID: Duration = Duration::from_secs(15 * 60);
/// Links at a time.
const MOST: usize = 4;

type Token = [u8; 16];

/// The links that are good at present.
#[derive(Default)]
pub(crate) struct Links {
    open: Mutex<VecDeque<(Instant, Token)>>,
}

impl Links {
    /// A new one: its token, hexadecimal.
    pub(crate) fn make(&self, now: Instant) -> Result<String, getrandom::Error> {
        let mut token = Token::default();
        getrandom::fill(&mut token)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_back((now, token));
        let surplus = open.len().saturating_sub(MOST);
        open.drain(..surplus);
        Ok(hex::encode(token))
    }

    /// Whether `text` is the token of a good link, which it then is no more.
    pub(crate) fn take(&self, text: &str, now: Instant) -> bool {
        let mut given = Token::default();
        if hex::decode_to_slice(text, &mut given).is_err() {
            return false;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(made, _)| now.saturating_duration_since(*made) < VALID);
        let found: Vec<Choice> = open.iter().map(|(_, token)| token.ct_eq(&given)).collect();
        let before = open.len();
        let mut found = found.into_iter();
        open.retain(|_| found.next().is_none_or(|found| !bool::from(found)));
        open.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_good_once_and_for_a_while() {
        let (links, now) = (Links::default(), Instant::now());
        let (first, second) = (links.make(now).unwrap(), links.make(now).unwrap());
        assert!(first != second && first.len() == 32, "{first} {second}");
        assert!(links.take(&second, now));
        assert!(!links.take(&second, now), "used up");
        let nearly = now + VALID - Duration::from_secs(1);
        for wrong in ["", "0", &"0".repeat(32), &first[1..], &format!("{first}0"), "\u{fc}"] {
            assert!(!links.take(wrong, nearly), "{wrong}");
        }
        assert!(links.take(&first, nearly));
        let late = links.make(now).unwrap();
        assert!(!links.take(&late, now + VALID));
    }

    #[test]
    fn the_oldest_gives_way() {
        let (links, now) = (Links::default(), Instant::now());
        let all: Vec<String> = (0..=MOST).map(|_| links.make(now).unwrap()).collect();
        assert!(!links.take(&all[0], now));
        assert!(all[1..].iter().all(|token| links.take(token, now)));
    }
}
