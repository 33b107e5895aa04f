//! The secondary is stopped in order, under load: it says goodbye, and the writers don't wait for it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use futago_e2e::checker::{Load, reconnect};
use futago_e2e::demo::Demo;
use futago_e2e::tools::{Random, run, wait_for, work_dir};

const HEALTHY: Duration = Duration::from_secs(90);
/// Silence after which a peer is given up, at the demo's time scale.
const PEER_TIME_OUT: Duration = Duration::from_secs(1);

#[test]
fn writers_do_not_wait_for_a_secondary_that_stops_in_order() {
    let dir = work_dir("leaving");
    let mut random = Random::seeded("leaving");
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let mut session =
        reconnect(demo.portal(), &demo.iqn(), "iqn.2026-11.local.futago:reader", 99, HEALTHY).unwrap();
    let mut pauses = Vec::new();
    for round in 1..=3 {
        let primary = demo.primary().unwrap();
        let leaving = Demo::other(&primary);
        let load = Load::start(demo.portal(), &demo.iqn(), 4, 256, random.draw());
        std::thread::sleep(Duration::from_secs(1));
        let stopped = Instant::now();
        let binary = futago_e2e::tools::futago();
        run(&binary.to_string_lossy(), &["demo", "stop", leaving, "--dir", &dir.to_string_lossy()]).unwrap();
        let stopped = stopped.elapsed();
        wait_for("the primary to be alone", HEALTHY, || {
            (demo.volume()?["state"] == "degraded").then_some(())
        })
        .unwrap();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(demo.primary().unwrap(), primary, "nothing moves");
        let mut worst = Duration::ZERO;
        for mut ledger in load.finish().unwrap() {
            ledger.verify(&mut session).unwrap();
            worst = worst.max(ledger.longest_pause);
        }
        println!(
            "leaving: round {round}, {leaving} stopped in {stopped:.2?}, longest pause of a writer {worst:.2?}"
        );
        pauses.push(worst);
        demo.start_node(leaving).unwrap();
        demo.wait_healthy(HEALTHY).unwrap();
        for at in 0..(4 * 256 * 4096 / 65536) {
            session.write(at * 128, &vec![0; 65536]).unwrap();
        }
    }
    pauses.sort();
    // A machine that runs the gate may stumble once; not each time.
    assert!(pauses[0] < PEER_TIME_OUT / 2, "{pauses:?}: as long as for one that is lost");
    demo.stop().unwrap();
}
