//! One service: desired state × actual state → what to do. Pure: time is a parameter, a reading of any monotonic
//! clock as a [`Duration`] since some fixed start.
//!
//! Invariants:
//! - A process exists exactly in the states `Starting`, `Running` and `Stopping`.
//! - A service that is meant to be up is never `Stopped` after [`Service::poll`] returned `None`.
//! - Two starts without a stable run between them are at least the back-off apart, which doubles from
//!   [`BACK_OFF_MIN`] to [`BACK_OFF_MAX`].

use control::service::ServiceState;
use core::time::Duration;

/// First wait before a service that ended by itself is started again.
pub const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait before a service that ended by itself is started again.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// A start that lives this long is called running.
pub const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// A run of this length is stable: the back-off starts over.
pub const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Exit status by which a service says that it can't work as configured (`EX_CONFIG` of sysexits.h): an address in
/// use, a corrupted state file. Starting it again does not help.
pub const EXIT_CONFIG: i32 = 78;

/// What the service is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired {
    /// Running, and started again whenever it ends.
    Up,
    /// Ended.
    Down,
}

/// What the driver must do now. The machine has already assumed it done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the process; report a failure by [`Service::handle_exit`].
    Spawn,
    /// Ask it to end (SIGTERM).
    Terminate,
    /// End it (SIGKILL): its grace is over.
    Kill,
}

/// What an exit means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was meant to end.
    Expected,
    /// It ended by itself and starts again after this wait.
    Restart(Duration),
    /// It never had a stable run and said by [`EXIT_CONFIG`] that it can't work. It too starts again after the longest wait, unless the
    /// driver gives the whole node up.
    Misconfigured,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Stopped,
    Starting,
    Running,
    BackingOff { until: Duration },
    Stopping { kill_at: Option<Duration> },
}

/// The restart policy of one service.
#[derive(Clone, Debug)]
pub struct Service {
    desired: Desired,
    state: State,
    since: Duration,
    grace: Duration,
    /// Ends by itself since the last stable run.
    failures: u32,
    starts: u64,
    /// It has had a stable run.
    has_run: bool,
}

impl Service {
    /// A stopped service that is meant to be up; `grace` is its time between SIGTERM and SIGKILL.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self {
            desired: Desired::Up,
            state: State::Stopped,
            since: Duration::ZERO,
            grace,
            failures: 0,
            starts: 0,
            has_run: false,
        }
    }

    /// For the status page.
    #[must_use]
    pub fn state(&self) -> ServiceState {
        match self.state {
            State::Stopped => ServiceState::Stopped,
            State::Starting => ServiceState::Starting,
            State::Running => ServiceState::Running,
            State::BackingOff { .. } => ServiceState::BackingOff,
            State::Stopping { .. } => ServiceState::Stopping,
        }
    }

    /// When the present state began.
    #[must_use]
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Starts after the first one.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.starts.saturating_sub(1)
    }

    /// There is no process, and none will be started unless it is meant to be up.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    /// A process exists.
    #[must_use]
    pub fn has_process(&self) -> bool {
        match self.state {
            State::Starting | State::Running | State::Stopping { .. } => true,
            State::Stopped | State::BackingOff { .. } => false,
        }
    }

    /// When [`Service::poll`] has something to do by itself; `None`: not before the next event.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::BackingOff { until } => Some(until),
            State::Stopping { kill_at } => kill_at,
            State::Starting => Some(self.since.saturating_add(SETTLED_AFTER)),
            State::Running if self.failures > 0 || !self.has_run => {
                Some(self.since.saturating_add(STABLE_AFTER))
            }
            State::Running | State::Stopped => None,
        }
    }

    /// Sets what the service is meant to be; [`Service::poll`] does the rest.
    pub fn set_desired(&mut self, desired: Desired) {
        self.desired = desired;
    }

    /// Someone asked for a restart. A running process is asked to end; one that waits is started at once.
    pub fn handle_restart_request(&mut self, now: Duration) -> Option<Action> {
        match (self.desired, self.state) {
            (Desired::Up, State::Starting | State::Running) => Some(self.terminate(now)),
            (Desired::Up, State::BackingOff { .. }) => {
                self.failures = 0;
                self.enter(State::Stopped, now);
                None
            }
            (Desired::Up, State::Stopped | State::Stopping { .. }) | (Desired::Down, _) => None,
        }
    }

    /// The process ended, or could not be started, with this exit status (`None`: by a signal, or not started).
    pub fn handle_exit(&mut self, status: Option<i32>, now: Duration) -> Verdict {
        match self.state {
            State::Stopping { .. } => {
                self.enter(State::Stopped, now);
                Verdict::Expected
            }
            State::Starting | State::Running => {
                self.note_stable_run(now);
                self.failures = self.failures.saturating_add(1);
                let misconfigured = status == Some(EXIT_CONFIG) && !self.has_run;
                let wait = if misconfigured { BACK_OFF_MAX } else { back_off(self.failures) };
                self.enter(State::BackingOff { until: now.saturating_add(wait) }, now);
                if misconfigured { Verdict::Misconfigured } else { Verdict::Restart(wait) }
            }
            // No process: nothing can have ended.
            State::Stopped | State::BackingOff { .. } => Verdict::Expected,
        }
    }

    /// Brings the state towards the desired one by at most one action. Call again until it answers `None`.
    /// `may_stop` is false while a service that needs this one still has a process.
    pub fn poll(&mut self, may_stop: bool, now: Duration) -> Option<Action> {
        match (self.desired, self.state) {
            (Desired::Up, State::Stopped) => Some(self.spawn(now)),
            (Desired::Up, State::BackingOff { until }) if now >= until => Some(self.spawn(now)),
            (Desired::Down, State::BackingOff { .. }) => {
                self.enter(State::Stopped, now);
                None
            }
            (Desired::Down, State::Starting | State::Running) if may_stop => Some(self.terminate(now)),
            (_, State::Stopping { kill_at: Some(at) }) if now >= at => {
                self.state = State::Stopping { kill_at: None };
                Some(Action::Kill)
            }
            (_, State::Starting) if now.saturating_sub(self.since) >= SETTLED_AFTER => {
                self.enter(State::Running, now);
                None
            }
            (_, State::Running) => {
                self.note_stable_run(now);
                None
            }
            (_, State::Starting | State::Stopping { .. })
            | (Desired::Down, State::Stopped)
            | (Desired::Up, State::BackingOff { .. }) => None,
        }
    }

    fn note_stable_run(&mut self, now: Duration) {
        if self.state == State::Running && now.saturating_sub(self.since) >= STABLE_AFTER {
            self.failures = 0;
            self.has_run = true;
        }
    }

    fn enter(&mut self, state: State, now: Duration) {
        self.state = state;
        self.since = now;
    }

    fn spawn(&mut self, now: Duration) -> Action {
        self.starts = self.starts.saturating_add(1);
        self.enter(State::Starting, now);
        Action::Spawn
    }

    fn terminate(&mut self, now: Duration) -> Action {
        self.enter(State::Stopping { kill_at: Some(now.saturating_add(self.grace)) }, now);
        Action::Terminate
    }
}

/// The wait after the `failures`th end in a row.
fn back_off(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    BACK_OFF_MIN.saturating_mul(1 << doublings).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(3);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn started(now: Duration) -> Service {
        let mut service = Service::new(GRACE);
        assert_eq!(service.poll(true, now), Some(Action::Spawn));
        assert_eq!(service.poll(true, now), None);
        service
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut service = Service::new(GRACE);
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(service.poll(true, now), Some(Action::Spawn));
            let Verdict::Restart(wait) = service.handle_exit(Some(1), now) else {
                panic!("restart expected")
            };
            assert_eq!(service.poll(true, now), None, "not before the wait is over");
            waits.push(u64::try_from(wait.as_millis()).unwrap());
            now += wait;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
        assert_eq!(service.restarts(), 9);
    }

    #[test]
    fn a_stable_run_starts_the_back_off_over() {
        let mut service = started(s(0));
        assert_eq!(service.handle_exit(None, s(0)), Verdict::Restart(BACK_OFF_MIN));
        assert_eq!(service.poll(true, s(1)), Some(Action::Spawn));
        assert_eq!(service.handle_exit(None, s(1)), Verdict::Restart(BACK_OFF_MIN * 2));
        assert_eq!(service.poll(true, s(2)), Some(Action::Spawn));
        assert_eq!(service.poll(true, s(3)), None);
        assert_eq!(service.state(), ServiceState::Running);
        assert_eq!(service.handle_exit(None, s(20)), Verdict::Restart(BACK_OFF_MIN));
    }

    #[test]
    fn a_start_is_running_once_it_has_settled() {
        let mut service = started(s(5));
        assert_eq!(service.state(), ServiceState::Starting);
        assert_eq!(service.deadline(), Some(s(6)));
        assert_eq!(service.poll(true, s(6)), None);
        assert_eq!((service.state(), service.since()), (ServiceState::Running, s(6)));
        assert_eq!(service.deadline(), Some(s(16)));
        assert_eq!(service.poll(true, s(16)), None);
        assert_eq!(service.deadline(), None, "nothing to do for a stable service");
    }

    #[test]
    fn a_stop_waits_for_those_who_need_it_then_kills_after_its_grace() {
        let mut service = started(s(0));
        service.set_desired(Desired::Down);
        assert_eq!(service.poll(false, s(1)), None);
        assert_eq!(service.poll(true, s(1)), Some(Action::Terminate));
        assert_eq!(service.deadline(), Some(s(4)));
        assert_eq!(service.poll(true, s(3)), None);
        assert_eq!(service.poll(true, s(4)), Some(Action::Kill));
        assert_eq!(service.poll(true, s(9)), None, "killed once");
        assert_eq!(service.handle_exit(None, s(9)), Verdict::Expected);
        assert!(service.is_stopped());
        assert_eq!(service.poll(true, s(9)), None);
    }

    #[test]
    fn a_stop_ends_the_waiting_too() {
        let mut service = started(s(0));
        service.handle_exit(Some(1), s(0));
        service.set_desired(Desired::Down);
        assert_eq!(service.poll(true, s(60)), None);
        assert!(service.is_stopped());
    }

    #[test]
    fn a_requested_restart_starts_again_at_once() {
        let mut service = started(s(0));
        assert_eq!(service.handle_restart_request(s(2)), Some(Action::Terminate));
        assert_eq!(service.handle_restart_request(s(2)), None, "one SIGTERM is enough");
        assert_eq!(service.handle_exit(Some(0), s(3)), Verdict::Expected);
        assert_eq!(service.poll(true, s(3)), Some(Action::Spawn));
        assert_eq!(service.restarts(), 1);

        service.handle_exit(Some(1), s(3));
        assert_eq!(service.handle_restart_request(s(3)), None);
        assert_eq!(service.poll(true, s(3)), Some(Action::Spawn), "the wait is cut short");
    }

    #[test]
    fn a_configuration_error_counts_only_before_the_first_stable_run() {
        let mut service = started(s(0));
        assert_eq!(service.handle_exit(Some(EXIT_CONFIG), s(0)), Verdict::Misconfigured);
        assert_eq!(service.poll(true, BACK_OFF_MAX), Some(Action::Spawn));
        assert_eq!(service.poll(true, s(11)), None);
        assert_eq!(service.handle_exit(Some(EXIT_CONFIG), s(13)), Verdict::Misconfigured);
        assert_eq!(service.poll(true, s(23)), Some(Action::Spawn));
        assert_eq!(service.poll(true, s(24)), None);
        assert!(matches!(service.handle_exit(Some(EXIT_CONFIG), s(40)), Verdict::Restart(_)));
    }

    #[test]
    fn any_sequence_of_events_keeps_the_invariants() {
        // A small linear congruential generator: the test needs variety, not quality.
        let mut seed = 12_345_u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..500 {
            let mut service = Service::new(GRACE);
            let (mut process, mut now) = (false, Duration::ZERO);
            for _ in 0..200 {
                now += Duration::from_millis(random(1500));
                let mut action = None;
                match random(6) {
                    0 => service.set_desired(Desired::Up),
                    1 => service.set_desired(Desired::Down),
                    2 => action = service.handle_restart_request(now),
                    3 if process => {
                        service.handle_exit(Some(i32::try_from(random(80)).unwrap()), now);
                        process = false;
                    }
                    _ => {}
                }
                loop {
                    match action.take().or_else(|| service.poll(random(2) == 0, now)) {
                        Some(Action::Spawn) => {
                            assert!(!process, "a second process");
                            process = true;
                        }
                        Some(Action::Terminate | Action::Kill) => assert!(process, "a signal to nobody"),
                        None => break,
                    }
                }
                assert_eq!(process, service.has_process());
                if service.desired == Desired::Up {
                    assert!(!service.is_stopped());
                }
            }
        }
    }
}
