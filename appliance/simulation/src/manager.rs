//! The cluster manager: the real lease, liveness and promotion policy over simulated consensus and messages.

use crate::raft::VOTERS;
use crate::rng::{MS, Nanos};
use crate::world::{Event, NAMES, NODES, ToManager, ToStorage, VOLUME, World, id, index, trace};
use base::{Change, Epoch, InstanceId};
use cluster::lease::{Holder, LeaseAnswer, LeaseRequest, LogView, Voter};
use cluster::liveness::Liveness;
use cluster::promotion::{Policy, View, plan_hand_over};
use cluster::{ClusterState, Command, Outcome, Voters};
use control::link::{Lease, Report};
use std::collections::BTreeMap;

pub(crate) struct Manager {
    pub(crate) incarnation: InstanceId,
    holder: Holder,
    voter: Voter,
    liveness: Liveness,
    policy: Policy,
    /// What is applied here, which lags behind what is committed.
    pub(crate) state: ClusterState,
    applied: usize,
    /// The connected storage process and its last report.
    storage: Option<InstanceId>,
    report: Option<Report>,
    /// What the others' storage processes reported.
    peers: BTreeMap<base::NodeId, Report>,
    leader: Option<usize>,
    /// When to stand for election if no leader is heard before.
    pub(crate) election_at: Nanos,
    next_request_at: Nanos,
    told_epoch: Epoch,
    told_wanted: Option<base::ByteCount>,
    /// The epoch of this node as primary that ended when its machine started.
    ended: Option<Epoch>,
    told_lease: Option<Lease>,
}

/// Between managers.
#[derive(Debug)]
pub(crate) enum Message {
    LeaseRequest(LeaseRequest, Option<Box<Report>>),
    LeaseAnswer(LeaseAnswer),
    /// From a leader: what it has, and what is committed.
    Append {
        term: u64,
        take: usize,
    },
    Appended {
        term: u64,
        matched: usize,
    },
    /// To whom the sender takes for the leader.
    Propose(Command),
}

impl World {
    pub(crate) fn start_manager(&mut self, node: usize) {
        if self.nodes[node].manager.is_some() {
            return;
        }
        let incarnation = InstanceId(self.rng.id());
        let now = self.nodes[node].machine.boot(self.now);
        // What was applied is found anew, from the last snapshot on: any earlier point.
        let commit = self.raft.voters[node].commit;
        let applied = usize::try_from(self.rng.within(commit.min(4) as u64..commit as u64 + 1)).unwrap();
        let voter = &self.raft.voters[node];
        let known = if self.options.ends_uncommitted() { voter.log.len() } else { voter.durable_commit };
        let found = self.raft.state_at(node, known);
        let restarted = self.nodes[node].machine.take_fresh() || self.options.forgets_boot();
        let served = found.config(VOLUME).filter(|config| config.primary == Some(id(node)));
        let ended = served.filter(|_| restarted).map(|config| config.epoch);
        self.raft.voters[node].commit = applied;
        let state = self.raft.state_at(node, applied);
        trace!(
            self,
            "{} manager {incarnation:?} starts, applied {applied} of {commit}, ended {ended:?}", NAMES[node]
        );
        let manager = Manager {
            incarnation,
            holder: Holder::new(id(node), incarnation, self.timing),
            voter: Voter::new(id(node), self.timing),
            liveness: Liveness::new(self.timing, now),
            policy: Policy::new(id(node), self.timing),
            state,
            applied,
            storage: None,
            report: None,
            peers: BTreeMap::new(),
            leader: None,
            election_at: self.now + self.rng.ms(100..1000),
            next_request_at: 0,
            told_epoch: Epoch(0),
            told_wanted: None,
            ended,
            told_lease: None,
        };
        self.nodes[node].manager = Some(manager);
        self.after(0, Event::ManagerTick { node, incarnation });
        self.tell_manager(node, ToManager::Hello);
    }

    pub(crate) fn crash_manager(&mut self, node: usize) {
        if self.nodes[node].manager.take().is_some() {
            trace!(self, "{} manager ends", NAMES[node]);
            let commit = self.raft.voters[node].commit;
            self.raft.crash(node, commit);
        }
    }

    pub(crate) fn manager_tick(&mut self, node: usize, incarnation: InstanceId) {
        let now = self.now;
        match &self.nodes[node].manager {
            Some(manager) if manager.incarnation == incarnation => {}
            _ => return,
        }
        self.after(100 * MS, Event::ManagerTick { node, incarnation });
        self.lead_or_stand(node);
        self.apply_committed(node, false);
        let Some(manager) = &mut self.nodes[node].manager else { return };
        if now >= manager.next_request_at {
            manager.next_request_at = now + 290 * MS;
            self.ask_for_lease(node);
        }
        self.tell_lease(node);
        self.consider_promotion(node);
    }

    /// Raft's periodic work.
    fn lead_or_stand(&mut self, node: usize) {
        let now = self.now;
        if self.raft.voters[node].leads {
            for to in (0..VOTERS).filter(|to| *to != node) {
                self.append_to(node, to);
            }
            return;
        }
        let stands = self.nodes[node].manager.as_ref().is_some_and(|m| now >= m.election_at);
        if !stands || now < self.elections_blocked_until {
            return;
        }
        let up: Vec<bool> = (0..NODES)
            .map(|n| self.nodes[n].manager.is_some() && !self.nodes[n].machine.paused(now))
            .collect();
        let blocked = &self.blocked.cluster;
        let reaches = |a: usize, b: usize| up[b] && blocked[a][b] <= now && blocked[b][a] <= now;
        let elected = self.raft.elect(node, reaches);
        let wait = self.rng.ms(300..1000);
        let Some(manager) = &mut self.nodes[node].manager else { return };
        manager.election_at = now + wait;
        if elected {
            self.was_elected(node);
        }
    }

    fn was_elected(&mut self, node: usize) {
        let Some(manager) = &mut self.nodes[node].manager else { return };
        manager.leader = Some(node);
        trace!(self, "{} leads term {}", NAMES[node], self.raft.voters[node].term);
        self.lead_or_stand(node);
    }

    /// Everyone votes for `node`, if it may lead.
    pub(crate) fn make_leader(&mut self, node: usize) {
        if self.nodes[node].manager.is_some() && self.raft.elect(node, |_, _| true) {
            self.was_elected(node);
        }
    }

    fn append_to(&mut self, leader: usize, to: usize) {
        let term = self.raft.voters[leader].term;
        let take = if self.rng.chance(20) { 1 } else { 100 };
        self.send_message(leader, to, Message::Append { term, take });
    }

    pub(crate) fn send_message(&mut self, from: usize, to: usize, message: Message) {
        let late =
            if matches!(message, Message::Propose(_)) { self.scenario.late_proposal_permille } else { 10 };
        if from != to && self.rng.permille(self.scenario.lost_message_permille) {
            return;
        }
        let delay = if from == to { 0 } else { self.rng.delay(0..5, late, 5..3000) };
        // Now and then a proposal is also carried over later, by a retry that nobody waits for any more.
        if let Message::Propose(command) = &message
            && self.rng.permille(self.scenario.late_proposal_permille)
        {
            let again = Box::new(Message::Propose(command.clone()));
            let later = self.rng.ms(100..6000);
            self.after(later, Event::Message { from, to, message: again });
        }
        self.after(delay, Event::Message { from, to, message: Box::new(message) });
    }

    pub(crate) fn message_arrives(&mut self, from: usize, to: usize, message: Message) {
        if from != to && self.blocked.cluster[from][to] > self.now {
            return;
        }
        let clocks = self.nodes[to].machine.clocks(self.now);
        if self.nodes[to].manager.is_none() {
            return;
        }
        match message {
            Message::LeaseRequest(request, report) => self.vote(to, &request, report),
            Message::LeaseAnswer(answer) => {
                let Some(manager) = &mut self.nodes[to].manager else { return };
                manager.holder.handle_answer(&answer, clocks);
                self.tell_lease(to);
            }
            Message::Append { term, take } => {
                let Some((answer, matched)) = self.raft.append(from, term, to, take) else { return };
                let wait = self.rng.ms(500..1000);
                let Some(manager) = &mut self.nodes[to].manager else { return };
                if answer == term {
                    manager.leader = Some(from);
                    manager.election_at = self.now + wait;
                }
                let term = answer;
                self.send_message(to, from, Message::Appended { term, matched });
                self.apply_committed(to, true);
            }
            Message::Appended { term, matched } => {
                let before = self.raft.voters[to].commit;
                self.raft.appended(to, from, term, matched);
                self.apply_committed(to, true);
                if self.raft.voters[to].commit > before {
                    for peer in (0..VOTERS).filter(|peer| *peer != to) {
                        self.append_to(to, peer);
                    }
                }
            }
            Message::Propose(command) => {
                let for_itself = matches!(&command, Command::Propose(proposal)
                    if proposal.id.proposer == id(to) && proposal.change == Change::Promote);
                if self.raft.propose(to, command) {
                    if for_itself {
                        self.may_hit_candidate(to);
                    }
                    for peer in (0..VOTERS).filter(|peer| *peer != to) {
                        self.append_to(to, peer);
                    }
                }
            }
        }
    }

    /// Puts a command before the leader, if one is known.
    pub(crate) fn propose(&mut self, node: usize, command: Command) {
        trace!(self, "{} proposes {command:?}", NAMES[node]);
        let Some(leader) = self.nodes[node].manager.as_ref().and_then(|m| m.leader) else { return };
        self.send_message(node, leader, Message::Propose(command));
    }

    /// Applies what is known to be committed, sometimes only part of it.
    fn apply_committed(&mut self, node: usize, may_lag: bool) {
        if self.now < self.nodes[node].apply_paused_until || may_lag && self.rng.chance(30) {
            return;
        }
        let Some(manager) = &mut self.nodes[node].manager else { return };
        let voter = &self.raft.voters[node];
        let mut refused = Vec::new();
        while manager.applied < voter.commit {
            let entry = &voter.log[manager.applied];
            manager.applied += 1;
            let Some(command) = &entry.command else { continue };
            let outcome = manager.state.apply(command);
            if let Command::Propose(proposal) = command
                && proposal.id.proposer == id(node)
                && !matches!(proposal.change, base::Change::Promote)
                && matches!(outcome, Outcome::Refused(_) | Outcome::Repeated { made: None })
            {
                refused.push((proposal.id.instance, proposal.id.number));
            }
        }
        for (instance, number) in refused {
            let delay = self.link_delay(node);
            self.after(delay, Event::ToStorage { node, instance, message: ToStorage::Refused(number) });
        }
        self.tell_config(node);
        self.consider_promotion(node);
    }

    fn tell_config(&mut self, node: usize) {
        let Some(manager) = &mut self.nodes[node].manager else { return };
        let (Some(instance), Some(entry)) = (manager.storage, manager.state.volumes.get(&VOLUME)) else {
            return;
        };
        let (config, wanted) = (&entry.config, entry.wanted_size);
        if config.epoch <= manager.told_epoch && wanted == manager.told_wanted {
            return;
        }
        manager.told_epoch = config.epoch;
        manager.told_wanted = wanted;
        let message = ToStorage::Config(config.clone(), wanted, manager.ended);
        trace!(self, "{} tells storage {message:?}", NAMES[node]);
        let delay = self.link_delay(node);
        self.after(delay, Event::ToStorage { node, instance, message });
    }

    fn ask_for_lease(&mut self, node: usize) {
        let clocks = self.nodes[node].machine.clocks(self.now);
        let Some(manager) = &mut self.nodes[node].manager else { return };
        let mine = |instance: &InstanceId| {
            manager
                .state
                .config(VOLUME)
                .is_some_and(|c| c.primary == Some(id(node)) && c.primary_instance == *instance)
        };
        let wanted: Vec<_> = manager.storage.filter(mine).map(|_| VOLUME).into_iter().collect();
        let members = (0..NODES).map(id);
        let requests = manager.holder.poll_requests(clocks, members, &all_voters(), manager.storage, &wanted);
        let report = manager.report.clone().map(Box::new);
        for (to, request) in requests {
            self.send_message(node, index(to), Message::LeaseRequest(request, report.clone()));
        }
    }

    fn vote(&mut self, node: usize, request: &LeaseRequest, report: Option<Box<Report>>) {
        let now = self.nodes[node].machine.boot(self.now);
        let careless = self.options.ignores_uncommitted();
        let Some(manager) = &mut self.nodes[node].manager else { return };
        let uncommitted =
            self.raft.voters[node].log[manager.applied..].iter().filter_map(|e| e.command.as_ref());
        let ahead =
            if careless { manager.state.clone() } else { manager.state.with_uncommitted(uncommitted) };
        let voters = all_voters();
        let answer = manager.voter.handle_request(request, LogView { state: &ahead, voters: &voters }, now);
        if request.from != id(node) {
            manager.liveness.handle_request(request, now);
            match report {
                Some(report) => manager.peers.insert(request.from, *report),
                None => manager.peers.remove(&request.from),
            };
        }
        self.send_message(node, index(request.from), Message::LeaseAnswer(answer));
    }

    fn tell_lease(&mut self, node: usize) {
        let now = self.nodes[node].machine.boot(self.now);
        let Some(manager) = &mut self.nodes[node].manager else { return };
        let Some(lease) = manager.holder.lease(now) else { return };
        // Without volumes its time says nothing.
        let same = |told: &Lease| *told == lease || told.volumes.is_empty() && lease.volumes.is_empty();
        if manager.told_lease.as_ref().is_some_and(same) {
            return;
        }
        manager.told_lease = Some(lease.clone());
        let instance = lease.instance;
        let delay = self.link_delay(node);
        self.after(delay, Event::ToStorage { node, instance, message: ToStorage::Lease(lease) });
    }

    pub(crate) fn manager_hears(&mut self, node: usize, instance: InstanceId, message: ToManager) {
        if self.nodes[node].storage.as_ref().is_none_or(|s| s.instance != instance) {
            // The link broke with the process.
            return;
        }
        let Some(manager) = &mut self.nodes[node].manager else { return };
        match message {
            ToManager::Hello => {
                manager.storage = Some(instance);
                manager.report = None;
                manager.told_epoch = Epoch(0);
                manager.told_lease = None;
                self.tell_config(node);
            }
            ToManager::Report(report) if manager.storage == Some(instance) => {
                manager.report = Some(*report);
                self.consider_promotion(node);
            }
            ToManager::Propose(proposal) => self.propose(node, Command::Propose(proposal)),
            ToManager::Report(_) => {}
        }
    }

    /// The link to the storage process is gone.
    pub(crate) fn link_lost(&mut self, node: usize) {
        if let Some(manager) = &mut self.nodes[node].manager {
            manager.storage = None;
            manager.report = None;
        }
    }

    fn consider_promotion(&mut self, node: usize) {
        let now = self.nodes[node].machine.boot(self.now);
        let Some(manager) = &mut self.nodes[node].manager else { return };
        let view = View {
            now,
            state: &manager.state,
            report: manager.report.as_ref(),
            liveness: &manager.liveness,
            peers: &manager.peers,
        };
        for proposal in manager.policy.poll(view) {
            self.propose(node, Command::Propose(proposal));
        }
    }

    /// An administrator wants the next larger size, or a node has no room for it after all (S22).
    pub(crate) fn ask_for_growth(&mut self) {
        let node = usize::try_from(self.rng.within(0..2)).unwrap();
        let Some(entry) = self.committed.volumes.get(&VOLUME) else { return };
        let command = match (entry.wanted_size, self.scenario.larger(entry.config.size)) {
            (Some(size), _) if self.rng.chance(50) => {
                Command::EndGrowth { volume: VOLUME, size, reason: "no room".into() }
            }
            (None, Some(size)) => Command::GrowVolume { name: "demo".into(), size },
            _ => return,
        };
        self.propose(node, command);
    }

    /// An administrator asks for a hand-over, at the primary's node.
    pub(crate) fn ask_for_hand_over(&mut self) {
        let storage_of = |node: base::NodeId| self.nodes[index(node)].storage.as_ref().map(|s| s.instance);
        let Ok(plans) = plan_hand_over(&self.committed, "demo", None, storage_of) else { return };
        // The simulated cluster has one volume.
        let Some(plan) = plans.first() else { return };
        let node = index(plan.primary);
        let Some(instance) = storage_of(plan.primary) else { return };
        let message = ToStorage::HandOver { to: plan.to, instance: plan.instance };
        let delay = self.link_delay(node);
        self.after(delay, Event::ToStorage { node, instance, message });
    }
}

fn all_voters() -> Voters {
    Voters::new([(0..NODES).map(id).collect()])
}
