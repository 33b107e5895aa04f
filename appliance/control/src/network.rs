//! Where a node is on its network: the part of its settings that may have to change.

use crate::settings::{Mirror, Settings, SettingsError};
use alloc::string::String;
use alloc::{format, vec::Vec};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr};

/// A node's own address, and where packets for other networks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The node's.
    pub address: IpAddr,
    /// Bits of `address` that its network's other addresses share.
    pub prefix_len: u8,
    /// `None`: nowhere.
    pub gateway: Option<IpAddr>,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl Network {
    /// What was typed: `192.0.2.11/24`, and the gateway or nothing. Blanks around them do not count.
    ///
    /// # Errors
    /// Names the setting that can't be read.
    pub fn typed(address: &str, gateway: &str) -> Result<Self, SettingsError> {
        let (address, gateway) = (address.trim(), gateway.trim());
        let fault = |setting, reason: String| SettingsError { setting, reason };
        let form = "is not an address with its prefix length, as 192.0.2.11/24";
        let parsed = address.split_once('/').and_then(|(address, prefix_len)| {
            Some((address.parse::<IpAddr>().ok()?, prefix_len.parse::<u8>().ok()?))
        });
        let (address, prefix_len) = parsed.ok_or_else(|| fault("address", format!("{address:?} {form}")))?;
        let gateway = match gateway {
            "" => None,
            text => {
                let parsed = text.parse::<IpAddr>();
                Some(parsed.map_err(|_| fault("gateway", format!("{text:?} is no IP address")))?)
            }
        };
        Ok(Self { address, prefix_len, gateway })
    }

    /// Whether `address` is on the same network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let differing_bits = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                32_u32.saturating_sub((u32::from(own) ^ u32::from(other)).leading_zeros())
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                128_u32.saturating_sub((u128::from(own) ^ u128::from(other)).leading_zeros())
            }
            _ => return false,
        };
        let width: u32 = if self.address.is_ipv4() { 32 } else { 128 };
        differing_bits <= width.saturating_sub(u32::from(self.prefix_len))
    }

    /// Why no machine can have the address.
    fn address_fault(&self) -> Option<String> {
        let address = self.address;
        if address.is_loopback() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Some(format!("{address} is no address that peers can reach"));
        }
        // Where only two addresses are, both are nodes' (RFC 3021).
        let IpAddr::V4(v4) = address else { return None };
        if self.prefix_len >= 31 {
            return None;
        }
        let hosts = u32::MAX.checked_shr(u32::from(self.prefix_len)).unwrap_or(0);
        let first = Ipv4Addr::from(u32::from(v4) & !hosts);
        let last = Ipv4Addr::from(u32::from(v4) | hosts);
        (v4 == first || v4 == last)
            .then(|| format!("{v4} names the whole network {first}/{}", self.prefix_len))
    }

    /// Why the gateway can't be reached.
    fn gateway_fault(&self) -> Option<String> {
        let gateway = self.gateway?;
        if gateway == self.address {
            return Some(format!("{gateway} is the node's own address"));
        }
        // A router's link-local address is in every IPv6 network.
        let is_link_local =
            self.address.is_ipv6() && matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
        (!is_link_local && !self.contains(gateway)).then(|| format!("{gateway} is not on {self}"))
    }

    /// Why replication can't have its own link there: the kernel would send what is for one network over the other.
    fn mirror_fault(&self, mirror: &Mirror) -> Option<String> {
        let link = Self { address: mirror.address, prefix_len: mirror.prefix_len, gateway: None };
        // Of two networks that overlap, one holds the other.
        let overlap = self.contains(link.address) || link.contains(self.address);
        let overlap = overlap.then(|| format!("{link} is not apart from {self}, the node's own network"));
        link.address_fault().or(overlap)
    }
}

impl Settings {
    /// The node's place on its network.
    #[must_use]
    pub fn network(&self) -> Network {
        Network { address: self.address, prefix_len: self.portal_prefix_len, gateway: self.gateway }
    }

    /// These settings with another place.
    ///
    /// # Errors
    /// As [`Settings::validate`]; and an address that no machine can have, a gateway that is not on the network, or a link
    /// for replication that is not apart from it.
    pub fn with_network(&self, network: Network) -> Result<Self, SettingsError> {
        let changed = Self {
            address: network.address,
            portal_prefix_len: network.prefix_len,
            gateway: network.gateway,
            ..self.clone()
        };
        changed.validate()?;
        changed.network_faults().into_iter().next().map_or(Ok(changed), Err)
    }

    /// What would leave a machine without a way to it, though the settings are sound: a demo's nodes have loopback addresses.
    /// Every way of setting a network goes through it.
    #[must_use]
    pub fn network_faults(&self) -> Vec<SettingsError> {
        let network = self.network();
        let address = network.address_fault();
        // A wrong address says nothing of the gateway.
        let gateway = if address.is_some() { None } else { network.gateway_fault() };
        let mirror = self.mirror.as_ref().and_then(|mirror| network.mirror_fault(mirror));
        let reasons = [("address", address), ("gateway", gateway), ("mirror", mirror)];
        let faults = reasons
            .into_iter()
            .filter_map(|(setting, reason)| Some(SettingsError { setting, reason: reason? }));
        faults.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    fn settings() -> Settings {
        Settings::parse(br#"{"version":1,"name":"a","role":"witness","address":"192.0.2.11"}"#).unwrap()
    }

    #[test]
    fn what_can_be_used_changes_the_settings_and_nothing_else() {
        for (address, gateway) in [
            ("192.0.2.12/26", "192.0.2.1"),
            (" 10.0.0.1/8 ", ""),
            ("192.0.2.0/31", "192.0.2.1"),
            ("192.0.2.7/32", ""),
            ("2001:db8::1/64", "2001:db8::ff"),
            ("2001:db8::1/64", "fe80::1"),
        ] {
            let network = Network::typed(address, gateway).unwrap();
            let changed = settings().with_network(network).unwrap();
            assert_eq!(changed.network(), network);
            assert_eq!(changed.network().to_string(), address.trim());
            assert_eq!(changed.with_network(settings().network()).unwrap(), settings());
        }
    }

    #[test]
    fn what_can_not_be_used_is_named() {
        for (address, gateway, setting) in [
            ("", "", "address"),
            ("192.0.2.11", "", "address"),
            ("192.0.2.11/x", "", "address"),
            ("192.0.2.300/24", "", "address"),
            ("192.0.2.11/33", "", "portal_prefix_len"),
            ("192.0.2.11/256", "", "address"),
            ("0.0.0.0/8", "", "address"),
            ("224.0.0.1/8", "", "address"),
            ("192.0.2.0/24", "", "address"),
            ("192.0.2.255/24", "", "address"),
            ("255.255.255.255/24", "", "address"),
            ("255.255.255.255/32", "", "address"),
            ("127.0.0.1/8", "", "address"),
            ("::1/128", "", "address"),
            ("192.0.2.11/24", "fe80::1", "gateway"),
            ("192.0.2.11/24", "router", "gateway"),
            ("192.0.2.11/24", "192.0.3.1", "gateway"),
            ("192.0.2.11/24", "192.0.2.11", "gateway"),
            ("192.0.2.11/24", "2001:db8::1", "gateway"),
            ("2001:db8::1/64", "2001:db8:1::1", "gateway"),
        ] {
            let outcome = Network::typed(address, gateway).and_then(|n| settings().with_network(n));
            assert_eq!(outcome.unwrap_err().setting, setting, "{address} {gateway}");
        }
    }

    #[test]
    fn the_link_of_replication_stays_apart() {
        let with = |address: &str, prefix_len| {
            let mirror = Mirror { interface: "eth1".into(), address: address.parse().unwrap(), prefix_len };
            let disks = vec!["disk0.img".into()];
            Settings { role: crate::settings::Role::Data, disks, mirror: Some(mirror), ..settings() }
        };
        let network = Network::typed("192.0.2.12/25", "192.0.2.1").unwrap();
        for (address, prefix_len) in
            [("198.51.100.1", 30), ("192.0.2.129", 25), ("2001:db8::1", 64), ("198.51.100.1", 32)]
        {
            assert!(with(address, prefix_len).with_network(network).is_ok(), "{address}/{prefix_len}");
        }
        for (address, prefix_len) in [
            ("192.0.2.13", 25),
            ("192.0.2.13", 30),
            ("192.0.2.129", 24),
            ("198.51.100.0", 30),
            ("198.51.100.3", 30),
            ("127.0.0.2", 8),
        ] {
            let error = with(address, prefix_len).with_network(network).unwrap_err();
            assert_eq!(error.setting, "mirror", "{address}/{prefix_len}");
        }
    }
}
