//! Every system call of PID 1 fails once: it goes on, says so, and ends only when it is asked to, in order.
//!
//! PID 1 runs as the first process of namespaces of its own, without a VM, and strace makes the Nth call of a name fail in its main
//! thread. A user namespace keeps it from the machine's devices. `FUTAGO_FAULTS=N` tries N faults instead of a few, `all` all of them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futago_e2e::tools::{self, Random, repository, run, wait_for, work_dir};

/// When a call may be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// Before the first service starts and the event loop turns: from then on the calls of this name are mostly the loop's own, on pipes and counters in memory,
    /// which the kernel does not let fail.
    Booting,
}
use When::{Always, Booting};

/// What fails, and how.
const FAULTS: &[(&str, &str, When)] = &[
    ("accept4", "EMFILE", Always),
    ("bind", "EADDRINUSE", Always),
    ("chmod", "EPERM", Always),
    ("clone", "EAGAIN", Always),
    ("clone3", "EAGAIN", Always),
    ("dup2", "EBUSY", Always),
    ("epoll_create1", "EMFILE", Always),
    ("epoll_ctl", "ENOSPC", Always),
    ("eventfd2", "EMFILE", Always),
    ("fcntl", "EMFILE", Booting),
    ("flock", "ENOLCK", Always),
    ("fsync", "EIO", Always),
    ("getdents64", "EIO", Always),
    ("getsockname", "ENOBUFS", Always),
    ("kill", "EPERM", Always),
    ("listen", "EADDRINUSE", Always),
    ("mkdir", "ENOSPC", Always),
    ("mount", "ENODEV", Always),
    ("newfstatat", "EIO", Always),
    ("openat", "EMFILE", Always),
    ("pipe2", "EMFILE", Always),
    ("read", "EIO", Booting),
    ("readlink", "EIO", Always),
    ("reboot", "EPERM", Always),
    ("recvfrom", "ENOBUFS", Booting),
    ("rename", "ENOSPC", Always),
    ("sendto", "ENOBUFS", Booting),
    ("setsockopt", "ENOBUFS", Always),
    ("sethostname", "EPERM", Always),
    ("shutdown", "ENOTCONN", Always),
    ("socket", "EMFILE", Always),
    ("socketpair", "EMFILE", Always),
    ("statx", "EIO", Always),
    ("umount2", "EBUSY", Always),
    ("unlink", "EIO", Always),
    ("write", "EIO", Booting),
    ("writev", "EPIPE", Always),
];
/// What the kernel does not let fail, or only when memory is gone (the process is then at its end, whoever it is): memory, own thread,
/// clocks, waiting; a file is closed whatever `close` answers.
const SPARED: &[&str] = &[
    "brk",
    "clock_nanosleep",
    "close",
    "epoll_pwait",
    "epoll_wait",
    "exit",
    "exit_group",
    "futex",
    "getpid",
    "getrandom",
    "gettid",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "nanosleep",
    "poll",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "sigaltstack",
    "sync",
    "wait4",
    "prlimit64",
    "ioctl",
];

/// The first call of PID 1's own; before it are those of the loader.
const FIRST: &str = "mkdir(\"/proc\"";
/// PID 1 says that its services run, or one of them does.
const READY: &[&str] = &["Futago faulty: web console at", "futago_webui: web console url="];
/// A library gives up: the machine restarts in order.
const RESTARTS: &str = "the machine restarts";
/// Words in which PID 1 tells of a failure.
const TOLD: &[&str] = &["could not", "trying again", "Futago has no settings", "ERROR", "WARN", "os error"];
/// Without services for longer than a wait between two tries: then they do not come.
const PATIENCE: Duration = Duration::from_secs(16);
/// Tried where nobody says how many.
const SAMPLE: usize = 18;
/// At a time: they mostly wait.
const SIDE_BY_SIDE: usize = 6;

/// The Nth call of a name.
#[derive(Clone, Debug)]
struct Fault {
    call: &'static str,
    error: &'static str,
    number: usize,
}

impl Fault {
    /// strace's words. The first mount, of /proc, is only said to have worked: the one that is there tells PID 1 what the kernel was told.
    fn words(&self) -> String {
        match self.call {
            "mount" => format!("mount:error={}:when=1..{}", self.error, self.number),
            call => format!("{call}:error={}:when={}", self.error, self.number),
        }
    }
}

/// PID 1 in its namespaces.
struct Init {
    root: PathBuf,
    unshare: Child,
    console: Arc<Mutex<String>>,
}

impl Init {
    fn start(root: &Path, fault: Option<&Fault>) -> Self {
        fs::create_dir_all(root).unwrap();
        let settings = r#"{"version":1,"name":"faulty","role":"witness","address":"198.51.100.11"}"#;
        let settings = run("sh", &["-c", &format!("printf '%s' '{settings}' | base64 -w0")]).unwrap();
        let line = format!("futago.state=ram futago.log=console futago.settings={settings}\n");
        fs::write(root.join("cmdline"), line).unwrap();
        fs::hard_link(root.with_file_name("futago"), root.join("init")).unwrap();
        let pipe = root.join("console");
        run("mkfifo", &[&pipe.to_string_lossy()]).unwrap();
        let console = Arc::new(Mutex::new(String::new()));
        // Opened for both directions, so that it does not end between two writers.
        let mut reader = File::options().read(true).write(true).open(&pipe).unwrap();
        let written = Arc::clone(&console);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut piece) {
                *written.lock().unwrap() += &String::from_utf8_lossy(&piece[..count]);
            }
        });
        let mut unshare = Command::new("unshare");
        unshare.args([
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount",
            "--net",
            "--uts",
            "--ipc",
            "--kill-child",
        ]);
        unshare.arg(repository().join("ci/vm/namespace-init")).arg(root);
        match fault {
            Some(fault) => {
                unshare.args(["-e", &format!("trace=mount,{}", fault.call)]);
                if fault.call != "mount" {
                    unshare.args(["-e", "inject=mount:retval=0:when=1"]);
                }
                unshare.args(["-e", &format!("inject={}", fault.words())]);
            }
            None => {
                unshare.args(["-e", "inject=mount:retval=0:when=1"]);
            }
        }
        let unshare = unshare.stdin(Stdio::null()).spawn().unwrap();
        Self { root: root.to_owned(), unshare, console }
    }

    fn console(&self) -> String {
        self.console.lock().unwrap().clone()
    }

    fn is_up(&self) -> bool {
        READY.iter().any(|words| self.console().contains(words))
    }

    fn trace(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.root.join("strace.log")).unwrap_or_default()).into_owned()
    }

    /// What is wrong with it, for people.
    fn fail(&self, what: &str) -> String {
        let stderr = fs::read_to_string(self.root.join("stderr")).unwrap_or_default();
        let trace = self.trace();
        let hits: Vec<&str> = trace.lines().filter(|line| line.contains("INJECTED")).collect();
        format!(
            "{what}\n--- injected ---\n{}\n--- stderr ---\n{stderr}--- console ---\n{}",
            hits.join("\n"),
            self.console()
        )
    }

    fn has_ended(&mut self) -> bool {
        self.unshare.try_wait().unwrap().is_some()
    }

    fn terminate(&self) {
        let children = format!("/proc/{0}/task/{0}/children", self.unshare.id());
        let first = fs::read_to_string(children).unwrap_or_default();
        let first = first.split_whitespace().next().unwrap_or_default();
        // It may have ended meanwhile.
        let _ = Command::new("kill").args(["-TERM", first]).status();
    }

    /// It has ended although nobody asked it to.
    fn restarted(&mut self) -> Result<String, String> {
        let in_order = wait_for("bye", Duration::from_secs(2), || {
            let console = self.console();
            (console.contains(RESTARTS) && console.contains("futago: bye")).then_some(())
        });
        // A namespace that is restarted ends its first process by SIGHUP (reboot(2)).
        let by = self.unshare.try_wait().unwrap().and_then(|status| status.signal().or(status.code()));
        if in_order.is_ok() && [Some(1), Some(129)].contains(&by) {
            return Ok("restarts".into());
        }
        Err(self.fail(&format!("it ended by itself ({by:?})")))
    }

    /// One life, `usual` being what is told in one without a fault: until its services run, or it has told why they do not; then asked to end.
    fn live(mut self, fault: Option<&Fault>, usual: &BTreeSet<String>) -> Result<String, String> {
        let start = Instant::now();
        while !self.is_up() && start.elapsed() < PATIENCE {
            if self.has_ended() {
                return self.restarted();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let up = self.is_up();
        if !up && !told(&self.console()).any(|line| !usual.contains(&line)) {
            return Err(self.fail("no services, and not a word"));
        }
        // What comes after the first moment counts too.
        std::thread::sleep(Duration::from_millis(1500));
        if self.has_ended() {
            return Err(self.fail("it ended by itself, later"));
        }
        self.terminate();
        let ended = wait_for("its end", Duration::from_secs(40), || {
            (self.has_ended() || self.console().contains("could not power off")).then_some(())
        });
        if ended.is_err() {
            return Err(self.fail("it does not end when it is asked to"));
        }
        // What it wrote last may still be in the pipe.
        let _ =
            wait_for("bye", Duration::from_secs(2), || self.console().contains("futago: bye").then_some(()));
        let console = self.console();
        let stderr = fs::read_to_string(self.root.join("stderr")).unwrap_or_default();
        if console.contains("panicked") || stderr.contains("panicked") {
            return Err(self.fail("it panicked"));
        }
        // The write of that very line may have failed.
        let own = fault.is_some_and(|fault| ["openat", "write"].contains(&fault.call));
        if !console.contains("futago: bye") && !own {
            return Err(self.fail("no farewell"));
        }
        // A namespace that is powered off ends its first process by SIGINT (reboot(2)); unshare passes that on.
        match self.unshare.try_wait().unwrap() {
            Some(status) if status.signal() == Some(2) || status.code() == Some(130) => {}
            Some(status) => return Err(self.fail(&format!("it ended otherwise: {status}"))),
            None if console.contains("could not power off") => {}
            None => return Err(self.fail("it says that it ends, and does not")),
        }
        Ok(if up { "serves".into() } else { "told, waits".into() })
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// The lines that tell of a failure, without times and numbers.
fn told(console: &str) -> impl Iterator<Item = String> + '_ {
    let telling = console.lines().filter(|line| TOLD.iter().any(|words| line.contains(words)));
    telling.map(|line| line.chars().filter(|c| !c.is_ascii_digit()).collect())
}

/// The calls of a life without faults: what can fail when.
fn faults(trace: &str) -> Vec<Fault> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut own, mut turning) = (false, false);
    let mut found = Vec::new();
    for line in trace.lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
            continue;
        }
        let count = counts.entry(name).or_default();
        *count += 1;
        own |= line.starts_with(FIRST);
        turning |= name == "clone" || name.starts_with("epoll_") && name.ends_with("wait");
        if !own || SPARED.contains(&name) {
            continue;
        }
        let (call, error, when) = FAULTS
            .iter()
            .find(|(call, ..)| *call == name)
            .unwrap_or_else(|| panic!("say of {name} how it can fail, or why it can't: {line}"));
        if *when == Always || !turning {
            found.push(Fault { call, error, number: *count });
        }
    }
    found
}

#[test]
fn each_system_call_of_the_first_process_may_fail() {
    let works = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount",
            "--net",
            "--uts",
            "--ipc",
            "mount",
            "-t",
            "tmpfs",
            "tmpfs",
            "/mnt",
        ])
        .output();
    let traces = Command::new("strace").arg("-V").output().is_ok();
    if !traces || !works.is_ok_and(|output| output.status.success()) {
        println!("skipped: no strace, or this machine allows no user namespace");
        return;
    }
    let dir = work_dir("init-faults");
    let binary = dir.join("futago");
    run("strip", &["-o", &binary.to_string_lossy(), &tools::futago().to_string_lossy()]).unwrap();
    let baseline = Init::start(&dir.join("baseline"), None);
    wait_for("services", PATIENCE, || baseline.is_up().then_some(()))
        .unwrap_or_else(|error| panic!("{}", baseline.fail(&error.to_string())));
    let usual: BTreeSet<String> = told(&baseline.console()).collect();
    let trace_path = baseline.root.join("strace.log");
    let lived = baseline.live(None, &BTreeSet::new()).unwrap_or_else(|what| panic!("{what}"));
    assert_eq!(lived, "serves");
    let mut all = faults(&String::from_utf8_lossy(&fs::read(trace_path).unwrap()));
    let possible = all.len();
    assert!(possible > 100, "{all:?}");

    let mut random = Random::seeded("init-faults");
    let wanted = match std::env::var("FUTAGO_FAULTS").as_deref() {
        Ok("all") => possible,
        Ok(number) => number.parse().unwrap(),
        Err(_) => SAMPLE,
    };
    let mut chosen = Vec::new();
    while chosen.len() < wanted && !all.is_empty() {
        let at = usize::try_from(random.below(all.len() as u64)).unwrap();
        chosen.push(all.swap_remove(at));
    }
    let queue = Mutex::new(chosen);
    let (lives, failures) = (Mutex::new(BTreeMap::<String, usize>::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let Some(fault) = queue.lock().unwrap().pop() else { return };
                    let name = format!("{}-{}", fault.call, fault.number);
                    match Init::start(&dir.join(&name), Some(&fault)).live(Some(&fault), &usual) {
                        Ok(lived) => *lives.lock().unwrap().entry(lived).or_default() += 1,
                        Err(what) => {
                            failures.lock().unwrap().push(format!("=== {} ===\n{what}", fault.words()))
                        }
                    }
                }
            });
        }
    });
    println!("{wanted} of {possible} calls failed: {:?}", lives.into_inner().unwrap());
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    fs::remove_dir_all(dir).unwrap();
}
