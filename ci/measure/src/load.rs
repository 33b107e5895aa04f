//! The load generator: an iSCSI initiator (RFC 7143) that keeps `depth` commands open on one connection.
//!
//! Invariants
//! - One receive takes what has arrived, one send hands over all commands and data that are due: the client's own cost is
//!   small and the same for all systems.
//! - Data is taken as a stream, never copied together. Every 4 KiB block begins with its own number, in what is written and
//!   in what must come back: a fast wrong answer is an error.
//! - Sending never waits while answers could be taken: no system can block the two sides against each other.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futago_e2e::tools::Random;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use crate::Workload;

/// Bytes of a basic header segment.
pub(crate) const HEADER: usize = 48;
/// What blocks are stamped by.
const STAMPED: usize = 4096;
/// What this side takes in one PDU, and most of what it sends unasked.
const SEGMENT: usize = 256 << 10;
const SLICES: usize = 64;
/// A system that is silent for so long has failed.
const SILENCE: Duration = Duration::from_secs(20);

/// What one measurement gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    pub(crate) operations: u64,
    pub(crate) latencies_us: Vec<f32>,
}

impl Outcome {
    pub(crate) fn add(&mut self, latency: Duration) {
        self.operations += 1;
        self.latencies_us.push(latency.as_secs_f32() * 1e6);
    }

    /// Latencies below which so many thousandths of the operations are, µs.
    pub(crate) fn quantiles<const N: usize>(&self, thousandths: [usize; N]) -> [f64; N] {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_by(f32::total_cmp);
        thousandths.map(|share| {
            let at = (sorted.len() * share / 1000).min(sorted.len().saturating_sub(1));
            sorted.get(at).copied().map_or(0.0, f64::from)
        })
    }
}

/// Whom to talk to.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) portal: SocketAddr,
    /// None: the raw server, which knows no login.
    pub(crate) iqn: Option<String>,
    pub(crate) lun: u8,
}

/// A command under way.
struct Slot {
    started: Instant,
    block: u64,
    received: usize,
    data: Vec<u8>,
}

enum Piece {
    Header([u8; HEADER]),
    Data { slot: usize, begin: usize, end: usize },
}

/// What was negotiated.
struct Limits {
    /// Most data in one PDU to the target.
    segment: usize,
    /// Data in a command itself.
    immediate: usize,
}

pub(crate) struct Client {
    stream: TcpStream,
    lun: u8,
    /// The raw server: no login, no sequence numbers, no content.
    raw: bool,
    limits: Limits,
    cmd_sn: u32,
    exp_stat_sn: u32,
    slots: Vec<Slot>,
    output: VecDeque<Piece>,
    /// Bytes of the first piece that have gone.
    sent: usize,
    input: Vec<u8>,
    header: [u8; HEADER],
    header_have: usize,
    /// Of the present data segment: bytes to come, padding included; bytes seen.
    data_left: usize,
    data_seen: usize,
    sense: Vec<u8>,
    random: Random,
}

/// What a loop over a load counts.
struct Progress<'a> {
    workload: &'a Workload,
    blocks: u64,
    deadline: Instant,
    outcome: Outcome,
    open: usize,
}

impl Client {
    pub(crate) fn open(address: &Address) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address.portal, SILENCE)
            .with_context(|| format!("connect to {}", address.portal))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let mut client = Self {
            stream,
            lun: address.lun,
            raw: address.iqn.is_none(),
            limits: Limits { segment: 1 << 23, immediate: 1 << 23 },
            cmd_sn: 1,
            exp_stat_sn: 0,
            slots: Vec::new(),
            output: VecDeque::new(),
            sent: 0,
            input: vec![0; 1 << 20],
            header: [0; HEADER],
            header_have: 0,
            data_left: 0,
            data_seen: 0,
            sense: Vec::new(),
            random: Random(u64::from(address.lun) + 7),
        };
        if let Some(iqn) = &address.iqn {
            client.login(iqn).context("login")?;
            client.clear_attentions()?;
        }
        Ok(client)
    }

    fn login(&mut self, iqn: &str) -> Result<()> {
        let mut text = [
            "InitiatorName=iqn.2026-11.local.futago:bench".to_owned(),
            format!("TargetName={iqn}"),
            "SessionType=Normal".into(),
            "HeaderDigest=None".into(),
            "DataDigest=None".into(),
            "InitialR2T=Yes".into(),
            "ImmediateData=Yes".into(),
            "MaxOutstandingR2T=1".into(),
            "MaxRecvDataSegmentLength=262144".into(),
            "MaxBurstLength=1048576".into(),
            "FirstBurstLength=262144".into(),
            "MaxConnections=1".into(),
            "ErrorRecoveryLevel=0".into(),
        ]
        .map(|pair| pair + "\0")
        .concat()
        .into_bytes();
        let (mut burst, mut segment, mut immediate) = (65536, 8192, true);
        for _ in 0..8 {
            let mut header = [0_u8; HEADER];
            (header[0], header[1]) = (0x43, 0x87);
            header[8] = 0x80;
            header[12..14].copy_from_slice(&[0, self.lun]);
            header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
            header[28..32].copy_from_slice(&self.exp_stat_sn.to_be_bytes());
            let (answer, keys) = self.exchange(&mut header, &text)?;
            ensure!(answer[0] & 0x3f == 0x23, "opcode {:#x}", answer[0]);
            ensure!(answer[36] == 0, "refused, status {:02x}{:02x}", answer[36], answer[37]);
            self.exp_stat_sn = word(&answer, 24).wrapping_add(1);
            for (key, value) in keys.split('\0').filter_map(|pair| pair.split_once('=')) {
                match key {
                    "FirstBurstLength" => burst = value.parse()?,
                    "MaxRecvDataSegmentLength" => segment = value.parse()?,
                    "ImmediateData" => immediate = value == "Yes",
                    _ => {}
                }
            }
            if answer[1] & 0x83 == 0x83 {
                let immediate = if immediate { segment.min(burst).min(SEGMENT) } else { 0 };
                self.limits = Limits { segment, immediate };
                return Ok(());
            }
            text.clear();
        }
        bail!("the target does not come to the full feature phase")
    }

    /// The first commands after a login find the power-on unit attention and the like.
    fn clear_attentions(&mut self) -> Result<()> {
        for _ in 0..8 {
            let mut header = self.command(0, 0x81, 0);
            let (answer, _) = self.exchange(&mut header, &[])?;
            ensure!(answer[0] & 0x3f == 0x21, "TEST UNIT READY answered by PDU {:#x}", answer[0]);
            self.exp_stat_sn = word(&answer, 24).wrapping_add(1);
            if answer[3] == 0 {
                return Ok(());
            }
        }
        bail!("TEST UNIT READY keeps failing")
    }

    /// One PDU and the next that comes, with nothing else under way.
    fn exchange(&mut self, header: &mut [u8; HEADER], data: &[u8]) -> Result<([u8; HEADER], String)> {
        use std::io::{Read, Write};
        put_u24(header, 5, data.len());
        let mut pdu = header.to_vec();
        pdu.extend_from_slice(data);
        pdu.resize(pdu.len().next_multiple_of(4), 0);
        self.stream.write_all(&pdu)?;
        let mut answer = [0; HEADER];
        self.stream.read_exact(&mut answer)?;
        let mut segment = vec![0; u24(&answer, 5).next_multiple_of(4)];
        self.stream.read_exact(&mut segment)?;
        Ok((answer, String::from_utf8_lossy(&segment).into_owned()))
    }

    /// Writes every block once, so that none of the systems reads holes.
    pub(crate) fn fill(&mut self, span_bytes: u64) -> Result<()> {
        let workload = Workload { name: "fill", write: true, bytes: 1 << 20, depth: 8 };
        let mut next = 0;
        let blocks = span_bytes / workload.bytes as u64;
        let place = |_: &mut Random, _: u64| {
            next += 1;
            next - 1
        };
        let end = |operations: u64| operations >= blocks;
        self.drive(&workload, blocks, Duration::MAX, &mut || {}, place, end).map(drop)
    }

    /// Random places for `limit`; `begin` is called right before the first command.
    pub(crate) fn run(
        &mut self,
        workload: &Workload,
        span_bytes: u64,
        limit: Duration,
        begin: &mut dyn FnMut(),
    ) -> Result<Outcome> {
        let blocks = span_bytes / workload.bytes as u64;
        self.drive(workload, blocks, limit, begin, Random::below, |_| false)
    }

    fn drive(
        &mut self,
        workload: &Workload,
        blocks: u64,
        limit: Duration,
        begin: &mut dyn FnMut(),
        mut place: impl FnMut(&mut Random, u64) -> u64,
        end: impl Fn(u64) -> bool,
    ) -> Result<Outcome> {
        let data = vec![0x5a; if workload.write { workload.bytes } else { 0 }];
        let slot = || Slot { started: Instant::now(), block: 0, received: 0, data: data.clone() };
        self.slots = std::iter::repeat_with(slot).take(workload.depth).collect();
        let mut outcome = Outcome::default();
        outcome.latencies_us.reserve(1 << 17);
        begin();
        let start = Instant::now();
        let deadline = start.checked_add(limit).unwrap_or(start + Duration::from_secs(600));
        let mut progress = Progress { workload, blocks, deadline, outcome, open: 0 };
        let mut started = 0;
        for slot in 0..workload.depth {
            self.start(&mut progress, slot, start, &mut place);
            started += 1;
        }
        while progress.open > 0 {
            self.send()?;
            let n = self.receive()?;
            let now = Instant::now();
            let input = std::mem::take(&mut self.input);
            let ended = self.take(&input[..n], &mut progress, now);
            self.input = input;
            for slot in ended? {
                if now < progress.deadline && !end(started) {
                    self.start(&mut progress, slot, now, &mut place);
                    started += 1;
                }
            }
        }
        let mut outcome = progress.outcome;
        outcome.elapsed = start.elapsed();
        Ok(outcome)
    }

    fn start(
        &mut self,
        progress: &mut Progress,
        index: usize,
        now: Instant,
        place: &mut impl FnMut(&mut Random, u64) -> u64,
    ) {
        progress.open += 1;
        let bytes = progress.workload.bytes;
        let block = place(&mut self.random, progress.blocks) % progress.blocks;
        let flags = if progress.workload.write { 0xa1 } else { 0xc1 };
        let mut header = self.command(u32::try_from(index).unwrap(), flags, bytes);
        let opcode = if progress.workload.write { 0x8a } else { 0x88 };
        let lba = block * bytes as u64 / 512;
        header[32] = opcode;
        header[34..42].copy_from_slice(&lba.to_be_bytes());
        header[42..46].copy_from_slice(&u32::try_from(bytes / 512).unwrap().to_be_bytes());
        let slot = &mut self.slots[index];
        (slot.started, slot.block, slot.received) = (now, block, 0);
        let first = block * bytes as u64 / STAMPED as u64;
        for (number, chunk) in slot.data.chunks_mut(STAMPED).enumerate() {
            chunk[..8].copy_from_slice(&stamp(first + number as u64));
        }
        let immediate = if progress.workload.write { bytes.min(self.limits.immediate) } else { 0 };
        put_u24(&mut header, 5, immediate);
        self.output.push_back(Piece::Header(header));
        if immediate > 0 {
            self.output.push_back(Piece::Data { slot: index, begin: 0, end: immediate });
        }
    }

    fn command(&mut self, tag: u32, flags: u8, bytes: usize) -> [u8; HEADER] {
        let mut header = [0_u8; HEADER];
        (header[0], header[1]) = (0x01, flags);
        header[9] = self.lun;
        header[16..20].copy_from_slice(&tag.to_be_bytes());
        header[20..24].copy_from_slice(&u32::try_from(bytes).unwrap().to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[28..32].copy_from_slice(&self.exp_stat_sn.to_be_bytes());
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        header
    }

    /// Sends as much as the socket takes at once.
    fn send(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            let mut skip = self.sent;
            for (piece, slice) in self.output.iter().zip(&mut slices) {
                let bytes: &[u8] = match piece {
                    Piece::Header(header) => header,
                    Piece::Data { slot, begin, end } => &self.slots[*slot].data[*begin..*end],
                };
                *slice = IoSlice::new(&bytes[skip..]);
                skip = 0;
                count += 1;
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let mut none = SendAncillaryBuffer::default();
            let n = match sendmsg(&self.stream, &slices[..count], &mut none, flags) {
                Ok(n) => n,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error).context("send"),
            };
            self.sent += n;
            while let Some(piece) = self.output.front() {
                let len = match piece {
                    Piece::Header(_) => HEADER,
                    Piece::Data { begin, end, .. } => end - begin,
                };
                if self.sent < len {
                    break;
                }
                self.sent -= len;
                self.output.pop_front();
            }
        }
        Ok(())
    }

    /// What has arrived; waits for it. 0: there was only room to send.
    fn receive(&mut self) -> Result<usize> {
        let mut flags = RecvFlags::empty();
        if !self.output.is_empty() {
            let mut socket = [PollFd::new(&self.stream, PollFlags::IN | PollFlags::OUT)];
            let limit = SILENCE.try_into()?;
            ensure!(poll(&mut socket, Some(&limit))? > 0, "nothing heard for {SILENCE:?}");
            flags = RecvFlags::DONTWAIT;
        }
        match recv(self.stream.as_fd(), &mut self.input[..], flags) {
            Ok((0, _)) => bail!("the target closed the connection"),
            Ok((n, _)) => Ok(n),
            Err(rustix::io::Errno::AGAIN) if flags == RecvFlags::DONTWAIT => Ok(0),
            // A profiler or debugger attached: nothing is lost.
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error).context("receive"),
        }
    }

    /// Takes received bytes in; answers the slots whose commands have ended.
    fn take(&mut self, mut bytes: &[u8], progress: &mut Progress, now: Instant) -> Result<Vec<usize>> {
        let mut ended = Vec::with_capacity(progress.workload.depth);
        loop {
            if self.header_have < HEADER {
                let take = bytes.len().min(HEADER - self.header_have);
                self.header[self.header_have..][..take].copy_from_slice(&bytes[..take]);
                self.header_have += take;
                bytes = &bytes[take..];
                if self.header_have < HEADER {
                    return Ok(ended);
                }
                self.data_left = u24(&self.header, 5).next_multiple_of(4);
                self.data_seen = 0;
                self.sense.clear();
            }
            let chunk = bytes.len().min(self.data_left);
            self.take_data(&bytes[..chunk], progress.workload)?;
            self.data_left -= chunk;
            bytes = &bytes[chunk..];
            if self.data_left > 0 {
                return Ok(ended);
            }
            self.header_have = 0;
            if let Some(slot) = self.take_pdu(progress.workload)? {
                progress.outcome.add(now - self.slots[slot].started);
                progress.open -= 1;
                ended.push(slot);
            }
        }
    }

    fn take_data(&mut self, chunk: &[u8], workload: &Workload) -> Result<()> {
        if self.header[0] & 0x3f != 0x25 {
            self.sense.extend_from_slice(chunk);
            return Ok(());
        }
        let slot = self.slots.get(word(&self.header, 16) as usize).context("Data-In with a foreign tag")?;
        let at = word(&self.header, 40) as usize + self.data_seen;
        let mut block = at.next_multiple_of(STAMPED);
        while !self.raw && block + 8 <= at + chunk.len() {
            let number = (slot.block * workload.bytes as u64 + block as u64) / STAMPED as u64;
            ensure!(chunk[block - at..][..8] == stamp(number), "block {number} holds something else");
            block += STAMPED;
        }
        self.data_seen += chunk.len();
        Ok(())
    }

    /// A whole PDU is here: the slot whose command it ends, if it ends one.
    fn take_pdu(&mut self, workload: &Workload) -> Result<Option<usize>> {
        let header = self.header;
        let tag = word(&header, 16) as usize;
        match header[0] & 0x3f {
            0x20 => self.answer_ping(),
            0x21 => {
                ensure!(header[3] == 0, "status {:#x}, sense {:02x?}", header[3], self.sense);
                let slot = self.slots.get(tag).context("response with a foreign tag")?;
                let wanted = if workload.write { 0 } else { workload.bytes };
                ensure!(slot.received >= wanted, "{} of {wanted} bytes", slot.received);
                self.exp_stat_sn = word(&header, 24).wrapping_add(1);
                return Ok(Some(tag));
            }
            0x25 => {
                let slot = self.slots.get_mut(tag).context("Data-In with a foreign tag")?;
                slot.received += u24(&header, 5);
                if header[1] & 1 != 0 {
                    ensure!(slot.received == workload.bytes, "{} bytes", slot.received);
                    self.exp_stat_sn = word(&header, 24).wrapping_add(1);
                    return Ok(Some(tag));
                }
            }
            0x31 => self.answer_r2t(tag)?,
            other => bail!("unexpected PDU {other:#x}: {header:02x?}"),
        }
        Ok(None)
    }

    fn answer_r2t(&mut self, tag: usize) -> Result<()> {
        ensure!(tag < self.slots.len(), "R2T with a foreign tag");
        let offset = word(&self.header, 40) as usize;
        let end = offset + word(&self.header, 44) as usize;
        ensure!(end <= self.slots[tag].data.len(), "R2T beyond the data");
        for (number, begin) in (offset..end).step_by(self.limits.segment).enumerate() {
            let piece_end = end.min(begin + self.limits.segment);
            let mut header = [0_u8; HEADER];
            header[0] = 0x05;
            header[1] = if piece_end == end { 0x80 } else { 0 };
            put_u24(&mut header, 5, piece_end - begin);
            header[8..16].copy_from_slice(&self.header[8..16]);
            header[16..24].copy_from_slice(&self.header[16..24]);
            header[28..32].copy_from_slice(&self.exp_stat_sn.to_be_bytes());
            header[36..40].copy_from_slice(&u32::try_from(number)?.to_be_bytes());
            header[40..44].copy_from_slice(&u32::try_from(begin)?.to_be_bytes());
            self.output.push_back(Piece::Header(header));
            self.output.push_back(Piece::Data { slot: tag, begin, end: piece_end });
        }
        Ok(())
    }

    fn answer_ping(&mut self) {
        if word(&self.header, 20) == u32::MAX {
            return;
        }
        let mut header = [0_u8; HEADER];
        (header[0], header[1]) = (0x40, 0x80);
        header[8..16].copy_from_slice(&self.header[8..16]);
        header[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        header[20..24].copy_from_slice(&self.header[20..24]);
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[28..32].copy_from_slice(&self.exp_stat_sn.to_be_bytes());
        self.output.push_back(Piece::Header(header));
    }
}

/// The first bytes of block `number`.
fn stamp(number: u64) -> [u8; 8] {
    (number ^ 0x6675_7461_676f_0000).to_le_bytes()
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Expected data transfer length.
pub(crate) fn command_bytes(header: &[u8; HEADER]) -> usize {
    word(header, 20) as usize
}

pub(crate) fn u24(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 16 | usize::from(bytes[at + 1]) << 8 | usize::from(bytes[at + 2])
}

pub(crate) fn put_u24(bytes: &mut [u8], at: usize, value: usize) {
    bytes[at..at + 3].copy_from_slice(&u32::try_from(value).unwrap().to_be_bytes()[1..]);
}
