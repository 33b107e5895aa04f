//! The allocation table of one disk: which runs of it belong to which volume.

use crate::disk::Disk;
use crate::error::{DiskError, ErrorKind};
use crate::label::DiskId;
use crate::record::{self, BLOCK_BYTES, Chosen, Sequenced, Slot, VERSIONS};
use base::{DecodeError, Reader, ReplicaId, VolumeId, Writer, crc32c};

/// Volume space is given out in multiples of this many bytes.
pub const EXTENT_BYTES: u64 = 4 << 20;
/// Where volume space begins on every disk, in bytes.
pub(crate) const SPACE_START_BYTES: u64 = 16 << 20;
/// Most runs on one disk.
pub const MAX_RUNS: usize = 1 << 16;
/// Where the two tables are, in bytes; each has 4 KiB + 4 MiB of room.
const PLACES: [u64; 2] = [2 << 20, 8 << 20];
const MAGIC: [u8; 8] = *b"FUTAGOTB";
const RUN_BYTES: usize = 64;

/// What a volume's space is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AreaKind {
    /// The replica's own records.
    Meta,
    /// Blocks of the initiators.
    Data,
}

/// One contiguous piece of a volume's area on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) volume: VolumeId,
    pub(crate) replica: ReplicaId,
    pub(crate) kind: AreaKind,
    /// The volume is being freed: none of its runs counts any more.
    pub(crate) freeing: bool,
    /// Offset within the area, in bytes.
    pub(crate) area_offset_bytes: u64,
    /// Where the area ended when the allocation that made this run was complete, in bytes.
    pub(crate) batch_end_bytes: u64,
    /// Offset on the disk, in bytes.
    pub(crate) disk_offset_bytes: u64,
    pub(crate) len_bytes: u64,
}

/// All runs of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) disk: DiskId,
    pub(crate) sequence: u64,
    /// In order of disk offset.
    pub(crate) runs: Vec<Run>,
}

impl Sequenced for Table {
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

struct Header {
    disk: DiskId,
    sequence: u64,
    count: usize,
    runs_crc: u32,
}

/// Reads the table of the disk with this id, changing nothing (S12).
pub(crate) fn load(disk: &Disk, id: DiskId) -> Result<Chosen<Table>, DiskError> {
    let slots = PLACES.map(|place| match load_copy(disk, place) {
        Ok(Slot::Valid(table, _)) if table.disk != id => {
            Slot::Damaged(format!("it is of disk {}", table.disk))
        }
        Ok(slot) => slot,
        Err(error) => Slot::Damaged(error.to_string()),
    });
    let chosen = record::choose(disk, "allocation table", slots)?;
    check(disk, &chosen.record)?;
    Ok(chosen)
}

/// Writes the bad or old copy anew, so that both hold the table.
pub(crate) fn repair(disk: &Disk, chosen: &Chosen<Table>) -> Result<(), DiskError> {
    record::repair(disk, "allocation table", PLACES, chosen, &encode(&chosen.record, chosen.version))
}

fn load_copy(disk: &Disk, place: u64) -> Result<Slot<Table>, DiskError> {
    let head = record::read(disk, place, BLOCK_BYTES)?;
    let (header, version) = match record::open(VERSIONS, "allocation table", MAGIC, &head, decode_header) {
        Slot::Valid(header, version) => (header, version),
        Slot::Blank => return Ok(Slot::Blank),
        Slot::Alien => return Ok(Slot::Alien),
        Slot::Damaged(reason) => return Ok(Slot::Damaged(reason)),
        Slot::UnknownVersion(version) => return Ok(Slot::UnknownVersion(version)),
    };
    let len_bytes = header.count * RUN_BYTES;
    let body = match len_bytes {
        0 => Vec::new(),
        len => record::read(disk, place + BLOCK_BYTES as u64, len.next_multiple_of(BLOCK_BYTES))?,
    };
    Ok(match decode_runs(&header, body.get(..len_bytes).unwrap_or_default()) {
        Ok(runs) => Slot::Valid(Table { disk: header.disk, sequence: header.sequence, runs }, version),
        Err(error) => Slot::Damaged(error.to_string()),
    })
}

/// Writes both copies in turn (S12), in `version`.
pub(crate) fn store(disk: &Disk, table: &Table, version: u16) -> Result<(), DiskError> {
    if table.runs.len() > MAX_RUNS {
        let text = format!("{}: its allocation table is full ({MAX_RUNS} runs)", disk.name());
        return Err(DiskError::new(ErrorKind::NoSpace, text));
    }
    let bytes = encode(table, version);
    PLACES.iter().try_for_each(|place| record::write(disk, *place, &bytes))
}

/// A whole table whose runs make no sense was written by a bug, not by a crash: refuse, whatever the other copy says.
fn check(disk: &Disk, table: &Table) -> Result<(), DiskError> {
    let mut free_from = SPACE_START_BYTES;
    for run in &table.runs {
        let end = run.disk_offset_bytes.checked_add(run.len_bytes);
        let whole = run.disk_offset_bytes.is_multiple_of(EXTENT_BYTES)
            && run.len_bytes.is_multiple_of(EXTENT_BYTES)
            && run.len_bytes > 0;
        match end {
            Some(end) if whole && run.disk_offset_bytes >= free_from && end <= disk.size().0 => {
                free_from = end
            }
            _ => {
                let at = run.disk_offset_bytes;
                let text =
                    format!("{}: the run at {at} overlaps another or the end of the disk", disk.name());
                return Err(DiskError::new(ErrorKind::Damaged, text));
            }
        }
    }
    Ok(())
}

fn encode(table: &Table, version: u16) -> Vec<u8> {
    let mut body = Writer::with_capacity(table.runs.len() * RUN_BYTES);
    for run in &table.runs {
        let kind = match run.kind {
            AreaKind::Meta => 1,
            AreaKind::Data => 2,
        };
        body.u64(run.volume.0).u64(run.replica.0);
        body.u8(kind).u8(u8::from(run.freeing)).bytes(&[0; 6]);
        body.u64(run.area_offset_bytes).u64(run.batch_end_bytes);
        body.u64(run.disk_offset_bytes).u64(run.len_bytes).u64(0);
    }
    let mut block = record::begin(MAGIC, version);
    block.u64(table.sequence).u64(table.disk.0);
    block.u32(u32::try_from(table.runs.len()).unwrap_or(u32::MAX)).u32(crc32c(body.as_slice()));
    let mut bytes = record::seal(block);
    bytes.extend_from_slice(body.as_slice());
    bytes
}

fn decode_header(reader: &mut Reader<'_>) -> Result<Header, DecodeError> {
    let sequence = reader.u64()?;
    let disk = DiskId(reader.u64()?);
    let count = reader.u32()? as usize;
    let runs_crc = reader.u32()?;
    if count > MAX_RUNS {
        return reader.invalid("run count");
    }
    Ok(Header { disk, sequence, count, runs_crc })
}

fn decode_runs(header: &Header, body: &[u8]) -> Result<Vec<Run>, DecodeError> {
    if crc32c(body) != header.runs_crc {
        return Err(DecodeError::Checksum("allocation table's runs"));
    }
    let mut reader = Reader::new("run", body);
    let runs = (0..header.count).map(|_| decode_run(&mut reader)).collect::<Result<Vec<_>, _>>()?;
    reader.finish()?;
    Ok(runs)
}

fn decode_run(reader: &mut Reader<'_>) -> Result<Run, DecodeError> {
    let volume = VolumeId(reader.u64()?);
    let replica = ReplicaId(reader.u64()?);
    let kind = match reader.u8()? {
        1 => AreaKind::Meta,
        2 => AreaKind::Data,
        _ => return reader.invalid("area kind"),
    };
    let freeing = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return reader.invalid("run state"),
    };
    if reader.array::<6>()? != [0; 6] {
        return reader.invalid("reserved");
    }
    let run = Run {
        volume,
        replica,
        kind,
        freeing,
        area_offset_bytes: reader.u64()?,
        batch_end_bytes: reader.u64()?,
        disk_offset_bytes: reader.u64()?,
        len_bytes: reader.u64()?,
    };
    if reader.u64()? != 0 {
        return reader.invalid("reserved");
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(count: u64) -> Table {
        let run = |i: u64| Run {
            volume: VolumeId(i + 1),
            replica: ReplicaId(i + 100),
            kind: if i.is_multiple_of(2) { AreaKind::Meta } else { AreaKind::Data },
            freeing: i.is_multiple_of(3),
            area_offset_bytes: i << 22,
            batch_end_bytes: (i + 1) << 22,
            disk_offset_bytes: (i + 4) << 22,
            len_bytes: 1 << 22,
        };
        Table { disk: DiskId(5), sequence: 9, runs: (0..count).map(run).collect() }
    }

    fn decode(bytes: &[u8]) -> Option<Table> {
        let opened = record::open(VERSIONS, "table", MAGIC, bytes, decode_header);
        let Slot::Valid(header, 1) = opened else { return None };
        let body = bytes.get(BLOCK_BYTES..BLOCK_BYTES + header.count * RUN_BYTES)?;
        let runs = decode_runs(&header, body).ok()?;
        Some(Table { disk: header.disk, sequence: header.sequence, runs })
    }

    #[test]
    fn tables_survive_encoding_up_to_the_limit() {
        for count in [0, 1, 7, MAX_RUNS as u64] {
            let bytes = encode(&sample(count), 1);
            assert!(bytes.len() <= BLOCK_BYTES + MAX_RUNS * RUN_BYTES);
            assert!(PLACES[0] + bytes.len() as u64 <= PLACES[1]);
            assert!(PLACES[1] + bytes.len() as u64 <= SPACE_START_BYTES);
            assert!(decode(&bytes) == Some(sample(count)));
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut bytes = encode(&sample(3), 1);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(decode(&bytes).is_some());
    }
}
