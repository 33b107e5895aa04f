//! Data-Out PDUs: unsolicited ones and those that answer an R2T (RFC 7143 §11.7).
//!
//! A Data-Out that belongs to no task (aborted, failed, never known) is skipped silently: its task has its answer.

use super::command::INCORRECT_AMOUNT;
use super::receive::Place;
use super::task::{State, TaskId};
use super::{Connection, Host};
use crate::pdu::{DataOut, NO_TAG};
use scsi::{Asc, Sense, SenseKey};

/// DATA PHASE ERROR: a Data-Out is missing or out of order.
const DATA_PHASE: Asc = Asc(0x4b, 0x00);

impl<H: Host> Connection<H> {
    /// A Data-Out PDU with `len` bytes to come: checks it and says where they go.
    pub(super) fn begin_data_out(
        &mut self,
        data: &DataOut,
        len: usize,
        host: &mut H,
    ) -> (Place, Option<TaskId>) {
        let Some(id) = self.data_out_task(data) else { return (Place::Discard, None) };
        let fault = match u32::try_from(len) {
            Ok(len) if data.target_transfer_tag == NO_TAG => self.check_unsolicited_data(id, data, len),
            Ok(len) => self.check_solicited_data(id, data, len),
            Err(_) => Some(INCORRECT_AMOUNT),
        };
        if let Some(asc) = fault {
            self.fail(id, Sense::new(SenseKey::AbortedCommand, asc), host);
            return (Place::Discard, None);
        }
        let offset = usize::try_from(data.buffer_offset).unwrap_or(usize::MAX);
        (self.place(id, offset, len), Some(id))
    }

    /// The task that the PDU belongs to and that still takes data of its kind.
    fn data_out_task(&mut self, data: &DataOut) -> Option<TaskId> {
        let tag = data.target_transfer_tag;
        if tag == NO_TAG {
            let id = self.tasks.find(data.initiator_task_tag)?;
            return self.tasks.get(id).filter(|task| task.unsolicited_open).map(|_| id);
        }
        let id = self.tasks.id_at(usize::try_from(tag & 0xffff).ok()?)?;
        let task = self.tasks.get_mut(id)?;
        let live = task.state == State::Collecting && task.tag == data.initiator_task_tag;
        (live && task.r2t(tag).is_some()).then_some(id)
    }

    fn check_unsolicited_data(&mut self, id: TaskId, data: &DataOut, len: u32) -> Option<Asc> {
        let first_burst = self.parameters.first_burst_bytes;
        let task = self.tasks.get_mut(id)?;
        let in_order = data.data_sn == task.unsolicited_data_sn && data.buffer_offset == task.unsolicited;
        let end = task.unsolicited.saturating_add(len);
        if !in_order {
            return Some(DATA_PHASE);
        }
        if end > first_burst.min(task.expected_out) {
            return Some(INCORRECT_AMOUNT);
        }
        None
    }

    fn check_solicited_data(&mut self, id: TaskId, data: &DataOut, len: u32) -> Option<Asc> {
        let r2t = self.tasks.get_mut(id)?.r2t(data.target_transfer_tag)?;
        let in_order =
            data.data_sn == r2t.data_sn && data.buffer_offset == r2t.offset.saturating_add(r2t.received);
        let received = r2t.received.saturating_add(len);
        if !in_order {
            return Some(DATA_PHASE);
        }
        // The last PDU of the sequence, and only that, completes it.
        if received > r2t.len || data.last != (received == r2t.len) {
            return Some(INCORRECT_AMOUNT);
        }
        None
    }

    /// The data of the PDU is in its place.
    pub(super) fn finish_data_out(&mut self, id: TaskId, data: &DataOut, len: usize, host: &mut H) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let Some(task) = self.tasks.get_mut(id) else { return };
        if data.target_transfer_tag == NO_TAG {
            task.unsolicited = task.unsolicited.saturating_add(len);
            task.unsolicited_data_sn = task.unsolicited_data_sn.wrapping_add(1);
            task.asked = task.unsolicited.min(task.wanted_out);
            task.unsolicited_open = !data.last;
        } else if let Some(r2t) = task.r2t(data.target_transfer_tag) {
            r2t.received = r2t.received.saturating_add(len);
            r2t.data_sn = r2t.data_sn.wrapping_add(1);
            task.solicited = task.solicited.saturating_add(len);
            if data.last {
                task.close_r2t(data.target_transfer_tag);
            }
        }
        self.advance(id, host);
    }
}
