//! The set-up of a machine that nobody has told who it is: what PID 1 has found, what an administrator wants, and the
//! settings that come of the two. No I/O.
//!
//! Flow: PID 1 writes [`Machine`] for the set-up console and reads its [`Door`]; the console asks for [`Wanted`] and
//! writes the settings.

use crate::settings::{Mirror, Ports, Role, Settings, SettingsError};
use alloc::string::{String, ToString};
use alloc::{format, vec::Vec};
use base::ByteCount;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// What a machine has: its first adapter, with the address that it has been lent, and its disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the adapter, e.g. `eth0`.
    pub interface: String,
    /// Its Ethernet address, as `52:54:00:00:00:01`.
    pub hardware_address: String,
    /// The address that a DHCP server has lent.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix_len: u8,
    /// Where packets for other networks go.
    pub gateway: Option<IpAddr>,
    /// Name of the second adapter, which replication may have for itself.
    pub mirror_interface: Option<String>,
    /// Disks that data can be on, in the order of their names.
    pub disks: Vec<Disk>,
}

/// A disk without partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// As [`Settings::disks`] names it.
    pub path: String,
    /// Its size.
    pub size: ByteCount,
}

/// What people need to get in: shown on the machine's screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// Whoever has it stands before the screen.
    pub code: String,
    /// SHA-256 of the set-up console's certificate, as `AB:CD:…`.
    pub fingerprint: String,
}

/// What the machine is to be, as people type it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The node's name.
    pub name: String,
    /// `data` or `witness`; data if empty.
    pub role: String,
    /// Of the first adapter, with its prefix length: `192.0.2.11/24`.
    pub address: String,
    /// Where packets for other networks go; nowhere if empty.
    pub gateway: String,
    /// Of the second adapter, for replication, with its prefix length; over the first one if empty.
    pub mirror_address: String,
    /// Addresses of DNS servers, separated by commas.
    pub dns: String,
    /// Names or addresses of NTP servers, separated by commas.
    pub ntp: String,
    /// Disks for data; all that there are if `None`. A witness takes none.
    pub disks: Option<Vec<String>>,
}

/// Reads an address with its prefix length, as `192.0.2.11/24`.
///
/// # Errors
/// One sentence that quotes `text`.
pub fn parse_interface_address(text: &str) -> Result<(IpAddr, u8), String> {
    let Some((address, prefix_len)) = text.split_once('/') else {
        return Err(format!("{text:?} has no prefix length, as in 192.0.2.11/24"));
    };
    match (address.parse(), prefix_len.parse()) {
        (Ok(address), Ok(prefix_len)) => Ok((address, prefix_len)),
        _ => Err(format!("{text:?} is not an address with its prefix length, as 192.0.2.11/24")),
    }
}

/// Reads a role.
///
/// # Errors
/// One sentence that quotes `text`.
pub fn parse_role(text: &str) -> Result<Role, String> {
    match text {
        "data" => Ok(Role::Data),
        "witness" => Ok(Role::Witness),
        other => Err(format!("{other:?} is neither data nor witness")),
    }
}

/// What stands between commas.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Reads addresses that are separated by commas.
///
/// # Errors
/// One sentence that quotes the first that is none.
pub fn parse_addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    list(text).map(|part| part.parse().map_err(|_| format!("{part:?} is not an address"))).collect()
}

impl Disk {
    /// The disk called `path`, of so many bytes.
    #[must_use]
    pub fn new(path: String, size_bytes: u64) -> Self {
        Self { path, size: ByteCount(size_bytes) }
    }
}

impl Machine {
    /// The settings of this machine when it is what is `wanted`, validated.
    ///
    /// # Errors
    /// Every field that can't be used, by its name in [`Wanted`].
    pub fn settings(&self, wanted: &Wanted) -> Result<Settings, Vec<SettingsError>> {
        let mut faults = Vec::new();
        let mut note = |setting, reason| faults.push(SettingsError { setting, reason });
        let role = match wanted.role.trim() {
            "" => Role::Data,
            text => parse_role(text).unwrap_or_else(|reason| {
                note("role", reason);
                Role::Witness
            }),
        };
        let address = parse_interface_address(wanted.address.trim());
        let gateway = match wanted.gateway.trim() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| format!("{text:?} is not an address")),
        };
        if let Err(reason) = &address {
            note("address", reason.clone());
        }
        if let Err(reason) = &gateway {
            note("gateway", reason.clone());
        }
        let mirror = self.mirror(wanted.mirror_address.trim());
        if let Err(reason) = &mirror {
            note("mirror_address", reason.clone());
        }
        let dns = parse_addresses(&wanted.dns);
        if let Err(reason) = &dns {
            note("dns", reason.clone());
        }
        let disks = match (role, &wanted.disks) {
            (Role::Witness, _) => Vec::new(),
            (Role::Data, None) => self.disks.iter().map(|disk| disk.path.clone()).collect(),
            (Role::Data, Some(disks)) => disks.clone(),
        };
        for (index, disk) in disks.iter().enumerate() {
            if disks.iter().take(index).any(|before| before == disk) {
                note("disks", format!("{disk} is named twice"));
            } else if !self.disks.iter().any(|there| there.path == *disk) {
                note("disks", format!("this machine has no disk {disk} for data"));
            }
        }
        // With something in place of what could not be read, so that all that is wrong is told at once.
        let is_readable = address.is_ok();
        let (address, prefix_len) = address.unwrap_or((self.address, self.prefix_len));
        let settings = Settings {
            version: 1,
            name: wanted.name.trim().to_string(),
            role,
            address,
            ports: Ports::default(),
            portal_interface: Some(self.interface.clone()),
            portal_prefix_len: prefix_len,
            gateway: gateway.unwrap_or_default(),
            mirror: mirror.unwrap_or_default().filter(|_| role == Role::Data),
            dns: dns.unwrap_or_default(),
            ntp: list(&wanted.ntp).map(ToString::to_string).collect(),
            disks,
            time_scale_percent: 100,
            web: true,
        };
        let of_address = |fault: &SettingsError| matches!(fault.setting, "address" | "gateway");
        let others = settings.faults().into_iter().map(of_field).chain(unreachable(&settings));
        // What an address that nobody has asked for would lead to is no fault of the fields.
        faults.extend(others.filter(|fault| is_readable || !of_address(fault)));
        if faults.is_empty() { Ok(settings) } else { Err(faults) }
    }

    /// The link of replication with the address that was typed. A witness needs none: what is typed there is not used.
    fn mirror(&self, typed: &str) -> Result<Option<Mirror>, String> {
        if typed.is_empty() {
            return Ok(None);
        }
        let (address, prefix_len) = parse_interface_address(typed)?;
        let Some(interface) = self.mirror_interface.clone() else {
            return Err("this machine has no second adapter".into());
        };
        Ok(Some(Mirror { interface, address, prefix_len }))
    }
}

/// A fault of the settings, by the field that it came from.
fn of_field(fault: SettingsError) -> SettingsError {
    match fault.setting {
        "portal_prefix_len" => SettingsError { setting: "address", ..fault },
        "mirror" => SettingsError { setting: "mirror_address", ..fault },
        _ => fault,
    }
}

/// What would leave the machine without a way to it, though the settings are sound: a demo may use a loopback address.
fn unreachable(settings: &Settings) -> Option<SettingsError> {
    let fault = |setting, reason| Some(SettingsError { setting, reason });
    let (address, prefix_len) = (settings.address, settings.portal_prefix_len);
    if address.is_loopback() {
        return fault("address", format!("{address} is no address that peers can reach"));
    }
    let gateway = settings.gateway.filter(|gateway| gateway.is_ipv4() == address.is_ipv4())?;
    if gateway == address {
        return fault("gateway", format!("{gateway} is this machine's own address"));
    }
    // A router's link-local address is in every IPv6 network.
    let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if !link_local && network(gateway, prefix_len) != network(address, prefix_len) {
        return fault("gateway", format!("{gateway} is not in the network of {address}/{prefix_len}"));
    }
    None
}

/// The network's part of an address.
fn network(address: IpAddr, prefix_len: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32_u32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    bits.checked_shr(width.saturating_sub(prefix_len.into())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn machine() -> Machine {
        let disk = |id: u32| Disk {
            path: format!("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:{id}:0"),
            size: ByteCount::gib(100),
        };
        Machine {
            interface: "eth0".into(),
            hardware_address: "52:54:00:00:00:01".into(),
            address: "192.0.2.77".parse().unwrap(),
            prefix_len: 24,
            gateway: Some("192.0.2.1".parse().unwrap()),
            mirror_interface: Some("eth1".into()),
            disks: vec![disk(1), disk(2)],
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            name: " futago-1 ".into(),
            address: "192.0.2.11/25 ".into(),
            gateway: " 192.0.2.1".into(),
            mirror_address: "198.51.100.1/30".into(),
            dns: "192.0.2.53, 2001:db8::53".into(),
            ntp: "192.0.2.123,time.example.org,".into(),
            ..Wanted::default()
        }
    }

    #[test]
    fn a_data_node_takes_all_disks_or_those_that_are_named() {
        let settings = machine().settings(&wanted()).unwrap();
        assert_eq!((settings.name.as_str(), settings.role), ("futago-1", Role::Data));
        assert_eq!((settings.address, settings.portal_prefix_len), ("192.0.2.11".parse().unwrap(), 25));
        assert_eq!(settings.gateway, machine().gateway);
        assert_eq!(settings.portal_interface.as_deref(), Some("eth0"));
        assert_eq!(settings.disks.len(), 2);
        let mirror = settings.mirror.as_ref().unwrap();
        assert_eq!((mirror.interface.as_str(), mirror.prefix_len), ("eth1", 30));
        assert_eq!(settings.dns, parse_addresses("192.0.2.53,2001:db8::53").unwrap());
        assert_eq!(settings.ntp, ["192.0.2.123", "time.example.org"]);
        let json = serde_json::to_vec(&settings).unwrap();
        assert_eq!(Settings::parse(&json), Ok(settings), "what is written is read again");
        let second = machine().disks.remove(1).path;
        let settings = machine().settings(&Wanted { disks: Some(vec![second.clone()]), ..wanted() }).unwrap();
        assert_eq!(settings.disks, [second]);
    }

    #[test]
    fn a_witness_takes_no_disks() {
        let every = machine().disks.into_iter().map(|disk| disk.path).collect();
        let wanted =
            Wanted { role: "witness".into(), gateway: String::new(), disks: Some(every), ..wanted() };
        let settings = Machine { disks: Vec::new(), ..machine() }.settings(&wanted).unwrap();
        assert_eq!((settings.role, settings.gateway), (Role::Witness, None));
        assert!(settings.disks.is_empty() && settings.mirror.is_none());
    }

    #[test]
    fn every_fault_is_named_by_its_field() {
        type Spoil = fn(&mut Wanted);
        let cases: [(&[&str], Spoil); 18] = [
            (&["name"], |w| w.name = "a b".into()),
            (&["role"], |w| w.role = "primary".into()),
            (&["address"], |w| w.address = "192.0.2.11".into()),
            (&["address"], |w| (w.address, w.gateway) = ("futago/24".into(), "198.51.100.1".into())),
            (&["address"], |w| w.address = "127.0.0.1/8".into()),
            (&["address"], |w| (w.address, w.gateway) = ("192.0.2.11/33".into(), String::new())),
            (&["gateway"], |w| w.gateway = "router".into()),
            (&["gateway"], |w| w.gateway = "2001:db8::1".into()),
            (&["gateway"], |w| w.gateway = "192.0.3.1".into()),
            (&["gateway"], |w| w.gateway = "192.0.2.11".into()),
            (&["mirror_address"], |w| w.mirror_address = "198.51.100.1".into()),
            (&["mirror_address"], |w| w.mirror_address = "192.0.2.11/25".into()),
            (&["dns"], |w| (w.dns, w.ntp) = ("192.0.2.53,dns".into(), String::new())),
            (&["ntp"], |w| w.ntp = "a b".into()),
            (&["ntp"], |w| w.dns.clear()),
            (&["disks"], |w| w.disks = Some(Vec::new())),
            (&["disks"], |w| w.disks = Some(vec![machine().disks.remove(0).path; 2])),
            (&["address", "gateway", "disks", "name"], |w| {
                *w = Wanted { gateway: "x".into(), disks: Some(vec!["/dev/sda".into()]), ..Wanted::default() }
            }),
        ];
        for (fields, spoil) in cases {
            let mut wanted = wanted();
            spoil(&mut wanted);
            let faults = machine().settings(&wanted).unwrap_err();
            let named: Vec<&str> = faults.iter().map(|fault| fault.setting).collect();
            assert_eq!(named, fields, "{wanted:?}: {faults:?}");
        }
        let none = Machine { disks: Vec::new(), mirror_interface: None, ..machine() };
        let faults = none.settings(&wanted()).unwrap_err();
        let named: Vec<&str> = faults.iter().map(|fault| fault.setting).collect();
        assert_eq!(named, ["mirror_address", "disks"]);
    }

    #[test]
    fn an_ipv6_router_may_be_link_local() {
        let with =
            |gateway: &str| Wanted { address: "2001:db8::11/64".into(), gateway: gateway.into(), ..wanted() };
        for good in ["fe80::1", "2001:db8::1", ""] {
            assert!(machine().settings(&with(good)).is_ok(), "{good}");
        }
        assert!(machine().settings(&with("2001:db8:0:1::1")).is_err());
    }
}
