//! A small initiator that does what it is told, right or wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, dead_code)]
#![allow(missing_docs, unreachable_pub, clippy::cast_possible_truncation)]

use iscsi::pdu::*;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const TARGET: &str = "iqn.2026-11.local.futago:test";
/// No answer within this is no answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Initiator {
    pub stream: TcpStream,
    pub cmd_sn: u32,
    tag: u32,
    /// Largest data segment that is sent.
    segment: usize,
}

/// The end of a command.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    pub status: u8,
    /// Key, code, qualifier.
    pub sense: [u8; 3],
    pub data: Vec<u8>,
    pub residual: u32,
}

impl Initiator {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self { stream, cmd_sn: 1, tag: 0, segment: 8192 }
    }

    /// Logs in to the test target as the initiator port `isid`.
    pub async fn login(address: SocketAddr, isid: u8) -> Self {
        Self::login_as(address, isid, "iqn.2026-11.x:i").await
    }

    /// Likewise, with a name.
    pub async fn login_as(address: SocketAddr, isid: u8, name: &str) -> Self {
        let mut initiator = Self::connect(address).await;
        let text = format!(
            "InitiatorName={name}\0TargetName={TARGET}\0InitialR2T=No\0ImmediateData=Yes\0\
             FirstBurstLength=65536\0MaxBurstLength=262144\0MaxRecvDataSegmentLength=65536\0MaxOutstandingR2T=4\0"
        );
        let response = initiator.log_in(isid, 0b0111, &text).await.unwrap().0;
        assert_eq!(response.status, 0);
        initiator.segment = 65_536;
        initiator
    }

    /// One login request; `None` when the target ends the connection instead of an answer.
    pub async fn log_in(&mut self, isid: u8, stages: u8, text: &str) -> Option<(LoginResponse, String)> {
        let request = LoginRequest {
            transit: true,
            stages,
            isid: [0x80, 0, 0, 0, 0, isid],
            initiator_task_tag: 0x1234,
            cmd_sn: self.cmd_sn,
            ..LoginRequest::default()
        };
        self.send(request.encode(), text.as_bytes()).await;
        match self.receive().await? {
            (Reply::Login(response), data) => Some((response, String::from_utf8(data).unwrap())),
            other => panic!("{other:?}"),
        }
    }

    pub async fn send(&mut self, mut bhs: Bhs, data: &[u8]) {
        set_data_len(&mut bhs, data.len());
        let mut bytes = bhs.to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len() + padding(data.len()), 0);
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The next PDU; `None` when the connection ended.
    pub async fn receive(&mut self) -> Option<(Reply, Vec<u8>)> {
        let mut bhs: Bhs = [0; BHS_BYTES];
        let read = tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut bhs)).await.expect("an answer");
        read.ok()?;
        let len = data_len(&bhs);
        let mut data = vec![0; len + padding(len)];
        self.stream.read_exact(&mut data).await.ok()?;
        data.truncate(len);
        Some((Reply::decode(&bhs).unwrap(), data))
    }

    /// Sends a command, with `data` as far as it may go unsolicited; answers its tag.
    pub async fn start(&mut self, cdb: [u8; 16], lun: u8, expected_in: u32, data: &[u8]) -> u32 {
        self.tag += 1;
        let write = !data.is_empty();
        let command = ScsiCommand {
            last: true,
            write,
            read: expected_in > 0,
            attribute: 1,
            lun: u64::from(lun) << 48,
            initiator_task_tag: self.tag,
            expected_len_bytes: if write { data.len() as u32 } else { expected_in },
            cmd_sn: self.cmd_sn,
            cdb,
            ..ScsiCommand::default()
        };
        self.cmd_sn += 1;
        let immediate = data.len().min(self.segment);
        self.send(command.encode(), &data[..immediate]).await;
        self.tag
    }

    /// Runs a command to its end.
    pub async fn run(&mut self, cdb: [u8; 16], expected_in: u32, data: &[u8]) -> Done {
        let tag = self.start(cdb, 0, expected_in, data).await;
        self.finish(tag, data).await.expect("a response")
    }

    /// Likewise, at another unit.
    pub async fn run_at(&mut self, lun: u8, cdb: [u8; 16], data: &[u8]) -> Done {
        let tag = self.start(cdb, lun, 0, data).await;
        self.finish(tag, data).await.expect("a response")
    }

    /// Serves a command until its response; `None` when the connection ended.
    pub async fn finish(&mut self, tag: u32, out: &[u8]) -> Option<Done> {
        let mut data = Vec::new();
        loop {
            match self.receive().await? {
                (Reply::R2t(r2t), _) => self.answer(&r2t, out).await,
                (Reply::DataIn(pdu), bytes) => {
                    assert_eq!((pdu.initiator_task_tag, pdu.buffer_offset as usize), (tag, data.len()));
                    data.extend(bytes);
                    if pdu.has_status {
                        return Some(Done {
                            status: pdu.status,
                            sense: [0; 3],
                            data,
                            residual: pdu.residual_bytes,
                        });
                    }
                }
                (Reply::ScsiResponse(pdu), sense) => {
                    assert_eq!(pdu.initiator_task_tag, tag);
                    let sense = if sense.len() > 15 { [sense[4] & 15, sense[14], sense[15]] } else { [0; 3] };
                    return Some(Done { status: pdu.status, sense, data, residual: pdu.residual_bytes });
                }
                other => panic!("{other:?}"),
            }
        }
    }

    async fn answer(&mut self, r2t: &R2t, out: &[u8]) {
        let begin = r2t.buffer_offset as usize;
        let wanted = &out[begin..begin + r2t.desired_len_bytes as usize];
        let count = wanted.chunks(self.segment).count();
        for (number, piece) in wanted.chunks(self.segment).enumerate() {
            let pdu = DataOut {
                last: number + 1 == count,
                initiator_task_tag: r2t.initiator_task_tag,
                target_transfer_tag: r2t.target_transfer_tag,
                data_sn: number as u32,
                buffer_offset: (begin + number * self.segment) as u32,
                ..DataOut::default()
            };
            self.send(pdu.encode(), piece).await;
        }
    }

    /// Sends a task management request.
    pub async fn manage(&mut self, function: TaskFunction, referenced: u32) {
        self.manage_at(0, function, referenced).await;
    }

    /// Likewise, for another unit.
    pub async fn manage_at(&mut self, lun: u8, function: TaskFunction, referenced: u32) {
        let request = TaskManagementRequest {
            immediate: true,
            last: true,
            function: function.code(),
            lun: u64::from(lun) << 48,
            initiator_task_tag: 0xf000,
            referenced_task_tag: referenced,
            cmd_sn: self.cmd_sn,
            ..TaskManagementRequest::default()
        };
        self.send(request.encode(), b"").await;
    }

    /// Clears the unit attention that every new session begins with.
    pub async fn ready(mut self) -> Self {
        assert_eq!(self.run([0; 16], 0, b"").await.sense, [6, 0x29, 0]);
        assert_eq!(self.run([0; 16], 0, b"").await.status, 0);
        self
    }

    /// The connection is gone: nothing more comes.
    pub async fn assert_gone(&mut self) {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("the end");
        assert!(end.is_err() || rest.is_empty(), "{rest:?}");
    }
}

/// READ(16).
pub fn read16(lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x88;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// WRITE(16).
pub fn write16(lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = read16(lba, blocks);
    cdb[0] = 0x8a;
    cdb
}

/// COMPARE AND WRITE.
pub fn compare_and_write(lba: u64, blocks: u8) -> [u8; 16] {
    let mut cdb = read16(lba, 0);
    (cdb[0], cdb[13]) = (0x89, blocks);
    cdb
}
