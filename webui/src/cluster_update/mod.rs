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
    known: Mutex<Option<Known>>,
    /// One at a time comes to lead: the file is its own until it does.
    coming: tokio::sync::Mutex<()>,
}

struct Known {
    update: ClusterUpdate,
    heard: Instant,
}

impl ClusterUpdates {
    /// Of the node `me` at `dir`. What it led when its web process ended is over.
    pub(crate) fn new(dir: &Path, me: &str) -> Self {
        let bundle = dir.join(control::paths::CLUSTER_BUNDLE);
        let uploads = Uploads::new(bundle.clone());
        let (known, coming) = (Mutex::default(), tokio::sync::Mutex::default());
        let updates = Self { me: me.to_owned(), uploads, bundle, known, coming };
        updates.forget_bundle();
        updates
    }

    /// The update that was led is not needed here any more.
    fn forget_bundle(&self) {
        // Space; a file that is left is replaced by the next one.
        let _ = std::fs::remove_file(&self.bundle);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest that is known.
    pub(crate) fn known(&self) -> KnownUpdate {
        let known = self.lock();
        let silent = |known: &Known| {
            let silence = known.heard.elapsed();
            let expected =
                known.update.state == ClusterUpdateState::Running && known.update.leader != self.me;
            if expected && silence >= SILENCE { silence.as_secs() } else { 0 }
        };
        KnownUpdate {
            silent_s: known.as_ref().map_or(0, silent),
            update: known.as_ref().map(|known| known.update.clone()),
        }
    }

    /// A leader tells.
    pub(crate) fn hear(&self, update: ClusterUpdate) {
        let mut known = self.lock();
        if known.as_ref().is_none_or(|known| update.is_newer(&known.update)) {
            *known = Some(Known { update, heard: Instant::now() });
        }
    }

    /// Whether this node leads `update`, as far as is known.
    fn leads(&self, update: &ClusterUpdate) -> bool {
        self.lock().as_ref().is_some_and(|known| {
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
    let Ok(_coming) = app.cluster_updates.coming.try_lock() else {
        read_on(&mut body).await;
        return Err(ApiError::new(ErrorKind::InUse, COMING));
    };
    let begun = begin_in_turn(app, without, body).await;
    if begun.as_ref().is_err_and(|error| error.kind != ErrorKind::InUse) {
        app.cluster_updates.forget_bundle();
    }
    begun
}

async fn begin_in_turn<E: Display>(
    app: &Shared,
    without: Vec<String>,
    body: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Result<ClusterUpdate, ApiError> {
    let updates = &app.cluster_updates;
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
    start(app, update.clone(), machine, nodes);
    Ok(update)
}

/// Takes the lead of the update `id`, which its leader has told this node to take; the update comes along.
pub(crate) async fn take_over<E: Display>(
    app: &Shared,
    id: &str,
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Result<(), ApiError> {
    let updates = &app.cluster_updates;
    let Ok(_coming) = updates.coming.try_lock() else {
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
    start(app, update, machine, nodes);
    Ok(())
}

fn start(app: &Shared, update: ClusterUpdate, machine: Rolling, nodes: BTreeMap<String, Client>) {
    app.cluster_updates.hear(update.clone());
    tokio::spawn(Lead::new(app.clone(), update, machine, nodes).run());
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
        if let Some(known) = &mut *updates.lock() {
            known.heard -= SILENCE;
        }
        assert!(updates.known().silent_s >= SILENCE.as_secs());
        updates.require_none().unwrap();
    }
}
