//! Giving a volume up in order: hand-over and stop.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "pair/world.rs"]
mod world;

use base::EpochReason;
use futago_replication::*;
use world::World;

#[test]
fn a_hand_over_is_clean_and_quick() {
    let mut w = World::healthy();
    for block in 0..20 {
        w.write(0, block * 1024, 3);
    }
    let (to, instance) = (w.nodes[1].id, w.nodes[1].instance);
    w.event(0, |r, now| r.handle_hand_over(now, to, instance));
    let parked = w.write(0, 1, 4);
    w.settle();
    assert!(matches!(w.nodes[0].replies.get(&parked), Some(Err(RequestError::NotServing))));
    w.run(200);
    assert!(w.nodes[0].hand_over_failed.is_empty(), "{:?}", w.nodes[0].hand_over_failed);
    assert!(w.status(1).serving && !w.status(0).serving);
    assert_eq!((w.config.reason, w.config.in_sync.len()), (EpochReason::HandedOver, 2));
    let id = w.write(1, 1, 6);
    w.run(100);
    assert!(w.done(1, id) && w.equal());
    assert_eq!(w.status(1).resynced_total.0, 0);
}

/// In sync, but the session is down for a moment.
fn between_sessions() -> World {
    let mut w = World::healthy();
    let session = *w.sessions.keys().next().unwrap();
    w.hang_up(base::SessionId(session));
    w
}

#[test]
fn a_hand_over_waits_for_a_session_that_is_being_opened() {
    let mut w = between_sessions();
    let (to, instance) = (w.nodes[1].id, w.nodes[1].instance);
    w.event(0, |r, now| r.handle_hand_over(now, to, instance));
    w.event(0, |r, now| r.handle_hand_over(now, to, base::InstanceId(instance.0 + 1)));
    assert_eq!(w.nodes[0].hand_over_failed, ["a hand-over or stop is under way"], "one at a time");
    w.event(0, |r, now| r.handle_hand_over(now, to, instance));
    w.run(500);
    assert!(w.status(1).serving && w.nodes[0].hand_over_failed.len() == 1, "asking again does no harm");
    assert_eq!((w.config.reason, w.config.in_sync.len()), (EpochReason::HandedOver, 2));
}

#[test]
fn a_hand_over_to_one_who_does_not_come_back_fails() {
    let mut w = World::healthy();
    let (to, instance) = (w.nodes[1].id, w.nodes[1].instance);
    w.crash(1, || true);
    w.event(0, |r, now| r.handle_hand_over(now, to, instance));
    assert!(w.nodes[0].hand_over_failed.is_empty());
    w.run(3000);
    assert_eq!(w.nodes[0].hand_over_failed.len(), 1, "{:?}", w.nodes[0].hand_over_failed);
    assert!(w.status(0).serving);
}

#[test]
fn a_hand_over_in_doubt_is_ended_by_a_later_epoch() {
    let mut w = World::healthy();
    let (to, instance) = (w.nodes[1].id, w.nodes[1].instance);
    w.no_commits = true;
    w.event(0, |r, now| r.handle_hand_over(now, to, instance));
    w.settle();
    w.run(1000);
    assert!(!w.status(0).serving && !w.status(1).serving, "S3");
    w.run(1000);
    // The hand-over is lost; the shrink that keeps everyone arrives.
    w.proposals.retain(|p| matches!(p.change, base::Change::Shrink { .. }));
    assert!(!w.proposals.is_empty());
    w.no_commits = false;
    w.run(300);
    assert!(w.status(0).serving && w.config.in_sync.len() == 2);
    assert_eq!(w.nodes[0].hand_over_failed.len(), 1);
}

#[test]
fn stopping_hands_over() {
    let mut w = World::healthy();
    w.write(0, 1, 1);
    let epoch = w.config.epoch;
    w.event(0, |r, now| r.handle_stop(now));
    w.run(500);
    assert!(w.nodes[0].stopped && w.status(1).serving);
    // One change is all that writes wait for: the peer time-out and a shrink are not.
    let id = w.write(1, 3, 3);
    w.run(50);
    assert!(w.done(1, id));
    assert_eq!((w.config.epoch, w.config.in_sync.len()), (epoch.next(), 1));
    // The last one stops with an empty log: nothing is copied afterwards but what was written.
    w.crash(0, || true);
    let id = w.write(1, 2, 2);
    w.run(1500);
    assert!(w.done(1, id));
    w.event(1, |r, now| r.handle_stop(now));
    w.run(200);
    assert!(w.nodes[1].stopped);
    w.crash(1, || false);
    w.start(1);
    w.start(0);
    w.settle();
    w.promote(1);
    w.run(3000);
    assert!(w.status(1).serving && w.equal());
    assert_eq!((w.config.in_sync.len(), w.status(1).resynced_total.0), (2, 2 * 4096));
}

#[test]
fn a_secondary_that_stops_keeps_no_writer_waiting() {
    let mut w = World::healthy();
    let epoch = w.config.epoch;
    // On its way to the peer, not confirmed.
    let id = w.write(0, 1, 1);
    assert!(!w.done(0, id));
    w.event(1, |r, now| r.handle_stop(now));
    assert!(!w.nodes[1].stopped, "until the primary goes on alone");
    w.settle();
    // No time has passed.
    assert!(w.done(0, id) && w.nodes[1].stopped);
    assert_eq!(
        (w.config.reason, w.config.epoch, w.config.in_sync.len()),
        (EpochReason::Shrunk, epoch.next(), 1)
    );
    assert!(w.nodes[0].problems.is_empty(), "{:?}", w.nodes[0].problems);
    let id = w.write(0, 2, 2);
    w.settle();
    assert!(w.done(0, id));
    // It comes back as a target, and gets no more than the extent that the log has (S7).
    w.crash(1, || true);
    w.start(1);
    w.run(3000);
    assert!(w.equal() && w.config.in_sync.len() == 2);
    assert_eq!(w.status(0).resynced_total.0, EXTENT_BYTES);
}

#[test]
fn nothing_is_answered_between_a_goodbye_and_the_commit_without_it() {
    let mut w = World::healthy();
    w.no_commits = true;
    w.event(1, |r, now| r.handle_stop(now));
    w.settle();
    let id = w.write(0, 1, 1);
    w.run(400);
    assert!(!w.done(0, id) && !w.nodes[1].stopped, "S2");
    // It does not wait for ever.
    w.run(3000);
    assert!(!w.done(0, id) && w.nodes[1].stopped);
    w.no_commits = false;
    w.run(300);
    assert!(w.done(0, id) && w.config.in_sync.len() == 1);
}

#[test]
fn a_goodbye_that_is_lost_is_silence() {
    let mut w = World::healthy();
    w.cut = true;
    w.event(1, |r, now| r.handle_stop(now));
    w.settle();
    let id = w.write(0, 1, 1);
    w.run(400);
    assert!(!w.done(0, id));
    w.run(1500);
    assert!(w.done(0, id) && w.config.in_sync.len() == 1 && w.nodes[1].stopped);
}
