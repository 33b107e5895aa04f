//! What a cluster does when it is used, and when nodes die.

use super::fixture::{IQN, TestNode, create_volume, eventually, serving_trio, trio};
use base::{Change, EpochReason, Formats, Levels};
use control::api::{Command, VolumeState};
use control::settings::Role;
use control::update::InUse;
use std::time::Instant;

fn epoch_reason(node: &TestNode) -> Option<EpochReason> {
    node.storage().config().map(|config| config.reason)
}

/// Adds the other data node to the in-sync set, as the primary's storage process does after a resync.
pub(super) fn grow(nodes: &[TestNode], primary: usize) {
    let other = nodes[1 - primary].storage().state().unwrap().node;
    nodes[primary].storage().propose(Change::Grow { add: other });
    eventually("both in sync", || {
        (0..2).all(|node| epoch_reason(&nodes[node]) == Some(EpochReason::Grown)).then_some(())
    });
}

#[test]
fn three_nodes_pair_and_commit() {
    let nodes = trio(20);
    for node in &nodes {
        let status = eventually("all online", || {
            let status = node.status();
            let cluster = status.cluster.as_ref()?;
            (cluster.quorum && cluster.members.len() == 3 && cluster.members.iter().all(|m| m.online))
                .then_some(status)
        });
        assert_eq!(status.node, node.settings.name);
        assert!(status.cluster.unwrap().leader.is_some());
    }
    let text = nodes[2].events().iter().map(|event| event.text.clone()).collect::<Vec<_>>().join("\n");
    assert!(text.contains("witness joined the cluster as witness."), "{text}");
    // Nothing of it can be done twice.
    let portal = "127.1.20.50:3260".parse().unwrap();
    assert_eq!(nodes[1].fails(&Command::CreateCluster { portal }).0, "exists");
    assert_eq!(nodes[1].fails(&Command::OfferPairing).0, "exists");
    // What can't be is said before anything of room.
    for (name, size, said) in [("a b", 1, "a b"), ("v", 0, "0 bytes"), ("v", u64::MAX >> 20, "62 TiB")] {
        let size = base::ByteCount::mib(size);
        let (kind, message) = nodes[0].fails(&Command::CreateVolume {
            name: name.into(),
            size,
            presentation: Default::default(),
        });
        assert!(kind == "invalid" && message.contains(said), "{message}");
    }
    // No storage process, so no room for a volume.
    let volume = create_volume(1);
    let (kind, message) = nodes[0].fails(&volume);
    assert!(kind == "unavailable" && message.contains("is not reached"), "{message}");
    assert_eq!(nodes[2].fails(&Command::DeleteTarget { iqn: IQN.into() }).0, "not_found");
}

#[test]
fn a_volume_is_served_handed_over_and_changed() {
    let (nodes, primary) = serving_trio(21);
    let other = 1 - primary;
    assert!(!nodes[other].storage().serves());
    // The first promotion leaves one in sync: nobody to hand over to.
    let hand_over = Command::HandOver { volume: "v".into(), to: None };
    assert_eq!(nodes[2].fails(&hand_over).0, "unavailable");
    grow(&nodes, primary);
    eventually("healthy", || {
        let status = nodes[2].status();
        (status.volumes[0].state == VolumeState::Healthy).then_some(())
    });
    let status = nodes[other].status();
    assert_eq!(status.volumes[0].in_sync, ["a", "b"]);
    assert_eq!(status.volumes[0].primary.as_deref(), Some(nodes[primary].settings.name.as_str()));
    assert_eq!((status.targets[0].iqn.as_str(), status.targets[0].luns[0].volume.as_str()), (IQN, "v"));
    // Asked of the witness, which has no storage at all.
    nodes[2].done(&hand_over);
    let started = Instant::now();
    eventually("the other serves", || nodes[other].storage().serves().then_some(()));
    // A clean hand-over waits for no lease to end.
    assert!(started.elapsed() < nodes[0].timing().lease, "{:?}", started.elapsed());
    assert!(!nodes[primary].storage().serves());
    // Only the primary may propose; who is refused hears of it.
    let number = nodes[primary].storage().propose(Change::Shrink { keep: [base::NodeId(1)].into() });
    let reason = eventually("refused", || {
        nodes[primary].storage().refused().into_iter().find(|(refused, _)| *refused == number)
    });
    assert!(reason.1.contains("only the primary"), "{}", reason.1);
    let text = nodes[2].fails(&Command::DeleteVolume { name: "v".into() });
    assert_eq!(text.0, "in_use");
}

/// S22.
#[test]
fn a_volume_grows_when_every_copy_has_room_and_not_at_all_if_one_has_none() {
    let (nodes, primary) = serving_trio(29);
    let other = 1 - primary;
    grow(&nodes, primary);
    let before = nodes[primary].storage().config().unwrap();
    let size = base::ByteCount::mib(128);
    let larger = Command::GrowVolume { name: "v".into(), size };
    let too_large = Command::GrowVolume { name: "v".into(), size: base::ByteCount::gib(8) };
    eventually("the space of both nodes is known", || {
        let (kind, text) = nodes[primary].fails(&too_large);
        (kind == "unavailable" && text.contains("has 1 GiB (1073741824 B) free")).then_some(())
    });
    assert_eq!(nodes[2].status().volumes[0].not_grown, None, "nothing was wanted");

    // A node turns out to have none, or no more.
    nodes[other].storage().limit_room(base::ByteCount::mib(64));
    let (kind, text) = nodes[2].fails(&larger);
    let name = nodes[other].settings.name.clone();
    assert_eq!(
        (kind.as_str(), text),
        ("unavailable", format!("volume v can't grow to 128 MiB: {name} has room for 64 MiB only"))
    );
    let status = eventually("given up everywhere", || {
        let volume = nodes[2].status().volumes.remove(0);
        volume.growth.is_none().then_some(volume)
    });
    assert_eq!(status.not_grown, Some(format!("{name} has room for 64 MiB only")));
    assert_eq!(nodes[primary].storage().config(), Some(before), "the epoch is the old one too");
    // The primary comes too late with it.
    let number = nodes[primary].storage().propose(Change::Resize { size });
    eventually("refused", || {
        nodes[primary].storage().refused().iter().any(|(n, _)| *n == number).then_some(())
    });

    nodes[other].storage().limit_room(size);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| nodes[2].done(&larger));
        eventually("both have room", || {
            let growth = nodes[2].status().volumes[0].growth.clone()?;
            assert_eq!(growth.size, size);
            (growth.ready == ["a", "b"] && growth.waiting_for.is_empty()).then_some(())
        });
        nodes[primary].storage().propose(Change::Resize { size });
        asked.join().unwrap();
    });
    let volume = nodes[2].status().volumes.remove(0);
    assert_eq!((volume.size, volume.growth, volume.not_grown), (size, None, None));
    // The node that was asked may hear of the commit before the primary's storage process does.
    eventually("the primary knows", || {
        (epoch_reason(&nodes[primary]) == Some(EpochReason::Resized)).then_some(())
    });
}

#[test]
fn the_other_takes_over_when_the_primary_dies_and_the_dead_one_returns() {
    let (mut nodes, primary) = serving_trio(22);
    let other = 1 - primary;
    grow(&nodes, primary);
    let before = nodes[other].storage().config().unwrap();
    nodes[primary].kill();
    let died = Instant::now();
    eventually("the other serves", || nodes[other].storage().serves().then_some(()));
    let pause = died.elapsed();
    println!("pause after the death of the primary: {pause:?} at time scale 150 %");
    let after = nodes[other].storage().config().unwrap();
    assert!(after.epoch > before.epoch && after.reason == EpochReason::Promoted);
    assert_eq!(after.in_sync.len(), 1);
    let status = nodes[2].status();
    let name = nodes[primary].settings.name.clone();
    assert!(status.problems.contains(&format!("{name} is not reached.")), "{:?}", status.problems);
    nodes[primary].start();
    nodes[primary].start_storage();
    let back = eventually("the dead one knows", || {
        nodes[primary].storage().config().filter(|config| config.epoch == after.epoch)
    });
    assert_eq!(back, after);
    // It is not in sync, so it never proposes itself, and gets no lease.
    std::thread::sleep(nodes[0].timing().lease * 2);
    assert!(!nodes[primary].storage().serves() && nodes[other].storage().serves());
}

#[test]
fn what_is_wrong_with_a_machine_is_known_to_all() {
    let (nodes, primary) = serving_trio(30);
    let path = nodes[primary].dir.join(control::paths::MACHINE_PROBLEMS);
    std::fs::write(&path, "The disk is lost.\n").unwrap();
    let told = format!("{}: The disk is lost.", nodes[primary].settings.name);
    for node in &nodes {
        eventually("told", || node.status().problems.contains(&told).then_some(()));
    }
    let problems = nodes[primary].status().problems;
    assert_eq!(problems.iter().filter(|problem| **problem == told).count(), 1, "{problems:?}");
    std::fs::remove_file(&path).unwrap();
    for node in &nodes {
        eventually("over", || (!node.status().problems.contains(&told)).then_some(()));
    }
}

#[test]
fn a_restarted_storage_process_is_promoted_anew() {
    let (mut nodes, primary) = serving_trio(23);
    let before = nodes[primary].storage().config().unwrap();
    nodes[primary].storage = None;
    nodes[primary].start_storage();
    eventually("it serves again", || nodes[primary].storage().serves().then_some(()));
    let after = nodes[primary].storage().config().unwrap();
    assert!(after.epoch > before.epoch && after.primary == before.primary);
    assert_ne!(after.primary_instance, before.primary_instance);
}

#[test]
fn without_a_majority_the_lease_ends() {
    let (mut nodes, primary) = serving_trio(24);
    let other = 1 - primary;
    nodes[2].kill();
    std::thread::sleep(nodes[0].timing().lease);
    assert!(nodes[primary].storage().serves(), "two of three are a majority");
    nodes[other].kill();
    std::thread::sleep(nodes[0].timing().lease + nodes[0].timing().renew);
    assert!(!nodes[primary].storage().serves());
    let status = nodes[primary].status();
    assert!(!status.cluster.unwrap().quorum);
    assert_eq!(status.volumes[0].state, VolumeState::Suspended);
    let (kind, _) = nodes[primary].fails(&Command::CreateTarget { iqn: format!("{IQN}2") });
    assert_eq!(kind, "timed_out");
    // The witness comes back: a majority again.
    nodes[2].start();
    eventually("it serves again", || nodes[primary].storage().serves().then_some(()));
}

#[test]
fn all_die_at_once_and_come_back() {
    let (mut nodes, primary) = serving_trio(25);
    grow(&nodes, primary);
    let before = nodes[primary].storage().config().unwrap();
    for node in &mut nodes {
        node.kill();
    }
    for node in &mut nodes {
        node.start();
    }
    nodes[0].start_storage();
    nodes[1].start_storage();
    let serving = eventually("one serves", || (0..2).find(|node| nodes[*node].storage().serves()));
    let after = nodes[serving].storage().config().unwrap();
    assert!(after.epoch > before.epoch && after.reason == EpochReason::Promoted);
    assert_eq!(nodes[2].status().targets[0].luns.len(), 1);
}

#[test]
fn two_nodes_without_a_witness_keep_one_voter() {
    let mut nodes = [TestNode::new(26, 11, "a", Role::Data), TestNode::new(26, 12, "b", Role::Data)];
    for node in &mut nodes {
        node.start();
    }
    nodes[0].done(&Command::CreateCluster { portal: "127.1.26.50:3260".parse().unwrap() });
    nodes[0].pair(&nodes[1]);
    nodes[1].done(&Command::CreateTarget { iqn: IQN.into() });
    // S19: b does not vote, so its death stops nothing.
    nodes[1].kill();
    nodes[0].done(&Command::DeleteTarget { iqn: IQN.into() });
    assert!(nodes[0].status().cluster.unwrap().quorum);
}

#[test]
fn a_late_node_catches_up_from_a_snapshot() {
    let mut nodes = [
        TestNode::new(27, 11, "a", Role::Data),
        TestNode::new(27, 12, "b", Role::Data),
        TestNode::new(27, 13, "witness", Role::Witness),
    ];
    for node in &mut nodes {
        node.start();
    }
    nodes[0].done(&Command::CreateCluster { portal: "127.1.27.50:3260".parse().unwrap() });
    nodes[0].done(&Command::CreateTarget { iqn: IQN.into() });
    nodes[0].compact();
    // What b needs of the log is gone: it gets the state as a snapshot, then votes.
    nodes[0].pair(&nodes[1]);
    nodes[0].pair(&nodes[2]);
    nodes[1].done(&Command::DeleteTarget { iqn: IQN.into() });
    for node in &mut nodes {
        node.kill();
        node.start();
    }
    for node in &nodes {
        eventually("the state is back", || {
            let status = node.status();
            (status.cluster?.members.len() == 3 && status.targets.is_empty()).then_some(())
        });
    }
}

/// What a node's releases understand is promised as PID 1 says it, and is shown to PID 1 of each node with what is in force.
#[test]
fn what_is_understood_is_promised_and_told() {
    let nodes = trio(28);
    let current = Formats::CURRENT;
    let mut later = current;
    later.metadata.newest += 1;
    for node in &nodes[..2] {
        node.understands(Some(later));
    }
    let promised = |in_use: &InUse| in_use.promised.map(|last| last.formats);
    let told = eventually("two promises", || {
        let in_use = nodes[2].in_use()?;
        in_use.members.iter().all(|member| member.formats == later).then_some(in_use)
    });
    assert_eq!((told.levels, promised(&told)), (Levels::NEWEST, Some(current)), "one does not know it");
    let mut names: Vec<&str> = told.members.iter().map(|member| &*member.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(nodes[0].status().cluster.unwrap().formats, Some(Levels::NEWEST));
    // One is about to go back.
    nodes[1].understands(Some(current));
    eventually("it is taken back", || (promised(&nodes[1].in_use()?) == Some(current)).then_some(()));
    // Said once more under a higher number: one that was under way can't come after it.
    let number = nodes[1].in_use().unwrap().promised.unwrap().number;
    nodes[1].understands_above(current, number);
    eventually("a promise", || (nodes[1].in_use()?.promised?.number > number).then_some(()));
    // A release on trial says nothing, and the promise stays.
    nodes[0].understands(None);
    nodes[1].understands(Some(later));
    eventually("it is promised again", || (promised(&nodes[1].in_use()?) == Some(later)).then_some(()));
    assert_eq!(promised(&nodes[0].in_use().unwrap()), Some(later));
}

#[test]
fn a_node_with_a_release_on_trial_enters_no_cluster() {
    let mut node = TestNode::new(34, 11, "a", Role::Data);
    node.start();
    node.understands(None);
    let portal = "127.1.34.50:3260".parse().unwrap();
    for command in [Command::OfferPairing, Command::CreateCluster { portal }] {
        let (kind, message) = node.fails(&command);
        assert_eq!(kind, "unavailable");
        assert!(message.contains("has not proved itself"), "{message}");
    }
    node.understands(Some(Formats::CURRENT));
    node.done(&Command::CreateCluster { portal });
    let in_use = eventually("what is in use", || node.in_use().filter(|in_use| in_use.promised.is_some()));
    assert_eq!((in_use.levels, in_use.members), (Levels::NEWEST, Vec::new()));
}

/// It was started past the cluster's back: it must not act on what it may not understand.
#[test]
fn a_manager_that_meets_a_newer_level_stops() {
    let mut node = TestNode::new(35, 11, "a", Role::Data);
    node.start();
    node.done(&Command::CreateCluster { portal: "127.1.35.50:3260".parse().unwrap() });
    let mut later = Formats::CURRENT;
    later.pool.newest += 1;
    node.understands(Some(later));
    let reason = eventually("it stops", || node.why_raft_stopped());
    assert!(reason.contains("disk labels and tables") && reason.contains("newer release"), "{reason}");
}
