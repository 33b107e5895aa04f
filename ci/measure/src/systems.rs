//! What is measured. Each system has a network namespace of its own, so that two demos do not want the same addresses and
//! nothing outside is disturbed; its processes end with it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futago_e2e::demo::Demo;
use futago_e2e::tools;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bare::Bare;
use crate::cpu::Process;
use crate::load::{Address, Client, Outcome};
use crate::{Options, Workload, file_target};

/// Every system's name and what it is.
pub(crate) const ALL: [(&str, &str); 10] = [
    ("mirror", "futago demo, two copies in sync: replication over TLS, each write durable on both"),
    ("single", "futago demo whose second node was killed: one copy, with replica, lease and activity log"),
    ("file", "this iSCSI target on one file, no replication: O_DIRECT, writes durable (RWF_DSYNC)"),
    ("before", "as `file`, by the futago-measure that --before names"),
    ("tgt", "tgtd, bs-type rdwr, its default: page cache, write-back (an acknowledged write may be lost)"),
    ("tgt-sync", "tgtd, bs-type rdwr, O_SYNC, write cache off: page cache for reads, durable writes"),
    ("tgt-direct", "tgtd, bs-type rdwr, O_DIRECT and O_SYNC, write cache off: the same work as `file`"),
    ("tgt-aio", "tgtd, bs-type aio: O_DIRECT, writes not durable when acknowledged"),
    ("tcp", "raw TCP: the same bytes to and fro, one thread, no protocol, no medium"),
    ("bare", "the file itself: O_DIRECT, writes durable (RWF_DSYNC), io_uring"),
];

const TGT_IQN: &str = "iqn.2026-11.local.futago:tgt";

/// How it is reached.
enum Access {
    Network { address: Address, namespace: File },
    Bare(Box<Bare>),
}

/// What must end.
enum Keeper {
    Demo(Demo),
    Child(Child),
    /// tgtd serves several systems: the first one ends it.
    Nothing,
}

/// A running system.
pub(crate) struct System {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    access: Access,
    processes: Vec<Process>,
    keeper: Keeper,
}

impl Drop for System {
    fn drop(&mut self) {
        if let Keeper::Child(child) = &mut self.keeper {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl System {
    pub(crate) fn processes(&self) -> Vec<Process> {
        self.processes.clone()
    }

    /// One measurement, on a connection of its own.
    pub(crate) fn run(
        &mut self,
        workload: &Workload,
        span_bytes: u64,
        limit: Duration,
        begin: &mut dyn FnMut(),
    ) -> Result<Outcome> {
        let outcome = match &mut self.access {
            Access::Bare(bare) => bare.run(workload, span_bytes, limit, begin),
            Access::Network { address, namespace } => {
                enter(namespace)?;
                Client::open(address).and_then(|mut client| client.run(workload, span_bytes, limit, begin))
            }
        };
        outcome.with_context(|| format!("{} on {}", workload.name, self.name))
    }

    /// Its address for other programs, once this thread is in its namespace.
    pub(crate) fn url(&self) -> Result<Option<String>> {
        let Access::Network { address, namespace } = &self.access else { return Ok(None) };
        enter(namespace)?;
        Ok(address.iqn.as_ref().map(|iqn| format!("iscsi://{}/{iqn}/{}", address.portal, address.lun)))
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        match std::mem::replace(&mut self.keeper, Keeper::Nothing) {
            Keeper::Demo(mut demo) => demo.stop(),
            Keeper::Child(mut child) => {
                child.kill()?;
                child.wait().map(drop).map_err(Into::into)
            }
            Keeper::Nothing => Ok(()),
        }
    }
}

fn enter(namespace: &File) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("network namespace")
}

/// Moves this thread, and what it starts from now on, into a new network with a loopback.
fn new_namespace() -> Result<File> {
    // A shell makes it and holds it until it is open here.
    let mut shell = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && echo up && cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("unshare")?;
    let mut line = String::new();
    BufReader::new(shell.stdout.take().context("stdout")?).read_line(&mut line)?;
    ensure!(
        line.trim() == "up",
        "no new network namespace: start this through ci/bench, which gives it the rights"
    );
    let namespace = File::open(format!("/proc/{}/ns/net", shell.id()))?;
    drop(shell.stdin.take());
    shell.wait()?;
    enter(&namespace)?;
    Ok(namespace)
}

/// Starts what `options` ask for, and fills every file.
pub(crate) fn start(options: &Options, dir: &Path) -> Result<Vec<System>> {
    let span_bytes = options.span << 20;
    let mut systems = Vec::new();
    let mut tgtd = None;
    for (name, what) in ALL {
        if !options.systems.is_empty() && !options.systems.iter().any(|wanted| wanted == name) {
            continue;
        }
        if name == "before" && options.before.is_none() {
            continue;
        }
        eprintln!("bench: starting {name}");
        let (access, processes, keeper) = match name {
            "mirror" | "single" => demo(&dir.join(name), span_bytes, name == "single")?,
            "file" => file(&std::env::current_exe()?, &dir.join("file.img"), span_bytes)?,
            "before" => {
                let program = options.before.as_deref().context("--before")?;
                file(program, &dir.join("before.img"), span_bytes)?
            }
            "tcp" => raw()?,
            "bare" => (
                Access::Bare(Box::new(Bare::create(&dir.join("bare.img"), span_bytes)?)),
                vec![("client".into(), std::process::id())],
                Keeper::Nothing,
            ),
            _ => tgt(&mut tgtd, dir, name, span_bytes)?,
        };
        systems.push(System { name, what, access, processes, keeper });
    }
    Ok(systems)
}

type Started = (Access, Vec<Process>, Keeper);

fn demo(dir: &Path, span_bytes: u64, single: bool) -> Result<Started> {
    let namespace = new_namespace()?;
    let demo = Demo::start(dir, &format!("{}MiB", span_bytes >> 20))?;
    demo.wait_healthy(Duration::from_secs(60))?;
    let address = Address { portal: demo.portal(), iqn: Some(demo.iqn()), lun: 0 };
    Client::open(&address)?.fill(span_bytes)?;
    let primary = demo.primary()?;
    let replica = Demo::other(&primary);
    if single {
        demo.kill(replica)?;
        // Served again once the peer's lease has run out.
        tools::wait_for("one copy that serves", Duration::from_secs(60), || {
            let degraded = demo.volume().is_some_and(|volume| volume["state"] == "degraded");
            (degraded && Client::open(&address).is_ok()).then_some(())
        })?;
    }
    let mut processes = Vec::new();
    for (node, role) in [(primary.as_str(), "primary"), (replica, "replica"), ("witness", "witness")] {
        if !(single && node == replica) {
            processes.extend(processes_of_group(u32::try_from(demo.pid(node))?, role)?);
        }
    }
    Ok((Access::Network { address, namespace }, processes, Keeper::Demo(demo)))
}

/// A node's processes: its storage by the node's role, the rest together.
fn processes_of_group(group: u32, role: &str) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        if fields.split(' ').nth(2).and_then(|field| field.parse().ok()) != Some(group) {
            continue;
        }
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_storage = command.split('\0').any(|word| word == "storage");
        found.push((if is_storage { format!("{role} storage") } else { "other".into() }, pid));
    }
    ensure!(
        found.iter().any(|(name, _)| name != "other") || role == "witness",
        "no storage process in {group}"
    );
    Ok(found)
}

fn file(program: &Path, path: &Path, span_bytes: u64) -> Result<Started> {
    drop(Bare::create(path, span_bytes)?);
    let namespace = new_namespace()?;
    let (child, portal) = child_with_address(program, &["file-target", &path.to_string_lossy()])?;
    let address = Address { portal, iqn: Some(file_target::IQN.into()), lun: 0 };
    Client::open(&address)?.fill(span_bytes)?;
    let processes = vec![("target".into(), child.id())];
    Ok((Access::Network { address, namespace }, processes, Keeper::Child(child)))
}

fn raw() -> Result<Started> {
    let namespace = new_namespace()?;
    let (child, portal) = child_with_address(&std::env::current_exe()?, &["raw-server"])?;
    let processes = vec![("server".into(), child.id())];
    Ok((
        Access::Network { address: Address { portal, iqn: None, lun: 0 }, namespace },
        processes,
        Keeper::Child(child),
    ))
}

/// This program again (or an earlier build of it), as a server that tells its address.
fn child_with_address(program: &Path, arguments: &[&str]) -> Result<(Child, SocketAddr)> {
    let mut child =
        Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
    let address =
        line.trim().strip_prefix("READY ").with_context(|| format!("{arguments:?} did not start"))?;
    Ok((child, address.parse()?))
}

/// tgtd, running: its process, namespace and control socket.
struct Tgtd {
    pid: u32,
    namespace: File,
    socket: PathBuf,
    luns: u8,
}

impl Tgtd {
    fn start(dir: &Path) -> Result<(Self, Child)> {
        let namespace = new_namespace()?;
        let socket = dir.join("tgtd.socket");
        let child = Command::new("tgtd")
            .args(["-f", "--iscsi", "portal=127.0.0.1:3260"])
            .env("TGT_IPC_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("tgtd")?;
        let tgtd = Self { pid: child.id(), namespace, socket, luns: 0 };
        tools::wait_for("tgtd", Duration::from_secs(10), || tgtd.admin("--mode sys --op show").ok())?;
        tgtd.admin(&format!("--mode target --op new --tid 1 --targetname {TGT_IQN}"))?;
        // As this target offers them: the protocol's own default of 8 KiB a PDU would be no comparison.
        for (name, value) in [
            ("MaxRecvDataSegmentLength", 262_144),
            ("MaxXmitDataSegmentLength", 262_144),
            ("FirstBurstLength", 262_144),
            ("MaxBurstLength", 1_048_576),
        ] {
            tgtd.admin(&format!("--mode target --op update --tid 1 --name {name} --value {value}"))?;
        }
        tgtd.admin("--mode target --op bind --tid 1 --initiator-address ALL")?;
        Ok((tgtd, child))
    }

    fn admin(&self, arguments: &str) -> Result<String> {
        let output = Command::new("tgtadm")
            .args(["--lld", "iscsi"])
            .args(arguments.split(' '))
            .env("TGT_IPC_SOCKET", &self.socket)
            .output()
            .context("tgtadm")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "tgtadm {arguments}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn add(&mut self, path: &Path, options: &str, write_cache: bool) -> Result<Address> {
        self.luns += 1;
        let lun = self.luns;
        let path = path.to_string_lossy();
        let of = format!("--tid 1 --lun {lun}");
        self.admin(&format!("--mode logicalunit --op new {of} --backing-store {path} {options}"))?;
        if !write_cache {
            // The caching mode page with WCE off.
            let page = "mode_page=8:0:18:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0";
            self.admin(&format!("--mode logicalunit --op update {of} --params {page}"))?;
        }
        Ok(Address { portal: "127.0.0.1:3260".parse()?, iqn: Some(TGT_IQN.into()), lun })
    }
}

fn tgt(tgtd: &mut Option<Tgtd>, dir: &Path, name: &str, span_bytes: u64) -> Result<Started> {
    let path = dir.join(format!("{name}.img"));
    drop(Bare::create(&path, span_bytes)?);
    let mut keeper = Keeper::Nothing;
    let tgtd = match tgtd {
        Some(tgtd) => tgtd,
        none => {
            let (started, child) = Tgtd::start(dir)?;
            keeper = Keeper::Child(child);
            none.insert(started)
        }
    };
    let address = match name {
        "tgt-sync" => tgtd.add(&path, "--bstype rdwr --bsoflags sync", false)?,
        "tgt-direct" => tgtd.add(&path, "--bstype rdwr --bsoflags sync:direct", false)?,
        "tgt-aio" => tgtd.add(&path, "--bstype aio", true)?,
        _ => tgtd.add(&path, "--bstype rdwr", true)?,
    };
    enter(&tgtd.namespace)?;
    Client::open(&address).and_then(|mut client| client.fill(span_bytes)).context(name.to_owned())?;
    let namespace = tgtd.namespace.try_clone()?;
    Ok((Access::Network { address, namespace }, vec![("tgtd".into(), tgtd.pid)], keeper))
}
