//! Updates: takes a bundle that was uploaded, and puts its release into the slot that does not run (docs/update.md).
//!
//! # Invariants
//!
//! - Nothing is written before signature, version rule and both checksums have been looked at ([`bundle`]).
//! - One at a time, in a thread that owns it all: a disk that hangs holds up nobody else.
//! - Whatever happens to it, even a panic, ends an installation and is told: the next one can be begun.
//! - What the cluster may rely on is said by [`promise`]: only what every release understands that may be started next.
//! - GRUB never gets to try a slot that is not whole: the order is that of [`update::slots`] ([`installation`]).
//!
//! # Flow
//!
//! [`Installer::begin`] wakes the thread → [`bundle::Bundle::open`] → [`installation::run`], with [`slot_volume`] for what is in a
//! slot and [`direct`] for reading it back from the medium → the boot loader is told. What came of it stands in the status.

mod bundle;
mod direct;
mod installation;
mod promise;
mod slot_volume;
mod system;

pub(crate) use system::SystemDisk;

use ::control::paths;
use ::control::update::{Installation, SlotStatus, UpdateStatus};
use anyhow::Context;
use installation::{Boot, Progress};
use promise::Promise;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use update::slots::idle_release;
use update::{Formats, Version};

/// The public keys whose updates are taken.
const KEYS: &str = "/etc/futago/update.pub";
/// Version of the image; without it, it is this program's.
const RELEASE: &str = "/etc/futago/release";
/// Why an ordinary process can't be updated.
const NO_SLOTS: &str =
    "This node did not start from an appliance's system disk: there is no slot to put an update into.";
const BUSY: &str = "An update is being installed already.";

/// Where the node's updates are asked for, and what is known of them.
#[derive(Debug)]
pub(crate) struct Installer {
    status: Arc<Mutex<UpdateStatus>>,
    /// Wakes the thread; `None` where there is nothing to install into.
    thread: Option<Mutex<Sender<Request>>>,
    promise: Arc<Promise>,
}

/// What the thread is to do.
#[derive(Debug)]
enum Request {
    /// Install what was uploaded.
    Install,
    /// Look at the slots again.
    Look,
}

impl Installer {
    /// Of the node with its folder at `dir` that did not start from a slot: there is one release.
    pub(crate) fn without_slots(dir: &Path) -> Self {
        let installer = Self::unable(dir);
        installer.promise.say(Formats::CURRENT);
        installer
    }

    /// Of one that can't be updated, and whose slots can't be looked at.
    pub(crate) fn unable(dir: &Path) -> Self {
        let status = UpdateStatus {
            running: release(Path::new(RELEASE)).to_string(),
            boot: std::fs::read_to_string(paths::BOOT_ID).unwrap_or_default().trim().to_owned(),
            slots: None,
            installation: None,
        };
        Self { status: Arc::new(Mutex::new(status)), thread: None, promise: Arc::new(Promise::new(dir)) }
    }

    /// Of the appliance with its folder at `dir` that was started from `disk`.
    pub(crate) fn start(dir: &Path, disk: SystemDisk) -> anyhow::Result<Self> {
        let installer = Self::unable(dir);
        let (sender, requests) = channel();
        let worker = Worker {
            bundle: dir.join(paths::UPDATE_BUNDLE),
            keys: KEYS.into(),
            release: release(Path::new(RELEASE)),
            disk,
            status: Arc::clone(&installer.status),
            promise: Arc::clone(&installer.promise),
        };
        std::thread::Builder::new()
            .name("install-update".into())
            .spawn(move || worker.work(&requests))
            .context("install updates")?;
        Ok(Self { thread: Some(Mutex::new(sender)), ..installer })
    }

    /// What runs, and what became of the last update.
    pub(crate) fn status(&self) -> UpdateStatus {
        lock(&self.status).clone()
    }

    /// The run folder was cleared.
    pub(crate) fn repeat_promise(&self) {
        self.promise.repeat();
    }

    /// Begins to install the bundle that was uploaded; or why not.
    pub(crate) fn begin(&self) -> Result<(), &'static str> {
        let Some(thread) = &self.thread else { return Err(NO_SLOTS) };
        let mut status = lock(&self.status);
        if status.installation.as_ref().is_some_and(Installation::is_under_way) {
            return Err(BUSY);
        }
        status.installation = Some(Installation::Checking);
        // The thread does not end.
        lock(thread).send(Request::Install).map_err(|_| NO_SLOTS)
    }

    /// The boot loader's variables were changed by somebody else.
    pub(crate) fn look_again(&self) {
        if let Some(thread) = &self.thread {
            // The thread does not end.
            let _ = lock(thread).send(Request::Look);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of the image, else of this program.
fn release(path: &Path) -> Version {
    let text = std::fs::read_to_string(path).ok();
    let of_image = text.and_then(|text| text.trim().parse().ok());
    let own = || env!("CARGO_PKG_VERSION").parse();
    of_image.or_else(|| own().ok()).unwrap_or(Version::new(0, 0, 0))
}

/// What `run` answers; a panic is an error, too.
fn caught<T>(run: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    // What it has left half-done is the idle slot, which is not started before it is whole.
    crate::init::catch(run).unwrap_or_else(|panic| Err(anyhow::anyhow!(panic)))
}

/// The thread's own.
struct Worker<B> {
    bundle: PathBuf,
    keys: PathBuf,
    release: Version,
    disk: B,
    status: Arc<Mutex<UpdateStatus>>,
    promise: Arc<Promise>,
}

impl<B: Boot> Worker<B> {
    fn work(self, requests: &Receiver<Request>) {
        self.try_to_look();
        for request in requests {
            match request {
                Request::Install => self.take_bundle(),
                Request::Look => self.try_to_look(),
            }
        }
    }

    fn take_bundle(&self) {
        let installation = match caught(|| self.install()) {
            Ok(release) => {
                tracing::info!("release {release} is installed; the next start takes it");
                Installation::Installed { release: release.to_string() }
            }
            Err(error) => {
                tracing::error!("the update is not installed: {error:#}");
                Installation::Failed { reason: format!("{error:#}.") }
            }
        };
        // Space on the state partition; a file that is left is replaced by the next one.
        let _ = std::fs::remove_file(&self.bundle);
        self.try_to_look();
        self.say(installation);
    }

    fn install(&self) -> anyhow::Result<Version> {
        let order = installation::Order {
            bundle: &self.bundle,
            keys: &self.keys,
            running: &self.release,
            promise: &self.promise,
        };
        installation::run(&order, &self.disk, &mut |Progress { release, percent }| {
            self.say(Installation::Writing { release: release.to_string(), percent });
        })
    }

    fn say(&self, installation: Installation) {
        let mut status = lock(&self.status);
        // What it held is gone.
        if let (Installation::Writing { .. }, Some(slots)) = (&installation, &mut status.slots) {
            slots.idle_release = None;
        }
        status.installation = Some(installation);
    }

    fn try_to_look(&self) {
        let looked = caught(|| {
            self.look();
            Ok(())
        });
        if let Err(error) = looked {
            tracing::error!("the slots can't be looked at: {error:#}");
        }
    }

    /// What the boot loader's variables say of the slots.
    fn look(&self) {
        let running = self.disk.running();
        let slots = match self.disk.variables() {
            Ok(variables) => SlotStatus {
                running: running.letter().to_owned(),
                next: variables.get("slot").cloned().unwrap_or_else(|| running.letter().to_owned()),
                idle_release: idle_release(
                    variables.get(running.other().release_variable()).map(String::as_str),
                    &self.release,
                ),
                on_trial: variables.get("tries").is_some_and(|tries| !tries.is_empty()),
            },
            Err(error) => {
                tracing::error!("the boot loader's variables can't be read: {error:#}");
                let running = running.letter().to_owned();
                SlotStatus { next: running.clone(), running, idle_release: None, on_trial: true }
            }
        };
        if !slots.on_trial && slots.next == slots.running && !self.disk.is_manual() {
            self.promise.say(Formats::CURRENT);
        }
        lock(&self.status).slots = Some(slots);
    }
}

#[cfg(test)]
mod tests;
