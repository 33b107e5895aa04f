//! The loop that owns a node's processes: signals, exits, requests and timers in; starts and signals out.
//!
//! Invariant: [`Services`] is told of every exit, and every action that it asks for is carried out at once.

use crate::cgroup::{self, Groups};
use crate::child;
use crate::control::{self, Logs, Request};
use crate::init::disk_links;
use crate::init::guest;
use crate::init::watchdog::Watchdog;
use crate::install::Installer;
use crate::logs::{ServiceLog, capture};
use crate::plan::{Condition, PLAN, ServicePlan, Services};
use crate::policy::{Action, Verdict};
use ::control::paths;
use ::control::settings::Settings;
use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Name of the lock file in the run folder.
const LOCK: &str = "lock";
/// How long a start waits for the processes of a killed predecessor to go.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(10);
/// How long the last lines of an ended process may take to arrive.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(500);

/// Why the loop ended, cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGTERM, or the power button: everything off.
    Stop,
    /// SIGINT: for PID 1 this is Ctrl-Alt-Del, which asks for a restart of the machine.
    Interrupt,
}

/// What differs between a machine and an ordinary process.
pub(crate) struct Mode<'a> {
    /// PID 1: reap every orphan, and never give up.
    pub(crate) init: bool,
    /// Where service logs are shown too.
    pub(crate) echo: Option<File>,
    /// The power button.
    pub(crate) power_button: Option<mpsc::Receiver<()>>,
    /// What runs beside [`PLAN`].
    pub(crate) menus: Vec<ServicePlan>,
    /// Called once, when every service runs for the first time.
    pub(crate) when_running: Option<Box<dyn FnOnce()>>,
    /// Where updates go.
    pub(crate) installer: Arc<Installer>,
    /// Fed while the loop turns.
    pub(crate) watchdog: &'a mut Watchdog,
}

/// Reads and validates `DIR/settings.json`.
pub(crate) fn load_settings(dir: &Path) -> anyhow::Result<Settings> {
    let path = dir.join(paths::SETTINGS);
    let text = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
    Settings::parse(&text).with_context(|| format!("{}", path.display()))
}

/// Makes the run and log folders and takes the node's lock. The lock is inherited by every service, so it is free only
/// when no process of an earlier run is left: a service never meets its predecessor's sockets and disks.
pub(crate) async fn claim(dir: &Path) -> anyhow::Result<File> {
    for name in [paths::RUN_DIR, paths::LOG_DIR] {
        let path = dir.join(name);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("{}", path.display()))?;
    }
    let path = dir.join(paths::RUN_DIR).join(LOCK);
    let opened = File::options().create(true).write(true).truncate(false).mode(0o600).open(&path);
    let lock = opened.with_context(|| format!("{}", path.display()))?;
    rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::empty()).context("lock file")?;
    let deadline = Instant::now() + PREDECESSOR_PATIENCE;
    while let Err(error) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(error).with_context(|| format!("{}", path.display()));
        }
        if Instant::now() >= deadline {
            bail!("{}: another node runs here", dir.display());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    clear_run_dir(&dir.join(paths::RUN_DIR))?;
    Ok(lock)
}

/// Removes the sockets and pid files of the run before: whoever holds the lock knows that nobody listens there.
fn clear_run_dir(run: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(run).with_context(|| format!("{}", run.display()))?.flatten() {
        let path = entry.path();
        if entry.file_name() != LOCK && entry.file_type().is_ok_and(|kind| !kind.is_dir()) {
            std::fs::remove_file(&path).with_context(|| format!("{}", path.display()))?;
        }
    }
    Ok(())
}

/// Runs the services of `dir` until a signal, the power button or a configuration error ends them.
pub(crate) async fn supervise(
    dir: &Path,
    exe: &Path,
    settings: &Settings,
    mode: &mut Mode<'_>,
) -> anyhow::Result<Ending> {
    let pid_file = dir.join(paths::SUPERVISOR_PID);
    write_atomically(&pid_file, format!("{}\n", std::process::id()).as_bytes())
        .with_context(|| format!("{}", pid_file.display()))?;
    mode.installer.repeat_promise();
    let plan: Vec<ServicePlan> = PLAN.iter().chain(&mode.menus).copied().collect();
    let services = Services::new(&plan, settings);
    let mut logs = BTreeMap::new();
    for name in services.names() {
        let path = dir.join(paths::LOG_DIR).join(format!("{name}.log"));
        let echo = mode.echo.as_ref().and_then(|file| file.try_clone().ok());
        logs.insert(name, ServiceLog::open(name, path, echo).context("log writer")?);
    }
    let logs: Logs = Arc::new(logs);
    let (requests, incoming) = mpsc::channel(16);
    let socket = dir.join(paths::SUPERVISOR_SOCKET);
    let shared = control::Shared::new(requests, &logs, &mode.installer, mode.init);
    control::listen(&socket, shared).with_context(|| format!("{}", socket.display()))?;

    let mut node = Node {
        dir: dir.into(),
        exe: exe.into(),
        init: mode.init,
        groups: if mode.init { Groups::below(Path::new(cgroup::ROOT)) } else { Groups::none() },
        services,
        processes: BTreeMap::new(),
        logs,
        start: Instant::now(),
        ending: None,
    };
    let ended = node.run(incoming, mode).await;
    for log in node.logs.values() {
        log.close(Duration::from_secs(2));
    }
    for path in [socket, pid_file] {
        // Left-overs do no harm: the next start replaces them.
        let _ = std::fs::remove_file(path);
    }
    ended
}

struct Running {
    pid: Pid,
    output: Vec<JoinHandle<()>>,
}

struct Node {
    dir: PathBuf,
    exe: PathBuf,
    init: bool,
    groups: Groups,
    services: Services,
    processes: BTreeMap<&'static str, Running>,
    logs: Logs,
    start: Instant,
    /// Set once the way down has begun.
    ending: Option<anyhow::Result<Ending>>,
}

impl Drop for Node {
    /// Nobody would look after those that are left, if any: the loop was broken off.
    fn drop(&mut self) {
        self.processes.values().for_each(|running| child::signal(running.pid, Signal::KILL));
    }
}

impl Node {
    async fn run(
        &mut self,
        mut requests: mpsc::Receiver<Request>,
        mode: &mut Mode<'_>,
    ) -> anyhow::Result<Ending> {
        let mut child_ended = signal(SignalKind::child()).context("SIGCHLD")?;
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        if self.init {
            mode.watchdog.begin_service();
        }
        let mut going_down = false;
        loop {
            while let Some((name, action)) = self.services.poll(self.now()) {
                self.execute(name, action).await;
            }
            if self.services.all_stopped()
                && let Some(ending) = self.ending.take()
            {
                return ending;
            }
            if self.services.all_running()
                && let Some(tell) = mode.when_running.take()
            {
                tell();
            }
            if self.ending.is_some() && !going_down {
                mode.watchdog.begin_shutdown();
                going_down = true;
            }
            let deadline = self.services.deadline();
            let wake = self.start + deadline.unwrap_or(Duration::from_secs(3600)).max(self.now());
            tokio::select! {
                () = tokio::time::sleep_until(wake.into()), if deadline.is_some() => {}
                _ = child_ended.recv() => self.reap().await,
                _ = terminate.recv() => self.end(Ok(Ending::Stop)),
                _ = interrupt.recv() => self.end(Ok(Ending::Interrupt)),
                pressed = pressed(&mut mode.power_button) => match pressed {
                    Some(()) => {
                        tracing::info!("power button");
                        self.end(Ok(Ending::Stop));
                    }
                    None => mode.power_button = None,
                },
                Some(request) = requests.recv() => self.answer(request).await,
                () = mode.watchdog.due() => mode.watchdog.feed(),
            }
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Begins the way down. A second signal while it lasts ends every service at once.
    fn end(&mut self, ending: anyhow::Result<Ending>) {
        if self.ending.is_some() {
            tracing::warn!("asked again to end: killing what is left");
            self.processes.values().for_each(|running| child::signal(running.pid, Signal::KILL));
            return;
        }
        if self.init {
            guest::tell(guest::State::Stopping);
        }
        self.ending = Some(ending);
        self.services.shut_down();
    }

    async fn execute(&mut self, name: &'static str, action: Action) {
        let signal = match action {
            Action::Spawn => return self.spawn(name).await,
            Action::Terminate => Signal::TERM,
            Action::Kill => {
                tracing::warn!("{name} did not end in time: killed");
                Signal::KILL
            }
        };
        if let Some(running) = self.processes.get(name) {
            child::signal(running.pid, signal);
        }
    }

    async fn spawn(&mut self, name: &'static str) {
        let plan = self.services.plan(name).copied();
        // A disk may have come since, or have another of the kernel's names.
        if self.init
            && plan.is_some_and(|plan| plan.when == Condition::DataNode)
            && let Err(error) = disk_links::refresh()
        {
            tracing::warn!("names of disks: {error:#}");
        }
        match child::spawn(&self.exe, plan.map_or(&[], |plan| plan.command), &self.dir) {
            Ok(process) => {
                tracing::info!("{name} started, process {}", process.pid.as_raw_nonzero());
                if let Some(plan) = &plan {
                    self.groups.place(plan, process.pid);
                }
                let log = self.logs.get(name);
                let output = process.output.into_iter().zip(log.into_iter().cycle());
                let output = output.map(|(pipe, log)| tokio::spawn(capture(pipe, Arc::clone(log)))).collect();
                self.processes.insert(name, Running { pid: process.pid, output });
            }
            Err(error) => {
                tracing::error!("{name}: {}: {error}", self.exe.display());
                self.exited(name, None).await;
            }
        }
    }

    /// Takes every child that has ended. An ordinary process asks for its own children only, as its embedder may have
    /// others.
    async fn reap(&mut self) {
        if self.init {
            while let Some((pid, status)) = child::reap(None) {
                self.ended(pid, status).await;
            }
        } else {
            let pids: Vec<Pid> = self.processes.values().map(|running| running.pid).collect();
            for (pid, status) in pids.into_iter().filter_map(|pid| child::reap(Some(pid))) {
                self.ended(pid, status).await;
            }
        }
    }

    async fn ended(&mut self, pid: Pid, status: rustix::process::WaitStatus) {
        let Some(name) = self.processes.iter().find(|(_, running)| running.pid == pid).map(|(name, _)| *name)
        else {
            return; // an orphan that PID 1 inherited
        };
        self.groups.clear(name);
        if let Some(running) = self.processes.remove(name) {
            for task in running.output {
                // A grandchild may hold the pipe open: then its lines arrive later.
                let _ = tokio::time::timeout(OUTPUT_PATIENCE, task).await;
            }
        }
        self.exited(name, Some(status)).await;
    }

    async fn exited(&mut self, name: &'static str, status: Option<rustix::process::WaitStatus>) {
        let how = child::describe(status);
        let code = status.and_then(rustix::process::WaitStatus::exit_status);
        match self.services.handle_exit(name, code, self.now()) {
            Verdict::Expected => tracing::info!("{name} ended: {how}"),
            Verdict::Restart(wait) => {
                tracing::error!("{name} ended by itself: {how}; next start in {} ms", wait.as_millis());
            }
            Verdict::Misconfigured => {
                let line = self.logs.get(name).and_then(|log| log.last_line());
                let line = line.unwrap_or_else(|| format!("configuration error ({how})"));
                tracing::error!("{name} can't work as configured: {line}");
                // A machine has nobody who would start it again: there the service tries on.
                if !self.init && self.ending.is_none() {
                    self.end(Err(anyhow::anyhow!("{name}: {}", line.trim_start_matches("error: "))));
                }
            }
        }
    }

    async fn answer(&mut self, request: Request) {
        // A requester that has hung up is no longer interested.
        match request {
            Request::Status(answer) => {
                let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let _ = answer.send(self.services.status(self.now(), unix));
            }
            Request::Restart(name, answer) => {
                let asked = self.services.handle_restart_request(&name, self.now());
                let _ = answer.send(asked.is_some());
                if let Some((name, Some(action))) = asked {
                    self.execute(name, action).await;
                }
            }
            Request::RestartMachine if self.ending.is_none() => self.end(Ok(Ending::Interrupt)),
            // It goes down already.
            Request::RestartMachine => {}
        }
    }
}

/// The next press; `None` once there is no button any more; never without one.
pub(crate) async fn pressed(button: &mut Option<mpsc::Receiver<()>>) -> Option<()> {
    match button {
        Some(button) => button.recv().await,
        None => std::future::pending().await,
    }
}

/// The file at `path` has either its old content or `bytes`, whatever happens.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(new, path)
}
