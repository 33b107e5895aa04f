//! What whoever deployed the machine has said about it: the OVF environment (DMTF DSP8027), an XML document of properties.
//! Pure but for [`environment`], which fetches it:
//!
//! - under VMware from `guestinfo.ovfEnv`, over the host's RPC;
//! - under QEMU from the firmware configuration's file [`FIRMWARE_FILE`].
//!
//! The keys are those of `image/ova/appliance.ovf`. A value that was not set has arrived as nothing at all, as an empty string,
//! and as the word `null`: all are the same here. What can't be used is an error that names its key; nothing is guessed.

use ::control::settings::{Mirror, Ports, Role, Settings};
use ::control::setup::{list, parse_addresses, parse_interface_address, parse_role};
use anyhow::{Context, bail, ensure};
use argon2::PasswordHash;
use std::net::IpAddr;
use std::path::Path;

/// Namespace of the document and of its properties' attributes.
const NAMESPACE: &str = "http://schemas.dmtf.org/ovf/environment/1";
/// Name of the document in a firmware configuration's files.
const FIRMWARE_FILE: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/futago/ovf-environment/raw";
/// Name of the document in the host's information about a guest.
const GUEST_KEY: &[u8] = b"ovfEnv";
/// More is not a document of a dozen properties.
const MAX_BYTES: usize = 1 << 20;
/// Most bytes of a password hash.
const MAX_HASH_BYTES: usize = 255;
/// The settings that were given; `None` for those that were not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deployment {
    hostname: Option<String>,
    role: Option<Role>,
    address: Option<(IpAddr, u8)>,
    gateway: Option<IpAddr>,
    mirror: Option<(IpAddr, u8)>,
    dns: Vec<IpAddr>,
    ntp: Vec<String>,
    /// argon2id, PHC form.
    pub(crate) admin_password_hash: Option<String>,
}

/// The document; `None` where no host or firmware has one.
pub(crate) fn environment() -> anyhow::Result<Option<String>> {
    let bytes = match std::fs::read(FIRMWARE_FILE) {
        Ok(bytes) => Some(bytes),
        Err(_) if vmw_backdoor::is_vmware_cpu() => guest_information()?,
        Err(_) => None,
    };
    let Some(bytes) = bytes else { return Ok(None) };
    ensure!(bytes.len() <= MAX_BYTES, "the OVF environment has {} bytes", bytes.len());
    // Some hosts end it with a zero.
    let text = String::from_utf8(bytes).context("the OVF environment is not text")?;
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    Ok(is_set(text).then(|| text.to_owned()))
}

fn guest_information() -> anyhow::Result<Option<Vec<u8>>> {
    let mut guard = vmw_backdoor::probe_backdoor_privileged().context("the host's RPC")?;
    let mut channel = guard.open_enhanced_chan().context("the host's RPC")?;
    channel.get_guestinfo(GUEST_KEY).context("guestinfo.ovfEnv")
}

fn is_set(value: &str) -> bool {
    !value.is_empty() && value != "null"
}

impl Deployment {
    /// Reads the document.
    ///
    /// # Errors
    /// No XML of this form, or a property that can't be used: names it.
    pub(crate) fn parse(xml: &str) -> anyhow::Result<Self> {
        let document = roxmltree::Document::parse(xml).context("the OVF environment")?;
        let root = document.root_element();
        ensure!(
            root.has_tag_name((NAMESPACE, "Environment")),
            "the OVF environment is an element {}",
            root.tag_name().name()
        );
        let mut deployment = Self::default();
        // Sections of other virtual machines of a vApp stand in Entity elements.
        let sections = root.children().filter(|node| node.has_tag_name((NAMESPACE, "PropertySection")));
        for property in sections.flat_map(|section| section.children()) {
            let attribute = |name| property.attribute((NAMESPACE, name)).map(str::trim);
            if let (Some(key), Some(value)) = (attribute("key"), attribute("value"))
                && is_set(value)
            {
                deployment.set(key, value).with_context(|| format!("the deployment's {key}"))?;
            }
        }
        Ok(deployment)
    }

    fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        match key {
            "hostname" => self.hostname = Some(value.to_owned()),
            "role" => self.role = Some(parse_role(value).map_err(anyhow::Error::msg)?),
            "address" => {
                self.address = Some(parse_interface_address(value).map_err(anyhow::Error::msg)?);
            }
            "gateway" => self.gateway = Some(value.parse().with_context(|| format!("{value:?}"))?),
            "mirror_address" => {
                self.mirror = Some(parse_interface_address(value).map_err(anyhow::Error::msg)?);
            }
            "dns" => self.dns = parse_addresses(value).map_err(anyhow::Error::msg)?,
            "ntp" => self.ntp = list(value).map(str::to_owned).collect(),
            "admin_password_hash" => self.admin_password_hash = Some(parse_hash(value)?),
            // Others' properties may stand beside ours.
            _ => {}
        }
        Ok(())
    }

    /// Whether anything was said.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Data node, if nothing else was said.
    pub(crate) fn role(&self) -> Role {
        self.role.unwrap_or(Role::Data)
    }

    /// The machine's settings, with the network `interfaces` (in order) and the `disks` that it was found to have.
    ///
    /// # Errors
    /// Something without which a node can't be, or that it can't use: names the property.
    pub(crate) fn settings(&self, interfaces: &[String], disks: Vec<String>) -> anyhow::Result<Settings> {
        let name = self.hostname.clone().context("the deployment gives no hostname")?;
        let (address, prefix_len) = self.address.context("the deployment gives no address")?;
        let role = self.role();
        if role == Role::Data && disks.is_empty() {
            bail!("this machine has no disk for data: add one, of the size that is to be mirrored");
        }
        let mut interfaces = interfaces.iter();
        let first = interfaces.next().context("this machine has no network adapter")?;
        // A witness needs none: what holds for both kinds of node may be said to both.
        let mirror = match self.mirror.filter(|_| role == Role::Data) {
            Some((address, prefix_len)) => {
                let second =
                    interfaces.next().context("mirror_address: this machine has no second adapter")?;
                Some(Mirror { interface: second.clone(), address, prefix_len })
            }
            None => None,
        };
        let settings = Settings {
            version: 1,
            name,
            role,
            address,
            ports: Ports::default(),
            portal_interface: Some(first.clone()),
            portal_prefix_len: prefix_len,
            gateway: self.gateway,
            mirror,
            dns: self.dns.clone(),
            ntp: self.ntp.clone(),
            disks: if role == Role::Data { disks } else { Vec::new() },
            time_scale_percent: 100,
            web: true,
        };
        settings.validate().context("the deployment's properties")?;
        match settings.network_faults().into_iter().next() {
            Some(fault) => Err(fault).context("the deployment's properties"),
            None => Ok(settings),
        }
    }

    /// Stores the administrator's password below `state_dir`, unless there is one.
    pub(crate) fn store_password(&self, state_dir: &Path) -> anyhow::Result<()> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let Some(hash) = &self.admin_password_hash else { return Ok(()) };
        let dir = state_dir.join(::control::paths::WEB_DIR);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let path = dir.join(::control::paths::PASSWORD);
        if path.exists() {
            return Ok(());
        }
        let fresh = path.with_extension("deployed");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        std::io::Write::write_all(&mut file, hash.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        Ok(())
    }
}

fn parse_hash(value: &str) -> anyhow::Result<String> {
    // The value itself is not repeated: someone may have put the password there.
    let hash = PasswordHash::new(value).ok().filter(|hash| hash.algorithm.as_str() == "argon2id");
    ensure!(
        hash.is_some_and(|hash| hash.hash.is_some() && hash.salt.is_some()) && value.len() <= MAX_HASH_BYTES,
        "it is no argon2id hash in PHC form ($argon2id$v=19$…)"
    );
    Ok(value.to_owned())
}

#[cfg(test)]
#[path = "deployment_tests.rs"]
mod tests;
