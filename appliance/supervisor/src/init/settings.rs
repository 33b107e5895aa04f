//! Where a machine's settings come from: the state disk; else the kernel command line, the initramfs, or what whoever
//! deployed it has said ([`super::deployment`]), which are then written to the state disk.

use super::command_line::CommandLine;
use super::deployment::{self, Deployment};
use super::{disk_links, wait_for};
use crate::node::{load_settings, write_atomically};
use ::control::paths::SETTINGS;
use ::control::settings::{Role, Settings};
use anyhow::Context;
use netconf::{Interface, Netlink};
use std::path::Path;
use std::time::Duration;

/// Settings that came with the initramfs.
const BUILT_IN: &str = "/etc/futago/settings.json";

/// Nobody has said anywhere who this machine is.
#[derive(Debug)]
pub(crate) struct NothingSaid;

impl std::fmt::Display for NothingSaid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "none on the state disk, the command line or the initramfs, and nothing was said at deployment",
        )
    }
}

impl std::error::Error for NothingSaid {}

/// The machine's settings, validated. [`NothingSaid`] if there are none.
pub(crate) fn find(state_dir: &Path, command_line: &CommandLine) -> anyhow::Result<Settings> {
    find_with(state_dir, command_line, Path::new(BUILT_IN), || deployed(state_dir))
}

/// Between two looks at whether there is another disk.
const SETTLING: Duration = Duration::from_secs(1);

fn find_with(
    state_dir: &Path,
    command_line: &CommandLine,
    built_in: &Path,
    deployed: impl FnOnce() -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<Settings> {
    let path = state_dir.join(SETTINGS);
    if !path.exists() {
        let first = match (&command_line.settings, std::fs::read(built_in)) {
            (Some(bytes), _) => bytes.clone(),
            (None, Ok(bytes)) => bytes,
            (None, Err(_)) => deployed()?,
        };
        write_atomically(&path, &first).with_context(|| format!("{}", path.display()))?;
    }
    load_settings(state_dir)
}

/// Settings by what was said at deployment, and by what the machine is found to have.
fn deployed(state_dir: &Path) -> anyhow::Result<Vec<u8>> {
    let said = match deployment::environment()? {
        Some(document) => Deployment::parse(&document)?,
        None => Deployment::default(),
    };
    anyhow::ensure!(!said.is_empty(), NothingSaid);
    wait_for(adapter).context("this machine has no network adapter")?;
    let interfaces: Vec<String> = adapters().into_iter().map(|link| link.name).collect();
    let disks = if said.role() == Role::Data { data_disks() } else { Vec::new() };
    let settings = said.settings(&interfaces, disks)?;
    said.store_password(state_dir).context("the deployment's admin_password_hash")?;
    Ok(serde_json::to_vec_pretty(&settings)?)
}

/// The first adapter: on the first network of the descriptor. `None` if there is none yet.
pub(crate) fn adapter() -> Option<Interface> {
    adapters().into_iter().next()
}

/// The adapters in the order of their names, which is that of the descriptor's networks.
pub(crate) fn adapters() -> Vec<Interface> {
    let interfaces = Netlink::open().and_then(|mut netlink| netlink.interfaces()).unwrap_or_default();
    let ethernet = interfaces.into_iter().filter(|i| !i.loopback && i.hardware_address.is_some());
    let mut adapters: Vec<Interface> = ethernet.collect();
    adapters.sort_by(|one, other| one.name.cmp(&other.name));
    adapters
}

/// Disks come one after the other: those that are there when no more have come for a while.
fn data_disks() -> Vec<String> {
    let mut before = wait_for(|| disk_links::unpartitioned().ok().filter(|disks| !disks.is_empty()));
    while let Some(disks) = before.take() {
        std::thread::sleep(SETTLING);
        match disk_links::unpartitioned() {
            Ok(now) if now != disks => before = Some(now),
            _ => return disks,
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_disk_comes_first_and_keeps_what_came_otherwise() {
        let json =
            |name| format!(r#"{{"version":1,"name":"{name}","role":"witness","address":"192.0.2.1"}}"#);
        let dir = tempfile::tempdir().unwrap();
        let built_in = dir.path().join("built-in.json");
        let mut line = CommandLine::default();
        let nothing = || anyhow::bail!("nothing");
        assert!(find_with(dir.path(), &line, &built_in, nothing).is_err());
        let said = || Ok(json("said").into_bytes());
        assert_eq!(find_with(dir.path(), &line, &built_in, said).unwrap().name, "said");
        assert_eq!(find_with(dir.path(), &line, &built_in, nothing).unwrap().name, "said", "kept");
        std::fs::remove_file(dir.path().join(SETTINGS)).unwrap();
        std::fs::write(&built_in, json("built-in")).unwrap();
        assert_eq!(find_with(dir.path(), &line, &built_in, nothing).unwrap().name, "built-in");
        line.settings = Some(json("line").into_bytes());
        assert_eq!(find_with(dir.path(), &line, &built_in, nothing).unwrap().name, "built-in", "kept");
        std::fs::remove_file(dir.path().join(SETTINGS)).unwrap();
        assert_eq!(find_with(dir.path(), &line, &built_in, nothing).unwrap().name, "line");
    }
}
