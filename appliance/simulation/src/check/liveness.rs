//! I5, I6: once faults stop, the volume is served within the failover bound, and all copies get in sync.

use super::{Checked, violation};
use crate::rng::{MS, Nanos};

/// What must have happened how long after the last fault was healed.
const SERVED_WITHIN: Nanos = 8_000 * MS;
const IN_SYNC_WITHIN: Nanos = 30_000 * MS;

/// One stretch without faults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Liveness {
    healed: Nanos,
    served: bool,
}

impl Liveness {
    /// Everything works from `healed` on.
    pub(crate) fn new(healed: Nanos) -> Self {
        Self { healed, served: false }
    }

    /// Since when everything works.
    pub(crate) fn healed(&self) -> Nanos {
        self.healed
    }

    /// An initiator's request that was sent after the healing was answered.
    pub(crate) fn answered(&mut self) {
        self.served = true;
    }

    /// How it stands at `now`; true once everything that must happen has happened.
    pub(crate) fn check(&self, now: Nanos, all_in_sync: bool) -> Result<bool, super::Violation> {
        let since = now.saturating_sub(self.healed);
        if !self.served && since > SERVED_WITHIN {
            violation("I6", format!("nothing is served {} ms after the last fault", since / MS))?;
        }
        if !all_in_sync && since > IN_SYNC_WITHIN {
            violation("I5", format!("not all in sync {} ms after the last fault", since / MS))?;
        }
        Ok(self.served && all_in_sync)
    }

    /// Nothing may be under way any more at `now`.
    pub(crate) fn check_quiet(&self, now: Nanos, quiet: bool) -> Checked {
        if !quiet && now.saturating_sub(self.healed) > 2 * IN_SYNC_WITHIN {
            return violation("I6", "requests are still under way long after the last one was sent".into());
        }
        Ok(())
    }
}
