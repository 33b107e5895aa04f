//! One connection with a host that records what it is asked.

use super::super::*;
use crate::chap::Nonce;
use crate::login::Access;
use crate::pdu::*;
use alloc::rc::Rc;
use alloc::vec;
use core::cell::Cell;

/// A buffer that counts itself.
pub(super) struct Counted {
    bytes: Vec<u8>,
    live: Rc<Cell<usize>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.set(self.live.get() - self.bytes.len());
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Counted {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// A command that reached the device server.
pub(super) struct Seen {
    pub(super) task: TaskId,
    pub(super) view: CommandView,
    pub(super) data: Option<Vec<u8>>,
}

#[derive(Default)]
pub(super) struct FakeHost {
    pub(super) seen: Vec<Seen>,
    /// Answer every command GOOD at once.
    pub(super) at_once: bool,
    /// Other connections use all memory.
    pub(super) crowded: bool,
    pub(super) live: Rc<Cell<usize>>,
    pub(super) targets: usize,
    /// Tasks of other sessions that a function covers.
    pub(super) others: usize,
    pub(super) resets: Vec<TaskFunction>,
    pub(super) settled: Vec<u64>,
    pub(super) cancelled: Vec<TaskId>,
}

impl Gate for FakeHost {
    fn access(&mut self, _: &str, _: Option<&str>) -> Access {
        Access::Open
    }
    fn nonce(&mut self) -> Nonce {
        Nonce { id: 0, challenge: [0; 16] }
    }
    fn open_session(&mut self, _: &Identity) -> Result<u16, LoginStatus> {
        Ok(1)
    }
}

impl Host for FakeHost {
    type Filling = Counted;
    type Shared = Rc<[u8]>;

    fn has_room(&self, _: u64) -> bool {
        !self.crowded
    }

    fn allocate(&mut self, len_bytes: usize) -> Option<Counted> {
        self.live.set(self.live.get() + len_bytes);
        Some(Counted { bytes: vec![0; len_bytes], live: Rc::clone(&self.live) })
    }

    fn execute(
        &mut self,
        task: TaskId,
        view: &CommandView,
        data_out: Option<Counted>,
    ) -> Option<Completion<Rc<[u8]>>> {
        if self.at_once {
            return Some(Completion::from(scsi::Response::good()));
        }
        self.seen.push(Seen { task, view: *view, data: data_out.map(|data| data.bytes.clone()) });
        None
    }

    fn targets(&mut self, _: &str, visit: &mut dyn FnMut(&str)) {
        for number in 0..self.targets {
            visit(&alloc::format!("iqn.2026-11.x:{number:04}"));
        }
    }

    fn has_unit(&self, lun: [u8; 8]) -> bool {
        lun == [0; 8]
    }

    fn abort_others(&mut self, _: TaskFunction, _: [u8; 8], _: u32) -> usize {
        self.others
    }

    fn reset(&mut self, function: TaskFunction, _: [u8; 8]) {
        self.resets.push(function);
    }

    fn cancel(&mut self, task: TaskId) {
        self.cancelled.push(task);
    }

    fn settled(&mut self, token: u64) {
        self.settled.push(token);
    }
}

pub(super) struct Bench {
    pub(super) machine: Connection<FakeHost>,
    pub(super) host: FakeHost,
    /// CmdSN of the next command.
    pub(super) cmd_sn: u32,
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
}

pub(super) const LIMITS: Limits = Limits {
    tasks: 4,
    immediate_tasks: 2,
    memory_bytes: 64 << 10,
    command_bytes: 1 << 20,
    output_bytes: 64 << 10,
    login_time: Duration::from_secs(5),
    ping_after: Duration::from_secs(10),
    ping_time: Duration::from_secs(3),
};

/// Keys that ESXi offers.
pub(super) const ESXI: &str = "InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength=262144\0MaxBurstLength=262144\0MaxOutstandingR2T=8\0\
     MaxRecvDataSegmentLength=131072\0";

impl Bench {
    /// Before the login.
    pub(super) fn new() -> Self {
        Self {
            machine: Connection::new(LIMITS, "10.0.0.1:3260".into(), Monotonic(0)),
            host: FakeHost { targets: 2, ..FakeHost::default() },
            cmd_sn: 100,
            header_digest: false,
            data_digest: false,
        }
    }

    /// Logged in with these keys offered.
    pub(super) fn logged_in(keys: &str) -> Self {
        Self::login_as("TargetName=iqn.2026-11.x:0000\0", keys)
    }

    pub(super) fn discovery() -> Self {
        Self::login_as("SessionType=Discovery\0", "")
    }

    fn login_as(kind: &str, keys: &str) -> Self {
        let mut bench = Self::new();
        let text = alloc::format!("InitiatorName=iqn.2026-11.x:i\0{kind}{keys}");
        let login =
            LoginRequest { transit: true, stages: 0b0111, cmd_sn: bench.cmd_sn, ..LoginRequest::default() };
        bench.send(login.encode(), text.as_bytes());
        let replies = bench.replies();
        assert!(matches!(&replies[..], [(Reply::Login(r), _)] if r.status == 0 && r.transit), "{replies:?}");
        bench.header_digest = keys.contains("HeaderDigest=CRC32C");
        bench.data_digest = keys.contains("DataDigest=CRC32C");
        bench
    }

    /// The bytes of a PDU as an initiator sends it.
    pub(super) fn frame(&self, mut bhs: Bhs, data: &[u8]) -> Vec<u8> {
        set_data_len(&mut bhs, data.len());
        let mut bytes = bhs.to_vec();
        if self.header_digest {
            bytes.extend(crc32c::crc32c(&bhs).to_le_bytes());
        }
        let begin = bytes.len();
        bytes.extend(data);
        bytes.resize(bytes.len() + padding(data.len()), 0);
        if self.data_digest && !data.is_empty() {
            let digest = crc32c::crc32c(&bytes[begin..]);
            bytes.extend(digest.to_le_bytes());
        }
        bytes
    }

    pub(super) fn send(&mut self, bhs: Bhs, data: &[u8]) {
        let bytes = self.frame(bhs, data);
        let taken = self.machine.receive(&bytes, &mut self.host);
        assert!(taken == bytes.len() || self.machine.close_reason().is_some(), "{taken} of {}", bytes.len());
    }

    /// Sends a command with the next CmdSN.
    pub(super) fn command(&mut self, command: ScsiCommand, data: &[u8]) {
        let command = ScsiCommand { cmd_sn: self.cmd_sn, ..command };
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.send(command.encode(), data);
    }

    /// Everything that is to be sent, decoded.
    pub(super) fn replies(&mut self) -> Vec<(Reply, Vec<u8>)> {
        let mut stream = Vec::new();
        while self.machine.has_output() {
            let mut slices = [&[][..]; 8];
            let count = self.machine.output(&mut slices);
            let bytes = slices[..count].concat();
            self.machine.handle_sent(bytes.len(), &mut self.host);
            stream.extend(bytes);
        }
        self.decode(&stream)
    }

    fn decode(&self, mut stream: &[u8]) -> Vec<(Reply, Vec<u8>)> {
        let mut replies = Vec::new();
        while !stream.is_empty() {
            let bhs: Bhs = stream[..48].try_into().unwrap();
            stream = &stream[48..];
            if self.header_digest {
                assert_eq!(stream[..4], crc32c::crc32c(&bhs).to_le_bytes());
                stream = &stream[4..];
            }
            let len = data_len(&bhs);
            let padded = len + padding(len);
            let data = stream[..len].to_vec();
            if self.data_digest && len > 0 {
                assert_eq!(stream[padded..padded + 4], crc32c::crc32c(&stream[..padded]).to_le_bytes());
                stream = &stream[padded + 4..];
            } else {
                stream = &stream[padded..];
            }
            replies.push((Reply::decode(&bhs).unwrap(), data));
        }
        replies
    }

    /// Ends the oldest command that waits, with GOOD.
    pub(super) fn finish(&mut self) -> Seen {
        let seen = self.host.seen.remove(0);
        self.complete(seen.task, Completion::from(scsi::Response::good()));
        seen
    }

    pub(super) fn complete(&mut self, task: TaskId, completion: Completion<Rc<[u8]>>) {
        self.machine.complete(task, completion, &mut self.host);
    }
}

/// READ(10) of `blocks`, the initiator expecting `expected` bytes.
pub(super) fn read10(tag: u32, blocks: u8, expected: u32) -> ScsiCommand {
    let mut cdb = [0; 16];
    (cdb[0], cdb[8]) = (0x28, blocks);
    ScsiCommand {
        last: true,
        read: true,
        initiator_task_tag: tag,
        expected_len_bytes: expected,
        cdb,
        ..ScsiCommand::default()
    }
}

/// WRITE(10) of `blocks`, the initiator offering `offered` bytes.
pub(super) fn write10(tag: u32, blocks: u8, offered: u32) -> ScsiCommand {
    let mut cdb = [0; 16];
    (cdb[0], cdb[8]) = (0x2a, blocks);
    ScsiCommand {
        last: true,
        write: true,
        initiator_task_tag: tag,
        expected_len_bytes: offered,
        cdb,
        ..ScsiCommand::default()
    }
}

/// Bytes that tell their place.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at / 7 + at) & 0xff).unwrap()).collect()
}

pub(super) fn medium(bytes: &[u8]) -> Completion<Rc<[u8]>> {
    let response = scsi::Response {
        status: scsi::Status::Good,
        sense: None,
        data_in: scsi::DataIn::Medium { len_bytes: bytes.len() as u64 },
    };
    Completion { response, medium: Some(Rc::from(bytes)) }
}
