//! Processes: start, signal, reap.
//!
//! Invariant: no child outlives its supervisor. A child asks the kernel for SIGKILL on the supervisor's death before it
//! becomes the service, and it stays in the supervisor's process group. That death signal is bound to the *thread* that
//! started the child, so [`spawn`] is called on the supervisor's main thread only.

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, getppid};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tokio::net::unix::pipe;

/// A started service.
pub(crate) struct Process {
    /// Its process id.
    pub(crate) pid: Pid,
    /// What it writes.
    pub(crate) output: [pipe::Receiver; 2],
}

/// Starts `exe COMMAND… --dir DIR` with its output in pipes.
pub(crate) fn spawn(exe: &Path, subcommand: &[&str], dir: &Path) -> io::Result<Process> {
    let supervisor = getpid();
    let mut command = Command::new(exe);
    command.args(subcommand).arg("--dir").arg(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The supervisor may have died before the request above: then nobody would send the signal.
        if getppid() != Some(supervisor) {
            return Err(io::Error::other("the supervisor is gone"));
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed. It makes two
    // system calls and, on failure, returns an error whose text is a constant.
    unsafe { command.pre_exec(before_exec) };
    let mut child = command.spawn()?;
    let taken = take(&mut child);
    if taken.is_err() {
        // Who is told of a failure does not look for a process, and starts another.
        let _ = child.kill().and_then(|()| child.wait());
    }
    taken
}

fn take(child: &mut Child) -> io::Result<Process> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    let stdout = child.stdout.take().map(OwnedFd::from).ok_or(io::ErrorKind::BrokenPipe)?;
    let stderr = child.stderr.take().map(OwnedFd::from).ok_or(io::ErrorKind::BrokenPipe)?;
    let output = [pipe::Receiver::from_owned_fd(stdout)?, pipe::Receiver::from_owned_fd(stderr)?];
    Ok(Process { pid, output })
}

/// Sends `signal`; a process that has just ended is no error.
pub(crate) fn signal(pid: Pid, signal: Signal) {
    if let Err(error) = rustix::process::kill_process(pid, signal)
        && error != rustix::io::Errno::SRCH
    {
        tracing::error!("signal {signal:?} to process {pid:?}: {error}");
    }
}

/// The ended child `pid`, if it has ended; with `None`, any ended child (PID 1 inherits every orphan).
pub(crate) fn reap(pid: Option<Pid>) -> Option<(Pid, WaitStatus)> {
    let waited = match pid {
        Some(pid) => rustix::process::waitpid(Some(pid), WaitOptions::NOHANG),
        None => rustix::process::wait(WaitOptions::NOHANG),
    };
    // The only failure is "no such child": it has been reaped.
    waited.ok().flatten()
}

/// How a process ended, for people: `exit status 1`, `signal 9`.
pub(crate) fn describe(status: Option<WaitStatus>) -> String {
    match status.map(|status| (status.exit_status(), status.terminating_signal())) {
        Some((Some(code), _)) => format!("exit status {code}"),
        Some((None, Some(signal))) => format!("signal {signal}"),
        Some((None, None)) | None => "could not be started".into(),
    }
}
