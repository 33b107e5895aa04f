//! A volume grows while it is served (S22): nothing written is lost, what is added is empty, and a node that was away
//! comes back to the new size.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use futago_e2e::checker::{Load, reconnect};
use futago_e2e::demo::Demo;
use futago_e2e::initiator::{BLOCK, Session, read_write};
use futago_e2e::tools::{Random, pattern, wait_for, work_dir};

const HEALTHY: Duration = Duration::from_secs(90);
const READER: &str = "iqn.2026-11.local.futago:reader";
const MIB: u64 = 1 << 20;
const OLD: u64 = 64 * MIB;
const NEW: u64 = 160 * MIB;
/// Where patterns are written once the volume has grown: across the old end, in the midst, at the new end.
const IN_NEW_PART: [u64; 3] = [OLD - 32768, 97 * MIB + 4096, NEW - 65536];
const PIECE: usize = 65536;

fn session(demo: &Demo, qualifier: u16) -> Session {
    reconnect(demo.portal(), &demo.iqn(), READER, qualifier, HEALTHY).unwrap()
}

fn write_patterns(session: &mut Session, places: &[u64]) {
    for &place in places {
        session.write(place / BLOCK as u64, &pattern(place, PIECE)).unwrap();
    }
}

fn check_patterns(session: &mut Session, places: &[u64]) {
    for &place in places {
        let found = session.read(place / BLOCK as u64, PIECE).unwrap();
        assert!(found == pattern(place, PIECE), "the pattern at byte {place}");
    }
}

/// Everything in the new part but the patterns reads as zero.
fn check_zeroes(session: &mut Session, patterns: &[u64]) {
    for at in (OLD..NEW).step_by(PIECE) {
        let mut found = session.read(at / BLOCK as u64, PIECE).unwrap();
        for &place in patterns {
            for (offset, byte) in (at..).zip(found.iter_mut()) {
                if (place..place + PIECE as u64).contains(&offset) {
                    *byte = 0;
                }
            }
        }
        assert!(found.iter().all(|byte| *byte == 0), "bytes {at} to {} are not empty", at + PIECE as u64);
    }
}

fn wait_for_size(demo: &Demo, size: u64) {
    wait_for("the new size", Duration::from_secs(30), || (demo.volume()?["size"] == size).then_some(()))
        .unwrap();
}

#[test]
fn a_volume_grows_under_load_and_both_copies_have_all_of_it() {
    let dir = work_dir("grow");
    let mut random = Random::seeded("grow");
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let mut known = session(&demo, 99);
    assert_eq!(known.capacity().unwrap(), OLD);
    let old_places = [40 * MIB, 55 * MIB];
    write_patterns(&mut known, &old_places);
    let beyond = known.command(&read_write(0x88, OLD / BLOCK as u64, 4096), &[], 4096).unwrap();
    assert_eq!(beyond.sense_code(), Some((5, 0x21, 0)), "LBA OUT OF RANGE");

    // Four writers on the first 8 MiB, while it grows.
    let load = Load::start(demo.portal(), &demo.iqn(), 4, 512, random.draw());
    std::thread::sleep(Duration::from_millis(700));
    let primary = demo.primary().unwrap();
    // Asked of the other node: any will do.
    let told = demo.ctl(Demo::other(&primary), &["volume", "grow", "demo", "160MiB"]).unwrap();
    println!("grow: {}", told.trim());
    wait_for_size(&demo, NEW);
    let volume = demo.volume().unwrap();
    assert!(volume["growth"].is_null() && volume["not_grown"].is_null(), "{volume}");

    // The session that was there is told: CAPACITY DATA HAS CHANGED.
    wait_for("2A/09 in the old session", Duration::from_secs(10), || {
        let answer = known.command(&[0; 6], &[], 0).unwrap();
        (answer.sense_code() == Some((6, 0x2a, 9))).then_some(())
    })
    .unwrap();
    assert_eq!(known.capacity().unwrap(), NEW);
    assert_eq!(session(&demo, 98).capacity().unwrap(), NEW, "a new session");

    check_zeroes(&mut known, &[]);
    write_patterns(&mut known, &IN_NEW_PART);
    check_patterns(&mut known, &IN_NEW_PART);
    check_zeroes(&mut known, &IN_NEW_PART);
    std::thread::sleep(Duration::from_millis(500));

    println!("grow: kill -9 of primary {primary}");
    demo.kill(&primary).unwrap();
    let ledgers = load.finish().unwrap();
    let mut survivor = session(&demo, 97);
    let mut worst = Duration::ZERO;
    for mut ledger in ledgers {
        ledger.verify(&mut survivor).unwrap();
        worst = worst.max(ledger.longest_pause);
    }
    println!("grow: nothing lost, longest pause {worst:.2?}");
    assert_eq!(survivor.capacity().unwrap(), NEW);
    check_patterns(&mut survivor, &old_places);
    check_patterns(&mut survivor, &IN_NEW_PART);
    check_zeroes(&mut survivor, &IN_NEW_PART);

    demo.start_node(&primary).unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    demo.kill(Demo::other(&primary)).unwrap();
    let mut first = session(&demo, 96);
    assert_eq!(first.capacity().unwrap(), NEW);
    check_patterns(&mut first, &old_places);
    check_patterns(&mut first, &IN_NEW_PART);
    check_zeroes(&mut first, &IN_NEW_PART);
    demo.stop().unwrap();
}

#[test]
fn a_node_that_was_away_comes_back_to_the_new_size() {
    let dir = work_dir("grow-away");
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let primary = demo.primary().unwrap();
    let away = Demo::other(&primary);
    let mut known = session(&demo, 99);
    let old_places = [8 * MIB, 40 * MIB];
    write_patterns(&mut known, &old_places[..1]);

    demo.kill(away).unwrap();
    write_patterns(&mut known, &old_places[1..]);
    demo.ctl(&primary, &["volume", "grow", "demo", "160MiB"]).unwrap();
    wait_for_size(&demo, NEW);
    let mut other = session(&demo, 98);
    assert_eq!(other.capacity().unwrap(), NEW);
    write_patterns(&mut other, &IN_NEW_PART);

    demo.start_node(away).unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    // The primary reports once a second; the cluster knew before that both copies are in sync.
    let volume = wait_for("the report of the resync", HEALTHY, || {
        demo.volume().filter(|volume| volume["resynced_total"].as_u64() > Some(0))
    })
    .unwrap();
    let moved = volume["resynced_total"].as_u64().unwrap();
    let bound = 5 * PIECE as u64 + volume["logged"].as_u64().unwrap();
    println!("grow-away: {moved} bytes moved, at most {bound} expected");
    assert!(moved > 0 && moved <= bound, "{volume}");
    demo.kill(&primary).unwrap();
    let mut returned = session(&demo, 97);
    assert_eq!(returned.capacity().unwrap(), NEW);
    check_patterns(&mut returned, &old_places);
    check_patterns(&mut returned, &IN_NEW_PART);
    check_zeroes(&mut returned, &IN_NEW_PART);

    // And once more, by the node that returned, alone.
    demo.ctl(away, &["volume", "grow", "demo", "200MiB"]).unwrap();
    wait_for_size(&demo, 200 * MIB);
    demo.start_node(&primary).unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    assert_eq!(session(&demo, 96).capacity().unwrap(), 200 * MIB);
    demo.stop().unwrap();
}

#[test]
fn what_can_not_be_is_refused_and_changes_nothing() {
    let dir = work_dir("grow-refused");
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let before = demo.volume().unwrap();
    let free = |demo: &Demo, node: &str| {
        let status = demo.status().unwrap();
        let members = status["cluster"]["members"].as_array().unwrap();
        members.iter().find(|member| member["name"] == node).unwrap()["free"].as_u64().unwrap()
    };
    let free_before = free(&demo, "a");
    let cases: [(&str, &[&str]); 5] = [
        ("1GiB", &["volume demo", " has ", &format!("({free_before} B) free"), "1006632960 B", "needed"]),
        ("32MiB", &["volume demo", "can't become smaller", "64 MiB"]),
        ("64MiB", &["volume demo", "it has 64 MiB already"]),
        ("63TiB", &["volume demo", "62 TiB", "the most for a volume"]),
        ("5", &["5"]),
    ];
    for (size, words) in cases {
        let error = demo.ctl("a", &["volume", "grow", "demo", size]).unwrap_err().to_string();
        println!("grow-refused: {size}: {}", error.lines().last().unwrap_or_default());
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error:?}");
        }
    }
    let error = demo.ctl("a", &["volume", "grow", "other", "1GiB"]).unwrap_err().to_string();
    assert!(error.contains("volume other does not exist"), "{error}");
    let after = demo.volume().unwrap();
    for what in ["size", "epoch", "primary", "in_sync", "growth", "not_grown"] {
        assert_eq!(before[what], after[what], "{what}");
    }
    assert_eq!(free(&demo, "a"), free_before, "no space was taken");
    demo.stop().unwrap();
}
