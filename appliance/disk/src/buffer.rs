//! Aligned data buffers: filled once through a [`BufferMut`], then shared as [`Buffer`] handles.
//!
//! Invariants
//! - Memory is aligned to [`BUFFER_ALIGN`] and initialised from birth, so any handle may be read.
//! - The byte ranges of live [`BufferMut`]s never overlap each other nor any [`Buffer`]: a range is written through
//!   exactly one handle, or read through any number of them.
//! - Memory goes back to its pool only when the last handle on it is gone; the ring keeps a handle for as long as
//!   the kernel may touch the bytes.
//! - Handles belong to one thread (`!Send`): counts are plain, not atomic.

use crate::error::{DiskError, ErrorKind};
use base::ByteCount;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

/// Alignment of every buffer's first byte, in bytes: enough for direct I/O on every device Linux drives.
pub const BUFFER_ALIGN: usize = 4096;
/// Size classes kept by a pool: 4 KiB × 2^n up to 1 MiB.
const CLASSES: usize = 9;

/// How much memory a pool may use, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Handed out at once; [`BufferPool::take`] refuses beyond it.
    pub in_use_bytes: usize,
    /// Kept for reuse when handed back; what is over goes back to the system.
    pub cached_bytes: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { in_use_bytes: 256 << 20, cached_bytes: 64 << 20 }
    }
}

/// Source of buffers. Clones share one pool.
#[derive(Clone, Debug)]
pub struct BufferPool {
    inner: Rc<PoolInner>,
}

#[derive(Debug)]
struct PoolInner {
    limits: PoolLimits,
    in_use_bytes: Cell<usize>,
    cached_bytes: Cell<usize>,
    free: RefCell<[Vec<Rc<Memory>>; CLASSES]>,
}

#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
    /// `None`: larger than the largest class, never cached.
    class: Option<usize>,
    pool: Weak<PoolInner>,
}

impl Memory {
    fn allocate(capacity_bytes: usize, class: Option<usize>, pool: &Rc<PoolInner>) -> Option<Self> {
        let layout = Layout::from_size_align(capacity_bytes, BUFFER_ALIGN).ok()?;
        // SAFETY: callers round the capacity up to a multiple of BUFFER_ALIGN and never ask for zero bytes.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { start, layout, class, pool: Rc::downgrade(pool) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this very layout, and the last handle is gone.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// Smallest class that holds `len_bytes`, and its capacity in bytes.
fn class_of(len_bytes: usize) -> (Option<usize>, usize) {
    for class in 0..CLASSES {
        let capacity = BUFFER_ALIGN << class;
        if len_bytes <= capacity {
            return (Some(class), capacity);
        }
    }
    (None, len_bytes.checked_next_multiple_of(BUFFER_ALIGN).unwrap_or(usize::MAX))
}

impl BufferPool {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Self {
        Self {
            inner: Rc::new(PoolInner {
                limits,
                in_use_bytes: Cell::new(0),
                cached_bytes: Cell::new(0),
                free: RefCell::default(),
            }),
        }
    }

    /// A buffer of `len_bytes` with unspecified (but initialised) content. [`ErrorKind::Exhausted`] when the limit
    /// of [`PoolLimits::in_use_bytes`] is reached: wait for work in flight to end, then ask again.
    pub fn take(&self, len_bytes: usize) -> Result<BufferMut, DiskError> {
        let (_, capacity) = class_of(len_bytes);
        if self.inner.in_use_bytes.get().saturating_add(capacity) > self.inner.limits.in_use_bytes {
            return Err(DiskError::new(
                ErrorKind::Exhausted,
                format!("no buffer of {len_bytes} bytes: {} in use", ByteCount(self.in_use_bytes() as u64)),
            ));
        }
        self.take_urgent(len_bytes)
    }

    /// As [`take`](Self::take), beyond the limit: for work whose end gives memory back (metadata, bounces).
    /// Fails only when the system has no memory.
    pub fn take_urgent(&self, len_bytes: usize) -> Result<BufferMut, DiskError> {
        let (class, capacity) = class_of(len_bytes);
        let cached = class.and_then(|c| self.inner.free.borrow_mut().get_mut(c).and_then(Vec::pop));
        let memory = match cached {
            Some(memory) => {
                self.inner.cached_bytes.set(self.inner.cached_bytes.get().saturating_sub(capacity));
                memory
            }
            None => Rc::new(Memory::allocate(capacity, class, &self.inner).ok_or_else(|| {
                DiskError::new(ErrorKind::Exhausted, format!("no memory for a buffer of {capacity} bytes"))
            })?),
        };
        self.inner.in_use_bytes.set(self.inner.in_use_bytes.get().saturating_add(capacity));
        Ok(BufferMut { memory: Handle::new(memory), start: 0, len: len_bytes })
    }

    /// As [`take`](Self::take), filled with zeroes.
    pub fn take_zeroed(&self, len_bytes: usize) -> Result<BufferMut, DiskError> {
        let mut buffer = self.take(len_bytes)?;
        buffer.as_mut_slice().fill(0);
        Ok(buffer)
    }

    /// Memory handed out now, in bytes of capacity.
    #[must_use]
    pub fn in_use_bytes(&self) -> usize {
        self.inner.in_use_bytes.get()
    }

    /// Memory kept for reuse now, in bytes.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.inner.cached_bytes.get()
    }
}

impl Default for BufferPool {
    fn default() -> Self {
        Self::new(PoolLimits::default())
    }
}

impl PoolInner {
    /// Takes back memory whose last handle is going; it is freed by the caller's drop if not kept here.
    fn give_back(&self, memory: Rc<Memory>) {
        let capacity = memory.layout.size();
        self.in_use_bytes.set(self.in_use_bytes.get().saturating_sub(capacity));
        let cached = self.cached_bytes.get().saturating_add(capacity);
        let Some(class) = memory.class else { return };
        if cached > self.limits.cached_bytes {
            return;
        }
        if let Some(list) = self.free.borrow_mut().get_mut(class) {
            list.push(memory);
            self.cached_bytes.set(cached);
        }
    }
}

/// One counted reference to memory; the last one hands it to the pool.
#[derive(Debug)]
struct Handle(ManuallyDrop<Rc<Memory>>);

impl Handle {
    fn new(memory: Rc<Memory>) -> Self {
        Self(ManuallyDrop::new(memory))
    }
    fn share(&self) -> Self {
        Self(self.0.clone())
    }
    fn same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
    fn start(&self) -> NonNull<u8> {
        self.0.start
    }
    fn is_only(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: this is the only place that takes the value out, and a drop runs once.
        let memory = unsafe { ManuallyDrop::take(&mut self.0) };
        if Rc::strong_count(&memory) == 1
            && let Some(pool) = memory.pool.upgrade()
        {
            pool.give_back(memory);
        }
    }
}

/// A range of aligned memory with a single writer. Filled, then [frozen](Self::freeze) or given to a read.
pub struct BufferMut {
    memory: Handle,
    start: usize,
    len: usize,
}

impl BufferMut {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: start + len lies within the allocation (kept by every constructor), the memory is initialised,
        // and by the module's invariant no other handle writes this range while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    /// The bytes, to be filled.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; this handle is the only one on its range and is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len) }
    }

    /// First byte; valid for `len` bytes for as long as a handle on this memory lives.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        // SAFETY: start <= capacity of the allocation.
        unsafe { self.memory.start().as_ptr().add(self.start) }
    }

    /// Shortens to `len_bytes` (no effect if already shorter).
    pub fn truncate(&mut self, len_bytes: usize) {
        self.len = self.len.min(len_bytes);
    }

    /// Splits at `at` bytes (clamped to the length): `self` keeps the front, the back is returned. No copy.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        let at = at.min(self.len);
        let back = Self { memory: self.memory.share(), start: self.start + at, len: self.len - at };
        self.len = at;
        back
    }

    /// Undoes [`split_off`](Self::split_off); `back` is handed back if it does not follow `self` in the same memory.
    pub fn join(&mut self, back: Self) -> Result<(), Self> {
        if self.memory.same(&back.memory) && self.start + self.len == back.start {
            self.len += back.len;
            Ok(())
        } else {
            Err(back)
        }
    }

    /// Ends the filling: from now on the bytes are shared and never change.
    #[must_use]
    pub fn freeze(self) -> Buffer {
        Buffer { memory: self.memory, start: self.start, len: self.len }
    }

    /// CRC32C (Castagnoli) of the bytes.
    #[must_use]
    pub fn crc32c(&self) -> u32 {
        base::crc32c(self.as_slice())
    }
}

impl fmt::Debug for BufferMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferMut({} bytes)", self.len)
    }
}

/// A shared, immutable range of aligned memory. Cloning and slicing copy nothing.
pub struct Buffer {
    memory: Handle,
    start: usize,
    len: usize,
}

impl Buffer {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: start + len lies within the allocation, the memory is initialised, and by the module's invariant
        // nobody writes a range that a `Buffer` covers.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    /// First byte; valid for reads of `len` bytes for as long as a handle on this memory lives.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        // SAFETY: start <= capacity of the allocation.
        unsafe { self.memory.start().as_ptr().add(self.start) }
    }

    /// A handle on the part `range` (bytes from this handle's start); `None` if it reaches past the end.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        (range.start <= range.end && range.end <= self.len).then(|| Self {
            memory: self.memory.share(),
            start: self.start + range.start,
            len: range.end - range.start,
        })
    }

    /// Back to a writable buffer without a copy, if this is the only handle on the memory.
    pub fn try_into_mut(self) -> Result<BufferMut, Self> {
        if self.memory.is_only() {
            Ok(BufferMut { memory: self.memory, start: self.start, len: self.len })
        } else {
            Err(self)
        }
    }

    /// CRC32C (Castagnoli) of the bytes.
    #[must_use]
    pub fn crc32c(&self) -> u32 {
        base::crc32c(self.as_slice())
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self { memory: self.memory.share(), start: self.start, len: self.len }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for BufferMut {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsMut<[u8]> for BufferMut {
    fn as_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_reused_and_limited() {
        let pool = BufferPool::new(PoolLimits { in_use_bytes: 16 << 10, cached_bytes: 8 << 10 });
        let first = pool.take(4096).unwrap();
        let place = first.as_ptr();
        assert_eq!(place as usize % BUFFER_ALIGN, 0);
        drop(first);
        assert_eq!((pool.in_use_bytes(), pool.cached_bytes()), (0, 4096));
        let again = pool.take(100).unwrap();
        assert_eq!((again.as_ptr(), again.len(), pool.cached_bytes()), (place, 100, 0));
        let big = pool.take(12 << 10).unwrap_err();
        assert_eq!(big.kind(), ErrorKind::Exhausted);
        assert_eq!(pool.take_urgent(3 << 20).unwrap().len(), 3 << 20);
        assert_eq!(pool.in_use_bytes(), 4096, "what is larger than a class goes back at once");
    }

    #[test]
    fn slices_share_and_the_last_handle_frees() {
        let pool = BufferPool::default();
        let mut filling = pool.take_zeroed(8192).unwrap();
        filling.as_mut_slice()[5000] = 7;
        let whole = filling.freeze();
        let part = whole.slice(4096..8192).unwrap();
        assert!(whole.slice(1..8193).is_none());
        assert_eq!(part.as_slice()[904], 7);
        let whole = whole.try_into_mut().unwrap_err();
        drop(whole);
        assert_eq!(pool.in_use_bytes(), 8192);
        assert_eq!(part.try_into_mut().unwrap().len(), 4096);
        assert_eq!(pool.in_use_bytes(), 0);
        assert_eq!(pool.take_zeroed(32).unwrap().freeze().crc32c().to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
    }

    #[test]
    fn split_halves_join_again() {
        let pool = BufferPool::default();
        let mut front = pool.take_zeroed(4096).unwrap();
        let mut back = front.split_off(1000);
        front.as_mut_slice().fill(1);
        back.as_mut_slice().fill(2);
        let other = pool.take(1).unwrap();
        assert!(front.join(other).is_err());
        front.join(back).unwrap();
        assert_eq!((front.as_slice()[999], front.as_slice()[1000], front.len()), (1, 2, 4096));
    }

    #[test]
    fn buffers_outlive_their_pool() {
        let pool = BufferPool::default();
        let buffer = pool.take_zeroed(4096).unwrap().freeze();
        drop(pool);
        assert_eq!(buffer.as_slice()[4095], 0);
    }
}
