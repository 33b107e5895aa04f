//! Seeded random walks of two replicas through crashes, broken sessions, lost proposals and lapsed leases.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    dead_code
)]

#[path = "pair/world.rs"]
mod world;

use base::formats::META_VERSION;
use base::{ByteCount, SessionId};
use futago_replication::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use world::{BLOCK, World};

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// What a block may hold: one client, at most one write at a time on each block.
#[derive(Default)]
struct Register {
    possible: BTreeSet<u8>,
    writing: Option<(usize, u64, u8)>,
    reading: Option<(usize, u64)>,
    /// Values that a read under way may return: what was possible at any moment since it began.
    window: BTreeSet<u8>,
}

const BLOCKS: [u64; 6] = [0, 1, 1024, 5000, 9000, 9001];
/// The last two are in parts of the volume that it does not have at first.
const GROWING_BLOCKS: [u64; 6] = [0, 1, 1024, 9000, 16_384, 40_000];
/// Sizes that it may have, one after the other; the last needs a further bitmap page.
const SIZES_MIB: [u64; 5] = [64, 65, 80, 120, 160];

struct Walk {
    world: World,
    rng: Rng,
    registers: BTreeMap<u64, Register>,
    value: u8,
    /// The node's disk completes nothing for a while.
    stalled: [bool; 2],
    /// Every other walk leaves the size alone, and so has more of everything else.
    grows: bool,
    blocks: [u64; 6],
}

impl Walk {
    fn new(seed: u64) -> Self {
        let grows = seed.is_multiple_of(2);
        let blocks = if grows { GROWING_BLOCKS } else { BLOCKS };
        let registers = blocks
            .iter()
            .map(|b| (*b, Register { possible: BTreeSet::from([0]), ..Register::default() }))
            .collect();
        let rng = Rng(seed);
        Self { world: World::healthy(), rng, registers, value: 0, stalled: [false; 2], grows, blocks }
    }

    fn client(&mut self) {
        let block = self.blocks[self.rng.below(self.blocks.len())];
        let Some(n) = (0..2).find(|n| {
            self.world.nodes[*n].replica.as_ref().is_some_and(|r| r.status(self.world.now).serving)
        }) else {
            return;
        };
        let size = self.world.nodes[n].replica.as_ref().unwrap().size().0;
        // What is not there yet, stand in for by what is.
        let block = if (block + 1) * BLOCK as u64 > size { self.blocks[0] } else { block };
        let register = self.registers.get_mut(&block).unwrap();
        if self.rng.chance(50) && register.writing.is_none() {
            self.value = self.value % 250 + 1;
            // Possible from now on, whatever becomes of it.
            register.possible.insert(self.value);
            register.window.insert(self.value);
            let id = self.world.write(n, block, self.value);
            self.registers.get_mut(&block).unwrap().writing = Some((n, id, self.value));
        } else if register.reading.is_none() {
            register.window = register.possible.clone();
            let id = self.world.read(n, block);
            self.registers.get_mut(&block).unwrap().reading = Some((n, id));
        }
    }

    fn answers(&mut self) {
        for (block, register) in &mut self.registers {
            if let Some((n, id, value)) = register.writing
                && let Some(result) = self.world.nodes[n].replies.remove(&id)
            {
                register.writing = None;
                if result.is_ok() {
                    register.possible = BTreeSet::from([value]);
                }
            }
            if let Some((n, id)) = register.reading
                && let Some(result) = self.world.nodes[n].replies.remove(&id)
            {
                register.reading = None;
                if let Ok(Answer::Data(data)) = result {
                    let seen = data.as_slice()[0];
                    assert!(data.as_slice().iter().all(|b| *b == seen), "torn block {block}");
                    assert!(
                        register.window.contains(&seen),
                        "I1: block {block} reads {seen}, not {:?}",
                        register.window
                    );
                    // Settled, unless a write is under way that may come later (or came in between).
                    if register.writing.is_none() && register.possible.contains(&seen) {
                        register.possible = BTreeSet::from([seen]);
                    }
                }
            }
        }
    }

    fn lost(&mut self, n: usize) {
        for register in self.registers.values_mut() {
            if register.writing.is_some_and(|(at, _, _)| at == n) {
                register.writing = None;
            }
            if register.reading.is_some_and(|(at, _)| at == n) {
                register.reading = None;
            }
        }
    }

    fn step(&mut self) {
        let n = self.rng.below(2);
        let up = self.world.nodes[n].replica.is_some();
        match self.rng.below(1000) {
            0..400 => {
                let pending = self.world.nodes[n].pending.len();
                if pending > 0 && up && !self.stalled[n] {
                    let at = self.rng.below(pending);
                    // Data is slower than metadata: sessions come and go while it is queued.
                    let data = matches!(self.world.nodes[n].pending[at].1, DiskOp::Write { .. });
                    if !data || self.rng.chance(25) {
                        self.world.disk(n, at);
                    }
                }
            }
            400..640 => {
                let frames = self.world.wires[n].len().max(1);
                let at = if self.rng.chance(30) { self.rng.below(frames) } else { 0 };
                self.world.deliver_of(n, at);
            }
            640..650 => self.stalled[n] = self.rng.chance(30),
            650..760 => self.client(),
            760..820 => {
                let by = self.rng.below(150) as u64;
                self.world.now = self.world.now + Duration::from_millis(by);
                for n in 0..2 {
                    self.world.event(n, |r, now| r.handle_timeout(now));
                }
            }
            820..860 => self.world.lease(n),
            860..900 if up => self.world.tell_config(n),
            900..906 if self.grows => {
                if let Some(size) = self.world.lacks_room(n) {
                    // Cut short by a crash, or done.
                    let steps = if self.rng.chance(20) { self.rng.below(5) } else { 4 };
                    self.world.make_room(n, size, steps);
                    if steps < 4 {
                        let rng = &mut self.rng;
                        self.world.crash(n, || rng.chance(50));
                        self.lost(n);
                    }
                }
            }
            906..907 if self.world.version < META_VERSION + 3 => self.world.version += 1,
            900..950 => {
                let proposals = self.world.proposals.len();
                if proposals > 0 {
                    let at = self.rng.below(proposals);
                    if self.rng.chance(10) {
                        self.world.proposals.remove(at);
                    } else if self.rng.chance(20) {
                        // Delivered twice, the second time late.
                        let again = self.world.proposals[at].clone();
                        self.world.proposals.push(again);
                        self.world.commit(at);
                    } else {
                        self.world.commit(at);
                    }
                }
            }
            950..960 => self.world.promote(n),
            960..970 => {
                let sessions: Vec<u64> = self.world.sessions.keys().copied().collect();
                if !sessions.is_empty() {
                    let session = sessions[self.rng.below(sessions.len())];
                    self.world.hang_up(SessionId(session));
                }
            }
            970..975 => self.world.cut = self.rng.chance(30),
            975..982 if up => {
                let rng = &mut self.rng;
                let all = rng.chance(50);
                self.world.crash(n, || all || rng.chance(50));
                self.lost(n);
            }
            982..995 if !up => self.world.start(n),
            995..997 if self.grows => {
                let larger = SIZES_MIB.iter().map(|mib| ByteCount::mib(*mib));
                let mut larger = larger.filter(|size| *size > self.world.config.size);
                // Now and then it is not wanted any more.
                self.world.wanted = if self.rng.chance(70) { larger.next() } else { None };
            }
            995..1000 => {
                let (to, instance) = (self.world.nodes[1 - n].id, self.world.nodes[1 - n].instance);
                self.world.event(n, |r, now| r.handle_hand_over(now, to, instance));
            }
            _ => {}
        }
        self.answers();
    }

    /// Faults stop: everything must heal.
    fn heal(&mut self) {
        self.world.cut = false;
        self.stalled = [false; 2];
        for n in 0..2 {
            if self.world.nodes[n].replica.is_none() {
                self.world.start(n);
            }
        }
        for _ in 0..40 {
            self.world.run(500);
            self.answers();
            let serves = (0..2).any(|n| self.world.status(n).serving);
            if serves
                && self.world.config.in_sync.len() == 2
                && (0..2).all(|n| self.world.status(n).connected)
            {
                break;
            }
            let config = &self.world.config;
            let named =
                |n: &world::Node| config.primary == Some(n.id) && config.primary_instance == n.instance;
            if !self.world.nodes.iter().any(named) {
                let first = self.rng.below(2);
                self.world.promote(first);
                self.world.promote(1 - first);
            }
        }
        if std::env::var("DUMP").is_ok() {
            println!("{:?}", self.world.nodes[0].replica);
            println!("{:?}", self.world.nodes[1].replica);
        }
        let told: Vec<_> = (0..2).map(|n| (self.world.status(n), &self.world.nodes[n].problems)).collect();
        assert_eq!(self.world.config.in_sync.len(), 2, "I5 {:?} {told:?}", self.world.config);
        assert!((0..2).any(|n| self.world.status(n).serving), "I6");
        assert!(self.world.equal(), "I3");
        for n in 0..2 {
            self.world.tell_config(n);
            self.world.run(500);
            let replica = self.world.nodes[n].replica.as_ref().unwrap();
            assert!(replica.is_rewritten(), "node {n} has records of an older version");
            // Where the bitmap has left pages behind (S22), they stay what they were.
            let versions = self.world.versions(n);
            let same = versions == BTreeSet::from([self.world.version]);
            assert!(self.grows && versions.contains(&self.world.version) || same, "{versions:?}");
        }
        for (block, register) in &self.registers {
            let at = usize::try_from(*block).unwrap() * BLOCK;
            let value = self.world.nodes[0].data.get(at).copied().unwrap_or(0);
            assert!(
                register.possible.contains(&value),
                "I4: block {block} holds {value}, not {:?}",
                register.possible
            );
        }
    }
}

fn walk(seed: u64, rule: Sabotage) {
    let mut walk = Walk::new(seed);
    walk.world.sabotage = rule;
    walk.world.break_rule(0);
    walk.world.break_rule(1);
    for _ in 0..3 {
        for _ in 0..1500 {
            walk.step();
        }
        walk.heal();
    }
}

#[test]
fn random_walks_keep_every_promise() {
    let first: u64 = std::env::var("SEED").map_or(1, |seed| seed.parse().unwrap());
    let count: u64 = std::env::var("SEEDS").map_or(24, |count| count.parse().unwrap());
    for seed in first..first + count {
        let result = std::panic::catch_unwind(|| walk(seed, Sabotage::None));
        assert!(result.is_ok(), "seed {seed}");
    }
}

/// The checks are worth something: each broken rule is noticed.
#[cfg(feature = "sabotage")]
#[test]
fn every_broken_rule_is_caught() {
    for rule in [
        Sabotage::AnswerWithoutShrink,
        Sabotage::ObeyStale,
        Sabotage::IgnoreLease,
        Sabotage::ServeAfterRestart,
        Sabotage::ForgetTargetsPart,
        Sabotage::AnswerWhileGrowing,
        Sabotage::SkipActivityLog,
        Sabotage::Overlap,
        Sabotage::ResizeWithoutRoom,
    ] {
        let caught = (1..400).find(|seed| std::panic::catch_unwind(|| walk(*seed, rule)).is_err());
        println!("{rule:?}: seed {caught:?}");
        assert!(caught.is_some(), "{rule:?}");
    }
}
