//! Wrong input: a clear error that names the thing, nothing lost, no panic.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futago_e2e::checker::reconnect;
use futago_e2e::demo::Demo;
use futago_e2e::tools::{Random, futago, wait_for, work_dir};

const HEALTHY: Duration = Duration::from_secs(90);

/// Runs a demo that is to fail; answers what it said.
fn refused(dir: &Path) -> String {
    refused_with(dir, "256MiB")
}

fn refused_with(dir: &Path, size: &str) -> String {
    let mut command = Command::new("timeout");
    command.args(["60"]).arg(futago()).args(["demo", "--size", size, "--dir"]).arg(dir);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim().lines().count(), 1, "one line, not: {text}");
    text
}

fn write_pattern(demo: &Demo) {
    let mut session = open(demo);
    session.write(2048, &[0x77; 4096]).unwrap();
}

fn check_pattern(demo: &Demo) {
    assert_eq!(open(demo).read(2048, 4096).unwrap(), vec![0x77; 4096]);
}

fn open(demo: &Demo) -> futago_e2e::initiator::Session {
    reconnect(demo.portal(), &demo.iqn(), "iqn.2026-11.local.futago:bad", 1, HEALTHY).unwrap()
}

#[test]
fn an_address_in_use_is_named() {
    let dir = work_dir("in-use");
    for address in ["127.0.0.50:3260", "127.0.0.12:7788", "127.0.0.11:8443", "127.0.0.13:7780"] {
        let holder = TcpListener::bind(address).unwrap();
        let said = refused(&dir);
        assert!(said.contains(address), "{said}");
        drop(holder);
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let dir = work_dir("full");
    let said = refused_with(&dir, "900TiB");
    assert!(said.contains("disk0.img") && said.contains("no space left"), "{said}");
    assert!(!dir.join("a/disk0.img").exists());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn damaged_state_is_named_and_left_alone() {
    let dir = work_dir("damage");
    let mut demo = Demo::start(&dir, "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    write_pattern(&demo);
    demo.stop().unwrap();

    for (file, at) in [("b/settings.json", 3), ("witness/raft.redb", 0), ("a/identity/identity.json", 5)] {
        let path = dir.join(file);
        let path = if path.exists() { path } else { newest_in(path.parent().unwrap()) };
        let intact = std::fs::read(&path).unwrap();
        let handle = std::fs::File::options().write(true).open(&path).unwrap();
        handle.write_all_at(&[0xff; 16], at).unwrap();
        let damaged = std::fs::read(&path).unwrap();
        let said = refused(&dir);
        assert!(said.contains(&*path.file_name().unwrap().to_string_lossy()), "{said}");
        assert!(std::fs::read(&path).unwrap() == damaged, "{} was changed", path.display());
        std::fs::write(&path, intact).unwrap();
    }

    // Both copies of a disk's label: that node's storage refuses the disk and says so; the other one serves.
    let path = dir.join("a/disk0.img");
    let disk = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut head = vec![0; 16 << 20];
    disk.read_exact_at(&mut head, 0).unwrap();
    disk.write_all_at(&vec![0xff; 16 << 20], 0).unwrap();
    let mut demo = Demo::start(&dir, "256MiB").unwrap();
    check_pattern(&demo);
    wait_for("the refused disk in the list of problems", Duration::from_secs(20), || {
        demo.status()?["problems"].to_string().contains("disk0.img").then_some(())
    })
    .unwrap();
    let mut after = vec![0; 16 << 20];
    disk.read_exact_at(&mut after, 0).unwrap();
    assert!(after.iter().all(|&b| b == 0xff), "the refused disk was written to");
    demo.stop().unwrap();
    disk.write_all_at(&head, 0).unwrap();

    let mut demo = Demo::start(&dir, "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    check_pattern(&demo);
    demo.stop().unwrap();
}

fn newest_in(dir: &Path) -> std::path::PathBuf {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).max().unwrap()
}

#[test]
fn nonsense_on_every_port_changes_nothing() {
    let dir = work_dir("nonsense");
    let mut random = Random::seeded("nonsense");
    let mut demo = Demo::start(&dir, "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    write_pattern(&demo);
    let before = demo.status().unwrap();
    let ports =
        ["127.0.0.50:3260", "127.0.0.11:7780", "127.0.0.12:7788", "127.0.0.11:7788", "127.0.0.13:7780"];
    for round in 0..60 {
        for port in ports {
            let Ok(mut stream) = TcpStream::connect(port) else { continue };
            stream.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
            let len = 1 + random.below(2000);
            let mut bytes: Vec<u8> = (0..len).map(|_| random.draw().to_le_bytes()[0]).collect();
            if round % 3 == 0 {
                bytes[0] = [0x43, 0x16, 0x01, 0x05][usize::try_from(random.below(4)).unwrap()];
            }
            let _ = stream.write_all(&bytes);
            let _ = stream.read(&mut [0; 256]);
        }
    }
    check_pattern(&demo);
    let after = demo.status().unwrap();
    assert_eq!(before["volumes"][0]["epoch"], after["volumes"][0]["epoch"], "a session was disturbed");
    for service in after["services"].as_array().unwrap() {
        assert_eq!(service["restarts"], 0, "{service}");
    }
    demo.stop().unwrap();
}

#[test]
fn wrong_commands_say_what_is_wrong() {
    let dir = work_dir("commands");
    let mut demo = Demo::start(&dir, "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&["handover", "nosuch"], "nosuch"),
        (&["volume", "create", "demo", "64MiB"], "demo"),
        (&["volume", "create", "bad name", "64MiB"], "bad name"),
        (&["volume", "create", "huge", "900TiB"], "huge"),
        (&["volume", "delete", "demo"], "demo"),
        (&["target", "create", "not-an-iqn"], "not-an-iqn"),
        (&["node", "pair", "127.0.0.13:7780", "000-000-000"], "pair"),
    ];
    for (arguments, named) in cases {
        let said = demo.ctl("a", arguments).unwrap_err().to_string();
        assert!(said.contains(named), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    demo.stop().unwrap();
}
