//! One error type for the room: kind + context + source.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;

/// What went wrong, as far as a caller acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The device was unplugged or taken offline: nothing on it can be reached until it is opened anew.
    Gone,
    /// The medium could not be read or written (EIO and its kin): S11.
    Medium,
    /// The path to the device failed or timed out; the medium may be well.
    Transport,
    /// No space left below us (sparse file, thin disk, file system), or none free in the pool.
    NoSpace,
    /// Another process holds the disk, or volume space still has I/O handles.
    InUse,
    /// No such file or device.
    NotFound,
    /// Missing rights, or a read-only medium.
    Denied,
    /// The request reaches past the end of the disk or space.
    OutOfRange,
    /// A flush failed earlier: what the device holds is unknown until it is opened anew.
    FlushFailed,
    /// The label belongs to another cluster, node or product (S12).
    Foreign,
    /// Both copies of a label or table are damaged, or they contradict each other (S12).
    Damaged,
    /// A record of a format version that this build does not know (S12).
    UnknownVersion,
    /// The disk holds something that is not ours and was to be labelled without force.
    NotBlank,
    /// The disk has no label yet.
    Blank,
    /// A disk that belongs to the pool is not there.
    MissingDisk,
    /// Out of memory or over a pool limit.
    Exhausted,
    /// The caller asked for something that can't be.
    Invalid,
    /// Anything else the system reports; see the source.
    System,
}

/// An error of this room. Displays as the context; the cause stands in [`Error::source`].
#[derive(Debug)]
pub struct DiskError {
    kind: ErrorKind,
    context: Cow<'static, str>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl DiskError {
    /// An error without a deeper cause. `context` names the device and the reason.
    pub fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// Wraps a system error, with the kind that its number stands for.
    pub fn system(context: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        Self { kind: kind_of(&source), context: context.into(), source: Some(Box::new(source)) }
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    pub(crate) fn with_context_suffix(mut self, suffix: &str) -> Self {
        self.context = Cow::Owned(format!("{}{suffix}", self.context));
        self
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl Error for DiskError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

/// Kind of a system error. The block layer's own codes (`blk_errors` of the kernel's block/blk-core.c) included:
/// it reports a medium error as ENODATA, a lost path as ENOLINK, an offline device as ENODEV.
fn kind_of(error: &io::Error) -> ErrorKind {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO | libc::ENOMEDIUM | libc::ESHUTDOWN) => ErrorKind::Gone,
        Some(libc::EIO | libc::ENODATA | libc::EILSEQ | libc::EREMOTEIO | libc::EUCLEAN) => ErrorKind::Medium,
        Some(libc::ENOLINK | libc::ETIMEDOUT | libc::EBADE) => ErrorKind::Transport,
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => ErrorKind::NoSpace,
        Some(libc::EBUSY | libc::EWOULDBLOCK | libc::ETXTBSY) => ErrorKind::InUse,
        Some(libc::ENOENT | libc::ENOTDIR) => ErrorKind::NotFound,
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => ErrorKind::Denied,
        Some(libc::ENOMEM) => ErrorKind::Exhausted,
        Some(libc::EINVAL) => ErrorKind::Invalid,
        _ => ErrorKind::System,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_have_a_kind_and_keep_their_source() {
        for (number, kind) in [
            (libc::ENODEV, ErrorKind::Gone),
            (libc::EIO, ErrorKind::Medium),
            (libc::ENODATA, ErrorKind::Medium),
            (libc::ENOSPC, ErrorKind::NoSpace),
            (libc::EROFS, ErrorKind::Denied),
            (libc::EBUSY, ErrorKind::InUse),
            (libc::EXDEV, ErrorKind::System),
        ] {
            let error = DiskError::system("write sda at 0", io::Error::from_raw_os_error(number));
            assert_eq!(error.kind(), kind);
            assert_eq!(error.to_string(), "write sda at 0");
            assert!(error.source().is_some());
        }
    }
}
