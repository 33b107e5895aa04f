//! Initiators that nobody here wrote: libiscsi's tools and QEMU's built-in one. (libiscsi's suite is in
//! tests/conformance.rs, the Linux kernel's initiator and a guest on QEMU's in tests/linux.rs.)
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use futago_e2e::demo::Demo;
use futago_e2e::tools::{run_within, work_dir};

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn libiscsi_and_qemu_work_against_the_mirrored_volume() {
    let dir = work_dir("initiators");
    let mut demo = Demo::start(&dir.join("state"), "256MiB").unwrap();
    demo.wait_healthy(Duration::from_secs(90)).unwrap();
    let url = demo.url();
    let portal = format!("iscsi://{}", demo.portal());

    let listed = run_within(LIMIT, "iscsi-ls", &["-s", &portal]).unwrap();
    assert!(listed.contains(&demo.iqn()) && listed.contains("Lun:0"), "{listed}");
    let inquiry = run_within(LIMIT, "iscsi-inq", &[&url]).unwrap();
    assert!(inquiry.contains("Vendor:FUTAGO"), "{inquiry}");
    let capacity = run_within(LIMIT, "iscsi-readcapacity16", &[&url]).unwrap();
    assert!(capacity.contains("268435456") || capacity.contains("524287"), "{capacity}");

    // QEMU writes a pattern with its own initiator, reads it back with verification, then a whole image both ways.
    for command in
        ["write -P 0x5a 1M 3M", "read -P 0x5a 1M 3M", "write -z 2M 64k", "read -P 0 2M 64k", "flush"]
    {
        let text = run_within(LIMIT, "qemu-io", &["-f", "raw", "-c", command, &url]).unwrap();
        assert!(!text.contains("failed") && !text.contains("Pattern verification"), "{command}: {text}");
    }
    let origin = dir.join("origin.raw");
    let mut random = futago_e2e::tools::Random::seeded("initiators");
    let bytes: Vec<u8> = (0..64 << 17).flat_map(|_| random.draw().to_le_bytes()).collect();
    std::fs::write(&origin, &bytes).unwrap();
    let origin_path = origin.to_string_lossy();
    run_within(LIMIT, "qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &origin_path, &url]).unwrap();
    let back = dir.join("back.raw");
    let back_path = back.to_string_lossy();
    run_within(LIMIT, "qemu-img", &["convert", "-f", "raw", "-O", "raw", &url, &back_path]).unwrap();
    assert!(std::fs::read(&back).unwrap()[..bytes.len()] == bytes, "what comes back differs");

    demo.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}
