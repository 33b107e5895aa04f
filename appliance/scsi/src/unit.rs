//! One logical unit: its configuration and what initiators have set on it.

use crate::cdb::{Cdb, Range};
use crate::command::{Extent, NexusId};
use crate::identity::InitiatorPort;
use crate::limits::MAX_TRANSFER_BLOCKS;
use crate::mode::ModeState;
use crate::opcode::{Medium, Opcode, Rights};
use crate::persistent::{Access, Changing, PersistentState};
use crate::reservation_scsi2::Scsi2Reservation;
use crate::sense::{Asc, Sense, SenseKey};
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
}

impl UnitConfig {
    /// 512e, thick, write-through, writable.
    #[must_use]
    pub fn new(cluster: ClusterId, volume: VolumeId, blocks: u64) -> Self {
        Self { cluster, volume, blocks, physical_4k: true, thin: false, write_back: false, read_only: false }
    }
}

/// A logical unit.
#[derive(Debug)]
pub struct LogicalUnit {
    pub(crate) config: UnitConfig,
    /// Served now; otherwise medium commands answer "not ready, retry".
    pub(crate) served: bool,
    pub(crate) attentions: UnitAttentions,
    pub(crate) mode: ModeState,
    pub(crate) reserved: Scsi2Reservation,
    /// As the cluster has committed it.
    pub(crate) persistent: PersistentState,
    /// The change of it that waits to be committed.
    pub(crate) changing: Option<Changing>,
    /// Counts those changes.
    pub(crate) changes: u64,
}

impl LogicalUnit {
    pub(crate) fn new(config: UnitConfig) -> Self {
        Self {
            config,
            served: true,
            attentions: UnitAttentions::default(),
            mode: ModeState::default(),
            reserved: Scsi2Reservation::default(),
            persistent: PersistentState::default(),
            changing: None,
            changes: 0,
        }
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

    /// Whether the unit exists for `nexus`; else it is masked from it.
    pub(crate) fn is_visible_to(&self, nexus: NexusId) -> bool {
        self.attentions.is_attached(nexus)
    }

    /// Other values behind the same identity. What initiators set on the unit stays; each learns what changed.
    pub(crate) fn reconfigure(&mut self, config: UnitConfig) {
        let old = core::mem::replace(&mut self.config, config);
        let new = &self.config;
        let mut tell = |changed: bool, asc| {
            if changed {
                self.attentions.establish_all(asc, None);
            }
        };
        // SBC-3 §4.6: whatever READ CAPACITY tells.
        let capacity = |unit: &UnitConfig| (unit.blocks, unit.physical_4k, unit.thin);
        tell(capacity(&old) != capacity(new), Asc::CAPACITY_CHANGED);
        // SPC-4 §7.5: WP in the mode parameter header, WCE in the caching page.
        tell(
            (old.read_only, old.write_back) != (new.read_only, new.write_back),
            Asc::MODE_PARAMETERS_CHANGED,
        );
        // The pages 86h, B0h and B2h.
        let pages = |unit: &UnitConfig| (unit.physical_4k, unit.thin, unit.write_back);
        tell(pages(&old) != pages(new), Asc::INQUIRY_DATA_CHANGED);
    }

    /// A nexus went: an I_T nexus loss ends its SCSI-2 reservation (SPC-2 §5.5.1).
    pub(crate) fn detach(&mut self, nexus: NexusId) {
        self.attentions.detach(nexus);
        self.reserved.release(nexus);
    }

    /// Logical unit reset (SAM-5 §6.3.3): SCSI-2 reservations end, mode parameters return to their defaults, persistent
    /// reservations stay.
    pub(crate) fn reset(&mut self) {
        self.reserved = Scsi2Reservation::default();
        self.mode = ModeState::default();
        self.attentions.establish_all(Asc::DEVICE_RESET, None);
    }

    /// The volume is served here, or no longer. Who begins to serve has the committed persistent reservations and knows
    /// nothing else of what initiators set on another node or at an earlier time, so it starts like a device after power
    /// on and says so (S15).
    pub(crate) fn set_served(&mut self, served: bool) {
        if served && !self.served {
            self.reserved = Scsi2Reservation::default();
            self.mode = ModeState::default();
            self.changing = None;
            self.attentions.establish_all(Asc::POWER_ON_OR_RESET, None);
        }
        self.served = served;
    }

    /// What the cluster has committed. A change that no command here waits for (one that was in doubt when the unit was
    /// last served) is told like a power on: who is concerned by it is not known any more.
    pub(crate) fn set_reservations(&mut self, state: PersistentState) {
        if self.persistent == state {
            return;
        }
        let own = self.changing.as_ref().is_some_and(|changing| changing.transition.leads_to(&state));
        if self.served && !own {
            self.attentions.establish_all(Asc::POWER_ON_OR_RESET, None);
        }
        self.persistent = state;
    }

    /// The extent if it lies within the capacity; else 5/21/00.
    pub(crate) fn extent(&self, lba: u64, blocks: u64) -> Result<Extent, Sense> {
        match lba.checked_add(blocks) {
            Some(end) if end <= self.config.blocks => Ok(Extent { lba: Lba(lba), blocks }),
            _ => Err(Sense::illegal(Asc::LBA_OUT_OF_RANGE)),
        }
    }

    /// The extent of a transfer: within the capacity, else 5/21/00, and within the block limits, else 5/24/00.
    pub(crate) fn transfer_extent(&self, range: Range) -> Result<Extent, Sense> {
        let extent = self.extent(range.lba, range.blocks)?;
        if range.blocks > MAX_TRANSFER_BLOCKS {
            return Err(Sense::invalid_cdb_byte(range.blocks_at));
        }
        Ok(extent)
    }

    /// Configured read-only, or write protected by the control mode page's SWP.
    pub(crate) fn write_protected(&self) -> bool {
        self.config.read_only || self.mode.software_write_protect
    }

    /// 2/04/0A while the unit is not served; 7/27/00 for a write to a protected one.
    pub(crate) fn check_medium(&self, needed: Medium) -> Result<(), Sense> {
        match needed {
            Medium::Unneeded => Ok(()),
            Medium::Needed | Medium::Modified if !self.served => {
                Err(Sense::new(SenseKey::NotReady, Asc::ACCESS_STATE_TRANSITION))
            }
            Medium::Modified if self.write_protected() => {
                Err(Sense::new(SenseKey::DataProtect, Asc::WRITE_PROTECTED))
            }
            Medium::Needed | Medium::Modified => Ok(()),
        }
    }

    /// Whether reservations of others leave this command to the nexus; else RESERVATION CONFLICT.
    pub(crate) fn reservations_allow(
        &self,
        opcode: &Opcode,
        cdb: &Cdb,
        nexus: NexusId,
        port: Option<&InitiatorPort>,
    ) -> bool {
        let rights = match opcode.rights {
            Rights::StartStop if cdb.bit(4, 0) && cdb.byte(4) >> 4 == 0 => Rights::Always,
            Rights::StartStop => Rights::Write,
            rights => rights,
        };
        let mine = !self.reserved.is_held_by_other(nexus);
        match rights {
            Rights::Always => true,
            Rights::PastPersistent => mine,
            Rights::Read => mine && self.persistent.allows(port, Access::Read),
            Rights::Write | Rights::StartStop => mine && self.persistent.allows(port, Access::Write),
            Rights::Persistent => !self.reserved.is_held(),
            Rights::Scsi2 => !self.persistent.has_registrations(),
        }
    }
}
