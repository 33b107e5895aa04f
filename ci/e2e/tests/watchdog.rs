//! A supervisor that hangs: the machine's watchdog restarts it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use futago_e2e::machines::{IQN, PORTAL, ctl};
use futago_e2e::namespace;
use futago_e2e::tools::{wait_for, work_dir};
use futago_e2e::vm::{self, Hardware, Machine};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(180);
const URL: &str = "https://198.51.100.11";
const READY: &str = "web console at";

fn portal_answers() {
    let portal: SocketAddr = PORTAL.parse().unwrap();
    wait_for("the portal", PATIENCE, || TcpStream::connect_timeout(&portal, Duration::from_millis(200)).ok())
        .unwrap();
}

fn ready(machine: &Machine, times: usize) {
    wait_for("the services", PATIENCE, || (machine.console().matches(READY).count() >= times).then_some(()))
        .unwrap_or_else(|error| panic!("{error}: {}", machine.console()));
}

/// Held by a debugger, its main thread turns no more, while its other threads and the services go on.
#[test]
fn a_supervisor_that_hangs_is_restarted_with_its_machine_and_serves_again() {
    const TEST: &str = "a_supervisor_that_hangs_is_restarted_with_its_machine_and_serves_again";
    if !vm::can_run_in_namespace(TEST) {
        return;
    }
    namespace::segment("segment", "198.51.100.1/24", &["tap-a"]).unwrap();
    let dir = work_dir("watchdog");
    let kernel = vm::kernel().unwrap();
    let settings = json!({
        "version": 1, "name": "a", "role": "data", "address": "198.51.100.11", "disks": [vm::FIRST_DISK],
        "portal_interface": "eth0", "time_scale_percent": 400,
    });
    let hardware = Hardware {
        name: "hanging".into(),
        initramfs: vm::hanging_initramfs(&dir, &kernel).unwrap(),
        kernel,
        restarts: true,
        watchdog: true,
        memory_mib: 768,
        command_line: "futago.log=console".into(),
        state_disk: Some(vm::state_disk(&dir, &settings).unwrap()),
        pvscsi_disks: vec![vm::empty_disk(&dir, "data.img", 512).unwrap()],
        links: vec!["tap,ifname=tap-a,script=no,downscript=no".into()],
        number: 41,
        ..Hardware::default()
    };
    let mut machine = Machine::start(&dir, &hardware).unwrap();
    ready(&machine, 1);
    assert!(machine.console().contains("hardware watchdog: armed for 30 s"), "{}", machine.console());
    for words in [
        &["setup"][..],
        &["node", "create-cluster", "--portal", PORTAL],
        &["volume", "create", "demo", "64MiB"],
        &["target", "create", IQN],
        &["target", "map", IQN, "0", "demo"],
    ] {
        wait_for(&words.join(" "), PATIENCE, || ctl(URL, words).ok()).unwrap();
    }
    portal_answers();

    // A loop that turns keeps the machine up for longer than the time-out; it turns also when somebody types Ctrl-S at the terminal
    // that has its lines, and those of its services.
    machine.serial_line().unwrap().write_all(b"\x13").unwrap();
    let until = Instant::now() + Duration::from_secs(35);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_secs(5));
        let target = format!("{IQN}-{}", until.saturating_duration_since(Instant::now()).as_millis());
        ctl(URL, &["target", "create", &target]).unwrap();
        machine.wait_line(&target, Duration::from_secs(10)).unwrap();
    }
    assert_eq!(machine.console().matches(READY).count(), 1, "{}", machine.console());

    let hung = Instant::now();
    TcpStream::connect(("198.51.100.11", 1999)).unwrap();
    ready(&machine, 2);
    let took = hung.elapsed();
    println!("serves {:.0} s after its supervisor began to hang", took.as_secs_f32());
    assert!(took > Duration::from_secs(15), "that was no time-out");
    portal_answers();
    let status: Value = serde_json::from_str(&ctl(URL, &["status", "--json"]).unwrap()).unwrap();
    assert_eq!(status["volumes"][0]["primary"], "a", "{status}");

    machine.press_power_button().unwrap();
    wait_for("its end", PATIENCE, || machine.console().contains("futago: bye").then_some(())).unwrap();
    let status = machine.wait_off(PATIENCE).unwrap();
    assert!(status.success());
    std::fs::remove_dir_all(dir).unwrap();
}
