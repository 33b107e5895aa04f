//! The engine's check of its own invariants, for tests and the simulator.

use crate::api::Buffer;
use crate::job::{Kind, Stage};
use crate::replica::Replica;
use crate::sabotage::Sabotage;
use crate::write::extents;

impl<B: Buffer> Replica<B> {
    /// Checks the engine's own invariants; the first that does not hold is named. Costs time in proportion to what is
    /// outstanding and to the size of the bitmap.
    ///
    /// # Errors
    /// Names the invariant.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.locks.validate()?;
        self.log.validate()?;
        self.bitmap.validate()?;
        self.validate_epoch()?;
        self.validate_jobs()?;
        self.validate_link()
    }

    fn validate_epoch(&self) -> Result<(), &'static str> {
        if self.superblock.epoch != self.floor {
            return Err("the superblock shall hold the highest epoch learned (S4)");
        }
        if self.serving && !self.primary {
            return Err("serves without being primary (S6)");
        }
        if self.serving && (self.gave_up || self.failed) {
            return Err("serves after giving up (S3) or failing (S11)");
        }
        if self.primary && self.known.as_ref().is_none_or(|config| config.primary != Some(self.identity.node))
        {
            return Err("primary without a configuration that says so (S6)");
        }
        Ok(())
    }

    fn validate_jobs(&self) -> Result<(), &'static str> {
        let writing = self.jobs.iter().filter(|(_, job)| job.writes_disk()).count();
        if writing != self.data_writes {
            return Err("wrong number of data writes in flight (S4)");
        }
        if self.jobs.iter().filter(|(_, job)| job.lock.is_some()).count() != self.locks.len() {
            return Err("a lock without a job (S18)");
        }
        for (_, job) in self.jobs.iter() {
            let client_write =
                matches!(job.kind, Kind::Write(_)) && matches!(job.stage, Stage::Writing { .. });
            if client_write && !self.breaks(Sabotage::SkipActivityLog) {
                let (first, last) = extents(job.span);
                if !(first..=last).all(|extent| self.log.is_durable(extent)) {
                    return Err("a write runs whose extent is not in the durable activity log (S9)");
                }
            }
            if job.request.is_some() && !self.serving {
                return Err("a request is held open while nothing is served");
            }
        }
        Ok(())
    }

    fn validate_link(&self) -> Result<(), &'static str> {
        let Some(link) = self.link.as_ref() else {
            return if self.resync.is_some() { Err("a resync without a session") } else { Ok(()) };
        };
        if link.epoch != self.floor && !self.breaks(Sabotage::ObeyStale) {
            return Err("a session of another epoch than the highest learned (S4)");
        }
        if link.is_open() && self.durable_epoch < link.epoch {
            return Err("a session is open in an epoch that is not durable (S4)");
        }
        let lies = self.breaks(Sabotage::AnswerWithoutShrink) || self.breaks(Sabotage::AnswerWhileGrowing);
        if link.is_open() && link.in_sync && self.bitmap.dirty() > 0 && !lies {
            return Err("dirty blocks between copies that are in sync (S7)");
        }
        if link.is_open() && !link.dialled && !link.in_sync && self.superblock.inconsistent != link.epoch {
            let voided = self.known.as_ref().is_some_and(|config| config.epoch > link.epoch);
            if !voided {
                return Err("a target that is not marked inconsistent (S10)");
            }
        }
        Ok(())
    }
}
