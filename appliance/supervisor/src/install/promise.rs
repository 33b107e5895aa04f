//! What the node's releases understand, as far as the cluster may rely on it, and what is in use.
//!
//! The cluster manager promises to the others what stands in [`paths::UNDERSTOOD`], and the cluster raises the versions in
//! which it writes to what all have promised (`cluster::formats`). So it has to be true of every release that may be started here:
//!
//! | this node | what is said |
//! |---|---|
//! | runs a release that has proved itself, and starts it again | all that it understands |
//! | is on trial, or was started by hand | nothing: what was promised before stays |
//! | is to go back to an older release | what both understand, before the slot is written |

use crate::node::write_atomically;
use ::control::paths;
use ::control::update::InUse;
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
    understood: Mutex<Option<Formats>>,
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
        let mut understood = self.understood.lock().unwrap_or_else(PoisonError::into_inner);
        *understood = Some(formats);
        self.write(&formats);
    }

    /// Says it once more, the folder having been cleared.
    pub(super) fn repeat(&self) {
        let understood = self.understood.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(formats) = &*understood {
            self.write(formats);
        }
    }

    /// Without it nothing new is promised, and all else works. Before there is a folder for it nobody asks: see
    /// [`Promise::repeat`].
    fn write(&self, formats: &Formats) {
        let path = self.dir.join(paths::UNDERSTOOD);
        let written = serde_json::to_vec(formats).map_err(std::io::Error::from);
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
    /// the release is installed and started. Returns when that is committed.
    pub(super) fn narrow(&self, header: &Header, running: &Version) -> anyhow::Result<()> {
        let both = Formats::CURRENT.capped(&header.formats);
        let taken_back =
            |in_use: &InUse| in_use.promised.is_none_or(|promised| promised.capped(&both) == promised);
        if taken_back(&self.in_use()) {
            return Ok(());
        }
        self.say(both);
        let deadline = Instant::now() + self.patience;
        while !taken_back(&self.in_use()) {
            if Instant::now() >= deadline {
                bail!(
                    "the cluster has not confirmed that this node goes back to a release that understands less: is there a \
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
