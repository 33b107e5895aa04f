//! A small iSCSI initiator (RFC 7143) that tells exactly which command was answered and how. Scenarios' checkers need
//! that, and those that play what a particular initiator did; that strangers' initiators work is shown with strangers'.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Bytes of a logical block.
pub const BLOCK: usize = 512;

/// A logged-in session with one connection.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    task_tag: u32,
    cmd_sn: u32,
    exp_stat_sn: u32,
    max_cmd_sn: u32,
    /// The target's answers to the keys of the login.
    pub agreed: Vec<(String, String)>,
    /// Where commands go, by number.
    pub lun: u16,
    /// Data that goes along with a command; more waits for R2Ts.
    pub immediate_bytes: usize,
    /// Data of one Data-Out PDU.
    pub data_out_bytes: usize,
    /// The target has asked for a logout.
    pub logout_requested: bool,
}

/// A SCSI command's end.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// SCSI status; 0 is GOOD.
    pub status: u8,
    /// Data-In.
    pub data: Vec<u8>,
    /// Sense data, without its length field.
    pub sense: Vec<u8>,
    /// Bytes that the command lacked (negative) or had left over.
    pub residual: i64,
}

impl Answer {
    /// Sense key, additional sense code and qualifier of fixed format sense data.
    pub fn sense_code(&self) -> Option<(u8, u8, u8)> {
        Some((self.sense.get(2)? & 0x0f, *self.sense.get(12)?, *self.sense.get(13)?))
    }
}

/// A PDU of the target.
#[derive(Debug)]
pub struct Pdu {
    pub header: [u8; 48],
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    pub fn word(&self, at: usize) -> u32 {
        word(&self.header, at)
    }
}

/// A login that the target has refused, by its status class and detail.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub u16);

impl std::fmt::Display for Refused {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "login refused with status {:#06x}", self.0)
    }
}

impl std::error::Error for Refused {}

/// What is offered at a login.
const OFFERS: [(&str, &str); 11] = [
    ("SessionType", "Normal"),
    ("AuthMethod", "None"),
    ("HeaderDigest", "None"),
    ("DataDigest", "None"),
    ("InitialR2T", "Yes"),
    ("ImmediateData", "Yes"),
    ("MaxRecvDataSegmentLength", "262144"),
    ("MaxBurstLength", "262144"),
    ("FirstBurstLength", "262144"),
    ("MaxConnections", "1"),
    ("ErrorRecoveryLevel", "0"),
];

impl Session {
    /// Connects and logs in as `initiator` with session qualifier `qualifier`.
    pub fn open(
        portal: SocketAddr,
        iqn: &str,
        initiator: &str,
        qualifier: u16,
        limit: Duration,
    ) -> Result<Self> {
        let mut session = Self::open_with(portal, iqn, initiator, qualifier, limit, &[])?;
        // The first command after a login finds the power-on unit attention.
        for _ in 0..8 {
            if session.command(&[0; 6], &[], 0)?.status == 0 {
                return Ok(session);
            }
        }
        bail!("TEST UNIT READY keeps failing")
    }

    /// The same with other offers, and no command afterwards.
    pub fn open_with(
        portal: SocketAddr,
        iqn: &str,
        initiator: &str,
        qualifier: u16,
        limit: Duration,
        keys: &[(&str, &str)],
    ) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&portal, limit).context("connect")?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        let mut session = Self {
            stream,
            task_tag: 1,
            cmd_sn: 1,
            exp_stat_sn: 0,
            max_cmd_sn: 0,
            agreed: Vec::new(),
            lun: 0,
            immediate_bytes: 262_144,
            data_out_bytes: 65_536,
            logout_requested: false,
        };
        session.login(iqn, initiator, qualifier, keys).context("login")?;
        Ok(session)
    }

    fn login(&mut self, iqn: &str, initiator: &str, qualifier: u16, keys: &[(&str, &str)]) -> Result<()> {
        let mut text = format!("InitiatorName={initiator}\0TargetName={iqn}\0");
        for (key, value) in OFFERS {
            let value = keys.iter().find(|(other, _)| *other == key).map_or(value, |(_, value)| value);
            text += &format!("{key}={value}\0");
        }
        for (key, value) in keys.iter().filter(|(key, _)| !OFFERS.iter().any(|(other, _)| other == key)) {
            text += &format!("{key}={value}\0");
        }
        let mut header = [0_u8; 48];
        header[0] = 0x43;
        header[1] = 0x87; // transit, operational → full feature
        header[8] = 0x80; // ISID: random format, qualifier below
        header[12..14].copy_from_slice(&qualifier.to_be_bytes());
        header[16..20].copy_from_slice(&self.task_tag.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.send(&mut header, text.as_bytes())?;
        let answer = self.receive()?;
        if answer.opcode() != 0x23 {
            bail!("opcode {:#x} instead of a login response", answer.header[0]);
        }
        if answer.header[36..38] != [0, 0] {
            return Err(Refused(u16::from_be_bytes([answer.header[36], answer.header[37]])).into());
        }
        if answer.header[1] & 0x83 != 0x83 {
            bail!("target did not go to the full feature phase at once: flags {:#x}", answer.header[1]);
        }
        self.exp_stat_sn = answer.word(24).wrapping_add(1);
        self.max_cmd_sn = answer.word(32);
        self.agreed = pairs(&answer.data);
        Ok(())
    }

    /// Writes whole blocks. `Ok` means acknowledged with GOOD; an error leaves the outcome unknown.
    pub fn write(&mut self, lba: u64, data: &[u8]) -> Result<()> {
        let answer = self.command(&read_write(0x8a, lba, data.len()), data, 0)?;
        if answer.status != 0 {
            bail!("WRITE(16) at {lba}: status {:#x} sense {:02x?}", answer.status, answer.sense);
        }
        Ok(())
    }

    /// Reads whole blocks.
    pub fn read(&mut self, lba: u64, len_bytes: usize) -> Result<Vec<u8>> {
        let answer = self.command(&read_write(0x88, lba, len_bytes), &[], len_bytes)?;
        if answer.status != 0 || answer.data.len() != len_bytes {
            bail!("READ(16) at {lba}: status {:#x} {} bytes", answer.status, answer.data.len());
        }
        Ok(answer.data)
    }

    /// Size of the LUN in bytes (READ CAPACITY(16)).
    pub fn capacity(&mut self) -> Result<u64> {
        let mut cdb = [0_u8; 16];
        cdb[0] = 0x9e;
        cdb[1] = 0x10;
        cdb[13] = 32;
        let answer = self.command(&cdb, &[], 32)?;
        let last = answer.data.get(..8).context("READ CAPACITY(16)")?;
        Ok((u64::from_be_bytes(last.try_into()?) + 1) * BLOCK as u64)
    }

    /// One command with `data_out`, at most `data_in_len` bytes back, and its end.
    pub fn command(&mut self, cdb: &[u8], data_out: &[u8], data_in_len: usize) -> Result<Answer> {
        let tag = self.begin(cdb, data_out, data_in_len)?;
        self.finish(tag, data_out)
    }

    /// Sends a command with what may go along of its data; [`Session::finish`] waits for its end.
    pub fn begin(&mut self, cdb: &[u8], data_out: &[u8], data_in_len: usize) -> Result<u32> {
        let tag = self.next_tag();
        let mut header = [0_u8; 48];
        header[0] = 0x01;
        header[1] =
            0x81 | if data_out.is_empty() { 0 } else { 0x20 } | if data_in_len == 0 { 0 } else { 0x40 };
        header[8..10].copy_from_slice(&self.lun.to_be_bytes());
        header[16..20].copy_from_slice(&tag.to_be_bytes());
        let expected = u32::try_from(data_out.len().max(data_in_len))?;
        header[20..24].copy_from_slice(&expected.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.send(&mut header, &data_out[..data_out.len().min(self.immediate_bytes)])?;
        Ok(tag)
    }

    /// The end of the command with `tag`; answers its R2Ts from `data_out`.
    pub fn finish(&mut self, tag: u32, data_out: &[u8]) -> Result<Answer> {
        let mut data = Vec::new();
        loop {
            let pdu = self.receive()?;
            match pdu.opcode() {
                0x20 => self.answer_ping(&pdu)?,
                0x21 if pdu.word(16) == tag => {
                    let sense = pdu.data.get(2..).unwrap_or_default().to_vec();
                    let residual = residual(&pdu);
                    return Ok(Answer { status: pdu.header[3], data, sense, residual });
                }
                0x25 if pdu.word(16) == tag => {
                    if usize::try_from(pdu.word(40))? != data.len() {
                        bail!("Data-In out of order");
                    }
                    data.extend_from_slice(&pdu.data);
                    if pdu.header[1] & 1 != 0 {
                        let residual = residual(&pdu);
                        return Ok(Answer { status: pdu.header[3], data, sense: Vec::new(), residual });
                    }
                }
                0x31 if pdu.word(16) == tag => self.send_data_out(&pdu, data_out)?,
                0x32 if pdu.header[36] == 1 => self.logout_requested = true,
                other => bail!("unexpected PDU {other:#x}"),
            }
        }
    }

    /// The burst that an R2T asks for.
    fn send_data_out(&mut self, r2t: &Pdu, data_out: &[u8]) -> Result<()> {
        let most = self.data_out_bytes;
        let (begin, len) = (usize::try_from(r2t.word(40))?, usize::try_from(r2t.word(44))?);
        let burst = data_out.get(begin..begin + len).context("an R2T beyond the data")?;
        let parts = burst.chunks(most).count();
        for (number, part) in burst.chunks(most).enumerate() {
            let mut header = [0_u8; 48];
            header[0] = 0x05;
            header[1] = if number + 1 == parts { 0x80 } else { 0 };
            header[8..24].copy_from_slice(&r2t.header[8..24]); // LUN, both tags
            header[36..40].copy_from_slice(&u32::try_from(number)?.to_be_bytes());
            header[40..44].copy_from_slice(&u32::try_from(begin + number * most)?.to_be_bytes());
            self.send(&mut header, part)?;
        }
        Ok(())
    }

    /// Sends an immediate task management request; answers its tag. Its response is a PDU 0x22.
    pub fn manage(&mut self, function: u8, referenced_tag: u32) -> Result<u32> {
        let tag = self.next_tag();
        let mut header = [0_u8; 48];
        header[0] = 0x42;
        header[1] = 0x80 | function;
        header[8..10].copy_from_slice(&self.lun.to_be_bytes());
        header[16..20].copy_from_slice(&tag.to_be_bytes());
        header[20..24].copy_from_slice(&referenced_tag.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.send(&mut header, &[])?;
        Ok(tag)
    }

    /// One text exchange; the answer's pairs.
    pub fn text(&mut self, key: &str, value: &str) -> Result<Vec<(String, String)>> {
        let mut header = [0_u8; 48];
        header[0] = 0x44; // immediate
        header[1] = 0x80;
        header[16..20].copy_from_slice(&self.next_tag().to_be_bytes());
        header[20..24].copy_from_slice(&u32::MAX.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.send(&mut header, format!("{key}={value}\0").as_bytes())?;
        let answer = self.receive()?;
        if answer.opcode() != 0x24 {
            bail!("opcode {:#x} instead of a text response", answer.opcode());
        }
        Ok(pairs(&answer.data))
    }

    /// Commands that may be sent now.
    pub fn window(&self) -> u32 {
        self.max_cmd_sn.wrapping_sub(self.cmd_sn).wrapping_add(1)
    }

    fn next_tag(&mut self) -> u32 {
        let tag = self.task_tag;
        self.task_tag = self.task_tag.wrapping_add(1);
        tag
    }

    fn answer_ping(&mut self, ping: &Pdu) -> Result<()> {
        let transfer_tag = ping.word(20);
        if transfer_tag == u32::MAX {
            return Ok(());
        }
        let mut header = [0_u8; 48];
        header[0] = 0x40; // NOP-Out, immediate
        header[1] = 0x80;
        header[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        header[20..24].copy_from_slice(&transfer_tag.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.send(&mut header, &[])
    }

    fn send(&mut self, header: &mut [u8; 48], data: &[u8]) -> Result<()> {
        header[5..8].copy_from_slice(&u32::try_from(data.len())?.to_be_bytes()[1..]);
        header[28..32].copy_from_slice(&self.exp_stat_sn.to_be_bytes());
        let mut pdu = header.to_vec();
        pdu.extend_from_slice(data);
        pdu.resize(pdu.len().next_multiple_of(4), 0);
        Ok(self.stream.write_all(&pdu)?)
    }

    /// The target's next PDU.
    pub fn receive(&mut self) -> Result<Pdu> {
        let mut header = [0_u8; 48];
        self.stream.read_exact(&mut header)?;
        let len = usize::try_from(word(&header, 4) & 0x00ff_ffff)?;
        let mut data = vec![0; len.next_multiple_of(4)];
        self.stream.read_exact(&mut data)?;
        data.truncate(len);
        let pdu = Pdu { header, data };
        if pdu.opcode() != 0x23 {
            self.max_cmd_sn = pdu.word(32);
        }
        // Each response, and the last Data-In with a status, takes a StatSN.
        let has_status = match pdu.opcode() {
            0x20 => pdu.word(16) != u32::MAX,
            0x25 => pdu.header[1] & 1 != 0,
            0x21 | 0x22 | 0x24 | 0x26 | 0x32 | 0x3f => true,
            _ => false,
        };
        if has_status {
            self.exp_stat_sn = pdu.word(24).wrapping_add(1);
        }
        Ok(pdu)
    }
}

fn residual(pdu: &Pdu) -> i64 {
    let bytes = i64::from(pdu.word(44));
    match (pdu.header[1] & 0x04 != 0, pdu.header[1] & 0x02 != 0) {
        (true, _) => -bytes,
        (_, true) => bytes,
        _ => 0,
    }
}

fn pairs(text: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(text).into_owned();
    text.split('\0')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// A CDB of READ(16), WRITE(16) or their like.
pub fn read_write(opcode: u8, lba: u64, len_bytes: usize) -> [u8; 16] {
    let mut cdb = [0_u8; 16];
    cdb[0] = opcode;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&u32::try_from(len_bytes / BLOCK).unwrap().to_be_bytes());
    cdb
}

/// COMPARE AND WRITE of one block, and its data.
pub fn compare_and_write(lba: u64, expected: &[u8], new: &[u8]) -> ([u8; 16], Vec<u8>) {
    let mut cdb = read_write(0x89, lba, 0);
    cdb[13] = 1;
    (cdb, [expected, new].concat())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
