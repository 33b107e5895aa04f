//! What the node's releases understand, as far as the cluster may rely on it, and what is in use.
//!
//! The cluster manager promises to the others what stands in [`paths::UNDERSTOOD`], and the cluster raises the versions in
//! which it writes to what all have promised (`cluster::formats`). So it has to be true of every release that may be started here:
//!
//! | this node | what is said |
//! |---|---|
//! | runs a release that has proved itself, and starts it again | all that it understands |
//! | is on trial, or was started by hand | nothing: what was promised before stays |
//! | is to start another release | what both understand, before the slot is written |
//!
//! GRUB starts the other slot without asking where the running release's can't be read. If that is an older release than what is
//! written down, it says so and changes nothing (docs/update.md).

use crate::node::write_atomically;
use ::control::paths;
use ::control::update::{InUse, Promised, Understood};
use anyhow::bail;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use update::{Formats, Header, Version, judge};

/// How long a majority may take to hear that less is promised.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// What is said, and where.
#[derive(Debug)]
pub(super) struct Promise {
    dir: PathBuf,
    understood: Mutex<Option<Understood>>,
    patience: Duration,
}

impl Promise {
    /// For the node with its folder at `dir`; nothing is said yet.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.into(), understood: Mutex::default(), patience: PATIENCE }
    }

    #[cfg(test)]
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// From now on all releases that may be started here understand `formats`.
    pub(super) fn say(&self, formats: Formats) {
        self.say_anew(formats, None);
    }

    /// The same, in a promise with a higher number than `above`.
    fn say_anew(&self, formats: Formats, above: Option<u64>) {
        let said = Understood { formats, above };
        let mut understood = self.understood.lock().unwrap_or_else(PoisonError::into_inner);
        *understood = Some(said);
        self.write(&said);
    }

    /// Says it once more, the folder having been cleared.
    pub(super) fn repeat(&self) {
        let understood = self.understood.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(understood) = &*understood {
            self.write(understood);
        }
    }

    /// Without it nothing new is promised, and all else works. Before there is a folder for it nobody asks: see
    /// [`Promise::repeat`].
    fn write(&self, understood: &Understood) {
        let path = self.dir.join(paths::UNDERSTOOD);
        let written = serde_json::to_vec(understood).map_err(std::io::Error::from);
        match written.and_then(|text| write_atomically(&path, &text)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{}: {error}", path.display());
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// What a release has to understand.
    fn in_use(&self) -> InUse {
        let text = std::fs::read(self.dir.join(paths::FORMATS)).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or(InUse::UNKNOWN)
    }

    /// Whether the release of `header` may replace `running`.
    pub(super) fn judge(&self, header: &Header, running: &Version) -> anyhow::Result<()> {
        Ok(judge(header, running, &self.in_use())?)
    }

    /// Takes back what the release of `header` does not understand, so that the cluster does not raise a version to it while
    /// the release is installed and started. Returns when that is committed by a promise later than all before: one that is on
    /// its way still, and promises more, is refused then.
    pub(super) fn narrow(&self, header: &Header, running: &Version) -> anyhow::Result<()> {
        let both = Formats::CURRENT.common(&header.formats);
        if both == Formats::CURRENT {
            return Ok(());
        }
        let above = self.in_use().promised.map(|last| last.number);
        self.say_anew(both, above);
        let is_later =
            |last: &Promised| last.formats == both && above.is_none_or(|above| last.number > above);
        // A node in no cluster tells it when it enters one.
        let is_settled = |in_use: &InUse| match &in_use.promised {
            Some(last) => is_later(last),
            None => above.is_none(),
        };
        let deadline = Instant::now() + self.patience;
        while !is_settled(&self.in_use()) {
            if Instant::now() >= deadline {
                bail!(
                    "the cluster has not confirmed that this node may start a release that understands less: is there a \
                     majority?"
                );
            }
            std::thread::sleep(INTERVAL);
            // A version may have been raised just before.
            self.judge(header, running)?;
        }
        self.judge(header, running)
    }
}
