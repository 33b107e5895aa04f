//! The appliance as a virtual machine: boot; and three machines, two of them from their disk images, with a real initiator
//! through the loss of a system disk and a failover.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use futago_e2e::machines::Machines;
use futago_e2e::tools::{self, work_dir};
use futago_e2e::vm::{self, Hardware, Machine};
use serde_json::json;

#[test]
fn an_appliance_boots_and_powers_off_at_its_button() {
    if !vm::can_run_in_namespace("an_appliance_boots_and_powers_off_at_its_button") {
        return;
    }
    let dir = work_dir("vm-boot");
    let kernel = vm::kernel().unwrap();
    let settings = json!({
        "version": 1, "name": "alpha", "role": "data", "address": "198.51.100.11",
        "disks": [vm::FIRST_DISK], "time_scale_percent": 400,
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
fn a_host_works_through_the_death_of_an_appliance_and_the_loss_of_a_system_disk() {
    if !vm::can_run_in_namespace(
        "a_host_works_through_the_death_of_an_appliance_and_the_loss_of_a_system_disk",
    ) {
        return;
    }
    let dir = work_dir("vm-failover");
    let start = Instant::now();
    let mut machines = Machines::start(&dir).unwrap();
    machines.set_up("128MiB").unwrap();
    machines.wait_healthy(Duration::from_secs(120)).unwrap();
    println!("two appliances and a witness mirror after {:.0} s", start.elapsed().as_secs_f32());

    let files = 240;
    let mut host = machines.start_initiator(files).unwrap();
    host.wait_line("INITIATOR written 30", Duration::from_secs(240)).unwrap();
    let first = machines.primary().unwrap();
    let second = if first == "a" { "b" } else { "a" };
    println!("power of {first}, which serves, is cut after 30 of {files} files");
    machines.cut_power(&first).unwrap();
    host.wait_line("INITIATOR written 60", Duration::from_secs(240)).unwrap();
    machines.switch_on(&first).unwrap();
    let resync = machines.wait_healthy(Duration::from_secs(180)).unwrap();
    let moved = machines.volume().unwrap()["resynced_total"].as_u64().unwrap() >> 20;
    println!(
        "{first} is back in sync {:.0} s after its boot; {moved} MiB of 128 were moved",
        resync.as_secs_f32()
    );

    lose_system_disk(&mut machines, second, &first);
    let console = host.console();
    println!("by then: {:?}", console.lines().rfind(|line| line.contains("INITIATOR")));
    assert!(
        !console.contains("INITIATOR result"),
        "the host was done before all of this happened: {console}"
    );
    let result = host.wait_line("INITIATOR result", Duration::from_secs(300)).unwrap();
    println!("{result}");
    assert!(result.contains(&format!("files={files} verified={files} e2fsck=clean")), "{result}");
    assert!(host.wait_off(Duration::from_secs(60)).unwrap().success());
    let machine = machines.machine(&first).unwrap();
    println!("{}", machine.wait_line("of memory in use", Duration::from_secs(90)).unwrap());
    machine.press_power_button().unwrap();
    assert!(machine.wait_off(Duration::from_secs(120)).unwrap().success());
    assert!(machine.console().contains("futago: bye"));
    drop(machines);
    std::fs::remove_dir_all(dir).unwrap();
}

/// Takes the system disk of `victim`, which serves: it goes on and all nodes tell, until the cluster decides something,
/// which it can't write down; then `other` serves.
fn lose_system_disk(machines: &mut Machines, victim: &str, other: &str) {
    assert_eq!(machines.primary().unwrap(), victim);
    machines.machine(victim).unwrap().remove_system_disk().unwrap();
    let told = "The disk with this node's state is lost";
    println!("{}", machines.machine(victim).unwrap().wait_line(told, Duration::from_secs(60)).unwrap());
    let told = format!("{victim}: {told}");
    for node in [victim, other, "witness"] {
        tools::wait_for(&format!("{node} tells"), Duration::from_secs(60), || {
            let problems = machines.problems(node).ok()?;
            problems.iter().any(|problem| problem.starts_with(&told)).then_some(())
        })
        .unwrap();
    }
    assert_eq!(machines.primary().unwrap(), victim, "nothing was decided, so nothing had to be written down");
    let before = Instant::now();
    // Decided by the other two, whether or not the one that lost its disk leads them at the moment.
    let _ = machines.ctl("witness", &["target", "create", "iqn.2026-11.local.futago:decision"]);
    tools::wait_for("the other serves", Duration::from_secs(120), || {
        (machines.primary().ok()? == other).then_some(())
    })
    .unwrap();
    println!("{other} serves {:.0} s after a decision", before.elapsed().as_secs_f32());
}
