//! Where a node is on its network: the part of its settings that may have to change.

use crate::settings::{Settings, SettingsError};
use alloc::format;
use alloc::string::{String, ToString};
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

    /// Whether a machine can have the address, and reach the gateway.
    fn check(&self) -> Result<(), SettingsError> {
        if let IpAddr::V4(v4) = self.address
            && self.prefix_len < 31
        {
            let hosts = u32::MAX.checked_shr(u32::from(self.prefix_len)).unwrap_or(0);
            let first = Ipv4Addr::from(u32::from(v4) & !hosts);
            let last = Ipv4Addr::from(u32::from(v4) | hosts);
            if v4 == first || v4 == last {
                let reason = format!("{v4} names the whole network {first}/{}", self.prefix_len);
                return Err(SettingsError { setting: "address", reason });
            }
        }
        let wrong = |reason| Err(SettingsError { setting: "gateway", reason });
        match self.gateway {
            Some(gateway) if gateway == self.address => wrong("it is the node's own address".to_string()),
            Some(gateway) if !self.contains(gateway) => wrong(format!("{gateway} is not on {self}")),
            Some(_) | None => Ok(()),
        }
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
    /// As [`Settings::validate`]; and a network's own or broadcast address, or a gateway that is not on the network.
    pub fn with_network(&self, network: Network) -> Result<Self, SettingsError> {
        let changed = Self {
            address: network.address,
            portal_prefix_len: network.prefix_len,
            gateway: network.gateway,
            ..self.clone()
        };
        changed.validate()?;
        network.check()?;
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
