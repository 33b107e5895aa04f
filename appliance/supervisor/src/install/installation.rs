//! One installation, step by step; the order is that of [`update::slots`].

use super::bundle::{Bundle, keys};
use super::promise::Promise;
use super::slot_volume::{self, Storage};
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::path::Path;
use update::Version;
use update::slots::{Slot, Variables, keep, start_next};

/// What the machine was started from.
pub(super) trait Boot: Send + 'static {
    /// A slot, opened for writing, or for reading past all caches.
    type Slot: Storage;

    /// The slot that runs.
    fn running(&self) -> Slot;
    /// It was started by hand, for once.
    fn is_manual(&self) -> bool;
    /// The boot loader's variables.
    fn variables(&self) -> anyhow::Result<BTreeMap<String, String>>;
    /// Sets some of them, durably.
    fn set(&self, variables: &[(&str, &str)]) -> anyhow::Result<()>;
    /// Opens `slot` for writing.
    fn open(&self, slot: Slot) -> anyhow::Result<Self::Slot>;
    /// Opens `slot` for reading what the medium holds.
    fn open_medium(&self, slot: Slot) -> anyhow::Result<Self::Slot>;
}

/// What is to be installed.
pub(super) struct Order<'a> {
    pub(super) bundle: &'a Path,
    pub(super) keys: &'a Path,
    /// The release that runs.
    pub(super) running: &'a Version,
    pub(super) promise: &'a Promise,
}

/// How far it is.
pub(super) struct Progress<'a> {
    pub(super) release: &'a Version,
    /// 0 to 100.
    pub(super) percent: u32,
}

/// Installs the bundle; its version.
pub(super) fn run(
    order: &Order<'_>,
    disk: &impl Boot,
    tell: &mut dyn FnMut(Progress<'_>),
) -> anyhow::Result<Version> {
    let bundle = Bundle::open(order.bundle, &keys(order.keys)?)?;
    let release = &bundle.header.version;
    order.promise.judge(&bundle.header, order.running)?;
    check_boot(disk)?;
    order.promise.narrow(&bundle.header, order.running)?;

    let (running, idle) = (disk.running(), disk.running().other());
    set(disk, &keep(running, order.running))?;
    let total = 2 * (bundle.header.kernel.len_bytes.saturating_add(bundle.header.initramfs.len_bytes)).max(1);
    let mut done: u64 = 0;
    let mut advance = |bytes: u64| {
        done = done.saturating_add(bytes);
        tell(Progress { release, percent: percent(done, total) });
    };
    let slot = format!("slot {}", idle.letter());
    let mut storage = disk.open(idle).with_context(|| slot.clone())?;
    slot_volume::write(&mut storage, &bundle, &mut advance)
        .with_context(|| format!("{slot} can't be written"))?;
    let mut medium = disk.open_medium(idle).with_context(|| slot.clone())?;
    slot_volume::check(&mut medium, &bundle.header, &mut advance)
        .with_context(|| format!("{slot} does not hold what was written"))?;
    slot_volume::name(&mut storage).with_context(|| format!("{slot} can't be written"))?;
    // The node may have entered a cluster meanwhile.
    order.promise.judge(&bundle.header, order.running)?;
    set(disk, &start_next(running, release))?;
    Ok(release.clone())
}

/// Only a release that has proved itself may give up the one that it would fall back to.
fn check_boot(disk: &impl Boot) -> anyhow::Result<()> {
    if disk.is_manual() {
        bail!("the release that runs was started from the boot menu for once: restart the node first");
    }
    let variables = disk.variables()?;
    if variables.get("slot").map(String::as_str) == Some(disk.running().letter())
        && variables.get("tries").is_some_and(|tries| !tries.is_empty())
    {
        bail!("the release that runs has not proved itself yet: its services have not run long enough");
    }
    Ok(())
}

fn set(disk: &impl Boot, variables: &Variables) -> anyhow::Result<()> {
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, &**value)).collect();
    disk.set(&variables).context("the boot loader's variables can't be set")
}

fn percent(done: u64, total: u64) -> u32 {
    let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
    u32::try_from(percent.min(100)).unwrap_or(100)
}
