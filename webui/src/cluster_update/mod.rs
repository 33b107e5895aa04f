//! The update of all nodes ([`update::rolling`]), led by one of them: what this node knows of it, and how it comes to lead.
//!
//! An administrator who is signed in uploads it to one node. That node reaches the others' consoles through the cluster
//! managers ([`crate::client::Client::member`]), which let in members alone; no password is needed or kept. Before a node
//! would do something to itself it gives the lead, with the update, to another one, so that nobody restarts who leads
//! ([`lead`]). Each second the leader tells everybody how far it is, so that each node's pages show it.
//!
//! # Invariants
//!
//! - A node leads only what [`ClusterUpdates`] knows as the newest and as its own. Of two that were begun at once, the one
//!   that is not the newest ends as soon as its leader hears of the other.
//! - Whoever has given the lead away never takes it back by itself, whether or not the other one has it: at worst nobody
//!   leads, and all nodes say that the leader is silent.
//! - Who was told to lead and has not begun is as silent as one that leads and does not speak.
//! - The file is there only while this node leads, or comes to lead.
//! - What is led is in memory: a web process that ends, ends what it leads. Begun again, it goes on where it was.

mod lead;

use crate::app::{App, Shared};
use crate::client::{Client, KnownUpdate};
use crate::errors::{ApiError, ErrorKind};
use crate::text::unix_now;
use crate::upload::{Uploads, read_on};
use axum::body::Bytes;
use control::update::{ClusterUpdate, ClusterUpdateState};
use futures_util::Stream;
use lead::Lead;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use update::rolling::Rolling;

/// A leader that has said nothing for so long is called silent, and somebody else may begin.
const SILENCE: Duration = Duration::from_secs(60);
/// Clocks of nodes that are further apart than this have to be set first: an update that was begun in times to come would be the
/// newest until then.
const MOST_AHEAD_S: u64 = 24 * 3600;
/// Why another one has to wait.
const COMING: &str = "An update of all nodes is on its way in already.";
/// Looks at all nodes before one that does not answer is missed, or this node's cluster manager.
const LOOKS: u32 = 3;

/// What a node knows of updates of all nodes.
pub(crate) struct ClusterUpdates {
    /// The node's name.
    me: String,
    bundle: PathBuf,
    uploads: Uploads,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<Known>,
    /// What the task that leads here was begun with.
    led: Option<Led>,
    /// One at a time comes to lead: the file is its own until it does.
    coming: bool,
}

struct Known {
    update: ClusterUpdate,
    heard: Instant,
}

/// One time of leading: an update may come back to a node that has led it before.
#[derive(Clone, PartialEq, Eq)]
struct Led {
    id: String,
    moves: u32,
}

impl Led {
    fn of(update: &ClusterUpdate) -> Self {
        Self { id: update.id.clone(), moves: update.moves }
    }
}

impl State {
    fn hear(&mut self, update: ClusterUpdate) {
        if self.known.as_ref().is_none_or(|known| update.is_newer(&known.update)) {
            self.known = Some(Known { update, heard: Instant::now() });
        }
    }

    /// For how long the leader has said nothing, in seconds; 0: it speaks, or nothing is expected of it.
    fn silent_s(&self, me: &str) -> u64 {
        let Some(Known { update, heard }) = &self.known else { return 0 };
        let led_here = update.leader == me && self.led.as_ref().is_some_and(|led| led.id == update.id);
        let expected = update.state == ClusterUpdateState::Running && !led_here;
        let silence = heard.elapsed();
        if expected && silence >= SILENCE { silence.as_secs() } else { 0 }
    }
}

/// Comes to lead: what it brought is removed with it unless this node leads by then.
struct Coming<'a>(&'a ClusterUpdates);

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.coming = false;
        self.0.tidy(&state);
    }
}

impl ClusterUpdates {
    /// Of the node `me` at `dir`. What it led when its web process ended is over.
    pub(crate) fn new(dir: &Path, me: &str) -> Self {
        let bundle = dir.join(control::paths::CLUSTER_BUNDLE);
        let uploads = Uploads::new(bundle.clone());
        uploads.forget();
        Self { me: me.to_owned(), uploads, bundle, state: Mutex::default() }
    }

    /// The file is removed if nobody needs it any more.
    fn tidy(&self, state: &State) {
        if state.led.is_none() && !state.coming {
            self.uploads.forget();
        }
    }

    /// Somebody comes to lead; `None`: somebody else does already.
    fn enter(&self) -> Option<Coming<'_>> {
        let mut state = self.lock();
        (!std::mem::replace(&mut state.coming, true)).then(|| Coming(self))
    }

    /// The task that leads has ended.
    fn leave(&self, led: &Led) {
        let mut state = self.lock();
        if state.led.as_ref() == Some(led) {
            state.led = None;
            self.tidy(&state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest that is known.
    pub(crate) fn known(&self) -> KnownUpdate {
        let state = self.lock();
        KnownUpdate {
            silent_s: state.silent_s(&self.me),
            update: state.known.as_ref().map(|known| known.update.clone()),
        }
    }

    /// Another member tells; it may be wrong. This node leads only what it was given by who led it.
    pub(crate) fn hear_member(&self, update: ClusterUpdate) -> Result<(), ApiError> {
        let refused = |text: String| Err(ApiError::new(ErrorKind::Refused, text));
        if update.begun_at > unix_now().saturating_add(MOST_AHEAD_S) {
            return refused(format!(
                "node {}: by its clock the update of all nodes that node {} leads was begun more than a day from now. Set the clocks",
                self.me, update.leader
            ));
        }
        let given = |state: &State| {
            state.known.as_ref().is_some_and(|Known { update: known, .. }| {
                known.id == update.id
                    && known.state == ClusterUpdateState::Running
                    && known.leader != self.me
                    && known.moves.checked_add(1) == Some(update.moves)
            })
        };
        let mut state = self.lock();
        if update.leader == self.me && !given(&state) {
            return refused(format!("node {} was given no lead of the update of all nodes", self.me));
        }
        state.hear(update);
        Ok(())
    }

    /// This node tells, or has given the lead away.
    fn hear(&self, update: ClusterUpdate) {
        self.lock().hear(update);
    }

    /// Whether this node leads `update`, as far as is known.
    fn leads(&self, update: &ClusterUpdate) -> bool {
        self.lock().known.as_ref().is_some_and(|known| {
            known.update.id == update.id && known.update.leader == self.me && update.leader == self.me
        })
    }

    /// There is none that goes on.
    fn require_none(&self) -> Result<(), ApiError> {
        let KnownUpdate { update, silent_s } = self.known();
        match update.filter(|update| update.state == ClusterUpdateState::Running && silent_s == 0) {
            None => Ok(()),
            Some(update) => {
                let text = format!("All nodes are being updated already; node {} leads that.", update.leader);
                Err(ApiError::new(ErrorKind::InUse, text))
            }
        }
    }
}

/// Takes an update and begins to bring it to all nodes but those in `without`.
pub(crate) async fn begin<E: Display>(
    app: &Shared,
    without: Vec<String>,
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Result<ClusterUpdate, ApiError> {
    let updates = &app.cluster_updates;
    let Some(_coming) = updates.enter() else {
        read_on(&mut body).await;
        return Err(ApiError::new(ErrorKind::InUse, COMING));
    };
    let claimed = updates.uploads.keep(body, || updates.require_none()).await?;
    let release = claimed.header.version.to_string();
    let (nodes, machine) = plan(app, &release, &without).await?;
    let begun_after = updates.known().update.map_or(0, |update| update.begun_at);
    let id = transport::random_id().map_err(|e| ApiError::internal("no random numbers", &e))?;
    let update = ClusterUpdate {
        id: format!("{id:016x}"),
        release,
        // Later than any that is known, whatever the clocks say.
        begun_at: unix_now().max(begun_after.saturating_add(1)),
        leader: updates.me.clone(),
        moves: 0,
        without,
        state: ClusterUpdateState::Running,
        text: "The nodes are looked at.".to_owned(),
        nodes: machine.progress(),
    };
    // Somebody may have been quicker.
    updates.require_none()?;
    tracing::info!(release = update.release, nodes = ?machine.nodes(), "updating all nodes");
    start(app, update.clone(), machine, nodes)?;
    Ok(update)
}

/// Takes the lead of the update `id`, which its leader has told this node to take; the update comes along.
pub(crate) async fn take_over<E: Display>(
    app: &Shared,
    id: &str,
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Result<(), ApiError> {
    let updates = &app.cluster_updates;
    let Some(_coming) = updates.enter() else {
        read_on(&mut body).await;
        return Err(ApiError::new(ErrorKind::InUse, COMING));
    };
    let unknown =
        || ApiError::new(ErrorKind::Refused, format!("node {} was not told that it leads", updates.me));
    let told = || {
        let known = updates.known().update;
        known.filter(|update| update.id == id && updates.leads(update)).ok_or_else(unknown)
    };
    let claimed = updates.uploads.keep(body, || told().map(drop)).await?;
    let update = told()?;
    if update.release != claimed.header.version.to_string() {
        let text = format!("that is release {}, not {}", claimed.header.version, update.release);
        return Err(ApiError::new(ErrorKind::Invalid, text));
    }
    let (nodes, machine) = plan(app, &update.release, &update.without).await?;
    tracing::info!(release = update.release, nodes = ?machine.nodes(), "leading the update of all nodes");
    start(app, update, machine, nodes)
}

fn start(
    app: &Shared,
    update: ClusterUpdate,
    machine: Rolling,
    nodes: BTreeMap<String, Client>,
) -> Result<(), ApiError> {
    let updates = &app.cluster_updates;
    updates.hear(update.clone());
    if !updates.leads(&update) {
        let text = "Another update of all nodes was begun, or another node leads this one by now.";
        return Err(ApiError::new(ErrorKind::InUse, text));
    }
    tokio::spawn(Lead::new(app.clone(), update, machine, nodes).run());
    Ok(())
}

/// The consoles of all members.
async fn consoles(app: &App) -> Result<BTreeMap<String, Client>, ApiError> {
    let status = app.upstream.status().await?;
    let none = || ApiError::new(ErrorKind::Refused, "The node is in no cluster: update it by itself.");
    let members = status.cluster.ok_or_else(none)?.members.into_iter().map(|member| member.name);
    let console = |name: String| {
        let client =
            if name == status.node { Client::local(&app.dir) } else { Client::member(&app.dir, &name) };
        (name, client)
    };
    Ok(members.map(console).collect())
}

/// The consoles of all members, and what is to be done. A node may be slow once.
async fn plan(
    app: &App,
    release: &str,
    without: &[String],
) -> Result<(BTreeMap<String, Client>, Rolling), ApiError> {
    let without: BTreeSet<String> = without.iter().cloned().collect();
    let once = async || {
        let nodes = consoles(app).await?;
        let machine = Rolling::plan(release, &lead::look(&nodes, None).await, &without);
        let refused = |reason| ApiError::new(ErrorKind::Refused, format!("Not begun: {reason}."));
        Ok((nodes, machine.map_err(refused)?))
    };
    let mut planned = once().await;
    for _ in 1..LOOKS {
        if planned.is_ok() {
            break;
        }
        tokio::time::sleep(lead::PERIOD).await;
        planned = once().await;
    }
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(id: &str, begun_at: u64, leader: &str, moves: u32) -> ClusterUpdate {
        ClusterUpdate {
            id: id.into(),
            release: "0.2.0".into(),
            begun_at,
            leader: leader.into(),
            moves,
            without: vec![],
            state: ClusterUpdateState::Running,
            text: String::new(),
            nodes: vec![],
        }
    }

    #[test]
    fn the_lead_is_lost_to_a_newer_word_and_not_to_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let updates = ClusterUpdates::new(dir.path(), "a");
        assert_eq!(updates.known(), KnownUpdate::default());
        updates.require_none().unwrap();
        let own = update("1", 5, "a", 0);
        updates.hear(own.clone());
        assert!(updates.leads(&own));
        assert_eq!(updates.require_none().unwrap_err().kind, ErrorKind::InUse);

        updates.hear(update("2", 4, "b", 3));
        assert!(updates.leads(&own), "begun earlier");
        let given = update("1", 5, "b", 1);
        updates.hear(given.clone());
        assert!(!updates.leads(&own) && !updates.leads(&given));
        updates.hear(own.clone());
        assert_eq!(updates.known().update, Some(given), "a late word of who led before");
        updates.hear(update("3", 6, "b", 0));
        assert!(!updates.leads(&own));

        updates.hear(ClusterUpdate { state: ClusterUpdateState::Stopped, ..update("3", 6, "b", 0) });
        updates.require_none().unwrap();
    }

    #[test]
    fn a_leader_that_says_nothing_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let updates = ClusterUpdates::new(dir.path(), "a");
        updates.hear(update("1", 5, "b", 0));
        assert_eq!((updates.known().silent_s, updates.require_none().is_err()), (0, true));
        time_passes(&updates);
        assert!(updates.known().silent_s >= SILENCE.as_secs());
        updates.require_none().unwrap();
    }

    fn time_passes(updates: &ClusterUpdates) {
        if let Some(known) = &mut updates.lock().known {
            known.heard -= SILENCE;
        }
    }

    #[test]
    fn who_was_told_to_lead_and_has_not_begun_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let updates = ClusterUpdates::new(dir.path(), "b");
        updates.hear_member(update("1", 5, "a", 0)).unwrap();
        let given = update("1", 5, "b", 1);
        updates.hear_member(given.clone()).unwrap();
        assert_eq!(updates.known().silent_s, 0, "it may come yet");
        time_passes(&updates);
        assert!(updates.known().silent_s >= SILENCE.as_secs());
        updates.require_none().unwrap();

        updates.lock().led = Some(Led::of(&given));
        assert_eq!(updates.known().silent_s, 0, "it leads");
        assert!(updates.require_none().is_err());
        updates.leave(&Led::of(&update("1", 5, "b", 3)));
        assert_eq!(updates.known().silent_s, 0, "it led that another time");
        updates.leave(&Led::of(&given));
        assert!(updates.known().silent_s > 0);
    }

    #[test]
    fn a_member_does_not_make_this_node_lead_nor_stop_what_is_begun_later() {
        let dir = tempfile::tempdir().unwrap();
        let updates = ClusterUpdates::new(dir.path(), "b");
        let refused = |told: ClusterUpdate| {
            let before = updates.known();
            assert_eq!(updates.hear_member(told.clone()).unwrap_err().kind, ErrorKind::Refused, "{told:?}");
            assert_eq!(updates.known().update, before.update);
        };
        let now = unix_now();
        refused(update("1", now, "b", 0));
        refused(update("9", u64::MAX, "a", 0));
        refused(update("9", now + 2 * MOST_AHEAD_S, "a", 0));
        updates.hear_member(update("1", now + 60, "a", 3)).unwrap();
        for told in [
            update("1", now + 60, "b", 3),
            update("1", now + 60, "b", 5),
            update("2", now + 61, "b", 0),
            update("2", now + 61, "b", 4),
        ] {
            refused(told);
        }
        updates.hear_member(update("1", now + 60, "b", 4)).unwrap();
        refused(update("1", now + 60, "b", 4));
        refused(update("1", now + 60, "b", 5));
        updates
            .hear_member(ClusterUpdate {
                state: ClusterUpdateState::Stopped,
                ..update("1", now + 60, "a", 4)
            })
            .unwrap();
        refused(update("1", now + 60, "b", 5));
    }

    #[test]
    fn the_file_is_there_only_for_who_leads_or_comes_to() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join(control::paths::CLUSTER_BUNDLE);
        let files = [bundle.with_extension("new"), bundle];
        std::fs::create_dir_all(files[0].parent().unwrap()).unwrap();
        let put = || files.iter().for_each(|file| std::fs::write(file, "x").unwrap());
        let there = || files.iter().filter(|file| file.exists()).count();
        put();
        let updates = ClusterUpdates::new(dir.path(), "a");
        assert_eq!(there(), 0, "left by an earlier start");
        let coming = updates.enter().unwrap();
        assert!(updates.enter().is_none());
        put();
        drop(coming);
        assert_eq!(there(), 0, "it did not come about");

        let led = Led::of(&update("1", 5, "a", 0));
        put();
        let coming = updates.enter().unwrap();
        updates.lock().led = Some(led.clone());
        drop(coming);
        drop(updates.enter());
        assert_eq!(there(), 2, "it leads");
        let coming = updates.enter().unwrap();
        updates.leave(&led);
        assert_eq!(there(), 2, "the next one comes");
        drop(coming);
        assert_eq!(there(), 0);
    }
}
