//! Several volumes behind one portal: they live and move together.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use futago_e2e::checker::reconnect;
use futago_e2e::demo::Demo;
use futago_e2e::initiator::Session;
use futago_e2e::tools::{wait_for, work_dir};
use serde_json::Value;

const HEALTHY: Duration = Duration::from_secs(90);
const NAMES: [&str; 3] = ["demo", "second", "third"];

/// The node that serves all volumes, once all are in `state` and one node does.
fn together(demo: &Demo, state: &str) -> String {
    let mut last = Value::Null;
    wait_for("all volumes on one node", HEALTHY, || {
        last = demo.status()?["volumes"].clone();
        let volumes = last.as_array()?;
        let first = volumes.first()?["primary"].as_str()?.to_owned();
        let all = volumes.len() == NAMES.len()
            && volumes.iter().all(|volume| volume["primary"] == *first && volume["state"] == state);
        all.then_some(first)
    })
    .unwrap_or_else(|error| panic!("{error:#}; last seen {last}"))
}

fn session(demo: &Demo) -> Session {
    reconnect(demo.portal(), &demo.iqn(), "iqn.2026-11.local.futago:volumes", 7, HEALTHY).unwrap()
}

fn pattern(lun: u16, round: u8) -> Vec<u8> {
    let line = format!("LUN {lun:02}, round {round:02}. ");
    line.bytes().cycle().take(65_536).collect()
}

fn write_all(demo: &Demo, round: u8) {
    let mut session = session(demo);
    for lun in 0..3 {
        session.lun = lun;
        // Each LUN reports its own unit attention to a new session.
        let _attention = session.command(&[0; 6], &[], 0).unwrap();
        session.write(u64::from(round) * 1024, &pattern(lun, round)).unwrap();
    }
}

fn check_all(demo: &Demo, rounds: u8) {
    let mut session = session(demo);
    for lun in 0..3 {
        session.lun = lun;
        let _attention = session.command(&[0; 6], &[], 0).unwrap();
        for round in 0..rounds {
            let found = session.read(u64::from(round) * 1024, 65_536).unwrap();
            assert!(found == pattern(lun, round), "LUN {lun}, round {round}");
        }
    }
}

#[test]
fn three_volumes_fail_over_and_move_together() {
    let dir = work_dir("volumes");
    let mut demo = Demo::start(&dir, "128MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    for (lun, name) in NAMES.iter().enumerate().skip(1) {
        demo.ctl("a", &["volume", "create", name, "32MiB"]).unwrap();
        demo.ctl("a", &["target", "map", &demo.iqn(), &lun.to_string(), name]).unwrap();
    }
    let first = together(&demo, "healthy");
    write_all(&demo, 0);

    demo.kill(&first).unwrap();
    let second = together(&demo, "degraded");
    assert_eq!(second, Demo::other(&first));
    check_all(&demo, 1);
    write_all(&demo, 1);

    demo.start_node(&first).unwrap();
    assert_eq!(together(&demo, "healthy"), second);
    demo.ctl(&first, &["handover", "second"]).unwrap();
    assert_eq!(together(&demo, "healthy"), first);
    check_all(&demo, 2);

    // All die and come back; whoever is promoted, the volumes end up together.
    for node in ["a", "b", "witness"] {
        demo.kill(node).unwrap();
    }
    for node in ["b", "witness", "a"] {
        demo.start_node(node).unwrap();
    }
    together(&demo, "healthy");
    check_all(&demo, 2);
    let problems = demo.status().unwrap()["problems"].clone();
    assert_eq!(problems, Value::Array(Vec::new()));
    demo.stop().unwrap();
}

/// The portal moves when the last volume has gone: one that is not served yet is waited for before the first one goes.
#[test]
fn a_volume_that_was_just_made_goes_along() {
    let dir = work_dir("volumes-new");
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let other = Demo::other(&demo.primary().unwrap());
    for name in &NAMES[1..] {
        demo.ctl("a", &["volume", "create", name, "4MiB"]).unwrap();
    }
    demo.ctl("b", &["handover", "demo"]).unwrap();
    let volumes = demo.status().unwrap()["volumes"].as_array().cloned().unwrap();
    assert!(
        volumes.len() == NAMES.len() && volumes.iter().all(|volume| volume["primary"] == other),
        "{volumes:?}"
    );
    assert_eq!(together(&demo, "healthy"), other);
    demo.stop().unwrap();
}
