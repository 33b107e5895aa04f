//! What repeats, for log lines: said once, when it changes, and then rarely, with a count.
//!
//! Invariant: whatever is asked, there are at most [`KEEP`] lines in any [`LEAST`].

use crate::Monotonic;
use alloc::collections::BTreeMap;
use alloc::string::String;
use core::time::Duration;

/// The same is said again after this time.
const EVERY: Duration = Duration::from_secs(300);
/// A change is said at once if the last line is older than this.
const LEAST: Duration = Duration::from_secs(10);
/// Subjects remembered.
const KEEP: usize = 256;

/// What was said last of each subject.
#[derive(Clone, Debug)]
pub struct Repeats<K> {
    said: BTreeMap<K, Said>,
}

impl<K> Default for Repeats<K> {
    fn default() -> Self {
        Self { said: BTreeMap::new() }
    }
}

#[derive(Clone, Debug)]
struct Said {
    at: Monotonic,
    text: String,
    unsaid: u64,
}

impl<K: Ord + Clone> Repeats<K> {
    /// Whether `text` is to be said of `subject` now. The answer counts the lines about it that were not said since the
    /// last one.
    pub fn ask(&mut self, subject: &K, text: &str, now: Monotonic) -> Option<u64> {
        if let Some(said) = self.said.get_mut(subject) {
            let least = if said.text == text { EVERY } else { LEAST };
            if now.since(said.at) < least {
                said.unsaid = said.unsaid.saturating_add(1);
                return None;
            }
            let unsaid = said.unsaid;
            *said = Said { at: now, text: text.into(), unsaid: 0 };
            return Some(unsaid);
        }
        if self.said.len() >= KEEP {
            let (oldest, said) = self.said.iter().min_by_key(|(_, said)| said.at)?;
            if now.since(said.at) < LEAST {
                return None;
            }
            let oldest = oldest.clone();
            self.said.remove(&oldest);
        }
        self.said.insert(subject.clone(), Said { at: now, text: text.into(), unsaid: 0 });
        Some(0)
    }

    /// It is over: when it begins again, that is said at once.
    pub fn ended(&mut self, subject: &K, now: Monotonic) {
        if self.said.get(subject).is_some_and(|said| now.since(said.at) >= LEAST) {
            self.said.remove(subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn said_once_when_it_changes_and_then_rarely() {
        let mut repeats = Repeats::default();
        let mut ask = |text: &str, seconds| repeats.ask(&1, text, at(seconds));
        assert_eq!([ask("a", 0), ask("a", 11), ask("b", 12), ask("b", 13)], [Some(0), None, Some(1), None]);
        assert_eq!([ask("a", 14), ask("a", 22), ask("a", 321)], [None, Some(2), None]);
        assert_eq!([ask("a", 322), ask("a", 622)], [Some(1), Some(0)]);
    }

    #[test]
    fn what_begins_again_is_said_at_once_but_not_while_it_flaps() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.ask(&1, "a", at(0)), Some(0));
        repeats.ended(&1, at(5));
        assert_eq!(repeats.ask(&1, "a", at(6)), None);
        repeats.ended(&1, at(20));
        assert_eq!(repeats.ask(&1, "a", at(21)), Some(0));
    }

    #[test]
    fn a_flood_of_subjects_is_bounded() {
        let mut repeats = Repeats::default();
        let said = (0..10_000_u64).filter(|subject| repeats.ask(subject, "a", at(subject / 1000)).is_some());
        assert_eq!(said.count(), KEEP);
        assert_eq!((repeats.ask(&10_077, "a", at(10)), repeats.said.len()), (Some(0), KEEP));
        assert_eq!(repeats.ask(&10_077, "a", at(20)), None);
    }
}
