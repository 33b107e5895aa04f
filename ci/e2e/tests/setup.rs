//! An appliance that nobody has told who it is: it gets an address from QEMU's own DHCP server, and is set up over the
//! network, by what its screen shows.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::process::Command;
use std::time::Duration;

use futago_e2e::tools::{futago, run, wait_for, work_dir};
use futago_e2e::vm::{self, Hardware, Machine};
use serde_json::Value;

/// An emulated machine boots in it, on a busy host.
const PATIENCE: Duration = Duration::from_secs(180);
const PASSWORD: &str = "correct horse battery staple";
/// Where the address that is lent is reached, and the one that the node gets.
const LENT: &str = "https://127.0.0.1:8443";
const FOR_GOOD: &str = "https://127.0.0.1:9443";

/// `futago ctl` at a console with this certificate; its output, or why there is none.
fn ctl(url: &str, fingerprint: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("timeout");
    command.arg("30").arg(futago()).args(["ctl", "--url", url, "--fingerprint", fingerprint]);
    let output = command.args(arguments).env("FUTAGO_PASSWORD", PASSWORD).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The setup code and the fingerprint that the screen shows, which is the serial port's too.
fn read_screen(machine: &Machine) -> Option<(String, String)> {
    let console = machine.console();
    let (_, rest) = console.split_once("Setup code: ")?;
    let mut lines = rest.lines().map(str::trim);
    let code = lines.next()?;
    lines.next().filter(|line| line.contains("SHA-256"))?;
    let fingerprint = format!("{}:{}", lines.next()?, lines.next()?);
    // The last line shows that the ones before it are whole.
    lines.next().filter(|line| line.contains("lent by 10.0.2.2."))?;
    Some((code.to_owned(), fingerprint))
}

#[test]
fn an_appliance_that_was_told_nothing_is_set_up_over_the_network() {
    const TEST: &str = "an_appliance_that_was_told_nothing_is_set_up_over_the_network";
    if !vm::can_run_in_namespace(TEST) {
        return;
    }
    let kernel = vm::kernel().unwrap();
    run("ip", &["link", "set", "lo", "up"]).unwrap();
    let dir = work_dir("setup");
    let forward = |port, address| format!("hostfwd=tcp:127.0.0.1:{port}-{address}:443");
    let hardware = Hardware {
        name: "new".into(),
        memory_mib: 768,
        initramfs: vm::appliance_initramfs(&dir, &kernel).unwrap(),
        kernel,
        state_disk: Some(vm::new_state_disk(&dir, "new").unwrap()),
        pvscsi_disks: vec![vm::empty_disk(&dir, "data.img", 512).unwrap()],
        links: vec![format!(
            "user,restrict=on,{},{}",
            forward(8443, "10.0.2.15"),
            forward(9443, "10.0.2.20")
        )],
        number: 41,
        ..Hardware::default()
    };

    // First the cable is not plugged in.
    let mut machine = Machine::start(&dir, &hardware).unwrap();
    wait_for("QMP", PATIENCE, || machine.plug(0, false).ok()).unwrap();
    machine.wait_line("Futago has no settings", PATIENCE).unwrap();
    machine.wait_line("No DHCP server answers (eth0, 52:54:00:00:00:29)", PATIENCE).unwrap();
    machine.plug(0, true).unwrap();
    machine.wait_line("To set this machine up, open https://10.0.2.15/", PATIENCE).unwrap();
    let (code, fingerprint) = wait_for("the way in", PATIENCE, || read_screen(&machine)).unwrap();

    // Switched off in the midst of it: the next time the code is another one, the certificate the same.
    switch_off(&mut machine);
    assert!(!machine.console().contains("still mounted"), "{}", machine.console());
    let (old_code, old_fingerprint) = (code, fingerprint);
    let mut machine = Machine::start(&dir, &hardware).unwrap();
    let (code, fingerprint) = wait_for("the way in", PATIENCE, || read_screen(&machine)).unwrap();
    assert_eq!(fingerprint, old_fingerprint);
    assert_ne!(code, old_code);

    let set_up = |code: &str, name: &str, address: &str| {
        let words = [
            "setup",
            "--code",
            code,
            "--name",
            name,
            "--address",
            address,
            "--gateway",
            "10.0.2.2",
            "--json",
        ];
        ctl(LENT, &fingerprint, &words)
    };
    let error = set_up(&old_code, "futago-1", "10.0.2.20/24").unwrap_err();
    assert!(error.contains("Wrong setup code"), "{error}");
    let error = set_up(&code, "futago 1", "10.0.2.20").unwrap_err();
    assert!(error.contains("name: ") && error.contains("address: "), "{error}");
    let error = ctl(LENT, &fingerprint, &["status"]).unwrap_err();
    assert!(error.contains("has no settings"), "{error}");
    let answer: Value = serde_json::from_str(&set_up(&code, "futago-1", "10.0.2.20/24").unwrap()).unwrap();
    assert_eq!(
        (&answer["url"], &answer["fingerprint"]),
        (&"https://10.0.2.20/".into(), &fingerprint.as_str().into())
    );

    // It goes on by itself, with the menu on its terminals, under the new address alone.
    wait_for("the menu", PATIENCE, || {
        let mut screen = vt100::Parser::new(25, 80, 0);
        screen.process(machine.console().as_bytes());
        screen.screen().contents().contains("in none yet: create one, or offer pairing").then_some(())
    })
    .unwrap();
    let status = || {
        let text = wait_for("status", PATIENCE, || ctl(FOR_GOOD, &fingerprint, &["status", "--json"]).ok());
        serde_json::from_str::<Value>(&text.unwrap()).unwrap()
    };
    assert_eq!((&status()["node"], &status()["cluster"]), (&"futago-1".into(), &Value::Null));
    assert!(ctl(LENT, &fingerprint, &["status"]).is_err(), "the address was only lent");
    ctl(FOR_GOOD, &fingerprint, &["node", "create-cluster", "--portal", "10.0.2.50:3260"]).unwrap();
    let mut last = String::new();
    wait_for("a volume on the disk", PATIENCE, || {
        let created = ctl(FOR_GOOD, &fingerprint, &["volume", "create", "demo", "64MiB"]);
        created.map_err(|error| last = error).ok()
    })
    .unwrap_or_else(|error| panic!("{error}: {last}"));
    switch_off(&mut machine);

    // It remembers.
    let mut machine = Machine::start(&dir, &hardware).unwrap();
    wait_for("the volume serves", PATIENCE, || {
        let text = ctl(FOR_GOOD, &fingerprint, &["status", "--json"]).ok()?;
        let status: Value = serde_json::from_str(&text).ok()?;
        status["volumes"][0]["primary"].as_str().map(drop)
    })
    .unwrap();
    assert!(!machine.console().contains("Setup code"), "{}", machine.console());
    switch_off(&mut machine);
    std::fs::remove_dir_all(dir).unwrap();
}

fn switch_off(machine: &mut Machine) {
    machine.press_power_button().unwrap();
    assert!(machine.wait_off(PATIENCE).unwrap().success());
    assert!(machine.console().contains("futago: bye"), "{}", machine.console());
}
