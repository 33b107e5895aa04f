//! The demo's contract with outside programs (docs/demo.md), read from outside.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::time::Duration;

use futago_e2e::checker::reconnect;
use futago_e2e::demo::Demo;
use futago_e2e::tools::{run, wait_for, work_dir};
use serde_json::Value;

const HEALTHY: Duration = Duration::from_secs(90);

/// Processes whose command line names `dir`.
fn processes(dir: &Path) -> Vec<String> {
    run("pgrep", &["-af", &dir.to_string_lossy()])
        .unwrap_or_default()
        .lines()
        .filter(|line| line.contains("futago") && !line.contains("pgrep"))
        .map(str::to_owned)
        .collect()
}

fn wait_gone(what: &str, dir: &Path) {
    let mut left = Vec::new();
    wait_for(what, Duration::from_secs(10), || {
        left = processes(dir);
        left.is_empty().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {left:?}"));
}

#[test]
fn the_demo_keeps_its_contract() {
    let dir = work_dir("contract");
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();

    let json = demo.json();
    assert_eq!(json["portal"], "127.0.0.50:3260");
    assert_eq!(json["iqn"], "iqn.2026-11.local.futago:demo");
    assert_eq!((&json["lun"], &json["volume"], &json["user"]), (&0.into(), &"demo".into(), &"admin".into()));
    assert!(json["password"].as_str().unwrap().len() >= 8);
    let nodes: Vec<(&str, &str, Option<&str>)> = json["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| (n["name"].as_str().unwrap(), n["address"].as_str().unwrap(), n["web"].as_str()))
        .collect();
    assert_eq!(
        nodes,
        [
            ("a", "127.0.0.11", Some("https://127.0.0.11:8443")),
            ("b", "127.0.0.12", Some("https://127.0.0.12:8443")),
            ("witness", "127.0.0.13", None),
        ]
    );
    check_status(&demo.status().unwrap());
    let mut session = open(&demo);
    assert_eq!(session.capacity().unwrap(), 64 << 20);
    session.write(64, &[7; 4096]).unwrap();
    drop(session);

    // `kill -9 PID`, not the group: no child may stay.
    let pid = demo.pid("b");
    run("kill", &["-9", &pid.to_string()]).unwrap();
    wait_gone("the children of a killed supervisor", &dir.join("b"));
    demo.start_node("b").unwrap();
    assert_ne!(demo.pid("b"), pid, "demo.json follows");
    demo.wait_healthy(HEALTHY).unwrap();

    demo.stop().unwrap();
    wait_gone("all processes after SIGTERM", &dir);
    assert!(!dir.join("demo.json").exists());

    // The same directory resumes with the same data; --fresh starts over.
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    assert_eq!(demo.json()["password"], json["password"]);
    assert_eq!(open(&demo).read(64, 4096).unwrap(), vec![7; 4096]);
    demo.stop().unwrap();
    let mut demo = Demo::start_fresh(&dir, "64MiB").unwrap();
    assert_eq!(open(&demo).read(64, 4096).unwrap(), vec![0; 4096]);
    demo.stop().unwrap();
}

fn open(demo: &Demo) -> futago_e2e::initiator::Session {
    reconnect(demo.portal(), &demo.iqn(), "iqn.2026-11.local.futago:contract", 1, HEALTHY).unwrap()
}

/// Every field of `status --json` that the contract names, with its type.
fn check_status(status: &Value) {
    let cluster = &status["cluster"];
    assert!(cluster["id"].is_string() && cluster["generation"].is_u64() && cluster["leader"].is_string());
    assert_eq!(cluster["quorum"], true);
    let members = cluster["members"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    for member in members {
        assert!(["data", "witness"].contains(&member["role"].as_str().unwrap()));
        assert_eq!(member["online"], true);
    }
    let volume = &status["volumes"][0];
    assert_eq!((&volume["name"], &volume["size"]), (&"demo".into(), &(64_u64 << 20).into()));
    assert!(volume["epoch"].is_u64() && volume["primary"].is_string());
    assert_eq!(volume["in_sync"].as_array().unwrap().len(), 2);
    assert_eq!(volume["state"], "healthy");
    assert!(volume["resync"].is_null() && volume["verify"].is_null());
    for service in status["services"].as_array().unwrap() {
        assert!(service["name"].is_string() && service["state"].is_string());
        assert!(service["restarts"].is_u64() && !service["since"].is_null());
    }
}
