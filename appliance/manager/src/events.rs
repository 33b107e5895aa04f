//! The last things that happened, for the event list.

use cluster::Severity;
use control::api::Event;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Events kept.
const KEEP: usize = 1000;

/// This node's events since the start of the cluster manager.
#[derive(Default)]
pub(crate) struct Events {
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    last: u64,
    events: VecDeque<Event>,
}

impl Events {
    /// Adds an event, now.
    pub(crate) fn add(&self, severity: Severity, text: String) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.last = list.last.saturating_add(1);
        let event = Event { number: list.last, at, severity: severity.word().into(), text };
        if list.events.len() >= KEEP {
            list.events.pop_front();
        }
        list.events.push_back(event);
    }

    /// The events after number `after` that are still kept.
    pub(crate) fn after(&self, after: u64) -> Vec<Event> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.events.iter().filter(|event| event.number > after).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let events = Events::default();
        for number in 1..=1005 {
            events.add(Severity::Info, number.to_string());
        }
        let list = events.after(0);
        assert_eq!((list.len(), list[0].number, list[0].text.as_str()), (1000, 6, "6"));
        assert_eq!(events.after(1004).len(), 1);
    }
}
