//! A small iSCSI initiator (RFC 7143), one command at a time, that tells exactly which command was answered and how.
//! The scenarios' checkers need that; that strangers' initiators work is shown with strangers' initiators.

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
}

impl Session {
    /// Connects and logs in as `initiator` with session qualifier `qualifier`.
    pub fn open(
        portal: SocketAddr,
        iqn: &str,
        initiator: &str,
        qualifier: u16,
        limit: Duration,
    ) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&portal, limit).context("connect")?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream, task_tag: 1, cmd_sn: 1, exp_stat_sn: 0 };
        session.login(iqn, initiator, qualifier).context("login")?;
        // The first command after a login finds the power-on unit attention.
        for _ in 0..8 {
            if session.command(&[0; 6], &[], 0)?.status == 0 {
                return Ok(session);
            }
        }
        bail!("TEST UNIT READY keeps failing")
    }

    fn login(&mut self, iqn: &str, initiator: &str, qualifier: u16) -> Result<()> {
        let text = [
            format!("InitiatorName={initiator}"),
            format!("TargetName={iqn}"),
            "SessionType=Normal".into(),
            "AuthMethod=None".into(),
            "HeaderDigest=None".into(),
            "DataDigest=None".into(),
            "InitialR2T=Yes".into(),
            "ImmediateData=Yes".into(),
            "MaxRecvDataSegmentLength=262144".into(),
            "MaxBurstLength=262144".into(),
            "FirstBurstLength=262144".into(),
            "MaxConnections=1".into(),
            "ErrorRecoveryLevel=0".into(),
        ]
        .map(|pair| pair + "\0")
        .concat();
        let mut header = [0_u8; 48];
        header[0] = 0x43;
        header[1] = 0x87; // transit, operational → full feature
        header[8] = 0x80; // ISID: random format, qualifier below
        header[12..14].copy_from_slice(&qualifier.to_be_bytes());
        header[16..20].copy_from_slice(&self.task_tag.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.send(&mut header, text.as_bytes())?;
        let (answer, _) = self.receive()?;
        if answer[0] & 0x3f != 0x23 || answer[36] != 0 {
            bail!("refused: opcode {:#x} status {:02x}{:02x}", answer[0], answer[36], answer[37]);
        }
        if answer[1] & 0x83 != 0x83 {
            bail!("target did not go to the full feature phase at once: flags {:#x}", answer[1]);
        }
        self.exp_stat_sn = word(&answer, 24).wrapping_add(1);
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

    /// One command on LUN 0: all of `data_out` as immediate data, at most `data_in_len` bytes back.
    pub fn command(&mut self, cdb: &[u8], data_out: &[u8], data_in_len: usize) -> Result<Answer> {
        let tag = self.task_tag;
        self.task_tag = self.task_tag.wrapping_add(1);
        let mut header = [0_u8; 48];
        header[0] = 0x01;
        header[1] =
            0x81 | if data_out.is_empty() { 0 } else { 0x20 } | if data_in_len == 0 { 0 } else { 0x40 };
        header[16..20].copy_from_slice(&tag.to_be_bytes());
        let expected = u32::try_from(data_out.len().max(data_in_len))?;
        header[20..24].copy_from_slice(&expected.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.send(&mut header, data_out)?;
        let mut data = Vec::with_capacity(data_in_len);
        loop {
            let (header, segment) = self.receive()?;
            match header[0] & 0x3f {
                0x20 => self.answer_ping(&header)?,
                0x21 if word(&header, 16) == tag => {
                    self.exp_stat_sn = word(&header, 24).wrapping_add(1);
                    let sense = segment.get(2..).unwrap_or_default().to_vec();
                    return Ok(Answer { status: header[3], data, sense });
                }
                0x25 if word(&header, 16) == tag => {
                    if usize::try_from(word(&header, 40))? != data.len() {
                        bail!("Data-In out of order");
                    }
                    data.extend_from_slice(&segment);
                    if header[1] & 1 != 0 {
                        self.exp_stat_sn = word(&header, 24).wrapping_add(1);
                        return Ok(Answer { status: header[3], data, sense: Vec::new() });
                    }
                }
                other => bail!("unexpected PDU {other:#x}"),
            }
        }
    }

    fn answer_ping(&mut self, ping: &[u8; 48]) -> Result<()> {
        let transfer_tag = word(ping, 20);
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

    fn receive(&mut self) -> Result<([u8; 48], Vec<u8>)> {
        let mut header = [0_u8; 48];
        self.stream.read_exact(&mut header)?;
        let len = usize::try_from(word(&header, 4) & 0x00ff_ffff)?;
        let mut segment = vec![0; len.next_multiple_of(4)];
        self.stream.read_exact(&mut segment)?;
        segment.truncate(len);
        Ok((header, segment))
    }
}

fn read_write(opcode: u8, lba: u64, len_bytes: usize) -> [u8; 16] {
    let mut cdb = [0_u8; 16];
    cdb[0] = opcode;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&u32::try_from(len_bytes / BLOCK).unwrap().to_be_bytes());
    cdb
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
