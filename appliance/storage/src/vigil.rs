//! Staying awake for a moment instead of falling asleep, where the next event has come quickly of late.
//!
//! One command at a time is mostly falling asleep and waking up: of the thread here, for the medium and for the next command.
//! While it stays awake the runtime serves all that comes, as ever; nothing waits for the end of a look.
//!
//! Invariants
//! - A look ends after [`LONGEST_LOOK`], and there is one only after work was done: who is idle costs nothing.
//! - All descriptors are looked at in every turn of a look for the medium, and in every [`SOLO`]th of one for the next command;
//!   in the others the connection that was answered looks at its socket by itself.
//! - None where several requests are open, or were a moment ago: what ends first wakes, and the others make the waking
//!   worth its price.
//! - Where looks were in vain there are few: a thousandth of the occasions is what is left of them.

use std::future::poll_fn;
use std::mem::replace;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How long one look takes at most.
const LONGEST_LOOK: Duration = Duration::from_micros(100);
/// One turn in so many of a look for the next command asks the kernel about all descriptors.
const SOLO: u32 = 8;
/// After a look that was in vain so many are left out; after each further one in a row twice as many.
const FIRST_PAUSE: u32 = 4;
const LONGEST_PAUSE: u32 = 1024;
/// So often in a row there was no second request, before there is a look.
const CALM: u32 = 16;

/// Decides on looks; belongs to the task that sleeps.
#[derive(Debug, Default)]
pub struct Vigil {
    /// For the answer to the one request that is open.
    medium: Patience,
    /// For the next command once all are answered.
    initiator: Patience,
    /// How often in a row there was no second request.
    calm: u32,
}

/// What recent looks have brought.
#[derive(Debug, Default)]
struct Patience {
    /// Looks to be left out.
    left_out: u32,
    /// How many were left out after the last one; 0: it was not in vain.
    pause: u32,
}

impl Vigil {
    /// Before falling asleep, with so many requests `open`, and so many `answered` since the last call. True: something
    /// `came`. Else it is time to sleep. `listen` lets the connection
    /// that was answered look at its socket.
    pub async fn look(
        &mut self,
        open: usize,
        answered: usize,
        mut listen: impl FnMut(),
        mut came: impl FnMut() -> bool,
    ) -> bool {
        self.calm = if open.saturating_add(answered) > 1 { 0 } else { self.calm.saturating_add(1) };
        let patience = match (open, answered) {
            (1, 0) => &mut self.medium,
            (0, 1) => &mut self.initiator,
            _ => return false,
        };
        if self.calm < CALM || !patience.is_worth_a_look() {
            return false;
        }
        let end = Instant::now() + LONGEST_LOOK;
        for turn in 1_u32.. {
            if open == 0 && turn % SOLO != 0 {
                listen();
                let_others_run().await;
            } else {
                // The runtime looks at every descriptor, without waiting, and runs whatever is ready.
                tokio::task::yield_now().await;
            }
            let found = came();
            if found || Instant::now() >= end {
                patience.learn(found);
                return found;
            }
        }
        false
    }
}

/// Runs the tasks that are ready, without a look at the descriptors.
async fn let_others_run() {
    let mut over = false;
    poll_fn(|context| {
        if replace(&mut over, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Patience {
    fn is_worth_a_look(&mut self) -> bool {
        let worth = self.left_out == 0;
        self.left_out = self.left_out.saturating_sub(1);
        worth
    }

    fn learn(&mut self, came: bool) {
        self.pause = if came { 0 } else { self.pause.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE) };
        self.left_out = self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Looks among so many occasions.
    fn looks(patience: &mut Patience, occasions: u32, came: bool) -> u32 {
        let mut looks = 0;
        for _ in 0..occasions {
            if patience.is_worth_a_look() {
                patience.learn(came);
                looks += 1;
            }
        }
        looks
    }

    #[test]
    fn what_comes_quickly_is_looked_for_always_what_does_not_hardly_ever() {
        let mut patience = Patience::default();
        assert_eq!(looks(&mut patience, 1000, true), 1000);
        assert!(looks(&mut patience, 100_000, false) < 110);
        // That it comes quickly again is found out within a thousand occasions.
        assert!(looks(&mut patience, LONGEST_PAUSE + 100, true) >= 99);
    }

    #[test]
    fn one_look_in_vain_among_many_costs_little() {
        let mut patience = Patience::default();
        let mut all = 0;
        for _ in 0..100 {
            all += looks(&mut patience, 20, true) + looks(&mut patience, 1, false);
        }
        assert!(all > 1600, "{all} of 2100");
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn idle_and_busy_callers_do_not_look() {
        run(async {
            let mut vigil = Vigil { calm: CALM, ..Vigil::default() };
            for (open, answered) in [(0, 0), (2, 0), (1, 1), (0, 32), (32, 1)] {
                assert!(!vigil.look(open, answered, || (), || panic!("looked")).await);
            }
            // One at a time, but not yet for long.
            for (open, answered) in [(1, 0), (0, 1), (1, 0)] {
                assert!(!vigil.look(open, answered, || (), || panic!("looked")).await);
            }
        });
    }

    #[test]
    fn a_look_ends_with_what_comes_or_in_time() {
        run(async {
            let mut vigil = Vigil { calm: CALM, ..Vigil::default() };
            let (mut asked, listened) = (0, Cell::new(0));
            let listen = || listened.set(listened.get() + 1);
            let found = vigil.look(1, 0, listen, || {
                asked += 1;
                asked == 3
            });
            assert!(found.await);
            assert_eq!(asked, 3);
            let begun = Instant::now();
            // Nobody is listened to while the medium has to answer.
            assert_eq!(listened.get(), 0);
            assert!(!vigil.look(0, 1, listen, || false).await);
            assert!(listened.get() > 0);
            assert!(begun.elapsed() >= LONGEST_LOOK);
        });
    }
}
