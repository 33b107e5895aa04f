//! From a SCSI Command PDU to the device server: command order, memory, data, execution.

use super::receive::Place;
use super::task::{MAX_R2T, OpenR2t, State, Task, TaskId};
use super::window::Arrival;
use super::{CloseReason, CommandView, Completion, Connection, Host};
use crate::pdu::{Bhs, NO_TAG, R2t, RejectReason, ScsiCommand};
use alloc::vec::Vec;
use scsi::{Asc, Direction, Sense, SenseKey};

/// UNEXPECTED UNSOLICITED DATA (RFC 7143 §11.4.7.2).
const UNEXPECTED_UNSOLICITED: Asc = Asc(0x0c, 0x0c);
/// INCORRECT AMOUNT OF DATA (RFC 7143 §11.4.7.2).
pub(super) const INCORRECT_AMOUNT: Asc = Asc(0x0c, 0x0d);

impl<H: Host> Connection<H> {
    /// Judges the CmdSN of a request; false: do not serve it.
    pub(super) fn in_order(&mut self, immediate: bool, cmd_sn: u32) -> bool {
        if immediate {
            return true;
        }
        match self.window.arrive(cmd_sn) {
            Arrival::Next => true,
            Arrival::Ignore => false,
            Arrival::Gap => {
                self.drop_now(CloseReason::Protocol("a gap in CmdSN"));
                false
            }
        }
    }

    /// A SCSI Command PDU with `len` bytes of immediate data to come: makes the task and says where they go.
    pub(super) fn begin_command(
        &mut self,
        command: &ScsiCommand,
        bhs: &Bhs,
        len: usize,
        host: &mut H,
    ) -> (Place, Option<TaskId>) {
        const NOTHING: (Place, Option<TaskId>) = (Place::Discard, None);
        if !self.in_order(command.immediate, command.cmd_sn) {
            return NOTHING;
        }
        if self.identity.discovery {
            self.reject(bhs, RejectReason::NotSupported);
            return NOTHING;
        }
        if command.initiator_task_tag == NO_TAG {
            self.reject(bhs, RejectReason::InvalidField);
            return NOTHING;
        }
        if self.tasks.find(command.initiator_task_tag).is_some() {
            self.reject(bhs, RejectReason::TaskInProgress);
            return NOTHING;
        }
        let task = self.make_task(command, len);
        let fault = self.check_unsolicited(command, &task, len);
        let Some(id) = self.tasks.insert(task) else {
            self.reject(bhs, RejectReason::TooManyImmediate);
            return NOTHING;
        };
        if let Some(asc) = fault {
            self.fail(id, Sense::new(SenseKey::AbortedCommand, asc), host);
            return NOTHING;
        }
        self.admit_or_queue(id, host);
        (self.place(id, 0, len), Some(id))
    }

    fn make_task(&self, command: &ScsiCommand, len: usize) -> Task<H::Filling> {
        let transfer = scsi::expected_transfer(&command.cdb);
        let (command_in, command_out) = match transfer.direction {
            Direction::In => (transfer.len_bytes, 0),
            Direction::Out => (0, transfer.len_bytes),
            Direction::None => (0, 0),
        };
        let expected_out = if command.write { command.expected_len_bytes } else { 0 };
        // Of a bidirectional command the field is the data-out part; no such command is served.
        let expected_in = if command.read && !command.write { command.expected_len_bytes } else { 0 };
        let wanted_out = expected_out.min(u32::try_from(command_out).unwrap_or(u32::MAX));
        let unsolicited = u32::try_from(len).unwrap_or(u32::MAX);
        Task {
            tag: command.initiator_task_tag,
            lun: command.lun.to_be_bytes(),
            cdb: command.cdb,
            immediate: command.immediate,
            expected_in,
            expected_out,
            wanted_out,
            command_out,
            state: State::Collecting,
            cost_bytes: u64::from(wanted_out).max(command_in.min(self.limits.command_bytes)),
            admitted: false,
            data_out: None,
            unsolicited_open: !command.last,
            unsolicited,
            unsolicited_data_sn: 0,
            asked: unsolicited.min(wanted_out),
            solicited: 0,
            r2ts: [OpenR2t::default(); MAX_R2T],
            r2t_count: 0,
            r2t_sn: 0,
            waiters: Vec::new(),
        }
    }

    /// What is wrong with the unsolicited data that the command brings or announces.
    fn check_unsolicited(&self, command: &ScsiCommand, task: &Task<H::Filling>, len: usize) -> Option<Asc> {
        let first_burst = self.parameters.first_burst_bytes.min(task.expected_out);
        let too_long = task.unsolicited > first_burst;
        let announced = !command.last && (!command.write || self.parameters.initial_r2t);
        let immediate = len > 0 && !self.parameters.immediate_data;
        (too_long || announced || immediate).then_some(UNEXPECTED_UNSOLICITED)
    }

    /// The place in the task's buffer for `len` bytes at `offset` of the command's data.
    pub(super) fn place(&self, id: TaskId, offset: usize, len: usize) -> Place {
        let held = self.tasks.get(id).and_then(|task| task.data_out.as_ref()).map_or(0, |b| b.as_ref().len());
        let keep = held.saturating_sub(offset).min(len);
        if keep == 0 { Place::Discard } else { Place::Task { task: id, offset, keep } }
    }

    /// Gives the task its memory now, or later in its turn. A task that waits keeps its unsolicited data apart.
    fn admit_or_queue(&mut self, id: TaskId, host: &mut H) {
        if self.tasks.waiting.is_empty() && self.admit(id, host) {
            return;
        }
        let Some(task) = self.tasks.get_mut(id) else { return };
        let first = task.wanted_out.min(self.parameters.first_burst_bytes);
        let brings = task.unsolicited > 0 || task.unsolicited_open;
        if brings && first > 0 {
            task.data_out = usize::try_from(first).ok().and_then(|first| host.allocate(first));
            if task.data_out.is_none() {
                self.fail_busy(id, host);
                return;
            }
        }
        self.tasks.waiting.push_back(id);
    }

    /// Takes the task's memory from the budget, if there is as much. A task larger than the budget is admitted alone.
    fn admit(&mut self, id: TaskId, host: &mut H) -> bool {
        let Some(task) = self.tasks.get_mut(id) else { return true };
        let total = self.admitted_bytes.saturating_add(task.cost_bytes);
        let fits = total <= self.limits.memory_bytes && host.has_room(task.cost_bytes);
        if self.admitted_bytes > 0 && !fits {
            return false;
        }
        if u64::from(task.wanted_out) > self.limits.command_bytes {
            self.fail(id, Sense::illegal(Asc::INVALID_FIELD_IN_CDB), host);
            return true;
        }
        if task.wanted_out > 0 {
            let Some(mut buffer) = usize::try_from(task.wanted_out).ok().and_then(|len| host.allocate(len))
            else {
                self.fail_busy(id, host);
                return true;
            };
            if let Some(held) = &task.data_out
                && let Some(window) = buffer.as_mut().get_mut(..held.as_ref().len())
            {
                window.copy_from_slice(held.as_ref());
            }
            task.data_out = Some(buffer);
        }
        task.admitted = true;
        self.admitted_bytes = total;
        true
    }

    /// Memory of a task came back: others may go on.
    pub(super) fn release(&mut self, bytes: u64, host: &mut H) {
        self.admitted_bytes = self.admitted_bytes.saturating_sub(bytes);
        self.handle_room(host);
    }

    /// Lets tasks go on that wait for memory, as far as there is some.
    pub fn handle_room(&mut self, host: &mut H) {
        if core::mem::replace(&mut self.admitting, true) {
            return;
        }
        // Taken out first: a task that can't be admitted ends, and whatever ends leaves the queue.
        while let Some(id) = self.tasks.waiting.pop_front() {
            if !self.admit(id, host) {
                self.tasks.waiting.push_front(id);
                break;
            }
            self.advance(id, host);
        }
        self.admitting = false;
    }

    /// Does what is next for a task that collects: waits, asks for data, or executes.
    pub(super) fn advance(&mut self, id: TaskId, host: &mut H) {
        let Some(task) = self.tasks.get(id) else { return };
        if task.state != State::Collecting || !task.admitted || task.unsolicited_open {
            return;
        }
        if task.is_complete() {
            self.execute(id, host);
        } else {
            self.ask_for_data(id);
        }
    }

    /// Sends R2Ts up to MaxOutstandingR2T.
    fn ask_for_data(&mut self, id: TaskId) {
        let most = usize::try_from(self.parameters.max_outstanding_r2t).unwrap_or(1).clamp(1, MAX_R2T);
        let burst = self.parameters.max_burst_bytes;
        loop {
            let (exp_cmd_sn, max_cmd_sn) = self.advertise();
            let stat_sn = self.window.peek_stat_sn();
            let counter = self.next_r2t_tag;
            let Some(task) = self.tasks.get_mut(id) else { return };
            if task.r2t_count >= most || task.asked >= task.wanted_out {
                return;
            }
            // Unique among open R2Ts: the slot is, and the counter tells a stale answer from a live one. The top bit
            // stays clear, so it is never the reserved tag.
            let tag = u32::from(counter & 0x7fff) << 16 | u32::from(id.slot);
            let len = burst.min(task.wanted_out.saturating_sub(task.asked));
            let r2t = R2t {
                last: true,
                lun: u64::from_be_bytes(task.lun),
                initiator_task_tag: task.tag,
                target_transfer_tag: tag,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                r2t_sn: task.r2t_sn,
                buffer_offset: task.asked,
                desired_len_bytes: len,
            };
            task.open_r2t(OpenR2t { tag, offset: task.asked, len, received: 0, data_sn: 0 });
            task.r2t_sn = task.r2t_sn.wrapping_add(1);
            task.asked = task.asked.saturating_add(len);
            self.next_r2t_tag = counter.wrapping_add(1);
            self.transmit.push(r2t.encode(), &[]);
        }
    }

    fn execute(&mut self, id: TaskId, host: &mut H) {
        self.tasks.start(id);
        let Some(task) = self.tasks.get_mut(id) else { return };
        let view = CommandView { lun: task.lun, cdb: task.cdb, offered_bytes: task.expected_out };
        let data_out = task.data_out.take();
        if let Some(completion) = host.execute(id, &view, data_out) {
            self.complete(id, completion, host);
        }
    }

    /// Ends a task with sense data.
    pub(super) fn fail(&mut self, id: TaskId, sense: Sense, host: &mut H) {
        self.complete(id, Completion::from(scsi::Response::from(sense)), host);
    }

    fn fail_busy(&mut self, id: TaskId, host: &mut H) {
        self.complete(id, Completion::from(scsi::Response::status(scsi::Status::Busy)), host);
    }
}
