//! The envelope of every metadata record and its two places (S12, docs/ondisk.md).
//!
//! Invariants
//! - A record is 4096 bytes: header with version, kind, sequence, identity and index; body; CRC32C over all before it.
//! - It is written in the version in force, and read in every version that the release understands: [`TwoPlaces`] knows which
//!   one its places hold, so that what is left of an older one is written anew (`rewrite.rs`).
//! - It is written to one place and, when that is durable, to the other; only then does anything rely on it. The place
//!   that recovery found best is written last.

use alloc::vec::Vec;
use base::{ClusterId, NodeId, Reader, ReplicaId, Versions, VolumeId, Writer, crc32c};

use crate::api::Identity;
use crate::layout::RECORD_BYTES;
use crate::recover::OpenError;

const MAGIC: u32 = u32::from_le_bytes(*b"FtgM");
const HEADER_BYTES: usize = 64;
/// Bytes for a record's own content.
pub(crate) const BODY_BYTES: usize = RECORD_BYTES - HEADER_BYTES - 4;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Superblock,
    ActivityLog,
    BitmapPage,
}

impl Kind {
    fn code(self) -> u16 {
        match self {
            Self::Superblock => 1,
            Self::ActivityLog => 2,
            Self::BitmapPage => 3,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Superblock => "superblock",
            Self::ActivityLog => "activity log",
            Self::BitmapPage => "bitmap page",
        }
    }
}

/// Seals `body` (at most [`BODY_BYTES`]) into a record of `version`.
pub(crate) fn encode(
    identity: &Identity,
    version: u16,
    kind: Kind,
    index: u32,
    sequence: u64,
    body: &[u8],
) -> Vec<u8> {
    let mut w = Writer::with_capacity(RECORD_BYTES);
    w.u32(MAGIC).u16(version).u16(kind.code()).u64(sequence);
    w.u64(identity.cluster.0).u64(identity.volume.0).u64(identity.node.0).u64(identity.replica.0);
    w.u32(index).pad_to(HEADER_BYTES).bytes(body).pad_to(RECORD_BYTES - 4);
    let crc = crc32c(w.as_slice());
    w.u32(crc);
    w.into_vec()
}

/// What one place of a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    pub(crate) version: u16,
    pub(crate) sequence: u64,
    pub(crate) body: &'a [u8],
}

/// Opens one place of a record. `Ok(None)`: damaged.
///
/// # Errors
/// Intact, but of none of the versions `known`, or of another identity: the disk must be refused.
pub(crate) fn decode<'a>(
    known: Versions,
    identity: &Identity,
    kind: Kind,
    index: u32,
    bytes: &'a [u8],
) -> Result<Option<Place<'a>>, OpenError> {
    let Some((content, crc)) = bytes.split_last_chunk::<4>() else { return Ok(None) };
    if bytes.len() != RECORD_BYTES || crc32c(content) != u32::from_le_bytes(*crc) {
        return Ok(None);
    }
    parse(known, identity, kind, index, content).map_or(Ok(None), |parsed| parsed.map(Some))
}

/// `None` if the checksummed content is no record at all, or another one.
fn parse<'a>(
    known: Versions,
    identity: &Identity,
    kind: Kind,
    index: u32,
    content: &'a [u8],
) -> Option<Result<Place<'a>, OpenError>> {
    let mut r = Reader::new("metadata record", content);
    if r.u32().ok()? != MAGIC {
        return None;
    }
    let version = r.u16().ok()?;
    if !known.contain(version) {
        return Some(Err(OpenError::Version(version)));
    }
    let found_kind = r.u16().ok()?;
    let sequence = r.u64().ok()?;
    let found = Identity {
        cluster: ClusterId(r.u64().ok()?),
        volume: VolumeId(r.u64().ok()?),
        node: NodeId(r.u64().ok()?),
        replica: ReplicaId(r.u64().ok()?),
    };
    let other = |what| Some(Err(OpenError::Identity(what)));
    if found.cluster != identity.cluster {
        return other("cluster");
    }
    if found.volume != identity.volume {
        return other("volume");
    }
    if found.node != identity.node {
        return other("node");
    }
    if found.replica != identity.replica {
        return other("replica");
    }
    if found_kind != kind.code() || r.u32().ok()? != index {
        return None;
    }
    content.get(HEADER_BYTES..).map(|body| Ok(Place { version, sequence, body }))
}

/// The better of a record's two places: highest sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) version: u16,
    pub(crate) sequence: u64,
    pub(crate) place: u8,
    /// The other place holds the same.
    pub(crate) both: bool,
}

impl Found<'_> {
    /// A writer that goes on from here. Where only one place holds the record, it is due to be written to both.
    pub(crate) fn writer(&self) -> TwoPlaces {
        let mut writer = TwoPlaces::found(self.sequence, self.place, self.version);
        if !self.both {
            writer.touch();
        }
        writer
    }
}

/// Chooses between the two places.
///
/// # Errors
/// Both damaged, or either of an unknown version or of another identity.
pub(crate) fn choose<'a>(
    known: Versions,
    identity: &Identity,
    kind: Kind,
    index: u32,
    places: [&'a [u8]; 2],
) -> Result<Found<'a>, OpenError> {
    let [a, b] = places;
    let a = decode(known, identity, kind, index, a)?;
    let b = decode(known, identity, kind, index, b)?;
    let both = a == b;
    let found = |place, Place { version, sequence, body }| Found { body, version, sequence, place, both };
    match (a, b) {
        (Some(a), Some(b)) => Ok(if b.sequence > a.sequence { found(1, b) } else { found(0, a) }),
        (Some(a), None) => Ok(found(0, a)),
        (None, Some(b)) => Ok(found(1, b)),
        (None, None) => Err(OpenError::Damaged(kind.name())),
    }
}

/// Writes one record to its two places in turn, as often as its content changes.
#[derive(Clone, Debug)]
pub(crate) struct TwoPlaces {
    sequence: u64,
    /// Counts changes; a change is durable when `durable` has reached the count it got.
    wanted: u64,
    durable: u64,
    /// The one that the places hold.
    version: u16,
    first: u8,
    writing: Option<Writing>,
}

#[derive(Clone, Debug)]
struct Writing {
    change: u64,
    version: u16,
    second: bool,
    bytes: Vec<u8>,
}

/// What follows the completion of one place's write.
#[derive(Debug)]
pub(crate) enum Next {
    /// Write these bytes to this place.
    Write(u8, Vec<u8>),
    /// Both places hold it.
    Durable,
    /// Nothing was being written.
    Idle,
}

impl TwoPlaces {
    /// As found by recovery or written by format.
    pub(crate) fn found(sequence: u64, best_place: u8, version: u16) -> Self {
        Self { sequence, wanted: 0, durable: 0, version, first: 1 - (best_place & 1), writing: None }
    }

    /// The content has changed and shall be written. The answer is the change's number.
    pub(crate) fn touch(&mut self) -> u64 {
        self.wanted += 1;
        self.wanted
    }

    /// The number that the next change will get.
    pub(crate) fn next_change(&self) -> u64 {
        self.wanted + 1
    }

    /// The number of the last change that was asked to be written.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted
    }

    pub(crate) fn is_durable(&self, change: u64) -> bool {
        self.durable >= change
    }

    /// Asks for a write if the places hold a version before `version`. False: they do not.
    pub(crate) fn rewrite(&mut self, version: u16) -> bool {
        let older = self.version < version;
        if older && self.is_clean() {
            self.touch();
        }
        older
    }

    /// Everything asked for is durable.
    pub(crate) fn is_clean(&self) -> bool {
        self.durable == self.wanted
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Names the write that is under way, if any, among all of this record.
    pub(crate) fn write_under_way(&self) -> Option<u64> {
        let second = self.writing.as_ref()?.second;
        Some(self.sequence.wrapping_mul(2).wrapping_add(u64::from(second)))
    }

    /// A write is asked for and none runs.
    pub(crate) fn is_due(&self) -> bool {
        self.writing.is_none() && self.durable < self.wanted
    }

    /// Starts a write in `version` if one is due and none runs. `encode` gets the sequence number.
    pub(crate) fn begin(
        &mut self,
        version: u16,
        encode: impl FnOnce(u64) -> Vec<u8>,
    ) -> Option<(u8, Vec<u8>)> {
        if !self.is_due() {
            return None;
        }
        self.sequence += 1;
        let bytes = encode(self.sequence);
        self.writing = Some(Writing { change: self.wanted, version, second: false, bytes: bytes.clone() });
        Some((self.first, bytes))
    }

    /// The write to one place ended well.
    pub(crate) fn completed(&mut self) -> Next {
        match self.writing.take() {
            None => Next::Idle,
            Some(Writing { change, version, second: true, .. }) => {
                self.durable = change;
                self.version = version;
                Next::Durable
            }
            Some(Writing { change, version, second: false, bytes }) => {
                self.writing = Some(Writing { change, version, second: true, bytes: Vec::new() });
                Next::Write(1 - self.first, bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    /// A release that understands two versions.
    const KNOWN: Versions = Versions { oldest: 6, newest: 7 };

    pub(crate) fn identity() -> Identity {
        Identity { cluster: ClusterId(1), volume: VolumeId(2), node: NodeId(3), replica: ReplicaId(4) }
    }

    proptest! {
        #[test]
        fn records_survive_and_flipped_bits_do_not(
            body in prop::collection::vec(any::<u8>(), 0..=BODY_BYTES), sequence: u64, index: u32, newer: bool,
            bit in 0..RECORD_BYTES * 8
        ) {
            let version = 6 + u16::from(newer);
            let mut bytes = encode(&identity(), version, Kind::BitmapPage, index, sequence, &body);
            let read = |bytes: &[u8]| -> Result<_, OpenError> {
                let place = decode(KNOWN, &identity(), Kind::BitmapPage, index, bytes)?;
                Ok(place.map(|place| (place.version, place.sequence, place.body[..body.len()].to_vec())))
            };
            prop_assert_eq!(read(&bytes), Ok(Some((version, sequence, body.clone()))));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(read(&bytes), Ok(None));
        }
    }

    #[test]
    fn the_newer_place_wins_and_a_stranger_is_refused() {
        let me = identity();
        let old = encode(&me, 6, Kind::Superblock, 0, 7, b"old");
        let new = encode(&me, 7, Kind::Superblock, 0, 8, b"new");
        let bad = vec![0; RECORD_BYTES];
        let pick = |a: &[u8], b: &[u8]| {
            choose(KNOWN, &me, Kind::Superblock, 0, [a, b]).map(|f| (f.sequence, f.place))
        };
        assert_eq!(pick(&old, &new), Ok((8, 1)));
        assert_eq!(pick(&new, &old), Ok((8, 0)));
        assert_eq!(pick(&bad, &old), Ok((7, 1)));
        assert_eq!(pick(&bad, &bad), Err(OpenError::Damaged("superblock")));
        for (what, other) in [
            ("cluster", Identity { cluster: ClusterId(9), ..me }),
            ("volume", Identity { volume: VolumeId(9), ..me }),
            ("node", Identity { node: NodeId(9), ..me }),
            ("replica", Identity { replica: ReplicaId(9), ..me }),
        ] {
            let foreign = encode(&other, 7, Kind::Superblock, 0, 9, b"new");
            assert_eq!(pick(&old, &foreign), Err(OpenError::Identity(what)));
        }
        // A record of the right identity in the wrong place is damage.
        assert_eq!(pick(&encode(&me, 7, Kind::ActivityLog, 1, 9, b""), &old), Ok((7, 1)));
        for unknown in [5, 8] {
            let other = encode(&me, unknown, Kind::Superblock, 0, 1, b"");
            assert_eq!(pick(&new, &other), Err(OpenError::Version(unknown)));
            assert_eq!(pick(&other, &bad), Err(OpenError::Version(unknown)));
        }
    }

    #[test]
    fn changes_are_written_in_turn_and_gathered() {
        let mut record = TwoPlaces::found(5, 0, 6);
        assert!(record.begin(6, |_| vec![]).is_none());
        let first = record.touch();
        let (place, bytes) = record.begin(6, |sequence| vec![u8::try_from(sequence).unwrap()]).unwrap();
        assert_eq!((place, bytes), (1, vec![6]), "the good place is written last");
        let (second, third) = (record.touch(), record.touch());
        assert!(record.begin(6, |_| vec![]).is_none(), "one write at a time");
        assert!(matches!(record.completed(), Next::Write(0, bytes) if bytes == [6]));
        assert!(!record.is_durable(first));
        assert!(matches!(record.completed(), Next::Durable));
        assert!(record.is_durable(first) && !record.is_durable(second));
        assert!(record.begin(7, |_| vec![7]).is_some());
        record.completed();
        record.completed();
        assert!(record.is_durable(third) && record.is_clean() && !record.is_writing());
    }

    #[test]
    fn a_record_of_an_older_version_is_written_anew_once() {
        let mut record = TwoPlaces::found(5, 0, 6);
        assert!(!record.rewrite(6) && record.is_clean());
        assert!(record.rewrite(7) && record.rewrite(7));
        assert!(record.begin(7, |_| vec![]).is_some());
        record.completed();
        assert!(record.rewrite(7), "one place is still the older one");
        record.completed();
        assert!(!record.rewrite(7) && record.is_clean());
    }
}
