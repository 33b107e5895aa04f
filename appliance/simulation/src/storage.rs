//! The storage process: drives the real replica as the shipped one does, over simulated disks and connections, under
//! the real lease guard.

use crate::buffer::SimBuffer;
use crate::check::{OpId, StaleAnswers, single_server, violation};
use crate::client::ClientReply;
use crate::disk::brief;
use crate::rng::{MS, Nanos};
use crate::world::{Event, NAMES, ToManager, ToStorage, VOLUME, World, id, identity, index, trace};
use base::formats::META_VERSION;
use base::{ByteCount, Epoch, InstanceId, Monotonic, SessionId};
use cluster::lease::Guard;
use control::link::{Report, VolumeReport};
use replication::frame::{Frame, HEADER_BYTES, Header, Message};
use replication::{Command, Recovery, Replica, RequestId};

pub(crate) struct Storage {
    pub(crate) instance: InstanceId,
    pub(crate) replica: Replica<SimBuffer>,
    pub(crate) guard: Guard,
    /// Initiators are let in.
    pub(crate) serving: bool,
    /// Serving was announced in this tenure.
    served: bool,
    /// What the manager last told.
    config_epoch: Epoch,
    config: Option<base::VolumeConfig>,
    /// Room is being made for this size.
    making_room: Option<ByteCount>,
    timer: Option<Nanos>,
    stale: StaleAnswers,
    reported: Option<(Report, Nanos)>,
    stopping: bool,
    /// Its disk failed to write.
    pub(crate) detached: bool,
}

impl World {
    pub(crate) fn start_storage(&mut self, node: usize) {
        if self.nodes[node].storage.is_some() {
            return;
        }
        let instance = if self.options.keeps_instance() {
            InstanceId(0x1000 + node as u64)
        } else {
            InstanceId(self.rng.id())
        };
        let disk = &self.nodes[node].disk;
        let mut recovery = Recovery::new(identity(node), base::ByteCount(disk.meta().len() as u64));
        while let Some(wanted) = recovery.wanted() {
            let at = usize::try_from(wanted.offset).unwrap();
            let piece = &disk.meta()[at..at + usize::try_from(wanted.len).unwrap()];
            recovery.supply(Some(piece));
        }
        let timing = replication::Timing {
            lease: self.timing.lease,
            drift: self.timing.drift,
            renew: self.timing.renew,
            peer: self.timing.peer,
        };
        let options = replication::Options { instance, timing };
        let mut replica = match recovery.finish(options) {
            Ok(replica) => replica,
            Err(error) => {
                return self
                    .judge(violation("S12", format!("{} can't open its own copy: {error}", NAMES[node])));
            }
        };
        if let Some(sabotage) = self.options.sabotage.in_replica() {
            replica.set_sabotage(sabotage);
        }
        trace!(
            self,
            "{} storage {instance:?} starts in {:?}",
            NAMES[node],
            replica.status(Monotonic(0)).epoch
        );
        let storage = Storage {
            instance,
            replica,
            guard: Guard::new(instance, self.timing),
            serving: false,
            served: false,
            config_epoch: Epoch(0),
            config: None,
            making_room: None,
            timer: None,
            stale: StaleAnswers::default(),
            reported: None,
            stopping: false,
            detached: false,
        };
        self.nodes[node].storage = Some(storage);
        self.tell_manager(node, ToManager::Hello);
        self.pump(node);
        self.after(0, Event::StorageTick { node, instance });
    }

    /// The process ends. `power`: with its machine.
    pub(crate) fn crash_storage(&mut self, node: usize, power: bool) {
        let Some(storage) = self.nodes[node].storage.take() else { return };
        trace!(
            self,
            "{} storage {:?} ends{}",
            NAMES[node],
            storage.instance,
            if power { " (power)" } else { "" }
        );
        self.nodes[node].disk.crash(&mut self.rng, power);
        if self.rng.chance(self.scenario.rot_percent) {
            self.nodes[node].disk.rot(&mut self.rng);
        }
        self.link_lost(node);
        let sessions: Vec<SessionId> = self.network.sessions.keys().copied().collect();
        for session in sessions {
            if self.network.sessions.get(&session).is_some_and(|s| s.instances[node] == storage.instance) {
                self.network.close(session, node);
                let notice = if power { self.rng.ms(200..8000) } else { self.rng.delay(0..20, 50, 20..3000) };
                self.break_connection(session, notice);
            }
        }
        let lost: Vec<OpId> = self.ops.iter().filter(|(_, op)| op.node == node).map(|(op, _)| *op).collect();
        for op in lost {
            let delay = if power { self.rng.ms(200..3000) } else { self.rng.ms(1..50) };
            self.after(delay, Event::Reply { op, reply: ClientReply::Disconnected });
        }
        self.check_copies();
    }

    pub(crate) fn tell_manager(&mut self, node: usize, message: ToManager) {
        let Some(storage) = &self.nodes[node].storage else { return };
        let instance = storage.instance;
        let delay = self.link_delay(node);
        self.after(delay, Event::ToManager { node, instance, message });
    }

    pub(crate) fn link_delay(&mut self, node: usize) -> Nanos {
        if self.now < self.nodes[node].slow_link_until {
            return self.rng.ms(1..1500);
        }
        self.rng.delay(0..2, 20, 2..400)
    }

    /// The process reads its clocks; a lease from before a pause is void from then on.
    fn check_clocks(&mut self, node: usize) {
        let clocks = self.nodes[node].machine.clocks(self.now);
        let careless = self.options.ignores_pauses();
        let Some(storage) = &mut self.nodes[node].storage else { return };
        if !careless {
            storage.guard.handle_clocks(clocks);
        }
        let valid = storage.guard.valid_until(VOLUME, clocks.boot);
        storage.replica.handle_lease(clocks.boot, valid);
    }

    /// Whether the process could answer an initiator right now.
    pub(crate) fn may_serve(&self, node: usize) -> bool {
        let Some(storage) = &self.nodes[node].storage else { return false };
        if self.nodes[node].machine.paused(self.now) {
            return false;
        }
        let clocks = self.nodes[node].machine.clocks(self.now);
        let mut guard = storage.guard.clone();
        if !self.options.ignores_pauses() {
            guard.handle_clocks(clocks);
        }
        let lease = guard.valid_until(VOLUME, clocks.boot).is_some() || self.options.serves_without_lease();
        lease && storage.serving && storage.replica.status(clocks.boot).serving
    }

    /// I2, at an instant at which someone answers.
    fn check_single_server(&mut self) {
        let serving: Vec<&str> = (0..2).filter(|n| self.may_serve(*n)).map(|n| NAMES[n]).collect();
        self.judge(single_server(&serving));
    }

    /// The live process `instance` of `node`, with its clock.
    fn process(&mut self, node: usize, instance: InstanceId) -> Option<(&mut Storage, Monotonic)> {
        let now = self.nodes[node].machine.boot(self.now);
        let storage = self.nodes[node].storage.as_mut().filter(|s| s.instance == instance)?;
        Some((storage, now))
    }

    pub(crate) fn storage_tick(&mut self, node: usize, instance: InstanceId) {
        if self.process(node, instance).is_none() {
            return;
        }
        self.check_clocks(node);
        self.pump(node);
        self.report(node);
        self.after(100 * MS, Event::StorageTick { node, instance });
    }

    /// Tells the manager on change, and every `renew`.
    fn report(&mut self, node: usize) {
        let now = self.nodes[node].machine.boot(self.now);
        let Some(storage) = &mut self.nodes[node].storage else { return };
        let status = storage.replica.status(now);
        let volume = VolumeReport {
            volume: VOLUME,
            epoch: status.epoch,
            usable: status.usable,
            serving: status.serving,
            dirty: status.dirty,
            resync: None,
            resynced_total: status.resynced_total,
            logged: base::ByteCount(0),
            room: status.room,
            no_room: None,
        };
        let report = Report { instance: storage.instance, volumes: vec![volume], ..Report::default() };
        if let Some((last, at)) = &storage.reported
            && *last == report
            && self.now - at < 300 * MS
        {
            return;
        }
        storage.reported = Some((report.clone(), self.now));
        self.tell_manager(node, ToManager::Report(Box::new(report)));
    }

    pub(crate) fn storage_hears(&mut self, node: usize, instance: InstanceId, message: ToStorage) {
        let clocks = self.nodes[node].machine.clocks(self.now);
        let Some((storage, now)) = self.process(node, instance) else { return };
        match message {
            ToStorage::Config(config, wanted, ended) => {
                storage.replica.handle_ended(ended);
                if config.epoch > storage.config_epoch {
                    storage.config_epoch = config.epoch;
                    if config.primary != Some(id(node)) || config.primary_instance != instance {
                        storage.served = false;
                    }
                }
                storage.replica.handle_config(now, &config);
                storage.replica.handle_wanted(now, wanted);
                let size = wanted.map_or(config.size, |wanted| wanted.max(config.size));
                // What is told may overtake what was told before.
                if storage.config.as_ref().is_none_or(|known| known.epoch <= config.epoch) {
                    storage.config = Some(config);
                }
                if size > storage.replica.room() && storage.making_room < Some(size) {
                    storage.making_room = Some(size);
                    let delay = self.rng.delay(0..20, 200, 20..3000);
                    self.after(delay, Event::Room { node, instance, size });
                }
            }
            ToStorage::Lease(lease) => {
                storage.guard.handle_lease(lease, clocks);
                self.check_clocks(node);
            }
            ToStorage::Refused(number) => storage.replica.handle_refused(now, number),
            ToStorage::HandOver { to, instance } => storage.replica.handle_hand_over(now, to, instance),
            ToStorage::Stop => {
                storage.stopping = true;
                storage.replica.handle_stop(now);
            }
        }
        self.pump(node);
    }

    /// The disk thread made room (S22), or a crash cuts it short: then nothing was told, and it is made anew.
    pub(crate) fn room_made(&mut self, node: usize, instance: InstanceId, size: ByteCount) {
        let Some((storage, now)) = self.process(node, instance) else { return };
        if size <= storage.replica.room() {
            return;
        }
        let Some(room) = storage.replica.room_layout() else { return };
        let (grown, config) = (room.at_size(size).unwrap(), storage.config.clone());
        let cut_short = self.rng.chance(10);
        self.nodes[node].disk.enlarge(size, grown.meta_len);
        let records: Vec<_> =
            replication::format_growth(identity(node), room, size, META_VERSION).unwrap().collect();
        let formatted = if cut_short { records.len() / 2 } else { records.len() };
        for (offset, bytes) in records.iter().take(formatted) {
            self.nodes[node].disk.format(*offset, bytes);
        }
        trace!(self, "{} has room for {size}{}", NAMES[node], if cut_short { ", and crashes" } else { "" });
        if cut_short {
            self.crash_storage(node, false);
            let delay = self.rng.ms(20..1000);
            return self.after(delay, Event::StartStorage { node });
        }
        let Some((storage, _)) = self.process(node, instance) else { return };
        storage.replica.handle_room(now, size);
        if let Some(config) = config {
            storage.replica.handle_config(now, &config);
        }
        self.pump(node);
    }

    pub(crate) fn timer(&mut self, node: usize, instance: InstanceId) {
        let true_now = self.now;
        let Some((storage, now)) = self.process(node, instance) else { return };
        if storage.timer.is_none_or(|at| at > true_now) {
            return;
        }
        storage.timer = None;
        storage.replica.handle_timeout(now);
        self.pump(node);
    }

    pub(crate) fn disk_done(&mut self, node: usize, instance: InstanceId, token: replication::DiskToken) {
        if self.process(node, instance).is_none() {
            return;
        }
        let this = &mut self.nodes[node];
        if self.now < this.hung_disk_until {
            let delay = this.hung_disk_until - self.now + self.rng.ms(0..20);
            return self.after(delay, Event::Disk { node, instance, token });
        }
        let bad = self.now < this.bad_disk_until && self.rng.chance(40);
        let ended = if bad { this.disk.fail(token, &mut self.rng) } else { this.disk.complete(token) };
        let Some(result) = ended else { return };
        let Some((storage, now)) = self.process(node, instance) else { return };
        storage.replica.handle_disk(now, token, result);
        self.pump(node);
    }

    pub(crate) fn request_arrives(&mut self, node: usize, instance: InstanceId, op: OpId) {
        let Some(request) = self.ops.get(&op).map(|o| o.request(op)) else { return };
        let Some((storage, _)) = self.process(node, instance).filter(|(s, _)| s.serving) else {
            return self.after(0, Event::Reply { op, reply: ClientReply::Disconnected });
        };
        let _ = storage;
        self.check_clocks(node);
        let Some((storage, now)) = self.process(node, instance) else { return };
        storage.replica.handle_request(now, request);
        self.pump(node);
    }

    pub(crate) fn abort_arrives(&mut self, node: usize, instance: InstanceId, op: OpId) {
        let Some((storage, now)) = self.process(node, instance) else { return };
        storage.replica.handle_abort(now, RequestId(op));
        self.pump(node);
    }

    /// Does what the replica asks for, until it asks for nothing more.
    pub(crate) fn pump(&mut self, node: usize) {
        loop {
            let Some(storage) = &mut self.nodes[node].storage else { return };
            let Some(command) = storage.replica.poll_command() else { break };
            self.execute(node, command);
            if self.failed.is_some() {
                return;
            }
        }
        let machine = self.nodes[node].machine.clone();
        let true_now = self.now;
        let Some(storage) = &mut self.nodes[node].storage else { return };
        let instance = storage.instance;
        let timeout = storage.replica.poll_timeout();
        if let Err(what) = storage.replica.validate() {
            self.judge(violation("engine", format!("{}: {what}", NAMES[node])));
        }
        let (Some(due), Some(storage)) = (timeout, &mut self.nodes[node].storage) else { return };
        let due = machine.true_time(due).max(true_now + 1000);
        if storage.timer.is_none_or(|at| due < at) {
            storage.timer = Some(due);
            self.at(due, Event::Timer { node, instance });
        }
    }

    fn execute(&mut self, node: usize, command: Command<SimBuffer>) {
        let Some(storage) = &mut self.nodes[node].storage else { return };
        let instance = storage.instance;
        match command {
            Command::Disk { token, op } => {
                trace!(self, "{} disk {}: {}", NAMES[node], token.0, brief(&op));
                let submitted = self.nodes[node].disk.submit(token, op);
                if let Err(what) = submitted {
                    self.judge(violation("engine", format!("{}: {what}", NAMES[node])));
                }
                let slow = self.now < self.nodes[node].slow_disk_until;
                let delay = if slow {
                    self.rng.ms(1..2500)
                } else {
                    self.rng.delay(0..3, self.scenario.slow_io_permille, 3..60)
                };
                self.after(delay, Event::Disk { node, instance, token });
            }
            Command::Send { session, frame, payload } => self.send_frame(node, session, frame, payload),
            Command::Reply { id, result } => self.answer(node, id.0, result),
            Command::Compare { id, data } => self.compare(node, id, &data),
            Command::Propose(proposal) => self.tell_manager(node, ToManager::Propose(proposal)),
            Command::Dial { peer } => {
                trace!(self, "{} dials {}", NAMES[node], NAMES[index(peer)]);
                let delay = self.rng.delay(0..5, 50, 5..500);
                self.after(delay, Event::Dial { from: node, instance });
            }
            Command::Close { session } => {
                trace!(self, "{} closes {session:?}", NAMES[node]);
                let arrives = self.network.ends_with_refusal(session, node) && self.rng.chance(80);
                self.network.close(session, node);
                if arrives {
                    return self.close_orderly(session, node);
                }
                let notice = self.rng.delay(0..10, 100, 10..3000);
                self.break_connection(session, notice);
            }
            Command::Serving(serving) => self.serving_changes(node, serving),
            Command::HandOverFailed(why) => {
                trace!(self, "{} can't hand over: {why}", NAMES[node]);
            }
            Command::Problem(problem) => {
                storage.detached |= matches!(problem, replication::Problem::DiskWriteFailed { .. });
                trace!(self, "{} problem: {problem}", NAMES[node]);
                self.outcome.problems += 1;
                self.outcome.full_resyncs += u64::from(problem == replication::Problem::FullResync);
            }
            Command::Stopped => {
                if !std::mem::take(&mut storage.stopping) {
                    return self.judge(violation("engine", format!("{} stopped unasked", NAMES[node])));
                }
                self.crash_storage(node, false);
                let delay = self.rng.ms(20..1000);
                self.after(delay, Event::StartStorage { node });
            }
        }
    }

    fn serving_changes(&mut self, node: usize, serving: bool) {
        trace!(self, "{} serving: {serving}", NAMES[node]);
        let queued = self.nodes[node].disk.writes_queued();
        let Some(storage) = &mut self.nodes[node].storage else { return };
        storage.serving = serving;
        if !serving {
            let lost: Vec<OpId> =
                self.ops.iter().filter(|(_, op)| op.node == node).map(|(op, _)| *op).collect();
            for op in lost {
                let delay = self.rng.ms(1..20);
                self.after(delay, Event::Reply { op, reply: ClientReply::Disconnected });
            }
            return;
        }
        if !std::mem::replace(&mut storage.served, true) {
            self.judge(StaleAnswers::serves(queued));
        }
        self.check_clocks(node);
        self.check_single_server();
    }

    /// An answer leaves the node, if its lease holds at this very moment (S5).
    fn answer(
        &mut self,
        node: usize,
        op: OpId,
        result: Result<replication::Answer<SimBuffer>, replication::RequestError>,
    ) {
        let clocks = self.nodes[node].machine.clocks(self.now);
        let careless = self.options.ignores_pauses();
        let without_lease = self.options.serves_without_lease();
        let Some(storage) = &mut self.nodes[node].storage else { return };
        if !careless {
            storage.guard.handle_clocks(clocks);
        }
        let valid = storage.guard.valid_until(VOLUME, clocks.boot).is_some();
        let reply = ClientReply::from(result);
        let withheld = !valid && !without_lease || !storage.serving;
        trace!(
            self,
            "{} answers {op:x}: {reply:?}{}",
            NAMES[node],
            if withheld { " (withheld)" } else { "" }
        );
        let reply = if withheld { ClientReply::Disconnected } else { reply };
        if !withheld {
            self.check_single_server();
        }
        let delay = self.rng.delay(0..2, 10, 2..500);
        self.after(delay, Event::Reply { op, reply });
    }

    // --- connections -------------------------------------------------------------------------------------------

    fn send_frame(&mut self, node: usize, session: SessionId, frame: Frame, mut payload: Option<SimBuffer>) {
        let boot = self.nodes[node].machine.boot(self.now);
        let queued = self.nodes[node].disk.writes_queued();
        let Some(storage) = &mut self.nodes[node].storage else { return };
        let acts_in = storage.replica.status(boot).epoch;
        let checked = storage.stale.sent(session, &frame, acts_in, queued);
        trace!(
            self,
            "{} -> {session:?} {:?} #{} {:?}", NAMES[node], frame.epoch, frame.number, frame.message
        );
        self.judge(checked);
        if let Some(data) = &payload
            && self.rng.permille(self.scenario.corrupt_permille)
        {
            let mut blocks = data.blocks().to_vec();
            blocks[0] ^= 1 << 63;
            payload = Some(SimBuffer::new(blocks));
        }
        if !self.network.send(session, node, frame, payload) {
            return;
        }
        let delay = self.rng.delay(0..2, self.scenario.slow_frame_permille, 2..300);
        let at = self.now + delay;
        let Some(open) = self.network.sessions.get_mut(&session) else { return };
        let direction = &mut open.towards[1 - node];
        direction.last_delivery = direction.last_delivery.max(at);
        let at = direction.last_delivery;
        self.at(at, Event::Frame { session, to: 1 - node });
    }

    pub(crate) fn frame_arrives(&mut self, session: SessionId, to: usize) {
        let open_at = self.blocked.mirror[1 - to][to];
        if open_at > self.now {
            let later = open_at + self.rng.ms(0..5);
            let Some(open) = self.network.sessions.get_mut(&session) else { return };
            open.towards[to].last_delivery = open.towards[to].last_delivery.max(later);
            return self.at(later, Event::Frame { session, to });
        }
        let Some(open) = self.network.sessions.get_mut(&session) else { return };
        let (instance, from) = (open.instances[to], 1 - to);
        let first = to != open.dialler && !std::mem::replace(&mut open.accepted, true);
        let Some((frame, payload)) = self.network.receive(session, to) else { return };
        let frame = over_the_wire(&frame);
        // An answer to the first frame would have been its first.
        self.outcome.goodbyes += u64::from(matches!(frame.message, Message::Refuse(_)) && frame.number > 1);
        let Some((storage, now)) = self.process(to, instance) else { return };
        storage.stale.delivered(session, &frame);
        if first {
            storage.replica.handle_session_opened(now, id(from), session, false);
        }
        storage.replica.handle_frame(now, session, frame, payload);
        self.pump(to);
    }

    pub(crate) fn connection_lost(&mut self, session: SessionId, to: usize) {
        let Some(open) = self.network.sessions.get(&session) else { return };
        if open.closed[to] {
            return;
        }
        let (instance, known) = (open.instances[to], open.dialler == to || open.accepted);
        self.network.close(session, to);
        trace!(self, "{} learns that {session:?} is gone", NAMES[to]);
        let Some((storage, now)) = self.process(to, instance) else { return };
        if known {
            storage.replica.handle_session_closed(now, session);
        }
        self.pump(to);
    }

    pub(crate) fn dial_arrives(&mut self, from: usize, instance: InstanceId) {
        if self.process(from, instance).is_none() {
            return;
        }
        let to = 1 - from;
        let reachable =
            self.blocked.mirror[from][to] <= self.now && self.blocked.mirror[to][from] <= self.now;
        let session = match &self.nodes[to].storage {
            Some(peer) if reachable => {
                let session = SessionId(self.rng.id());
                let mut instances = [instance; 2];
                instances[to] = peer.instance;
                self.network.open(session, from, instances);
                Some(session)
            }
            _ => None,
        };
        let delay = if reachable { self.rng.ms(0..5) } else { self.rng.ms(50..1000) };
        self.after(delay, Event::Dialled { to: from, instance, session });
    }

    pub(crate) fn dialled(&mut self, to: usize, instance: InstanceId, session: Option<SessionId>) {
        // It may have broken before the dialler knew of it.
        let session = session.filter(|s| self.network.sessions.get(s).is_some_and(|open| !open.closed[to]));
        let Some((storage, now)) = self.process(to, instance) else { return };
        let peer = id(1 - to);
        match session {
            Some(session) => storage.replica.handle_session_opened(now, peer, session, true),
            None => storage.replica.handle_dial_failed(now, peer),
        }
        trace!(self, "{} dialled: {session:?}", NAMES[to]);
        self.pump(to);
    }
}

/// Through encoder and decoder.
fn over_the_wire(frame: &Frame) -> Frame {
    let bytes = frame.encode();
    let (head, body) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
    Header::decode(head).unwrap().decode_body(body).unwrap()
}
