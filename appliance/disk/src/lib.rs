//! The only opener of data devices: aligned buffers, direct I/O through io_uring, labels and the extent pool.
mod buffer;
mod disk;
mod error;
mod ring;
mod space;
pub use buffer::{BUFFER_ALIGN, Buffer, BufferMut, BufferPool, PoolLimits};
pub use disk::{Alignment, Disk, DiskKind, OpenOptions, Preallocate, ZeroMode};
pub use error::{DiskError, ErrorKind};
pub use ring::{BackendKind, Completion, Durability, Returned, Ring, RingConfig};
pub use space::{Piece, Space};
