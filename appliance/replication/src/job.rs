//! One piece of work on a range of the volume: a client's request, a block of a resync, a write from the peer.

use base::SessionId;

use crate::api::{Answer, RequestError, RequestId, Span};
use crate::range_lock::LockId;

/// What to write.
#[derive(Clone, Debug)]
pub(crate) enum Content<B> {
    Data(B),
    Zero { unmap: bool },
}

/// Where a message of the peer came from, and how to name it in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) session: SessionId,
    pub(crate) tag: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind<B> {
    /// A client reads.
    Read,
    /// A client writes (or zeroes).
    Write(Content<B>),
    /// A client compares; becomes `Write` if the blocks were equal.
    CompareAndWrite,
    /// A client asks for durability.
    Flush,
    /// Primary: dirty blocks go to the target.
    Resync,
    /// Secondary: the primary's write or resync block lands here.
    Apply { origin: Origin, al_number: u64, content: Content<B> },
    /// Secondary: the primary can't read its own copy (S11).
    Fetch { origin: Origin },
}

/// The local half of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    Running,
    Done,
    Failed,
}

/// The peer's half of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remote {
    /// The peer must confirm it and no session is open: sent when one opens, or S2 decides.
    Unsent,
    /// Sent in the open session.
    Sent,
    /// Durable at the peer (or there is nothing to wait for: the write came from it).
    Confirmed,
    /// The peer lacks it and its dirty bits say so.
    Dirty,
}

#[derive(Clone, Debug)]
pub(crate) enum Stage<B> {
    /// Waits for its range.
    Locking,
    /// Waits for the activity log.
    Logging,
    /// The disk reads.
    Reading,
    /// The driver compares.
    Comparing,
    /// The peer reads for us (S11).
    Fetching,
    /// Being written, here and there.
    Writing { local: Local, remote: Remote },
    /// A resync block is on its way to the target.
    Sending,
    /// Ended; answered as soon as the epoch allows (S4).
    Ended(Result<Answer<B>, RequestError>),
}

#[derive(Clone, Debug)]
pub(crate) struct Job<B> {
    pub(crate) span: Span,
    pub(crate) kind: Kind<B>,
    /// The client that still wants an answer.
    pub(crate) request: Option<RequestId>,
    pub(crate) lock: Option<LockId>,
    /// Holds references in the activity log.
    pub(crate) logged: bool,
    /// Ends without consequence when its disk operation does (S4).
    pub(crate) doomed: bool,
    pub(crate) stage: Stage<B>,
}

impl<B> Job<B> {
    pub(crate) fn new(kind: Kind<B>, span: Span, request: Option<RequestId>) -> Self {
        Self { span, kind, request, lock: None, logged: false, doomed: false, stage: Stage::Locking }
    }

    /// The disk works on it.
    pub(crate) fn on_disk(&self) -> bool {
        matches!(self.stage, Stage::Reading) || self.writes_disk()
    }

    /// The disk writes it.
    pub(crate) fn writes_disk(&self) -> bool {
        matches!(self.stage, Stage::Writing { local: Local::Running, .. })
    }

    /// The disk could not write it.
    pub(crate) fn write_failed(&self) -> bool {
        matches!(self.stage, Stage::Writing { local: Local::Failed, .. })
    }

    /// Nothing has been done for it yet that could have an effect.
    pub(crate) fn unstarted(&self) -> bool {
        matches!(self.stage, Stage::Locking | Stage::Logging)
    }

    /// It changes data.
    pub(crate) fn exclusive(&self) -> bool {
        match self.kind {
            Kind::Write(_) | Kind::CompareAndWrite | Kind::Apply { .. } => true,
            // Readers of the local copy: a resync block is written elsewhere, and writes wait for it all the same.
            Kind::Read | Kind::Flush | Kind::Resync | Kind::Fetch { .. } => false,
        }
    }

    /// Came from the peer.
    pub(crate) fn is_peers(&self) -> bool {
        matches!(self.kind, Kind::Apply { .. } | Kind::Fetch { .. })
    }
}
