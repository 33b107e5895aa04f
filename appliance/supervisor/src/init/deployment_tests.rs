//! As vCenter writes the document, and as others have.

use super::*;

const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$Yn0YwR3JqK5Xk0d0c8XW2a1TeuHmKZ5mEAQ2wW2wPTI";

fn document(properties: &[(&str, &str)]) -> String {
    let lines: String = properties
        .iter()
        .map(|(key, value)| format!("<Property oe:key=\"{key}\" oe:value=\"{value}\"/>\n"))
        .collect();
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Environment xmlns="{NAMESPACE}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:oe="{NAMESPACE}"
  xmlns:ve="http://www.vmware.com/schema/ovfenv" oe:id="" ve:vCenterId="vm-1">
  <PlatformSection><Kind>VMware ESXi</Kind><Version>8.0.2</Version></PlatformSection>
  <PropertySection>{lines}</PropertySection>
  <Entity oe:id="other"><PropertySection><Property oe:key="hostname" oe:value="other"/></PropertySection></Entity>
</Environment>"#
    )
}

fn parse(properties: &[(&str, &str)]) -> anyhow::Result<Deployment> {
    Deployment::parse(&document(properties))
}

fn disks() -> Vec<String> {
    vec!["/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0".into()]
}

fn adapters() -> Vec<String> {
    vec!["eth0".into(), "eth1".into()]
}

#[test]
fn a_data_node_is_made_of_its_properties_and_its_disks() {
    let all = [
        ("hostname", "futago-1"),
        ("role", "data"),
        ("address", "192.0.2.11/26"),
        ("gateway", "192.0.2.1"),
        ("admin_password_hash", HASH),
        ("dns", "192.0.2.53, 2001:db8::53"),
        ("mirror_address", "198.51.100.1/30"),
        ("ntp", "192.0.2.123,time.example.org"),
        ("someone.else", "x"),
    ];
    let deployment = parse(&all).unwrap();
    let settings = deployment.settings(&adapters(), disks()).unwrap();
    let mirror =
        Mirror { interface: "eth1".into(), address: "198.51.100.1".parse().unwrap(), prefix_len: 30 };
    assert_eq!(settings.mirror, Some(mirror));
    assert_eq!(settings.dns, ["192.0.2.53".parse::<IpAddr>().unwrap(), "2001:db8::53".parse().unwrap()]);
    assert_eq!(settings.ntp, ["192.0.2.123", "time.example.org"]);
    assert_eq!(settings.name, "futago-1");
    assert_eq!((settings.address, settings.portal_prefix_len), ("192.0.2.11".parse().unwrap(), 26));
    assert_eq!(settings.gateway, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(settings.portal_interface.as_deref(), Some("eth0"));
    assert_eq!(settings.disks, disks());
    // What is written to the state disk is read again.
    let json = serde_json::to_vec(&settings).unwrap();
    assert_eq!(Settings::parse(&json).unwrap(), settings);
}

#[test]
fn a_witness_takes_no_disks() {
    let said = [
        ("hostname", "w"),
        ("role", "witness"),
        ("address", "192.0.2.13/24"),
        ("mirror_address", "198.51.100.3/24"),
    ];
    let deployment = parse(&said).unwrap();
    let settings = deployment.settings(&adapters(), disks()).unwrap();
    assert_eq!(settings.role, Role::Witness);
    assert!(settings.disks.is_empty() && settings.mirror.is_none());
}

#[test]
fn nothing_set_is_nothing_said() {
    for value in ["", "null", "  "] {
        assert!(parse(&[("hostname", value), ("role", value), ("address", value)]).unwrap().is_empty());
    }
    assert!(parse(&[]).unwrap().is_empty());
}

#[test]
fn what_can_not_be_used_is_named() {
    for (key, value) in [
        ("role", "primary"),
        ("address", "192.0.2.11"),
        ("address", "192.0.2.11/x"),
        ("address", "futago/24"),
        ("gateway", "router"),
        ("mirror_address", "198.51.100.1"),
        ("dns", "192.0.2.53,dns"),
        ("admin_password_hash", "correct horse"),
        ("admin_password_hash", "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ"),
    ] {
        let error = format!("{:#}", parse(&[(key, value)]).unwrap_err());
        assert!(error.contains(key), "{key}={value}: {error}");
        assert!(!error.contains("correct horse"), "{error}");
    }
    for xml in ["", "<Environment/>", "<a", "<Environment xmlns=\"urn:other\"/>"] {
        assert!(Deployment::parse(xml).is_err(), "{xml}");
    }
    for (properties, part) in [
        (vec![("address", "192.0.2.11/24")], "hostname"),
        (vec![("hostname", "a")], "address"),
        (vec![("hostname", "a b"), ("address", "192.0.2.11/24")], "name"),
        (vec![("hostname", "a"), ("address", "192.0.2.11/33")], "prefix"),
        (vec![("hostname", "a"), ("address", "192.0.2.11/24"), ("gateway", "2001:db8::1")], "gateway"),
        (vec![("hostname", "a"), ("address", "192.0.2.11/24"), ("ntp", "time.example.org")], "ntp"),
        (
            vec![("hostname", "a"), ("address", "192.0.2.11/24"), ("mirror_address", "192.0.2.11/24")],
            "mirror",
        ),
        // As when it is typed at the console or in the wizard.
        (vec![("hostname", "a"), ("address", "192.0.2.0/24")], "address"),
        (vec![("hostname", "a"), ("address", "127.0.0.1/8")], "address"),
        (vec![("hostname", "a"), ("address", "192.0.2.11/24"), ("gateway", "192.0.3.1")], "gateway"),
        (
            vec![("hostname", "a"), ("address", "192.0.2.11/24"), ("mirror_address", "192.0.2.12/24")],
            "mirror",
        ),
    ] {
        let error = parse(&properties).unwrap().settings(&adapters(), disks()).unwrap_err();
        assert!(format!("{error:#}").contains(part), "{properties:?}: {error:#}");
    }
    let mirrored = [("hostname", "a"), ("address", "192.0.2.11/24"), ("mirror_address", "198.51.100.1/24")];
    let error = parse(&mirrored).unwrap().settings(&["eth0".into()], disks()).unwrap_err();
    assert!(error.to_string().contains("no second adapter"), "{error}");
    let data = parse(&[("hostname", "a"), ("address", "192.0.2.11/24")]).unwrap();
    assert!(data.settings(&adapters(), vec![]).unwrap_err().to_string().contains("no disk for data"));
}

#[test]
fn a_password_is_stored_once() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web/password");
    Deployment::default().store_password(dir.path()).unwrap();
    assert!(!path.exists());
    let deployment = parse(&[("admin_password_hash", HASH)]).unwrap();
    deployment.store_password(dir.path()).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), HASH);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&path, "changed since").unwrap();
    deployment.store_password(dir.path()).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "changed since");
}
