//! Breaks one safety rule on purpose, so that the simulator can show that its checks catch it.
//!
//! Without the cargo feature `sabotage` the switch does not exist and every question is answered "no".

/// The rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sabotage {
    /// None.
    #[default]
    None,
    /// S2: answer writes that a failed in-sync peer lacks, without a committed shrink.
    AnswerWithoutShrink,
    /// S4: obey data messages of old epochs and sessions; open sessions without draining.
    ObeyStale,
    /// S5: serve without a lease, and without waiting for the old one.
    IgnoreLease,
    /// S5: the machine's start counts as the end of everybody's lease.
    IgnoreUptime,
    /// S6: a restarted process serves because the committed state names its node.
    ServeAfterRestart,
    /// S7: ignore what the target has dirty or logged.
    ForgetTargetsPart,
    /// S8: while a grow is proposed, answer without the target.
    AnswerWhileGrowing,
    /// S9: write without logging the extent.
    SkipActivityLog,
    /// S18: let overlapping requests run at the same time.
    Overlap,
    /// S22: propose a size that an in-sync peer has not told to have room for.
    ResizeWithoutRoom,
}
