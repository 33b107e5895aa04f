//! Starting and ending the demo's nodes: one supervisor each, in a process group of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::layout::{DemoNode, NODES};

/// How long a node that was killed may take to be gone: the kernel ends its disk requests first.
const DEATH_PATIENCE: Duration = Duration::from_secs(5);
/// How long a node may take to hand over, flush and end.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// The node's supervisor, if it runs.
pub(super) fn running(node: DemoNode, demo: &Path) -> Option<Pid> {
    let text = fs::read_to_string(node.dir(demo).join(control::paths::SUPERVISOR_PID)).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok()?)?;
    // The number may have gone to another process since: only a `futago node` of this directory counts.
    let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    let ours = String::from_utf8_lossy(&arguments).contains("node")
        && String::from_utf8_lossy(&arguments).contains(&*node.dir(demo).to_string_lossy());
    (ours && test_kill_process(pid).is_ok()).then_some(pid)
}

/// Starts the node's supervisor and waits until it has written its process id.
pub(super) fn start(node: DemoNode, demo: &Path) -> anyhow::Result<Pid> {
    let patience = Instant::now() + DEATH_PATIENCE;
    while let Some(pid) = running(node, demo) {
        if Instant::now() > patience {
            bail!("node {} runs already (process {})", node.name, pid.as_raw_nonzero());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let dir = node.dir(demo);
    fs::create_dir_all(dir.join(control::paths::LOG_DIR))?;
    let log_path = log_path(node, demo);
    let log = fs::File::options().create(true).append(true).open(&log_path)?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("node")
        .arg("--dir")
        .arg(&dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("node {} can't be started", node.name))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(pid) = running(node, demo) {
            return Ok(pid);
        }
        if let Some(status) = child.try_wait()? {
            let last = fs::read_to_string(&log_path).unwrap_or_default();
            bail!(
                "node {} ended at once ({status}): {}",
                node.name,
                last.lines().last().unwrap_or("no message")
            );
        }
        if Instant::now() > deadline {
            bail!("node {} did not come up; see {}", node.name, log_path.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a node ends by itself; the error is what it said last.
pub(super) async fn first_end(demo: &Path) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        reap();
        if let Some(node) = NODES.into_iter().find(|node| running(*node, demo).is_none()) {
            bail!("node {} ended: {}", node.name, last_words(&log_path(node, demo)));
        }
    }
}

fn log_path(node: DemoNode, demo: &Path) -> PathBuf {
    node.dir(demo).join(control::paths::LOG_DIR).join("supervisor.log")
}

/// The last line of a log.
fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let line = text.lines().last().unwrap_or("no message");
    line.trim_start_matches("futago: ").to_owned()
}

/// Ends the node cleanly: it hands over what it serves, flushes and stops.
pub(super) fn stop(node: DemoNode, demo: &Path) -> anyhow::Result<()> {
    let Some(pid) = running(node, demo) else { return Ok(()) };
    kill_process(pid, Signal::TERM).with_context(|| format!("node {} can't be told to stop", node.name))?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    while running(node, demo).is_some() {
        reap();
        if Instant::now() > deadline {
            kill_process(pid, Signal::KILL)?;
            bail!("node {} did not stop within {} s and was killed", node.name, STOP_TIMEOUT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Collects ended nodes: a killed one must not stay as a zombie that looks alive.
pub(super) fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}
