//! Two initiators that a user would use, through a failover: the Linux kernel's with sg3_utils, fio and ext4, and QEMU's,
//! with a guest whose root file system is the LUN. The machines are virtual, the target is the demo outside.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::time::{Duration, Instant};

use futago_e2e::checker::reconnect;
use futago_e2e::demo::Demo;
use futago_e2e::namespace;
use futago_e2e::tools::{run, run_within, work_dir};
use futago_e2e::vm::{self, Hardware, Machine};

const HEALTHY: Duration = Duration::from_secs(90);
/// User and secret of the initiator, then those of the target.
const CHAP: [&str; 4] = ["vm", "correct-horse-1", "futago", "battery-staple-2"];

/// Inside the test's namespaces, on a machine that can run virtual machines.
fn can_run(test: &str) -> bool {
    if !vm::can_run_in_namespace(test) {
        return false;
    }
    if !namespace::has_proc() {
        println!("{test}: skipped, this machine allows no /proc of the namespace's own");
    }
    namespace::has_proc()
}

#[test]
fn the_kernels_initiator_passes_every_check_through_a_failover() {
    if !can_run("the_kernels_initiator_passes_every_check_through_a_failover") {
        return;
    }
    namespace::segment("segment", "198.51.100.13/24", &["tap-host"]).unwrap();
    // The demo's portal is a loopback address: it may be reached from the segment.
    std::fs::write("/proc/sys/net/ipv4/conf/segment/route_localnet", "1").unwrap();
    let dir = work_dir("linux");
    let kernel = vm::kernel().unwrap();
    let mut demo = Demo::start(&dir.join("demo"), "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let hardware = Hardware {
        name: "acceptance".into(),
        initramfs: vm::acceptance_initramfs(&dir, &kernel).unwrap(),
        kernel,
        memory_mib: 1024,
        command_line: format!(
            "ADDRESS=198.51.100.20/24 PORTAL={} TARGET={} CHAP={} SIZE_AFTER={}",
            demo.portal(),
            demo.iqn(),
            CHAP.join(":"),
            320_u64 << 20
        ),
        links: vec!["tap,ifname=tap-host,script=no,downscript=no".into()],
        number: 20,
        ..Hardware::default()
    };
    let start = Instant::now();
    let mut machine = Machine::start(&dir, &hardware).unwrap();
    for mark in ["logged in", "mark commands", "mark reservations", "mark fio"] {
        machine.wait_line(&format!("INITIATOR {mark}"), Duration::from_secs(180)).unwrap();
        println!("linux: {mark} after {:.0} s", start.elapsed().as_secs_f32());
    }
    machine.wait_line("INITIATOR grow me", Duration::from_secs(60)).unwrap();
    let victim = demo.primary().unwrap();
    demo.ctl(&victim, &["volume", "grow", "demo", "320MiB"]).unwrap();
    machine.wait_line("INITIATOR mark grown", Duration::from_secs(60)).unwrap();
    println!("linux: mark grown after {:.0} s", start.elapsed().as_secs_f32());
    demo.kill(&victim).unwrap();
    assert!(!machine.console().contains("INITIATOR mark verified"), "fio was over before the node died");
    machine.wait_line("INITIATOR mark verified", Duration::from_secs(180)).unwrap();
    println!(
        "linux: fio has verified after {:.0} s, {victim} died on the way",
        start.elapsed().as_secs_f32()
    );
    demo.start_node(&victim).unwrap();
    machine.wait_line("INITIATOR secure me", Duration::from_secs(120)).unwrap();
    require_chap(&dir, &demo, Demo::other(&victim));
    let result = machine.wait_line("INITIATOR result", Duration::from_secs(120)).unwrap();
    println!("linux: {result}");
    // The demo's volume has all of it: nothing may have been left out.
    assert!(result.contains("thin=yes copy=yes chap=yes trimmed="), "{result}");
    assert!(result.contains(" grown=yes "), "{result}");
    assert!(!result.contains("trimmed=none"), "{result}");
    assert!(machine.wait_off(Duration::from_secs(60)).unwrap().success());
    demo.wait_healthy(HEALTHY).unwrap();
    demo.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

/// The target asks for CHAP from the next login on.
fn require_chap(dir: &Path, demo: &Demo, node: &str) {
    let secret = |name: &str, secret: &str| {
        let file = dir.join(name);
        std::fs::write(&file, secret).unwrap();
        file.to_string_lossy().into_owned()
    };
    let [user, password, target_user, target_password] = CHAP;
    let (own, mutual) = (secret("secret", password), secret("mutual", target_password));
    let arguments = ["target", "chap", &demo.iqn(), "--user", user, "--secret-file", &own];
    let more = ["--mutual-user", target_user, "--mutual-secret-file", &mutual];
    demo.ctl(node, &[&arguments[..], &more].concat()).unwrap();
}

#[test]
fn a_guest_whose_disk_is_the_lun_survives_a_failover() {
    if !can_run("a_guest_whose_disk_is_the_lun_survives_a_failover") {
        return;
    }
    run("ip", &["link", "set", "lo", "up"]).unwrap();
    let dir = work_dir("guest");
    let kernel = vm::kernel().unwrap();
    let root = vm::guest_root(&dir, 200).unwrap();
    let mut demo = Demo::start(&dir.join("demo"), "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    copy(&root.to_string_lossy(), &demo.url(), &["-n"]);

    let files = 200;
    // As users run it: no cache in between, and an error would stop the guest rather than reach it. QEMU's initiator
    // reconnects by itself, so that no error comes.
    let disk = format!("file={},format=raw,cache=none,werror=stop,rerror=stop", demo.url());
    let hardware = Hardware {
        name: "guest".into(),
        initramfs: vm::guest_initramfs(&dir, &kernel).unwrap(),
        kernel,
        memory_mib: 384,
        command_line: format!("FILES={files}"),
        virtio_disks: vec![disk],
        ..Hardware::default()
    };
    let mut guest = Machine::start(&dir, &hardware).unwrap();
    let begun = guest.wait_line("GUEST runs from", Duration::from_secs(120)).unwrap();
    assert!(begun.contains("/dev/vda ext4"), "{begun}");
    guest.wait_line("GUEST written 50", Duration::from_secs(120)).unwrap();
    let victim = demo.primary().unwrap();
    println!("guest: kill -9 of {victim}, which serves, after 50 of {files} files");
    demo.kill(&victim).unwrap();
    let done = guest.wait_line("GUEST done", Duration::from_secs(180)).unwrap();
    println!("guest: {done}");
    assert!(done.contains(&format!("files={files} verified={files} ")), "{done}");
    assert!(guest.wait_off(Duration::from_secs(60)).unwrap().success());
    drop(guest);

    demo.start_node(&victim).unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    // What the survivor alone took must be on the other node as well: that one serves when the LUN is read back.
    demo.ctl(Demo::other(&victim), &["handover", "demo"]).unwrap();
    reconnect(demo.portal(), &demo.iqn(), "iqn.2026-11.local.futago:reader", 9, HEALTHY).unwrap();
    check_root(&dir, &demo, files);
    demo.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

fn copy(from: &str, to: &str, more: &[&str]) {
    let mut arguments = vec!["convert", "-t", "none", "-f", "raw", "-O", "raw"];
    arguments.extend_from_slice(more);
    arguments.extend_from_slice(&[from, to]);
    run_within(Duration::from_secs(120), "qemu-img", &arguments).unwrap();
}

/// The file system on the LUN is clean and holds every file that the guest has told.
fn check_root(dir: &Path, demo: &Demo, files: usize) {
    let image = dir.join("after.raw").to_string_lossy().into_owned();
    copy(&demo.url(), &image, &[]);
    run("e2fsck", &["-fn", &image]).unwrap();
    let out = dir.join("after");
    std::fs::create_dir_all(&out).unwrap();
    for path in ["/data", "/sums"] {
        run("debugfs", &["-R", &format!("rdump {path} {}", out.display()), &image]).unwrap();
    }
    let list = std::fs::read_to_string(out.join("sums")).unwrap();
    assert_eq!(list.lines().count(), files);
    let sums = out.join("sums").canonicalize().unwrap();
    let data = out.join("data").to_string_lossy().into_owned();
    run("sh", &["-c", &format!("cd {data} && sha256sum --quiet -c {}", sums.display())]).unwrap();
}
