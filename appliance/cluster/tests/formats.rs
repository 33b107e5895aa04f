//! Levels follow from promises; whatever the order of updates, no node meets a version that it does not understand.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code)]
mod common;

use base::{Format, Formats, Levels, NodeId, Versions};
use common::{A, B, W, add, demo, member};
use futago_cluster::*;

/// Release number `n`: each one writes a version more than the one before it, and still reads that one's.
fn release(n: u16) -> Formats {
    let mut formats = Formats::CURRENT;
    for format in Format::ALL {
        let newest = formats.of(format).oldest + n;
        let oldest = formats.of(format).oldest + n.saturating_sub(1);
        *formats.of_mut(format) = Versions { oldest, newest };
    }
    formats
}

fn levels(n: u16) -> Levels {
    let Levels { metadata, pool, state } = Levels::OLDEST;
    Levels { metadata: metadata + n, pool: pool + n, state: state + n }
}

fn promise(node: NodeId, number: u64, formats: Formats) -> Command {
    Command::Promise { node, number, formats }
}

fn refused(state: &mut ClusterState, command: &Command) -> String {
    let before = state.clone();
    let Outcome::Refused(refusal) = state.apply(command) else { panic!("{command:?} was taken") };
    assert_eq!(*state, before);
    refusal.to_string()
}

fn notes(outcome: Outcome) -> Vec<String> {
    let Outcome::Applied { notes } = outcome else { panic!("{outcome:?}") };
    notes.into_iter().map(|note| note.text).collect()
}

/// A cluster of release 0.
fn of_the_first() -> ClusterState {
    let mut state = demo();
    let Levels { metadata, pool, state: version } = Levels::OLDEST;
    (state.version, state.metadata_version, state.pool_version) = (version, metadata, pool);
    for promise in state.promises.values_mut() {
        promise.formats = release(0);
    }
    state
}

#[test]
fn a_level_rises_when_the_last_member_has_promised_it() {
    let mut state = of_the_first();
    for node in [A, B] {
        assert!(notes(state.apply(&promise(node, 1, release(1)))).is_empty());
        assert_eq!(state.levels(), levels(0), "one release is older");
    }
    // It has one of the formats alone.
    let mut half = release(0);
    half.metadata = release(1).metadata;
    let told = notes(state.apply(&promise(W, 1, half)));
    assert!(told.len() == 1 && told[0].contains("replica metadata"), "{told:?}");
    assert_eq!(state.levels(), Levels { metadata: levels(1).metadata, ..levels(0) });
    assert_eq!(notes(state.apply(&promise(W, 2, release(1)))).len(), 2);
    assert_eq!(state.levels(), levels(1));
    assert_eq!(state.for_storage(A).unwrap().levels, levels(1));
}

#[test]
fn what_is_in_force_can_t_be_taken_back_and_what_is_not_can() {
    let mut state = of_the_first();
    state.apply(&promise(A, 1, release(1)));
    state.apply(&promise(A, 2, release(0)));
    state.apply(&promise(B, 1, release(1)));
    state.apply(&promise(W, 1, release(1)));
    assert_eq!(state.levels(), levels(0), "a has taken it back");
    assert!(refused(&mut state, &promise(A, 1, release(1))).contains("came after"), "a late message");
    assert!(refused(&mut state, &promise(A, 2, release(1))).contains("came after"), "one that came twice");
    state.apply(&promise(A, 3, release(1)));
    assert_eq!(state.levels(), levels(1));
    let error = refused(&mut state, &promise(A, 4, release(0)));
    assert!(error.contains("the release of a does not know version"), "{error}");
    assert!(refused(&mut state, &promise(A, 4, release(3))).contains("does not know"), "it knows it no more");
    assert!(refused(&mut state, &promise(NodeId(9), 1, release(1))).contains("no member"));
    let mut nothing = release(1);
    nothing.pool = Versions { oldest: 5, newest: 4 };
    assert!(refused(&mut state, &promise(A, 4, nothing)).contains("understands nothing"));
}

#[test]
fn a_new_member_has_to_understand_what_is_in_force_and_holds_the_next_level_up() {
    let mut state = of_the_first();
    state.apply(&Command::RemoveMember { node: W });
    for node in [A, B] {
        state.apply(&promise(node, 1, release(1)));
    }
    assert_eq!(state.levels(), levels(1));
    let join = |formats| Command::AddMember { member: member(W, "witness", false), formats };
    let error = refused(&mut state, &join(release(0)));
    assert!(error.contains("the release of witness does not know version"), "{error}");
    assert!(matches!(state.apply(&join(release(1))), Outcome::Applied { .. }));
    for node in [A, B] {
        state.apply(&promise(node, 2, release(2)));
    }
    assert_eq!(state.levels(), levels(1));
    let told = notes(state.apply(&Command::RemoveMember { node: W }));
    assert!(told[0].contains("left") && told.len() == 4, "{told:?}");
    assert_eq!(state.levels(), levels(2), "it was the last one that lacked it");
    assert!(!state.promises.contains_key(&W));
}

#[test]
fn a_cluster_begins_with_what_its_first_node_writes() {
    let state = demo();
    assert_eq!(state.levels(), Levels::NEWEST);
    let mut later = ClusterState::default();
    later.apply(&Command::CreateCluster {
        id: base::ClusterId(7),
        portal: "127.0.0.50:3260".parse().unwrap(),
        time_scale_percent: 100,
        first: member(A, "a", true),
        formats: release(3),
    });
    later.validate().unwrap();
    assert_eq!(later.levels(), levels(3), "not what the node that applies it would choose");
    assert!(refused(&mut later, &add(member(B, "b", true))).contains("update it first"));
}

#[test]
fn a_command_is_not_proposed_before_all_know_it() {
    let mut state = demo();
    let command = promise(A, 1, release(0));
    assert_eq!(state.admits(&command), Ok(()));
    state.version = command.since() - 1;
    assert!(state.admits(&command).unwrap_err().to_string().contains("update them first"));
}

#[test]
fn a_state_that_contradicts_its_promises_is_found() {
    let mut state = demo();
    state.promises.insert(NodeId(9), Promise { number: 0, formats: Formats::CURRENT });
    assert!(state.validate().unwrap_err().to_string().contains("no member"));
    let mut state = demo();
    state.promises.get_mut(&A).unwrap().formats.pool = Versions::only(Levels::OLDEST.pool + 9);
    assert!(state.validate().unwrap_err().to_string().contains("a has not promised"));
    let mut state = demo();
    assert_eq!(state.check_levels(), Ok(()));
    state.metadata_version = Levels::NEWEST.metadata + 1;
    assert!(state.check_levels().unwrap_err().to_string().contains("replica metadata is in force"));
}

/// A node with two slots, as PID 1 and its cluster manager treat them.
#[derive(Clone)]
struct Node {
    id: NodeId,
    running: u16,
    /// The one in the other slot.
    idle: u16,
    on_trial: bool,
    /// An older or newer release that waits for the promise to be committed.
    installing: Option<u16>,
    /// It is installed: the next start takes it.
    next: Option<u16>,
    said: Option<Formats>,
    /// It is to be promised under a higher number than this.
    above: Option<u64>,
    /// So much of the log is applied here.
    applied: usize,
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

struct Model {
    nodes: [Node; 3],
    /// The state after each entry of the log.
    log: Vec<ClusterState>,
    sent: Vec<Command>,
}

impl Model {
    fn new() -> Self {
        let node = |id| Node {
            id,
            running: 0,
            idle: 0,
            on_trial: false,
            installing: None,
            next: None,
            said: Some(release(0)),
            above: None,
            applied: 0,
        };
        Self { nodes: [A, B, W].map(node), log: vec![of_the_first()], sent: Vec::new() }
    }

    fn seen(&self, n: usize) -> &ClusterState {
        &self.log[self.nodes[n].applied]
    }

    /// What runs on a node reads what the node has written: whatever was in force up to now as the node knows it.
    fn check(&self, n: usize) {
        let node = &self.nodes[n];
        let lack = release(node.running).lack(&self.seen(n).levels());
        assert_eq!(lack, None, "node {n} runs release {}", node.running);
    }

    fn begin(&mut self, n: usize, wanted: u16) {
        let node = &self.nodes[n];
        let free = !node.on_trial && node.installing.is_none() && node.next.is_none();
        if free && release(wanted).lack(&self.seen(n).levels()).is_none() {
            let (own, last) = (release(self.nodes[n].running), self.seen(n).promises[&self.nodes[n].id]);
            let both = own.common(&release(wanted));
            let node = &mut self.nodes[n];
            (node.installing, node.said) = (Some(wanted), Some(both));
            node.above = (both != own).then_some(last.number);
        }
    }

    /// The end of an installation, if it can end.
    fn install(&mut self, n: usize) {
        let Some(wanted) = self.nodes[n].installing else { return };
        let seen = self.seen(n);
        let last = seen.promises[&self.nodes[n].id];
        let own = release(self.nodes[n].running);
        let both = own.common(&release(wanted));
        let refused = release(wanted).lack(&seen.levels()).is_some();
        let is_later = self.nodes[n].above.is_some_and(|above| last.number > above);
        let taken_back = both == own || (is_later && last.formats == both);
        let node = &mut self.nodes[n];
        if refused {
            (node.installing, node.above) = (None, None);
            node.said = Some(release(node.running));
        } else if taken_back {
            (node.installing, node.next) = (None, Some(wanted));
        }
    }

    fn start(&mut self, n: usize, fails: bool) {
        let node = &mut self.nodes[n];
        (node.installing, node.above) = (None, None);
        match node.next.take() {
            Some(next) => {
                (node.idle, node.running, node.on_trial, node.said) = (node.running, next, true, None);
            }
            // All its tries were in vain.
            None if node.on_trial && fails => {
                (node.idle, node.running) = (node.running, node.idle);
                (node.on_trial, node.said) = (false, Some(release(node.running)));
            }
            None if node.on_trial => node.said = None,
            None => node.said = Some(release(node.running)),
        }
    }

    fn step(&mut self, dice: &mut Dice) {
        let n = dice.below(3);
        match dice.below(12) {
            0 => {
                let by = u16::try_from(dice.below(4)).unwrap();
                let wanted = (self.nodes[n].running + by).saturating_sub(1);
                self.begin(n, wanted);
            }
            1 | 2 => self.install(n),
            // Most starts are those that an update asked for.
            3 if self.nodes[n].next.is_some() || dice.below(6) == 0 => {
                let fails = dice.below(2) == 0;
                self.start(n, fails);
            }
            4 if self.nodes[n].on_trial => {
                let node = &mut self.nodes[n];
                (node.on_trial, node.said) = (false, Some(release(node.running)));
            }
            5 | 6 => {
                let (node, last) = (&self.nodes[n], self.seen(n).promises[&self.nodes[n].id]);
                let is_new = |said: &Formats| {
                    *said != last.formats || node.above.is_some_and(|above| last.number <= above)
                };
                if let Some(formats) = node.said.filter(is_new) {
                    self.sent.push(promise(node.id, last.number + 1, formats));
                }
            }
            // In any order, some never, some twice.
            7 | 8 if self.sent.len() > 8 => drop(self.sent.swap_remove(dice.below(self.sent.len()))),
            7 | 8 if !self.sent.is_empty() => {
                let at = dice.below(self.sent.len());
                let command =
                    if dice.below(4) == 0 { self.sent[at].clone() } else { self.sent.swap_remove(at) };
                let mut state = self.log.last().unwrap().clone();
                state.apply(&command);
                self.log.push(state);
            }
            9..12 => {
                let left = self.log.len() - self.nodes[n].applied;
                self.nodes[n].applied += dice.below(left);
            }
            _ => {}
        }
        self.check(n);
    }
}

/// Nodes are updated, fall back and are taken back in any order, messages are late, lost or come twice, and what is committed
/// is heard of late.
#[test]
fn no_node_meets_a_version_that_it_does_not_understand() {
    let mut highest = 0;
    for seed in 1..400 {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mut model = Model::new();
        for _ in 0..2500 {
            model.step(&mut dice);
        }
        highest = highest.max(model.log.last().unwrap().levels().metadata - levels(0).metadata);
    }
    assert!(highest >= 3, "levels rise: {highest}");
}
