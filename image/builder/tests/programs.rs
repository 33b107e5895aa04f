//! An archive as programs see it that are not ours. `ci/setup test` installs them.

// Helpers outside of test functions may unwrap as tests do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Three tables of grains, the last of them not full.
const DISK_MIB: u64 = 75;

/// Runs a program in a folder; says what it said when it fails.
fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = attempt(folder, program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}{errors}", output.status);
    text
}

fn attempt(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; `ci/setup test` installs it"))
}

/// A disk with text and noise at its start, across the tables' bounds and at its very end.
fn disk(folder: &Path, mib: u64) -> PathBuf {
    let path = folder.join("disk.img");
    let mut file = File::create(&path).unwrap();
    file.set_len(mib * MIB).unwrap();
    let mut state = 1u32;
    for offset in [0, 32 * MIB - 40_000, mib * MIB - 100_000] {
        let noise: Vec<u8> = (0..80_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect();
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(&noise).unwrap();
        file.write_all(&b"text ".repeat(4_000)).unwrap();
    }
    path
}

/// A folder with `disk.img` and the `futago.ova` made of it.
fn built() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    disk(folder.path(), DISK_MIB);
    run(
        folder.path(),
        env!("CARGO_BIN_EXE_futago-image"),
        &["ova", "--disk", "disk.img", "--version", "0.1.0", "--out", "futago.ova"],
    );
    folder
}

/// The same, unpacked by tar.
fn unpacked() -> TempDir {
    let folder = built();
    run(folder.path(), "tar", &["-xf", "futago.ova"]);
    folder
}

#[test]
fn tar_lists_the_descriptor_first_and_sha256sum_accepts_the_manifest() {
    let folder = unpacked();
    let listing = run(folder.path(), "tar", &["--numeric-owner", "--utc", "-tvf", "futago.ova"]);
    let names: Vec<&str> = listing.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(names, ["futago-0.1.0.ovf", "futago-0.1.0.mf", "futago-0.1.0-disk1.vmdk"]);
    for line in listing.lines() {
        assert!(line.starts_with("-rw-r--r-- 0/0 ") && line.contains(" 2000-01-01 00:00 "), "{line}");
    }
    let verdict = run(folder.path(), "sha256sum", &["--strict", "-c", "futago-0.1.0.mf"]);
    assert_eq!(verdict, "futago-0.1.0.ovf: OK\nfutago-0.1.0-disk1.vmdk: OK\n");
}

#[test]
fn qemu_img_reads_the_disk_back_bit_for_bit() {
    let folder = unpacked();
    let vmdk = "futago-0.1.0-disk1.vmdk";
    let info = run(folder.path(), "qemu-img", &["info", vmdk]);
    assert!(info.contains("create type: streamOptimized") && info.contains("(78643200 bytes)"), "{info}");
    run(folder.path(), "qemu-img", &["check", vmdk]);
    run(folder.path(), "qemu-img", &["compare", "-f", "vmdk", "-F", "raw", vmdk, "disk.img"]);
    run(folder.path(), "qemu-img", &["convert", "-f", "vmdk", "-O", "raw", vmdk, "back.img"]);
    run(folder.path(), "cmp", &["back.img", "disk.img"]);
}

#[test]
fn seven_zip_and_libvmdk_read_the_disk() {
    let folder = unpacked();
    run(folder.path(), "7zz", &["x", "-y", "-ounzipped", "futago-0.1.0-disk1.vmdk"]);
    run(folder.path(), "cmp", &["unzipped/futago-0.1.0-disk1.img", "disk.img"]);
    let listing = run(folder.path(), "7zz", &["t", "futago-0.1.0-disk1.vmdk"]);
    assert!(listing.contains("Everything is Ok"), "{listing}");
    let info = run(folder.path(), "vmdkinfo", &["futago-0.1.0-disk1.vmdk"]);
    assert!(info.contains("Stream optimized") && info.contains("(78643200 bytes)"), "{info}");
}

#[test]
fn virt_v2v_understands_the_machine() {
    let folder = built();
    let source = run(folder.path(), "virt-v2v", &["-i", "ova", "futago.ova", "-o", "null", "--print-source"]);
    for wanted in [
        "source name: Futago",
        "memory: 1073741824 (bytes)",
        "nr vCPUs: 2",
        "firmware: uefi",
        "0 [scsi]",
        "Bridge \"Management\" [vmxnet3]",
        "Bridge \"Mirror\" [vmxnet3]",
    ] {
        assert!(source.contains(wanted), "{wanted}: {source}");
    }
}

#[test]
fn virt_v2v_refuses_a_disk_that_does_not_match_the_manifest() {
    let folder = built();
    // The last sector of data in the archive is the disk's end-of-stream marker; two empty blocks follow.
    let archive = folder.path().join("futago.ova");
    let mut bytes = fs::read(&archive).unwrap();
    let last = bytes.len() - 1024 - 1;
    bytes[last] ^= 1;
    fs::write(&archive, bytes).unwrap();
    let output =
        attempt(folder.path(), "virt-v2v", &["-i", "ova", "futago.ova", "-o", "null", "--print-source"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("futago-0.1.0-disk1.vmdk"), "{said}");
}

#[test]
fn a_large_disk_takes_little_memory() {
    const LARGE_MIB: u64 = 6 << 10;
    let folder = tempfile::tempdir().unwrap();
    disk(folder.path(), LARGE_MIB);
    // The whole address space, program and stacks included: a hundredth of the disk.
    let command = "ulimit -v 61440; exec \"$0\" ova --disk disk.img --version 1 --out large.ova";
    let said = run(folder.path(), "sh", &["-c", command, env!("CARGO_BIN_EXE_futago-image")]);
    assert!(said.contains("disk of 6144 MiB") && said.contains("of its 98304 grains"), "{said}");
    assert!(fs::metadata(folder.path().join("large.ova")).unwrap().len() < MIB);
    run(folder.path(), "tar", &["-xf", "large.ova"]);
    let arguments = ["compare", "-f", "vmdk", "-F", "raw", "futago-1-disk1.vmdk", "disk.img"];
    run(folder.path(), "qemu-img", &arguments);
}

#[test]
fn the_command_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("disk.img"), [0; 1000]).unwrap();
    for (disk, wanted) in [("disk.img", "1000 bytes"), ("none.img", "No such file")] {
        let arguments = ["ova", "--disk", disk, "--version", "1", "--out", "x.ova"];
        let output = attempt(folder.path(), env!("CARGO_BIN_EXE_futago-image"), &arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(disk) && said.contains(wanted), "{said}");
    }
    assert!(!folder.path().join("x.ova").exists());
}
