//! What goes wrong, and how it is put right again.

use crate::check::Liveness;
use crate::rng::{MS, Nanos};
use crate::scenario::{FaultKind, Focus};
use crate::world::{CalmState, Event, NAMES, NODES, Phase, ToStorage, World, index, trace};

impl World {
    /// Faults from now on, until the round's time is over.
    pub(crate) fn begin_chaos(&mut self) {
        let length = self.rng.ms(self.scenario.chaos_ms.clone());
        self.chaos_until = self.now + length;
        trace!(self, "--- round {} of faults, {:?} ---", self.round, self.scenario.focus);
        let delay = self.scenario.fault_gap(&mut self.rng);
        self.after(delay, Event::Fault { round: self.round });
    }

    pub(crate) fn next_fault(&mut self, round: u64) {
        if round != self.round || self.phase != Phase::Chaos {
            return;
        }
        if self.now >= self.chaos_until {
            return self.heal();
        }
        let kind = self.rng.pick(&self.scenario.faults);
        trace!(self, "FAULT {kind:?}");
        self.outcome.faults += 1;
        self.inflict(kind);
        let delay = self.scenario.fault_gap(&mut self.rng);
        self.after(delay, Event::Fault { round });
    }

    fn inflict(&mut self, kind: FaultKind) {
        let node = self.victim();
        match kind {
            FaultKind::RestartStorage => self.restart_storage(node),
            FaultKind::RestartManager => {
                let node = usize::try_from(self.rng.within(0..3)).unwrap();
                self.crash_manager(node);
                let delay = self.rng.ms(20..2000);
                self.after(delay, Event::StartManager { node });
            }
            FaultKind::PowerCut => self.cut_power(node),
            FaultKind::PowerCutBoth => {
                self.cut_power(0);
                self.cut_power(1);
                if self.rng.chance(50) {
                    self.cut_power(2);
                }
            }
            FaultKind::Pause => self.pause(node),
            FaultKind::CutOneWay => self.cut_one_way(),
            FaultKind::Isolate => self.isolate(),
            FaultKind::CutApart => self.cut_apart(),
            FaultKind::CutMirror => {
                let until = self.now + self.rng.ms(50..4000);
                self.blocked.mirror[0][1] = until;
                self.blocked.mirror[1][0] = until;
                if self.rng.chance(50) {
                    self.break_mirror();
                }
            }
            FaultKind::BreakConnection => self.break_mirror(),
            FaultKind::SlowDisk => self.nodes[node].slow_disk_until = self.now + self.rng.ms(200..4000),
            FaultKind::HungDisk => {
                let until = self.now + self.rng.ms(1000..15000);
                self.nodes[node].hung_disk_until = self.nodes[node].hung_disk_until.max(until);
            }
            // Short: every write that failed may take effect at any later time, which is much to keep in mind.
            FaultKind::BadDisk => self.nodes[node].bad_disk_until = self.now + self.rng.ms(2..60),
            FaultKind::SlowLink => {
                let node = usize::try_from(self.rng.within(0..2)).unwrap();
                self.nodes[node].slow_link_until = self.now + self.rng.ms(500..5000);
            }
            FaultKind::NoLeader => {
                self.elections_blocked_until = self.now + self.rng.ms(500..4000);
                for voter in &mut self.raft.voters {
                    voter.leads = false;
                }
            }
            FaultKind::SlowApply => {
                let node = usize::try_from(self.rng.within(0..3)).unwrap();
                let node = if self.rng.chance(60) { 2 } else { node };
                self.nodes[node].apply_paused_until = self.now + self.rng.ms(500..8000);
            }
            FaultKind::HandOver => self.ask_for_hand_over(),
            FaultKind::Grow => self.ask_for_growth(),
            FaultKind::Stop => self.stop(node),
            FaultKind::StopSecondary => {
                let primary = self.config().primary.map_or(0, index);
                self.stop(1 - primary);
            }
        }
    }

    /// The hypervisor stops a VM for a while.
    fn pause(&mut self, node: usize) {
        let length = self.rng.ms(100..6000);
        let hidden = self.rng.chance(50);
        let node = if self.rng.chance(15) { 2 } else { node };
        if !self.nodes[node].machine.paused(self.now) {
            trace!(self, "{} pauses for {} ms, hidden {hidden}", NAMES[node], length / MS);
            self.nodes[node].machine.pause(self.now, length, hidden);
        }
    }

    /// The data nodes hear only the witness.
    fn cut_apart(&mut self) {
        let until = self.now + self.rng.ms(2000..7000);
        // Who leads has its promotion in its log before anyone else.
        if self.hits_successors(70) {
            let secondary = 1 - self.config().primary.map_or(0, index);
            self.make_leader(secondary);
        }
        self.blocked.cluster[0][1] = until;
        self.blocked.cluster[1][0] = until;
        if self.rng.chance(50) {
            self.blocked.mirror[0][1] = until;
            self.blocked.mirror[1][0] = until;
        }
        // Whom both still hear may know less than its log says.
        if self.rng.chance(50) {
            self.nodes[2].apply_paused_until = until;
        }
    }

    /// A storage process is told to end.
    fn stop(&mut self, node: usize) {
        if let Some(storage) = &self.nodes[node].storage {
            let instance = storage.instance;
            self.after(0, Event::ToStorage { node, instance, message: ToStorage::Stop });
            // It stops at once, or a supervisor loses patience.
            let patience = self.rng.ms(3000..8000);
            self.after(patience, Event::Kill { node, instance });
        }
    }

    /// A data node; the primary more often than not.
    fn victim(&mut self) -> usize {
        let primary = self.config().primary.map_or(0, index);
        if self.rng.chance(60) { primary } else { usize::try_from(self.rng.within(0..2)).unwrap() }
    }

    fn restart_storage(&mut self, node: usize) {
        self.crash_storage(node, false);
        // Mostly faster than the peer time-out.
        let delay = self.rng.delay(10..400, 200, 400..3000);
        self.after(delay, Event::StartStorage { node });
    }

    /// A node has become primary: its machine, or both of its processes, start anew, soon. The one before it hears nothing of
    /// all that.
    pub(crate) fn may_hit_successor(&mut self, node: usize) {
        if self.hits_successors(60) {
            let until = self.now + self.rng.ms(500..3000);
            for from in [node, 2] {
                self.cut_until(from, 1 - node, until);
            }
            self.blocked.mirror = [[until; 2]; 2];
            let delay = self.rng.ms(0..200);
            let with_machine = self.rng.chance(50);
            self.hit_successor_in(delay, node, with_machine);
        }
    }

    /// A leader has its own promotion in its log; its machine starts anew before anyone else has it.
    pub(crate) fn may_hit_candidate(&mut self, node: usize) {
        if self.hits_successors(80) {
            let until = self.now + self.rng.ms(300..1200);
            for to in [1 - node, 2] {
                self.cut_until(node, to, until);
                // Else the others go on without what stands in its log.
                if let Some(manager) = &mut self.nodes[to].manager {
                    manager.election_at = manager.election_at.max(until + 800 * MS);
                }
            }
            self.hit_successor_in(0, node, true);
        }
    }

    fn hits_successors(&mut self, percent: u64) -> bool {
        self.scenario.focus == Focus::Successors
            && self.phase == Phase::Chaos
            && self.now >= self.no_hit_until
            && self.rng.chance(percent)
    }

    fn cut_until(&mut self, from: usize, to: usize, until: Nanos) {
        let cut = &mut self.blocked.cluster[from][to];
        *cut = until.max(*cut);
    }

    fn hit_successor_in(&mut self, delay: Nanos, node: usize, with_machine: bool) {
        // What it does after that is what matters.
        self.no_hit_until = self.now + 3000 * MS;
        self.after(delay, Event::HitSuccessor { node, with_machine });
    }

    pub(crate) fn hit_successor(&mut self, node: usize, with_machine: bool) {
        if self.phase != Phase::Chaos {
            return;
        }
        trace!(
            self,
            "FAULT {} starts anew{}",
            NAMES[node],
            if with_machine { ", its machine too" } else { "" }
        );
        self.crash_manager(node);
        self.crash_storage(node, with_machine);
        if with_machine {
            self.nodes[node].machine.restart(self.now);
        }
        let delay = self.rng.ms(20..200);
        self.after(delay, Event::StartManager { node });
        self.after(delay, Event::StartStorage { node });
    }

    fn cut_power(&mut self, node: usize) {
        self.crash_manager(node);
        if node < 2 {
            self.crash_storage(node, true);
        }
        self.nodes[node].machine.restart(self.now);
        let delay = self.rng.ms(200..5000);
        self.after(delay, Event::StartManager { node });
        if node < 2 {
            let storage = delay + self.rng.ms(0..500);
            self.after(storage, Event::StartStorage { node });
        }
    }

    fn cut_one_way(&mut self) {
        let from = usize::try_from(self.rng.within(0..3)).unwrap();
        let to = (from + usize::try_from(self.rng.within(1..3)).unwrap()) % NODES;
        let until = self.now + self.rng.ms(200..6000);
        self.blocked.cluster[from][to] = until;
        if from < 2 && to < 2 && self.rng.chance(60) {
            self.blocked.mirror[from][to] = until;
        }
    }

    /// One node is cut off from the others; the mirror may hold.
    fn isolate(&mut self) {
        let node = usize::try_from(self.rng.within(0..3)).unwrap();
        let until = self.now + self.rng.ms(500..6000);
        let spare = self.rng.chance(40).then(|| (node + 1) % NODES);
        for other in (0..NODES).filter(|other| *other != node && Some(*other) != spare) {
            self.blocked.cluster[node][other] = until;
            self.blocked.cluster[other][node] = until;
        }
        if node < 2 && self.rng.chance(60) {
            self.blocked.mirror[node][1 - node] = until;
            self.blocked.mirror[1 - node][node] = until;
        }
    }

    fn break_mirror(&mut self) {
        let sessions: Vec<_> =
            self.network.sessions.iter().filter(|(_, s)| !s.broken).map(|(id, _)| *id).collect();
        for session in sessions {
            let notice = self.rng.delay(0..50, 300, 50..4000);
            trace!(self, "{session:?} breaks");
            self.break_connection(session, notice);
        }
    }

    /// No new faults, and what is down starts; everything works once the last fault has run out.
    fn heal(&mut self) {
        let mut healed = self.now.max(self.elections_blocked_until);
        for until in self.blocked.cluster.iter().flatten().chain(self.blocked.mirror.iter().flatten()) {
            healed = healed.max(*until);
        }
        for node in 0..NODES {
            let this = &self.nodes[node];
            healed = healed
                .max(this.machine.paused_until)
                .max(this.slow_disk_until)
                .max(this.hung_disk_until)
                .max(this.slow_link_until)
                .max(this.apply_paused_until);
            self.after(MS, Event::StartManager { node });
            self.nodes[node].bad_disk_until = 0;
            if self.nodes[node].storage.as_ref().is_some_and(|storage| storage.detached) {
                // S11: a copy whose disk failed comes back with its process.
                self.crash_storage(node, false);
            }
            if node < 2 {
                self.after(2 * MS, Event::StartStorage { node });
            }
        }
        trace!(self, "--- no more faults, healed at {} ms ---", healed / MS);
        self.phase = Phase::Calm(CalmState::Recovering);
        self.liveness = Some(Liveness::new(healed));
    }

    /// A process that was told to stop and did not.
    pub(crate) fn kill(&mut self, node: usize, instance: base::InstanceId) {
        if self.nodes[node].storage.as_ref().is_some_and(|s| s.instance == instance) {
            self.crash_storage(node, false);
            let delay = self.rng.ms(10..500);
            self.after(delay, Event::StartStorage { node });
        }
    }
}
