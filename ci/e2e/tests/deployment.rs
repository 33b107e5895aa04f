//! An appliance that was told at deployment who it is: the properties of its OVA.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use futago_e2e::machines::ctl;
use futago_e2e::namespace;
use futago_e2e::system_disk::SystemDisk;
use futago_e2e::tools::{wait_for, work_dir};
use futago_e2e::vm::{self, Firmware, Hardware, Machine};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(180);
const URL: &str = "https://198.51.100.11";
/// Of the password that [`ctl`] has.
const PASSWORD_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$QBc3xfc1X8FKK2diXYRzCQ$C/Ctjp9Llnr7AJJlXxllE8/6af3nNRMcOEAGirBQrX0";

/// As vCenter writes it.
fn write_document(path: &Path, properties: &[(&str, &str)]) {
    const NAMESPACE: &str = "http://schemas.dmtf.org/ovf/environment/1";
    let lines: Vec<String> = properties
        .iter()
        .map(|(key, value)| format!("<Property oe:key=\"{key}\" oe:value=\"{value}\"/>"))
        .collect();
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Environment xmlns=\"{NAMESPACE}\" xmlns:oe=\"{NAMESPACE}\" \
         oe:id=\"\"><PropertySection>{}</PropertySection></Environment>",
        lines.join("\n")
    );
    std::fs::write(path, document).unwrap();
}

fn switch_off(machine: &mut Machine) {
    machine.press_power_button().unwrap();
    assert!(machine.wait_off(PATIENCE).unwrap().success());
    assert!(machine.console().contains("futago: bye"), "{}", machine.console());
}

/// First it is told something useless, then it lacks a disk, which is added while it waits; then it is told nothing any more,
/// and remembers.
#[test]
fn an_appliance_is_set_up_by_the_properties_of_its_deployment() {
    const TEST: &str = "an_appliance_is_set_up_by_the_properties_of_its_deployment";
    if let Some(obstacle) = vm::obstacle() {
        println!("{TEST}: skipped, no QEMU: {obstacle}");
        return;
    }
    vm::kernel().unwrap();
    if !namespace::enter(TEST) {
        return;
    }
    namespace::segment("segment", "198.51.100.1/24", &["tap-a"]).unwrap();
    let dir = work_dir("deployment");
    let disk = SystemDisk::make(&dir).unwrap();
    disk.set_environment("slot=a\ntries=\nwords=futago.log=console\n").unwrap();
    let document = dir.join("ovf-environment.xml");
    let mut hardware = Hardware {
        name: "deployed".into(),
        memory_mib: 768,
        system_disk: Some((disk.path.clone(), Firmware::Bios)),
        deployment: Some(document.clone()),
        links: vec!["tap,ifname=tap-a,script=no,downscript=no".into()],
        number: 31,
        ..Hardware::default()
    };

    write_document(&document, &[("hostname", "futago-1"), ("address", "198.51.100.11")]);
    let mut machine = Machine::start(&dir, &hardware).unwrap();
    let line = machine.wait_line("Futago has no settings", PATIENCE).unwrap();
    assert!(line.contains("the deployment's address") && line.contains("prefix length"), "{line}");
    switch_off(&mut machine);

    let properties = [
        ("hostname", "futago-1"),
        ("role", "data"),
        ("address", "198.51.100.11/24"),
        ("gateway", "198.51.100.1"),
        ("admin_password_hash", PASSWORD_HASH),
        ("ntp", "null"),
    ];
    write_document(&document, &properties);
    let mut machine = Machine::start(&dir, &hardware).unwrap();
    let line = machine.wait_line("Futago has no settings", PATIENCE).unwrap();
    assert!(line.contains("this machine has no disk for data"), "{line}");
    let data = vm::empty_disk(&dir, "data.img", 512).unwrap();
    machine.add_disk(0, &data).unwrap();
    machine.wait_line("Futago futago-1: web console at https://198.51.100.11/", PATIENCE).unwrap();
    let status = || {
        let text = wait_for("status", PATIENCE, || ctl(URL, &["status", "--json"]).ok()).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(status()["node"], "futago-1", "{}", status());
    ctl(URL, &["node", "create-cluster", "--portal", "198.51.100.50:3260"]).unwrap();
    wait_for("a volume on the disk", PATIENCE, || ctl(URL, &["volume", "create", "demo", "64MiB"]).ok())
        .unwrap();
    switch_off(&mut machine);

    // A later deployment's word does not undo what was set up.
    write_document(&document, &[("hostname", "other"), ("address", "198.51.100.99/24")]);
    hardware.pvscsi_disks = vec![data];
    let mut machine = Machine::start(&dir, &hardware).unwrap();
    machine.wait_line("Futago futago-1: web console at https://198.51.100.11/", PATIENCE).unwrap();
    wait_for("the volume serves", PATIENCE, || {
        let status: Value = serde_json::from_str(&ctl(URL, &["status", "--json"]).ok()?).ok()?;
        status["volumes"][0]["primary"].as_str().map(drop)
    })
    .unwrap();
    switch_off(&mut machine);
    std::fs::remove_dir_all(dir).unwrap();
}
