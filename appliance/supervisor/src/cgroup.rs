//! One control group per service (cgroup v2), and who goes first when the machine runs out of memory.
//!
//! # Invariants
//!
//! - A service never stays down for want of a group: what can't be limited runs without a limit, and the log says so.
//! - Nothing that a service started outlives it: its group is killed before the service starts again.
//! - Storage and the cluster manager are the last that the kernel picks when memory is short ([`crate::plan::PLAN`]);
//!   PID 1 it never picks.

use crate::plan::{Memory, ServicePlan};
use rustix::process::Pid;
use std::io;
use std::path::{Path, PathBuf};

/// Where a machine's control groups are mounted.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

const BYTES_PER_MIB: u64 = 1 << 20;

/// The services' groups; none for an ordinary process, whose limits are its user's business.
pub(crate) struct Groups {
    root: Option<PathBuf>,
}

impl Groups {
    /// No groups.
    pub(crate) const fn none() -> Self {
        Self { root: None }
    }

    /// Groups below `root`, whose children are to account for memory.
    pub(crate) fn below(root: &Path) -> Self {
        if let Err(error) = std::fs::write(root.join("cgroup.subtree_control"), "+memory +pids") {
            tracing::warn!("{}: memory is not limited: {error}", root.display());
        }
        Self { root: Some(root.into()) }
    }

    /// Puts the process that has just become the service of `plan` into its group. It has had no time to start others
    /// or to take memory that matters.
    pub(crate) fn place(&self, plan: &ServicePlan, pid: Pid) {
        let Some(root) = &self.root else { return };
        let pid = pid.as_raw_nonzero().to_string();
        let steps = [
            ("the order in which memory is taken back", set_order(plan.memory, &pid)),
            ("its control group", join(&group(root, plan.name), plan.memory, &pid)),
        ];
        for (what, outcome) in steps {
            if let Err(error) = outcome {
                tracing::warn!("{}: could not set {what}: {error}", plan.name);
            }
        }
    }

    /// Kills what the ended service `name` has left behind.
    pub(crate) fn clear(&self, name: &str) {
        let Some(root) = &self.root else { return };
        match std::fs::write(group(root, name).join("cgroup.kill"), "1") {
            Ok(()) => {}
            // Never started, or told of when it was.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("{name}: could not end what it left behind: {error}"),
        }
    }
}

fn group(root: &Path, name: &str) -> PathBuf {
    root.join(format!("futago-{name}"))
}

fn set_order(memory: Memory, pid: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), memory.oom_score_adj.to_string())
}

/// The process joins even where its memory can't be limited: then it can at least be killed with all of its children.
fn join(group: &Path, memory: Memory, pid: &str) -> io::Result<()> {
    match std::fs::create_dir(group) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let limited = limit(group, memory);
    std::fs::write(group.join("cgroup.procs"), pid)?;
    limited
}

fn limit(group: &Path, memory: Memory) -> io::Result<()> {
    let max =
        memory.max_mib.map_or_else(|| "max".to_owned(), |mib| (u64::from(mib) * BYTES_PER_MIB).to_string());
    std::fs::write(group.join("memory.max"), max)?;
    // A service with half of its processes gone is worse than one that starts anew.
    std::fs::write(group.join("memory.oom.group"), "1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PLAN;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    fn sleeper(script: &str) -> (Child, Pid) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        let pid = Pid::from_child(&child);
        (child, pid)
    }

    fn web() -> ServicePlan {
        *PLAN.iter().find(|plan| plan.name == "web").unwrap()
    }

    #[test]
    fn a_service_is_limited_and_placed() {
        let root = tempfile::tempdir().unwrap();
        let groups = Groups::below(root.path());
        let (mut child, pid) = sleeper("sleep 60");
        groups.place(&web(), pid);
        let group = root.path().join("futago-web");
        let read = |name: &str| std::fs::read_to_string(group.join(name)).unwrap();
        let max = u64::from(web().memory.max_mib.unwrap()) << 20;
        assert_eq!(read("memory.max"), max.to_string());
        assert_eq!(read("memory.oom.group"), "1");
        assert_eq!(read("cgroup.procs"), child.id().to_string());
        let order = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", child.id())).unwrap();
        assert_eq!(order.trim(), web().memory.oom_score_adj.to_string());
        groups.clear("web");
        assert_eq!(read("cgroup.kill"), "1");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn without_groups_nothing_is_touched() {
        let (mut child, pid) = sleeper("sleep 60");
        let order = || std::fs::read_to_string(format!("/proc/{}/oom_score_adj", child.id())).unwrap();
        let before = order();
        Groups::none().place(&web(), pid);
        Groups::none().clear("web");
        assert_eq!(order(), before);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_missing_hierarchy_stops_nobody() {
        let (mut child, pid) = sleeper("sleep 60");
        let groups = Groups::below(Path::new("/nonexistent"));
        groups.place(&web(), pid);
        groups.clear("web");
        assert!(child.try_wait().unwrap().is_none(), "it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// With the kernel's own groups, where this machine lets us make some.
    #[test]
    fn what_a_service_left_behind_is_killed() {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let hierarchy = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let at = fields.next()?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(at))
        });
        let root = hierarchy.map(|at| at.join(format!("futago-test-{}", std::process::id())));
        let Some(root) = root.filter(|root| std::fs::create_dir(root).is_ok()) else {
            println!("skipped: no control groups (v2) that can be changed here");
            return;
        };
        let groups = Groups { root: Some(root.clone()) };
        // It starts another one once it is placed, and ends before that one.
        let (mut child, pid) = sleeper("sleep 0.5; sleep 60 & :");
        groups.place(&web(), pid);
        child.wait().unwrap();
        let left = std::fs::read_to_string(group(&root, "web").join("cgroup.procs")).unwrap();
        assert_eq!(left.lines().count(), 1, "{left:?}");
        groups.clear("web");
        let group = group(&root, "web");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !std::fs::read_to_string(group.join("cgroup.procs")).unwrap().is_empty() {
            assert!(Instant::now() < deadline, "still there");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::remove_dir(group).unwrap();
        std::fs::remove_dir(root).unwrap();
    }
}
