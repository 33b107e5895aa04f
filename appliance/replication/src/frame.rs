//! Replication frames (docs/wire.md). One connection carries one session of one volume:
//! header (64 bytes), body (per kind), payload (data of the volume, only on some kinds).
//!
//! Invariants
//! - The header has a checksum of its own, so lengths are trusted before the body is read; body and payload have
//!   one each. No single corrupted frame is obeyed (I8, S17).
//! - Frames of one direction are numbered from 1; a gap, repeat or swap ends the session.
//! - Decoding is total; trailing bytes are an error.

use alloc::vec::Vec;
use base::{
    ByteCount, ClusterId, DecodeError, Epoch, InstanceId, NodeId, Reader, ReplicaId, SessionId, VolumeId,
};
use base::{Formats, Versions, Writer, crc32c};
use core::fmt;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 64;
/// Longest body.
pub const MAX_BODY_BYTES: u32 = 64 << 10;
/// Longest payload.
pub const MAX_PAYLOAD_BYTES: u32 = crate::MAX_REQUEST_BYTES;
/// What this build speaks; which of them a connection has is agreed before its first frame (docs/wire.md).
pub const VERSIONS: Versions = Formats::CURRENT.replication;

const MAGIC: u32 = u32::from_le_bytes(*b"FtgR");
const WHAT: &str = "replication frame";
/// Most runs in one [`Message::Runs`]: 12 bytes each.
pub(crate) const MAX_RUNS: usize = 4096;

/// A frame's header, decoded: enough to read the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of the frame.
    pub version: u16,
    /// Which volume.
    pub volume: VolumeId,
    /// Which session (S4).
    pub session: SessionId,
    /// The committed epoch that the sender acts in (S4).
    pub epoch: Epoch,
    /// Number of the frame in its direction, from 1.
    pub number: u64,
    /// Bytes of body that follow the header.
    pub body_len: u32,
    /// Bytes of payload that follow the body.
    pub payload_len: u32,
    /// CRC32C of the payload (S17); 0 without one.
    pub payload_crc: u32,
    kind: u16,
    body_crc: u32,
}

/// A frame without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which volume.
    pub volume: VolumeId,
    /// Which session (S4).
    pub session: SessionId,
    /// The committed epoch that the sender acts in (S4).
    pub epoch: Epoch,
    /// Number of the frame in its direction, from 1.
    pub number: u64,
    /// Bytes of payload that follow.
    pub payload_len: u32,
    /// CRC32C of the payload (S17); 0 without one.
    pub payload_crc: u32,
    /// What it says.
    pub message: Message,
}

/// Who speaks, and what its copy is. First frame of each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The cluster.
    pub cluster: ClusterId,
    /// The sender.
    pub node: NodeId,
    /// The sender's storage process (S6).
    pub instance: InstanceId,
    /// The sender's copy.
    pub replica: ReplicaId,
    /// Number of the sender's activity log (S9): the highest that it has stored.
    pub al_number: u64,
    /// The epoch in which the sender's copy was last known to be in sync (S7).
    pub data_epoch: Epoch,
    /// Size of the sender's copy.
    pub size: ByteCount,
    /// Size that the sender's copy has room for, zeroed and durable (S22).
    pub room: ByteCount,
    /// From the primary: the receiver is in the committed in-sync set. From the secondary: neither activity log nor
    /// dirty bitmap has anything that the primary does not know of.
    pub in_sync: bool,
}

/// A range of the volume, in dirty blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first block.
    pub start: u64,
    /// How many.
    pub count: u32,
}

/// Where a data message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Names the message in its answer.
    pub tag: u64,
    /// Offset in the volume, bytes; a multiple of 512.
    pub offset: u64,
    /// Length, bytes; a multiple of 512.
    pub len: u32,
    /// Number of the primary's activity log that covers the range (S9).
    pub al_number: u64,
}

/// Why a session is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseReason {
    /// The refusing side knows a higher epoch: the one in the header (S4).
    Epoch,
    /// Another cluster, volume, node, or a smaller size.
    Identity,
    /// The refusing side's copy can't be used; on an open session: not any more, it stops in order.
    Unusable,
    /// The sender is not the primary of its epoch.
    NotPrimary,
    /// The refusing side's copy does not have the size of the sender's epoch yet (S22).
    Size,
}

impl fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epoch => "it knows a higher epoch",
            Self::Identity => "cluster, volume, node or size differ",
            Self::Unusable => "its copy can't be used",
            Self::NotPrimary => "this node is not the primary of its epoch",
            Self::Size => "it has not grown yet",
        })
    }
}

/// What a frame says. P is the primary, T the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// P → T, first: opens the session.
    Hello(Greeting),
    /// T → P: the session's epoch is durable, earlier writes have ended (S4).
    HelloAck(Greeting),
    /// T → P, instead of `HelloAck`, or as T's last frame. Instead of `HelloAck` the header's epoch is the highest that T knows.
    Refuse(RefuseReason),
    /// T → P, T not in sync: blocks that P may lack or that T may have changed (S7).
    Runs {
        /// No more follow.
        last: bool,
        /// The blocks.
        runs: Vec<Run>,
    },
    /// P → T: all runs are durable in P's bitmap; T may forget them.
    RunsTaken,
    /// T → P: T is marked inconsistent, durably (S10), and has forgotten its part.
    Ready,
    /// P → T: write the payload durably.
    Write(Target),
    /// P → T: make the range read as zero, durably.
    Zero {
        /// Where.
        target: Target,
        /// The space may be given back.
        unmap: bool,
    },
    /// P → T: as `Write`, of what P holds there.
    Resync(Target),
    /// T → P: durable.
    Ack {
        /// Which message.
        tag: u64,
        /// The highest activity log number that T has stored (S9).
        al_number: u64,
    },
    /// P → T: read the range back (S11).
    Read(Target),
    /// T → P: what was read, or nothing if it can't be.
    ReadDone {
        /// Which message.
        tag: u64,
        /// The payload is the data.
        ok: bool,
    },
    /// Either way: are you there?
    Ping,
    /// The answer to `Ping`.
    Pong,
    /// T → P: T's copy now has room for this size, zeroed and durable (S22).
    Room {
        /// Which size.
        size: ByteCount,
    },
}

impl Message {
    fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => 1,
            Self::HelloAck(_) => 2,
            Self::Refuse(_) => 3,
            Self::Runs { .. } => 4,
            Self::RunsTaken => 5,
            Self::Ready => 6,
            Self::Write(_) => 7,
            Self::Zero { .. } => 8,
            Self::Resync(_) => 9,
            Self::Ack { .. } => 10,
            Self::Read(_) => 11,
            Self::ReadDone { .. } => 12,
            Self::Ping => 13,
            Self::Pong => 14,
            Self::Room { .. } => 15,
        }
    }

    /// Whether a payload follows, given its length: data messages carry exactly what they announce.
    fn payload_fits(&self, payload_len: u32) -> bool {
        match self {
            Self::Write(target) | Self::Resync(target) => payload_len == target.len && payload_len > 0,
            Self::ReadDone { ok, .. } => *ok == (payload_len > 0),
            _ => payload_len == 0,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(72);
        match self {
            Self::Hello(greeting) | Self::HelloAck(greeting) => greeting.encode(&mut w),
            Self::Refuse(reason) => {
                w.u8(match reason {
                    RefuseReason::Epoch => 1,
                    RefuseReason::Identity => 2,
                    RefuseReason::Unusable => 3,
                    RefuseReason::NotPrimary => 4,
                    RefuseReason::Size => 5,
                });
            }
            Self::Runs { last, runs } => {
                w.u8(u8::from(*last));
                for run in runs {
                    w.u64(run.start).u32(run.count);
                }
            }
            Self::Write(target) | Self::Resync(target) | Self::Read(target) => target.encode(&mut w),
            Self::Zero { target, unmap } => {
                target.encode(&mut w);
                w.u8(u8::from(*unmap));
            }
            Self::Ack { tag, al_number } => {
                w.u64(*tag).u64(*al_number);
            }
            Self::ReadDone { tag, ok } => {
                w.u64(*tag).u8(u8::from(*ok));
            }
            Self::Room { size } => {
                w.u64(size.0);
            }
            Self::RunsTaken | Self::Ready | Self::Ping | Self::Pong => {}
        }
        w.into_vec()
    }

    fn decode(kind: u16, body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(WHAT, body);
        let message = match kind {
            1 => Self::Hello(Greeting::decode(&mut r)?),
            2 => Self::HelloAck(Greeting::decode(&mut r)?),
            3 => Self::Refuse(match r.u8()? {
                1 => RefuseReason::Epoch,
                2 => RefuseReason::Identity,
                3 => RefuseReason::Unusable,
                4 => RefuseReason::NotPrimary,
                5 => RefuseReason::Size,
                _ => return r.invalid("refuse reason"),
            }),
            4 => decode_runs(&mut r)?,
            5 => Self::RunsTaken,
            6 => Self::Ready,
            7 => Self::Write(Target::decode(&mut r)?),
            8 => Self::Zero { target: Target::decode(&mut r)?, unmap: flag(&mut r)? },
            9 => Self::Resync(Target::decode(&mut r)?),
            10 => Self::Ack { tag: r.u64()?, al_number: r.u64()? },
            11 => Self::Read(Target::decode(&mut r)?),
            12 => Self::ReadDone { tag: r.u64()?, ok: flag(&mut r)? },
            13 => Self::Ping,
            14 => Self::Pong,
            15 => Self::Room { size: ByteCount(r.u64()?) },
            _ => return r.invalid("frame kind"),
        };
        r.finish()?;
        Ok(message)
    }
}

fn flag(r: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => r.invalid("flag"),
    }
}

fn decode_runs(r: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let last = flag(r)?;
    let mut runs = Vec::with_capacity((r.remaining() / 12).min(MAX_RUNS));
    while r.remaining() > 0 {
        if runs.len() == MAX_RUNS {
            return r.invalid("number of runs");
        }
        runs.push(Run { start: r.u64()?, count: r.u32()? });
    }
    Ok(Message::Runs { last, runs })
}

impl Greeting {
    fn encode(&self, w: &mut Writer) {
        w.u64(self.cluster.0).u64(self.node.0).u64(self.instance.0).u64(self.replica.0);
        w.u64(self.al_number).u64(self.data_epoch.0).u64(self.size.0);
        w.u64(self.room.0).u8(u8::from(self.in_sync));
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            cluster: ClusterId(r.u64()?),
            node: NodeId(r.u64()?),
            instance: InstanceId(r.u64()?),
            replica: ReplicaId(r.u64()?),
            al_number: r.u64()?,
            data_epoch: Epoch(r.u64()?),
            size: ByteCount(r.u64()?),
            room: ByteCount(r.u64()?),
            in_sync: flag(r)?,
        })
    }
}

impl Target {
    fn encode(&self, w: &mut Writer) {
        w.u64(self.tag).u64(self.offset).u32(self.len).u64(self.al_number);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { tag: r.u64()?, offset: r.u64()?, len: r.u32()?, al_number: r.u64()? })
    }
}

impl Header {
    /// Decodes the first [`HEADER_BYTES`] of a frame. Lengths in the answer are within the limits.
    ///
    /// # Errors
    /// Not a frame of this version, or damaged: close the connection.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(WHAT, bytes);
        let checked = r.clone().bytes(HEADER_BYTES - 4)?;
        if r.u32()? != MAGIC {
            return r.invalid("frame magic");
        }
        let version = r.u16()?;
        if !VERSIONS.contain(version) {
            return r.invalid("frame version");
        }
        let kind = r.u16()?;
        let header = Self {
            version,
            volume: VolumeId(r.u64()?),
            session: SessionId(r.u64()?),
            epoch: Epoch(r.u64()?),
            number: r.u64()?,
            body_len: r.u32()?,
            payload_len: r.u32()?,
            payload_crc: r.u32()?,
            kind,
            body_crc: r.u32()?,
        };
        let reserved = r.u32()?;
        if r.u32()? != crc32c(checked) {
            return Err(DecodeError::Checksum("frame header"));
        }
        r.finish()?;
        if reserved != 0 || header.body_len > MAX_BODY_BYTES || header.payload_len > MAX_PAYLOAD_BYTES {
            return Err(DecodeError::Value("frame length"));
        }
        Ok(header)
    }

    /// Decodes the body that followed this header.
    ///
    /// # Errors
    /// Damaged, or a kind that this version does not know: close the connection.
    pub fn decode_body(&self, body: &[u8]) -> Result<Frame, DecodeError> {
        if u32::try_from(body.len()) != Ok(self.body_len) {
            return Err(DecodeError::Short("frame body"));
        }
        if crc32c(body) != self.body_crc {
            return Err(DecodeError::Checksum("frame body"));
        }
        let message = Message::decode(self.kind, body)?;
        if !message.payload_fits(self.payload_len) {
            return Err(DecodeError::Value("payload length"));
        }
        Ok(Frame {
            volume: self.volume,
            session: self.session,
            epoch: self.epoch,
            number: self.number,
            payload_len: self.payload_len,
            payload_crc: self.payload_crc,
            message,
        })
    }
}

impl Frame {
    /// Header and body as they go over the wire, in the newest version; the payload follows them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.encode_as(VERSIONS.newest)
    }

    /// Likewise, in the version that the connection has.
    #[must_use]
    pub fn encode_as(&self, version: u16) -> Vec<u8> {
        let body = self.message.encode();
        let mut w = Writer::with_capacity(HEADER_BYTES + body.len());
        w.u32(MAGIC).u16(version).u16(self.message.kind());
        w.u64(self.volume.0).u64(self.session.0).u64(self.epoch.0).u64(self.number);
        // Bodies are bounded by MAX_RUNS, far under 4 GiB.
        w.u32(u32::try_from(body.len()).unwrap_or(u32::MAX)).u32(self.payload_len).u32(self.payload_crc);
        w.u32(crc32c(&body)).u32(0);
        let crc = crc32c(w.as_slice());
        w.u32(crc).bytes(&body);
        w.into_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn greeting() -> impl Strategy<Value = Greeting> {
        (any::<[u64; 8]>(), any::<bool>()).prop_map(|(n, in_sync)| Greeting {
            cluster: ClusterId(n[0]),
            node: NodeId(n[1]),
            instance: InstanceId(n[2]),
            replica: ReplicaId(n[3]),
            al_number: n[4],
            data_epoch: Epoch(n[5]),
            size: ByteCount(n[6]),
            room: ByteCount(n[7]),
            in_sync,
        })
    }

    fn target() -> impl Strategy<Value = Target> {
        (any::<u64>(), any::<u64>(), 1..=MAX_PAYLOAD_BYTES, any::<u64>())
            .prop_map(|(tag, offset, len, al_number)| Target { tag, offset, len, al_number })
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            greeting().prop_map(Message::Hello),
            greeting().prop_map(Message::HelloAck),
            prop::sample::select(vec![
                RefuseReason::Epoch,
                RefuseReason::Identity,
                RefuseReason::Unusable,
                RefuseReason::NotPrimary,
                RefuseReason::Size
            ])
            .prop_map(Message::Refuse),
            (any::<bool>(), prop::collection::vec((any::<u64>(), any::<u32>()), 0..20)).prop_map(
                |(last, runs)| {
                    let runs = runs.into_iter().map(|(start, count)| Run { start, count }).collect();
                    Message::Runs { last, runs }
                }
            ),
            Just(Message::RunsTaken),
            Just(Message::Ready),
            target().prop_map(Message::Write),
            (target(), any::<bool>()).prop_map(|(target, unmap)| Message::Zero { target, unmap }),
            target().prop_map(Message::Resync),
            any::<(u64, u64)>().prop_map(|(tag, al_number)| Message::Ack { tag, al_number }),
            target().prop_map(Message::Read),
            any::<u64>().prop_map(|tag| Message::ReadDone { tag, ok: false }),
            Just(Message::Ping),
            Just(Message::Pong),
            any::<u64>().prop_map(|size| Message::Room { size: ByteCount(size) }),
        ]
    }

    fn frame() -> impl Strategy<Value = Frame> {
        (message(), any::<[u64; 4]>(), any::<u32>()).prop_map(|(message, n, payload_crc)| Frame {
            volume: VolumeId(n[0]),
            session: SessionId(n[1]),
            epoch: Epoch(n[2]),
            number: n[3],
            payload_len: match &message {
                Message::Write(t) | Message::Resync(t) => t.len,
                _ => 0,
            },
            payload_crc,
            message,
        })
    }

    fn decode(bytes: &[u8]) -> Result<Frame, DecodeError> {
        let (head, body) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(DecodeError::Short(WHAT))?;
        Header::decode(head)?.decode_body(body)
    }

    proptest! {
        #[test]
        fn frames_survive_the_wire(frame in frame()) {
            prop_assert_eq!(decode(&frame.encode()), Ok(frame));
        }

        #[test]
        fn any_flipped_bit_is_detected(frame in frame(), at in any::<prop::sample::Index>()) {
            let mut bytes = frame.encode();
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_frame_has_the_version_that_was_agreed() {
        let frame = Frame {
            volume: VolumeId(1),
            session: SessionId(2),
            epoch: Epoch(3),
            number: 4,
            payload_len: 0,
            payload_crc: 0,
            message: Message::Ping,
        };
        for version in VERSIONS.descending() {
            let bytes = frame.encode_as(version);
            let header = Header::decode(bytes.first_chunk().unwrap()).unwrap();
            assert_eq!(header.version, version);
        }
        for version in [VERSIONS.oldest - 1, VERSIONS.newest + 1] {
            assert_eq!(decode(&frame.encode_as(version)), Err(DecodeError::Value("frame version")));
        }
    }

    #[test]
    fn a_frame_that_lies_about_its_payload_is_refused() {
        let target = Target { tag: 1, offset: 0, len: 4096, al_number: 0 };
        let frame = Frame {
            volume: VolumeId(1),
            session: SessionId(2),
            epoch: Epoch(3),
            number: 4,
            payload_len: 512,
            payload_crc: 0,
            message: Message::Write(target),
        };
        assert_eq!(decode(&frame.encode()), Err(DecodeError::Value("payload length")));
    }
}
