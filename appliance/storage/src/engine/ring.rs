//! Disk operations of replicas, from command to completion.

use base::VolumeId;
use disk::{BufferPool, Completion, DiskError, Durability, Returned, Ring, Space, ZeroMode};
use replication::{DiskOp, DiskResult, DiskToken};
use std::collections::HashMap;

use super::data::Data;

/// The ring and whose operations are on it.
pub(crate) struct Operations {
    pub(super) ring: Ring,
    buffers: BufferPool,
    owners: HashMap<u64, (VolumeId, DiskToken)>,
    next_token: u64,
}

impl Operations {
    pub(super) fn new(ring: Ring, buffers: BufferPool) -> Self {
        Self { ring, buffers, owners: HashMap::new(), next_token: 0 }
    }

    /// Queues an operation; it starts with the next submit. `Err` means that it did not start and never will.
    pub(super) fn start(
        &mut self,
        volume: VolumeId,
        (meta, data): (&Space, &Space),
        token: DiskToken,
        op: DiskOp<Data>,
    ) -> Result<(), DiskError> {
        let ring_token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1);
        let durability = |durable| if durable { Durability::Durable } else { Durability::Cached };
        match op {
            DiskOp::WriteMeta { offset, bytes } => {
                let mut buffer = self.buffers.take_urgent(bytes.len())?;
                buffer.as_mut_slice().copy_from_slice(&bytes);
                self.ring.write(ring_token, meta, offset, buffer.freeze(), Durability::Durable);
            }
            DiskOp::Write { offset, data: bytes, durable } => {
                self.ring.write(ring_token, data, offset, bytes.0, durability(durable));
            }
            DiskOp::Read { offset, len } => {
                // Its end gives memory back, and the number of commands in flight bounds it.
                let buffer = self.buffers.take_urgent(usize::try_from(len).unwrap_or(usize::MAX))?;
                self.ring.read(ring_token, data, offset, buffer);
            }
            DiskOp::Zero { offset, len, unmap, durable } => {
                let mode = if unmap { ZeroMode::Deallocate } else { ZeroMode::Keep };
                self.ring.zero(ring_token, data, offset, u64::from(len), mode, durability(durable));
            }
        }
        self.owners.insert(ring_token, (volume, token));
        Ok(())
    }

    /// The next operation that ended.
    pub(super) fn next_done(&mut self) -> Option<(VolumeId, DiskToken, DiskResult<Data>)> {
        loop {
            let Completion { token, result, buffer } = self.ring.next()?;
            let Some((volume, token)) = self.owners.remove(&token) else { continue };
            let result = match (result, buffer) {
                (Ok(()), Returned::Read(buffer)) => DiskResult::Data(Data(buffer.freeze())),
                (Ok(()), Returned::Write(_) | Returned::None) => DiskResult::Done,
                (Err(error), _) => {
                    tracing::error!(%volume, "disk: {}", crate::chain(&error));
                    DiskResult::Failed
                }
            };
            return Some((volume, token, result));
        }
    }
}
