//! Updates of the appliance: from the upload through the slots to the start of the new release; and of a pair that serves.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futago_e2e::checker::{Load, reconnect};
use futago_e2e::machines::{IQN, Machines, PORTAL, ctl, ctl_within};
use futago_e2e::namespace;
use futago_e2e::system_disk::{Release, SystemDisk};
use futago_e2e::tools::{Random, futago, wait_for, work_dir};
use futago_e2e::updates::Maker;
use futago_e2e::vm::{self, Firmware, Hardware, Machine};
use serde_json::{Value, json};
use update::{Format, Formats, Levels, Versions};

const PATIENCE: Duration = Duration::from_secs(240);
/// Three starts that fail, and a fourth.
const FALLBACK: Duration = Duration::from_secs(500);
const URL: &str = "https://198.51.100.13";
/// Those of a pair.
const URL_A: &str = "https://198.51.100.11";
const URL_B: &str = "https://198.51.100.12";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn status() -> Value {
    let text = wait_for("the console", PATIENCE, || ctl(URL, &["update", "--json"]).ok()).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A node of its own, a witness, as it needs no data disk.
struct Appliance {
    disk: SystemDisk,
    hardware: Hardware,
    dir: std::path::PathBuf,
}

impl Appliance {
    fn new(dir: &Path, release: &Release) -> Self {
        let disk = SystemDisk::of(dir, release).unwrap();
        let settings =
            json!({ "version": 1, "name": "omega", "role": "witness", "address": "198.51.100.13" });
        disk.set_settings(dir, &settings).unwrap();
        disk.set_environment("slot=a\ntries=\nwords=panic=1 futago.log=console\n").unwrap();
        let hardware = Hardware {
            name: "update".into(),
            memory_mib: 768,
            restarts: true,
            system_disk: Some((disk.path.clone(), Firmware::Bios)),
            links: vec!["tap,ifname=tap-a,script=no,downscript=no".into()],
            number: 13,
            ..Hardware::default()
        };
        Self { disk, hardware, dir: dir.into() }
    }

    fn start(&self) -> Machine {
        let mut machine = Machine::start(&self.dir, &self.hardware).unwrap();
        machine.wait_line("web console at", PATIENCE).unwrap();
        machine
    }

    fn variable(&self, name: &str) -> String {
        let environment = self.disk.environment().unwrap();
        let found =
            environment.lines().filter_map(|line| line.split_once('=')).find(|(known, _)| *known == name);
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    }

    /// Both slots and the boot loader's variables.
    fn slots(&self) -> (Vec<u8>, Vec<u8>, String) {
        let content = |name: &str| self.disk.content(name).unwrap();
        (content("futago-a"), content("futago-b"), self.disk.environment().unwrap())
    }
}

#[test]
fn an_update_is_taken_when_it_is_good_and_given_up_when_it_does_not_come_up() {
    const TEST: &str = "an_update_is_taken_when_it_is_good_and_given_up_when_it_does_not_come_up";
    if !vm::can_run_in_namespace(TEST) {
        return;
    }
    namespace::segment("segment", "198.51.100.1/24", &["tap-a"]).unwrap();
    let dir = work_dir("update");
    let maker = Maker::new(&dir).unwrap();
    let appliance = Appliance::new(&dir, &maker.release("0.1.0").unwrap());
    let new = maker.release("0.2.0").unwrap();
    let good = maker.update("0.2.0", &new).unwrap();

    let mut machine = appliance.start();
    wait_for("the first password", PATIENCE, || ctl(URL, &["setup"]).ok()).unwrap();
    let fresh = status();
    assert_eq!(fresh["running"], "0.1.0");
    assert_eq!(
        fresh["slots"],
        json!({ "running": "a", "next": "a", "idle_release": "0.1.0", "on_trial": false })
    );

    refused(&appliance, &maker, &new, &good);
    cut_while_it_writes(&appliance, &mut machine, &good);

    let start = Instant::now();
    println!("{}", ctl_within(PATIENCE, URL, &["update", text(&good), "--restart"]).unwrap().trim());
    println!("from the upload until it runs: {:.0} s", start.elapsed().as_secs_f32());
    let updated = status();
    assert_eq!(updated["running"], "0.2.0");
    assert_eq!(updated["slots"]["idle_release"], "0.1.0");
    assert!(machine.console().contains("starting slot b"));
    wait_for("the release proves itself", PATIENCE, || appliance.variable("tries").is_empty().then_some(()))
        .unwrap();
    assert_eq!((appliance.variable("slot"), appliance.variable("release_b")), ("b".into(), "0.2.0".into()));
    let old = appliance.disk.content("futago-b").unwrap();

    let nothing = dir.join("nothing");
    std::fs::write(&nothing, "nothing").unwrap();
    let broken = maker.update("0.3.0", &Release { initramfs: nothing, ..new.clone() }).unwrap();
    let error = ctl_within(FALLBACK, URL, &["update", text(&broken), "--restart"]).unwrap_err().to_string();
    assert!(error.contains("release 0.3.0 did not come up; release 0.2.0 runs"), "{error}");
    let console = machine.console();
    // Since the power cut: its start, and the three tries.
    assert_eq!(console.matches("starting slot a").count(), 1 + 3, "{console}");
    assert!(console.contains("falling back to the other one"), "{console}");
    assert_eq!(appliance.variable("slot"), "b");
    assert!(appliance.disk.content("futago-b").unwrap() == old, "the slot that ran was not touched");

    // And back by hand: the older release knows every format.
    let older = maker.update("0.1.0", &maker.release("0.1.0").unwrap()).unwrap();
    ctl_within(PATIENCE, URL, &["update", text(&older), "--restart"]).unwrap();
    assert_eq!(status()["running"], "0.1.0");
    machine.press_power_button().unwrap();
    assert!(machine.wait_off(PATIENCE).unwrap().success());
    std::fs::remove_dir_all(dir).unwrap();
}

/// What must not be installed leaves slots and variables as they were.
fn refused(appliance: &Appliance, maker: &Maker, new: &Release, good: &Path) {
    let dir = &appliance.dir;
    let before = appliance.slots();
    let strangers = dir.join("stranger");
    std::fs::create_dir_all(&strangers).unwrap();
    let stranger = Maker::new(&strangers).unwrap().update("0.2.0", new).unwrap();
    let mut formats = Formats::CURRENT;
    for format in Format::ALL {
        *formats.of_mut(format) = Versions { oldest: 0, newest: formats.of(format).newest - 1 };
    }
    let downgrade = maker.update_with("0.0.9", new, formats).unwrap();
    let corrupted = dir.join("corrupted");
    let mut bytes = std::fs::read(good).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&corrupted, &bytes).unwrap();
    let cut = dir.join("cut");
    std::fs::write(&cut, &bytes[..last]).unwrap();
    for (file, expected) in [
        (&stranger, "not signed by this appliance's maker"),
        (&corrupted, "its initramfs is not the one that was signed"),
        (&cut, "not whole"),
        (&downgrade, "release 0.0.9 is too old"),
    ] {
        let error = ctl_within(PATIENCE, URL, &["update", text(file)]).unwrap_err().to_string();
        println!("{error}");
        assert!(error.contains(expected), "{error}");
        assert!(appliance.slots() == before, "{}: something was written", file.display());
    }
}

/// The power fails while the other slot is written: the release that ran starts again, and the other slot holds nothing.
fn cut_while_it_writes(appliance: &Appliance, machine: &mut Machine, good: &Path) {
    let file = good.to_owned();
    let upload = std::thread::spawn(move || ctl_within(PATIENCE, URL, &["update", text(&file)]));
    wait_for("the slot is written to", PATIENCE, || {
        let status: Value = serde_json::from_str(&ctl(URL, &["update", "--json"]).ok()?).ok()?;
        (status["installation"]["state"] == "writing").then_some(())
    })
    .unwrap();
    machine.cut_power().unwrap();
    // The command would wait for the node; the test does not.
    drop(upload);
    assert_eq!((appliance.variable("slot"), appliance.variable("release_b")), ("a".into(), String::new()));
    *machine = appliance.start();
    let status = status();
    assert_eq!(status["running"], "0.1.0");
    assert_eq!(
        status["slots"],
        json!({ "running": "a", "next": "a", "idle_release": null, "on_trial": false })
    );
    assert!(machine.console().contains("starting slot a") && !machine.console().contains("slot b"));
}

/// The next release understands one more version of each format, if there is a build of it (`FUTAGO_NEXT`, `ci/test` makes it);
/// else it is the same with another number. While some node does not know the newer versions, everything stays as that node
/// knows it, and each can go back; once all do, the versions rise by themselves, and going back ends there.
#[test]
fn a_pair_is_updated_one_after_the_other_while_it_serves() {
    const TEST: &str = "a_pair_is_updated_one_after_the_other_while_it_serves";
    if !vm::can_run_in_namespace(TEST) {
        return;
    }
    let next = std::env::var_os("FUTAGO_NEXT").map(PathBuf::from);
    println!("a build of the next release: {next:?}");
    let (next, step) = next.map_or((futago(), 0), |next| (next, 1));
    let dir = work_dir("update-pair");
    let maker = Maker::new(&dir).unwrap();
    let mut formats = Formats::CURRENT;
    for format in Format::ALL {
        formats.of_mut(format).newest += step;
    }
    let old_release = maker.release("0.1.0").unwrap();
    let old = maker.update("0.1.0", &old_release).unwrap();
    let new = maker.update_with("0.2.0", &maker.release_of("0.2.0", &next).unwrap(), formats).unwrap();
    let disk = SystemDisk::of(&dir, &old_release).unwrap();
    let mut machines = Machines::start_from(&dir, &disk, true).unwrap();
    machines.set_up("64MiB").unwrap();
    machines.wait_healthy(Duration::from_secs(120)).unwrap();
    let load = Load::start(PORTAL.parse().unwrap(), IQN, 1, 512, Random::seeded(TEST).0);
    let before = machines.levels("a").unwrap();
    assert_eq!(before, Levels::NEWEST);

    // One takes it, serves beside the older release, and goes back.
    let first = machines.primary().unwrap();
    let (second, url) = if first == "a" { ("b", URL_B) } else { ("a", URL_A) };
    update_alone(&machines, second, url, &new);
    for node in [second, &first] {
        assert_eq!(machines.levels(node).unwrap(), before, "the others do not know more");
    }
    update_alone(&machines, second, url, &old);

    update_all(&mut machines, &new);
    assert_eq!(machines.levels("a").unwrap(), before, "the witness does not know more");
    machines.replace_witness(&next).unwrap();
    let Levels { metadata, pool, state } = before;
    let raised = Levels { metadata: metadata + step, pool: pool + step, state: state + step };
    wait_for("the versions rise", PATIENCE, || (machines.levels("a").ok()? == raised).then_some(())).unwrap();
    for mut ledger in load.finish().unwrap() {
        println!("{} writes, longest pause {:.1} s", ledger.acknowledged, ledger.longest_pause.as_secs_f32());
        let name = "iqn.2026-11.local.futago:checker-0";
        let mut session = reconnect(PORTAL.parse().unwrap(), IQN, name, 0, Duration::from_secs(60)).unwrap();
        ledger.verify(&mut session).unwrap();
    }
    machines.wait_healthy(PATIENCE).unwrap();
    if step > 0 {
        let error = ctl_within(PATIENCE, URL_A, &["update", text(&old)]).unwrap_err().to_string();
        println!("{error}");
        assert!(error.contains("release 0.1.0 is too old"), "{error}");
        assert!(error.contains("of the replica metadata"), "{error}");
        // What is written now, a start finds again.
        machines.cut_power("b").unwrap();
        machines.switch_on("b").unwrap();
        machines.wait_healthy(PATIENCE).unwrap();
        let consoles = ["a", "b"].map(|node| machines.machine(node).unwrap().console());
        let older = "the peer speaks an older version";
        assert!(consoles.iter().any(|console| console.contains(older)), "{consoles:?}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

/// A node that does not serve takes a release, and then serves with it.
fn update_alone(machines: &Machines, node: &str, url: &str, update: &Path) {
    let start = Instant::now();
    // While a release is on trial no other is taken.
    wait_for("the running release is proved", PATIENCE, || {
        let status: Value = serde_json::from_str(&machines.ctl(node, &["update", "--json"]).ok()?).ok()?;
        (status["slots"]["on_trial"] == false).then_some(())
    })
    .unwrap();
    println!("{}", ctl_within(FALLBACK, url, &["update", text(update), "--restart"]).unwrap().trim());
    machines.wait_healthy(PATIENCE).unwrap();
    if machines.primary().unwrap() == node {
        return;
    }
    // On a busy machine it may lose its lease meanwhile: asked again.
    wait_for("the hand-over", PATIENCE, || {
        if let Err(error) = machines.ctl(node, &["handover", "demo", "--to", node]) {
            println!("{error}");
        }
        (machines.primary().ok()? == node).then_some(())
    })
    .unwrap();
    println!("node {node} serves after {:.0} s", start.elapsed().as_secs_f32());
}

/// Both appliances take it, in the order that serves best; the witness is no appliance.
fn update_all(machines: &mut Machines, update: &Path) {
    machines.wait_healthy(PATIENCE).unwrap();
    let first = machines.primary().unwrap();
    let words = ["update", "--rolling", text(update)];
    let error = ctl_within(PATIENCE, URL_A, &words).unwrap_err().to_string();
    assert!(error.contains("node witness"), "{error}");
    let start = Instant::now();
    let words = [&words[..], &["--without", "witness"]].concat();
    let done = ctl_within(Duration::from_secs(1200), URL_A, &words).unwrap();
    println!("{}: {:.0} s", done.trim(), start.elapsed().as_secs_f32());
    assert!(done.contains("every node runs release 0.2.0"), "{done}");
    // Each of them led it for a while: the one that was asked, and the other one while that one restarted.
    for node in ["a", "b"] {
        let log = machines.machine(node).unwrap().console();
        assert!(
            log.contains("leads on, as it is the turn of node") || log.contains("leading the update"),
            "{log}"
        );
    }
    for node in ["a", "b"] {
        let status: Value =
            serde_json::from_str(&machines.ctl(node, &["update", "--json"]).unwrap()).unwrap();
        assert_eq!(
            (&status["running"], &status["slots"]["running"]),
            (&json!("0.2.0"), &json!("b")),
            "{node}"
        );
    }
    assert_ne!(machines.primary().unwrap(), first, "handed over once");
    let console = machines.machine(&first).unwrap().console();
    assert!(console.contains("starting slot b"), "{console}");
}
