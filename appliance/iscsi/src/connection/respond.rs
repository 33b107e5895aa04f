//! From a completion to Data-In PDUs and the SCSI Response (RFC 7143 §11.4, §11.7).

use super::task::{State, Task, TaskId};
use super::{Completion, Connection, Host};
use crate::pdu::{DataIn, NO_TAG, ScsiResponse};
use scsi::DataIn as Data;

/// What was not moved, as the response tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Residual {
    overflow: bool,
    underflow: bool,
    bytes: u32,
}

impl Residual {
    /// The command moves `moved` bytes; the initiator expects `expected` (RFC 7143 §11.4.5).
    fn of(moved: u64, expected: u32) -> Self {
        let expected = u64::from(expected);
        let cut = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { overflow: moved > expected, underflow: moved < expected, bytes: cut(moved.abs_diff(expected)) }
    }
}

/// The data of a response, and what is to be sent of it.
enum Source<'a, S> {
    Shared(S),
    Bytes(&'a [u8]),
}

impl<H: Host> Connection<H> {
    /// A command is done, or its abort has settled.
    pub fn complete(&mut self, id: TaskId, completion: Completion<H::Shared>, host: &mut H) {
        let Some(mut task) = self.tasks.remove(id) else { return };
        self.tasks.waiting.retain(|&waiting| waiting != id);
        let cost = if task.admitted { task.cost_bytes } else { 0 };
        if task.state == State::Aborted {
            drop(completion);
            self.release(cost, host);
            for waiter in core::mem::take(&mut task.waiters) {
                self.tell_waiter(waiter, host);
            }
            return;
        }
        if self.dropped || !self.respond(&task, completion, cost) {
            self.release(cost, host);
        }
    }

    /// Queues the response; true: the task's memory is released when its data was sent.
    fn respond(&mut self, task: &Task<H::Filling>, completion: Completion<H::Shared>, cost: u64) -> bool {
        let Completion { response, medium } = completion;
        let data_len = response.data_in.len_bytes();
        let residual = if task.expected_out > 0 || task.command_out > 0 {
            Residual::of(task.command_out, task.expected_out)
        } else {
            Residual::of(data_len, task.expected_in)
        };
        let source = match (&response.data_in, medium) {
            (Data::Medium { .. }, Some(buffer)) => Some(Source::Shared(buffer)),
            (Data::Parameters(bytes), _) => Some(Source::Bytes(bytes)),
            (Data::Medium { .. } | Data::None, _) => None,
        };
        let len = u32::try_from(data_len).unwrap_or(u32::MAX).min(task.expected_in);
        let collapse = response.sense.is_none();
        let mut data_sn = 0;
        let mut deferred = false;
        if let Some(source) = source.filter(|_| len > 0) {
            deferred = matches!(source, Source::Shared(_));
            let status = collapse.then_some((response.status as u8, residual));
            data_sn = self.send_data_in(task, &source, len, status, cost);
            if collapse {
                return deferred;
            }
        }
        self.send_status(task, &response, residual, data_sn);
        deferred
    }

    /// Queues Data-In PDUs for the first `len` bytes; the last one carries `status` (phase collapse) and releases the
    /// memory. Answers how many there are.
    fn send_data_in(
        &mut self,
        task: &Task<H::Filling>,
        source: &Source<'_, H::Shared>,
        len: u32,
        status: Option<(u8, Residual)>,
        cost: u64,
    ) -> u32 {
        let segment = self.parameters.max_send_bytes.max(512);
        let burst = self.parameters.max_burst_bytes.max(512);
        let (exp_cmd_sn, max_cmd_sn) = self.advertise();
        let (mut offset, mut burst_left, mut data_sn) = (0_u32, burst, 0_u32);
        while offset < len {
            let left = len.saturating_sub(offset);
            let now = left.min(segment).min(burst_left);
            burst_left = burst_left.saturating_sub(now);
            let ends = now == left;
            let mut pdu = DataIn {
                last: ends || burst_left == 0,
                initiator_task_tag: task.tag,
                target_transfer_tag: NO_TAG,
                exp_cmd_sn,
                max_cmd_sn,
                data_sn,
                buffer_offset: offset,
                ..DataIn::default()
            };
            if let Some((code, residual)) = status.filter(|_| ends) {
                pdu.has_status = true;
                pdu.status = code;
                pdu.stat_sn = self.window.take_stat_sn();
                pdu.overflow = residual.overflow;
                pdu.underflow = residual.underflow;
                pdu.residual_bytes = residual.bytes;
            }
            if burst_left == 0 {
                burst_left = burst;
            }
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let size = usize::try_from(now).unwrap_or(0);
            match source {
                Source::Shared(buffer) => {
                    let release = if ends { cost } else { 0 };
                    self.transmit.push_shared(pdu.encode(), buffer.clone(), at, size, release);
                }
                Source::Bytes(bytes) => {
                    let part = bytes.get(at..at.saturating_add(size)).unwrap_or(&[]);
                    self.transmit.push(pdu.encode(), part);
                }
            }
            offset = offset.saturating_add(now);
            data_sn = data_sn.wrapping_add(1);
        }
        data_sn
    }

    fn send_status(
        &mut self,
        task: &Task<H::Filling>,
        response: &scsi::Response,
        residual: Residual,
        data_sn: u32,
    ) {
        let (exp_cmd_sn, max_cmd_sn) = self.advertise();
        let pdu = ScsiResponse {
            last: true,
            overflow: residual.overflow,
            underflow: residual.underflow,
            response: 0,
            status: response.status as u8,
            initiator_task_tag: task.tag,
            stat_sn: self.window.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            exp_data_sn: data_sn.wrapping_add(task.r2t_sn),
            residual_bytes: residual.bytes,
        };
        let mut segment = [0_u8; 2 + scsi::MAX_SENSE_BYTES];
        let sense = response.sense.as_ref().map(scsi::Sense::encode);
        let sense = sense.as_ref().map_or(&[][..], |sense| sense.as_slice());
        let used = sense.len().saturating_add(2);
        if let (Some((length, rest)), Ok(count)) =
            (segment.split_first_chunk_mut::<2>(), u16::try_from(sense.len()))
            && let Some(place) = rest.get_mut(..sense.len())
        {
            *length = count.to_be_bytes();
            place.copy_from_slice(sense);
        }
        let data = if sense.is_empty() { &[][..] } else { segment.get(..used).unwrap_or(&[]) };
        self.transmit.push(pdu.encode(), data);
    }
}

#[cfg(test)]
mod tests {
    use super::Residual;

    #[test]
    fn residuals_compare_the_command_with_the_expectation() {
        assert_eq!(Residual::of(512, 512), Residual::default());
        assert_eq!(Residual::of(512, 500), Residual { overflow: true, underflow: false, bytes: 12 });
        assert_eq!(Residual::of(0, 4), Residual { overflow: false, underflow: true, bytes: 4 });
        assert_eq!(Residual::of(u64::MAX, 0).bytes, u32::MAX);
    }
}
