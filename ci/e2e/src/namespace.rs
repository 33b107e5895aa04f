//! A network of the test's own: the test runs again inside new network and process namespaces. Whatever it starts there
//! ends with it, and its traffic reaches nobody else.

use std::process::Command;

use crate::tools;

const INSIDE: &str = "FUTAGO_E2E_NAMESPACE";

/// True inside. Outside: runs the test `name` inside, and answers false when it has passed.
///
/// # Panics
///
/// The test failed inside.
pub fn enter(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let base = ["--net", "--pid", "--fork", "--kill-child"];
    // Without root, a user namespace gives the rights; some distributions forbid it. Some containers forbid a new /proc.
    let ways: [&[&str]; 4] = [
        &["--mount-proc"],
        &["--mount-proc", "--user", "--map-root-user"],
        &[],
        &["--user", "--map-root-user"],
    ];
    for extra in ways {
        let works = Command::new("unshare").args(extra).args(base).arg("true").output();
        if works.is_ok_and(|output| output.status.success()) {
            let mut test = Command::new("unshare");
            test.args(extra).args(base).arg(std::env::current_exe().unwrap());
            test.args(["--exact", name, "--include-ignored", "--nocapture"]).env(INSIDE, "1");
            assert!(test.status().unwrap().success(), "{name} failed inside its namespace");
            return false;
        }
    }
    println!(
        "{name}: skipped, this machine allows no network namespace (root, or unprivileged user namespaces)"
    );
    false
}

/// `/proc` shows the namespace's own processes, as the demo wants it.
pub fn has_proc() -> bool {
    let own = std::fs::read_link("/proc/self");
    own.is_ok_and(|own| own.to_string_lossy() == std::process::id().to_string())
}

/// One Ethernet segment: a bridge with `address` for the host, and a tap device per name.
pub fn segment(bridge: &str, address: &str, taps: &[&str]) -> anyhow::Result<()> {
    let ip = |words: &str| tools::run("ip", &words.split(' ').collect::<Vec<_>>()).map(drop);
    ip("link set lo up")?;
    ip(&format!("link add {bridge} type bridge"))?;
    ip(&format!("address add {address} dev {bridge}"))?;
    ip(&format!("link set {bridge} up"))?;
    for tap in taps {
        ip(&format!("tuntap add {tap} mode tap"))?;
        ip(&format!("link set {tap} master {bridge} up"))?;
    }
    Ok(())
}
