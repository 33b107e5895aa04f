//! The boot plan as data, and the order that follows from it. Pure.
//!
//! Invariants:
//! - Services start in the order of [`PLAN`]. A start waits for nobody: every service dials those it needs until they
//!   answer.
//! - On the way down a service is asked to end only when none that needs it has a process. So storage hands its
//!   volumes over while the cluster manager is still there to commit it.
//! - A service that crashes takes nobody along: I/O goes on while the cluster manager restarts (until the lease ends).

use crate::policy::{Action, Desired, Service, Verdict};
use control::service::{ServiceState, ServiceStatus};
use control::settings::{Role, Settings};
use core::time::Duration;

/// One line of the boot plan.
#[derive(Clone, Copy, Debug)]
pub struct ServicePlan {
    /// Its log's name and its name in the status.
    pub name: &'static str,
    /// Its subcommand, with arguments; `--dir DIR` follows.
    pub command: &'static [&'static str],
    /// Who must outlive it on the way down.
    pub needs: &'static [&'static str],
    /// Which nodes run it.
    pub when: Condition,
    /// Time between SIGTERM and SIGKILL, at 100 % time scale.
    pub grace: Duration,
    /// What it may take of the machine's memory.
    pub memory: Memory,
}

/// A service's share of the machine's memory, where the supervisor is PID 1.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// More than this ends the service, and it starts again. `None`: it bounds itself (limits per connection and
    /// session), and ending it would cost I/O.
    pub max_mib: Option<u16>,
    /// The kernel's `oom_score_adj`, -1000 to 1000: the highest goes first when the whole machine is short of memory.
    pub oom_score_adj: i16,
}

/// Which nodes run a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All.
    Always,
    /// Nodes that hold data.
    DataNode,
    /// Nodes whose settings ask for the web console.
    WebConsole,
}

/// What runs on a node, in starting order.
pub const PLAN: &[ServicePlan] = &[
    ServicePlan {
        name: "cluster",
        command: &["cluster"],
        needs: &[],
        when: Condition::Always,
        grace: Duration::from_secs(5),
        memory: Memory { max_mib: None, oom_score_adj: -800 },
    },
    // Its grace covers the hand-over of every volume and the flush of its disks.
    ServicePlan {
        name: "storage",
        command: &["storage"],
        needs: &["cluster"],
        when: Condition::DataNode,
        grace: Duration::from_secs(10),
        memory: Memory { max_mib: None, oom_score_adj: -900 },
    },
    ServicePlan {
        name: "web",
        command: &["web"],
        needs: &["cluster"],
        when: Condition::WebConsole,
        grace: Duration::from_secs(5),
        memory: Memory { max_mib: Some(192), oom_score_adj: 500 },
    },
];

/// The set-up console of a machine that has no settings yet. Strangers reach it, and PID 1 has nothing else to run then.
pub const SETUP: ServicePlan = ServicePlan {
    name: "setup",
    command: &["setup"],
    needs: &[],
    when: Condition::Always,
    grace: Duration::from_secs(2),
    memory: Memory { max_mib: Some(128), oom_score_adj: 500 },
};
/// The menu on the VM's screen.
pub const SCREEN: ServicePlan = menu("screen", &["console", "--tty", "/dev/tty1"]);
/// The menu on the first serial port.
pub const SERIAL: ServicePlan = menu("serial", &["console", "--tty", "/dev/ttyS0"]);

const fn menu(name: &'static str, command: &'static [&'static str]) -> ServicePlan {
    ServicePlan {
        name,
        command,
        needs: &["cluster"],
        when: Condition::Always,
        grace: Duration::from_secs(2),
        memory: Memory { max_mib: Some(64), oom_score_adj: 600 },
    }
}

impl Condition {
    fn holds(self, settings: &Settings) -> bool {
        match self {
            Self::Always => true,
            Self::DataNode => settings.role == Role::Data,
            Self::WebConsole => settings.web,
        }
    }
}

struct Entry {
    plan: ServicePlan,
    service: Service,
}

/// The services of one node.
pub struct Services {
    entries: Vec<Entry>,
}

impl Services {
    /// The services that `settings` ask for, all stopped and meant to be up. Grace times grow with the time scale,
    /// never below their normal length.
    #[must_use]
    pub fn new(plan: &[ServicePlan], settings: &Settings) -> Self {
        let percent = settings.time_scale_percent.max(100);
        let entries = plan
            .iter()
            .filter(|plan| plan.when.holds(settings))
            .map(|plan| Entry {
                plan: *plan,
                service: Service::new(plan.grace.saturating_mul(percent) / 100),
            })
            .collect();
        Self { entries }
    }

    /// Names in starting order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.entries.iter().map(|entry| entry.plan.name)
    }

    /// The plan's line of `name`.
    #[must_use]
    pub fn plan(&self, name: &str) -> Option<&ServicePlan> {
        self.entries.iter().map(|entry| &entry.plan).find(|plan| plan.name == name)
    }

    /// For the status page: `now` on the monotonic clock is `now_unix` since the Unix epoch.
    #[must_use]
    pub fn status(&self, now: Duration, now_unix: Duration) -> Vec<ServiceStatus> {
        let status = |entry: &Entry| ServiceStatus {
            name: entry.plan.name.into(),
            state: entry.service.state(),
            restarts: entry.service.restarts(),
            since: now_unix.saturating_sub(now.saturating_sub(entry.service.since())).as_secs(),
        };
        self.entries.iter().map(status).collect()
    }

    /// Every service is stopped.
    #[must_use]
    pub fn all_stopped(&self) -> bool {
        self.entries.iter().all(|entry| entry.service.is_stopped())
    }

    /// Every service of [`PLAN`] runs. A menu is no part of what a node promises.
    #[must_use]
    pub fn all_running(&self) -> bool {
        let promised = |entry: &&Entry| PLAN.iter().any(|plan| plan.name == entry.plan.name);
        self.entries.iter().filter(promised).all(|entry| entry.service.state() == ServiceState::Running)
    }

    /// The earliest moment at which [`Services::poll`] has something to do by itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.entries.iter().filter_map(|entry| entry.service.deadline()).min()
    }

    /// Everything down, in order; [`Services::poll`] says what to do.
    pub fn shut_down(&mut self) {
        for entry in &mut self.entries {
            entry.service.set_desired(Desired::Down);
        }
    }

    /// Someone asked for a restart of `name`: what to do now, if anything. `None`: there is no such service.
    pub fn handle_restart_request(
        &mut self,
        name: &str,
        now: Duration,
    ) -> Option<(&'static str, Option<Action>)> {
        let entry = self.entries.iter_mut().find(|entry| entry.plan.name == name)?;
        Some((entry.plan.name, entry.service.handle_restart_request(now)))
    }

    /// The process of `name` ended or could not be started (see [`Service::handle_exit`]).
    pub fn handle_exit(&mut self, name: &str, status: Option<i32>, now: Duration) -> Verdict {
        let entry = self.entries.iter_mut().find(|entry| entry.plan.name == name);
        entry.map_or(Verdict::Expected, |entry| entry.service.handle_exit(status, now))
    }

    /// One thing to do, if any. Call again until it answers `None`.
    pub fn poll(&mut self, now: Duration) -> Option<(&'static str, Action)> {
        let busy: Vec<&'static [&'static str]> = self
            .entries
            .iter()
            .filter(|entry| entry.service.has_process())
            .map(|entry| entry.plan.needs)
            .collect();
        self.entries.iter_mut().find_map(|entry| {
            let needed = busy.iter().any(|needs| needs.contains(&entry.plan.name));
            entry.service.poll(!needed, now).map(|action| (entry.plan.name, action))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::settings::Ports;

    fn settings(role: Role, web: bool) -> Settings {
        Settings {
            version: 1,
            name: "a".into(),
            role,
            address: "127.0.0.11".parse().unwrap(),
            ports: Ports::default(),
            portal_interface: None,
            portal_prefix_len: 24,
            gateway: None,
            mirror: None,
            dns: Vec::new(),
            ntp: Vec::new(),
            disks: Vec::new(),
            time_scale_percent: 100,
            web,
        }
    }

    fn drain(services: &mut Services, now: Duration) -> Vec<(&'static str, Action)> {
        core::iter::from_fn(|| services.poll(now)).collect()
    }

    #[test]
    fn needs_name_earlier_services_only() {
        for (index, plan) in PLAN.iter().enumerate() {
            for need in plan.needs {
                assert!(
                    PLAN[..index].iter().any(|earlier| earlier.name == *need),
                    "{} needs {need}",
                    plan.name
                );
            }
        }
    }

    #[test]
    fn storage_is_the_last_to_lose_its_memory_and_has_no_limit() {
        let order = |name: &str| PLAN.iter().find(|plan| plan.name == name).unwrap().memory.oom_score_adj;
        for plan in PLAN {
            assert!((-1000..=1000).contains(&plan.memory.oom_score_adj));
            assert!(plan.name == "storage" || plan.memory.oom_score_adj > order("storage"), "{}", plan.name);
            let carries_io = ["storage", "cluster"].contains(&plan.name);
            assert_eq!(plan.memory.max_mib.is_none(), carries_io, "{}", plan.name);
        }
        assert!(order("cluster") < order("web"));
        for plan in [SETUP, SCREEN, SERIAL] {
            assert!(plan.memory.max_mib.is_some() && plan.memory.oom_score_adj > 0, "{}", plan.name);
        }
    }

    #[test]
    fn a_menu_that_can_not_run_does_not_keep_the_node_from_running() {
        let plan: Vec<ServicePlan> = PLAN.iter().copied().chain([SCREEN, SERIAL]).collect();
        let mut services = Services::new(&plan, &settings(Role::Data, true));
        let (mut now, settled) = (Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!(drain(&mut services, now).len(), 5);
        services.handle_exit("serial", Some(1), now);
        assert!(!services.all_running());
        while now < settled {
            now += Duration::from_millis(50);
            for (name, action) in drain(&mut services, now) {
                assert_eq!((name, action), ("serial", Action::Spawn));
                services.handle_exit("serial", Some(1), now);
            }
        }
        assert!(services.all_running());
    }

    #[test]
    fn roles_choose_the_services() {
        let names = |role, web| Services::new(PLAN, &settings(role, web)).names().collect::<Vec<_>>();
        assert_eq!(names(Role::Data, true), ["cluster", "storage", "web"]);
        assert_eq!(names(Role::Witness, true), ["cluster", "web"]);
        assert_eq!(names(Role::Witness, false), ["cluster"]);
    }

    #[test]
    fn the_cluster_manager_is_stopped_last() {
        let now = Duration::from_secs(1);
        let mut services = Services::new(PLAN, &settings(Role::Data, true));
        assert_eq!(drain(&mut services, now).len(), 3);
        services.shut_down();
        assert_eq!(drain(&mut services, now), [("storage", Action::Terminate), ("web", Action::Terminate)]);
        services.handle_exit("web", Some(0), now);
        assert_eq!(drain(&mut services, now), [], "storage still needs it");
        services.handle_exit("storage", Some(0), now);
        assert_eq!(drain(&mut services, now), [("cluster", Action::Terminate)]);
        assert!(!services.all_stopped());
        services.handle_exit("cluster", None, now);
        assert_eq!(drain(&mut services, now), []);
        assert!(services.all_stopped());
    }

    #[test]
    fn a_service_that_waits_for_its_restart_holds_nobody_up() {
        let now = Duration::from_secs(1);
        let mut services = Services::new(PLAN, &settings(Role::Data, false));
        drain(&mut services, now);
        services.handle_exit("storage", Some(1), now);
        services.shut_down();
        assert_eq!(drain(&mut services, now), [("cluster", Action::Terminate)]);
        services.handle_exit("cluster", Some(0), now);
        assert_eq!(drain(&mut services, now), []);
        assert!(services.all_stopped());
    }

    #[test]
    fn a_crash_takes_nobody_along() {
        let now = Duration::from_secs(1);
        let mut services = Services::new(PLAN, &settings(Role::Data, true));
        drain(&mut services, now);
        services.handle_exit("cluster", None, now);
        assert_eq!(drain(&mut services, now), []);
        let wait = services.deadline().unwrap();
        assert_eq!(drain(&mut services, wait), [("cluster", Action::Spawn)]);
        let at = |later_ms| {
            let later = Duration::from_millis(later_ms);
            services.status(now * 2 + later, Duration::from_millis(1_000_500) + later)
        };
        let status = at(0);
        assert!((0..3000).step_by(100).all(|later_ms| at(later_ms) == status), "no moment moves");
        assert_eq!((status[0].restarts, status[1].restarts), (1, 0));
    }
}
