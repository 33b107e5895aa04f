//! Sequence numbers of one session with one connection (RFC 7143 §4.2.2).
//!
//! Invariant: the advertised MaxCmdSN never goes back, and is never more than the free task slots beyond ExpCmdSN.

use crate::serial::before;

/// What to do with a request's CmdSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is next: take it.
    Next,
    /// Outside of the window: ignore it silently (RFC 7143 §4.2.2.1).
    Ignore,
    /// Inside, but one before it is missing: impossible on one ordered connection.
    Gap,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    exp_cmd_sn: u32,
    max_cmd_sn: u32,
    stat_sn: u32,
}

impl Window {
    /// The first login request brings both numbers.
    pub(super) fn new(cmd_sn: u32, stat_sn: u32) -> Self {
        Self { exp_cmd_sn: cmd_sn, max_cmd_sn: cmd_sn.wrapping_sub(1), stat_sn }
    }

    pub(super) fn exp_cmd_sn(&self) -> u32 {
        self.exp_cmd_sn
    }

    pub(super) fn max_cmd_sn(&self) -> u32 {
        self.max_cmd_sn
    }

    /// Takes a request that is not immediate.
    pub(super) fn arrive(&mut self, cmd_sn: u32) -> Arrival {
        if before(cmd_sn, self.exp_cmd_sn) || before(self.max_cmd_sn, cmd_sn) {
            Arrival::Ignore
        } else if cmd_sn == self.exp_cmd_sn {
            self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
            Arrival::Next
        } else {
            Arrival::Gap
        }
    }

    /// `free` more commands can be taken: opens the window as far.
    pub(super) fn open(&mut self, free: u32) {
        let max = self.exp_cmd_sn.wrapping_add(free).wrapping_sub(1);
        if before(self.max_cmd_sn, max) {
            self.max_cmd_sn = max;
        }
    }

    /// No command may be sent.
    pub(super) fn is_closed(&self) -> bool {
        before(self.max_cmd_sn, self.exp_cmd_sn)
    }

    /// StatSN of a response that counts.
    pub(super) fn take_stat_sn(&mut self) -> u32 {
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.wrapping_add(1);
        stat_sn
    }

    /// StatSN of a PDU that does not count.
    pub(super) fn peek_stat_sn(&self) -> u32 {
        self.stat_sn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_number_inside_the_window_is_taken() {
        let mut window = Window::new(u32::MAX, 1);
        assert!(window.is_closed());
        assert_eq!(window.arrive(u32::MAX), Arrival::Ignore);
        window.open(2);
        assert_eq!(window.max_cmd_sn(), 0);
        assert_eq!(window.arrive(0), Arrival::Gap);
        assert_eq!(window.arrive(1), Arrival::Ignore);
        assert_eq!(window.arrive(u32::MAX), Arrival::Next);
        assert_eq!(window.arrive(u32::MAX), Arrival::Ignore);
        assert_eq!(window.arrive(0), Arrival::Next);
        assert!(window.is_closed());
    }

    #[test]
    fn the_window_never_shrinks() {
        let mut window = Window::new(10, 1);
        window.open(8);
        window.open(2);
        assert_eq!(window.max_cmd_sn(), 17);
        assert_eq!((window.take_stat_sn(), window.peek_stat_sn()), (1, 2));
    }
}
