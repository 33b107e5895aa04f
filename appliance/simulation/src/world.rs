//! The whole cluster: nodes, messages under way, initiators, faults, and the loop over all of it.

use crate::check::{
    Checked, Liveness, OpId, Registers, Violation, identical, in_sync_hold_everything, violation,
};
use crate::client::{Client, ClientReply, Op};
use crate::disk::Disk;
use crate::machine::Machine;
use crate::manager::{Manager, Message};
use crate::network::Network;
use crate::raft::{Entry, Raft};
use crate::rng::{MS, Nanos, Rng};
use crate::scenario::Scenario;
use crate::storage::Storage;
use crate::{Options, Outcome};
use base::formats::META_VERSION;
use base::{
    ByteCount, ClusterId, Epoch, Formats, InstanceId, NodeId, ReplicaId, SessionId, VolumeConfig, VolumeId,
};
use cluster::{ClusterState, Command};
use control::link::{Lease, Member, Report};
use control::settings::Timing;
use replication::{DiskToken, Identity, Layout};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// The data nodes are 0 (a) and 1 (b), the witness is 2.
pub(crate) const NODES: usize = 3;
pub(crate) const CLUSTER: ClusterId = ClusterId(0xc1);
pub(crate) const VOLUME: VolumeId = VolumeId(0x70);
pub(crate) const NAMES: [&str; NODES] = ["a", "b", "witness"];

/// Hundred times what a run takes: something goes round in a circle.
const MOST_EVENTS: u64 = 2_000_000;

/// How long nothing may be under way before the copies are compared: longer than any message takes then.
const QUIET: Nanos = 1_000 * MS;

/// Id of a node.
pub(crate) fn id(n: usize) -> NodeId {
    NodeId(n as u64 + 1)
}

/// The node of an id.
pub(crate) fn index(node: NodeId) -> usize {
    usize::try_from(node.0 - 1).unwrap()
}

/// What happens next, somewhere. Whom it is for is checked when it happens: a process that has ended gets nothing.
#[derive(Debug)]
pub(crate) enum Event {
    /// One frame of a connection arrives.
    Frame { session: SessionId, to: usize },
    /// An end learns that its connection is gone.
    Closed { session: SessionId, to: usize },
    /// A connection attempt arrives at the other data node.
    Dial { from: usize, instance: InstanceId },
    /// Its answer arrives.
    Dialled { to: usize, instance: InstanceId, session: Option<SessionId> },
    /// A disk operation ends.
    Disk { node: usize, instance: InstanceId, token: DiskToken },
    /// The replica asked for the time.
    Timer { node: usize, instance: InstanceId },
    /// The storage process looks at its clocks and reports.
    StorageTick { node: usize, instance: InstanceId },
    /// The storage process has made room for this size (S22).
    Room { node: usize, instance: InstanceId, size: ByteCount },
    /// A message between managers.
    Message { from: usize, to: usize, message: Box<Message> },
    /// The manager's periodic work.
    ManagerTick { node: usize, incarnation: InstanceId },
    /// Link, manager to storage.
    ToStorage { node: usize, instance: InstanceId, message: ToStorage },
    /// Link, storage to manager.
    ToManager { node: usize, instance: InstanceId, message: ToManager },
    /// A process starts.
    StartStorage { node: usize },
    /// A process starts.
    StartManager { node: usize },
    /// An initiator may send its next request.
    Client { client: usize },
    /// Its request arrives.
    Request { node: usize, instance: InstanceId, op: OpId },
    /// It gives a request up at the target.
    Abort { node: usize, instance: InstanceId, op: OpId },
    /// The answer arrives.
    Reply { op: OpId, reply: ClientReply },
    /// It has waited long enough.
    ClientTimeout { op: OpId },
    /// A process that was told to stop and did not is ended.
    Kill { node: usize, instance: InstanceId },
    /// A new primary, or who is about to be one, starts anew.
    HitSuccessor { node: usize, with_machine: bool },
    /// The next fault.
    Fault { round: u64 },
    /// The checkers look around.
    Check,
}

/// See [`control::link::ToStorage`].
#[derive(Debug)]
pub(crate) enum ToStorage {
    Config(VolumeConfig, Option<ByteCount>, Option<Epoch>),
    Lease(Lease),
    Refused(u64),
    HandOver { to: NodeId, instance: InstanceId },
    Stop,
}

/// See [`control::link::ToCluster`].
#[derive(Debug)]
pub(crate) enum ToManager {
    Hello,
    Report(Box<Report>),
    Propose(base::Proposal),
}

/// One node.
pub(crate) struct Node {
    pub(crate) machine: Machine,
    pub(crate) disk: Disk,
    pub(crate) storage: Option<Storage>,
    pub(crate) manager: Option<Manager>,
    /// The disk takes long until then.
    pub(crate) slow_disk_until: Nanos,
    /// The disk answers nothing until then.
    pub(crate) hung_disk_until: Nanos,
    /// Writes that end before then fail.
    pub(crate) bad_disk_until: Nanos,
    /// Messages between the node's processes take long until then.
    pub(crate) slow_link_until: Nanos,
    /// What is committed is not applied until then.
    pub(crate) apply_paused_until: Nanos,
}

/// Until when nothing passes from one node to another.
#[derive(Default)]
pub(crate) struct Blocked {
    pub(crate) cluster: [[Nanos; NODES]; NODES],
    pub(crate) mirror: [[Nanos; 2]; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Faults happen.
    Chaos,
    /// Everything works again; all must come back.
    Calm(CalmState),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CalmState {
    Recovering,
    /// Recovered; the initiators go on for a while.
    Steady(Nanos),
    /// No new requests; since when nothing is under way.
    Draining(Option<Nanos>),
}

pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) rng: Rng,
    pub(crate) scenario: Scenario,
    pub(crate) timing: Timing,
    pub(crate) now: Nanos,
    queue: BinaryHeap<Reverse<(Nanos, u64)>>,
    events: BTreeMap<u64, Event>,
    count: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) raft: Raft,
    pub(crate) elections_blocked_until: Nanos,
    /// A new primary is left alone until then.
    pub(crate) no_hit_until: Nanos,
    pub(crate) blocked: Blocked,
    pub(crate) network: Network,
    pub(crate) clients: Vec<Client>,
    pub(crate) ops: BTreeMap<OpId, Op>,
    pub(crate) next_op: OpId,
    pub(crate) registers: Registers,
    /// What is truly committed.
    pub(crate) committed: ClusterState,
    committed_len: usize,
    pub(crate) phase: Phase,
    pub(crate) round: u64,
    pub(crate) chaos_until: Nanos,
    pub(crate) liveness: Option<Liveness>,
    pub(crate) failed: Option<Violation>,
    pub(crate) outcome: Outcome,
    trace: VecDeque<String>,
    done: bool,
}

/// Writes a line of the trace; the arguments are only looked at when someone wants to see it.
macro_rules! trace {
    ($world:expr, $($text:tt)*) => {
        if $world.options.trace.wanted() {
            let line = format!($($text)*);
            $world.trace_line(&line);
        }
    };
}
pub(crate) use trace;

impl World {
    pub(crate) fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let scenario = Scenario::draw(&mut rng, options.focus, options.huge);
        let timing = Timing::at_scale(100);
        let commands = founding(&scenario);
        let mut committed = ClusterState::default();
        for command in &commands {
            committed.apply(command);
        }
        let layout = Layout::for_size(scenario.size).unwrap();
        let nodes = (0..NODES).map(|n| new_node(n, &scenario, layout, &mut rng)).collect();
        let mut world = Self {
            timing,
            now: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            count: 0,
            nodes,
            committed_len: commands.len(),
            raft: Raft::new(commands),
            elections_blocked_until: 0,
            no_hit_until: 0,
            blocked: Blocked::default(),
            network: Network::default(),
            clients: (0..scenario.clients).map(|_| Client::default()).collect(),
            ops: BTreeMap::new(),
            next_op: 1,
            registers: Registers::default(),
            committed,
            phase: Phase::Calm(CalmState::Recovering),
            round: 0,
            chaos_until: 0,
            liveness: Some(Liveness::new(0)),
            failed: None,
            outcome: Outcome::default(),
            trace: VecDeque::new(),
            done: false,
            options,
            rng,
            scenario,
        };
        for node in 0..NODES {
            world.after(0, Event::StartManager { node });
            if node < 2 {
                let delay = world.rng.ms(0..200);
                world.after(delay, Event::StartStorage { node });
            }
        }
        for client in 0..world.clients.len() {
            world.after(0, Event::Client { client });
        }
        world.after(0, Event::Check);
        world
    }

    /// Runs to the end, or to the first broken invariant.
    pub(crate) fn run(mut self) -> Outcome {
        while let Some(Reverse((at, number))) = self.queue.pop() {
            let Some(event) = self.events.remove(&number) else { continue };
            self.now = at;
            // A paused node does nothing; what is for it waits.
            if let Some(node) = at_node(&event)
                && self.nodes[node].machine.paused(at)
            {
                let until = self.nodes[node].machine.paused_until;
                self.at(until, event);
                continue;
            }
            self.outcome.events += 1;
            if self.outcome.events > MOST_EVENTS {
                self.judge(violation("engine", format!("no end after {MOST_EVENTS} events")));
            }
            self.handle(event);
            self.learn_commits();
            if self.failed.is_some() || self.done {
                break;
            }
        }
        self.outcome.simulated_ms = self.now / MS;
        let block = |size| Layout::for_size(size).map(|layout| layout.dirty_block_bytes);
        let size = self.committed.config(VOLUME).map_or(self.scenario.size, |config| config.size);
        self.outcome.grown = size > self.scenario.size;
        self.outcome.doubled = block(size) > block(self.scenario.size);
        self.outcome.epochs = self.committed.config(VOLUME).map_or(0, |c| c.epoch.0);
        let Self { mut outcome, failed, trace, .. } = self;
        outcome.violation = failed;
        outcome.trace = trace.into();
        outcome
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Frame { session, to } => self.frame_arrives(session, to),
            Event::Closed { session, to } => self.connection_lost(session, to),
            Event::Dial { from, instance } => self.dial_arrives(from, instance),
            Event::Dialled { to, instance, session } => self.dialled(to, instance, session),
            Event::Disk { node, instance, token } => self.disk_done(node, instance, token),
            Event::Timer { node, instance } => self.timer(node, instance),
            Event::StorageTick { node, instance } => self.storage_tick(node, instance),
            Event::Room { node, instance, size } => self.room_made(node, instance, size),
            Event::Message { from, to, message } => self.message_arrives(from, to, *message),
            Event::ManagerTick { node, incarnation } => self.manager_tick(node, incarnation),
            Event::ToStorage { node, instance, message } => self.storage_hears(node, instance, message),
            Event::ToManager { node, instance, message } => self.manager_hears(node, instance, message),
            Event::StartStorage { node } => self.start_storage(node),
            Event::StartManager { node } => self.start_manager(node),
            Event::Client { client } => self.client_turn(client),
            Event::Request { node, instance, op } => self.request_arrives(node, instance, op),
            Event::Abort { node, instance, op } => self.abort_arrives(node, instance, op),
            Event::Reply { op, reply } => self.reply_arrives(op, reply),
            Event::ClientTimeout { op } => self.client_gives_up(op),
            Event::Kill { node, instance } => self.kill(node, instance),
            Event::HitSuccessor { node, with_machine } => self.hit_successor(node, with_machine),
            Event::Fault { round } => self.next_fault(round),
            Event::Check => self.look_around(),
        }
    }

    pub(crate) fn at(&mut self, time: Nanos, event: Event) {
        self.count += 1;
        self.queue.push(Reverse((time.max(self.now), self.count)));
        self.events.insert(self.count, event);
    }

    pub(crate) fn after(&mut self, delay: Nanos, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(crate) fn trace_line(&mut self, line: &str) {
        let line = format!("{:>11.3} ms  {line}", self.now as f64 / 1e6);
        self.options.trace.keep(&mut self.trace, line);
    }

    /// The first broken invariant ends the run.
    pub(crate) fn judge(&mut self, checked: Checked) {
        let Err(found) = checked else { return };
        trace!(self, "VIOLATION {}: {}", found.invariant, found.text);
        if !self.options.data_only || found.about_data() {
            self.failed.get_or_insert(found);
        } else if found.about_liveness() {
            // Nothing more is to come of this run.
            self.done = true;
        }
    }

    pub(crate) fn config(&self) -> &VolumeConfig {
        self.committed.config(VOLUME).unwrap()
    }

    /// Follows what the voters have truly committed.
    fn learn_commits(&mut self) {
        while let Some(entry) = self.raft.committed.get(self.committed_len) {
            self.committed_len += 1;
            let Entry { command: Some(command), .. } = entry.clone() else { continue };
            let before = self.committed.config(VOLUME).and_then(|config| config.primary);
            let outcome = self.committed.apply(&command);
            trace!(self, "COMMITTED {command:?} -> {outcome:?}");
            if let Some(primary) = self.config().primary.filter(|primary| Some(*primary) != before) {
                self.may_hit_successor(index(primary));
            }
            if let Err(error) = self.committed.validate() {
                self.judge(violation("state", error.to_string()));
            }
            self.check_room();
            self.check_copies();
        }
    }

    /// S22: an epoch of a larger size is committed only when every in-sync copy has room for it.
    fn check_room(&mut self) {
        let config = self.config();
        let without = config.in_sync.iter().find(|node| self.nodes[index(**node)].disk.room() < config.size);
        if let Some(node) = without {
            let text = format!("{} is in sync and has no room for {}", NAMES[index(*node)], config.size);
            self.judge(violation("S22", text));
        }
    }

    /// I4.
    pub(crate) fn check_copies(&mut self) {
        for node in self.config().in_sync.clone() {
            let n = index(node);
            self.judge(in_sync_hold_everything(NAMES[n], &self.nodes[n].disk, &self.registers));
        }
    }

    fn look_around(&mut self) {
        self.check_copies();
        self.after(100 * MS, Event::Check);
        let Phase::Calm(state) = self.phase else { return };
        let Some(liveness) = self.liveness.filter(|liveness| self.now >= liveness.healed()) else { return };
        let everyone = self.config().in_sync == self.config().replicas && self.both_know();
        match state {
            CalmState::Recovering => match liveness.check(self.now, everyone) {
                Ok(false) => {}
                Ok(true) => {
                    let steady = self.rng.ms(100..1500);
                    self.phase = Phase::Calm(CalmState::Steady(self.now + steady));
                    self.outcome.recovered_ms =
                        self.outcome.recovered_ms.max(self.now.saturating_sub(liveness.healed()) / MS);
                }
                Err(found) => self.judge(Err(found)),
            },
            CalmState::Steady(until) if self.now >= until => {
                self.phase = Phase::Calm(CalmState::Draining(None))
            }
            CalmState::Steady(_) => {}
            CalmState::Draining(since) => {
                let idle = self.nodes.iter().all(|n| n.disk.writes_queued() == 0);
                let quiet = self.ops.is_empty() && idle && everyone && self.mirrored();
                self.judge(liveness.check_quiet(self.now, quiet));
                match since {
                    Some(at) if quiet && self.now - at > QUIET => self.round_ends(),
                    Some(_) if quiet => {}
                    _ => self.phase = Phase::Calm(CalmState::Draining(quiet.then_some(self.now))),
                }
            }
        }
    }

    /// Whether the primary's session with its peer is open.
    fn mirrored(&self) -> bool {
        let Some(primary) = self.config().primary else { return false };
        let node = &self.nodes[index(primary)];
        let now = node.machine.boot(self.now);
        node.storage.as_ref().is_some_and(|s| s.replica.status(now).connected)
    }

    /// Whether both replicas act in the committed epoch.
    fn both_know(&self) -> bool {
        let epoch = self.config().epoch;
        let knows = |node: &Node| {
            let now = node.machine.boot(self.now);
            node.storage.as_ref().is_some_and(|s| s.replica.status(now).epoch == epoch)
        };
        self.nodes[..2].iter().all(knows)
    }

    /// All is quiet: copies must be equal (I3). Then the next round of faults, or the end.
    fn round_ends(&mut self) {
        let end = self.config().size.0 / 512;
        self.judge(identical(&self.nodes[0].disk, &self.nodes[1].disk, end));
        trace!(self, "--- quiet, round {} ends ---", self.round);
        if self.round == self.scenario.rounds {
            self.done = true;
            return;
        }
        self.round += 1;
        self.phase = Phase::Chaos;
        self.liveness = None;
        self.outcome.rounds += 1;
        self.begin_chaos();
        for client in 0..self.clients.len() {
            self.after(0, Event::Client { client });
        }
    }
}

/// The node that an event happens at, if it is one that a pause of the node holds up.
fn at_node(event: &Event) -> Option<usize> {
    match event {
        Event::Frame { to, .. } | Event::Closed { to, .. } | Event::Dialled { to, .. } => Some(*to),
        Event::Dial { from, .. } => Some(1 - from),
        Event::Message { to, .. } => Some(*to),
        Event::Disk { node, .. }
        | Event::Timer { node, .. }
        | Event::StorageTick { node, .. }
        | Event::Room { node, .. }
        | Event::ManagerTick { node, .. }
        | Event::ToStorage { node, .. }
        | Event::ToManager { node, .. }
        | Event::StartStorage { node }
        | Event::StartManager { node }
        | Event::Request { node, .. }
        | Event::Abort { node, .. } => Some(*node),
        Event::Client { .. }
        | Event::Kill { .. }
        | Event::HitSuccessor { .. }
        | Event::Reply { .. }
        | Event::ClientTimeout { .. }
        | Event::Fault { .. }
        | Event::Check => None,
    }
}

/// The commands that make the cluster and its volume.
fn founding(scenario: &Scenario) -> Vec<Command> {
    let member = |n: usize| Member {
        node: id(n),
        name: NAMES[n].into(),
        data: n < 2,
        cluster_address: format!("127.0.0.{}:7780", n + 11).parse().unwrap(),
        replication_address: format!("127.0.0.{}:7788", n + 11).parse().unwrap(),
        certificate_sha256: String::new(),
    };
    vec![
        Command::CreateCluster {
            id: CLUSTER,
            portal: "127.0.0.50:3260".parse().unwrap(),
            time_scale_percent: 100,
            first: member(0),
            formats: Formats::CURRENT,
        },
        Command::AddMember { member: member(1), formats: Formats::CURRENT },
        Command::AddMember { member: member(2), formats: Formats::CURRENT },
        Command::CreateVolume {
            id: VOLUME,
            name: "demo".into(),
            size: scenario.size,
            write_back: false,
            presentation: control::targets::Presentation::default(),
        },
    ]
}

/// Who holds the copy on node `n`.
pub(crate) fn identity(n: usize) -> Identity {
    Identity { cluster: CLUSTER, volume: VOLUME, node: id(n), replica: ReplicaId(0x100 + n as u64) }
}

fn new_node(n: usize, scenario: &Scenario, layout: Layout, rng: &mut Rng) -> Node {
    let mut disk = Disk::new(layout.meta_len.0, scenario.size);
    disk.litter(scenario.hot());
    if n < 2 {
        let records =
            replication::format(identity(n), scenario.size, Some(base::Epoch(1)), true, META_VERSION)
                .unwrap();
        for (offset, bytes) in records {
            disk.format(offset, &bytes);
        }
    }
    Node {
        machine: Machine::new(rng),
        disk,
        storage: None,
        manager: None,
        slow_disk_until: 0,
        hung_disk_until: 0,
        bad_disk_until: 0,
        slow_link_until: 0,
        apply_paused_until: 0,
    }
}
