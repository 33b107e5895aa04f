//! A whole node as an ordinary process; its services are small shell scripts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Not a test of its own: the node's process, started by the tests below.
#[test]
fn node_process() {
    let Ok(dir) = std::env::var("FUTAGO_TEST_NODE") else { return };
    let dir = Path::new(&dir);
    if let Err(error) = futago_supervisor::run_node(dir, &dir.join("exe")) {
        eprintln!("error: {error:#}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

/// A node whose services run `script` with `$1` = the service's name.
fn start(dir: &Path, script: &str) -> Child {
    let exe = dir.join("exe");
    std::fs::write(&exe, format!("#!/bin/sh\ncd {}\n{script}\n", dir.display())).unwrap();
    std::fs::set_permissions(&exe, PermissionsExt::from_mode(0o755)).unwrap();
    let settings = r#"{"version":1,"name":"a","role":"data","address":"127.0.0.11","disks":["disk0.img"]}"#;
    std::fs::write(dir.join("settings.json"), settings).unwrap();
    start_again(dir)
}

fn start_again(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "node_process", "--nocapture"])
        .env("FUTAGO_TEST_NODE", dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(pid: &str, signal: &str) {
    assert!(Command::new("kill").args([signal, "--", pid]).status().unwrap().success());
}

fn finish(mut node: Child) -> (ExitStatus, String) {
    let status = node.wait().unwrap();
    let mut text = String::new();
    node.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (status, text)
}

fn pids(dir: &Path) -> Vec<String> {
    let read = |name| std::fs::read_to_string(dir.join(name)).unwrap_or_default().trim().to_owned();
    ["cluster.pid", "storage.pid", "web.pid"].map(read).into_iter().filter(|pid| !pid.is_empty()).collect()
}

fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn request(dir: &Path, line: &str) -> String {
    let mut socket = UnixStream::connect(dir.join("run/supervisor.sock")).unwrap();
    write!(socket, "{line} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

const RUNS: &str = r#"echo $$ > $1.pid; echo "$1 says hello"; trap 'echo $1 >> stopped; exit 0' TERM; while :; do sleep 0.05; done"#;

#[test]
fn services_run_are_listed_and_stop_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let node = start(dir, RUNS);
    wait_until("three services", || pids(dir).len() == 3);
    wait_until("pid file", || {
        std::fs::read_to_string(dir.join("run/supervisor.pid"))
            .is_ok_and(|pid| pid.trim() == node.id().to_string())
    });
    wait_until("running", || request(dir, "GET /services").matches(r#""state":"running""#).count() == 3);
    assert!(request(dir, "GET /log/storage").contains("storage says hello"));
    assert!(request(dir, "GET /log/nobody").contains("404"));
    assert!(request(dir, "POST /services/nobody/restart").contains("404"));

    let before = pids(dir);
    assert!(request(dir, "POST /services/web/restart").contains("202"));
    wait_until("a new web process", || pids(dir).len() == 3 && pids(dir)[2] != before[2]);
    assert!(request(dir, "GET /services").contains(r#""name":"web","state":"starting","restarts":1"#));

    std::fs::remove_file(dir.join("stopped")).unwrap();
    signal(&node.id().to_string(), "-TERM");
    let (status, _) = finish(node);
    assert_eq!(status.code(), Some(0));
    let order = std::fs::read_to_string(dir.join("stopped")).unwrap();
    assert_eq!(order.lines().last(), Some("cluster"), "{order}");
    assert_eq!(order.lines().count(), 3);
    assert!(std::fs::read_to_string(dir.join("log/web.log")).unwrap().contains("web says hello"));
    assert!(!dir.join("run/supervisor.sock").exists());
}

#[test]
fn an_ordinary_process_is_neither_updated_nor_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let node = start(dir, RUNS);
    wait_until("three services", || pids(dir).len() == 3);
    let update = request(dir, "GET /update");
    assert!(update.contains(r#""slots":null,"installation":null"#), "{update}");
    for (line, why) in [("POST /update", "there is no slot"), ("POST /restart", "no machine of its own")] {
        let answer = request(dir, line);
        assert!(answer.contains("409") && answer.contains(why), "{answer}");
    }
    assert_eq!(pids(dir).len(), 3);
    signal(&node.id().to_string(), "-TERM");
    assert_eq!(finish(node).0.code(), Some(0));
}

#[test]
fn a_killed_node_leaves_no_child_and_comes_back() {
    for group in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut node = start(dir, RUNS);
        wait_until("three services", || pids(dir).len() == 3);
        let old = pids(dir);
        let pid = node.id().to_string();
        signal(&if group { format!("-{pid}") } else { pid }, "-KILL");
        node.wait().unwrap();
        std::fs::write(dir.join("run/stale.sock"), "").unwrap();
        wait_until("no child", || !old.iter().any(|pid| lives(pid)));
        let node = start_again(dir);
        wait_until("new services", || pids(dir).len() == 3 && pids(dir).iter().all(|pid| lives(pid)));
        assert!(!dir.join("run/stale.sock").exists(), "left by the run before");
        signal(&node.id().to_string(), "-INT");
        assert!(finish(node).0.success());
    }
}

#[test]
fn a_crashed_service_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let node = start(dir, RUNS);
    wait_until("three services", || pids(dir).len() == 3);
    let old = pids(dir);
    signal(&old[1], "-KILL");
    wait_until("a new storage process", || pids(dir).len() == 3 && pids(dir)[1] != old[1]);
    assert_eq!(pids(dir)[0], old[0]);
    signal(&node.id().to_string(), "-TERM");
    assert!(finish(node).0.success());
}

#[test]
fn a_configuration_error_ends_the_node_with_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(
        dir.path(),
        r#"[ $1 = storage ] && { echo "error: 127.0.0.50:3260 in use" >&2; exit 78; }; exec sleep 60"#,
    );
    let (status, text) = finish(node);
    assert_eq!(status.code(), Some(1));
    assert!(text.contains("error: storage: 127.0.0.50:3260 in use"), "{text}");
}

#[test]
fn bad_settings_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (settings, expected) in [
        ("{", "settings.json"),
        (r#"{"version":1,"name":"-","role":"witness","address":"127.0.0.13"}"#, "setting name"),
    ] {
        std::fs::write(dir.path().join("settings.json"), settings).unwrap();
        let (status, text) = finish(start_again(dir.path()));
        assert_eq!(status.code(), Some(1));
        assert!(text.contains(expected), "{text}");
    }
}
