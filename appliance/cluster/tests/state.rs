//! What the voters agree on, and who may change it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, dead_code)]

mod common;

use base::*;
use common::*;
use futago_cluster::*;

fn kind(outcome: &Outcome) -> Option<RefusalKind> {
    match outcome {
        Outcome::Refused(refusal) => Some(refusal.kind),
        _ => None,
    }
}

/// Applies and checks that the state stays sound, and unchanged in what counts if refused.
fn apply(state: &mut ClusterState, command: Command) -> Outcome {
    let before = state.clone();
    let outcome = state.apply(&command);
    state.validate().unwrap();
    if !matches!(outcome, Outcome::Applied { .. }) {
        assert_eq!(before.config(V), state.config(V));
        assert_eq!((&before.members, &before.targets), (&state.members, &state.targets));
    }
    outcome
}

#[test]
fn a_volume_lives_through_its_epochs() {
    let mut s = demo();
    assert_eq!(s.config(V).unwrap().in_sync, set(&[A, B]));
    assert!(matches!(apply(&mut s, promote(A, 11, 1, 1)), Outcome::Applied { .. }));
    let c = s.config(V).unwrap();
    assert_eq!((c.epoch, c.primary, c.primary_instance), (Epoch(2), Some(A), InstanceId(11)));
    assert_eq!((c.in_sync.clone(), c.reason), (set(&[A]), EpochReason::Promoted));

    assert!(matches!(apply(&mut s, proposal(A, 11, 1, 2, Change::Grow { add: B })), Outcome::Applied { .. }));
    assert_eq!(s.config(V).unwrap().in_sync, set(&[A, B]));
    let hand_over = Change::HandOver { to: B, instance: InstanceId(22), leaves: false };
    assert!(matches!(apply(&mut s, proposal(A, 11, 2, 3, hand_over)), Outcome::Applied { .. }));
    let c = s.config(V).unwrap();
    assert_eq!((c.primary, c.primary_instance, c.reason), (Some(B), InstanceId(22), EpochReason::HandedOver));
    assert_eq!(c.in_sync, set(&[A, B]), "a hand-over is clean: nobody leaves");
    let mut left = s.clone();
    let leaving = Change::HandOver { to: A, instance: InstanceId(11), leaves: true };
    assert!(matches!(apply(&mut left, proposal(B, 22, 1, 4, leaving)), Outcome::Applied { .. }));
    let c = left.config(V).unwrap();
    assert_eq!((c.primary, c.in_sync.clone()), (Some(A), set(&[A])), "but for one that ends");

    let shrunk = apply(&mut s, proposal(B, 22, 1, 4, Change::Shrink { keep: set(&[B]) }));
    let Outcome::Applied { notes } = shrunk else { panic!("{shrunk:?}") };
    assert_eq!(notes[0].text, "Volume demo: b goes on without its peer (epoch 5, in sync: b).");
    // S2: the epoch rises even if the set reads so already. The event list has it once.
    let again = apply(&mut s, proposal(B, 22, 2, 5, Change::Shrink { keep: set(&[B]) }));
    assert_eq!(again, Outcome::done());
    assert_eq!(s.config(V).unwrap().epoch, Epoch(6));
    // A delayed grow from before is dead.
    assert_eq!(
        apply(&mut s, proposal(B, 22, 3, 5, Change::Grow { add: A })),
        Outcome::Stale { epoch: Epoch(6) }
    );
    let size = ByteCount::mib(128);
    apply(&mut s, Command::GrowVolume { name: "demo".into(), size });
    assert!(matches!(apply(&mut s, proposal(B, 22, 4, 6, Change::Resize { size })), Outcome::Applied { .. }));
    let c = s.config(V).unwrap();
    assert_eq!((c.size, c.epoch, c.reason), (size, Epoch(7), EpochReason::Resized));
    assert_eq!(s.volume_named("demo").unwrap().wanted_size, None, "it has it");
}

#[test]
fn who_may_not_propose_what() {
    let mut s = demo();
    apply(&mut s, promote(A, 11, 1, 1));
    let cases = [
        ("not in sync", promote(B, 22, 1, 2)),
        ("already primary", promote(A, 11, 2, 2)),
        ("witness", promote(W, 33, 1, 2)),
        ("grow by the other", proposal(B, 22, 1, 2, Change::Grow { add: B })),
        ("grow by an old process", proposal(A, 10, 1, 2, Change::Grow { add: B })),
        ("grow of the primary", proposal(A, 11, 1, 2, Change::Grow { add: A })),
        ("grow of a witness", proposal(A, 11, 2, 2, Change::Grow { add: W })),
        ("shrink that grows", proposal(A, 11, 3, 2, Change::Shrink { keep: set(&[A, B]) })),
        ("shrink without the primary", proposal(A, 11, 4, 2, Change::Shrink { keep: set(&[]) })),
        ("shrink by an old process", proposal(A, 10, 2, 2, Change::Shrink { keep: set(&[A]) })),
        (
            "hand-over out of sync",
            proposal(A, 11, 5, 2, Change::HandOver { to: B, instance: InstanceId(22), leaves: false }),
        ),
        (
            "hand-over to itself",
            proposal(A, 11, 6, 2, Change::HandOver { to: A, instance: InstanceId(12), leaves: false }),
        ),
    ];
    for (what, command) in cases {
        assert_eq!(kind(&apply(&mut s, command)), Some(RefusalKind::Refused), "{what}");
    }
    let shrink = proposal(A, 11, 7, 2, Change::Resize { size: ByteCount::mib(1) });
    assert_eq!(kind(&apply(&mut s, shrink)), Some(RefusalKind::Invalid));
}

#[test]
fn a_size_comes_only_while_it_is_wanted() {
    let mut s = demo();
    apply(&mut s, promote(A, 11, 1, 1));
    let resize = |number, expected, mib| {
        proposal(A, 11, number, expected, Change::Resize { size: ByteCount::mib(mib) })
    };
    assert_eq!(kind(&apply(&mut s, resize(1, 2, 128))), Some(RefusalKind::Refused), "nobody asked for it");
    let grow = |size| Command::GrowVolume { name: "demo".into(), size };
    for (size, why) in [
        (ByteCount::mib(32), "can't become smaller"),
        (ByteCount::mib(64), "it has 64 MiB already"),
        (ByteCount(ByteCount::mib(65).0 + 512), "no multiple of 4096 B"),
        (ByteCount((62 << 40) + 4096), "the most for a volume"),
    ] {
        let Outcome::Refused(refusal) = apply(&mut s, grow(size)) else { panic!("{why}") };
        assert_eq!(refusal.kind, RefusalKind::Invalid);
        assert!(refusal.message.contains(why) && refusal.message.contains("demo"), "{}", refusal.message);
    }
    let missing = Command::GrowVolume { name: "none".into(), size: ByteCount::mib(128) };
    assert_eq!(kind(&apply(&mut s, missing)), Some(RefusalKind::NotFound));

    assert!(matches!(apply(&mut s, grow(ByteCount::mib(128))), Outcome::Applied { .. }));
    let told = |s: &ClusterState| s.for_storage(B).unwrap().volumes[0].wanted_size;
    assert_eq!((told(&s), s.config(V).unwrap().epoch), (Some(ByteCount::mib(128)), Epoch(2)));
    assert_eq!(apply(&mut s, grow(ByteCount::mib(128))), Outcome::done(), "asked again");
    assert_eq!(kind(&apply(&mut s, grow(ByteCount::mib(256)))), Some(RefusalKind::InUse));
    assert_eq!(kind(&apply(&mut s, resize(2, 2, 256))), Some(RefusalKind::Refused), "another size");

    let end = |mib| Command::EndGrowth { volume: V, size: ByteCount::mib(mib), reason: "b has none".into() };
    assert_eq!(apply(&mut s, end(256)), Outcome::done(), "of another attempt");
    assert_eq!(told(&s), Some(ByteCount::mib(128)));
    let Outcome::Applied { notes } = apply(&mut s, end(128)) else { panic!() };
    assert_eq!(notes[0].text, "Volume demo does not grow to 128 MiB, it keeps 64 MiB: b has none.");
    assert_eq!((told(&s), s.volume_named("demo").unwrap().not_grown.as_deref()), (None, Some("b has none")));
    assert_eq!(kind(&apply(&mut s, resize(3, 2, 128))), Some(RefusalKind::Refused), "too late");

    apply(&mut s, grow(ByteCount::mib(128)));
    assert_eq!(s.volume_named("demo").unwrap().not_grown, None);
    // Another epoch came first; the size is wanted still.
    apply(&mut s, proposal(A, 11, 4, 2, Change::Grow { add: B }));
    assert_eq!(apply(&mut s, resize(5, 2, 128)), Outcome::Stale { epoch: Epoch(3) });
    assert!(matches!(apply(&mut s, resize(6, 3, 128)), Outcome::Applied { .. }));
    assert_eq!((s.config(V).unwrap().size, told(&s)), (ByteCount::mib(128), None));
    // Whose room was missing learns too late.
    assert_eq!(apply(&mut s, end(128)), Outcome::done());
    assert_eq!(s.volume_named("demo").unwrap().not_grown, None);
}

#[test]
fn a_proposal_applies_at_most_once_and_can_be_read_back() {
    let mut s = demo();
    apply(&mut s, promote(A, 11, 1, 1));
    let grow = proposal(A, 11, 5, 2, Change::Grow { add: B });
    apply(&mut s, grow.clone());
    assert_eq!(apply(&mut s, grow), Outcome::Repeated { made: Some(Epoch(3)) });
    assert_eq!(
        apply(&mut s, proposal(A, 11, 4, 3, Change::Shrink { keep: set(&[A]) })),
        Outcome::Repeated { made: None },
        "an earlier number of the same process comes too late"
    );
    // A restarted process counts from 1 again.
    assert!(matches!(apply(&mut s, promote(A, 12, 1, 3)), Outcome::Applied { .. }));
    assert!(matches!(
        apply(&mut s, proposal(A, 12, 1, 4, Change::Shrink { keep: set(&[A]) })),
        Outcome::Applied { .. }
    ));
}

#[test]
fn targets_and_volumes_name_what_is_in_the_way() {
    let mut s = demo();
    let iqn = "iqn.2026-11.local.futago:demo";
    for bad in ["demo", "iqn.2026-11", "iqn.26-11.local:x", "iqn.2026-11.local:X", "eui.12", ""] {
        assert_eq!(
            kind(&apply(&mut s, Command::CreateTarget { iqn: bad.into() })),
            Some(RefusalKind::Invalid),
            "{bad}"
        );
    }
    let map = |lun, volume: &str| map_lun(iqn, lun, volume);
    assert_eq!(kind(&apply(&mut s, map(0, "demo"))), Some(RefusalKind::NotFound));
    apply(&mut s, Command::CreateTarget { iqn: iqn.into() });
    assert_eq!(kind(&apply(&mut s, Command::CreateTarget { iqn: iqn.into() })), Some(RefusalKind::Exists));
    assert_eq!(kind(&apply(&mut s, map(16384, "demo"))), Some(RefusalKind::Invalid));
    assert_eq!(kind(&apply(&mut s, map(0, "other"))), Some(RefusalKind::NotFound));
    assert!(matches!(apply(&mut s, map(0, "demo")), Outcome::Applied { .. }));
    assert_eq!(kind(&apply(&mut s, map(1, "demo"))), Some(RefusalKind::InUse));
    let Outcome::Refused(refusal) = apply(&mut s, Command::DeleteVolume { name: "demo".into() }) else {
        panic!()
    };
    assert_eq!(refusal.kind, RefusalKind::InUse);
    assert!(refusal.message.contains(iqn) && refusal.message.contains("demo"), "{refusal}");
    let Outcome::Refused(refusal) = apply(&mut s, Command::DeleteTarget { iqn: iqn.into() }) else {
        panic!()
    };
    assert_eq!(refusal.kind, RefusalKind::InUse);
    assert!(refusal.message.contains("LUN 0"), "{refusal}");
    apply(&mut s, promote(B, 22, 1, 1));
    assert_eq!(kind(&apply(&mut s, Command::RemoveMember { node: B })), Some(RefusalKind::InUse));
    assert_eq!(
        kind(&apply(&mut s, Command::UnmapLun { iqn: iqn.into(), lun: 3 })),
        Some(RefusalKind::NotFound)
    );
    apply(&mut s, Command::UnmapLun { iqn: iqn.into(), lun: 0 });
    assert!(matches!(apply(&mut s, Command::DeleteVolume { name: "demo".into() }), Outcome::Applied { .. }));
    assert!(matches!(apply(&mut s, Command::DeleteTarget { iqn: iqn.into() }), Outcome::Applied { .. }));
    apply(&mut s, Command::RemoveMember { node: B });
    assert_eq!(
        kind(&apply(&mut s, Command::RemoveMember { node: A })),
        Some(RefusalKind::InUse),
        "the last data node"
    );
}

#[test]
fn members_are_unique() {
    let mut s = ClusterState::default();
    assert_eq!(kind(&s.apply(&add(member(B, "b", true)))), Some(RefusalKind::Unavailable));
    let mut s = demo();
    assert_eq!(s.apply(&add(member(B, "b", true))), Outcome::done(), "again, equal");
    for (node, name, data) in
        [(B, "c", true), (NodeId(5), "b", true), (NodeId(5), "w2", false), (NodeId(0), "x", true)]
    {
        assert!(kind(&apply(&mut s, add(member(node, name, data)))).is_some(), "{name}");
    }
}

#[test]
fn the_state_survives_json_and_foreign_ones_are_refused() {
    let mut s = demo();
    apply(&mut s, promote(A, 11, 1, 1));
    apply(&mut s, Command::CreateTarget { iqn: "iqn.2026-11.local:x".into() });
    apply(&mut s, map_lun("iqn.2026-11.local:x", 3, "demo"));
    let json = serde_json::to_string(&s).unwrap();
    assert_eq!(serde_json::from_str::<ClusterState>(&json).unwrap(), s);
    let levels = s.levels();
    let present = format!("\"version\":{}", levels.state);
    for other in [Levels::OLDEST.state - 1, Levels::NEWEST.state + 1] {
        let foreign = json.replacen(&present, &format!("\"version\":{other}"), 1);
        let foreign = serde_json::from_str::<ClusterState>(&foreign).unwrap();
        assert!(foreign.check_levels().unwrap_err().to_string().contains(&format!("version {other}")));
    }
    assert!(serde_json::from_str::<ClusterState>(&json.replacen("\"version\"", "\"verzion\"", 1)).is_err());
    let command = proposal(A, 11, 1, 2, Change::Shrink { keep: set(&[A]) });
    let json = serde_json::to_string(&command).unwrap();
    assert_eq!(serde_json::from_str::<Command>(&json).unwrap(), command);
    assert!(matches!(s.for_storage(W), Some(c) if c.volumes.is_empty()));
}

#[test]
fn validation_finds_each_breach() {
    type Spoil = fn(&mut ClusterState);
    let cases: [(&str, Spoil); 7] = [
        ("epoch 0", |s| s.volumes.get_mut(&V).unwrap().config.epoch = Epoch(0)),
        ("in sync", |s| s.volumes.get_mut(&V).unwrap().config.in_sync.clear()),
        ("instance", |s| s.volumes.get_mut(&V).unwrap().config.primary = Some(A)),
        ("without a copy", |s| assert!(s.volumes.get_mut(&V).unwrap().config.replicas.remove(&B))),
        ("wanted size", |s| s.volumes.get_mut(&V).unwrap().wanted_size = Some(ByteCount::mib(32))),
        ("no data member", |s| drop(s.members.remove(&B))),
        ("without a cluster", |s| s.cluster = None),
    ];
    for (word, spoil) in cases {
        let mut state = demo();
        spoil(&mut state);
        assert!(state.validate().unwrap_err().to_string().contains(word), "{word}");
    }
}

/// What a later release adds would be taken in silence, and members of two releases would come to hold different states.
#[test]
fn a_proposal_with_a_field_that_is_not_known_is_refused() {
    let known = proposal(A, 11, 1, 2, Change::HandOver { to: B, instance: InstanceId(22), leaves: true });
    let text = serde_json::to_string(&known).unwrap();
    assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), known);
    let later = text.replace("\"leaves\":true", "\"leaves\":true,\"later\":1");
    assert!(later.len() > text.len());
    assert!(serde_json::from_str::<Command>(&later).unwrap_err().to_string().contains("later"));
}
