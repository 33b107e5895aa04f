//! The only opener of data devices: aligned buffers, direct I/O through io_uring, labels and the extent pool.
//!
//! What this room owns, from the bottom:
//! - [`Buffer`], [`BufferMut`], [`BufferPool`]: aligned memory that crosses the data path without a copy.
//! - [`Disk`]: one block device or file, opened for this process alone.
//! - [`Space`]: a contiguous space in pieces on disks; what all I/O is addressed to.
//! - [`Ring`]: requests in flight, one ring per storage thread; io_uring, or threads where that is refused or slower.
//! - [`Pool`]: labels and allocation tables; gives a volume its meta and data [`Space`].
//!
//! The flow of a write: [`BufferPool::take`] → fill → [`BufferMut::freeze`] → [`Ring::write`] on the volume's data space →
//! [`Ring::submit`] → the ring's descriptor becomes readable → [`Ring::next`] hands the buffer back.
//!
//! Invariants
//! - A buffer's memory outlives every transfer that the kernel or a thread may do on it (`ring`).
//! - Each request ends in exactly one completion; short transfers go on, transient errors are retried (`ring::task`).
//! - An error is never turned into wrong data or a false success: after a failed flush every later one fails (`disk`).
//! - No other process writes a disk that is open here, nor one whose last process still has I/O in flight (`disk`).
//! - Labels and tables follow S12: two places, in turn, nothing relies on a record until both hold it (`record`).
//! - A disk that is refused is not changed.
//!
//! Nothing here talks to a network. An async runtime sees [`Ring`] as a descriptor (`AsFd`, `AsRawFd`); for tokio there
//! is [`Readiness`].

mod alloc;
mod buffer;
mod disk;
mod error;
mod label;
mod pool;
mod record;
mod recover;
mod ring;
mod space;
mod table;

pub use alloc::Reservation;
pub use buffer::{BUFFER_ALIGN, Buffer, BufferMut, BufferPool, PoolLimits};
pub use disk::{Alignment, Disk, DiskKind, OpenOptions, Preallocate, ZeroMode};
pub use error::{DiskError, ErrorKind};
pub use label::{Content, DiskId, Identity, Label, forget, inspect};
pub use pool::{Force, Pool, RunInfo, VolumeSpace};
pub use ring::{BackendKind, Completion, Durability, Readiness, Returned, Ring, RingConfig};
pub use space::{Piece, Space};
pub use table::{AreaKind, EXTENT_BYTES, MAX_RUNS};
