//! A bench for tests: one target, a unit in RAM at LUN 0, two nexuses. It runs operations as the storage process would.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used)]

use crate::*;
use alloc::{vec, vec::Vec};
use base::{ClusterId, VolumeId};

/// Blocks of the bench's unit.
pub(crate) const BLOCKS: u64 = 2048;
pub(crate) const A: NexusId = NexusId(1);
pub(crate) const B: NexusId = NexusId(2);

/// The medium.
pub(crate) struct RamBackend {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mapped: Vec<bool>,
    pub(crate) log: Vec<Operation>,
    pub(crate) fault: Option<Fault>,
    /// What the cluster has committed of the unit's reservations.
    pub(crate) committed: Option<base::Reservations>,
}

pub(crate) struct Bench {
    pub(crate) target: Target,
    pub(crate) ram: RamBackend,
    /// Who sends the next command.
    pub(crate) nexus: NexusId,
    /// To which LUN.
    pub(crate) lun: [u8; 8],
}

/// A finished command.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: Status,
    pub(crate) sense: Option<Sense>,
    pub(crate) data_in: Vec<u8>,
}

impl RamBackend {
    fn run(&mut self, operation: &Operation, data_out: &[u8], data_in: &mut Vec<u8>) -> Outcome {
        self.log.push(operation.clone());
        if let Some(fault) = self.fault {
            return Outcome::Failed(fault);
        }
        match operation {
            Operation::Read(extent) => data_in.extend_from_slice(&self.bytes[bytes(*extent)]),
            Operation::Write { extent, .. } => {
                let range = bytes(*extent);
                let len = range.len();
                self.bytes[range].copy_from_slice(&data_out[..len]);
                self.map(*extent, true);
            }
            Operation::Fill(extent) => {
                self.bytes[bytes(*extent)].chunks_mut(512).for_each(|block| block.copy_from_slice(data_out));
                self.map(*extent, true);
            }
            Operation::Zero { extent, deallocate } => {
                self.bytes[bytes(*extent)].fill(0);
                self.map(*extent, !deallocate);
            }
            Operation::Flush | Operation::Verify(_) | Operation::AbortTasks(_) => {}
            Operation::Compare(extent) => return self.compare(*extent, data_out),
            Operation::CompareFill(extent) => {
                return self.compare(*extent, &data_out.repeat(usize::try_from(extent.blocks).unwrap()));
            }
            Operation::CompareAndWrite { extent, .. } => {
                let (old, new) = data_out.split_at(data_out.len() / 2);
                let outcome = self.compare(*extent, old);
                if outcome == Outcome::Done {
                    self.bytes[bytes(*extent)].copy_from_slice(new);
                }
                return outcome;
            }
            Operation::OrWrite { extent, .. } => {
                self.bytes[bytes(*extent)].iter_mut().zip(data_out).for_each(|(to, from)| *to |= from);
            }
            Operation::Reserve(state) => {
                state.check().unwrap();
                assert_eq!(state.revision, self.committed.as_ref().map_or(0, |old| old.revision) + 1);
                self.committed = Some((**state).clone());
            }
            Operation::Provisioning(extent) => {
                let first = usize::try_from(extent.lba.0).unwrap();
                let mapped = self.mapped[first];
                let blocks = self.mapped[first..].iter().take_while(|&&other| other == mapped).count();
                return Outcome::Provisioning { mapped, blocks: u64::try_from(blocks).unwrap() };
            }
        }
        Outcome::Done
    }

    fn compare(&self, extent: Extent, expected: &[u8]) -> Outcome {
        let medium = &self.bytes[bytes(extent)];
        match medium.iter().zip(expected).position(|(a, b)| a != b) {
            Some(at) => Outcome::Miscompare { offset_bytes: u64::try_from(at).unwrap() },
            None => Outcome::Done,
        }
    }

    fn map(&mut self, extent: Extent, mapped: bool) {
        let first = usize::try_from(extent.lba.0).unwrap();
        self.mapped[first..][..usize::try_from(extent.blocks).unwrap()].fill(mapped);
    }
}

/// Byte range of an extent; checks what every operation promises.
fn bytes(extent: Extent) -> core::ops::Range<usize> {
    assert!(extent.blocks > 0 && extent.lba.0 + extent.blocks <= BLOCKS, "{extent:?}");
    let start = usize::try_from(extent.lba.0 * 512).unwrap();
    start..start + usize::try_from(extent.blocks * 512).unwrap()
}

impl Bench {
    /// A thin unit; both nexuses have seen their power-on unit attention.
    pub(crate) fn ready() -> Self {
        Self::ready_with(|_| {})
    }

    /// Likewise, with another configuration.
    pub(crate) fn ready_with(configure: impl FnOnce(&mut UnitConfig)) -> Self {
        let mut bench = Self::fresh(configure);
        for nexus in [B, A] {
            bench.nexus = nexus;
            assert_eq!(bench.send(&[0; 6], &[]).sense, Some(Sense::unit_attention(Asc::POWER_ON_OR_RESET)));
        }
        bench
    }

    /// Just logged in.
    pub(crate) fn fresh(configure: impl FnOnce(&mut UnitConfig)) -> Self {
        let mut config = UnitConfig::new(ClusterId(1), VolumeId(10), BLOCKS);
        config.thin = true;
        configure(&mut config);
        let mut target = Target::new(TargetPort { iqn: "iqn.2026-01.test:t".into() });
        target.map(0, config, |_| true);
        for (nexus, name) in [(A, "iqn.2026-01.test:a"), (B, "iqn.2026-01.test:b")] {
            target.attach(nexus, InitiatorPort { name: name.into(), isid: [0x80, 0, 0, 0, 0, 1] }, |_| true);
        }
        let blocks = usize::try_from(BLOCKS).unwrap();
        let ram = RamBackend {
            bytes: vec![0; blocks * 512],
            mapped: vec![false; blocks],
            log: Vec::new(),
            fault: None,
            committed: None,
        };
        Self { target, ram, nexus: A, lun: [0; 8] }
    }

    /// Sends a command with its data-out and runs it to its end.
    pub(crate) fn send(&mut self, cdb: &[u8], data_out: &[u8]) -> Reply {
        let transfer = expected_transfer(cdb);
        let wanted = if transfer.direction == Direction::Out { transfer.len_bytes } else { 0 };
        let collected = &data_out[..data_out.len().min(usize::try_from(wanted).unwrap())];
        let command = Command {
            nexus: self.nexus,
            lun: self.lun,
            cdb,
            offered_len: u64::try_from(data_out.len()).unwrap(),
            parameters: if transfer.inspected { collected } else { &[] },
        };
        let mut medium = Vec::new();
        let mut step = self.target.execute(&command);
        loop {
            match step {
                Step::Backend(operation, continuation) => {
                    let outcome = self.ram.run(&operation, collected, &mut medium);
                    step = self.target.resume(&command, continuation, outcome);
                }
                Step::Done(response) => return Self::reply(response, medium, transfer),
            }
        }
    }

    fn reply(response: Response, medium: Vec<u8>, transfer: Transfer) -> Reply {
        assert_eq!(response.sense.is_some(), response.status == Status::CheckCondition);
        assert!(response.data_in.len_bytes() == 0 || transfer.direction == Direction::In);
        assert!(response.data_in.len_bytes() <= transfer.len_bytes);
        let data_in = match response.data_in {
            DataIn::None => Vec::new(),
            DataIn::Medium { len_bytes } => {
                assert_eq!(usize::try_from(len_bytes).unwrap(), medium.len());
                medium
            }
            DataIn::Parameters(bytes) => bytes,
        };
        Reply { status: response.status, sense: response.sense, data_in }
    }

    /// Data-in of a command that must be GOOD.
    pub(crate) fn data_in(&mut self, cdb: &[u8]) -> Vec<u8> {
        let reply = self.send(cdb, &[]);
        assert_eq!(reply.status, Status::Good, "{:?}", reply.sense);
        reply.data_in
    }

    /// A command that must be GOOD.
    pub(crate) fn good(&mut self, cdb: &[u8], data_out: &[u8]) {
        let reply = self.send(cdb, data_out);
        assert_eq!(reply.status, Status::Good, "{:?}", reply.sense);
    }

    /// A command that must conflict with a reservation.
    pub(crate) fn conflicts(&mut self, cdb: &[u8], data_out: &[u8]) {
        assert_eq!(self.send(cdb, data_out).status, Status::ReservationConflict);
    }

    /// A command without data-out that must end in CHECK CONDITION with this key, code and field (byte, bit).
    pub(crate) fn refused(&mut self, cdb: &[u8], key: u8, asc: (u8, u8), field: Option<(u16, Option<u8>)>) {
        self.refused_with(cdb, &[], key, asc, field);
    }

    /// Likewise with data-out.
    pub(crate) fn refused_with(
        &mut self,
        cdb: &[u8],
        data_out: &[u8],
        key: u8,
        asc: (u8, u8),
        field: Option<(u16, Option<u8>)>,
    ) {
        let reply = self.send(cdb, data_out);
        let sense = reply.sense.unwrap_or_else(|| panic!("{:?} instead of sense", reply.status));
        assert_eq!((sense.key as u8, sense.asc), (key, Asc(asc.0, asc.1)), "{sense:?}");
        assert_eq!(sense.field.map(|field| (field.byte, field.bit)), field, "{sense:?}");
    }
}
