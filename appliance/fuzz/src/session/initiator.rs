//! The other end of the wire: sends PDUs, remembers what it owes, and takes what comes back.
//!
//! Commands that it accounts for carry tags below [`NOISE_TAG`], each used once and hidden in the CDB's LBA field; PDUs with
//! any fields have tags above, so that they never touch an accounted task except by task management.

mod owing;

use super::host::{FuzzHost, How, LIMITS, Seen};
use arbitrary::Arbitrary;
use base::{Monotonic, crc32c};
use iscsi::pdu::{
    Bhs, DataOut, LoginRequest, LogoutRequest, NO_TAG, NopOut, ScsiCommand, TaskFunction,
    TaskManagementRequest, TextRequest, padding, set_data_len,
};
use iscsi::{Connection, Scope};

/// Tags from here on belong to PDUs that are not accounted for.
const NOISE_TAG: u32 = 0x8000_0000;
/// CmdSN of the login: the numbers wrap soon.
const FIRST_CMD_SN: u32 = u32::MAX - 3;

/// The byte at `at` of the data of a command.
pub(super) fn pattern(tag: u32, at: usize) -> u8 {
    (tag as usize).wrapping_mul(31).wrapping_add(at.wrapping_mul(7)).wrapping_add(at >> 8) as u8
}

/// What kind of command.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Inquiry,
    TestUnitReady,
}

/// A command that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) tag: u32,
    pub(super) kind: Kind,
    pub(super) lun: u64,
    pub(super) immediate: bool,
    /// Bytes that the CDB moves.
    pub(super) wanted: u32,
    /// Bytes that the initiator expects to move.
    pub(super) expected: u32,
    pub(super) unsolicited_open: bool,
    unsolicited: u32,
    unsolicited_data_sn: u32,
    pub(super) answers: u32,
    pub(super) rejects: u32,
    /// An abort covers it: no answer is owed.
    pub(super) aborted: bool,
    /// Its abort was confirmed: no answer may come any more.
    pub(super) gone: bool,
    pub(super) received: u32,
    pub(super) data_in_sn: u32,
    pub(super) r2t_sn: u32,
    pub(super) asked: u32,
    pub(super) open_r2ts: usize,
}

/// What an R2T asks for.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) initiator_tag: u32,
    pub(super) transfer_tag: u32,
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) sent: u32,
    data_sn: u32,
}

/// A task management request that was sent: tag, answers, the task whose abort it asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) tag: u32,
    pub(super) answers: u32,
    pub(super) task: Option<u32>,
}

pub(super) struct Initiator {
    pub(super) machine: Connection<FuzzHost>,
    pub(super) host: FuzzHost,
    /// Bytes that are under way to the target.
    wire: Vec<u8>,
    /// Bytes that it has read and not taken.
    leftover: Vec<u8>,
    /// Bytes that came back and are no whole PDU yet.
    pub(super) inbox: Vec<u8>,
    pub(super) sent: Vec<Sent>,
    pub(super) owed: Vec<Owed>,
    pub(super) asked: Vec<Asked>,
    next_tag: u32,
    cmd_sn: u32,
    pub(super) exp_cmd_sn: u32,
    pub(super) max_cmd_sn: u32,
    pub(super) stat_sn: u32,
    pub(super) logged_in: bool,
    discovery: bool,
    /// A logout was asked for: what is sent after it need not be answered (RFC 7143 §11.14).
    logged_out: bool,
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
    pub(super) keys: Keys,
    /// The stream is not well formed any more.
    pub(super) noisy: bool,
    pub(super) expect_settled: usize,
    /// A ping of the target's waits for its answer.
    pub(super) pinged: Option<u32>,
}

/// What was negotiated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub(super) immediate: bool,
    pub(super) initial_r2t: bool,
    pub(super) first_burst: u32,
    pub(super) burst: u32,
    pub(super) segment: u32,
    pub(super) r2ts: usize,
}

impl Initiator {
    /// Connects and logs in with these keys.
    pub(super) fn log_in(text: &str, discovery: bool) -> Self {
        let offer = |key: &str| {
            let found = text.split('\0').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            found.unwrap_or_default().to_owned()
        };
        let number = |key: &str| offer(key).parse::<u32>().unwrap();
        let burst = number("MaxBurstLength");
        let keys = Keys {
            immediate: offer("ImmediateData") == "Yes",
            initial_r2t: offer("InitialR2T") == "Yes",
            first_burst: number("FirstBurstLength").min(burst),
            burst,
            segment: number("MaxRecvDataSegmentLength"),
            r2ts: (number("MaxOutstandingR2T") as usize).min(8),
        };
        let mut initiator = Self {
            machine: Connection::new(LIMITS, "10.0.0.1:3260".into(), Monotonic(0)),
            host: FuzzHost::default(),
            wire: Vec::new(),
            leftover: Vec::new(),
            inbox: Vec::new(),
            sent: Vec::new(),
            owed: Vec::new(),
            asked: Vec::new(),
            next_tag: 1,
            cmd_sn: FIRST_CMD_SN,
            exp_cmd_sn: FIRST_CMD_SN,
            max_cmd_sn: FIRST_CMD_SN.wrapping_sub(1),
            stat_sn: 1,
            logged_in: false,
            discovery,
            logged_out: false,
            header_digest: false,
            data_digest: false,
            keys,
            noisy: false,
            expect_settled: 0,
            pinged: None,
        };
        let login =
            LoginRequest { transit: true, stages: 0b0111, cmd_sn: FIRST_CMD_SN, ..LoginRequest::default() };
        initiator.send(login.encode(), text.as_bytes(), 0);
        initiator.deliver(usize::MAX, false);
        initiator.read(usize::MAX);
        assert!(initiator.logged_in);
        initiator.header_digest = offer("HeaderDigest") == "CRC32C";
        initiator.data_digest = offer("DataDigest") == "CRC32C";
        initiator
    }

    /// Puts a PDU on the wire.
    fn send(&mut self, mut bhs: Bhs, data: &[u8], ahs_words: u8) {
        set_data_len(&mut bhs, data.len());
        bhs[4] = ahs_words;
        let begin = self.wire.len();
        self.wire.extend(bhs);
        self.wire.extend(std::iter::repeat_n(0x5a, usize::from(ahs_words) * 4));
        if self.header_digest {
            let digest = crc32c(&self.wire[begin..]);
            self.wire.extend(digest.to_le_bytes());
        }
        let begin = self.wire.len();
        self.wire.extend(data);
        self.wire.extend(std::iter::repeat_n(0, padding(data.len())));
        if self.data_digest && !data.is_empty() {
            let digest = crc32c(&self.wire[begin..]);
            self.wire.extend(digest.to_le_bytes());
        }
    }

    fn new_tag(&mut self) -> u32 {
        self.next_tag += 1;
        self.next_tag
    }

    /// The window allows one more, as far as the target has told.
    fn may_send(&self) -> bool {
        self.max_cmd_sn.wrapping_sub(self.cmd_sn) < 0x8000_0000
    }

    /// CmdSN of the next request; `None`: it must not be sent now.
    fn number(&mut self, immediate: bool) -> Option<u32> {
        if !immediate && !self.may_send() {
            return None;
        }
        let number = self.cmd_sn;
        self.cmd_sn = number.wrapping_add(u32::from(!immediate));
        Some(number)
    }

    #[expect(clippy::too_many_arguments, reason = "a command has as many sides")]
    pub(super) fn command(
        &mut self,
        kind: Kind,
        immediate: bool,
        lun: u64,
        blocks: u16,
        off: i32,
        piece: u16,
        more: bool,
    ) {
        if self.sent.len() >= 200 {
            return;
        }
        let Some(cmd_sn) = self.number(immediate) else { return };
        let tag = self.new_tag();
        let blocks = if kind == Kind::Write { blocks % 1024 } else { blocks % 256 };
        let mut cdb = [0; 16];
        cdb[0] = match kind {
            Kind::Read => 0x28,
            Kind::Write => 0x2a,
            Kind::Inquiry => 0x12,
            Kind::TestUnitReady => 0,
        };
        let wanted = match kind {
            Kind::Read | Kind::Write => {
                cdb[2..6].copy_from_slice(&tag.to_be_bytes());
                cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
                u32::from(blocks) * 512
            }
            Kind::Inquiry => {
                cdb[3..5].copy_from_slice(&blocks.to_be_bytes());
                u32::from(blocks)
            }
            Kind::TestUnitReady => 0,
        };
        // Small numbers mean "just as much as the command moves".
        let off = if (-64..64).contains(&off) { 0 } else { off };
        let expected = u32::try_from((i64::from(wanted) + i64::from(off)).max(0)).unwrap();
        let write = kind == Kind::Write;
        let piece = if write { (u32::from(piece) % 4096).min(expected) } else { 0 };
        let piece = if self.keys.immediate || piece > 4000 { piece } else { 0 };
        let open = more && write && !self.keys.initial_r2t;
        let command = ScsiCommand {
            immediate,
            last: !open,
            read: !write && kind != Kind::TestUnitReady,
            write,
            attribute: 1,
            lun: lun << 48,
            initiator_task_tag: tag,
            expected_len_bytes: expected,
            cmd_sn,
            exp_stat_sn: self.stat_sn,
            cdb,
        };
        self.sent.push(Sent {
            tag,
            kind,
            lun,
            immediate,
            wanted,
            expected: if kind == Kind::TestUnitReady { 0 } else { expected },
            unsolicited_open: open,
            unsolicited: piece,
            unsolicited_data_sn: 0,
            answers: 0,
            rejects: 0,
            aborted: self.logged_out,
            gone: false,
            received: 0,
            data_in_sn: 0,
            r2t_sn: 0,
            asked: 0,
            open_r2ts: 0,
        });
        let data: Vec<u8> = (0..piece as usize).map(|at| pattern(tag, at)).collect();
        self.send(command.encode(), &data, 0);
    }

    /// Sends the next piece of an unsolicited burst; of 0 bytes: all that is left.
    pub(super) fn unsolicited(&mut self, which: usize, piece: usize, spoil: bool) {
        let first_burst = self.keys.first_burst;
        let open: Vec<usize> = (0..self.sent.len()).filter(|&at| self.sent[at].unsolicited_open).collect();
        let Some(&at) = open.get(which % open.len().max(1)) else { return };
        let sent = &mut self.sent[at];
        let left = first_burst.min(sent.expected).saturating_sub(sent.unsolicited);
        let now = if piece == 0 { left } else { left.min(piece as u32) };
        let last = now == left || piece % 7 == 6;
        let data_out = DataOut {
            last,
            lun: sent.lun << 48,
            initiator_task_tag: sent.tag,
            target_transfer_tag: NO_TAG,
            data_sn: sent.unsolicited_data_sn + u32::from(spoil),
            buffer_offset: sent.unsolicited,
            ..DataOut::default()
        };
        let begin = sent.unsolicited as usize;
        let data: Vec<u8> = (begin..begin + now as usize).map(|at| pattern(sent.tag, at)).collect();
        sent.unsolicited += now;
        sent.unsolicited_data_sn += 1;
        sent.unsolicited_open = !last;
        self.send(data_out.encode(), &data, 0);
    }

    /// Sends a piece of what an R2T asked for; of 0 bytes: all that is left.
    pub(super) fn solicited(&mut self, which: usize, piece: usize, spoil: bool) {
        if self.owed.is_empty() {
            return;
        }
        let at = which % self.owed.len();
        let owed = &mut self.owed[at];
        let left = owed.len - owed.sent;
        let now = if piece == 0 { left } else { left.min(piece as u32) };
        let last = now == left;
        let offset = owed.offset + owed.sent;
        let data_out = DataOut {
            last: last != spoil,
            initiator_task_tag: owed.initiator_tag,
            target_transfer_tag: owed.transfer_tag,
            data_sn: owed.data_sn,
            buffer_offset: offset,
            ..DataOut::default()
        };
        let begin = offset as usize;
        let data: Vec<u8> = (begin..begin + now as usize).map(|at| pattern(owed.initiator_tag, at)).collect();
        owed.sent += now;
        owed.data_sn += 1;
        let tag = owed.initiator_tag;
        if last || spoil {
            self.owed.remove(at);
            if let Some(sent) = self.sent.iter_mut().find(|sent| sent.tag == tag) {
                sent.open_r2ts = sent.open_r2ts.saturating_sub(1);
            }
        }
        self.send(data_out.encode(), &data, 0);
    }

    pub(super) fn abort_task(&mut self, which: usize) {
        if self.sent.is_empty() {
            return;
        }
        let at = which % self.sent.len();
        self.sent[at].aborted = true;
        let (task, lun) = (self.sent[at].tag, self.sent[at].lun);
        self.task_management(TaskFunction::AbortTask.code(), lun, task, Some(task));
    }

    pub(super) fn manage(&mut self, function: u8, lun: u64) {
        self.sent.iter_mut().for_each(|sent| sent.aborted = true);
        self.task_management(function, lun, NO_TAG, None);
    }

    fn task_management(&mut self, function: u8, lun: u64, referenced_task_tag: u32, task: Option<u32>) {
        let tag = self.new_tag();
        let request = TaskManagementRequest {
            immediate: true,
            last: true,
            function: function & 0x7f,
            lun: lun << 48,
            initiator_task_tag: tag,
            referenced_task_tag,
            cmd_sn: self.cmd_sn,
            ..TaskManagementRequest::default()
        };
        self.asked.push(Asked { tag, answers: 0, task });
        self.send(request.encode(), &[], 0);
    }

    pub(super) fn ping(&mut self, len: usize, immediate: bool) {
        let Some(cmd_sn) = self.number(immediate) else { return };
        let ping = NopOut {
            immediate,
            last: true,
            initiator_task_tag: NOISE_TAG,
            target_transfer_tag: NO_TAG,
            cmd_sn,
            ..NopOut::default()
        };
        let data: Vec<u8> = (0..len).map(|at| pattern(1, at)).collect();
        self.send(ping.encode(), &data, 0);
    }

    pub(super) fn text(&mut self, text: &[u8], all: bool, go_on: bool, more: bool) {
        let Some(cmd_sn) = self.number(false) else { return };
        let request = TextRequest {
            last: !more,
            more,
            initiator_task_tag: NOISE_TAG + 1,
            target_transfer_tag: if go_on { 1 } else { NO_TAG },
            cmd_sn,
            ..TextRequest::default()
        };
        let text = if all { &b"SendTargets=All\0"[..] } else { text };
        if text.windows(7).any(|window| window == b"MaxRecv") {
            // The one key that may change; what to is not followed.
            self.keys.segment = 0xff_ffff;
        }
        self.send(request.encode(), &text[..text.len().min(16_384)], 0);
    }

    pub(super) fn logout(&mut self, reason: u8) {
        let Some(cmd_sn) = self.number(false) else { return };
        self.sent.iter_mut().for_each(|sent| sent.aborted = true);
        self.logged_out = true;
        let logout = LogoutRequest {
            reason: reason % 5,
            initiator_task_tag: NOISE_TAG + 2,
            cmd_sn,
            ..LogoutRequest::default()
        };
        self.send(logout.encode(), &[], 0);
    }

    /// A header with any fields, its numbers as they must be.
    pub(super) fn any_pdu(&mut self, opcode: u8, fields: &[u8; 46], data: &[u8], ahs_words: u8) {
        let mut bhs: Bhs = [0; 48];
        bhs[0] = opcode & 0x7f;
        bhs[2..].copy_from_slice(fields);
        bhs[1] = fields[0].rotate_left(3);
        let opcode = bhs[0] & 0x3f;
        // Commands, management, text and logout, and pings have a CmdSN.
        if matches!(opcode, 0 | 1 | 2 | 4 | 6) {
            let Some(cmd_sn) = self.number(bhs[0] & 0x40 != 0) else { return };
            bhs[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
        }
        bhs[16] |= 0x80;
        match opcode {
            1 => {
                bhs[1] |= 0x80;
                // No tag in the LBA.
                bhs[34] = 0xff;
            }
            2 | 6 => {
                self.sent.iter_mut().for_each(|sent| sent.aborted = true);
                self.logged_out |= opcode == 6;
            }
            _ => {}
        }
        self.send(bhs, data, ahs_words);
    }

    pub(super) fn oversize(&mut self, opcode: u8, len: u32) {
        let mut bhs: Bhs = [0; 48];
        bhs[0] = opcode & 0x3f | 0x40;
        bhs[16] = 0x90;
        set_data_len(&mut bhs, (len | 0x8_0000) as usize & 0xff_ffff);
        self.noise(&bhs);
    }

    pub(super) fn noise(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            (self.noisy, self.host.noisy) = (true, true);
            self.wire.extend(bytes);
        }
    }

    pub(super) fn complete(&mut self, which: usize, how: How) {
        if self.host.seen.is_empty() {
            return;
        }
        let Seen { task, view, tag, .. } = self.host.seen.remove(which % self.host.seen.len());
        let (completion, len) = self.host.completion(&view, how);
        self.host.done.extend(tag.map(|tag| (tag, len)));
        self.machine.complete(task, completion, &mut self.host);
    }

    pub(super) fn settle(&mut self) {
        if let Some(management) = self.host.to_settle.pop() {
            self.machine.other_settled(management, &mut self.host);
        }
    }

    pub(super) fn aborted_by_others(&mut self, scope: Scope) {
        self.sent.iter_mut().for_each(|sent| sent.aborted = true);
        self.expect_settled += self.machine.abort(scope, 77, &mut self.host);
        self.machine.handle_room(&mut self.host);
    }

    /// So many bytes reach the target, as its driver reads them: straight into a command's buffer where it says so.
    pub(super) fn deliver(&mut self, count: usize, direct: bool) {
        if !self.machine.wants_input() {
            return;
        }
        let mut count = count.min(self.wire.len());
        if direct
            && self.leftover.is_empty()
            && let Some(window) = self.machine.direct()
        {
            let filled = window.len().min(count);
            window[..filled].copy_from_slice(&self.wire[..filled]);
            self.wire.drain(..filled);
            count -= filled;
            self.machine.handle_direct(filled);
            if count == 0 {
                let taken = self.machine.receive(&[], &mut self.host);
                assert_eq!(taken, 0);
            }
        }
        self.leftover.extend(self.wire.drain(..count));
        while !self.leftover.is_empty() {
            let taken = self.machine.receive(&self.leftover, &mut self.host);
            self.leftover.drain(..taken);
            if taken == 0 {
                let stuck = self.machine.wants_input() && self.leftover.len() >= 4096;
                assert!(!stuck, "{} bytes and nothing taken", self.leftover.len());
                break;
            }
        }
    }

    /// Reads so many bytes of what the target sends, and checks each PDU that is whole.
    pub(super) fn read(&mut self, count: usize) {
        let mut left = count;
        while left > 0 && self.machine.has_output() {
            let mut slices = [&[][..]; 8];
            let filled = self.machine.output(&mut slices);
            let there: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
            assert!(there > 0, "output that is empty");
            let before = self.inbox.len();
            slices[..filled].iter().for_each(|slice| self.inbox.extend_from_slice(slice));
            let taken = there.min(left);
            self.inbox.truncate(before + taken);
            left -= taken;
            self.machine.handle_sent(taken, &mut self.host);
        }
        self.take_inbox();
    }

    pub(super) fn is_discovery(&self) -> bool {
        self.discovery
    }
}

impl Owed {
    pub(super) fn new(r2t: &iscsi::pdu::R2t) -> Self {
        Self {
            initiator_tag: r2t.initiator_task_tag,
            transfer_tag: r2t.target_transfer_tag,
            offset: r2t.buffer_offset,
            len: r2t.desired_len_bytes,
            sent: 0,
            data_sn: 0,
        }
    }
}
