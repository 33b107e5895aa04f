//! S5 from all three sides, liveness, and who steps in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, dead_code)]

mod common;

use base::*;
use common::*;
use control::link::{Report, VolumeReport};
use control::settings::Timing;
use futago_cluster::lease::*;
use futago_cluster::liveness::Liveness;
use futago_cluster::promotion::{HandOver, Policy, View, plan_hand_over};
use futago_cluster::*;
use std::collections::BTreeMap;
use std::time::Duration;

fn at(ms: u64) -> Monotonic {
    Monotonic(ms * 1_000_000)
}
fn clocks(ms: u64) -> Clocks {
    Clocks { boot: at(ms), host: at(ms) }
}
fn timing() -> Timing {
    Timing::at_scale(100)
}
fn served_by_a() -> ClusterState {
    let mut state = demo();
    state.apply(&promote(A, 11, 1, 1));
    state.apply(&proposal(A, 11, 1, 2, Change::Grow { add: B }));
    state
}
fn three() -> Voters {
    Voters::new([set(&[A, B, W])])
}

/// One round: requests of A at `ms`, answered by `voters_up` from their logs, delivered `delay` later.
fn round(holder: &mut Holder, ms: u64, delay: u64, up: &[(NodeId, &ClusterState, &Voters)]) {
    let requests = holder.poll_requests(clocks(ms), [A, B, W], &three(), Some(InstanceId(11)), &[V]);
    for (to, request) in requests {
        if let Some((node, state, voters)) = up.iter().find(|(node, ..)| *node == to) {
            let answer = Voter::new(*node, timing()).handle_request(
                &request,
                LogView { state, voters },
                at(ms + delay),
            );
            holder.handle_answer(&answer, clocks(ms + delay));
        }
    }
}

#[test]
fn a_lease_counts_from_sending() {
    let state = served_by_a();
    let voters = three();
    let mut holder = Holder::new(A, InstanceId(100), timing());
    round(&mut holder, 1000, 200, &[(A, &state, &voters)]);
    assert!(holder.lease(at(1200)).unwrap().volumes.is_empty(), "no majority");
    assert!(!holder.quorum(at(1200)));
    round(&mut holder, 1300, 200, &[(A, &state, &voters), (W, &state, &voters)]);
    let lease = holder.lease(at(1500)).unwrap();
    assert_eq!((lease.sent_at, lease.volumes.clone()), (at(1300), vec![V]));
    assert!(holder.quorum(at(1500)));
    let mut guard = Guard::new(InstanceId(11), timing());
    guard.handle_lease(lease, clocks(1500));
    assert_eq!(guard.valid_until(V, at(2799)), Some(at(2800)));
    assert_eq!(guard.valid_until(V, at(2800)), None);
    assert_eq!(guard.valid_until(VolumeId(1), at(1500)), None);
    assert!(holder.lease(at(2801)).unwrap().volumes.is_empty());
}

#[test]
fn an_uncommitted_promotion_stops_the_grants() {
    let state = served_by_a();
    let voters = three();
    let promoted = promote(B, 22, 1, 3);
    let ahead = state.with_uncommitted([&promoted]);
    let mut holder = Holder::new(A, InstanceId(100), timing());
    round(&mut holder, 1000, 10, &[(A, &state, &voters), (W, &ahead, &voters)]);
    assert!(holder.lease(at(1010)).unwrap().volumes.is_empty());
    // A restart of the storage process ends its grants too (S6).
    let mut restarted = state.clone();
    restarted.apply(&promote(A, 12, 2, 3));
    round(&mut holder, 1300, 10, &[(A, &state, &voters), (W, &restarted, &voters)]);
    assert!(holder.lease(at(1310)).unwrap().volumes.is_empty());
}

#[test]
fn voters_must_be_the_same_and_vote_themselves() {
    let state = served_by_a();
    let voters = three();
    let joint = Voters::new([set(&[A, B, W]), set(&[B])]);
    let without = Voters::new([set(&[A, B])]);
    let mut holder = Holder::new(A, InstanceId(100), timing());
    round(&mut holder, 1000, 10, &[(A, &state, &voters), (W, &state, &joint)]);
    round(&mut holder, 1300, 10, &[(A, &state, &voters), (W, &state, &without)]);
    assert!(holder.lease(at(1310)).unwrap().volumes.is_empty());
}

#[test]
fn a_complete_lease_outlives_a_change_of_voters_and_no_more() {
    let state = served_by_a();
    let voters = three();
    let joint = Voters::new([set(&[A, B, W]), set(&[A])]);
    let all = [(A, &state, &voters), (B, &state, &voters), (W, &state, &voters)];
    let mut holder = Holder::new(A, InstanceId(100), timing());
    round(&mut holder, 1000, 10, &all);
    let changed = |holder: &mut Holder, voters: &Voters, ms: u64| {
        holder.poll_requests(clocks(ms), [A, B, W], voters, Some(InstanceId(11)), &[V]);
    };
    // Two changes, none of whose voters has granted anything yet.
    changed(&mut holder, &joint, 1100);
    changed(&mut holder, &Voters::new([set(&[A])]), 1200);
    let lease = holder.lease(at(1200)).unwrap();
    assert_eq!((lease.sent_at, lease.volumes.as_slice()), (at(1000), [V].as_slice()));
    assert!(holder.lease(at(2501)).unwrap().volumes.is_empty(), "not renewed");
    let mut without = holder.clone();
    without.poll_requests(clocks(1300), [A], &Voters::new([set(&[A])]), Some(InstanceId(11)), &[]);
    assert!(without.lease(at(1300)).unwrap().volumes.is_empty(), "not asked for any more");
    let mut paused = holder.clone();
    paused.poll_requests(Clocks { boot: at(1300), host: at(5000) }, [A], &voters, Some(InstanceId(11)), &[V]);
    assert!(paused.lease(at(1300)).unwrap().volumes.is_empty(), "a pause ends it");
    let mut restarted = holder.clone();
    restarted.poll_requests(clocks(1300), [A], &voters, Some(InstanceId(12)), &[V]);
    assert!(restarted.lease(at(1300)).unwrap().volumes.is_empty(), "of another process");
    // A voter that has the change first refuses: what it granted before still counts, and nothing newer.
    let mut early = Holder::new(A, InstanceId(100), timing());
    round(&mut early, 1000, 10, &all);
    round(&mut early, 1300, 10, &[(A, &state, &voters), (B, &state, &joint), (W, &state, &joint)]);
    let lease = early.lease(at(1310)).unwrap();
    assert_eq!((lease.sent_at, lease.volumes.as_slice()), (at(1000), [V].as_slice()));
    assert!(early.lease(at(2501)).unwrap().volumes.is_empty());
    // One grant of three under the old voters was no lease, and does not become one.
    let mut holder = Holder::new(A, InstanceId(100), timing());
    round(&mut holder, 1000, 10, &[(A, &state, &voters)]);
    changed(&mut holder, &Voters::new([set(&[A])]), 1100);
    assert!(holder.lease(at(1100)).unwrap().volumes.is_empty());
}

#[test]
fn pauses_and_clock_steps_void_the_lease() {
    let state = served_by_a();
    let voters = three();
    let all = [(A, &state, &voters), (B, &state, &voters), (W, &state, &voters)];
    for bad in [
        Clocks { boot: at(1100), host: at(3000) }, // the guest clock stood still
        Clocks { boot: at(3000), host: at(3000) }, // nobody ran for longer than a lease
        Clocks { boot: at(1100), host: at(900) },  // stepped back
        Clocks { boot: at(1100), host: at(1300) }, // apart by more than the drift allowance
    ] {
        let mut holder = Holder::new(A, InstanceId(100), timing());
        round(&mut holder, 1000, 10, &all);
        let lease = holder.lease(at(1010)).unwrap();
        assert_eq!(lease.volumes, [V]);
        let mut guard = Guard::new(InstanceId(11), timing());
        guard.handle_lease(lease.clone(), clocks(1010));
        guard.handle_clocks(bad);
        assert_eq!(guard.valid_until(V, at(1100)), None, "{bad:?}");
        guard.handle_lease(lease, bad);
        assert_eq!(guard.valid_until(V, at(1100)), None, "one from before is told again: {bad:?}");
        holder.poll_requests(bad, [A, B, W], &voters, Some(InstanceId(11)), &[V]);
        assert!(holder.lease(bad.boot).unwrap().volumes.is_empty(), "{bad:?}");
    }
}

#[test]
fn another_storage_process_starts_without_lease() {
    let state = served_by_a();
    let voters = three();
    let all = [(A, &state, &voters), (B, &state, &voters), (W, &state, &voters)];
    let mut holder = Holder::new(A, InstanceId(100), timing());
    round(&mut holder, 1000, 10, &all);
    let lease = holder.lease(at(1010)).unwrap();
    holder.poll_requests(clocks(1100), [A], &voters, Some(InstanceId(12)), &[V]);
    assert!(holder.lease(at(1100)).unwrap().volumes.is_empty());
    let mut guard = Guard::new(InstanceId(12), timing());
    guard.handle_lease(lease, clocks(1100));
    assert_eq!(guard.valid_until(V, at(1100)), None);
}

#[test]
fn the_new_primary_waits_unless_nobody_could_serve() {
    let mut state = demo();
    state.apply(&promote(A, 11, 1, 1));
    let wait = |state: &ClusterState| WaitForOldLease::new(state.config(V).unwrap(), at(1000), &timing());
    assert!(wait(&state).over(at(1000)), "the first primary ever");
    state.apply(&proposal(A, 11, 1, 2, Change::Grow { add: B }));
    let mut handed = state.clone();
    handed.apply(&proposal(A, 11, 2, 3, Change::HandOver { to: B, instance: InstanceId(22), leaves: false }));
    assert!(wait(&handed).over(at(1000)));
    state.apply(&promote(B, 22, 1, 3));
    assert!(!wait(&state).over(at(1000 + 1574)));
    assert!(wait(&state).over(at(1000 + 1575)));
    assert_eq!(wait(&state).until(), at(2575));
}

fn sign(from: NodeId, sequence: u64, echo: u64, instance: u64) -> LeaseRequest {
    LeaseRequest {
        from,
        incarnation: InstanceId(500),
        sequence,
        echo,
        instance: Some(InstanceId(instance)),
        voters: three(),
        volumes: vec![],
    }
}

#[test]
fn the_deaf_count_as_dead() {
    let mut l = Liveness::new(timing(), at(0));
    assert!(!l.alive(A, at(1)) && !l.dead(A, at(900)) && l.dead(A, at(1001)));
    for n in 0..20 {
        l.handle_request(&sign(A, n + 1, n, 11), at(n * 300));
    }
    assert!(l.alive(A, at(5700)));
    // From now on it speaks but hears nothing.
    for n in 20..30 {
        l.handle_request(&sign(A, n + 1, 19, 11), at(n * 300));
    }
    assert!(l.dead(A, at(8700)));
    assert!(l.gone_since(A, InstanceId(11), at(8700)).is_some());
}

fn report(instance: u64, epoch: Epoch, usable: bool) -> Report {
    let volume = VolumeReport {
        volume: V,
        epoch,
        usable,
        serving: false,
        dirty: ByteCount(0),
        logged: ByteCount(0),
        resync: None,
        resynced_total: ByteCount(0),
        room: ByteCount(0),
        no_room: None,
    };
    Report { instance: InstanceId(instance), volumes: vec![volume], ..Report::default() }
}

/// Polls B's policy every 100 ms from `from` to `to`; when it first proposed, and what.
fn first_proposal(
    policy: &mut Policy,
    state: &ClusterState,
    report: &Report,
    from: u64,
    to: u64,
    mut each: impl FnMut(u64, &mut Liveness),
    liveness: &mut Liveness,
) -> Option<(u64, Proposal)> {
    for ms in (from..to).step_by(100) {
        each(ms, liveness);
        let view = View { now: at(ms), state, report: Some(report), liveness, peers: &BTreeMap::new() };
        if let Some(proposal) = policy.poll(view).pop() {
            return Some((ms, proposal));
        }
    }
    None
}

#[test]
fn the_peer_of_a_dead_primary_steps_in_within_the_budget() {
    let state = served_by_a();
    let epoch = state.config(V).unwrap().epoch;
    let mut liveness = Liveness::new(timing(), at(0));
    let mut policy = Policy::new(B, timing());
    let mut sequence = 0;
    let alive_until_3000 = |ms: u64, l: &mut Liveness| {
        if ms <= 3000 && ms.is_multiple_of(300) {
            sequence += 1;
            l.handle_request(&sign(A, sequence, sequence - 1, 11), at(ms));
        }
    };
    let found = first_proposal(
        &mut policy,
        &state,
        &report(22, epoch, true),
        0,
        9000,
        alive_until_3000,
        &mut liveness,
    );
    let (ms, proposal) = found.unwrap();
    assert!((4000..=4200).contains(&ms), "proposed at {ms}");
    let mut state = state;
    assert!(matches!(state.apply(&Command::Propose(proposal)), Outcome::Applied { .. }));
    let wait = WaitForOldLease::new(state.config(V).unwrap(), at(ms), &timing());
    assert!(wait.until().since(at(3000)) < Duration::from_millis(3000));
}

#[test]
fn nobody_steps_in_without_a_usable_copy_or_while_the_primary_lives() {
    let state = served_by_a();
    let epoch = state.config(V).unwrap().epoch;
    for (report, a_lives) in [
        (report(22, epoch, false), false),
        (report(22, Epoch(2), true), false),
        (report(22, epoch, true), true),
    ] {
        let mut liveness = Liveness::new(timing(), at(0));
        let mut policy = Policy::new(B, timing());
        let mut sequence = 0;
        let each = |ms: u64, l: &mut Liveness| {
            if a_lives && ms.is_multiple_of(300) {
                sequence += 1;
                l.handle_request(&sign(A, sequence, sequence - 1, 11), at(ms));
            }
        };
        assert_eq!(first_proposal(&mut policy, &state, &report, 0, 9000, each, &mut liveness), None);
    }
}

#[test]
fn the_peer_of_a_primary_whose_disk_failed_steps_in() {
    let state = served_by_a();
    let epoch = state.config(V).unwrap().epoch;
    let own = report(22, epoch, true);
    for (a_reports, steps_in) in [
        (report(11, epoch, false), true),
        (report(11, epoch, true), false),
        (report(10, epoch, false), false), // of another process than the one that is primary
    ] {
        let peers = BTreeMap::from([(A, a_reports)]);
        let mut liveness = Liveness::new(timing(), at(0));
        let mut policy = Policy::new(B, timing());
        let mut first = None;
        for ms in (0..6000).step_by(100) {
            liveness.handle_request(&sign(A, ms / 100 + 1, ms / 100, 11), at(ms));
            let view =
                View { now: at(ms), state: &state, report: Some(&own), liveness: &liveness, peers: &peers };
            first = first.or((!policy.poll(view).is_empty()).then_some(ms));
        }
        assert_eq!(first, steps_in.then_some(1000), "a dead time after the epoch began");
    }
}

#[test]
fn a_restarted_storage_process_goes_before_its_peer() {
    let state = served_by_a();
    let epoch = state.config(V).unwrap().epoch;
    // On A itself: at once, with the new instance.
    let liveness = Liveness::new(timing(), at(0));
    let mut policy = Policy::new(A, timing());
    let own = report(12, epoch, true);
    let view = View {
        now: at(100),
        state: &state,
        report: Some(&own),
        liveness: &liveness,
        peers: &BTreeMap::new(),
    };
    let proposals = policy.poll(view);
    assert_eq!(proposals[0].id.instance, InstanceId(12));
    assert!(policy.poll(View { now: at(200), ..view }).is_empty(), "not twice at once");
    assert_eq!(policy.poll(View { now: at(800), ..view }).len(), 1, "but again when nothing came of it");
    // On B, who sees the new instance at 3000: only when A has not stepped in for the dead time.
    let mut liveness = Liveness::new(timing(), at(0));
    let mut policy = Policy::new(B, timing());
    let mut sequence = 0;
    let each = |ms: u64, l: &mut Liveness| {
        if ms.is_multiple_of(300) {
            sequence += 1;
            l.handle_request(&sign(A, sequence, sequence - 1, if ms < 3000 { 11 } else { 12 }), at(ms));
        }
    };
    let found = first_proposal(&mut policy, &state, &report(22, epoch, true), 0, 9000, each, &mut liveness);
    assert!((4000..=4200).contains(&found.unwrap().0));
}

#[test]
fn two_candidates_do_not_duel() {
    let state = demo();
    let mut liveness = Liveness::new(timing(), at(0));
    let mut policy = Policy::new(B, timing());
    let mut sequence = 0;
    let each = |ms: u64, l: &mut Liveness| {
        if ms.is_multiple_of(300) {
            sequence += 1;
            l.handle_request(&sign(A, sequence, sequence - 1, 11), at(ms));
        }
    };
    let found =
        first_proposal(&mut policy, &state, &report(22, Epoch(1), true), 0, 9000, each, &mut liveness);
    assert_eq!(found.unwrap().0, 1000, "a goes first by name");
    let alone = Liveness::new(timing(), at(0));
    let own = report(22, Epoch(1), true);
    let view =
        View { now: at(0), state: &state, report: Some(&own), liveness: &alone, peers: &BTreeMap::new() };
    assert_eq!(Policy::new(B, timing()).poll(view).len(), 1);
}

#[test]
fn a_restarted_manager_goes_on_with_the_numbers() {
    let mut state = served_by_a();
    state.apply(&promote(B, 22, 1, 9)); // stale, but seen
    let liveness = Liveness::new(timing(), at(0));
    let own = report(22, state.config(V).unwrap().epoch, true);
    let view = View {
        now: at(5000),
        state: &state,
        report: Some(&own),
        liveness: &liveness,
        peers: &BTreeMap::new(),
    };
    assert_eq!(Policy::new(B, timing()).poll(view)[0].id.number, 2);
}

#[test]
fn hand_over_requests_are_checked() {
    let state = served_by_a();
    let both = |node: NodeId| Some(InstanceId(if node == A { 11 } else { 22 }));
    let plans = plan_hand_over(&state, "demo", None, both).unwrap();
    let only = HandOver { volume: V, primary: A, to: B, instance: InstanceId(22) };
    assert_eq!(plans, std::slice::from_ref(&only));
    assert_eq!(plan_hand_over(&state, "demo", Some("b"), both).unwrap(), [only]);
    let kind = |volume, to, storage: &dyn Fn(NodeId) -> Option<InstanceId>| {
        plan_hand_over(&state, volume, to, storage).unwrap_err().kind
    };
    assert_eq!(kind("nope", None, &both), RefusalKind::NotFound);
    assert_eq!(kind("demo", Some("nope"), &both), RefusalKind::NotFound);
    assert_eq!(kind("demo", Some("a"), &both), RefusalKind::Refused);
    assert_eq!(kind("demo", Some("witness"), &both), RefusalKind::Refused);
    assert_eq!(kind("demo", None, &|_| None), RefusalKind::Unavailable);
    assert_eq!(plan_hand_over(&demo(), "demo", None, both).unwrap_err().kind, RefusalKind::Unavailable);
}

/// All volumes are behind one portal, so none may stay behind with the old primary.
#[test]
fn a_hand_over_takes_the_other_volumes_along() {
    let mut state = served_by_a();
    let size = base::ByteCount::mib(64);
    let second = VolumeId(V.0 + 1);
    let presentation = control::targets::Presentation::default();
    let create =
        Command::CreateVolume { id: second, name: "second".into(), size, write_back: false, presentation };
    state.apply(&create);
    let storage = |node: NodeId| Some(InstanceId(if node == A { 11 } else { 22 }));
    let planned = |state: &ClusterState, volume| -> Vec<VolumeId> {
        plan_hand_over(state, volume, None, storage).unwrap().iter().map(|plan| plan.volume).collect()
    };
    assert_eq!(planned(&state, "demo"), [V], "nobody serves the second yet");

    let of_second = |number, expected, change| {
        let id = ProposalId { proposer: A, instance: InstanceId(11), number };
        Command::Propose(Proposal { id, volume: second, expected: Epoch(expected), change })
    };
    state.apply(&of_second(1, 1, Change::Promote));
    let refusal = plan_hand_over(&state, "demo", None, storage).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Refused, "{refusal:?}");
    assert!(refusal.message.contains("volume second has to go along"), "{}", refusal.message);

    state.apply(&of_second(2, 2, Change::Grow { add: B }));
    assert_eq!(planned(&state, "demo"), [V, second]);
    assert_eq!(planned(&state, "second"), [second, V], "the named one goes first");
}

#[test]
fn link_messages_survive_json() {
    let request = sign(A, 3, 2, 11);
    let json = serde_json::to_string(&request).unwrap();
    assert_eq!(serde_json::from_str::<LeaseRequest>(&json).unwrap(), request);
    let mut state = served_by_a();
    state.apply(&Command::CreateTarget { iqn: "iqn.2026-11.local:x".into() });
    state.apply(&map_lun("iqn.2026-11.local:x", 3, "demo"));
    let message = control::link::ToStorage::State(Box::new(state.for_storage(A).unwrap()));
    let json = serde_json::to_string(&message).unwrap();
    assert_eq!(serde_json::from_str::<control::link::ToStorage>(&json).unwrap(), message);
}
