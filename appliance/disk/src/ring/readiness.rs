//! The ring's descriptor as something a tokio task can await.

use super::Ring;
use crate::error::DiskError;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Wakes the task that drives a [`Ring`]. Belongs to the runtime it was made in.
#[derive(Debug)]
pub struct Readiness {
    descriptor: AsyncFd<OwnedFd>,
}

impl Readiness {
    /// For `ring`, on the tokio runtime that the caller runs in (with I/O enabled).
    pub fn of(ring: &Ring) -> Result<Self, DiskError> {
        let fail = |error: io::Error| DiskError::system("watch the disk ring", error);
        // A duplicate of our own: the runtime can't be left with a number that is closed or used again.
        let descriptor = ring.as_fd().try_clone_to_owned().map_err(fail)?;
        // SAFETY: the `OwnedFd` is valid, stays open for as long as the `AsyncFd` owns it, and is never replaced.
        let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }
            .map_err(|e| fail(e.into()))?;
        Ok(Self { descriptor })
    }

    /// Waits until the ring may have completions. To be called only when [`Ring::is_ready`] said no; may return early.
    pub async fn wait(&self) -> Result<(), DiskError> {
        let mut guard = self.descriptor.readable().await;
        // Cleared before the ring is looked at: what completes from now on wakes again.
        if let Ok(guard) = &mut guard {
            guard.clear_ready();
        }
        guard.map(|_| ()).map_err(|e| DiskError::system("wait for the disk ring", e))
    }
}
