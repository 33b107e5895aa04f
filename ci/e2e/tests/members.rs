//! A data node is lost for good: it is removed, another is paired in its place, gets copies of the volumes, and serves.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use futago_e2e::checker::{Load, reconnect};
use futago_e2e::demo::Demo;
use futago_e2e::tools::{Random, run, wait_for, work_dir};
use serde_json::Value;

const HEALTHY: Duration = Duration::from_secs(90);
/// The load's, and the blocks of 4 KiB that each of them writes.
const SESSIONS: u16 = 2;
const BLOCKS: usize = 512;
const READER: &str = "iqn.2026-11.local.futago:reader";

/// Names of the members with a vote, as `node` has it.
fn voters(demo: &Demo, node: &str) -> Vec<String> {
    let status = demo.status_of(node).unwrap_or_default();
    let members = status["cluster"]["members"].as_array().cloned().unwrap_or_default();
    let voting = members.iter().filter(|member| member["votes"] == true);
    let mut names: Vec<_> = voting.map(|member| member["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// The node's folder as a new machine has it: the settings, an empty disk, nothing else.
fn replace(demo: &Demo, node: &str) {
    let dir = demo.dir.join(node);
    let settings = std::fs::read(dir.join("settings.json")).unwrap();
    let disk_bytes = std::fs::metadata(dir.join("disk0.img")).unwrap().len().to_string();
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::create_dir(&dir).unwrap();
    run("fallocate", &["-l", &disk_bytes, &dir.join("disk0.img").to_string_lossy()]).unwrap();
    std::fs::write(dir.join("settings.json"), settings).unwrap();
}

#[test]
fn a_destroyed_node_is_removed_and_a_new_one_takes_its_place() {
    let dir = work_dir("members").canonicalize().unwrap();
    let mut random = Random::seeded("members");
    let mut demo = Demo::start(&dir, "96MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let survivor = demo.primary().unwrap();
    let lost = Demo::other(&survivor);
    assert_eq!(voters(&demo, &survivor), ["a", "b", "witness"]);
    let load = Load::start(demo.portal(), &demo.iqn(), SESSIONS, BLOCKS, random.draw());
    std::thread::sleep(Duration::from_secs(1));

    demo.kill(lost).unwrap();
    wait_for("the survivor to be alone", HEALTHY, || {
        (demo.volume()?["state"] == "degraded" && demo.volume()?["in_sync"] == serde_json::json!([survivor]))
            .then_some(())
    })
    .unwrap();
    replace(&demo, lost);
    let refused = demo.ctl(&survivor, &["member", "remove", &survivor]).unwrap_err().to_string();
    assert!(refused.contains("ask another member"), "{refused}");
    let told = demo.ctl(&survivor, &["member", "remove", lost]).unwrap();
    println!("{told}");
    assert!(told.contains(&format!("{lost} is no member any more")), "{told}");
    assert!(told.contains("There is one data node only"), "{told}");
    assert_eq!(voters(&demo, &survivor), std::slice::from_ref(&survivor));
    let volume = demo.volume().unwrap();
    assert_eq!((&volume["replicas"], &volume["state"]), (&serde_json::json!([survivor]), &"degraded".into()));

    // The new machine; its console waits for a cluster.
    demo.start_node(lost).unwrap();
    let offer: Value = wait_for("the new node's code", HEALTHY, || {
        serde_json::from_str(&demo.ctl(lost, &["node", "offer", "--json"]).ok()?).ok()
    })
    .unwrap();
    let address = if lost == "a" { "127.0.0.11:7780" } else { "127.0.0.12:7780" };
    demo.ctl(&survivor, &["node", "pair", address, offer["code"].as_str().unwrap()]).unwrap();
    let resync = demo.wait_healthy(HEALTHY).unwrap();
    println!("members: mirrored again {resync:.1?} after the pairing");
    let volume = demo.volume().unwrap();
    assert_eq!(volume["replicas"], serde_json::json!(["a", "b"]));
    // What the load writes meanwhile reaches the new copy as writes do.
    let moved = volume["resynced_total"].as_u64().unwrap();
    let written = u64::from(SESSIONS) * BLOCKS as u64 * 4096;
    assert!(moved + written >= 96 << 20, "{moved} B are not all of a new copy");
    assert_eq!(voters(&demo, &survivor), ["a", "b", "witness"]);
    assert_eq!(demo.status().unwrap()["problems"], Value::Array(Vec::new()));

    // The new one takes over when the old one dies, and has all that was ever acknowledged.
    std::thread::sleep(Duration::from_secs(1));
    demo.kill(&survivor).unwrap();
    wait_for("service by the new node", HEALTHY, || {
        let status = demo.status_of(lost)?;
        let volume = &status["volumes"][0];
        (volume["primary"] == lost && volume["state"] == "degraded").then_some(())
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let ledgers = load.finish().unwrap();
    let mut session = reconnect(demo.portal(), &demo.iqn(), READER, 99, HEALTHY).unwrap();
    let mut acknowledged = 0;
    for mut ledger in ledgers {
        ledger.verify(&mut session).unwrap();
        assert!(ledger.acknowledged > 0);
        acknowledged += ledger.acknowledged;
    }
    println!("members: {acknowledged} acknowledged writes, none lost");
    demo.stop().unwrap();
}

/// Of two members the one that serves votes alone, wherever it goes. No change of voters cuts a host's session.
#[test]
fn the_only_vote_is_where_the_service_is() {
    let dir = work_dir("only-vote").canonicalize().unwrap();
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let first = demo.primary().unwrap();
    let second = Demo::other(&first);
    let mut session = reconnect(demo.portal(), &demo.iqn(), READER, 1, HEALTHY).unwrap();
    demo.kill("witness").unwrap();
    demo.ctl(&first, &["member", "remove", "witness"]).unwrap();
    assert_eq!(voters(&demo, &first), std::slice::from_ref(&first));
    session.write(0, &[1; 4096]).unwrap();

    for (round, to) in [second, &first, second].into_iter().enumerate() {
        demo.ctl(&first, &["handover", "demo"]).unwrap();
        session = reconnect(demo.portal(), &demo.iqn(), READER, 2, HEALTHY).unwrap();
        wait_for("the vote to follow", HEALTHY, || (voters(&demo, to) == [to]).then_some(())).unwrap();
        session.write(8 * (round as u64 + 1), &[2; 4096]).unwrap();
    }
    demo.kill(&first).unwrap();
    wait_for("the other's end to be known", HEALTHY, || {
        let status = demo.status_of(second)?;
        (status["volumes"][0]["state"] == "degraded" && status["cluster"]["quorum"] == true).then_some(())
    })
    .unwrap();
    session.write(32, &[3; 4096]).unwrap();
    assert_eq!(session.read(0, 4096).unwrap(), [1; 4096]);
    demo.ctl(second, &["member", "remove", &first]).unwrap();
    session.write(40, &[4; 4096]).unwrap();
    demo.stop().unwrap();
}

#[test]
fn a_volume_that_no_disk_has_room_for_is_refused_with_the_node_s_space() {
    let dir = work_dir("room");
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let members = demo.status().unwrap()["cluster"]["members"].as_array().unwrap().clone();
    let free = members.iter().find(|member| member["name"] == "a").unwrap()["free"].as_u64().unwrap();
    // All of what is free: there would be no room for the metadata.
    let whole = format!("{}MiB", free >> 20);
    let refused = demo.ctl("a", &["volume", "create", "second", &whole]).unwrap_err().to_string();
    assert!(refused.contains(&format!(" has {} ({free} B) free", whole.replace("MiB", " MiB"))), "{refused}");
    let most: u64 = refused
        .split("at most")
        .next()
        .unwrap()
        .rsplit('(')
        .next()
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(most < free, "{refused}");
    assert_eq!(demo.status().unwrap()["volumes"].as_array().unwrap().len(), 1);
    // What it says is possible is possible.
    demo.ctl("b", &["volume", "create", "second", &format!("{}KiB", most >> 10)]).unwrap();
    let problems = demo.status().unwrap()["problems"].clone();
    assert_eq!(problems, Value::Array(Vec::new()));
    let refused = demo.ctl("b", &["volume", "create", "third", "4MiB"]).unwrap_err().to_string();
    assert!(refused.contains("free, room for a volume of 0 B"), "{refused}");
    demo.stop().unwrap();
}
