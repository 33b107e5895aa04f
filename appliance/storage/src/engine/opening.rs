//! Disks and pool: assembled, and volumes opened, formatted and freed, on a thread of its own, as all of it waits for
//! disks.
//!
//! Invariants
//! - A disk that is refused is not written to, and what is wrong with it is reported (S12).
//! - A new copy counts as one of creation time, equal and clean, only if nothing was ever written that it could
//!   lack: in the volume's first epoch, or while it is not in sync (then S7 compares epochs, and it is used only once it
//!   has been a target: the state known here may be older than one in which its predecessor was in sync). A copy that
//!   the committed state calls in sync but that is not there any more is made anew as one that lacks everything.
//! - Room for a larger size is told to a replica when all of it is durable (S22); its areas are exchanged before that.
//! - Nothing is written to a disk before the versions are known in which it is to be.
//! - Space is freed only for volumes that the committed state names as deleted.

mod growing;
mod worker;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use base::{ByteCount, ClusterId, Levels, Monotonic, NodeId, Repeats, VolumeId};
use control::link::{Unopened, Volume as LinkVolume};
use control::settings::Settings;
use disk::Space;
use replication::Recovery;
use tokio::sync::mpsc;

use self::worker::{Growth, Job, News};
use super::volume::Volume;
use super::{Engine, Input, clock};
use crate::inbox::Inbox;

/// A volume whose metadata was read.
pub(crate) struct Opened {
    volume: LinkVolume,
    result: Result<Parts, Refusal>,
}

/// Why a copy can't be made or opened.
struct Refusal {
    /// Without names.
    reason: String,
    lacks_room: bool,
}

impl<T: Into<String>> From<T> for Refusal {
    fn from(reason: T) -> Self {
        Self { reason: reason.into(), lacks_room: false }
    }
}

/// A copy got more room, or could not.
pub(crate) struct Grown {
    volume: VolumeId,
    size: ByteCount,
    /// Its areas: metadata, data. `Err`: follows the node's name.
    result: Result<(Space, Space), String>,
}

/// What a replica is made from.
struct Parts {
    recovery: Recovery,
    meta: Space,
    data: Space,
}

/// After a failure the next attempt waits this long.
const RETRY: Duration = Duration::from_secs(3);

/// The engine's end of the disk thread.
pub(crate) struct Opener {
    jobs: std::sync::mpsc::Sender<Job>,
    shown: Rc<Shown>,
    owner: Option<(ClusterId, NodeId)>,
    levels: Option<Levels>,
    /// When each volume was last tried.
    tried: BTreeMap<VolumeId, Monotonic>,
    freed: BTreeMap<VolumeId, Monotonic>,
}

/// The newest that the disk thread told.
#[derive(Default)]
struct Shown {
    free: Cell<ByteCount>,
    largest: Cell<ByteCount>,
    capacity: Cell<ByteCount>,
    pool: RefCell<Option<String>>,
    /// Name, and why it can't be opened.
    volumes: RefCell<BTreeMap<VolumeId, (String, Unopened)>>,
    /// Of the log lines about them.
    failures: RefCell<Repeats<VolumeId>>,
}

/// Starts the disk thread for the disks in `settings`; relative paths are below `dir`.
pub(crate) fn opener(dir: &Path, settings: &Settings, inbox: Inbox<Input>) -> anyhow::Result<Opener> {
    let paths: Vec<PathBuf> = settings.disks.iter().map(|disk| dir.join(disk)).collect();
    let (jobs, work) = std::sync::mpsc::channel();
    let (news, mut told) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("disks".into()).spawn(move || worker::run(paths, &work, &news))?;
    let shown = Rc::new(Shown::default());
    let show = Rc::clone(&shown);
    tokio::task::spawn_local(async move {
        while let Some(news) = told.recv().await {
            show.take(news, &inbox);
        }
    });
    Ok(Opener { jobs, shown, owner: None, levels: None, tried: BTreeMap::new(), freed: BTreeMap::new() })
}

impl Shown {
    fn take(&self, news: News, inbox: &Inbox<Input>) {
        match news {
            News::Pool { free, largest, capacity, problem } => {
                self.free.set(free);
                self.largest.set(largest);
                self.capacity.set(capacity);
                *self.pool.borrow_mut() = problem;
            }
            News::Opened(opened) => {
                let id = opened.volume.config.volume;
                match &opened.result {
                    Ok(_) => drop(self.volumes.borrow_mut().remove(&id)),
                    Err(Refusal { reason, lacks_room }) => {
                        let unsaid = self.failures.borrow_mut().ask(&id, reason, clock::now());
                        if let Some(unsaid) = unsaid {
                            let volume = &opened.volume.name;
                            tracing::error!(volume, reason, unsaid, "volume can't be opened");
                        }
                        let (reason, lacks_room) = (reason.clone(), *lacks_room);
                        let shown = (opened.volume.name.clone(), Unopened { volume: id, reason, lacks_room });
                        self.volumes.borrow_mut().insert(id, shown);
                    }
                }
                inbox.push(Input::Opened(opened));
            }
            News::Grown(grown) => inbox.push(Input::Grown(grown)),
        }
    }
}

impl Opener {
    /// The versions in which disks and volumes are written; before the first time nothing is.
    pub(super) fn set_levels(&mut self, levels: Levels) {
        if self.levels.replace(levels) != Some(levels) {
            self.send(Job::Levels(levels));
        }
    }

    /// Whose disks these are; the pool is opened, or made of blank disks, under it.
    pub(super) fn set_owner(&mut self, cluster: ClusterId, node: NodeId) {
        if self.owner.replace((cluster, node)) != Some((cluster, node)) {
            self.send(Job::Assemble { cluster, node });
        }
    }

    /// Opens a volume, or makes its copy; ends in [`Input::Opened`].
    pub(super) fn open(&mut self, volume: &LinkVolume) {
        let now = clock::now();
        if due(&mut self.tried, volume.config.volume, now) {
            self.send(Job::Open(Box::new(volume.clone())));
        }
    }

    /// Makes more room for a copy (S22); ends in [`Input::Grown`].
    fn grow(&self, growth: Growth) {
        self.send(Job::Grow(growth));
    }

    /// Frees the space of a deleted volume, if there is any.
    pub(super) fn free(&mut self, volume: VolumeId) {
        if due(&mut self.freed, volume, clock::now()) {
            self.send(Job::Free(volume));
        }
    }

    /// Free and all space for volumes.
    pub(super) fn space(&self) -> (ByteCount, ByteCount) {
        (self.shown.free.get(), self.shown.capacity.get())
    }

    /// What is wrong with disks and volumes.
    pub(super) fn problems(&self) -> Vec<String> {
        let pool = self.shown.pool.borrow();
        let volumes = self.shown.volumes.borrow();
        let texts = volumes.values().map(|(name, unopened)| format!("volume {name}: {}", unopened.reason));
        pool.iter().cloned().chain(texts).collect()
    }

    /// The largest volume that a new copy can be made of.
    pub(super) fn largest(&self) -> ByteCount {
        self.shown.largest.get()
    }

    /// Copies that can't be made or opened.
    pub(super) fn unopened(&self) -> Vec<Unopened> {
        self.shown.volumes.borrow().values().map(|(_, unopened)| unopened.clone()).collect()
    }

    fn send(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            // The thread ended, which only a panic does; that aborts the process.
            tracing::error!("disk thread is gone");
        }
    }
}

fn due(tried: &mut BTreeMap<VolumeId, Monotonic>, volume: VolumeId, now: Monotonic) -> bool {
    if tried.get(&volume).is_some_and(|at| now.since(*at) < RETRY) {
        return false;
    }
    tried.insert(volume, now);
    true
}

impl Engine {
    pub(super) fn handle_opened(&mut self, opened: Opened) {
        let Some(state) = &self.state else { return };
        let id = opened.volume.config.volume;
        let Some(newest) = state.volumes.iter().find(|volume| volume.config.volume == id) else { return };
        let Ok(Parts { recovery, meta, data }) = opened.result else { return };
        if self.stopping || self.volumes.contains_key(&id) {
            return;
        }
        match recovery.finish(self.options(state)) {
            Ok(replica) => {
                let (name, config) = (newest.name.clone(), newest.config.clone());
                let mut volume = Volume::new(name, config, replica, meta, data);
                volume.wanted_size = newest.wanted_size;
                volume.replica.handle_version(clock::now(), state.levels.metadata);
                volume.replica.handle_ended(newest.ended);
                volume.replica.handle_config(clock::now(), &newest.config);
                volume.replica.handle_wanted(clock::now(), newest.wanted_size);
                tracing::info!(volume = volume.name, epoch = newest.config.epoch.0, "volume is open");
                self.volumes.insert(id, volume);
            }
            Err(error) => {
                tracing::error!(volume = newest.name, %error, "volume can't be used");
                let unopened = Unopened { volume: id, reason: error.to_string(), lacks_room: false };
                self.opener.shown.volumes.borrow_mut().insert(id, (newest.name.clone(), unopened));
            }
        }
    }

    /// Tries again what could not be opened, and drops volumes that were deleted and have stopped.
    pub(super) fn look_after_volumes(&mut self) {
        let Some(state) = &self.state else { return };
        for volume in &state.volumes {
            if !self.volumes.contains_key(&volume.config.volume) && !self.stopping {
                self.opener.open(volume);
            }
        }
        for id in state.deleted.clone() {
            match self.volumes.get(&id) {
                Some(volume) if volume.stopped => {
                    self.volumes.remove(&id);
                    self.abandon_requests(id);
                }
                Some(_) => {}
                None => {
                    self.opener.shown.volumes.borrow_mut().remove(&id);
                    self.opener.free(id);
                }
            }
        }
    }
}
