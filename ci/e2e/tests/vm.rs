//! The appliance as a virtual machine: boot; and three machines, two of them from their disk images, with a real initiator
//! through the loss of a system disk and a failover.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use futago_e2e::machines::Machines;
use futago_e2e::namespace;
use futago_e2e::tools::{self, work_dir};
use futago_e2e::vm::{self, Hardware, Machine};
use serde_json::json;

/// Inside the test's namespaces, on a machine that can run virtual machines.
fn can_run(test: &str) -> bool {
    if let Some(obstacle) = vm::obstacle() {
        println!("{test}: skipped, no QEMU: {obstacle}");
        return false;
    }
    // Downloaded on first use: from outside, as the namespace reaches nobody.
    vm::kernel().unwrap();
    namespace::enter(test)
}

#[test]
fn an_appliance_boots_and_powers_off_at_its_button() {
    if !can_run("an_appliance_boots_and_powers_off_at_its_button") {
        return;
    }
    let dir = work_dir("vm-boot");
    let kernel = vm::kernel().unwrap();
    let settings = json!({
        "version": 1, "name": "alpha", "role": "data", "address": "198.51.100.11",
        "disks": ["/dev/sda"], "time_scale_percent": 400,
    });
    let hardware = Hardware {
        name: "alpha".into(),
        initramfs: vm::appliance_initramfs(&dir, &kernel).unwrap(),
        kernel,
        memory_mib: 768,
        command_line: "futago.log=console".into(),
        state_disk: Some(vm::state_disk(&dir, &settings).unwrap()),
        pvscsi_disks: vec![vm::empty_disk(&dir, "alpha-data.img", 512).unwrap()],
        links: vec!["user,restrict=on".into(); 2],
        number: 11,
        ..Hardware::default()
    };
    // Twice: the second boot finds the state disk as the first has left it.
    for boot in 1..=2 {
        let start = Instant::now();
        let mut machine = Machine::start(&dir, &hardware).unwrap();
        let line = machine.wait_line("web console at", Duration::from_secs(120)).unwrap();
        assert!(line.ends_with("https://198.51.100.11/"), "{line}");
        println!("boot {boot}: {line:?} after {:.1} s", start.elapsed().as_secs_f32());
        machine.press_power_button().unwrap();
        let status = machine.wait_off(Duration::from_secs(60)).unwrap();
        assert!(status.success());
        let console = machine.console();
        assert!(console.contains("futago: bye") && console.contains("Power down"), "{console}");
        assert!(!console.contains("could not"), "{console}");
        assert!(!console.contains("still mounted"), "{console}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_host_works_through_the_loss_of_a_system_disk_and_of_an_appliance() {
    if !can_run("a_host_works_through_the_loss_of_a_system_disk_and_of_an_appliance") {
        return;
    }
    let dir = work_dir("vm-failover");
    let start = Instant::now();
    let mut machines = Machines::start(&dir).unwrap();
    machines.set_up("128MiB").unwrap();
    machines.wait_healthy(Duration::from_secs(120)).unwrap();
    println!("two appliances and a witness mirror after {:.0} s", start.elapsed().as_secs_f32());

    let files = 200;
    let mut host = machines.start_initiator(files).unwrap();
    host.wait_line("INITIATOR written 30", Duration::from_secs(240)).unwrap();
    let victim = machines.primary().unwrap();
    println!("the system disk of {victim}, which serves, is removed after 30 of {files} files");
    machines.machine(&victim).unwrap().remove_system_disk().unwrap();
    let told = "The disk with this node's state is lost";
    println!("{}", machines.machine(&victim).unwrap().wait_line(told, Duration::from_secs(60)).unwrap());
    let survivor = if victim == "a" { "b" } else { "a" };
    let told = format!("{victim}: {told}");
    for node in [&victim, survivor, "witness"] {
        tools::wait_for(&format!("{node} tells"), Duration::from_secs(60), || {
            let problems = machines.problems(node).ok()?;
            problems.iter().any(|problem| problem.starts_with(&told)).then_some(())
        })
        .unwrap();
    }
    assert_eq!(machines.primary().unwrap(), victim, "nothing was decided, so nothing had to be written down");

    host.wait_line("INITIATOR written 80", Duration::from_secs(240)).unwrap();
    println!("power of {victim}, which serves, is cut after 80 files");
    machines.cut_power(&victim).unwrap();
    let result = host.wait_line("INITIATOR result", Duration::from_secs(300)).unwrap();
    println!("{result}");
    assert!(result.contains(&format!("files={files} verified={files} e2fsck=clean")), "{result}");
    assert!(host.wait_off(Duration::from_secs(60)).unwrap().success());

    machines.switch_on(&victim).unwrap();
    let resync = machines.wait_healthy(Duration::from_secs(180)).unwrap();
    let moved = machines.volume().unwrap()["resynced_total"].as_u64().unwrap() >> 20;
    println!(
        "{victim} is back in sync {:.0} s after its boot; {moved} MiB of 128 were moved",
        resync.as_secs_f32()
    );
    let problems = machines.problems(survivor).unwrap();
    assert!(!problems.iter().any(|problem| problem.starts_with(&told)), "{problems:?}");
    // The serving one last: it hands over only to a node that is there.
    for name in [victim.as_str(), survivor] {
        let machine = machines.machine(name).unwrap();
        machine.press_power_button().unwrap();
        assert!(machine.wait_off(Duration::from_secs(120)).unwrap().success());
        assert!(machine.console().contains("futago: bye"));
    }
    drop(machines);
    std::fs::remove_dir_all(dir).unwrap();
}
