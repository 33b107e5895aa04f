//! What waits to be sent: headers and small data in one reused byte arena, large data as shared handles.
//!
//! Invariant: the bytes of all [`Chunk::Bytes`] together are exactly the unsent part of the arena, in order.

use crate::pdu::{self, Bhs};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The arena is moved to its front when this many sent bytes stand before the rest.
const COMPACT_BYTES: usize = 64 * 1024;

#[derive(Debug)]
enum Chunk<S> {
    /// The next so many bytes of the arena.
    Bytes(usize),
    /// A part of a shared buffer; `release_bytes` of the memory budget are free once it was sent.
    Data { buffer: S, at: usize, len: usize, release_bytes: u64 },
}

/// The output queue of one connection.
#[derive(Debug)]
pub(super) struct Transmit<S> {
    arena: Vec<u8>,
    /// Bytes of the arena that were sent.
    sent: usize,
    chunks: VecDeque<Chunk<S>>,
    /// Bytes of the front chunk that were sent.
    front_sent: usize,
    header_digest: bool,
    data_digest: bool,
}

impl<S: AsRef<[u8]>> Transmit<S> {
    pub(super) fn new() -> Self {
        Self {
            arena: Vec::new(),
            sent: 0,
            chunks: VecDeque::new(),
            front_sent: 0,
            header_digest: false,
            data_digest: false,
        }
    }

    /// PDUs pushed from now on carry digests.
    pub(super) fn set_digests(&mut self, header: bool, data: bool) {
        self.header_digest = header;
        self.data_digest = data;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Unsent bytes in the arena: what a client can make grow by not reading.
    pub(super) fn arena_bytes(&self) -> usize {
        self.arena.len().saturating_sub(self.sent)
    }

    /// A PDU with a small data segment, copied.
    pub(super) fn push(&mut self, bhs: Bhs, data: &[u8]) {
        self.push_header(bhs, data.len());
        let begin = self.arena.len();
        self.arena.extend_from_slice(data);
        self.push_trailer(data.len(), self.data_digest.then(|| crc32c::crc32c(data)));
        self.note_bytes(begin);
    }

    /// A PDU whose data segment is a part of a shared buffer.
    pub(super) fn push_shared(&mut self, bhs: Bhs, buffer: S, at: usize, len: usize, release_bytes: u64) {
        self.push_header(bhs, len);
        let digest = self
            .data_digest
            .then(|| crc32c::crc32c(buffer.as_ref().get(at..at.saturating_add(len)).unwrap_or(&[])));
        self.chunks.push_back(Chunk::Data { buffer, at, len, release_bytes });
        let begin = self.arena.len();
        self.push_trailer(len, digest);
        self.note_bytes(begin);
    }

    fn push_header(&mut self, mut bhs: Bhs, data_len: usize) {
        pdu::set_data_len(&mut bhs, data_len);
        let begin = self.arena.len();
        self.arena.extend_from_slice(&bhs);
        if self.header_digest {
            self.arena.extend_from_slice(&crc32c::crc32c(&bhs).to_le_bytes());
        }
        self.note_bytes(begin);
    }

    /// Padding and digest; the digest covers the padding (RFC 7143 §11.7.1).
    fn push_trailer(&mut self, data_len: usize, digest: Option<u32>) {
        let padding = [0_u8; 4];
        let padding = padding.get(..pdu::padding(data_len)).unwrap_or(&[]);
        self.arena.extend_from_slice(padding);
        if let Some(digest) = digest
            && data_len > 0
        {
            self.arena.extend_from_slice(&crc32c::crc32c_append(digest, padding).to_le_bytes());
        }
    }

    /// Bytes from `begin` on were added to the arena.
    fn note_bytes(&mut self, begin: usize) {
        let added = self.arena.len().saturating_sub(begin);
        match self.chunks.back_mut() {
            _ if added == 0 => {}
            Some(Chunk::Bytes(len)) => *len = len.saturating_add(added),
            _ => self.chunks.push_back(Chunk::Bytes(added)),
        }
    }

    /// Fills `out` with what to send next, in order; answers how many slices were filled.
    pub(super) fn slices<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let mut arena_at = self.sent;
        let mut skip = self.front_sent;
        let mut filled = 0;
        for (slot, chunk) in out.iter_mut().zip(&self.chunks) {
            *slot = match chunk {
                Chunk::Bytes(len) => {
                    let unsent = len.saturating_sub(skip);
                    let slice = self.arena.get(arena_at..arena_at.saturating_add(unsent));
                    arena_at = arena_at.saturating_add(unsent);
                    slice
                }
                Chunk::Data { buffer, at, len, .. } => {
                    buffer.as_ref().get(at.saturating_add(skip)..at.saturating_add(*len))
                }
            }
            .unwrap_or(&[]);
            skip = 0;
            filled += 1;
        }
        filled
    }

    /// The first `count` bytes were sent; answers how much of the memory budget that frees.
    pub(super) fn consume(&mut self, mut count: usize) -> u64 {
        let mut released = 0_u64;
        while let Some(chunk) = self.chunks.front() {
            let len = match chunk {
                Chunk::Bytes(len) | Chunk::Data { len, .. } => *len,
            };
            let left = len.saturating_sub(self.front_sent);
            let now = left.min(count);
            if matches!(chunk, Chunk::Bytes(_)) {
                self.sent = self.sent.saturating_add(now);
            }
            if now < left {
                self.front_sent = self.front_sent.saturating_add(now);
                break;
            }
            count = count.saturating_sub(now);
            if let Chunk::Data { release_bytes, .. } = chunk {
                released = released.saturating_add(*release_bytes);
            }
            self.front_sent = 0;
            self.chunks.pop_front();
        }
        self.compact();
        released
    }

    fn compact(&mut self) {
        if self.sent == self.arena.len() {
            self.arena.clear();
            self.sent = 0;
        } else if self.sent >= COMPACT_BYTES {
            self.arena.drain(..self.sent);
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(transmit: &Transmit<Vec<u8>>) -> Vec<u8> {
        let mut slices = [&[][..]; 16];
        let count = transmit.slices(&mut slices);
        slices[..count].concat()
    }

    #[test]
    fn any_cut_of_the_stream_gives_the_same_bytes() {
        let build = || {
            let mut transmit = Transmit::new();
            transmit.set_digests(true, true);
            transmit.push([1; 48], b"abc");
            transmit.push_shared([2; 48], Vec::from(*b"0123456789"), 2, 5, 7);
            transmit.push([3; 48], b"");
            transmit
        };
        let whole = sent(&build());
        assert_eq!(whole.len(), (48 + 4 + 4 + 4) + (48 + 4 + 8 + 4) + (48 + 4));
        for step in [1, 3, 50, 1000] {
            let mut transmit = build();
            let (mut seen, mut released) = (Vec::new(), 0);
            while !transmit.is_empty() {
                let next = sent(&transmit);
                let count = next.len().min(step);
                seen.extend_from_slice(&next[..count]);
                released += transmit.consume(count);
            }
            assert_eq!((seen, released), (whole.clone(), 7));
            assert_eq!(transmit.arena_bytes(), 0);
        }
    }
}
