//! Two replicas, simulated disks, a network and a committed register, in one thread.

mod bytes;

pub use bytes::Bytes;

use base::formats::META_VERSION;
use base::{
    ByteCount, Change, ClusterId, Epoch, EpochReason, InstanceId, Lba, Monotonic, NodeId, Proposal,
    ReplicaId, SessionId, Versions, VolumeConfig, VolumeId,
};
use futago_replication::frame::{Frame, HEADER_BYTES, Header, Message};
use futago_replication::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub const SIZE: u64 = 64 << 20;
pub const BLOCK: usize = 4096;

pub struct Node {
    pub id: NodeId,
    pub replica: Option<Replica<Bytes>>,
    pub meta: Vec<u8>,
    pub data: Vec<u8>,
    pub instance: InstanceId,
    pub pending: Vec<(DiskToken, DiskOp<Bytes>)>,
    pub knows: Epoch,
    /// The version that it was told.
    pub version: u16,
    /// The wanted size that it was told.
    pub wants: Option<ByteCount>,
    pub replies: BTreeMap<u64, Result<Answer<Bytes>, RequestError>>,
    pub compares: Vec<(RequestId, Bytes)>,
    pub problems: Vec<Problem>,
    pub hand_over_failed: Vec<String>,
    pub stopped: bool,
    pub read_errors: bool,
    /// Of the data area.
    pub write_errors: bool,
    /// Nothing that the disk is asked for ends by itself.
    pub disk_hangs: bool,
}

/// A frame under way, encoded, and its payload.
pub type Wired = (SessionId, Vec<u8>, Option<Bytes>);

pub struct World {
    pub now: Monotonic,
    pub nodes: Vec<Node>,
    pub config: VolumeConfig,
    /// Committed beside it (S22).
    pub wanted: Option<ByteCount>,
    /// Sent, perhaps more than once, perhaps never to arrive.
    pub proposals: Vec<Proposal>,
    pub sessions: BTreeMap<u64, [usize; 2]>,
    /// Per receiver.
    pub wires: [VecDeque<Wired>; 2],
    pub cut: bool,
    pub no_commits: bool,
    pub sabotage: Sabotage,
    /// The version of the metadata that is in force.
    pub version: u16,
    pub next: u64,
}

pub fn timing() -> Timing {
    let ms = Duration::from_millis;
    Timing { lease: ms(1500), drift: ms(75), renew: ms(300), peer: ms(1000) }
}

pub fn identity(n: usize) -> Identity {
    let id = n as u64 + 1;
    Identity { cluster: ClusterId(7), volume: VolumeId(8), node: NodeId(id), replica: ReplicaId(100 + id) }
}

impl World {
    pub fn new() -> Self {
        Self::of(ByteCount(SIZE))
    }

    pub fn of(size: ByteCount) -> Self {
        let both = BTreeSet::from([NodeId(1), NodeId(2)]);
        let config = VolumeConfig {
            volume: VolumeId(8),
            epoch: Epoch(1),
            primary: None,
            primary_instance: InstanceId(0),
            reason: EpochReason::Created,
            in_sync: both.clone(),
            replicas: both,
            size,
            write_back: false,
        };
        let layout = Layout::for_size(config.size).unwrap();
        let node = |n: usize| {
            let mut meta = vec![0; usize::try_from(layout.meta_len.0).unwrap()];
            for (offset, bytes) in
                format(identity(n), config.size, Some(Epoch(1)), true, META_VERSION).unwrap()
            {
                let at = usize::try_from(offset).unwrap();
                meta[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            Node {
                id: NodeId(n as u64 + 1),
                replica: None,
                meta,
                data: vec![0; usize::try_from(size.0).unwrap()],
                instance: InstanceId(0),
                pending: vec![],
                knows: Epoch(0),
                version: META_VERSION,
                wants: None,
                replies: BTreeMap::new(),
                compares: vec![],
                problems: vec![],
                hand_over_failed: vec![],
                stopped: false,
                read_errors: false,
                write_errors: false,
                disk_hangs: false,
            }
        };
        let mut world = Self {
            now: Monotonic(1_000_000_000),
            nodes: vec![node(0), node(1)],
            config,
            wanted: None,
            proposals: vec![],
            sessions: BTreeMap::new(),
            wires: [VecDeque::new(), VecDeque::new()],
            cut: false,
            no_commits: false,
            sabotage: Sabotage::None,
            version: META_VERSION,
            next: 1000,
        };
        world.start(0);
        world.start(1);
        world
    }

    pub fn draw(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn start(&mut self, n: usize) {
        let instance = InstanceId(self.draw());
        let node = &mut self.nodes[n];
        // Of all releases that may run here the one that understands least: what it was told, and no more.
        let known = Versions { oldest: META_VERSION, newest: node.version };
        let mut recovery = Recovery::new(identity(n), ByteCount(node.meta.len() as u64)).knowing(known);
        while let Some(read) = recovery.wanted() {
            let at = usize::try_from(read.offset).unwrap();
            recovery.supply(node.meta.get(at..at + read.len as usize));
        }
        node.instance = instance;
        node.knows = Epoch(0);
        node.wants = None;
        node.stopped = false;
        node.replica = Some(recovery.finish(Options { instance, timing: timing() }).unwrap());
        self.break_rule(n);
        self.commands(n);
        let version = self.nodes[n].version;
        self.event(n, |r, now| r.handle_version(now, version));
    }

    /// Versions of the records in a node's metadata area.
    pub fn versions(&self, n: usize) -> BTreeSet<u16> {
        let records = self.nodes[n].meta.chunks(RECORD_BYTES).filter(|record| record.starts_with(b"FtgM"));
        records.map(|record| u16::from_le_bytes([record[4], record[5]])).collect()
    }

    #[cfg(feature = "sabotage")]
    pub fn break_rule(&mut self, n: usize) {
        if let Some(replica) = self.nodes[n].replica.as_mut() {
            replica.set_sabotage(self.sabotage);
        }
    }

    #[cfg(not(feature = "sabotage"))]
    pub fn break_rule(&mut self, _: usize) {
        assert_eq!(self.sabotage, Sabotage::None, "needs the feature `sabotage`");
    }

    /// Power cut: `land` says for each pending disk operation whether it reached the disk.
    pub fn crash(&mut self, n: usize, mut land: impl FnMut() -> bool) {
        self.nodes[n].replica = None;
        for (_, op) in std::mem::take(&mut self.nodes[n].pending) {
            if land() {
                self.execute(n, &op);
            }
        }
        self.nodes[n].compares.clear();
        self.proposals.retain(|p| p.id.proposer != NodeId(n as u64 + 1));
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.hang_up(SessionId(session));
        }
    }

    pub fn event(&mut self, n: usize, f: impl FnOnce(&mut Replica<Bytes>, Monotonic)) {
        let now = self.now;
        if let Some(replica) = self.nodes[n].replica.as_mut() {
            f(replica, now);
            self.commands(n);
        }
    }

    pub fn commands(&mut self, n: usize) {
        while let Some(command) = self.nodes[n].replica.as_mut().and_then(Replica::poll_command) {
            self.command(n, command);
        }
        if let Some(replica) = &self.nodes[n].replica {
            assert_eq!(replica.validate(), Ok(()), "node {n}");
        }
        let serving =
            self.nodes.iter().filter(|n| n.replica.as_ref().is_some_and(|r| r.status(self.now).serving));
        assert!(serving.count() <= 1, "I2: two serve");
    }

    fn command(&mut self, n: usize, command: Command<Bytes>) {
        let node = &mut self.nodes[n];
        match command {
            Command::Disk { token, op } => node.pending.push((token, op)),
            Command::Send { session, frame, payload } => {
                if let Some(ends) = self.sessions.get(&session.0) {
                    let to = ends[0] + ends[1] - n;
                    self.wires[to].push_back((session, frame.encode(), payload));
                }
            }
            Command::Reply { id, result } => {
                assert!(node.replies.insert(id.0, result).is_none(), "answered twice")
            }
            Command::Compare { id, data } => node.compares.push((id, data)),
            Command::Propose(proposal) => self.proposals.push(proposal),
            Command::Dial { peer } => self.dial(n, peer),
            Command::Close { session } => {
                // What was said last is heard, unless the wire is cut.
                let to = self.sessions.get(&session.0).map(|ends| ends[0] + ends[1] - n);
                while let Some(to) = to.filter(|to| !self.cut && self.says_goodbye(*to, session)) {
                    self.deliver(to);
                }
                self.hang_up(session);
            }
            Command::Serving(_) => {}
            Command::HandOverFailed(reason) => node.hand_over_failed.push(reason),
            Command::Problem(problem) => node.problems.push(problem),
            Command::Stopped => node.stopped = true,
        }
    }

    /// The last frame on the way to `to` is a refusal of an open session.
    fn says_goodbye(&self, to: usize, session: SessionId) -> bool {
        let last = self.wires[to].back().filter(|(of, _, _)| *of == session);
        last.is_some_and(|(_, bytes, _)| {
            decode(bytes).is_ok_and(|frame| matches!(frame.message, Message::Refuse(_)))
        })
    }

    fn dial(&mut self, n: usize, peer: NodeId) {
        let other = 1 - n;
        let now = self.now;
        if self.cut || self.nodes[other].replica.is_none() {
            self.nodes[n].replica.as_mut().unwrap().handle_dial_failed(now, peer);
            return;
        }
        let session = SessionId(self.draw());
        self.sessions.insert(session.0, [n, other]);
        self.nodes[n].replica.as_mut().unwrap().handle_session_opened(now, peer, session, true);
        let me = self.nodes[n].id;
        self.nodes[other].replica.as_mut().unwrap().handle_session_opened(now, me, session, false);
    }

    pub fn hang_up(&mut self, session: SessionId) {
        if self.sessions.remove(&session.0).is_some() {
            for n in 0..2 {
                // What is on the wire may still be read: the receiver must not obey it after the close.
                if let Some(replica) = self.nodes[n].replica.as_mut() {
                    replica.handle_session_closed(self.now, session);
                }
            }
            self.commands(0);
            self.commands(1);
        }
    }

    fn execute(&mut self, n: usize, op: &DiskOp<Bytes>) -> DiskResult<Bytes> {
        let node = &mut self.nodes[n];
        let at = |offset: &u64| usize::try_from(*offset).unwrap();
        match op {
            DiskOp::WriteMeta { offset, bytes } => {
                node.meta[at(offset)..at(offset) + bytes.len()].copy_from_slice(bytes);
                DiskResult::Done
            }
            DiskOp::Write { .. } | DiskOp::Zero { .. } if node.write_errors => DiskResult::Failed,
            DiskOp::Write { offset, data, durable } => {
                assert!(*durable);
                node.data[at(offset)..at(offset) + data.len()].copy_from_slice(data.as_slice());
                DiskResult::Done
            }
            DiskOp::Read { .. } if node.read_errors => DiskResult::Failed,
            DiskOp::Read { offset, len } => {
                DiskResult::Data(Bytes::new(node.data[at(offset)..at(offset) + *len as usize].to_vec()))
            }
            DiskOp::Zero { offset, len, .. } => {
                node.data[at(offset)..at(offset) + *len as usize].fill(0);
                DiskResult::Done
            }
        }
    }

    /// Completes the pending disk operation `at` of node `n`.
    pub fn disk(&mut self, n: usize, at: usize) {
        let (token, op) = self.nodes[n].pending.remove(at);
        let result = self.execute(n, &op);
        self.event(n, |r, now| r.handle_disk(now, token, result));
    }

    /// Delivers the next frame to node `n`.
    pub fn deliver(&mut self, n: usize) {
        self.deliver_of(n, 0);
    }

    /// Delivers the first frame of the session that the frame at `at` belongs to: sessions may overtake each other.
    pub fn deliver_of(&mut self, n: usize, at: usize) {
        let Some(session) = self.wires[n].get(at).map(|frame| frame.0) else { return };
        let first = self.wires[n].iter().position(|frame| frame.0 == session).unwrap();
        let (session, bytes, payload) = self.wires[n].remove(first).unwrap();
        if !self.cut {
            let frame = decode(&bytes).unwrap();
            self.event(n, |r, now| r.handle_frame(now, session, frame, payload));
        }
    }

    pub fn tell_config(&mut self, n: usize) {
        if self.nodes[n].version < self.version {
            self.nodes[n].version = self.version;
            let version = self.version;
            self.event(n, |r, now| r.handle_version(now, version));
        }
        let (config, wanted) = (self.config.clone(), self.wanted);
        if self.nodes[n].knows < config.epoch || self.nodes[n].wants != wanted {
            self.nodes[n].knows = config.epoch;
            self.nodes[n].wants = wanted;
            self.event(n, |r, now| {
                r.handle_config(now, &config);
                r.handle_wanted(now, wanted);
            });
        }
    }

    /// The size that node `n` knows of, committed or wanted, if it has no room for it yet.
    pub fn lacks_room(&self, n: usize) -> Option<ByteCount> {
        let node = &self.nodes[n];
        let room = node.replica.as_ref()?.room();
        let size = if node.knows == self.config.epoch { self.config.size } else { room };
        let size = node.wants.map_or(size, |wanted| wanted.max(size));
        (size > room).then_some(size)
    }

    /// The driver's part of S22, up to step `steps`: data area, metadata area, half of its records, all, told.
    pub fn make_room(&mut self, n: usize, size: ByteCount, steps: usize) {
        let room = self.nodes[n].replica.as_ref().unwrap().room_layout().unwrap();
        let grown = room.at_size(size).unwrap();
        let node = &mut self.nodes[n];
        let longer = |area: &mut Vec<u8>, len: u64| {
            let len = usize::try_from(len).unwrap().next_multiple_of(4 << 20);
            area.resize(area.len().max(len), 0);
        };
        longer(&mut node.data, size.0);
        if steps > 0 {
            longer(&mut node.meta, grown.meta_len.0);
        }
        let records: Vec<_> = format_growth(identity(n), room, size, node.version).unwrap().collect();
        let written = if steps > 2 { records.len() } else { records.len() / 2 };
        for (offset, bytes) in records.iter().take(if steps > 1 { written } else { 0 }) {
            let at = usize::try_from(*offset).unwrap();
            node.meta[at..at + bytes.len()].copy_from_slice(bytes);
        }
        if steps > 3 {
            let config = self.config.clone();
            let told = self.nodes[n].knows == config.epoch;
            self.event(n, |r, now| {
                r.handle_room(now, size);
                if told {
                    r.handle_config(now, &config);
                }
            });
        }
    }

    /// Commits a proposal if it acted on the present epoch.
    pub fn commit(&mut self, at: usize) {
        let proposal = self.proposals.remove(at);
        if proposal.expected == self.config.epoch {
            let next = &mut self.config;
            let proposer = proposal.id.proposer;
            next.epoch = next.epoch.next();
            match proposal.change {
                Change::Promote => {
                    next.primary = Some(proposer);
                    next.primary_instance = proposal.id.instance;
                    next.in_sync = BTreeSet::from([proposer]);
                    next.reason = EpochReason::Promoted;
                }
                Change::HandOver { to, instance, leaves } => {
                    if leaves {
                        next.in_sync.remove(&proposer);
                    }
                    next.primary = Some(to);
                    next.primary_instance = instance;
                    next.reason = EpochReason::HandedOver;
                }
                Change::Shrink { keep } => {
                    next.in_sync = keep;
                    next.reason = EpochReason::Shrunk;
                }
                Change::Grow { add } => {
                    next.in_sync.insert(add);
                    next.reason = EpochReason::Grown;
                }
                Change::Resize { size } => {
                    if self.wanted != Some(size) {
                        next.epoch = proposal.expected;
                        let n = usize::try_from(proposer.0 - 1).unwrap();
                        let number = proposal.id.number;
                        if self.nodes[n].instance == proposal.id.instance {
                            self.event(n, |r, now| r.handle_refused(now, number));
                        }
                        return;
                    }
                    next.size = size;
                    next.reason = EpochReason::Resized;
                    self.wanted = None;
                    let in_sync = &self.config.in_sync;
                    for node in self.nodes.iter().filter(|node| in_sync.contains(&node.id)) {
                        assert!(node.data.len() as u64 >= size.0, "S22: {:?} has no room", node.id);
                    }
                }
            }
        }
    }

    pub fn promote(&mut self, n: usize) {
        let node = &self.nodes[n];
        let Some(replica) = &node.replica else { return };
        let status = replica.status(self.now);
        let fresh = self.config.primary != Some(node.id) || self.config.primary_instance != node.instance;
        if self.config.in_sync.contains(&node.id)
            && status.usable
            && status.epoch == self.config.epoch
            && fresh
        {
            let id = base::ProposalId { proposer: node.id, instance: node.instance, number: 1 };
            self.proposals.push(Proposal {
                id,
                volume: self.config.volume,
                expected: self.config.epoch,
                change: Change::Promote,
            });
        }
    }

    /// A majority grants the committed primary's instance its lease.
    pub fn lease(&mut self, n: usize) {
        let node = &self.nodes[n];
        let named = self.config.primary == Some(node.id) && self.config.primary_instance == node.instance;
        if named && node.knows == self.config.epoch {
            self.event(n, |r, now| r.handle_lease(now, Some(now + timing().lease)));
        }
    }

    /// Everything that can happen without time passing happens.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut idle = true;
            for n in 0..2 {
                let works = self.nodes[n].replica.is_some() && !self.nodes[n].disk_hangs;
                if works && !self.nodes[n].pending.is_empty() {
                    self.disk(n, 0);
                    idle = false;
                }
                if !self.wires[n].is_empty() {
                    self.deliver(n);
                    idle = false;
                }
                let stale = self.nodes[n].knows < self.config.epoch || self.nodes[n].wants != self.wanted;
                if stale && self.nodes[n].replica.is_some() {
                    self.tell_config(n);
                    idle = false;
                }
                if let Some(size) = self.lacks_room(n) {
                    self.make_room(n, size, 4);
                    idle = false;
                }
                self.commands(n);
            }
            if !self.proposals.is_empty() && !self.no_commits {
                self.commit(0);
                idle = false;
            }
            if idle {
                return;
            }
        }
        panic!("never quiet");
    }

    /// Time passes, with leases and time-outs.
    pub fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end {
            self.now = self.now + Duration::from_millis(20);
            for n in 0..2 {
                self.lease(n);
                self.event(n, |r, now| r.handle_timeout(now));
            }
            self.settle();
        }
    }

    pub fn request(&mut self, n: usize, op: Op<Bytes>) -> u64 {
        let id = self.draw();
        self.event(n, |r, now| r.handle_request(now, Request { id: RequestId(id), op }));
        id
    }

    pub fn write(&mut self, n: usize, block: u64, value: u8) -> u64 {
        let data = Bytes::fill(value, BLOCK);
        self.request(n, Op::Write { lba: Lba(block * 8), data, fua: false })
    }

    pub fn read(&mut self, n: usize, block: u64) -> u64 {
        self.request(n, Op::Read(BlockRange { lba: Lba(block * 8), blocks: 8 }))
    }

    pub fn done(&self, n: usize, id: u64) -> bool {
        matches!(self.nodes[n].replies.get(&id), Some(Ok(Answer::Done)))
    }

    pub fn status(&self, n: usize) -> Status {
        self.nodes[n].replica.as_ref().unwrap().status(self.now)
    }

    pub fn equal(&self) -> bool {
        let size = usize::try_from(self.config.size.0).unwrap();
        self.nodes[0].data.get(..size) == self.nodes[1].data.get(..size) && self.nodes[0].data.len() >= size
    }

    /// Node 0 serves, both in sync.
    pub fn healthy() -> Self {
        Self::new().into_healthy()
    }

    pub fn into_healthy(self) -> Self {
        let mut world = self;
        world.settle();
        world.promote(0);
        world.run(3000);
        assert!(world.status(0).serving, "{:?}", world.status(0));
        assert_eq!(world.config.in_sync.len(), 2, "{:?} {:?}", world.config, world.status(0));
        world
    }
}

pub fn decode(bytes: &[u8]) -> Result<Frame, base::DecodeError> {
    let (head, body) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(base::DecodeError::Short("frame"))?;
    Header::decode(head)?.decode_body(body)
}
