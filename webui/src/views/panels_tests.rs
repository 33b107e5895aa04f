use super::*;
use crate::watch::Silence;
use base::{ByteCount, Epoch};

fn volume(name: &str, state: VolumeState) -> VolumeStatus {
    VolumeStatus {
        name: name.into(),
        size: ByteCount::gib(1),
        epoch: Epoch(4),
        primary: Some("a".into()),
        in_sync: vec!["a".into()],
        replicas: vec!["a".into(), "b".into()],
        unopened: Vec::new(),
        state,
        growth: None,
        not_grown: None,
        problems: Vec::new(),
        resync: None,
        verify: None,
        resynced_total: ByteCount(0),
        dirty: ByteCount(0),
        logged: ByteCount(0),
        block_format: control::targets::BlockFormat::Emulated,
        thin: true,
    }
}

fn seen() -> Snapshot {
    let member = |name: &str, role, online| MemberStatus {
        name: name.into(),
        role,
        online,
        address: "192.0.2.1".parse().unwrap(),
        ports: Default::default(),
        votes: true,
        serving: false,
        free: ByteCount::gib(1),
        capacity: ByteCount::gib(4),
    };
    let cluster = ClusterStatus {
        id: "1f".into(),
        generation: 1,
        leader: Some("a".into()),
        quorum: true,
        members: vec![
            member("w", Role::Witness, true),
            member("b", Role::Data, true),
            member("a", Role::Data, true),
        ],
        portal: None,
        formats: None,
    };
    let status = Status {
        node: "a".into(),
        cluster: Some(cluster),
        volumes: vec![],
        targets: vec![],
        sessions: vec![],
        services: vec![],
        problems: vec![],
    };
    Snapshot { status: Some(status), heard_at: 1_795_255_331, ..Snapshot::default() }
}

fn with(change: impl FnOnce(&mut Status)) -> Snapshot {
    let mut seen = seen();
    change(seen.status.as_mut().unwrap());
    seen
}

#[test]
fn the_worst_thing_is_said_first() {
    let title = |seen: &Snapshot| headline(seen).title;
    assert_eq!(title(&seen()), "Ready, and nothing to protect yet");
    assert_eq!(title(&with(|s| s.cluster = None)), "Node a is in no cluster yet");
    assert_eq!(title(&with(|s| s.volumes.push(volume("v", VolumeState::Healthy)))), "Everything is mirrored");
    let alone = with(|s| {
        s.volumes.push(VolumeStatus { replicas: vec!["a".into()], ..volume("v", VolumeState::Healthy) });
    });
    assert_eq!(title(&alone), "Volume v has only one copy");
    let two = with(|s| {
        s.volumes.push(volume("v", VolumeState::Healthy));
        s.cluster.as_mut().unwrap().members.remove(0);
    });
    assert_eq!(title(&two), "Mirrored, but without a witness");
    let bad = with(|s| {
        s.volumes = vec![volume("v", VolumeState::Resyncing), volume("w", VolumeState::Suspended)];
        s.cluster.as_mut().unwrap().members[1].online = false;
    });
    assert_eq!(title(&bad), "Volume w is suspended");
    let offline = with(|s| s.volumes.push(volume("v", VolumeState::Offline)));
    assert_eq!((title(&offline).as_str(), headline(&offline).state.tone), ("Volume v is offline", "bad"));
    let away = with(|s| s.cluster.as_mut().unwrap().members[1].online = false);
    assert_eq!(title(&away), "b is offline");
    assert_eq!(title(&with(|s| s.problems.push("Disk x.".into()))), "Something needs your attention");
    assert_eq!(title(&with(|s| s.cluster.as_mut().unwrap().quorum = false)), "No majority");
    let mut silent = bad;
    silent.silent = Some(Silence { since: 1_795_255_331, reason: "No answer.".into() });
    assert_eq!(title(&silent), "The present state is not known");
    assert!(headline(&silent).text.contains("2026-11-21 10:02:11 UTC"));
}

#[test]
fn stale_panels_say_so_and_offer_no_hand_over() {
    let two = |s: &mut Status| {
        s.volumes.push(VolumeStatus {
            in_sync: vec!["a".into(), "b".into()],
            ..volume("v", VolumeState::Healthy)
        });
    };
    let mut seen = with(two);
    let fresh = render(&seen).unwrap();
    assert!(fresh.volumes.contains("/volumes/v/handover") && !fresh.volumes.contains("Last known"));
    seen.silent = Some(Silence { since: 1_795_255_331, reason: "No answer.".into() });
    let stale = render(&seen).unwrap();
    assert!(stale.volumes.contains("Last known") && !stale.volumes.contains("/volumes/v/handover"));
    assert!(stale.nodes.contains("Last known"));
    assert!(fresh.headline.contains("Majority present") && !stale.headline.contains("Majority present"));
}

/// All volumes of a primary move together.
#[test]
fn a_hand_over_is_offered_only_where_it_can_be_done() {
    let both = || vec!["a".to_owned(), "b".to_owned()];
    let two = |in_sync: Vec<String>| {
        with(|s| {
            s.volumes = vec![
                VolumeStatus { in_sync: both(), ..volume("v", VolumeState::Healthy) },
                VolumeStatus { in_sync, ..volume("w", VolumeState::Healthy) },
            ];
        })
    };
    assert!(render(&two(both())).unwrap().volumes.contains("/volumes/v/handover"));
    let held_back = render(&two(vec!["a".into()])).unwrap();
    assert!(!held_back.volumes.contains("/handover") && held_back.volumes.contains("no hand-over"));
}

#[test]
fn names_are_escaped() {
    let panels = render(&with(|s| s.problems.push("<script>alert(1)</script>".into()))).unwrap();
    assert!(!panels.headline.contains("<script>"));
}

#[test]
fn a_resync_is_announced_in_tens() {
    let at = |percent| {
        let seen = with(|s| {
            let resync = ResyncStatus {
                source: "a".into(),
                target: "b".into(),
                percent,
                bytes_left: ByteCount::mib(5),
                bytes_per_s: 1 << 20,
                eta_s: Some(5),
            };
            s.volumes.push(VolumeStatus { resync: Some(resync), ..volume("v", VolumeState::Resyncing) });
        });
        render(&seen).unwrap()
    };
    assert_eq!(at(41).announce, at(49).announce);
    assert_ne!(at(49).announce, at(50).announce);
    assert!(at(41).volumes.contains("value=\"41\""));
    assert!(at(41).volumes.contains("5 s left"));
}
