//! Persistent reservations outlive whoever serves (S15): a hand-over, a kill of the primary, the loss of every node.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use futago_e2e::checker::reconnect;
use futago_e2e::demo::Demo;
use futago_e2e::initiator::{Answer, Session};
use futago_e2e::tools::{wait_for, work_dir};

const HEALTHY: Duration = Duration::from_secs(90);
const HOLDER: &str = "iqn.2026-11.local.futago:holder";
const OTHER: &str = "iqn.2026-11.local.futago:other";
const GOOD: u8 = 0x00;
const BUSY: u8 = 0x08;
const CONFLICT: u8 = 0x18;
const HOLDER_KEY: u64 = 0x1122_3344_5566_7788;
const OTHER_KEY: u64 = 0xffff_ffff_ffff_fffe;
const EXCLUSIVE_ACCESS: u8 = 3;

fn session(demo: &Demo, name: &str) -> Session {
    reconnect(demo.portal(), &demo.iqn(), name, 7, HEALTHY).unwrap()
}

/// PERSISTENT RESERVE OUT, again while another change is under way.
fn out(session: &mut Session, action: u8, kind: u8, key: u64, service_action_key: u64) -> Answer {
    let mut list = [0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&service_action_key.to_be_bytes());
    loop {
        let answer = session.command(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], &list, 0).unwrap();
        if answer.status != BUSY {
            return answer;
        }
    }
}

/// PERSISTENT RESERVE IN.
fn ask(session: &mut Session, action: u8) -> Vec<u8> {
    let answer = session.command(&[0x5e, action, 0, 0, 0, 0, 0, 1, 0, 0], &[], 256).unwrap();
    assert_eq!(answer.status, GOOD, "{answer:?}");
    answer.data
}

fn keys(session: &mut Session) -> Vec<u64> {
    let mut keys: Vec<u64> =
        ask(session, 0)[8..].chunks(8).map(|key| u64::from_be_bytes(key.try_into().unwrap())).collect();
    keys.sort_unstable();
    keys
}

fn read(session: &mut Session) -> u8 {
    session.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[], 512).unwrap().status
}

fn write(session: &mut Session) -> u8 {
    session.command(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0x5a; 512], 0).unwrap().status
}

/// The holder has access, the other conflicts, and the state reads as it was made.
fn check(demo: &Demo, when: &str) {
    let mut holder = session(demo, HOLDER);
    let mut other = session(demo, OTHER);
    assert_eq!([read(&mut other), write(&mut other)], [CONFLICT; 2], "{when}: the other conflicts");
    assert_eq!([read(&mut holder), write(&mut holder)], [GOOD; 2], "{when}: the holder works");
    assert_eq!(keys(&mut other), [HOLDER_KEY, OTHER_KEY], "{when}");
    let reservation = ask(&mut other, 1);
    assert_eq!(reservation[8..16], HOLDER_KEY.to_be_bytes(), "{when}");
    assert_eq!(reservation[21], EXCLUSIVE_ACCESS, "{when}");
    assert_eq!(out(&mut other, 1, EXCLUSIVE_ACCESS, OTHER_KEY, 0).status, CONFLICT, "{when}");
    println!("reservations: they stand {when}");
}

#[test]
fn reservations_outlive_every_node_that_serves() {
    let dir = work_dir("reservations");
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let mut holder = session(&demo, HOLDER);
    let mut other = session(&demo, OTHER);
    assert_eq!(out(&mut holder, 0, 0, 0, HOLDER_KEY).status, GOOD);
    assert_eq!(out(&mut other, 0, 0, 0, OTHER_KEY).status, GOOD);
    assert_eq!(out(&mut holder, 1, EXCLUSIVE_ACCESS, HOLDER_KEY, 0).status, GOOD);
    let capabilities = ask(&mut holder, 2);
    assert_eq!([capabilities[2] & 0x01, capabilities[3] & 0x01], [1, 1], "PTPL_C, PTPL_A");
    drop((holder, other));
    check(&demo, "at first");

    let from = demo.primary().unwrap();
    demo.ctl(&from, &["handover", "demo"]).unwrap();
    wait_for("the hand-over", HEALTHY, || (demo.primary().ok()? != from).then_some(())).unwrap();
    check(&demo, "after a hand-over");
    demo.wait_healthy(HEALTHY).unwrap();

    let victim = demo.primary().unwrap();
    demo.kill(&victim).unwrap();
    check(&demo, "after kill -9 of the primary");
    // The node that is left takes changes, and the one that returns learns of them.
    let mut left = session(&demo, OTHER);
    assert_eq!(out(&mut left, 6, 0, 0, 5).status, GOOD);
    assert_eq!(out(&mut left, 0, 0, 5, OTHER_KEY).status, GOOD);
    demo.start_node(&victim).unwrap();
    demo.wait_healthy(HEALTHY).unwrap();

    for node in ["a", "b", "witness"] {
        demo.kill(node).unwrap();
    }
    for node in ["witness", "b", "a"] {
        demo.start_node(node).unwrap();
    }
    check(&demo, "after a total outage");
    demo.wait_healthy(HEALTHY).unwrap();

    // What was released stays released.
    let mut holder = session(&demo, HOLDER);
    assert_eq!(out(&mut holder, 3, 0, HOLDER_KEY, 0).status, GOOD, "clear");
    let primary = demo.primary().unwrap();
    demo.kill(&primary).unwrap();
    let mut other = session(&demo, OTHER);
    assert_eq!([read(&mut other), write(&mut other)], [GOOD; 2]);
    assert!(keys(&mut other).is_empty());
    demo.start_node(&primary).unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    demo.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

/// The epoch changes under a change of reservations that is under way: it is proposed anew, and answered.
#[test]
fn a_change_is_committed_while_the_peer_goes_and_comes() {
    let dir = work_dir("reservations-peer");
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let peer = Demo::other(&demo.primary().unwrap());
    let mut holder = session(&demo, HOLDER);
    let mut key = 0;
    let mut change = |holder: &mut Session| {
        assert_eq!(out(holder, 0, 0, key, key + 1).status, GOOD);
        key += 1;
        key
    };
    demo.kill(peer).unwrap();
    for _ in 0..50 {
        change(&mut holder);
        assert_eq!(write(&mut holder), GOOD);
    }
    demo.start_node(peer).unwrap();
    let mut last = 0;
    wait_for("both copies in sync", HEALTHY, || {
        last = change(&mut holder);
        (demo.volume()?["state"] == "healthy").then_some(())
    })
    .unwrap();
    println!("reservations: {last} changes while the peer went and came");
    drop(holder);
    let from = demo.primary().unwrap();
    demo.ctl(&from, &["handover", "demo"]).unwrap();
    wait_for("the hand-over", HEALTHY, || (demo.primary().ok()? != from).then_some(())).unwrap();
    assert_eq!(keys(&mut session(&demo, OTHER)), [last]);
    demo.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}
