//! Machine settings: schema and validation.

use alloc::string::{String, ToString};
use alloc::{format, vec::Vec};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Time scales that can be used, percent.
pub const TIME_SCALES: core::ops::RangeInclusive<u32> = 10..=2000;

/// What one node must know before it can talk to anyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Version of this schema; 1.
    pub version: u32,
    /// Host name, also the node's name in the console: 1 to 63 letters, digits and hyphens.
    pub name: String,
    /// Data node or witness.
    pub role: Role,
    /// Address that the node's own services bind and that its peers reach.
    pub address: IpAddr,
    /// Ports of this node's services.
    #[serde(default)]
    pub ports: Ports,
    /// The interface that carries the floating address; `None` where any local address can be bound (the demo).
    #[serde(default)]
    pub portal_interface: Option<String>,
    /// Prefix length used when the floating address is added to `portal_interface`.
    #[serde(default = "default_prefix")]
    pub portal_prefix_len: u8,
    /// Where packets for other networks go; set by PID 1. `None`: nowhere.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// A link that only replication uses; set by PID 1. `None`: it goes over `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// DNS servers, asked in this order for names in `ntp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// NTP servers, by address or name; PID 1 sets the wall clock by them. None: it is the hypervisor's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp: Vec<String>,
    /// Data disks: block devices or preallocated files. Empty on a witness.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Every time-out of the cluster is multiplied by this percentage (slow, emulated machines). The same on all
    /// nodes. Leases follow the value of the node that created the cluster (S5); another one here costs only liveness.
    #[serde(default = "default_scale")]
    pub time_scale_percent: u32,
    /// Run the web console.
    #[serde(default = "default_true")]
    pub web: bool,
}

/// The link of replication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Its name, e.g. `eth1`.
    pub interface: String,
    /// This node's address on it, which the other data node reaches.
    pub address: IpAddr,
    /// Prefix length of the address.
    pub prefix_len: u8,
}

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Holds copies and serves.
    Data,
    /// Votes only.
    Witness,
}

/// TCP ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// Cluster messages and pairing.
    pub cluster: u16,
    /// Replication.
    pub replication: u16,
    /// Web console and REST.
    pub web: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { cluster: 7780, replication: 7788, web: 443 }
    }
}

fn default_prefix() -> u8 {
    24
}
fn default_scale() -> u32 {
    100
}
fn default_true() -> bool {
    true
}

/// A setting that can't be used: which, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The setting's name as it stands in the file.
    pub setting: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl core::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "setting {}: {}", self.setting, self.reason)
    }
}

impl core::error::Error for SettingsError {}

/// Whether `name` can be a node's or volume's name: 1 to 63 of `a-z A-Z 0-9 -`, no hyphen at either end.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether `name` can be a host's in DNS (RFC 1123 §2.1): labels of letters, digits and hyphens, not all of it numbers.
fn is_host_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_name) && name.bytes().any(|b| b.is_ascii_alphabetic())
}

impl Settings {
    /// Reads and checks `settings.json`.
    ///
    /// # Errors
    /// Not JSON of this form, or a setting that can't be used: names it.
    pub fn parse(json: &[u8]) -> Result<Self, SettingsError> {
        let settings: Self = serde_json::from_slice(json)
            .map_err(|error| SettingsError { setting: "file", reason: error.to_string() })?;
        settings.validate()?;
        Ok(settings)
    }

    /// Checks every setting; the first fault is returned.
    pub fn validate(&self) -> Result<(), SettingsError> {
        self.faults().into_iter().next().map_or(Ok(()), Err)
    }

    /// Checks every setting.
    #[must_use]
    pub fn faults(&self) -> Vec<SettingsError> {
        let mut faults = Vec::new();
        let mut fault = |setting, reason| faults.push(SettingsError { setting, reason });
        if self.version != 1 {
            fault("version", format!("{} is unknown; this build reads 1", self.version));
        }
        if !is_name(&self.name) {
            fault("name", format!("{:?} is not 1 to 63 letters, digits and hyphens", self.name));
        }
        if self.address.is_unspecified() || self.address.is_multicast() {
            fault("address", format!("{} is no address that peers can reach", self.address));
        }
        if !TIME_SCALES.contains(&self.time_scale_percent) {
            fault("time_scale_percent", format!("{} is not 10 to 2000", self.time_scale_percent));
        }
        if self.role == Role::Data && self.disks.is_empty() {
            fault("disks", "a data node needs at least one".into());
        }
        if self.role == Role::Witness && !self.disks.is_empty() {
            fault("disks", "a witness holds no data".into());
        }
        let widest = if self.address.is_ipv4() { 32 } else { 128 };
        if self.portal_prefix_len > widest {
            fault("portal_prefix_len", format!("{} is over {widest}", self.portal_prefix_len));
        }
        if self.gateway.is_some_and(|gateway| gateway.is_ipv4() != self.address.is_ipv4()) {
            fault("gateway", format!("it is not of the kind of address that {} is", self.address));
        }
        if let Some(mirror) = &self.mirror {
            let widest = if mirror.address.is_ipv4() { 32 } else { 128 };
            if mirror.address.is_unspecified() || mirror.address.is_multicast() || mirror.prefix_len > widest
            {
                fault("mirror", format!("{}/{} is no address of a node", mirror.address, mirror.prefix_len));
            }
            if mirror.address == self.address || self.portal_interface.as_ref() == Some(&mirror.interface) {
                fault("mirror", "it is not a link and address of its own".into());
            }
            if self.role == Role::Witness {
                fault("mirror", "a witness holds no data".into());
            }
        }
        for server in self.ntp.iter().filter(|server| server.parse::<IpAddr>().is_err()) {
            if !is_host_name(server) {
                fault("ntp", format!("{server:?} is neither an address nor a host name"));
            } else if self.dns.is_empty() {
                fault(
                    "ntp",
                    format!("{server} is a name, and there is no DNS server to ask for its address"),
                );
            }
        }
        faults
    }

    /// The cluster's time-outs at this node's scale.
    #[must_use]
    pub fn timing(&self) -> Timing {
        Timing::at_scale(self.time_scale_percent)
    }

    /// Where peers reach this node's cluster port.
    #[must_use]
    pub fn cluster_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports.cluster)
    }

    /// Where peers reach this node's replication port.
    #[must_use]
    pub fn replication_address(&self) -> SocketAddr {
        let address = self.mirror.as_ref().map_or(self.address, |mirror| mirror.address);
        SocketAddr::new(address, self.ports.replication)
    }
}

/// Time-outs of the cluster. All scale together; correctness depends on none but lease < lease wait (S5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// How long a granted lease lasts, from the sending of its request.
    pub lease: Duration,
    /// Added to `lease` before a new primary serves: bound on clock drift over one lease (S5).
    pub drift: Duration,
    /// How often a primary asks for its lease again, and every node tells the others that it lives.
    pub renew: Duration,
    /// Silence after which a node counts as dead for promotion.
    pub dead: Duration,
    /// Silence of a replication peer with a request outstanding, after which the primary shrinks (S2).
    pub peer: Duration,
    /// Raft heartbeat interval.
    pub raft_heartbeat: Duration,
    /// Raft election time-out, least.
    pub raft_election_min: Duration,
    /// Raft election time-out, most.
    pub raft_election_max: Duration,
}

impl Timing {
    /// The time-outs at `percent` of their normal length.
    #[must_use]
    pub fn at_scale(percent: u32) -> Self {
        let ms = |ms: u64| Duration::from_millis((ms * u64::from(percent) / 100).max(1));
        Self {
            lease: ms(1500),
            drift: ms(75),
            renew: ms(300),
            dead: ms(1000),
            peer: ms(1000),
            raft_heartbeat: ms(150),
            raft_election_min: ms(500),
            raft_election_max: ms(1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn sample() -> Settings {
        Settings {
            version: 1,
            name: "a".into(),
            role: Role::Data,
            address: "127.0.0.11".parse().unwrap(),
            ports: Ports::default(),
            portal_interface: None,
            portal_prefix_len: 24,
            gateway: None,
            mirror: None,
            dns: Vec::new(),
            ntp: Vec::new(),
            disks: vec!["disk0.img".into()],
            time_scale_percent: 100,
            web: true,
        }
    }

    #[test]
    fn faults_name_the_setting() {
        assert_eq!(sample().validate(), Ok(()));
        type Spoil = fn(&mut Settings);
        let mirror = |address: &str, prefix_len| {
            Some(Mirror { interface: "eth1".into(), address: address.parse().unwrap(), prefix_len })
        };
        let sound = Settings {
            mirror: mirror("192.0.2.129", 25),
            dns: vec!["192.0.2.53".parse().unwrap()],
            ntp: vec!["192.0.2.123".into(), "2001:db8::123".into(), "time.example.org".into()],
            ..sample()
        };
        assert_eq!(sound.validate(), Ok(()));
        assert_eq!(sound.replication_address(), "192.0.2.129:7788".parse().unwrap());
        assert_eq!(sound.cluster_address(), "127.0.0.11:7780".parse().unwrap());
        for spoiled in [
            Settings { mirror: mirror("127.0.0.11", 24), ..sample() },
            Settings { mirror: mirror("0.0.0.0", 24), ..sample() },
            Settings { mirror: mirror("192.0.2.129", 33), ..sample() },
            Settings { portal_interface: Some("eth1".into()), ..sound.clone() },
            Settings { role: Role::Witness, disks: vec![], ..sound.clone() },
        ] {
            assert_eq!(spoiled.validate().unwrap_err().setting, "mirror", "{spoiled:?}");
        }
        let cases: [(&str, Spoil); 10] = [
            ("version", |s| s.version = 2),
            ("name", |s| s.name = "-x".into()),
            ("address", |s| s.address = "0.0.0.0".parse().unwrap()),
            ("time_scale_percent", |s| s.time_scale_percent = 0),
            ("gateway", |s| s.gateway = Some("2001:db8::1".parse().unwrap())),
            ("ntp", |s| s.ntp = vec!["time.example.org".into()]),
            ("ntp", |s| s.ntp = vec!["192.0.2".into()]),
            ("ntp", |s| (s.dns, s.ntp) = (vec![s.address], vec!["a b".into()])),
            ("disks", |s| s.disks.clear()),
            ("disks", |s| s.role = Role::Witness),
        ];
        for (setting, spoil) in cases {
            let mut settings = sample();
            spoil(&mut settings);
            let error = settings.validate().unwrap_err();
            assert_eq!(error.setting, setting);
            assert!(error.to_string().starts_with("setting "));
            let json = serde_json::to_vec(&settings).unwrap();
            assert_eq!(Settings::parse(&json), Err(error));
        }
        assert_eq!(Settings::parse(&serde_json::to_vec(&sample()).unwrap()), Ok(sample()));
        assert_eq!(Settings::parse(b"{").unwrap_err().setting, "file");
    }

    #[test]
    fn a_lease_is_shorter_than_the_wait_for_it() {
        for percent in [10, 100, 2000] {
            let timing = Timing::at_scale(percent);
            assert!(timing.drift > Duration::ZERO && timing.renew * 3 <= timing.lease);
        }
    }
}
