//! The disk label: whose disk this is, and what a disk without one holds.
//!
//! Layout of the first 16 MiB of a labelled disk (docs/ondisk.md, "Disk label and extent pool"):
//! label at 0 and at 1 MiB, allocation table at 2 MiB and at 8 MiB, volume space from 16 MiB. All places are
//! counted from the start, so a disk may grow.

use crate::disk::{Disk, ZeroMode};
use crate::error::{DiskError, ErrorKind};
use crate::record::{self, BLOCK_BYTES, Chosen, Sequenced, Slot, VERSIONS};
use crate::table::SPACE_START_BYTES;
use base::{ClusterId, DecodeError, NodeId, Reader};
use std::fmt;

/// Where the two labels are, in bytes.
const PLACES: [u64; 2] = [0, 1 << 20];
const MAGIC: [u8; 8] = *b"FUTAGO\0\0";
/// What must be zero for a disk to count as blank, in bytes from its start.
const BLANK_BYTES: usize = 1 << 20;
/// Most disks that one pool may have.
pub(crate) const MAX_MEMBERS: usize = 256;

/// One disk, drawn at random when it is labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub u64);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl DiskId {
    pub(crate) fn draw() -> Result<Self, DiskError> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)
            .map_err(|e| DiskError::new(ErrorKind::System, "draw a disk id").with_source(io_error(e)))?;
        // Zero means "none".
        Ok(Self(u64::from_le_bytes(bytes).max(1)))
    }
}

fn io_error(error: getrandom::Error) -> std::io::Error {
    std::io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Who owns a disk. Zero ids: the node is in no cluster yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

/// A disk label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Raised by one with every write.
    pub sequence: u64,
    /// Whose disk.
    pub identity: Identity,
    /// Which disk.
    pub disk: DiskId,
    /// All disks of the pool, this one included, in order of joining.
    pub members: Vec<DiskId>,
}

impl Sequenced for Label {
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// What a disk holds.
#[derive(Debug)]
pub enum Content {
    /// Zeroes in its first MiB: may be labelled.
    Blank,
    /// Something that is not ours; the text says what.
    Foreign(&'static str),
    /// A Futago disk.
    Labelled(Label),
}

/// Looks at a disk, changing nothing. An error if it was ours and can't be used any more: damaged, unknown version.
pub fn inspect(disk: &Disk) -> Result<Content, DiskError> {
    Ok(match examine(disk)? {
        Examined::Blank => Content::Blank,
        Examined::Foreign(what) => Content::Foreign(what),
        Examined::Labelled(chosen) => Content::Labelled(chosen.record),
    })
}

enum Examined {
    Blank,
    Foreign(&'static str),
    Labelled(Chosen<Label>),
}

fn examine(disk: &Disk) -> Result<Examined, DiskError> {
    let room = disk.size().0;
    if room < PLACES[1] + BLOCK_BYTES as u64 {
        return Err(DiskError::new(
            ErrorKind::Invalid,
            format!("{}: {} are too small for a data disk", disk.name(), disk.size()),
        ));
    }
    // An unreadable place is a bad copy, not the end: the other may be whole.
    let first = record::read(disk, PLACES[0], BLANK_BYTES);
    let second = record::read(disk, PLACES[1], BLOCK_BYTES);
    let slot = |read: &Result<Vec<u8>, DiskError>| match read {
        Ok(bytes) => {
            let block = bytes.get(..BLOCK_BYTES).unwrap_or_default();
            record::open(VERSIONS, "label", MAGIC, block, decode)
        }
        Err(error) => Slot::Damaged(error.to_string()),
    };
    let slots = [slot(&first), slot(&second)];
    if let (Err(error), Err(_)) = (first.as_ref().map(Vec::len), second.as_ref()) {
        let text = format!("{}: neither copy of the label can be read", disk.name());
        return Err(DiskError::new(error.kind(), text));
    }
    let start = first.as_deref().unwrap_or_default();
    // A partition table or file system written over the first copy is another owner's, not damage: the second
    // copy must not be used to "repair" it away.
    if slots[0] == Slot::Alien
        && let Some(what) = recognise(start)
    {
        return Ok(Examined::Foreign(what));
    }
    match &slots {
        [Slot::Blank, Slot::Blank] if start.iter().all(|byte| *byte == 0) => Ok(Examined::Blank),
        [Slot::Blank, Slot::Blank] => Ok(Examined::Foreign(recognise(start).unwrap_or("unknown data"))),
        [Slot::Blank | Slot::Alien, Slot::Blank | Slot::Alien] => Ok(Examined::Foreign("unknown data")),
        _ => record::choose(disk, "label", slots).map(Examined::Labelled),
    }
}

/// Reads a disk's label for `owner`, changing nothing. Refuses (S12) a disk that is blank, foreign, damaged, of an
/// unknown version, or another cluster's or node's.
pub(crate) fn load(disk: &Disk, owner: Identity) -> Result<Chosen<Label>, DiskError> {
    let refuse = |kind, reason: String| Err(DiskError::new(kind, format!("{}: {reason}", disk.name())));
    let chosen = match examine(disk)? {
        Examined::Labelled(chosen) => chosen,
        Examined::Blank => return refuse(ErrorKind::Blank, "the disk has no label".into()),
        Examined::Foreign(what) => return refuse(ErrorKind::Foreign, format!("the disk holds {what}")),
    };
    let Identity { cluster, node } = chosen.record.identity;
    if cluster.0 != 0 && cluster != owner.cluster {
        let text = format!("the disk belongs to cluster {cluster}; this node is in {}", owner.cluster);
        return refuse(ErrorKind::Foreign, text);
    }
    if node.0 != 0 && node != owner.node {
        let text = format!("the disk belongs to node {node}; this node is {}", owner.node);
        return refuse(ErrorKind::Foreign, text);
    }
    Ok(chosen)
}

/// Makes a disk blank that is labelled for `node`: labels and tables are zeroed, what the volumes held is not. A disk that is
/// blank already is fine.
///
/// # Errors
/// [`ErrorKind::Foreign`] for what is labelled for another node or holds something else; the disk is not changed then.
pub fn forget(disk: &Disk, node: NodeId) -> Result<(), DiskError> {
    let refuse =
        |reason: String| Err(DiskError::new(ErrorKind::Foreign, format!("{}: {reason}", disk.name())));
    match inspect(disk)? {
        Content::Blank => return Ok(()),
        Content::Foreign(what) => return refuse(format!("the disk holds {what}")),
        Content::Labelled(label) if label.identity.node != node => {
            return refuse(format!("the disk belongs to node {}", label.identity.node));
        }
        Content::Labelled(_) => {}
    }
    disk.zero_blocking(0, SPACE_START_BYTES, ZeroMode::Keep)?;
    disk.flush_blocking()
}

/// Writes the bad or old copy anew, so that both hold the label.
pub(crate) fn repair(disk: &Disk, chosen: &Chosen<Label>) -> Result<(), DiskError> {
    record::repair(disk, "label", PLACES, chosen, &encode(&chosen.record, chosen.version))
}

/// Writes both copies in turn (S12), in `version`.
pub(crate) fn store(disk: &Disk, label: &Label, version: u16) -> Result<(), DiskError> {
    let bytes = encode(label, version);
    PLACES.iter().try_for_each(|place| record::write(disk, *place, &bytes))
}

fn encode(label: &Label, version: u16) -> Vec<u8> {
    let mut block = record::begin(MAGIC, version);
    block.u64(label.sequence).u64(label.identity.cluster.0).u64(label.identity.node.0).u64(label.disk.0);
    block.u32(u32::try_from(label.members.len()).unwrap_or(u32::MAX)).u32(0);
    for member in &label.members {
        block.u64(member.0);
    }
    record::seal(block)
}

fn decode(reader: &mut Reader<'_>) -> Result<Label, DecodeError> {
    let sequence = reader.u64()?;
    let identity = Identity { cluster: ClusterId(reader.u64()?), node: NodeId(reader.u64()?) };
    let disk = DiskId(reader.u64()?);
    let count = reader.u32()? as usize;
    if reader.u32()? != 0 {
        return reader.invalid("reserved");
    }
    if count == 0 || count > MAX_MEMBERS {
        return reader.invalid("member count");
    }
    let members = (0..count).map(|_| reader.u64().map(DiskId)).collect::<Result<Vec<_>, _>>()?;
    if disk.0 == 0 || !members.contains(&disk) {
        return reader.invalid("disk id");
    }
    Ok(Label { sequence, identity, disk, members })
}

/// Names well-known owners of a disk by their signatures (offset in bytes, bytes, name).
fn recognise(start: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(usize, &[u8], &str); 12] = [
        (512, b"EFI PART", "a GPT partition table"),
        (4096, b"EFI PART", "a GPT partition table"),
        (0, b"XFSB", "an XFS file system"),
        (0, b"LUKS\xba\xbe", "a LUKS volume"),
        (512, b"LABELONE", "an LVM physical volume"),
        (1080, b"\x53\xef", "an ext file system"),
        (4096, b"\xfc\x4e\x2b\xa9", "a Linux RAID member"),
        (4086, b"SWAPSPACE2", "swap space"),
        (0x10040, b"_BHRfS_M", "a btrfs file system"),
        (3, b"NTFS    ", "an NTFS file system"),
        (32769, b"CD001", "an ISO 9660 image"),
        (510, b"\x55\xaa", "a boot sector or MBR partition table"),
    ];
    SIGNATURES
        .iter()
        .find(|(offset, bytes, _)| start.get(*offset..).is_some_and(|rest| rest.starts_with(bytes)))
        .map(|(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found() {
        let label = Label {
            sequence: 3,
            identity: Identity { cluster: ClusterId(1), node: NodeId(2) },
            disk: DiskId(7),
            members: vec![DiskId(6), DiskId(7)],
        };
        let mut bytes = encode(&label, 1);
        assert_eq!(record::open(VERSIONS, "label", MAGIC, &bytes, decode), Slot::Valid(label, 1));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = record::open(VERSIONS, "label", MAGIC, &bytes, decode);
            assert!(matches!(found, Slot::Damaged(_) | Slot::Alien), "bit {bit}: {found:?}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_label_that_is_whole_but_makes_no_sense_is_damaged() {
        let sane =
            Label { sequence: 1, identity: Identity::default(), disk: DiskId(7), members: vec![DiskId(7)] };
        for label in [
            Label { disk: DiskId(0), members: vec![DiskId(0)], ..sane.clone() },
            Label { members: vec![DiskId(8)], ..sane.clone() },
            Label { members: Vec::new(), ..sane.clone() },
            Label { members: vec![DiskId(7); MAX_MEMBERS + 1], ..sane },
        ] {
            let found = record::open(VERSIONS, "label", MAGIC, &encode(&label, 1), decode);
            assert!(matches!(found, Slot::Damaged(_)));
        }
    }
    #[test]
    fn a_label_is_read_in_every_version_that_is_understood_and_in_no_other() {
        let known = base::Versions { oldest: 6, newest: 7 };
        let label =
            Label { sequence: 1, identity: Identity::default(), disk: DiskId(7), members: vec![DiskId(7)] };
        let open = |version| record::open(known, "label", MAGIC, &encode(&label, version), decode);
        for version in known.descending() {
            assert_eq!(open(version), Slot::Valid(label.clone(), version));
        }
        for version in [5, 8] {
            assert_eq!(open(version), Slot::UnknownVersion(version.into()));
        }
    }
}
