//! Volumes that two nodes serve come together on one.
#![allow(clippy::unwrap_used, dead_code)]

mod common;

use base::*;
use common::{A, B, V, demo, set};
use control::settings::Timing;
use core::time::Duration;
use futago_cluster::placement::{Placement, gathering_node, is_parted};
use futago_cluster::{ClusterState, Command, Outcome};

const OTHER: VolumeId = VolumeId(10);

/// `demo` on a, in sync on `demo_in_sync`; `other` on b, in sync on `other_in_sync`.
fn parted(demo_in_sync: &[NodeId], other_in_sync: &[NodeId]) -> ClusterState {
    let mut state = demo();
    let create = Command::CreateVolume {
        id: OTHER,
        name: "other".into(),
        size: ByteCount::mib(64),
        write_back: false,
        presentation: control::targets::Presentation::default(),
    };
    assert!(matches!(state.apply(&create), Outcome::Applied { .. }));
    for (id, primary, in_sync) in [(V, A, demo_in_sync), (OTHER, B, other_in_sync)] {
        let config = &mut state.volumes.get_mut(&id).unwrap().config;
        (config.primary, config.primary_instance, config.in_sync) =
            (Some(primary), InstanceId(1), set(in_sync));
    }
    state.validate().unwrap();
    state
}

fn at(ms: u64) -> Monotonic {
    Monotonic::default() + Duration::from_millis(ms)
}

#[test]
fn together_there_is_nothing_to_gather() {
    let state = demo();
    assert!(!is_parted(&state));
    assert_eq!(gathering_node(&state), None);
}

#[test]
fn they_gather_where_every_copy_is_in_sync() {
    assert_eq!(gathering_node(&parted(&[A, B], &[B])), Some(B));
    assert_eq!(gathering_node(&parted(&[A], &[A, B])), Some(A));
    assert_eq!(gathering_node(&parted(&[A, B], &[A, B])), Some(A), "by name where both could");
    let hopeless = parted(&[A], &[B]);
    assert!(is_parted(&hopeless));
    assert_eq!(gathering_node(&hopeless), None);
}

#[test]
fn only_the_other_node_moves_and_only_in_calm() {
    let timing = Timing::at_scale(100);
    let state = parted(&[A, B], &[B]);
    let (mut a, mut b) = (Placement::new(A, timing), Placement::new(B, timing));
    assert_eq!(a.poll(at(1_000), &state), None);
    assert_eq!(a.poll(at(4_900), &state), None, "still settling");
    assert_eq!(a.poll(at(5_000), &state), Some((V, B)));
    assert_eq!(a.poll(at(5_500), &state), None, "asked just now");
    assert_eq!(a.poll(at(9_000), &state), Some((V, B)), "nothing came of it");
    assert_eq!(b.poll(at(1_000), &state), None);
    assert_eq!(b.poll(at(20_000), &state), None, "b has them already");

    let mut changed = state.clone();
    changed.volumes.get_mut(&OTHER).unwrap().config.epoch = Epoch(5);
    assert_eq!(a.poll(at(20_000), &changed), None, "a change starts the wait anew");
}
