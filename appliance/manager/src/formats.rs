//! What this node promises its cluster to understand, and what PID 1 has to know before it starts another release.
//!
//! PID 1 says what all releases understand that it may start ([`paths::UNDERSTOOD`]): nothing while one is on trial, less before
//! it installs an older one. That is promised, and from the promises of all members follow the levels (`cluster`). What is in
//! force, and what was promised, stands in [`paths::FORMATS`].
//!
//! Invariants
//! - Only what PID 1 says is promised: while it says nothing, the last promise stays.
//! - [`paths::FORMATS`] shows what is committed and applied here.

use crate::node::Node;
use crate::proposals;
use base::Levels;
use cluster::{ClusterState, Command, Outcome};
use control::paths;
use control::update::{InUse, MemberFormats, Promised, Understood};
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};
use tokio::time::interval;

/// What every release understands that this node may start; `None` while the one that runs has not proved itself.
pub(crate) fn understood(dir: &Path) -> Option<Understood> {
    let bytes = fs::read(dir.join(paths::UNDERSTOOD)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Promises what PID 1 says, and tells it what is in force, for ever.
pub(crate) async fn follow(node: Arc<Node>) {
    let mut every = interval(node.timing.renew);
    let mut told = None;
    let mut refused = None;
    loop {
        every.tick().await;
        let state = node.log.applied().state;
        let in_use = in_use(&node, &state);
        if told != in_use {
            match tell(&node.dir.join(paths::FORMATS), in_use.as_ref()) {
                Ok(()) => told = in_use,
                Err(error) => tracing::warn!(%error, "{} can't be written", paths::FORMATS),
            }
        }
        let Some(command) = due(&node, &state) else { continue };
        if refused.as_ref() == Some(&command) {
            continue;
        }
        match proposals::propose(&node, command.clone(), node.attempt_time()).await {
            Ok(Outcome::Refused(refusal)) => {
                tracing::warn!(%refusal, "what this node understands is not taken");
                refused = Some(command);
            }
            Ok(_) => refused = None,
            Err(error) => tracing::debug!(%error, "promise not decided"),
        }
    }
}

/// The promise to be made now.
fn due(node: &Node, state: &ClusterState) -> Option<Command> {
    let last = state.promises.get(&node.me)?;
    let Understood { formats, above } = understood(&node.dir)?;
    let is_new = formats != last.formats || above.is_some_and(|above| last.number <= above);
    is_new.then(|| Command::Promise { node: node.me, number: last.number.saturating_add(1), formats })
}

/// `None`: it is not known yet, as the node was welcomed and does not follow the log.
fn in_use(node: &Node, state: &ClusterState) -> Option<InUse> {
    if state.cluster.is_none() {
        let alone = node.cluster().is_none();
        return alone.then(|| InUse { levels: Levels::OLDEST, promised: None, members: Vec::new() });
    }
    let others = state.promises.iter().filter(|(member, _)| **member != node.me);
    let own = state.promises.get(&node.me);
    Some(InUse {
        levels: state.levels(),
        promised: own.map(|promise| Promised { number: promise.number, formats: promise.formats }),
        members: others
            .map(|(member, promise)| MemberFormats { name: state.name_of(*member), formats: promise.formats })
            .collect(),
    })
}

/// Whole or not at all: PID 1 may read it at any moment.
fn tell(path: &Path, in_use: Option<&InUse>) -> io::Result<()> {
    let Some(in_use) = in_use else { return fs::remove_file(path) };
    let fresh = path.with_extension("new");
    fs::write(&fresh, serde_json::to_vec(in_use)?)?;
    fs::rename(&fresh, path)
}
