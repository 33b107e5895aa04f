//! Looks at the cluster manager and the supervisor once a second and keeps what was last seen, with its age.
//!
//! Invariant: what is shown is either fresh or says since when it is not ([`Snapshot::silent_since`]).

use crate::client::KnownUpdate;
use crate::cluster_update::ClusterUpdates;
use crate::text::unix_now;
use crate::upstream::Upstream;
use control::api::{Event, Status};
use control::service::ServiceStatus;
use control::update::UpdateStatus;
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
    /// What runs on this node, as the supervisor last said.
    pub(crate) update: Option<UpdateStatus>,
    /// What is known of an update of all nodes.
    pub(crate) cluster_update: KnownUpdate,
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
pub(crate) async fn keep(
    upstream: Arc<Upstream>,
    cluster_updates: Arc<ClusterUpdates>,
    out: watch::Sender<Snapshot>,
    nudge: Arc<Notify>,
) {
    let mut now = out.borrow().clone();
    loop {
        look(&upstream, &mut now).await;
        now.cluster_update = cluster_updates.known();
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
    let (status, events, services, update) =
        tokio::join!(upstream.status(), upstream.events(after), upstream.services(), upstream.update());
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
    // A failure comes with one to read the services, which is shown.
    if let Ok(update) = update {
        now.update = Some(update);
    }
    // A failure to read events comes with a failure to read the status, which is shown.
    if let Ok(fresh) = events {
        if continues(&now.events, &fresh) {
            let known = usize::from(!now.events.is_empty());
            append(&mut now.events, fresh.into_iter().skip(known));
        } else if let Ok(all) = upstream.events(0).await {
            // What the manager that is gone had told stays true.
            append(&mut now.events, all);
        }
    }
}

/// Whether `fresh` begins with the newest event that is known.
fn continues(kept: &VecDeque<Event>, fresh: &[Event]) -> bool {
    kept.back().is_none_or(|newest| Some(newest) == fresh.first())
}

fn append(kept: &mut VecDeque<Event>, fresh: impl IntoIterator<Item = Event>) {
    kept.extend(fresh);
    while kept.len() > EVENTS {
        kept.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64, text: &str) -> Event {
        Event { number, at: 7, late: false, severity: "info".into(), text: text.into() }
    }

    #[test]
    fn a_new_numbering_is_noticed_and_the_list_is_bounded() {
        let mut kept = VecDeque::new();
        assert!(continues(&kept, &[]) && continues(&kept, &[event(1, "a")]));
        append(&mut kept, [event(1, "a"), event(2, "b")]);
        assert!(continues(&kept, &[event(2, "b"), event(3, "c")]));
        assert!(!continues(&kept, &[]) && !continues(&kept, &[event(2, "another second")]));
        append(&mut kept, (3..2000).map(|n| event(n, "x")));
        assert_eq!((kept.len(), kept.back().unwrap().number), (EVENTS, 1999));
    }
}
