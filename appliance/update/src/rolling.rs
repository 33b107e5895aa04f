//! A rolling update: one node after the other takes the release, and hosts notice no more than a hand-over.
//!
//! [`Rolling`] looks at the cluster ([`View`]) again and again and says what to do next. Steps of each node, in [`STEPS`]:
//! the release is installed, the volumes that it serves are handed over, it restarts, and it is back in sync with
//! the new release. Data nodes that serve nothing come first, then those that serve, witnesses last.
//!
//! # Invariants
//!
//! - Nothing is done to a node unless all members that are not left out answer, all are online, a majority is there, and
//!   every copy of every volume is in sync, in two views in a row ([`VIEWS`]). So whatever goes wrong with a node, the others still run the release that they ran.
//! - A node restarts only when it serves nothing, in a cluster that keeps its majority without it: three vote.
//! - Nothing is done to a node unless all that took the release before it still run it, from the start that they came back
//!   with, and it has proved itself there: a release that comes up and fails later stops at the first node.
//! - The first thing that goes wrong ends it, for good: a new [`Rolling`] goes on where it stopped, as nodes that run the
//!   release are left alone.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use control::api::{ClusterStatus, Status, VolumeState, VolumeStatus};
use control::settings::Role;
use control::update::{Installation, NodeProgress, NodeStep, UpdateStatus};
use core::time::Duration;

/// What is seen of the cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Each node with the cluster's state as it has it; a node that does not answer is missing.
    pub statuses: BTreeMap<String, Status>,
    /// Each node with what it says of its releases, likewise.
    pub nodes: BTreeMap<String, UpdateStatus>,
}

impl View {
    /// Of the one node that says that it leads.
    fn of_leader(&self) -> Option<&Status> {
        let leads = |(name, status): &(&String, &Status)| {
            status.cluster.as_ref().is_some_and(|c| c.quorum && c.leader.as_ref() == Some(*name))
        };
        let mut leaders = self.statuses.iter().filter(leads);
        let (_, leader) = leaders.next()?;
        leaders.next().is_none().then_some(leader)
    }

    /// The state to act on: the leader's, else one of a node with a majority, else any.
    fn status(&self) -> Option<&Status> {
        let has_majority = |status: &&Status| status.cluster.as_ref().is_some_and(|c| c.quorum);
        let others = || self.statuses.values().find(has_majority).or_else(|| self.statuses.values().next());
        self.of_leader().or_else(others)
    }

    /// As [`whole`] has it: for the leader, else for all that answer.
    fn is_whole(&self) -> Result<(), String> {
        match self.of_leader() {
            Some(status) => whole(status),
            None if self.statuses.is_empty() => Err("no node tells the cluster's state".to_owned()),
            None => self.statuses.values().try_for_each(whole),
        }
    }

    /// The volumes that the node serves as anybody has it: one that was handed over is known to all.
    fn served<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a VolumeStatus> {
        self.statuses.values().flat_map(move |status| served(status, node))
    }
}

/// Whether a console that says `status` is one of the cluster's; or why not.
fn belongs(cluster: &ClusterStatus, status: &Status) -> Result<(), String> {
    let node = &status.node;
    let own = status.cluster.as_ref().ok_or_else(|| format!("node {node} is in no cluster"))?;
    if own.id != cluster.id {
        return Err(format!("node {node} is in another cluster, {}, not in {}", own.id, cluster.id));
    }
    if !cluster.members.iter().any(|member| member.name == *node) {
        return Err(format!("node {node} is no member of the cluster"));
    }
    Ok(())
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing; why, for people.
    Wait(String),
    /// This; whoever does it tells [`Rolling::handle_failure`] if it was not done.
    Do(Order),
    /// Every node runs the release.
    Finished,
    /// It has ended before that; why.
    Stopped(String),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Send the update to a node and have it installed.
    Install {
        /// Its name.
        node: String,
    },
    /// Move a volume to a peer that is in sync.
    HandOver {
        /// Its name.
        volume: String,
        /// The peer's.
        to: String,
    },
    /// Restart a node's machine.
    Restart {
        /// Its name.
        node: String,
    },
}

/// A step of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Install,
    HandOver,
    Restart,
    Prove,
    Return,
}

/// A row of the plan.
struct Row {
    step: Step,
    /// For people.
    shown: NodeStep,
    /// The cluster must be whole before it begins.
    whole: bool,
    /// How long it may take.
    patience: Duration,
    /// What is waited for, after the node's name.
    waiting: &'static str,
    /// What people can do when it has been given up, after the reason.
    advice: &'static str,
}

const MINUTE: Duration = Duration::from_secs(60);

/// What each node goes through.
const STEPS: [Row; 5] = [
    Row {
        step: Step::Install,
        shown: NodeStep::Installing,
        whole: true,
        patience: MINUTE.saturating_mul(30),
        waiting: "does not have the release installed",
        advice: "",
    },
    Row {
        step: Step::HandOver,
        shown: NodeStep::HandingOver,
        whole: true,
        patience: MINUTE.saturating_mul(10),
        waiting: "still serves",
        advice: "",
    },
    Row {
        step: Step::Restart,
        shown: NodeStep::Restarting,
        whole: true,
        patience: MINUTE.saturating_mul(30),
        waiting: "does not come back",
        advice: "",
    },
    Row {
        step: Step::Prove,
        shown: NodeStep::Proving,
        whole: false,
        patience: MINUTE.saturating_mul(30),
        waiting: "has not proved the release",
        advice: ". Three restarts of the node go back to the release before",
    },
    // A resync may be long.
    Row {
        step: Step::Return,
        shown: NodeStep::Returning,
        whole: false,
        patience: MINUTE.saturating_mul(24 * 60),
        waiting: "is not back in sync",
        advice: "",
    },
];

/// A hand-over is asked for again after this long, if another volume is left: one moves all of its node.
const HAND_OVER_AGAIN: Duration = Duration::from_secs(15);

/// How long the cluster may take to be whole before something is done.
const WHOLE_PATIENCE: Duration = MINUTE.saturating_mul(5);

/// With fewer one member votes alone (`manager`'s membership), and nobody writes while that one restarts. The third member
/// that joins does not vote at once.
const VOTERS: usize = 3;

/// So many views in a row, each later than the step's beginning and the last order, have to show that the cluster is whole:
/// one alone may be from before.
const VIEWS: u32 = 2;

/// How far the present step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing was done for it yet.
    Due,
    /// Its order was given, then.
    Ordered(Duration),
}

/// The update of one cluster to one release. Times are since its beginning.
#[derive(Debug)]
pub struct Rolling {
    release: String,
    /// Who has still to go through [`STEPS`]; the first one is at it.
    nodes: Vec<String>,
    step: usize,
    progress: Progress,
    since: Duration,
    /// The start of the present node's machine when its last order was given.
    boot: String,
    /// Views in a row, see [`VIEWS`].
    views: u32,
    /// The cluster's id.
    cluster: String,
    /// Members that are not left out: who has to answer.
    members: Vec<String>,
    /// Each node that took the release, or had it, with the start of its machine since then.
    updated: BTreeMap<String, String>,
    stopped: Option<String>,
}

impl Rolling {
    /// Plans it; or why it can't begin. `without` are members that somebody else updates. A cluster that is not whole is
    /// waited for by [`Rolling::poll`].
    pub fn plan(release: &str, view: &View, without: &BTreeSet<String>) -> Result<Self, String> {
        let status = view.status().ok_or("no node tells the cluster's state")?;
        let cluster = status.cluster.as_ref().ok_or("the node is in no cluster: update it by itself")?;
        if cluster.members.len() < VOTERS {
            return Err(too_few(cluster.members.len()));
        }
        for (name, status) in &view.statuses {
            belongs(cluster, status).and_then(|()| is_named(name, status))?;
        }
        for name in without {
            if !cluster.members.iter().any(|member| member.name == *name) {
                return Err(format!("there is no node {name} to leave out"));
            }
        }
        let mut members: Vec<_> =
            cluster.members.iter().filter(|member| !without.contains(&member.name)).collect();
        members.sort_by_key(|member| (member.role == Role::Witness, member.serving, member.name.clone()));
        let names = members.iter().map(|member| member.name.clone()).collect();
        let mut nodes = Vec::new();
        let mut updated = BTreeMap::new();
        for member in members {
            let name = &member.name;
            let node = view.nodes.get(name).ok_or_else(|| {
                format!("the console of node {name} ({}) does not answer, or is not known", member.address)
            })?;
            if node.slots.is_none() {
                return Err(format!("node {name} did not start from an appliance's disk: leave it out"));
            }
            if node.running == release {
                updated.insert(name.clone(), node.boot.clone());
            } else {
                nodes.push(name.clone());
            }
        }
        Ok(Self {
            release: release.to_owned(),
            nodes,
            step: 0,
            progress: Progress::Due,
            since: Duration::ZERO,
            boot: String::new(),
            views: 0,
            cluster: cluster.id.clone(),
            members: names,
            updated,
            stopped: None,
        })
    }

    /// Nodes that have still to take the release, in their order.
    #[must_use]
    pub fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// How far each node is that is not left out.
    #[must_use]
    pub fn progress(&self) -> Vec<NodeProgress> {
        let row = STEPS.get(self.step).filter(|_| self.step > 0 || self.progress != Progress::Due);
        let step = |name: &String| match self.nodes.iter().position(|node| node == name) {
            None => NodeStep::Updated,
            Some(0) => row.map_or(NodeStep::Waiting, |row| row.shown),
            Some(_) => NodeStep::Waiting,
        };
        self.members.iter().map(|name| NodeProgress { name: name.clone(), step: step(name) }).collect()
    }

    /// Who is to lead on before `node`, which has led so far, is updated itself: one that has the release, else the one
    /// whose turn comes last.
    #[must_use]
    pub fn successor(&self, node: &str) -> Option<&str> {
        let updated = self.updated.keys().find(|name| *name != node);
        let last = || self.nodes.iter().rev().find(|name| *name != node);
        updated.or_else(last).map(|name| name.as_str())
    }

    /// The order that was given last was not carried out.
    pub fn handle_failure(&mut self, reason: &str) {
        let node = self.nodes.first().map_or("", |node| node.as_str());
        self.stopped.get_or_insert_with(|| format!("node {node}: {reason}"));
    }

    /// What to do now.
    pub fn poll(&mut self, view: &View, now: Duration) -> Decision {
        if self.stopped.is_none() {
            self.stopped = self.stranger(view).or_else(|| self.relapse(view));
        }
        self.views = if self.is_ready(view).is_ok() { self.views.saturating_add(1) } else { 0 };
        loop {
            if let Some(reason) = &self.stopped {
                return Decision::Stopped(reason.clone());
            }
            let Some(node) = self.nodes.first().cloned() else { return Decision::Finished };
            let Some(row) = STEPS.get(self.step) else {
                self.nodes.remove(0);
                self.enter(0, now);
                continue;
            };
            match self.look(row, &node, view) {
                Look::Done => {
                    if row.step == Step::Restart
                        && let Some(seen) = view.nodes.get(&node)
                    {
                        self.updated.insert(node, seen.boot.clone());
                    }
                    self.enter(self.step.saturating_add(1), now);
                }
                Look::Wrong(reason) => self.stopped = Some(reason),
                Look::Waiting(why) => return self.wait(row, &node, view, now, why),
            }
        }
    }

    fn enter(&mut self, step: usize, now: Duration) {
        self.step = step;
        self.progress = Progress::Due;
        self.since = now;
        self.views = 0;
    }

    /// The step is not done: its order is due, or somebody has to wait.
    fn wait(&mut self, row: &Row, node: &str, view: &View, now: Duration, why: String) -> Decision {
        let waited = now.saturating_sub(self.since);
        let due = match self.progress {
            Progress::Due => true,
            Progress::Ordered(at) => row.step == Step::HandOver && now.saturating_sub(at) >= HAND_OVER_AGAIN,
        };
        if due
            && row.whole
            && let Err(obstacle) = self.is_ready(view)
        {
            if waited >= WHOLE_PATIENCE {
                return self.stop(format!("nothing more was done to node {node}: {obstacle}"));
            }
            return Decision::Wait(obstacle);
        }
        if due && row.whole && self.views < VIEWS {
            return Decision::Wait("the cluster is whole; it is looked at once more".to_owned());
        }
        if waited >= row.patience {
            let minutes = row.patience.as_secs() / 60;
            let Row { waiting, advice, .. } = row;
            return self.stop(format!("node {node} {waiting} after {minutes} minutes: {why}{advice}"));
        }
        match self.order(row.step, node, view) {
            Some(order) if due => {
                self.progress = Progress::Ordered(now);
                self.views = 0;
                if let Some(seen) = view.nodes.get(node) {
                    self.boot.clone_from(&seen.boot);
                }
                Decision::Do(order)
            }
            _ => Decision::Wait(why),
        }
    }

    /// Why a node that has the release does not go on with it, if one does not.
    fn relapse(&self, view: &View) -> Option<String> {
        self.updated.iter().find_map(|(name, boot)| {
            let seen = view.nodes.get(name)?;
            if seen.running != self.release {
                return Some(format!(
                    "node {name} runs release {} again: release {} did not last there. Nothing more was done",
                    seen.running, self.release
                ));
            }
            (seen.boot != *boot).then(|| {
                format!("node {name} has restarted with release {}. Nothing more was done", self.release)
            })
        })
    }

    /// Why a console that answers is not the one that it was, if one is not.
    fn stranger(&self, view: &View) -> Option<String> {
        view.statuses.iter().find_map(|(name, status)| {
            let named = is_named(name, status).err();
            let id = status.cluster.as_ref().map(|cluster| &cluster.id).filter(|id| **id != self.cluster);
            named.or_else(|| id.map(|id| format!("node {name} is in another cluster now, {id}")))
        })
    }

    /// All is whole, as all members that are not left out have answered; or what is missing.
    fn is_whole(&self, view: &View) -> Result<(), String> {
        view.is_whole()?;
        // One that has just started may know of no cluster.
        let told = |name: &String| view.statuses.get(name).is_some_and(|status| status.cluster.is_some());
        let silent = |name: &&String| !told(name) || !view.nodes.contains_key(*name);
        match self.members.iter().find(silent) {
            None => Ok(()),
            Some(name) => Err(format!("node {name} does not answer")),
        }
    }

    /// It is whole, and the release has proved itself on every node that has it; or what is missing.
    fn is_ready(&self, view: &View) -> Result<(), String> {
        self.is_whole(view)?;
        self.updated.keys().try_for_each(|name| is_proved(name, view))
    }

    fn stop(&mut self, reason: String) -> Decision {
        self.stopped = Some(reason.clone());
        Decision::Stopped(reason)
    }

    fn order(&self, step: Step, node: &str, view: &View) -> Option<Order> {
        match step {
            Step::Install => Some(Order::Install { node: node.to_owned() }),
            Step::HandOver => {
                let volume = served(view.status()?, node).next()?;
                let to = volume.in_sync.iter().find(|peer| *peer != node)?.clone();
                Some(Order::HandOver { volume: volume.name.clone(), to })
            }
            Step::Restart => view.nodes.contains_key(node).then(|| Order::Restart { node: node.to_owned() }),
            Step::Prove | Step::Return => None,
        }
    }

    /// Whether the step is done.
    fn look(&self, row: &Row, node: &str, view: &View) -> Look {
        let Some(seen) = view.nodes.get(node) else {
            return Look::Waiting(format!("node {node} does not answer"));
        };
        match row.step {
            Step::Install => self.look_at_installation(node, seen),
            Step::HandOver => match (view.served(node).next(), self.is_whole(view)) {
                (None, Ok(())) => Look::Done,
                (None, Err(obstacle)) => Look::Waiting(obstacle),
                (Some(volume), _) => Look::Waiting(format!("node {node} hands volume {} over", volume.name)),
            },
            Step::Restart if self.progress == Progress::Due => match view.served(node).next() {
                None => Look::Waiting(format!("node {node} is about to restart")),
                Some(volume) => Look::Wrong(format!(
                    "node {node} serves volume {} again: it does not restart",
                    volume.name
                )),
            },
            Step::Restart if seen.boot == self.boot => Look::Waiting(format!("node {node} restarts")),
            Step::Restart if seen.running != self.release => Look::Wrong(format!(
                "node {node} came back with release {}: release {} did not come up there. Nothing was done to the nodes \
                 after it",
                seen.running, self.release
            )),
            Step::Restart => Look::Done,
            Step::Prove => match is_proved(node, view) {
                Ok(()) => Look::Done,
                Err(obstacle) => Look::Waiting(obstacle),
            },
            Step::Return => match self.is_whole(view) {
                Ok(()) => Look::Done,
                Err(obstacle) => Look::Waiting(format!("node {node} is back; {obstacle}")),
            },
        }
    }

    fn look_at_installation(&self, node: &str, seen: &UpdateStatus) -> Look {
        let begun = self.progress != Progress::Due;
        if begun && seen.boot != self.boot {
            return Look::Wrong(format!("node {node} restarted while it installed the release"));
        }
        match &seen.installation {
            Some(Installation::Installed { release }) if *release == self.release => Look::Done,
            Some(Installation::Failed { reason }) if begun => Look::Wrong(format!("node {node}: {reason}")),
            Some(Installation::Writing { percent, .. }) if begun => {
                Look::Waiting(format!("node {node} writes the release: {percent} %"))
            }
            None if begun => Look::Wrong(format!("node {node} took the update and does not install it")),
            _ => Look::Waiting(format!("node {node} checks the update")),
        }
    }
}

/// What a look at a step finds.
enum Look {
    Done,
    Waiting(String),
    Wrong(String),
}

fn is_proved(node: &str, view: &View) -> Result<(), String> {
    let seen = view.nodes.get(node).ok_or_else(|| format!("node {node} does not answer"))?;
    if seen.slots.as_ref().is_some_and(|slots| slots.on_trial) {
        return Err(format!("the release has not proved itself on node {node} yet"));
    }
    Ok(())
}

fn too_few(members: usize) -> String {
    format!(
        "the cluster has {members} of the {VOTERS} nodes that it takes to go on without one: while the node that created it \
         restarts, all I/O stops. Add a witness; or update each node by itself in a maintenance window, with \
         futago ctl update FILE --restart"
    )
}

fn is_named(name: &str, status: &Status) -> Result<(), String> {
    if status.node == name {
        return Ok(());
    }
    Err(format!("the console of node {name} is that of node {} now", status.node))
}

fn served<'a>(status: &'a Status, node: &'a str) -> impl Iterator<Item = &'a VolumeStatus> {
    status.volumes.iter().filter(move |volume| volume.primary.as_deref() == Some(node))
}

/// All members online, enough of them with a vote, a majority there, and every copy of every volume in sync; or what is missing.
fn whole(status: &Status) -> Result<(), String> {
    let cluster = status.cluster.as_ref().ok_or("the node is in no cluster")?;
    if !cluster.quorum {
        return Err("the nodes have no majority".to_owned());
    }
    if let Some(member) = cluster.members.iter().find(|member| !member.online) {
        return Err(format!("node {} is not online", member.name));
    }
    let voters = cluster.members.iter().filter(|member| member.votes).count();
    if voters < VOTERS {
        return Err(format!(
            "only {voters} of {} nodes vote, and it takes {VOTERS} to go on without one",
            cluster.members.len()
        ));
    }
    for volume in &status.volumes {
        let missing = volume.replicas.iter().find(|replica| !volume.in_sync.contains(replica));
        if let Some(resync) = &volume.resync {
            return Err(format!("volume {} is being brought up to date, {} %", volume.name, resync.percent));
        }
        if let Some(missing) = missing {
            return Err(format!("volume {} is not in sync on {missing}", volume.name));
        }
        if volume.state != VolumeState::Healthy {
            return Err(format!("volume {} is not healthy", volume.name));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "rolling_tests.rs"]
mod tests;
