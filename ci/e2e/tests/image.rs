//! The appliance from its disk image: firmware, boot loader, slots, state partition.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use futago_e2e::machines::{IQN, PORTAL, ctl};
use futago_e2e::namespace;
use futago_e2e::system_disk::SystemDisk;
use futago_e2e::tools::{repository, run, wait_for, work_dir};
use futago_e2e::vm::{self, Firmware, Hardware, Machine};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(180);

fn hardware(disk: &SystemDisk, firmware: Firmware) -> Hardware {
    Hardware {
        name: "image".into(),
        memory_mib: 768,
        system_disk: Some((disk.path.clone(), firmware)),
        links: vec!["user,restrict=on".into(); 2],
        number: 21,
        ..Hardware::default()
    }
}

/// Without a data disk: the node is a witness.
fn give_settings(disk: &SystemDisk, dir: &Path) {
    let settings = json!({ "version": 1, "name": "omega", "role": "witness", "address": "198.51.100.13" });
    disk.set_settings(dir, &settings).unwrap();
}

fn switch_off(machine: &mut Machine) {
    machine.press_power_button().unwrap();
    assert!(machine.wait_off(PATIENCE).unwrap().success());
    let console = machine.console();
    assert!(console.contains("futago: bye") && !console.contains("still mounted"), "{console}");
}

/// Starts the machine, waits for each line in turn, and switches it off.
fn boot(dir: &Path, hardware: &Hardware, lines: &[&str]) -> String {
    boot_until(dir, hardware, lines, || true)
}

/// Likewise, when `is_done` says so, too.
fn boot_until(dir: &Path, hardware: &Hardware, lines: &[&str], is_done: impl Fn() -> bool) -> String {
    let start = Instant::now();
    let mut machine = Machine::start(dir, hardware).unwrap();
    for line in lines {
        let found = machine.wait_line(line, PATIENCE).unwrap();
        println!("{:.1} s: {found:?}", start.elapsed().as_secs_f32());
    }
    wait_for("what the boot loader is told", PATIENCE, || is_done().then_some(())).unwrap();
    println!("{:.1} s: switched off", start.elapsed().as_secs_f32());
    switch_off(&mut machine);
    machine.console()
}

#[test]
fn an_image_starts_from_bios_and_makes_its_state_partition() {
    if !vm::can_run("an_image_starts_from_bios_and_makes_its_state_partition") {
        return;
    }
    let dir = work_dir("image-bios");
    let disk = SystemDisk::make(&dir).unwrap();
    let hardware = hardware(&disk, Firmware::Bios);
    let first =
        boot(&dir, &hardware, &["starting slot a", "The state disk is new", "Futago has no settings"]);
    assert!(!first.contains("could not mount"), "{first}");
    let second = boot(&dir, &hardware, &["Futago has no settings"]);
    assert!(!second.contains("The state disk"), "found as it was left: {second}");

    // A damaged super block, then nothing but damage.
    disk.damage_state(0, 4096).unwrap();
    boot(&dir, &hardware, &["has been repaired", "Futago has no settings"]);
    disk.damage_state(0, 512 << 20).unwrap();
    boot(&dir, &hardware, &["must be set up and paired again", "Futago has no settings"]);
    std::fs::remove_dir_all(dir).unwrap();
}

/// The disk is there, e2fsck is not: the settings of the command line are not those of another node, and are not taken.
#[test]
fn an_appliance_waits_for_a_state_disk_that_can_not_be_used() {
    if !vm::can_run("an_appliance_waits_for_a_state_disk_that_can_not_be_used") {
        return;
    }
    let dir = work_dir("image-state");
    let disk = SystemDisk::make(&dir).unwrap();
    give_settings(&disk, &dir);
    let kernel = vm::kernel().unwrap();
    let settings = r#"{"version":1,"name":"other","role":"witness","address":"198.51.100.13"}"#;
    let encoded = run("sh", &["-c", &format!("printf '%s' '{settings}' | base64 -w0")]).unwrap();
    let hardware = Hardware {
        name: "waiting".into(),
        initramfs: vm::appliance_initramfs(&dir, &kernel).unwrap(),
        kernel,
        memory_mib: 768,
        command_line: format!("futago.log=console futago.settings={encoded}"),
        virtio_disks: vec![format!("file={},format=raw", disk.path.display())],
        links: vec!["user,restrict=on".into()],
        number: 22,
        ..Hardware::default()
    };
    let lines = ["could not mount the state disk: /sbin/e2fsck", "the state disk can't be used"];
    let mut machine = Machine::start(&dir, &hardware).unwrap();
    for line in lines {
        println!("{}", machine.wait_line(line, PATIENCE).unwrap());
    }
    wait_for("another try", PATIENCE, || (machine.console().matches(lines[0]).count() >= 2).then_some(()))
        .unwrap();
    assert!(!machine.console().contains("web console at"), "{}", machine.console());
    switch_off(&mut machine);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn an_image_starts_from_efi_and_serves() {
    if !vm::can_run("an_image_starts_from_efi_and_serves") {
        return;
    }
    let dir = work_dir("image-efi");
    let disk = SystemDisk::make(&dir).unwrap();
    give_settings(&disk, &dir);
    disk.set_environment("slot=a\ntries=\nwords=futago.log=console\n").unwrap();
    let hardware = hardware(&disk, Firmware::Efi);
    let console = boot(&dir, &hardware, &["starting slot a", "web console at https://198.51.100.13/"]);
    assert!(!console.contains("could not"), "{console}");
    assert!(!console.contains("did not come up"), "{console}");
    std::fs::remove_dir_all(dir).unwrap();
}

/// Presses a key again and again until the console shows `text`, then `last`, and waits for the other slot's PID 1.
fn press_from_power_on(dir: &Path, hardware: &Hardware, key: &[u8], text: &str, last: &[u8]) {
    let mut machine = Machine::start(dir, hardware).unwrap();
    let mut keyboard = machine.serial_line().unwrap();
    // A line that nobody reads holds the machine up.
    let mut screen = keyboard.try_clone().unwrap();
    let read = std::thread::spawn(move || std::io::copy(&mut screen, &mut std::io::sink()));
    wait_for(text, PATIENCE, || {
        keyboard.write_all(key).unwrap();
        machine.console().contains(text).then_some(())
    })
    .unwrap();
    // An Escape is one when nothing follows it soon.
    std::thread::sleep(Duration::from_secs(1));
    keyboard.write_all(last).unwrap();
    machine.wait_line("This is the release in slot b, for this start only.", PATIENCE).unwrap();
    machine.cut_power().unwrap();
    assert!(read.join().unwrap().unwrap() > 0);
}

#[test]
fn keys_at_power_on_reach_the_boot_menu() {
    if !vm::can_run("keys_at_power_on_reach_the_boot_menu") {
        return;
    }
    let dir = work_dir("image-menu");
    let disk = SystemDisk::make(&dir).unwrap();
    give_settings(&disk, &dir);
    disk.set_environment("slot=a\ntries=\nwords=futago.log=console\n").unwrap();
    // Ctrl-N goes down a line. EFI firmware takes Escape for itself.
    press_from_power_on(&dir, &hardware(&disk, Firmware::Bios), b"\x1b", "Power off", b"\x0e\r");
    for firmware in [Firmware::Bios, Firmware::Efi] {
        press_from_power_on(&dir, &hardware(&disk, firmware), b"o", "starting slot b", b"");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_release_that_does_not_come_up_is_left_for_the_other_slot() {
    if !vm::can_run("a_release_that_does_not_come_up_is_left_for_the_other_slot") {
        return;
    }
    let dir = work_dir("image-slots");
    let disk = SystemDisk::make(&dir).unwrap();
    give_settings(&disk, &dir);
    let hardware = Hardware { restarts: true, ..hardware(&disk, Firmware::Bios) };
    let fallback = "This is the one in slot a.";

    // A good release on trial proves itself.
    disk.set_environment("slot=b\ntries=3\nwords=panic=1 futago.log=console\n").unwrap();
    let ready = "web console at https://198.51.100.13/";
    let start = Instant::now();
    let is_proved = || disk.environment().unwrap().lines().any(|line| line == "tries=");
    let trial = boot_until(&dir, &hardware, &["starting slot b", ready], is_proved);
    assert!(start.elapsed() > Duration::from_secs(30), "not before its services have run for a while");
    assert!(!trial.contains("did not come up"), "{trial}");
    let environment = disk.environment().unwrap();
    assert!(
        environment.contains("slot=b") && environment.contains("words=panic=1 futago.log=console"),
        "{environment}"
    );
    assert!(environment.lines().any(|line| line == "tries="), "{environment}");

    // A release without a program to start panics three times; the fourth start is the other slot's, and stays so.
    disk.write_file("futago-b", "initramfs", b"nothing").unwrap();
    disk.set_environment("slot=b\ntries=3\nwords=panic=1 futago.log=console\n").unwrap();
    let console = boot(
        &dir,
        &hardware,
        &["falling back to the other one", "web console at https://198.51.100.13/", fallback],
    );
    assert_eq!(console.matches("starting slot b").count(), 3, "{console}");
    let environment = disk.environment().unwrap();
    assert!(
        environment.contains("slot=a") && environment.lines().any(|line| line == "tries="),
        "{environment}"
    );

    // A kernel that can't be read costs no restart.
    disk.write_file("futago-b", "kernel", b"nothing").unwrap();
    disk.set_environment("slot=b\ntries=3\nwords=panic=1 futago.log=console\n").unwrap();
    let console = boot_until(
        &dir,
        &hardware,
        &["slot b can not be read", "web console at https://198.51.100.13/", fallback],
        || disk.environment().unwrap().contains("slot=a"),
    );
    assert_eq!(console.matches("starting slot b").count(), 1, "{console}");
    assert!(disk.environment().unwrap().contains("slot=a"));
    std::fs::remove_dir_all(dir).unwrap();
}

/// The kernel that can be read is loaded first: GRUB loads a second one in the same run.
#[test]
fn a_slot_without_its_initramfs_is_left_for_the_other_one() {
    if !vm::can_run("a_slot_without_its_initramfs_is_left_for_the_other_one") {
        return;
    }
    let dir = work_dir("image-initramfs");
    let disk = SystemDisk::make(&dir).unwrap();
    if !disk.built {
        println!(
            "skipped: without our patches GRUB 2.12 starts a second kernel with the first one's freed data"
        );
        return;
    }
    give_settings(&disk, &dir);
    disk.remove_file("futago-a", "initramfs").unwrap();
    disk.set_environment("slot=a\ntries=\nwords=futago.log=console loglevel=6\n").unwrap();
    let words = std::fs::read_to_string(repository().join("firmware-config/command-line")).unwrap();
    let command_line = format!(
        "BOOT_IMAGE=/kernel {} futago.slot=b futago.boot=fallback futago.log=console loglevel=6",
        words.trim()
    );
    for firmware in [Firmware::Bios, Firmware::Efi] {
        let lines = [
            "slot a can not be read",
            &format!("Kernel command line: {command_line}"),
            "web console at https://198.51.100.13/",
            "The other release did not come up. This is the one in slot b.",
        ];
        boot(&dir, &hardware(&disk, firmware), &lines);
    }
    std::fs::remove_dir_all(dir).unwrap();
}

/// A node that needs nobody else, with a volume behind the portal: from the second power-on until the portal answers, and
/// the memory in use after that.
#[test]
#[ignore = "a measurement"]
fn from_power_on_to_the_portal() {
    if !vm::can_run_in_namespace("from_power_on_to_the_portal") {
        return;
    }
    namespace::segment("segment", "198.51.100.1/24", &["tap-a"]).unwrap();
    let dir = work_dir("image-measured");
    let disk = SystemDisk::make(&dir).unwrap();
    disk.set_environment("slot=a\ntries=\nwords=futago.log=console\n").unwrap();
    let settings = json!({
        "version": 1, "name": "a", "role": "data", "address": "198.51.100.11", "disks": [vm::FIRST_DISK],
        "portal_interface": "eth0",
    });
    disk.set_settings(&dir, &settings).unwrap();
    let mut hardware = hardware(&disk, Firmware::Bios);
    hardware.memory_mib = 1024;
    hardware.links = vec!["tap,ifname=tap-a,script=no,downscript=no".into()];
    hardware.pvscsi_disks = vec![vm::empty_disk(&dir, "data.img", 512).unwrap()];

    let mut machine = Machine::start(&dir, &hardware).unwrap();
    machine.wait_line("web console at", PATIENCE).unwrap();
    let ctl = |arguments: &[&str]| {
        wait_for(&arguments.join(" "), PATIENCE, || ctl("https://198.51.100.11", arguments).ok()).unwrap()
    };
    ctl(&["setup"]);
    ctl(&["node", "create-cluster", "--portal", PORTAL]);
    ctl(&["volume", "create", "demo", "64MiB"]);
    ctl(&["target", "create", IQN]);
    ctl(&["target", "map", IQN, "0", "demo"]);
    switch_off(&mut machine);

    for firmware in [Firmware::Bios, Firmware::Efi] {
        hardware.system_disk = Some((disk.path.clone(), firmware));
        let start = Instant::now();
        let mut machine = Machine::start(&dir, &hardware).unwrap();
        let portal: std::net::SocketAddr = PORTAL.parse().unwrap();
        wait_for("the portal", PATIENCE, || {
            std::net::TcpStream::connect_timeout(&portal, Duration::from_millis(100)).ok()
        })
        .unwrap();
        println!("{firmware:?}: the portal answers {:.1} s after power-on", start.elapsed().as_secs_f32());
        machine.wait_line("memory in use", PATIENCE).unwrap();
        for line in machine.console().lines().filter(|line| line.contains("memory in use")) {
            println!("{line} (the machine has {} MiB)", hardware.memory_mib);
        }
        switch_off(&mut machine);
    }
    std::fs::remove_dir_all(dir).unwrap();
}
