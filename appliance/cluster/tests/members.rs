//! Members that leave, and the copies that go with them and come again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, dead_code)]

mod common;

use base::*;
use common::*;
use futago_cluster::*;

/// Applies and checks that the state stays sound.
fn done(state: &mut ClusterState, command: Command) -> Vec<String> {
    let outcome = state.apply(&command);
    state.validate().unwrap();
    match outcome {
        Outcome::Applied { notes } => notes.into_iter().map(|note| note.text).collect(),
        other => panic!("{command:?}: {other:?}"),
    }
}

/// Applies what is refused, in these words, and checks that it changes nothing.
fn refused(state: &mut ClusterState, command: Command, words: &str) {
    let before = state.clone();
    let Outcome::Refused(refusal) = state.apply(&command) else { panic!("{command:?}") };
    assert!(refusal.message.contains(words), "{refusal}");
    assert_eq!(*state, before);
}

fn remove(node: NodeId) -> Command {
    Command::RemoveMember { node }
}

#[test]
fn a_member_that_leaves_takes_its_copy_along_and_no_service() {
    let mut s = demo();
    done(&mut s, promote(A, 11, 1, 1));
    refused(&mut s, remove(A), "a holds the only copy of volume demo that is in sync");
    refused(&mut s, remove(NodeId(8)), "is no member");
    done(&mut s, proposal(A, 11, 1, 2, Change::Grow { add: B }));
    refused(&mut s, remove(A), "a is primary of volume demo");

    let mut with_b = s.clone();
    let told = done(&mut s, remove(B));
    assert_eq!(told, ["b left the cluster.", "Volume demo: its copy on b is given up (epoch 4)."]);
    let config = s.config(V).unwrap();
    assert_eq!((config.primary, config.primary_instance), (Some(A), InstanceId(11)), "who serves, serves on");
    assert_eq!((&config.in_sync, &config.replicas), (&set(&[A]), &set(&[A])));
    assert_eq!((config.epoch, config.reason), (Epoch(4), EpochReason::Copies));
    // What was proposed before it is void, whoever did.
    for late in [
        proposal(A, 11, 2, 3, Change::HandOver { to: B, instance: InstanceId(22), leaves: false }),
        promote(B, 22, 1, 3),
    ] {
        assert_eq!(s.apply(&late), Outcome::Stale { epoch: Epoch(4) });
    }
    let Outcome::Refused(_) = s.apply(&promote(B, 22, 2, 4)) else { panic!("b is none of the cluster") };
    refused(&mut s, remove(A), "a is the last data node");
    assert!(s.for_storage(B).is_none());

    // The other order: b stepped in first, so it is a that leaves.
    done(&mut with_b, promote(B, 22, 1, 3));
    refused(&mut with_b, remove(B), "only copy");
    done(&mut with_b, remove(A));
    assert_eq!(with_b.config(V).unwrap().primary, Some(B));
}

#[test]
fn a_volume_gets_a_copy_on_a_node_that_joins_later() {
    const C: NodeId = NodeId(4);
    let mut s = demo();
    done(&mut s, promote(A, 11, 1, 1));
    let copy = |node| Command::AddCopy { volume: V, node };
    assert_eq!(s.short_of_copies().count(), 0);
    done(&mut s, remove(B));
    assert_eq!(s.short_of_copies().count(), 0, "there is nobody to take one");
    refused(&mut s, copy(C), "is no data node");
    refused(&mut s, copy(W), "witness is no data node");
    refused(&mut s, Command::AddCopy { volume: VolumeId(1), node: A }, "does not exist");

    // Of the name and at the address of the one that left.
    let replacement = control::link::Member { node: C, ..member(B, "b", true) };
    done(&mut s, add(replacement));
    let short: Vec<_> = s.short_of_copies().map(|entry| entry.config.volume).collect();
    assert_eq!(short, [V]);
    assert_eq!(done(&mut s, copy(C)), ["Volume demo gets a copy on b (epoch 4)."]);
    let config = s.config(V).unwrap().clone();
    assert_eq!((config.in_sync, config.replicas), (set(&[A]), set(&[A, C])), "not in sync, so a resync");
    assert_eq!((config.epoch, config.primary), (Epoch(4), Some(A)));
    assert_eq!(s.short_of_copies().count(), 0);
    assert!(done(&mut s, copy(C)).is_empty(), "again");
    assert_eq!(s.config(V).unwrap().epoch, Epoch(4));
    let Outcome::Refused(_) = s.apply(&promote(C, 33, 1, 4)) else { panic!("S3") };
    done(&mut s, proposal(A, 11, 1, 4, Change::Grow { add: C }));
    const D: NodeId = NodeId(5);
    done(&mut s, add(member(D, "d", true)));
    refused(&mut s, copy(D), "has 2 copies already");
}

/// A third data node votes, and steps in for one that is removed.
#[test]
fn with_three_data_nodes_all_volumes_are_on_the_same_two() {
    const C: NodeId = NodeId(0x10);
    const SPARE: NodeId = NodeId(4);
    let mut s = demo();
    done(&mut s, remove(W));
    done(&mut s, promote(A, 11, 1, 1));
    done(&mut s, remove(B));
    done(&mut s, add(member(C, "c", true)));
    done(&mut s, Command::AddCopy { volume: V, node: C });
    // Of a lower id than c, which has a copy already.
    done(&mut s, add(member(SPARE, "spare", true)));
    let volume = |id, name: &str| Command::CreateVolume {
        id: VolumeId(id),
        name: name.into(),
        size: ByteCount::mib(4),
        write_back: false,
        presentation: Default::default(),
    };
    done(&mut s, volume(90, "second"));
    assert_eq!(s.config(VolumeId(90)).unwrap().replicas, set(&[A, C]));
    done(&mut s, remove(C));
    assert_eq!(s.nodes_for_copies(), set(&[A, SPARE]));
    done(&mut s, volume(91, "third"));
    assert_eq!(s.config(VolumeId(91)).unwrap().in_sync, set(&[A, SPARE]));
}

/// An epoch after the first says that the copies were made once, which nobody knows of a volume that was never served.
#[test]
fn a_volume_that_nobody_has_served_gets_no_copy() {
    const C: NodeId = NodeId(4);
    let mut s = demo();
    done(&mut s, remove(B));
    done(&mut s, add(member(C, "c", true)));
    assert_eq!(s.short_of_copies().count(), 0);
    refused(&mut s, Command::AddCopy { volume: V, node: C }, "no primary yet");
    let epoch = s.config(V).unwrap().epoch.0;
    done(&mut s, promote(A, 11, 1, epoch));
    assert_eq!(s.short_of_copies().count(), 1);
}
