//! The power button of the appliance that serves, under load: it hands over first and goes down in order.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use futago_e2e::checker::{Load, reconnect};
use futago_e2e::machines::{IQN, Machines, PORTAL};
use futago_e2e::tools::{Random, work_dir};
use futago_e2e::vm;

const PATIENCE: Duration = Duration::from_secs(180);
const WRITERS: u16 = 4;
/// Blocks of 4 KiB that each of them overwrites, again and again.
const UNITS: usize = 512;
/// What a lease lasts at the machines' time scale: no failover is shorter.
const LEASE: Duration = Duration::from_secs(6);

/// The first places of these lines on the console are in this order.
fn assert_in_order(console: &str, lines: &[&str]) {
    let places: Vec<Option<usize>> = lines.iter().map(|line| console.find(line)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} of {lines:?} in {console}");
}

#[test]
fn at_its_power_button_an_appliance_hands_over_and_goes_down_in_order() {
    const TEST: &str = "at_its_power_button_an_appliance_hands_over_and_goes_down_in_order";
    if !vm::can_run_in_namespace(TEST) {
        return;
    }
    let dir = work_dir("shutdown");
    let mut random = Random::seeded("shutdown");
    let mut machines = Machines::start(&dir).unwrap();
    machines.set_up("64MiB").unwrap();
    machines.wait_healthy(PATIENCE).unwrap();

    let first = machines.primary().unwrap();
    let second = if first == "a" { "b" } else { "a" };
    let portal = PORTAL.parse().unwrap();
    let load = Load::start(portal, IQN, WRITERS, UNITS, random.draw());
    std::thread::sleep(Duration::from_secs(3));
    let machine = machines.machine(&first).unwrap();
    machine.press_power_button().unwrap();
    let pressed = Instant::now();
    assert!(machine.wait_off(Duration::from_secs(60)).unwrap().success());
    println!("{first} is off {:.1} s after its button was pressed", pressed.elapsed().as_secs_f32());
    let console = machine.console();
    let down = &console[console.find("power button").unwrap()..];
    for service in ["storage", "web"] {
        assert_in_order(
            down,
            &[
                &format!("{service} ended: exit status 0"),
                "cluster ended: exit status 0",
                "futago: bye",
                "Power down",
            ],
        );
    }
    for trouble in ["did not end in time", "still mounted", "could not"] {
        assert!(!down.contains(trouble), "{down}");
    }
    std::thread::sleep(Duration::from_secs(3));

    let ledgers = load.finish().unwrap();
    let mut session = reconnect(portal, IQN, "iqn.2026-11.local.futago:reader", 99, PATIENCE).unwrap();
    let (mut longest_pause, mut acknowledged) = (Duration::ZERO, 0);
    for mut ledger in ledgers {
        ledger.verify(&mut session).unwrap();
        longest_pause = longest_pause.max(ledger.longest_pause);
        acknowledged += ledger.acknowledged;
        assert!(ledger.acknowledged > 0);
    }
    println!("{acknowledged} writes acknowledged, all there; longest pause {longest_pause:.2?}");
    assert!(longest_pause < LEASE / 2, "{longest_pause:?} is no hand-over");
    machines.cut_power(&first).unwrap();
    assert_eq!(machines.primary().unwrap(), second);
    drop(machines);
    std::fs::remove_dir_all(dir).unwrap();
}
