//! An appliance that was told at deployment who it is: the properties of its OVA.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// How far the time server's clock is ahead.
const AHEAD_S: u64 = 86_400;
/// From NTP's epoch, 1900, to Unix's.
const NTP_EPOCH_S: u64 = 2_208_988_800;

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

/// An NTP server whose clock is [`AHEAD_S`] ahead, and a DNS server that has its name, on `address`.
fn serve_time(address: [u8; 4]) {
    let ntp = UdpSocket::bind((Ipv4Addr::from(address), 123)).unwrap();
    std::thread::spawn(move || {
        let mut request = [0; 48];
        loop {
            let (_, from) = ntp.recv_from(&mut request).unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let seconds = now.as_secs() + NTP_EPOCH_S + AHEAD_S;
            let time =
                ((seconds << 32) | ((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000)).to_be_bytes();
            let mut reply = [0; 48];
            // Version 4, server, stratum 2; then the request's time, and when it came and went.
            reply[..2].copy_from_slice(&[0x24, 2]);
            reply[24..32].copy_from_slice(&request[40..48]);
            reply[32..40].copy_from_slice(&time);
            reply[40..48].copy_from_slice(&time);
            ntp.send_to(&reply, from).unwrap();
        }
    });
    let dns = UdpSocket::bind((Ipv4Addr::from(address), 53)).unwrap();
    std::thread::spawn(move || {
        let mut request = [0; 512];
        loop {
            let (len, from) = dns.recv_from(&mut request).unwrap();
            let mut answer = request[..len].to_vec();
            // An answer, with one record: the question's name, type A.
            answer[2] = 0x81;
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(address);
            dns.send_to(&answer, from).unwrap();
        }
    });
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
    if !vm::can_run_in_namespace(TEST) {
        return;
    }
    namespace::segment("segment", "198.51.100.1/24", &["tap-a"]).unwrap();
    namespace::segment("mirror", "203.0.113.2/24", &["tap-m"]).unwrap();
    serve_time([198, 51, 100, 1]);
    let dir = work_dir("deployment");
    let disk = SystemDisk::make(&dir).unwrap();
    disk.set_environment("slot=a\ntries=\nwords=futago.log=console\n").unwrap();
    let document = dir.join("ovf-environment.xml");
    let mut hardware = Hardware {
        name: "deployed".into(),
        memory_mib: 768,
        system_disk: Some((disk.path.clone(), Firmware::Bios)),
        deployment: Some(document.clone()),
        links: ["a", "m"].map(|tap| format!("tap,ifname=tap-{tap},script=no,downscript=no")).to_vec(),
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
        ("mirror_address", "203.0.113.1/24"),
        ("dns", "198.51.100.1"),
        ("ntp", "time.example.org"),
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
    // The services have started under the clock that was set.
    assert!(machine.console().contains("s behind by NTP"), "{}", machine.console());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let since = status()["services"][0]["since"].as_u64().unwrap();
    assert!((now + AHEAD_S).abs_diff(since) < 300, "{since} is not a day after {now}");
    // Replication has a network of its own.
    let answers = |address: [u8; 4]| {
        TcpStream::connect_timeout(&(address, 7788).into(), Duration::from_secs(5)).map(drop)
    };
    answers([203, 0, 113, 1]).unwrap();
    assert_eq!(answers([198, 51, 100, 11]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
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
