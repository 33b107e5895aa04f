//! The parts of the format: header, descriptor, markers.

use std::fmt::Write;

/// Bytes of a sector, the unit of every number in the format.
pub const SECTOR_BYTES: usize = 512;

/// Bytes of a grain: 128 sectors, the only size that VMware's products write.
pub const GRAIN_BYTES: usize = 128 * SECTOR_BYTES;

/// The largest disk that is encoded.
pub const CAPACITY_LIMIT_BYTES: u64 = 2 << 40;

/// Entries of a grain table, as the header holds it.
const TABLE_ENTRIES: u32 = 512;

/// Entries of a grain table.
pub(super) const GRAINS_PER_TABLE: usize = TABLE_ENTRIES as usize;

/// Where the descriptor begins: behind the header.
const DESCRIPTOR_SECTOR: u64 = 1;

/// Room for the descriptor.
const DESCRIPTOR_SECTORS: u64 = 20;

/// Where the grains begin: on a grain's bound.
pub(super) const OVERHEAD_BYTES: usize = GRAIN_BYTES;

/// Where the grains begin.
pub(super) const OVERHEAD_SECTORS: u64 = (OVERHEAD_BYTES / SECTOR_BYTES) as u64;

/// Longest name of an extent, so that the descriptor fits its room.
pub(super) const NAME_LIMIT: usize = 255;

/// `KDMV`: "VMDK" as a little-endian number.
const MAGIC: u32 = 0x564d_444b;

/// The version that has compressed grains and markers.
const FORMAT: u32 = 3;

/// Newline test valid; compressed grains; markers.
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;

/// "The footer has it."
const DIRECTORY_AT_END: u64 = u64::MAX;

/// A file transfer that converts line ends destroys these.
const NEWLINE_TEST: [u8; 4] = *b"\n \r\n";

/// RFC 1951 in an RFC 1950 wrapper.
const DEFLATE: u16 = 1;

/// Fills up to whole sectors.
pub(super) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(SECTOR_BYTES), 0);
}

/// The first sector, and with the directory's place the footer.
pub(super) struct Header {
    pub(super) capacity_sectors: u64,
    /// `None`: it stands in the footer.
    pub(super) directory_sector: Option<u64>,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SECTOR_BYTES);
        for number in [MAGIC, FORMAT, FLAGS] {
            bytes.extend(number.to_le_bytes());
        }
        let grain_sectors = (GRAIN_BYTES / SECTOR_BYTES) as u64;
        for number in [self.capacity_sectors, grain_sectors, DESCRIPTOR_SECTOR, DESCRIPTOR_SECTORS] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(TABLE_ENTRIES.to_le_bytes());
        let redundant_directory = 0;
        let directory = self.directory_sector.unwrap_or(DIRECTORY_AT_END);
        for number in [redundant_directory, directory, OVERHEAD_SECTORS] {
            bytes.extend(number.to_le_bytes());
        }
        let unclean_shutdown = 0;
        bytes.push(unclean_shutdown);
        bytes.extend(NEWLINE_TEST);
        bytes.extend(DEFLATE.to_le_bytes());
        pad(&mut bytes);
        bytes
    }
}

/// What stands before a grain's stream: its place on the disk and the stream's length.
pub(super) fn grain_marker(lba: u64, stream_bytes: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    let (place, size) = bytes.split_at_mut(8);
    place.copy_from_slice(&lba.to_le_bytes());
    size.copy_from_slice(&stream_bytes.to_le_bytes());
    bytes
}

/// What stands before anything but a grain: a sector of its own, told from a grain's by its stream length of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    EndOfStream,
    GrainTable,
    GrainDirectory,
    Footer,
}

impl Marker {
    /// `sectors` is the length of what follows.
    pub(super) fn encode(self, sectors: u64) -> Vec<u8> {
        let kind: u32 = match self {
            Self::EndOfStream => 0,
            Self::GrainTable => 1,
            Self::GrainDirectory => 2,
            Self::Footer => 3,
        };
        let mut bytes = grain_marker(sectors, 0).to_vec();
        bytes.extend(kind.to_le_bytes());
        pad(&mut bytes);
        bytes
    }
}

/// The embedded text.
pub(super) struct Descriptor<'a> {
    pub(super) capacity_sectors: u64,
    pub(super) file_name: &'a str,
    /// Digest of the content.
    pub(super) identity: [u8; 32],
}

impl Descriptor<'_> {
    /// The text. Zeros follow it up to the grains.
    pub(super) fn encode(&self) -> Vec<u8> {
        // LSI geometry, as VMware's products write it for pvscsi too: there is no pvscsi in this field.
        let cylinders = self.capacity_sectors.div_ceil(255 * 63).min(65535);
        let content = content_id(self.identity);
        let mut long = hex::encode(self.identity.get(..12).unwrap_or_default());
        let _ = write!(long, "{content:08x}");
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={content:08x}\nparentCID=ffffffff\n\
             createType=\"streamOptimized\"\n\n# Extent description\nRW {} SPARSE \"{}\"\n\n\
             # The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"255\"\n\
             ddb.geometry.sectors = \"63\"\nddb.longContentID = \"{long}\"\nddb.toolsVersion = \"2147483647\"\n\
             ddb.virtualHWVersion = \"4\"\n",
            self.capacity_sectors, self.file_name
        );
        text.into_bytes()
    }
}

/// The content's 32-bit identity. The two highest numbers mean "no parent" and "not yet computed".
fn content_id(identity: [u8; 32]) -> u32 {
    let [.., a, b, c, d] = identity;
    match u32::from_le_bytes([a, b, c, d]) {
        reserved if reserved >= 0xffff_fffe => 1,
        id => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_has_the_layout_of_the_specification() {
        let bytes = Header { capacity_sectors: 0x0102_0304, directory_sector: None }.encode();
        assert_eq!(bytes.len(), 512);
        assert_eq!(&bytes[..4], b"KDMV");
        assert_eq!(bytes[4..12], [3, 0, 0, 0, 1, 0, 3, 0], "version 3, flags 0x30001");
        assert_eq!(bytes[12..20], [4, 3, 2, 1, 0, 0, 0, 0], "capacity");
        assert_eq!(bytes[20..28], [128, 0, 0, 0, 0, 0, 0, 0], "grain size");
        assert_eq!(bytes[28..44], [1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0], "descriptor");
        assert_eq!(bytes[44..48], [0, 2, 0, 0], "entries per table");
        assert_eq!(bytes[48..56], [0; 8], "no redundant directory");
        assert_eq!(bytes[56..64], [0xff; 8], "directory at the end");
        assert_eq!(bytes[64..72], [128, 0, 0, 0, 0, 0, 0, 0], "overhead");
        assert_eq!(&bytes[72..79], b"\0\n \r\n\x01\0", "clean, newline test, deflate");
        assert!(bytes[79..].iter().all(|&b| b == 0));
        let footer = Header { capacity_sectors: 0x0102_0304, directory_sector: Some(7) }.encode();
        assert_eq!(footer[56..64], [7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((&footer[..56], &footer[64..]), (&bytes[..56], &bytes[64..]));
    }

    #[test]
    fn markers_are_sectors_with_a_stream_length_of_zero() {
        for (marker, kind) in [
            (Marker::EndOfStream, 0),
            (Marker::GrainTable, 1),
            (Marker::GrainDirectory, 2),
            (Marker::Footer, 3),
        ] {
            let bytes = marker.encode(4);
            assert_eq!(bytes.len(), 512);
            assert_eq!(bytes[..16], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, kind, 0, 0, 0], "{marker:?}");
            assert!(bytes[16..].iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn the_descriptor_fits_its_room_even_with_a_long_name() {
        let name = "n".repeat(NAME_LIMIT);
        let bytes =
            Descriptor { capacity_sectors: u64::MAX, file_name: &name, identity: [0xff; 32] }.encode();
        assert!(bytes.len() as u64 <= DESCRIPTOR_SECTORS * SECTOR_BYTES as u64, "{}", bytes.len());
    }

    #[test]
    fn reserved_content_ids_are_not_used() {
        let mut identity = [0xff; 32];
        assert_eq!(content_id(identity), 1);
        identity[28] = 0xfe;
        assert_eq!(content_id(identity), 1);
        identity[28] = 0xfd;
        assert_eq!(content_id(identity), 0xffff_fffd);
    }
}
