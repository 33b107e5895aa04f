//! The end of a script: the initiator does what it owes, the backend completes what it has.

use super::Initiator;
use crate::session::host::How;
use iscsi::pdu::{NO_TAG, NopOut};

impl Initiator {
    /// One round of doing what is owed; false: nothing was.
    pub(in crate::session) fn go_on(&mut self) -> bool {
        let mut any = !self.wire.is_empty() || self.machine.has_output();
        let before = self.leftover.len() + self.wire.len();
        self.deliver(usize::MAX, false);
        // What it would not take while its answers waited, it takes once they are sent.
        any |= self.leftover.len() != before;
        self.read(usize::MAX);
        if self.machine.close_reason().is_some() {
            self.wire.clear();
            any = self.machine.has_output();
        }
        while self.sent.iter().any(|sent| sent.unsolicited_open) {
            self.unsolicited(0, 0, false);
            any = true;
        }
        while !self.owed.is_empty() {
            self.solicited(0, 0, false);
            any = true;
        }
        while !self.host.seen.is_empty() {
            self.complete(0, How::Good);
            any = true;
        }
        while !self.host.to_settle.is_empty() {
            self.settle();
            any = true;
        }
        if let Some(tag) = self.pinged.take() {
            let pong = NopOut {
                immediate: true,
                last: true,
                initiator_task_tag: NO_TAG,
                target_transfer_tag: tag,
                cmd_sn: self.cmd_sn,
                ..NopOut::default()
            };
            self.send(pong.encode(), &[], 0);
            any = true;
        }
        any && !(self.machine.is_finished())
    }
}
