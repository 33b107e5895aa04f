//! Byte reader and writer for wire frames and on-disk records. Little-endian unless the name says otherwise
//! (iSCSI and SCSI are big-endian: the `_be` calls).

use alloc::vec::Vec;
use core::fmt;

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// `what` needs more bytes than there are.
    Short(&'static str),
    /// `what` was decoded, and bytes were left over.
    Trailing(&'static str),
    /// The field `what` holds a value that the format does not know.
    Value(&'static str),
    /// The checksum of `what` does not match.
    Checksum(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(what) => write!(f, "{what}: too short"),
            Self::Trailing(what) => write!(f, "{what}: trailing bytes"),
            Self::Value(what) => write!(f, "{what}: value out of range"),
            Self::Checksum(what) => write!(f, "{what}: checksum mismatch"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// CRC32C (Castagnoli), as iSCSI digests (RFC 7143 §13.1) and every record and frame of ours use it.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// Reads a byte slice from front to back.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

macro_rules! read_numbers {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $from:ident;)+) => {$(
        $(#[$doc])*
        pub fn $name(&mut self) -> Result<$type, DecodeError> {
            self.array().map(<$type>::$from)
        }
    )+};
}

impl<'a> Reader<'a> {
    /// A reader over `bytes`; `what` names the thing in errors.
    #[must_use]
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, what }
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Short(self.what))?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Short(self.what))?;
        self.rest = rest;
        Ok(*head)
    }

    read_numbers! {
        /// One byte.
        u8: u8, from_le_bytes;
        /// Little-endian.
        u16: u16, from_le_bytes;
        /// Little-endian.
        u32: u32, from_le_bytes;
        /// Little-endian.
        u64: u64, from_le_bytes;
        /// Big-endian.
        u16_be: u16, from_be_bytes;
        /// Big-endian.
        u32_be: u32, from_be_bytes;
        /// Big-endian.
        u64_be: u64, from_be_bytes;
    }

    /// A field value that must be one of the known ones.
    pub fn invalid<T>(&self, field: &'static str) -> Result<T, DecodeError> {
        Err(DecodeError::Value(field))
    }

    /// Ends the decoding: nothing may be left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.what)) }
    }
}

/// Appends fields to a byte vector.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

macro_rules! write_numbers {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $to:ident;)+) => {$(
        $(#[$doc])*
        pub fn $name(&mut self, value: $type) -> &mut Self {
            self.out.extend_from_slice(&value.$to());
            self
        }
    )+};
}

impl Writer {
    /// An empty writer with room for `capacity_bytes`.
    #[must_use]
    pub fn with_capacity(capacity_bytes: usize) -> Self {
        Self { out: Vec::with_capacity(capacity_bytes) }
    }

    write_numbers! {
        /// One byte.
        u8: u8, to_le_bytes;
        /// Little-endian.
        u16: u16, to_le_bytes;
        /// Little-endian.
        u32: u32, to_le_bytes;
        /// Little-endian.
        u64: u64, to_le_bytes;
        /// Big-endian.
        u16_be: u16, to_be_bytes;
        /// Big-endian.
        u32_be: u32, to_be_bytes;
        /// Big-endian.
        u64_be: u64, to_be_bytes;
    }

    /// Raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// Zero bytes up to the absolute length `len_bytes` (no effect if already longer).
    pub fn pad_to(&mut self, len_bytes: usize) -> &mut Self {
        if self.out.len() < len_bytes {
            self.out.resize(len_bytes, 0);
        }
        self
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Nothing written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// What was written so far, e.g. to checksum it.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.out
    }

    /// The finished bytes.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut w = Writer::with_capacity(32);
        w.u8(1).u16(2).u32_be(3).u64(4).bytes(b"ab").pad_to(20);
        let bytes = w.into_vec();
        let mut r = Reader::new("sample", &bytes);
        assert_eq!((r.u8(), r.u16(), r.u32_be(), r.u64()), (Ok(1), Ok(2), Ok(3), Ok(4)));
        assert_eq!(r.bytes(2), Ok(&b"ab"[..]));
        assert_eq!(r.clone().finish(), Err(DecodeError::Trailing("sample")));
        assert_eq!(r.array::<3>(), Ok([0; 3]));
        assert_eq!(r.u8(), Err(DecodeError::Short("sample")));
        assert_eq!(r.finish(), Ok(()));
    }

    #[test]
    fn crc_matches_rfc_7143_appendix() {
        // RFC 7143 Appendix A.4: 32 bytes of zeroes, of ones.
        assert_eq!(crc32c(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(crc32c(&[0xff; 32]).to_le_bytes(), [0x43, 0xab, 0xa8, 0x62]);
    }
}
