//! The virtual machine's numbers: `firmware-config/virtual-hardware.toml`, read and checked.

use serde::Deserialize;
use std::fmt;

/// The appliance's file, as it was when this program was built.
const APPLIANCE: &str = include_str!("../../../firmware-config/virtual-hardware.toml");

/// Network adapters that a VM can have.
const MAX_NETWORKS: usize = 10;

/// What the VM is made of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// VMware's hardware version: 13 is `vmx-13`.
    pub hardware_version: u32,
    /// What a deployed VM starts with.
    pub firmware: Firmware,
    /// VMware's identifier of the guest operating system.
    pub guest_os: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory; a multiple of 4.
    pub memory_mib: u32,
    /// A vmxnet3 adapter each, in this order.
    pub networks: Vec<Network>,
}

/// One logical network of the OVF descriptor, with one adapter on it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The name that the deployment dialogue maps to a port group.
    pub name: String,
    /// What it is for.
    pub description: String,
}

/// The VM's firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// UEFI.
    Efi,
    /// BIOS.
    Bios,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Efi => "efi",
            Self::Bios => "bios",
        })
    }
}

/// Hardware that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HardwareError {
    /// Not TOML of this form.
    #[error("not of the expected form")]
    Form(#[from] toml::de::Error),
    /// A number or name that no VM can have.
    #[error("{key}: {reason}")]
    Value {
        /// The key in the file.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Hardware {
    /// The hardware that the appliance ships with.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of_the_appliance() -> Result<Self, HardwareError> {
        Self::parse(APPLIANCE)
    }

    /// Reads and checks a hardware file.
    ///
    /// # Errors
    /// Not of this form (unknown keys included), or a value that no VM can have.
    pub fn parse(text: &str) -> Result<Self, HardwareError> {
        let hardware: Self = toml::from_str(text)?;
        let fault = |key, reason: &str| Err(HardwareError::Value { key, reason: reason.to_owned() });
        if !(10..=99).contains(&hardware.hardware_version) {
            return fault("hardware_version", "10 to 99, e.g. 13 for vmx-13");
        }
        if !(1..=64).contains(&hardware.cpus) {
            return fault("cpus", "1 to 64");
        }
        if hardware.memory_mib == 0 || !hardware.memory_mib.is_multiple_of(4) {
            return fault("memory_mib", "a multiple of 4, and not 0");
        }
        if hardware.guest_os.is_empty() || !hardware.guest_os.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return fault("guest_os", "an identifier such as other3xLinux64Guest");
        }
        if !(1..=MAX_NETWORKS).contains(&hardware.networks.len()) {
            return fault("networks", "1 to 10");
        }
        for (index, network) in hardware.networks.iter().enumerate() {
            if network.name.trim().is_empty() {
                return fault("networks.name", "empty");
            }
            if hardware.networks.iter().take(index).any(|earlier| earlier.name == network.name) {
                return Err(HardwareError::Value {
                    key: "networks.name",
                    reason: format!("{:?} stands there twice", network.name),
                });
            }
        }
        Ok(hardware)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_appliance_has_usable_hardware() {
        let hardware = Hardware::of_the_appliance().unwrap();
        assert_eq!(hardware.hardware_version, 13, "ESXi 6.5 is the oldest host that is supported");
        assert_eq!(hardware.firmware, Firmware::Efi);
        assert_eq!(hardware.networks.len(), 2);
    }

    #[test]
    fn what_no_vm_can_have_is_refused_by_name() {
        for (from, to, named) in [
            ("hardware_version = 13", "hardware_version = 7", "hardware_version"),
            ("cpus = 2", "cpus = 0", "cpus"),
            ("memory_mib = 1024", "memory_mib = 1023", "memory_mib"),
            ("memory_mib = 1024", "memory_mib = 0", "memory_mib"),
            ("other3xLinux64Guest", "\\\" evil", "guest_os"),
            ("name = \"Mirror\"", "name = \"Management\"", "twice"),
            ("name = \"Mirror\"", "name = \" \"", "networks.name"),
        ] {
            assert!(APPLIANCE.contains(from), "{from}");
            let error = Hardware::parse(&APPLIANCE.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(named), "{to}: {error}");
        }
        for (from, to) in [("\"efi\"", "\"uefi\""), ("cpus = 2", "cpus = 2\ncores = 1")] {
            let error = Hardware::parse(&APPLIANCE.replace(from, to)).unwrap_err();
            assert!(matches!(error, HardwareError::Form(_)), "{to}: {error}");
        }
    }
}
