//! One logical unit: its configuration and what initiators have set on it.

use crate::command::{Extent, NexusId};
use crate::sense::{Asc, Sense};
use crate::unit_attention::UnitAttentions;
use base::{ClusterId, Lba, VolumeId};

/// What a logical unit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitConfig {
    /// The cluster; part of the unit's identity.
    pub cluster: ClusterId,
    /// The volume; part of the unit's identity.
    pub volume: VolumeId,
    /// Capacity in logical blocks of 512 bytes; a multiple of 8, not zero.
    pub blocks: u64,
    /// Physical blocks are 4096 bytes (512e); otherwise 512 (512n).
    pub physical_4k: bool,
    /// UNMAP and WRITE SAME with UNMAP give space back (LBPME=1, LBPRZ=1). The blocks read as zeroes afterwards.
    pub thin: bool,
    /// A volatile cache stands before the medium (WCE=1, S1).
    pub write_back: bool,
    /// Writes are refused with 7/27/00.
    pub read_only: bool,
    /// Longest READ, WRITE, VERIFY … in blocks. Reported in VPD B0.
    pub max_transfer_blocks: u32,
}

impl UnitConfig {
    /// 512e, thick, write-through, writable, commands up to 64 MiB.
    #[must_use]
    pub fn new(cluster: ClusterId, volume: VolumeId, blocks: u64) -> Self {
        Self {
            cluster,
            volume,
            blocks,
            physical_4k: true,
            thin: false,
            write_back: false,
            read_only: false,
            max_transfer_blocks: 131_072,
        }
    }
}

/// A logical unit.
#[derive(Debug)]
pub struct LogicalUnit {
    pub(crate) config: UnitConfig,
    /// Served now; otherwise medium commands answer "not ready, retry".
    pub(crate) served: bool,
    pub(crate) attentions: UnitAttentions,
}

impl LogicalUnit {
    pub(crate) fn new(config: UnitConfig) -> Self {
        Self { config, served: true, attentions: UnitAttentions::default() }
    }

    /// What it is.
    #[must_use]
    pub fn config(&self) -> &UnitConfig {
        &self.config
    }

    /// A nexus came.
    pub(crate) fn attach(&mut self, nexus: NexusId) {
        self.attentions.attach(nexus);
    }

    /// A nexus went.
    pub(crate) fn detach(&mut self, nexus: NexusId) {
        self.attentions.detach(nexus);
    }

    /// The extent if it lies within the capacity; else 5/21/00.
    pub(crate) fn extent(&self, lba: u64, blocks: u64) -> Result<Extent, Sense> {
        match lba.checked_add(blocks) {
            Some(end) if end <= self.config.blocks => Ok(Extent { lba: Lba(lba), blocks }),
            _ => Err(Sense::illegal(Asc::LBA_OUT_OF_RANGE)),
        }
    }
}
