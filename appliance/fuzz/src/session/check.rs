//! What every PDU of the target must be (RFC 7143): sequence numbers, residuals, sense, Data-In and R2T rules, and the
//! tally of answers.

use super::host::LIMITS;
use super::initiator::{Initiator, Kind, Owed, Sent, pattern};
use base::crc32c;
use iscsi::pdu::{
    BHS_BYTES, Bhs, DataIn, NO_TAG, NopIn, R2t, Reject, Reply, ScsiResponse, TaskResult, data_len, padding,
};

/// `a` is before `b` on the circle (RFC 1982).
fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 0x8000_0000
}

impl Initiator {
    /// Takes every whole PDU.
    pub(super) fn take_inbox(&mut self) {
        loop {
            let Some(bhs) = self.inbox.first_chunk::<BHS_BYTES>().copied() else { return };
            let header = if self.header_digest { BHS_BYTES + 4 } else { BHS_BYTES };
            let len = data_len(&bhs);
            let padded = len + padding(len);
            let total = header + padded + if self.data_digest && len > 0 { 4 } else { 0 };
            if self.inbox.len() < total {
                return;
            }
            let pdu: Vec<u8> = self.inbox.drain(..total).collect();
            assert_eq!(bhs[4], 0, "an additional header");
            if self.header_digest {
                assert_eq!(pdu[BHS_BYTES..header], crc32c(&bhs).to_le_bytes(), "header digest");
            }
            if self.data_digest && len > 0 {
                let data = &pdu[header..header + padded];
                assert_eq!(pdu[header + padded..], crc32c(data).to_le_bytes(), "data digest");
            }
            self.check(&bhs, &pdu[header..header + len]);
        }
    }

    fn check(&mut self, bhs: &Bhs, data: &[u8]) {
        let reply = Reply::decode(bhs).expect("an opcode that no target sends");
        match &reply {
            Reply::NopIn(ping) => {
                // A ping of the target's has no number of its own.
                self.numbers(
                    ping.stat_sn,
                    ping.exp_cmd_sn,
                    ping.max_cmd_sn,
                    ping.initiator_task_tag != NO_TAG,
                );
                self.ping_of_target(ping);
            }
            Reply::ScsiResponse(response) => {
                self.numbers(response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn, true);
                self.response(response, data);
            }
            Reply::TaskManagement(response) => {
                self.numbers(response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn, true);
                self.managed(response.initiator_task_tag, response.response);
            }
            Reply::Login(response) => {
                self.numbers(response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn, true);
                assert!(response.status == 0 && response.transit && response.stages & 3 == 3, "{response:?}");
                self.logged_in = true;
            }
            Reply::Text(response) => {
                self.numbers(response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn, true);
                assert_eq!(response.last, response.target_transfer_tag == NO_TAG);
            }
            Reply::DataIn(data_in) => self.data_in(data_in, data),
            Reply::Logout(response) => {
                self.numbers(response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn, true);
            }
            Reply::R2t(r2t) => {
                self.numbers(r2t.stat_sn, r2t.exp_cmd_sn, r2t.max_cmd_sn, false);
                self.ready_to_transfer(r2t);
            }
            Reply::Async(message) => {
                self.numbers(message.stat_sn, message.exp_cmd_sn, message.max_cmd_sn, true);
            }
            Reply::Reject(reject) => {
                self.numbers(reject.stat_sn, reject.exp_cmd_sn, reject.max_cmd_sn, true);
                self.rejected(reject, data);
            }
        }
    }

    /// StatSN counts up by one; ExpCmdSN and MaxCmdSN never go back, and the window is never wider than the limit.
    fn numbers(&mut self, stat_sn: u32, exp_cmd_sn: u32, max_cmd_sn: u32, counts: bool) {
        assert_eq!(stat_sn, self.stat_sn, "StatSN");
        self.stat_sn = stat_sn.wrapping_add(u32::from(counts));
        assert!(!before(exp_cmd_sn, self.exp_cmd_sn), "ExpCmdSN went back");
        assert!(!before(max_cmd_sn, self.max_cmd_sn), "MaxCmdSN went back");
        (self.exp_cmd_sn, self.max_cmd_sn) = (exp_cmd_sn, max_cmd_sn);
        let open = max_cmd_sn.wrapping_add(1).wrapping_sub(exp_cmd_sn);
        assert!(open <= u32::from(LIMITS.tasks), "a window of {open}");
    }

    fn ping_of_target(&mut self, ping: &NopIn) {
        if ping.target_transfer_tag != NO_TAG {
            assert_eq!(ping.initiator_task_tag, NO_TAG);
            self.pinged = Some(ping.target_transfer_tag);
        }
    }

    fn find(&mut self, tag: u32) -> Option<&mut Sent> {
        self.sent.iter_mut().find(|sent| sent.tag == tag)
    }

    fn response(&mut self, response: &ScsiResponse, data: &[u8]) {
        let conflict = response.status == 0x02;
        if conflict {
            assert_eq!(usize::from(u16::from_be_bytes([data[0], data[1]])) + 2, data.len(), "sense length");
            let key = match data[2] & 0x7f {
                0x70 => data[4],
                0x72 => data[3],
                code => panic!("sense of response code {code:#x}"),
            };
            assert!(key & 0x0f != 0, "CHECK CONDITION without a sense key");
        } else {
            assert!(data.is_empty(), "data with status {:#x}", response.status);
        }
        let tag = response.initiator_task_tag;
        self.answered(tag, response.overflow, response.underflow, response.residual_bytes);
        if let Some(sent) = self.find(tag) {
            assert_eq!(response.exp_data_sn, sent.data_in_sn + sent.r2t_sn, "ExpDataSN");
        }
        self.owed.retain(|owed| owed.initiator_tag != tag);
    }

    /// The command of `tag` has its status.
    fn answered(&mut self, tag: u32, overflow: bool, underflow: bool, residual: u32) {
        let done = self.host.done.iter().find(|(done, _)| *done == tag).map_or(0, |(_, len)| *len);
        let noisy = self.noisy;
        let Some(sent) = self.sent.iter_mut().find(|sent| sent.tag == tag) else { return };
        sent.answers += 1;
        assert_eq!(sent.answers, 1, "{sent:?} answered again");
        assert!(!sent.gone, "{sent:?} answered after its abort was confirmed");
        sent.unsolicited_open = false;
        if noisy {
            return;
        }
        let moved = match sent.kind {
            Kind::Write => u64::from(sent.wanted),
            Kind::Read => done,
            // Not told by the CDB; the checks of Data-In hold.
            Kind::Inquiry | Kind::TestUnitReady => u64::from(sent.received),
        };
        let expected = u64::from(sent.expected);
        if sent.kind != Kind::Inquiry {
            assert_eq!((overflow, underflow), (moved > expected, moved < expected), "{sent:?}");
            assert_eq!(u64::from(residual), moved.abs_diff(expected), "{sent:?}");
        }
        assert!(!(overflow && underflow));
        if sent.kind == Kind::Read {
            assert_eq!(u64::from(sent.received), done.min(expected), "{sent:?}: Data-In");
        }
    }

    fn data_in(&mut self, data_in: &DataIn, data: &[u8]) {
        if data_in.has_status {
            self.numbers(data_in.stat_sn, data_in.exp_cmd_sn, data_in.max_cmd_sn, true);
            assert!(data_in.last, "status without F");
        }
        let segment = self.keys.segment.max(512) as usize;
        assert!(data.len() <= segment && !data.is_empty(), "{} bytes of Data-In", data.len());
        let burst = self.keys.burst;
        if let Some(sent) = self.find(data_in.initiator_task_tag) {
            assert_eq!(
                (data_in.data_sn, data_in.buffer_offset),
                (sent.data_in_sn, sent.received),
                "{sent:?}"
            );
            let tag = if sent.kind == Kind::Inquiry { 0 } else { sent.tag };
            let begin = sent.received as usize;
            let wrong = data.iter().enumerate().find(|(at, byte)| **byte != pattern(tag, begin + at));
            assert_eq!(wrong, None, "{sent:?}: data");
            sent.data_in_sn += 1;
            sent.received += data.len() as u32;
            assert!(sent.received <= sent.expected, "more than the initiator expects");
            assert!(sent.received % burst != 0 || data_in.last, "a burst without its F");
        }
        if data_in.has_status {
            let tag = data_in.initiator_task_tag;
            self.answered(tag, data_in.overflow, data_in.underflow, data_in.residual_bytes);
        }
    }

    fn ready_to_transfer(&mut self, r2t: &R2t) {
        assert!(r2t.target_transfer_tag != NO_TAG && r2t.desired_len_bytes > 0, "{r2t:?}");
        assert!(r2t.desired_len_bytes <= self.keys.burst, "{r2t:?} above MaxBurstLength");
        let twice = self.owed.iter().any(|owed| owed.transfer_tag == r2t.target_transfer_tag);
        let (most, noisy) = (self.keys.r2ts, self.noisy);
        if let Some(sent) = self.find(r2t.initiator_task_tag) {
            assert!(!twice, "a transfer tag that is in use");
            assert!(sent.answers == 0 && !sent.gone, "{sent:?} is asked for data after its end");
            assert_eq!(r2t.r2t_sn, sent.r2t_sn, "R2TSN");
            sent.r2t_sn += 1;
            sent.open_r2ts += 1;
            assert!(noisy || sent.open_r2ts <= most, "{} R2Ts open", sent.open_r2ts);
            assert!(r2t.buffer_offset >= sent.asked, "asked for twice: {r2t:?}");
            sent.asked = r2t.buffer_offset + r2t.desired_len_bytes;
            assert!(sent.asked <= sent.wanted.min(sent.expected), "{r2t:?} beyond the data of {sent:?}");
        }
        self.owed.push(Owed::new(r2t));
    }

    fn managed(&mut self, tag: u32, result: u8) {
        let Some(at) = self.asked.iter().position(|asked| asked.tag == tag) else { return };
        self.asked[at].answers += 1;
        assert_eq!(self.asked[at].answers, 1, "task management answered again");
        if result == TaskResult::Complete.code()
            && let Some(task) = self.asked[at].task
        {
            self.owed.retain(|owed| owed.initiator_tag != task);
            let noisy = self.noisy;
            if let Some(sent) = self.find(task) {
                sent.gone = !noisy;
                sent.unsolicited_open = false;
            }
        }
    }

    fn rejected(&mut self, reject: &Reject, data: &[u8]) {
        assert_eq!((data.len(), reject.initiator_task_tag), (BHS_BYTES, NO_TAG));
        if data[0] & 0x3f != 1 {
            return;
        }
        let tag = u32::from_be_bytes([data[16], data[17], data[18], data[19]]);
        let (noisy, discovery) = (self.noisy, self.is_discovery());
        if let Some(sent) = self.find(tag) {
            assert!(sent.immediate || noisy || discovery, "{sent:?} was within the window: {reject:?}");
            sent.rejects += 1;
            sent.unsolicited_open = false;
        }
    }

    /// At the end: each command exactly one answer, each function as well.
    pub(super) fn check_answers(&self) {
        for sent in &self.sent {
            let owed = if sent.aborted { 0..=1 } else { 1..=1 };
            assert!(owed.contains(&(sent.answers + sent.rejects)), "{sent:?}");
        }
        for asked in &self.asked {
            assert_eq!(asked.answers, 1, "{asked:?}");
        }
    }
}
