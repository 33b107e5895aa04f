//! What broke other targets under the initiators that people use, while a node dies or a volume moves: a test for each,
//! with a demo of its own. docs/interoperability.md is the list.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futago_e2e::checker::reconnect;
use futago_e2e::demo::Demo;
use futago_e2e::initiator::{BLOCK, Refused, Session, compare_and_write, read_write};
use futago_e2e::tools::{pattern, wait_for, work_dir};

const HEALTHY: Duration = Duration::from_secs(90);
const NAME: &str = "iqn.1998-01.com.vmware:host-1";

fn start(name: &str) -> Demo {
    let demo = Demo::start(&work_dir(name), "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    demo
}

fn open(demo: &Demo, qualifier: u16) -> Session {
    reconnect(demo.portal(), &demo.iqn(), NAME, qualifier, HEALTHY).unwrap()
}

/// A controlled move away from `from`.
fn hand_over(demo: &Demo, from: &str) {
    demo.ctl(from, &["handover", "demo"]).unwrap();
    wait_serving(demo, Demo::other(from));
}

fn wait_serving(demo: &Demo, node: &str) {
    wait_for(&format!("service by {node}"), Duration::from_secs(30), || {
        let status = demo.status_of(node)?;
        let volume = status["volumes"].as_array()?.iter().find(|volume| volume["name"] == "demo")?;
        (volume["primary"] == node && volume["state"] != "suspended").then_some(())
    })
    .unwrap();
}

/// A host in a loop: logs in, looks at the unit, and remembers everything that would tell ESXi that the device is gone.
fn watch(demo: &Demo, stop: &Arc<AtomicBool>, qualifier: u16) -> std::thread::JoinHandle<BTreeSet<String>> {
    let (portal, iqn, stop) = (demo.portal(), demo.iqn(), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut seen = BTreeSet::new();
        while !stop.load(Ordering::Relaxed) {
            let opened = Session::open_with(portal, &iqn, NAME, qualifier, Duration::from_secs(3), &[]);
            let mut session = match opened {
                Ok(session) => session,
                Err(error) => {
                    if let Some(Refused(status)) = error.downcast_ref() {
                        seen.insert(format!("login status {status:#06x}"));
                    }
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
            };
            while !stop.load(Ordering::Relaxed) && look(&mut session, &mut seen).is_ok() {}
        }
        seen
    })
}

/// One round of what a host asks; an error is the end of the session.
fn look(session: &mut Session, seen: &mut BTreeSet<String>) -> anyhow::Result<()> {
    let inquiry = session.command(&[0x12, 0, 0, 0, 36, 0], &[], 36)?;
    seen.insert(format!("INQUIRY {:02x?}", inquiry.data.first()));
    let luns = session.command(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[], 256)?;
    seen.insert(format!("REPORT LUNS {:?}", luns.data));
    let ready = session.command(&[0; 6], &[], 0)?;
    let read = session.command(&read_write(0x88, 0, BLOCK), &[], BLOCK)?;
    for (name, answer) in [("TEST UNIT READY", ready), ("READ(16)", read)] {
        if answer.status != 0 {
            seen.insert(format!("{name} {:02x} {:02x?}", answer.status, answer.sense_code()));
        }
    }
    Ok(())
}

/// 5/25/00 and the login statuses 0x0203 and 0x0204 make ESXi give a device up for good; connections that drop do not.
#[test]
fn nothing_says_permanent_loss_while_nodes_die_and_volumes_move() {
    let mut demo = start("permanent-loss");
    let stop = Arc::new(AtomicBool::new(false));
    let hosts: Vec<_> = (1..=3).map(|qualifier| watch(&demo, &stop, qualifier)).collect();
    for _ in 0..2 {
        let from = demo.primary().unwrap();
        hand_over(&demo, &from);
        demo.wait_healthy(HEALTHY).unwrap();
        let victim = demo.primary().unwrap();
        demo.kill(&victim).unwrap();
        open(&demo, 9).read(0, BLOCK).unwrap();
        demo.start_node(&victim).unwrap();
        demo.wait_healthy(HEALTHY).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let seen: BTreeSet<String> = hosts.into_iter().flat_map(|host| host.join().unwrap()).collect();
    println!("permanent loss: hosts saw {seen:#?}");
    let allowed = |what: &String| {
        what.starts_with("INQUIRY Some(00)")
            || what.starts_with("REPORT LUNS [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]")
            || what.ends_with("02 Some((06, 29, 00))")
            || what.ends_with("02 Some((02, 04, 0a))")
    };
    assert!(seen.iter().any(|what| what.starts_with("INQUIRY")), "no host ever got in");
    let bad: Vec<&String> = seen.iter().filter(|what| !allowed(what)).collect();
    assert!(bad.is_empty(), "{bad:?}");
    demo.stop().unwrap();
}

/// Everything by which a host knows a unit, byte for byte.
fn identity(session: &mut Session) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut ask = |name: String, cdb: &[u8]| {
        let answer = session.command(cdb, &[], 4096).unwrap();
        assert_eq!(answer.status, 0, "{name}: {answer:?}");
        all.insert(name, answer.data.clone());
        answer.data
    };
    ask("INQUIRY".into(), &[0x12, 0, 0, 0x10, 0, 0]);
    let pages = ask("VPD 00".into(), &[0x12, 1, 0, 0x10, 0, 0]);
    for &page in &pages[4..] {
        ask(format!("VPD {page:02x}"), &[0x12, 1, page, 0x10, 0, 0]);
    }
    ask("REPORT LUNS".into(), &[0xa0, 0, 2, 0, 0, 0, 0, 0, 0x10, 0, 0, 0]);
    ask("READ CAPACITY (10)".into(), &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ask("READ CAPACITY (16)".into(), &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0]);
    ask("MODE SENSE".into(), &[0x5a, 0, 0x3f, 0, 0, 0, 0, 0x10, 0, 0]);
    ask("REPORT TARGET PORT GROUPS".into(), &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0]);
    ask("REPORT SUPPORTED OPERATION CODES".into(), &[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0]);
    all
}

/// A volume that looks different after a failover is taken for a snapshot, and its datastore does not mount.
#[test]
fn both_nodes_show_the_same_bytes() {
    let mut demo = start("identity");
    let first = demo.primary().unwrap();
    let before = identity(&mut open(&demo, 1));
    assert!(before.len() > 10, "{:?}", before.keys());
    hand_over(&demo, &first);
    let moved = identity(&mut open(&demo, 1));
    demo.kill(&first).unwrap();
    let degraded = identity(&mut open(&demo, 1));
    for (name, bytes) in &before {
        assert_eq!(bytes, &moved[name], "{name} of the other node");
        assert_eq!(bytes, &degraded[name], "{name} of one node without its peer");
    }
    demo.stop().unwrap();
}

/// A write that waits in a dead path must not land on what was written since by another (rules S4, S5): not when the old
/// path's node wakes up (tcmu-runner #420), nor when it serves again and finds the write in its queues (#384).
#[test]
fn tcmu_runner_420_384_an_old_paths_write_does_not_land_after_failover() {
    let mut demo = start("old-path");
    for round in 0..2_u8 {
        let mut old_path = open(&demo, 1);
        old_path.write(500, &[0x10 + round; 4096]).unwrap();
        let paused = demo.primary().unwrap();
        demo.signal(&paused, "-STOP").unwrap();
        // Taken by the paused node's kernel, read by nobody.
        let data = [0xee; 4096];
        old_path.begin(&read_write(0x8a, 500, data.len()), &data, 0).unwrap();
        wait_serving(&demo, Demo::other(&paused));
        demo.signal(&paused, "-CONT").unwrap();
        let mut new_path = open(&demo, 2);
        new_path.write(500, &[0x20 + round; 4096]).unwrap();
        demo.wait_healthy(HEALTHY).unwrap();
        assert_eq!(open(&demo, 2).read(500, 4096).unwrap(), [0x20 + round; 4096]);
        // And on the other copy.
        hand_over(&demo, Demo::other(&paused));
        assert_eq!(demo.primary().unwrap(), paused);
        assert_eq!(open(&demo, 2).read(500, 4096).unwrap(), [0x20 + round; 4096]);
        demo.wait_healthy(HEALTHY).unwrap();
        assert_eq!(open(&demo, 2).read(500, 4096).unwrap(), [0x20 + round; 4096]);
    }
    demo.stop().unwrap();
}

/// A retry after a lost answer finds the old data and succeeds, or its own and says where they differ: never a third.
#[test]
fn a_retried_ats_after_a_lost_answer_tells_the_truth() {
    let mut demo = start("retried-ats");
    let (mut applied, mut lost) = (0, 0);
    for round in 0..4_u64 {
        let (old, new) = (pattern(round + 1, BLOCK), pattern(round + 100, BLOCK));
        let mut session = open(&demo, 1);
        session.write(99, &old).unwrap();
        let (cdb, data) = compare_and_write(99, &old, &new);
        session.begin(&cdb, &data, 0).unwrap();
        std::thread::sleep(Duration::from_micros(300 * round));
        let victim = demo.primary().unwrap();
        demo.kill(&victim).unwrap();
        let mut session = open(&demo, 1);
        let found = session.read(99, BLOCK).unwrap();
        assert!(found == old || found == new, "neither the old data nor the new");
        let answer = session.command(&cdb, &data, 0).unwrap();
        if found == old {
            lost += 1;
            assert_eq!(answer.status, 0, "{answer:?}");
        } else {
            applied += 1;
            assert_eq!(answer.sense_code(), Some((0x0e, 0x1d, 0)), "{answer:?}");
            let differs = old.iter().zip(&new).position(|(a, b)| a != b).unwrap();
            assert_eq!(answer.sense[3..7], u32::try_from(differs).unwrap().to_be_bytes());
        }
        assert!(session.read(99, BLOCK).unwrap() == new);
        demo.start_node(&victim).unwrap();
        demo.wait_healthy(HEALTHY).unwrap();
        assert!(open(&demo, 1).read(99, BLOCK).unwrap() == new);
    }
    println!("retried ATS: {applied} had been applied, {lost} had not");
    demo.stop().unwrap();
}

/// A controlled move says so first: the initiator logs out in its own time and its next login lands on the other node.
#[test]
fn a_controlled_move_asks_for_the_logout() {
    let mut demo = start("move");
    let from = demo.primary().unwrap();
    let mut session = open(&demo, 1);
    session.write(0, &[7; BLOCK]).unwrap();
    demo.ctl(&from, &["handover", "demo"]).unwrap();
    let message = session.receive().unwrap();
    assert_eq!((message.opcode(), message.header[36]), (0x32, 1), "{message:?}");
    assert!(message.word(40) & 0xffff > 0, "no time to log out: {message:?}");
    let mut session = open(&demo, 1);
    assert_eq!(session.read(0, BLOCK).unwrap(), [7; BLOCK]);
    assert_eq!(demo.primary().unwrap(), Demo::other(&from));
    demo.stop().unwrap();
}
