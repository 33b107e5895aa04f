//! Everything dies at once, or one node is away for a while.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use futago_e2e::checker::{Load, UNIT, reconnect};
use futago_e2e::demo::Demo;
use futago_e2e::tools::{Random, wait_for, work_dir};

const HEALTHY: Duration = Duration::from_secs(90);
const READER: &str = "iqn.2026-11.local.futago:reader";

#[test]
fn ten_total_outages_are_survived_without_help() {
    let dir = work_dir("outage");
    let mut random = Random::seeded("outage");
    let mut demo = Demo::start(&dir, "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let mut ranges = 0;
    for round in 1..=10 {
        let load = Load::start(demo.portal(), &demo.iqn(), 2, 256, random.draw());
        std::thread::sleep(Duration::from_millis(300 + random.below(900)));
        for node in ["a", "b", "witness"] {
            demo.kill(node).unwrap();
        }
        for node in ["witness", "b", "a"] {
            demo.start_node(node).unwrap();
        }
        let back = demo.wait_healthy(HEALTHY).unwrap();
        let ledgers = load.finish().unwrap();
        let mut session = reconnect(demo.portal(), &demo.iqn(), READER, 99, HEALTHY).unwrap();
        for mut ledger in ledgers {
            ranges += ledger.verify(&mut session).unwrap();
        }
        println!("outage: round {round}, both copies in sync {back:.1?} after the restart");
        let zeroes = vec![0; 65536];
        for at in 0..(2 * 256 * UNIT as u64 / 65536) {
            session.write(at * 128, &zeroes).unwrap();
        }
    }
    println!("outage: 10 total outages, {ranges} blocks checked, none lost");
    demo.stop().unwrap();
}

#[test]
fn a_returning_node_gets_only_what_it_missed() {
    let dir = work_dir("resync");
    let mut demo = Demo::start(&dir, "1GiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let primary = demo.primary().unwrap();
    let away = Demo::other(&primary);
    let mut session = reconnect(demo.portal(), &demo.iqn(), READER, 99, HEALTHY).unwrap();

    // Fill some extents while both are there, so that the activity log holds entries that are not dirty.
    let mib = vec![0x5a; 1 << 17];
    for at in 0..64 {
        session.write(at * 8192, &mib).unwrap();
    }
    demo.kill(away).unwrap();
    const WRITTEN_MIB: u64 = 48;
    let chunk = vec![0xa5; 1 << 17];
    for at in 0..WRITTEN_MIB * 8 {
        // 128 KiB each, spread over the second half: 256 sectors, one every 512.
        session = write_through_failure(session, &demo, (1 << 20) + at * 512, &chunk);
    }
    let before = demo.volume().unwrap()["resynced_total"].as_u64().unwrap();
    demo.start_node(away).unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let volume = demo.volume().unwrap();
    let moved = volume["resynced_total"].as_u64().unwrap() - before;
    let logged = volume["logged"].as_u64().unwrap();
    println!(
        "resync: {WRITTEN_MIB} MiB written during the outage, {:.1} MiB moved, activity log of {} MiB",
        moved as f64 / f64::from(1 << 20),
        logged >> 20
    );
    assert!(moved >= WRITTEN_MIB << 20, "less moved than was written");
    assert!(moved <= (WRITTEN_MIB << 20) + logged, "more moved than written + logged extents");

    // And what came over is right: the survivor dies, the returned node serves.
    demo.kill(&primary).unwrap();
    wait_for("the returned node to serve", Duration::from_secs(30), || {
        (demo.volume()?["primary"] == away).then_some(())
    })
    .unwrap();
    let mut session = reconnect(demo.portal(), &demo.iqn(), READER, 99, HEALTHY).unwrap();
    for at in 0..WRITTEN_MIB * 8 {
        assert!(session.read((1 << 20) + at * 512, 1 << 17).unwrap() == chunk, "chunk {at} differs");
    }
    for at in 0..64 {
        assert!(session.read(at * 8192, 1 << 17).unwrap() == mib, "first chunk {at} differs");
    }
    demo.start_node(&primary).unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    demo.stop().unwrap();
}

fn write_through_failure(
    mut session: futago_e2e::initiator::Session,
    demo: &Demo,
    lba: u64,
    data: &[u8],
) -> futago_e2e::initiator::Session {
    while session.write(lba, data).is_err() {
        session = reconnect(demo.portal(), &demo.iqn(), READER, 99, HEALTHY).unwrap();
    }
    session
}
