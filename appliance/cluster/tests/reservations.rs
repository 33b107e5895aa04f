//! Persistent reservations: committed in their epoch alone, by its primary, once (S15, S21).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, dead_code)]

mod common;

use base::*;
use common::*;
use futago_cluster::*;

fn port(name: &str) -> InitiatorPort {
    InitiatorPort { name: name.into(), isid: [0x80, 0, 0, 0, 0, 1] }
}

/// One registration with that key.
fn state(revision: u64, key: u64) -> Reservations {
    Reservations {
        revision,
        generation: 1,
        registrations: vec![Registration { port: port("iqn.2026-01.test:a"), key }],
        reservation: Some(Reservation {
            kind: ReservationType::WriteExclusive,
            holder: Some(port("iqn.2026-01.test:a")),
        }),
    }
}

fn reserve(proposer: NodeId, instance: u64, number: u64, expected: u64, next: Reservations) -> Command {
    let id = ProposalId { proposer, instance: InstanceId(instance), number };
    Command::Reserve(ReservationProposal { id, volume: V, expected: Epoch(expected), next })
}

/// Volume `demo` in epoch 2, node a is primary with instance 11.
fn served() -> ClusterState {
    let mut state = demo();
    state.apply(&promote(A, 11, 1, 1));
    state
}

fn apply(cluster: &mut ClusterState, command: Command) -> Outcome {
    let before = cluster.clone();
    let outcome = cluster.apply(&command);
    cluster.validate().unwrap();
    if !matches!(outcome, Outcome::Applied { .. }) {
        assert_eq!(*cluster, before, "what does not apply changes nothing");
    }
    outcome
}

fn committed(cluster: &ClusterState) -> &Reservations {
    &cluster.volumes[&V].reservations.state
}

fn is_refused(outcome: &Outcome, word: &str) -> bool {
    matches!(outcome, Outcome::Refused(refusal) if refusal.message.contains(word))
}

#[test]
fn a_change_is_committed_and_the_epoch_stays() {
    let mut cluster = served();
    assert_eq!(
        apply(&mut cluster, reserve(A, 11, 1, 2, state(1, 5))),
        Outcome::Applied { notes: Vec::new() }
    );
    assert_eq!((committed(&cluster), cluster.config(V).unwrap().epoch), (&state(1, 5), Epoch(2)));
    let told = cluster.for_storage(B).unwrap();
    assert_eq!(told.volumes[0].reservations.state, state(1, 5));
    assert_eq!(told.volumes[0].reservations.made_by.map(|id| id.number), Some(1));
}

#[test]
fn another_epoch_or_another_process_is_refused() {
    let mut cluster = served();
    for expected in [1, 3] {
        let outcome = apply(&mut cluster, reserve(A, 11, 1, expected, state(1, 5)));
        assert_eq!(outcome, Outcome::Stale { epoch: Epoch(2) });
    }
    for (proposer, instance) in [(B, 22), (B, 11), (A, 10)] {
        let outcome = apply(&mut cluster, reserve(proposer, instance, 1, 2, state(1, 5)));
        assert!(is_refused(&outcome, "not the primary"), "{outcome:?}");
    }
    // A change that was under way while another node became primary comes too late.
    apply(&mut cluster, proposal(A, 11, 1, 2, Change::Grow { add: B }));
    apply(&mut cluster, promote(B, 22, 1, 3));
    let outcome = apply(&mut cluster, reserve(A, 11, 2, 3, state(1, 5)));
    assert_eq!(outcome, Outcome::Stale { epoch: Epoch(4) });
    assert_eq!(committed(&cluster), &Reservations::default());
}

#[test]
fn a_repeated_number_applies_once() {
    let mut cluster = served();
    let first = reserve(A, 11, 1, 2, state(1, 5));
    apply(&mut cluster, first.clone());
    assert_eq!(apply(&mut cluster, first.clone()), Outcome::Repeated { made: Some(Epoch(2)) });
    // Read back by number after the epoch has changed, too.
    apply(&mut cluster, proposal(A, 11, 1, 2, Change::Grow { add: B }));
    assert_eq!(apply(&mut cluster, first.clone()), Outcome::Repeated { made: Some(Epoch(3)) });
    apply(&mut cluster, reserve(A, 11, 2, 3, state(2, 6)));
    assert!(matches!(apply(&mut cluster, first), Outcome::Stale { .. }), "after a later one it is nothing");
    assert_eq!(committed(&cluster), &state(2, 6));
}

#[test]
fn of_two_changes_of_one_revision_one_applies() {
    let mut cluster = served();
    apply(&mut cluster, reserve(A, 11, 1, 2, state(1, 5)));
    let outcome = apply(&mut cluster, reserve(A, 11, 2, 2, state(1, 6)));
    assert!(is_refused(&outcome, "revision"), "{outcome:?}");
    let outcome = apply(&mut cluster, reserve(A, 11, 3, 2, state(3, 6)));
    assert!(is_refused(&outcome, "revision"), "{outcome:?}");
    assert_eq!(committed(&cluster), &state(1, 5));
}

#[test]
fn unsound_reservations_are_refused_and_found() {
    let mut cluster = served();
    let outcome = apply(&mut cluster, reserve(A, 11, 1, 2, state(1, 0)));
    assert!(is_refused(&outcome, "key 0"), "{outcome:?}");
    cluster.volumes.get_mut(&V).unwrap().reservations.state = state(1, 0);
    assert!(cluster.validate().unwrap_err().0.contains("key 0"));
}

#[test]
fn they_survive_a_snapshot_and_a_new_primary() {
    let mut cluster = served();
    apply(&mut cluster, reserve(A, 11, 1, 2, state(1, u64::MAX)));
    apply(&mut cluster, proposal(A, 11, 1, 2, Change::Grow { add: B }));
    let json = serde_json::to_string(&cluster).unwrap();
    let mut restored: ClusterState = serde_json::from_str(&json).unwrap();
    restored.validate().unwrap();
    assert_eq!(restored, cluster);
    apply(&mut restored, promote(B, 22, 1, 3));
    assert_eq!(restored.for_storage(B).unwrap().volumes[0].reservations.state, state(1, u64::MAX));
    // The new primary goes on from there.
    let outcome = apply(&mut restored, reserve(B, 22, 1, 4, state(2, 7)));
    assert!(matches!(outcome, Outcome::Applied { .. }));
}
