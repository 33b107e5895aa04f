//! Looks at the cluster manager and the supervisor once a second and keeps what was last seen, with its age.
//!
//! Invariant: what is shown is either fresh or says since when it is not ([`Snapshot::silent_since`]).

use crate::text::unix_now;
use crate::upstream::Upstream;
use control::api::{Event, Status};
use control::service::ServiceStatus;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

const PERIOD: Duration = Duration::from_secs(1);
/// Events kept for the pages.
const EVENTS: usize = 500;

/// What was last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The last status that the cluster manager gave; `None` if it gave none since this process started.
    pub(crate) status: Option<Status>,
    /// When it gave it (seconds since the Unix epoch); the start of this process if never.
    pub(crate) heard_at: u64,
    /// The cluster manager has been silent since then, and why; `None`: `status` is fresh.
    pub(crate) silent: Option<Silence>,
    /// This node's services.
    pub(crate) services: Vec<ServiceStatus>,
    /// The supervisor does not answer; `services` is then the last answer.
    pub(crate) services_silent: Option<String>,
    /// The newest last.
    pub(crate) events: VecDeque<Event>,
}

/// No answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Silence {
    /// Seconds since the Unix epoch.
    pub(crate) since: u64,
    /// A sentence.
    pub(crate) reason: String,
}

impl Snapshot {
    /// Nothing of the cluster may be taken for the present.
    pub(crate) fn is_stale(&self) -> bool {
        self.silent.is_some()
    }
}

/// Keeps `out` up to date, for ever. A `nudge` makes it look at once (after a command).
pub(crate) async fn keep(upstream: Arc<Upstream>, out: watch::Sender<Snapshot>, nudge: Arc<Notify>) {
    let mut now = out.borrow().clone();
    loop {
        look(&upstream, &mut now).await;
        out.send_if_modified(|seen| {
            let changed = *seen != now;
            if changed {
                seen.clone_from(&now);
            }
            changed
        });
        let _ = tokio::time::timeout(PERIOD, nudge.notified()).await;
    }
}

async fn look(upstream: &Upstream, now: &mut Snapshot) {
    // The newest known event is asked for again: if it is not there, the numbering began anew.
    let after = now.events.back().map_or(0, |e| e.number.saturating_sub(1));
    let (status, events, services) =
        tokio::join!(upstream.status(), upstream.events(after), upstream.services());
    match status {
        Ok(status) => {
            now.status = Some(status);
            now.heard_at = unix_now();
            now.silent = None;
        }
        Err(error) => {
            let since = now.silent.take().map_or(now.heard_at, |s| s.since);
            now.silent = Some(Silence { since, reason: error.message });
        }
    }
    match services {
        Ok(services) => {
            now.services = services;
            now.services_silent = None;
        }
        Err(error) => now.services_silent = Some(error.message),
    }
    // A failure to read events comes with a failure to read the status, which is shown.
    if let Ok(fresh) = events
        && !append(&mut now.events, fresh)
        && let Ok(all) = upstream.events(0).await
    {
        now.events.clear();
        append(&mut now.events, all);
    }
}

/// Adds what is new; `false` if `fresh` does not begin with the newest known event.
fn append(kept: &mut VecDeque<Event>, fresh: Vec<Event>) -> bool {
    if kept.back().is_some_and(|newest| Some(newest) != fresh.first()) {
        return false;
    }
    let known = usize::from(!kept.is_empty());
    kept.extend(fresh.into_iter().skip(known));
    while kept.len() > EVENTS {
        kept.pop_front();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64, text: &str) -> Event {
        Event { number, at: 7, severity: "info".into(), text: text.into() }
    }

    #[test]
    fn events_are_appended_once_and_a_new_numbering_is_noticed() {
        let mut kept = VecDeque::new();
        assert!(append(&mut kept, vec![event(1, "a"), event(2, "b")]));
        assert!(append(&mut kept, vec![event(2, "b"), event(3, "c")]));
        assert_eq!(kept.iter().map(|e| e.number).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(!append(&mut kept, vec![]));
        assert!(!append(&mut kept, vec![event(3, "another third")]));
        assert!(append(&mut kept, (3..2000).map(|n| event(n, if n == 3 { "c" } else { "x" })).collect()));
        assert_eq!((kept.len(), kept.back().unwrap().number), (EVENTS, 1999));
    }
}
