//! What was unmapped reads as zeroes on both copies, for good: at once, from the copy that was away when it happened, and
//! from the one that took it alone (S1, LBPRZ=1).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::ops::Range;
use std::time::Duration;

use futago_e2e::checker::reconnect;
use futago_e2e::demo::Demo;
use futago_e2e::initiator::{BLOCK, Session};
use futago_e2e::tools::{pattern, wait_for, work_dir};

const HEALTHY: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;
const PIECE: usize = 65536;
/// Where patterns are written: in three extents of the activity log.
const PLACES: [u64; 3] = [MIB, 21 * MIB, 45 * MIB];
/// What is unmapped of each pattern, in blocks from its start: neither end lies on a physical block.
const HOLE: Range<usize> = 3..101;

fn session(demo: &Demo) -> Session {
    reconnect(demo.portal(), &demo.iqn(), "iqn.2026-11.local.futago:unmap", 7, HEALTHY).unwrap()
}

/// UNMAP of the hole in the pattern at byte `place`.
fn unmap(session: &mut Session, place: u64) {
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend((place / BLOCK as u64 + HOLE.start as u64).to_be_bytes());
    list.extend(u32::try_from(HOLE.len()).unwrap().to_be_bytes());
    list.extend([0; 4]);
    let answer = session.command(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list, 0).unwrap();
    assert_eq!(answer.status, 0, "{answer:?}");
}

/// The first `holes` patterns have their hole, the others are whole.
fn check(demo: &Demo, holes: usize, when: &str) {
    let mut session = session(demo);
    for (index, place) in PLACES.into_iter().enumerate() {
        let mut wanted = pattern(place, PIECE);
        if index < holes {
            wanted[HOLE.start * BLOCK..HOLE.end * BLOCK].fill(0);
        }
        let found = session.read(place / BLOCK as u64, PIECE).unwrap();
        let differs = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
        assert_eq!(differs, None, "{when}: the pattern at byte {place} differs from its byte");
    }
    println!("unmap: {holes} holes {when}, served by {}", demo.primary().unwrap());
}

fn hand_over(demo: &Demo) {
    let from = demo.primary().unwrap();
    demo.ctl(&from, &["handover", "demo"]).unwrap();
    wait_for("the hand-over", HEALTHY, || (demo.primary().ok()? != from).then_some(())).unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
}

#[test]
fn what_was_unmapped_stays_zero_on_both_copies() {
    let dir = work_dir("unmap");
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let mut first = session(&demo);
    for place in PLACES {
        first.write(place / BLOCK as u64, &pattern(place, PIECE)).unwrap();
    }
    unmap(&mut first, PLACES[0]);
    drop(first);
    check(&demo, 1, "on the pair");
    hand_over(&demo);
    check(&demo, 1, "on the other copy");

    // The node that serves dies; its copy still has what the survivor unmaps alone.
    let victim = demo.primary().unwrap();
    demo.kill(&victim).unwrap();
    let mut alone = session(&demo);
    unmap(&mut alone, PLACES[1]);
    drop(alone);
    check(&demo, 2, "on the survivor");
    demo.start_node(&victim).unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    hand_over(&demo);
    assert_eq!(demo.primary().unwrap(), victim);
    check(&demo, 2, "on the copy that was away");

    // Both copies are there, and the one that has just answered dies.
    unmap(&mut session(&demo), PLACES[2]);
    demo.kill(&victim).unwrap();
    check(&demo, 3, "after kill -9 of who had answered");
    demo.start_node(&victim).unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    demo.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}
