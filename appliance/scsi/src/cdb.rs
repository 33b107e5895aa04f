//! Field access to a CDB, and the block range fields that READ-like commands share.

/// A CDB, padded with zeroes to 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cdb([u8; 16]);

/// The block range of a CDB (SBC-3 §5), unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// First block.
    pub(crate) lba: u64,
    /// How many.
    pub(crate) blocks: u64,
    /// Byte of the CDB where the number of blocks stands.
    pub(crate) blocks_at: u16,
}

impl Cdb {
    /// The first 16 bytes; `None` if more are not zero or there are none at all.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let (head, tail) = bytes.split_at(bytes.len().min(16));
        if head.is_empty() || tail.iter().any(|&byte| byte != 0) {
            return None;
        }
        let mut out = [0; 16];
        out.iter_mut().zip(head).for_each(|(to, &from)| *to = from);
        Some(Self(out))
    }

    pub(crate) fn opcode(&self) -> u8 {
        self.byte(0)
    }

    /// Service action, where the opcode has them: byte 1, bits 4 to 0.
    pub(crate) fn service_action(&self) -> u16 {
        u16::from(self.byte(1) & 0x1f)
    }

    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(crate) fn bit(&self, at: usize, bit: u8) -> bool {
        self.byte(at) >> bit & 1 == 1
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    /// LBA and length where the CDB's group has them: groups 0 (6 bytes), 1 and 2 (10), 5 (12), 4 (16).
    pub(crate) fn range(&self) -> Range {
        match self.opcode() >> 5 {
            0 => {
                let blocks = u64::from(self.byte(4));
                let blocks = if blocks == 0 { 256 } else { blocks };
                Range { lba: u64::from(self.u32(0) & 0x1f_ffff), blocks, blocks_at: 4 }
            }
            4 => Range { lba: self.u64(2), blocks: u64::from(self.u32(10)), blocks_at: 10 },
            5 => Range { lba: u64::from(self.u32(2)), blocks: u64::from(self.u32(6)), blocks_at: 6 },
            _ => Range { lba: u64::from(self.u32(2)), blocks: u64::from(self.u16(7)), blocks_at: 7 },
        }
    }

    /// LBA and the one-byte length of COMPARE AND WRITE.
    pub(crate) fn compare_range(&self) -> Range {
        Range { lba: self.u64(2), blocks: u64::from(self.byte(13)), blocks_at: 13 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(bytes: &[u8]) -> (u64, u64) {
        let range = Cdb::new(bytes).unwrap().range();
        (range.lba, range.blocks)
    }

    #[test]
    fn ranges_of_each_group() {
        assert_eq!(range(&[0x08, 0xff, 2, 3, 4, 0]), (0x1f_0203, 4));
        assert_eq!(range(&[0x08, 0, 0, 0, 0, 0]), (0, 256));
        assert_eq!(range(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]), (0x0102_0304, 0x0506));
        assert_eq!(range(&[0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]), (0x0102_0304, 0x0506_0708));
        assert_eq!(
            range(&[0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0]),
            (0x0102_0304_0506_0708, 0x090a_0b0c)
        );
    }

    #[test]
    fn long_and_empty_cdbs_are_refused() {
        assert_eq!(Cdb::new(&[]), None);
        assert_eq!(Cdb::new(&[0x7f; 32]), None);
        assert!(Cdb::new(&[0; 20]).is_some());
    }
}
