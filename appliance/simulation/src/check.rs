//! The checkers: one file for each invariant of safety.md. They see what no node sees: the true time, every disk, and
//! what is truly committed. They never influence a run.

mod identical;
mod in_sync;
mod liveness;
mod register;
mod single_server;
mod stale;

pub(crate) use identical::identical;
pub(crate) use in_sync::in_sync_hold_everything;
pub(crate) use liveness::Liveness;
pub(crate) use register::{OpId, Registers};
pub(crate) use single_server::single_server;
pub(crate) use stale::StaleAnswers;

/// A broken invariant: which, and what was seen.
#[derive(Clone, Debug)]
pub struct Violation {
    /// `I1`…
    pub invariant: &'static str,
    /// For people.
    pub text: String,
}

impl Violation {
    /// Data was, or could have been, lost or falsified.
    pub(crate) fn about_data(&self) -> bool {
        matches!(self.invariant, "I1" | "I2" | "I3" | "I4" | "I7" | "S22")
    }

    /// Something that must happen did not.
    pub(crate) fn about_liveness(&self) -> bool {
        matches!(self.invariant, "I5" | "I6")
    }
}

/// What a checker answers.
pub(crate) type Checked = Result<(), Violation>;

pub(crate) fn violation(invariant: &'static str, text: String) -> Checked {
    Err(Violation { invariant, text })
}
