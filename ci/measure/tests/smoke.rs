//! The measurement runs and its table has its rows; their figures are not looked at.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::process::Command;

/// As ci/bench does it: without root a user namespace gives the rights.
fn own_network() -> Vec<&'static str> {
    let own = vec!["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let works = |options: &[&str]| {
        Command::new("unshare").args(options).arg("true").output().unwrap().status.success()
    };
    if works(&own) {
        return own;
    }
    let own = [vec!["--user", "--map-root-user"], own].concat();
    assert!(works(&own), "needs root or unprivileged user namespaces");
    own
}

#[test]
fn the_table_has_a_row_for_each_workload_and_system() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args(["60", "unshare"])
        .args(own_network())
        .args([
            env!("CARGO_BIN_EXE_futago-measure"),
            "iscsi",
            "--systems",
            "file,tcp,bare",
            "--workloads",
            "4k,64k-read",
        ])
        .args(["--rounds", "1", "--seconds", "0.1", "--span", "32", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{said}");
    for workload in ["4k-read-d1", "4k-write-d1", "4k-read-d32", "4k-write-d32", "64k-read-d32"] {
        for system in ["file", "tcp", "bare"] {
            let row = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let row = row.filter(|row| row.first() == Some(&workload)).find(|row| row[1] == system);
            let row = row.unwrap_or_else(|| panic!("no row of {workload} on {system} in\n{text}"));
            assert!(row[2].parse::<f64>().unwrap() > 0.0, "{row:?}");
        }
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "it leaves nothing behind");
}

#[test]
fn bad_input_is_refused_with_what_would_do() {
    for (arguments, expected) in [
        (["--systems", "nfs"], "none of mirror, single, file"),
        (["--workloads", "8k"], "none of 4k-read-d1"),
        (["--rounds", "0"], "from 1 to 20"),
        (["--seconds", "100"], "from 0.1 to 10"),
        (["--span", "1"], "from 32 to 4096 MiB"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_futago-measure")).arg("iscsi").args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{arguments:?}: {said}");
    }
}
