//! S22 step by step: a copy crashes, or the primary is another, after every single step of a growth.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "pair/world.rs"]
mod world;

use base::{ByteCount, EpochReason};
use world::{BLOCK, World};

const OLD: ByteCount = ByteCount::mib(120);
/// Needs a further bitmap page.
const NEW: ByteCount = ByteCount::mib(128);
/// The last of the old size, and one of the further page.
const OLD_BLOCK: u64 = 30_719;
const NEW_BLOCK: u64 = 32_000;
/// Steps in which room is made: see [`World::make_room`]; at the last one it is told.
const ROOM_STEPS: usize = 4;

/// What happens to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Power cut; what the disk was working on has landed, or not.
    Crash { landed: bool },
    /// The session ends.
    Cut,
    /// The other one is promoted, as if the primary had been silent.
    Promoted,
}

struct Growth {
    world: World,
    room_steps: [usize; 2],
    wrote: bool,
    last: Option<u64>,
}

impl Growth {
    fn new() -> Self {
        let mut world = World::of(OLD).into_healthy();
        let first = world.write(0, OLD_BLOCK, 1);
        world.settle();
        assert!(world.done(0, first));
        world.wanted = Some(NEW);
        Self { world, room_steps: [0; 2], wrote: false, last: None }
    }

    /// The next thing that can happen, one disk write or frame at a time; false: nothing.
    fn step(&mut self) -> bool {
        for n in 0..2 {
            let w = &mut self.world;
            if w.nodes[n].replica.is_none() {
                continue;
            }
            if !w.wires[n].is_empty() {
                w.deliver(n);
                return true;
            }
            if !w.nodes[n].pending.is_empty() {
                w.disk(n, 0);
                return true;
            }
            if w.nodes[n].knows < w.config.epoch || w.nodes[n].wants != w.wanted {
                w.tell_config(n);
                return true;
            }
            if let Some(size) = w.lacks_room(n) {
                w.make_room(n, size, self.room_steps[n]);
                self.room_steps[n] = (self.room_steps[n] + 1) % (ROOM_STEPS + 1);
                return true;
            }
        }
        if !self.world.proposals.is_empty() {
            self.world.commit(0);
            return true;
        }
        // In the midst of it a write goes to the old part; at the end one to the new part.
        if self.world.config.size == NEW && !self.wrote {
            self.wrote = true;
            self.world.write(0, OLD_BLOCK, 2);
            return true;
        }
        let opened = self.world.nodes[0].replica.as_ref().is_some_and(|replica| replica.size() == NEW);
        if opened && self.last.is_none() {
            self.last = Some(self.world.write(0, NEW_BLOCK, 3));
            return true;
        }
        false
    }

    /// So many steps, with pauses in which time passes where nothing else can happen; false: it ended before.
    fn run(&mut self, steps: usize) -> bool {
        let mut left = steps;
        for _ in 0..100 {
            while left > 0 && self.step() {
                left -= 1;
            }
            if left == 0 {
                return true;
            }
            if self.last.is_some_and(|id| self.world.done(0, id)) {
                return false;
            }
            let now = self.world.now + std::time::Duration::from_millis(20);
            self.world.now = now;
            for n in 0..2 {
                self.world.lease(n);
                self.world.event(n, |replica, now| replica.handle_timeout(now));
            }
        }
        panic!("the growth does not end: {:?} {:?}", self.world.config, self.world.status(0));
    }

    fn strike(&mut self, n: usize, fault: Fault) {
        let w = &mut self.world;
        match fault {
            Fault::Crash { landed } => w.crash(n, || landed),
            Fault::Cut => {
                for session in w.sessions.keys().copied().collect::<Vec<_>>() {
                    w.hang_up(base::SessionId(session));
                }
            }
            Fault::Promoted => w.promote(1),
        }
        // Long enough for a shrink.
        w.run(1500);
        if w.nodes[n].replica.is_none() {
            if n == 0 {
                w.promote(1);
                w.run(2000);
            }
            w.start(n);
        }
        for _ in 0..3 {
            w.run(3000);
            if w.nodes.iter().all(|node| w.config.primary_instance != node.instance) {
                w.promote(0);
                w.promote(1);
            }
        }
    }

    fn check(&self, what: &str) {
        let w = &self.world;
        let told = || format!("{what}: {:?} {:?} {:?}", w.config, w.status(0), w.status(1));
        assert_eq!(w.config.in_sync.len(), 2, "I5 {}", told());
        assert!((0..2).any(|n| w.status(n).serving), "I6 {}", told());
        assert_eq!((w.config.size, w.wanted), (NEW, None), "it has not grown: {}", told());
        for n in 0..2 {
            assert_eq!((w.status(n).size, w.status(n).room), (NEW, NEW), "{}", told());
        }
        let at = |n: usize, block: u64| w.nodes[n].data[usize::try_from(block).unwrap() * BLOCK];
        for block in [OLD_BLOCK, NEW_BLOCK] {
            assert_eq!(at(0, block), at(1, block), "I3 block {block} {}", told());
        }
        assert!([1, 2].contains(&at(0, OLD_BLOCK)), "I4 {}", told());
        if self.last.is_some_and(|id| w.done(0, id)) {
            assert_eq!(at(0, NEW_BLOCK), 3, "I4 {}", told());
        }
    }
}

#[test]
fn a_volume_grows_without_a_fault() {
    let mut growth = Growth::new();
    assert!(!growth.run(usize::MAX));
    assert_eq!(growth.world.config.reason, EpochReason::Resized);
    assert_eq!(growth.world.status(0).resynced_total.0 + growth.world.status(1).resynced_total.0, 0);
    growth.check("no fault");
}

#[test]
fn a_fault_after_every_step_of_a_growth() {
    let faults = [
        (0, Fault::Crash { landed: true }),
        (0, Fault::Crash { landed: false }),
        (1, Fault::Crash { landed: true }),
        (1, Fault::Crash { landed: false }),
        (1, Fault::Cut),
        (1, Fault::Promoted),
    ];
    for (n, fault) in faults {
        let mut steps = 0;
        loop {
            let mut growth = Growth::new();
            if !growth.run(steps) {
                break;
            }
            growth.strike(n, fault);
            growth.check(&format!("node {n}, {fault:?}, after step {steps}"));
            steps += 1;
        }
        println!("node {n}, {fault:?}: {steps} steps");
        assert!(steps > 30, "a growth has more steps");
    }
}
