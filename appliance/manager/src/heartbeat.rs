//! Signs of life, leases and promotions: what a node does every `renew` (S3, S5, S6).
//!
//! Invariants
//! - Clocks are read under the lock, so the policies never see time run backwards.
//! - A lease request is judged by the log as it is after the request came in, uncommitted entries included (S5).
//! - This node's own vote goes the same way as any other.

use crate::clock;
use crate::hand_over;
use crate::messages::{Request, Response};
use crate::node::Node;
use crate::proposals;
use base::{InstanceId, Monotonic, NodeId, Repeats, VolumeId};
use cluster::Command;
use cluster::lease::{Holder, LeaseAnswer, LeaseRequest, LogView, Voter};
use cluster::liveness::Liveness;
use cluster::placement::Placement;
use cluster::promotion::{Policy, View};
use control::api::Answer;
use control::link::{Lease, Report, ToStorage};
use control::settings::Timing;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

/// What this node knows of the others' lives, and its own lease.
pub(crate) struct Heart {
    inner: Mutex<Inner>,
    wake: Notify,
}

struct Inner {
    voter: Voter,
    holder: Holder,
    liveness: Liveness,
    policy: Policy,
    placement: Placement,
    reports: BTreeMap<NodeId, Report>,
    told: Option<Lease>,
    refusals: Repeats<NodeId>,
}

/// What the heart knows of the others, for status.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse {
    /// A majority of the voters hears this node, and it hears them.
    pub(crate) quorum: bool,
    /// Per live peer, what its storage process said last, if there is one.
    pub(crate) alive: BTreeMap<NodeId, Option<Report>>,
}

impl Heart {
    /// The heart of node `me`; `incarnation` is this start.
    pub(crate) fn new(me: NodeId, incarnation: InstanceId, timing: Timing) -> Self {
        let inner = Inner {
            voter: Voter::new(me, timing),
            holder: Holder::new(me, incarnation, timing),
            liveness: Liveness::new(timing, clock::now().boot),
            policy: Policy::new(me, timing),
            placement: Placement::new(me, timing),
            reports: BTreeMap::new(),
            told: None,
            refusals: Repeats::default(),
        };
        Self { inner: Mutex::new(inner), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Beats at once: something changed that a lease or a promotion waits for.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// The state of the others.
    pub(crate) fn pulse(&self, members: impl IntoIterator<Item = NodeId>) -> Pulse {
        let inner = self.lock();
        let now = clock::now().boot;
        let alive = members
            .into_iter()
            .filter(|node| inner.liveness.alive(*node, now))
            .map(|node| (node, inner.reports.get(&node).cloned()))
            .collect();
        Pulse { quorum: inner.holder.quorum(now), alive }
    }

    /// The storage process of a live peer.
    pub(crate) fn storage_of(&self, node: NodeId) -> Option<InstanceId> {
        let inner = self.lock();
        inner.liveness.instance(node, clock::now().boot)
    }
}

/// Beats for ever.
pub(crate) async fn run(node: Arc<Node>) {
    let mut every = interval(node.timing.renew);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = node.heart.wake.notified() => {}
        }
        beat(&node);
    }
}

/// One round of requests, and of promotions to propose.
fn beat(node: &Arc<Node>) {
    let applied = node.log.applied();
    if !applied.state.members.contains_key(&node.me) {
        return;
    }
    let (instance, report) = node.storage.current();
    let volumes = served_by(&applied.state, node.me, instance);
    let (requests, proposals, gathering) = {
        let mut guard = node.heart.lock();
        let inner = &mut *guard;
        let now = clock::now();
        let voters = node.log.view().voters.clone();
        let members = applied.state.members.keys().copied();
        let mut requests = inner.holder.poll_requests(now, members, &voters, instance, &volumes);
        if let Some(own) = requests.iter().position(|(to, _)| *to == node.me) {
            let (_, request) = requests.swap_remove(own);
            let answer = inner.judge(node, &request, now.boot);
            inner.holder.handle_answer(&answer, now);
        }
        inner.tell_lease(node, now.boot);
        let view = View {
            now: now.boot,
            state: &applied.state,
            report: report.as_ref(),
            liveness: &inner.liveness,
            peers: &inner.reports,
        };
        let proposals = inner.policy.poll(view);
        (requests, proposals, inner.placement.poll(now.boot, &applied.state))
    };
    if let Some((volume, to)) = gathering {
        gather(node, &applied.state, volume, to);
    }
    let report = report.map(|mut report| {
        report.problems.extend(node.machine_problems());
        report
    });
    for (to, lease) in requests {
        let (node, report) = (node.clone(), report.clone());
        tokio::spawn(async move { ask(&node, to, lease, report).await });
    }
    for proposal in proposals {
        tracing::info!(?proposal, "proposing a promotion");
        let node = node.clone();
        tokio::spawn(async move {
            // One attempt: the policy proposes again, if it still should.
            let patience = node.attempt_time();
            match proposals::propose(&node, Command::Propose(proposal), patience).await {
                Ok(outcome) => tracing::info!(?outcome, "promotion decided"),
                Err(error) => tracing::warn!(%error, "promotion not decided"),
            }
        });
    }
}

/// Hands this node's volumes over to the node that serves the others.
fn gather(node: &Arc<Node>, state: &cluster::ClusterState, volume: VolumeId, to: NodeId) {
    let Some(entry) = state.volumes.get(&volume) else { return };
    let (node, volume, to) = (node.clone(), entry.name.clone(), state.name_of(to));
    tracing::info!(volume, to, "volumes are served by two nodes: handing over");
    tokio::spawn(async move {
        match hand_over::run(&node, &volume, Some(&to)).await {
            Answer::Done => {}
            other => tracing::warn!(?other, volume, to, "not handed over"),
        }
    });
}

/// The volumes that the committed state gives to this node's present storage process (S6).
fn served_by(state: &cluster::ClusterState, me: NodeId, instance: Option<InstanceId>) -> Vec<VolumeId> {
    let Some(instance) = instance else { return Vec::new() };
    let configs = state.volumes.values().map(|entry| &entry.config);
    configs
        .filter(|config| config.primary == Some(me) && config.primary_instance == instance)
        .map(|config| config.volume)
        .collect()
}

async fn ask(node: &Node, to: NodeId, lease: LeaseRequest, report: Option<Report>) {
    let time_out = node.timing.lease;
    match node.peers.call(to, Request::Heartbeat { lease, report }, time_out).await {
        Ok(Response::Heartbeat(answer)) if answer.from == to => {
            let mut inner = node.heart.lock();
            let now = clock::now();
            inner.holder.handle_answer(&answer, now);
            inner.tell_lease(node, now.boot);
        }
        Ok(Response::Refused(reason)) => tracing::debug!(node = %to, reason, "heartbeat refused"),
        Ok(_) => {
            let mut inner = node.heart.lock();
            if let Some(unsaid) = inner.refusals.ask(&to, "", clock::now().boot) {
                tracing::warn!(node = %to, unsaid, "heartbeat answered with something else");
            }
        }
        Err(error) => tracing::debug!(%error, "heartbeat"),
    }
}

/// A peer's heartbeat came in.
pub(crate) fn handle(node: &Node, from: NodeId, lease: &LeaseRequest, report: Option<Report>) -> Response {
    if lease.from != from {
        return Response::Refused(format!("node {from} speaks for node {}", lease.from));
    }
    let state = node.log.applied().state;
    if state.cluster.is_some() && !state.members.contains_key(&node.me) {
        // Whoever still takes it for a voter must not count it.
        return Response::Refused(format!("{} is no member of the cluster", node.settings.name));
    }
    let mut inner = node.heart.lock();
    let now = clock::now().boot;
    inner.liveness.handle_request(lease, now);
    match report {
        Some(report) => inner.reports.insert(from, report),
        None => inner.reports.remove(&from),
    };
    Response::Heartbeat(inner.judge(node, lease, now))
}

impl Inner {
    /// S5: grants by the whole log, read now.
    fn judge(&mut self, node: &Node, request: &LeaseRequest, now: Monotonic) -> LeaseAnswer {
        let view = node.log.view();
        self.voter.handle_request(request, LogView { state: &view.state, voters: &view.voters }, now)
    }

    /// Tells storage the present lease, if it is another than the last one told.
    fn tell_lease(&mut self, node: &Node, now: Monotonic) {
        let Some(lease) = self.holder.lease(now) else {
            self.told = None;
            return;
        };
        let ended = |lease: &Lease| lease.volumes.is_empty();
        let same = self.told.as_ref().is_some_and(|told| {
            *told == lease || (told.instance == lease.instance && ended(told) && ended(&lease))
        });
        if !same {
            self.told = Some(lease.clone());
            node.storage.tell(lease.instance, ToStorage::Lease(lease));
        }
    }
}
