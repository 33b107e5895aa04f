//! Two appliances as virtual machines that boot from their system disks, and a witness as an ordinary process, on one
//! segment, paired as an administrator would: through their consoles.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use update::Levels;

use crate::namespace;
use crate::system_disk::SystemDisk;
use crate::tools::{futago, run, wait_for};
use crate::vm::{self, Firmware, Hardware, Machine};

/// Where initiators connect.
pub const PORTAL: &str = "198.51.100.50:3260";
/// The target; its LUN 0 is the volume `demo`.
pub const IQN: &str = "iqn.2026-11.local.futago:vm";
const PASSWORD: &str = "correct horse battery staple";
/// Emulated machines are slow: every time-out of the cluster is four times as long.
const TIME_SCALE_PERCENT: u32 = 400;
const DATA_DISK_MIB: u64 = 512;
/// Until an emulated machine has booted, also with the other ones beside it.
const BOOT: Duration = Duration::from_secs(180);

/// The appliances by name, the segment, and the witness.
#[derive(Debug)]
pub struct Machines {
    dir: PathBuf,
    hardware: [Hardware; 2],
    running: [Option<Machine>; 2],
    witness: Child,
    initiator: Hardware,
}

impl Machines {
    /// Lays the segment out and switches everything on.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_from(dir, &SystemDisk::make(dir)?, false)
    }

    /// Likewise, each with a copy of `disk`; one whose system restarts does so with `restarts`, else it ends.
    pub fn start_from(dir: &Path, disk: &SystemDisk, restarts: bool) -> Result<Self> {
        namespace::segment("segment", "198.51.100.13/24", &["tap-a", "tap-b", "tap-host"])?;
        let kernel = vm::kernel()?;
        // Service logs are part of what a failed test shows.
        disk.set_environment("slot=a\ntries=\nwords=futago.log=console\n")?;
        let hardware = ["a", "b"].map(|name| appliance_hardware(dir, name, disk));
        let [first, second] = hardware;
        let mut hardware = [first?, second?];
        hardware.iter_mut().for_each(|hardware| hardware.restarts = restarts);
        let initiator = Hardware {
            name: "host".into(),
            initramfs: vm::initiator_initramfs(dir, &kernel)?,
            kernel,
            memory_mib: 384,
            links: vec![tap("host")],
            number: 20,
            ..Hardware::default()
        };
        let running = [Some(Machine::start(dir, &hardware[0])?), Some(Machine::start(dir, &hardware[1])?)];
        let mut machines = Self {
            witness: start_witness(dir, &futago())?,
            dir: dir.to_owned(),
            hardware,
            running,
            initiator,
        };
        for name in ["a", "b"] {
            let line = machines.machine(name)?.wait_line("web console at", BOOT)?;
            println!("{line}");
        }
        Ok(machines)
    }

    /// First passwords, a cluster, both other nodes paired, a volume of `size` behind LUN 0.
    pub fn set_up(&self, size: &str) -> Result<()> {
        for node in ["a", "b", "witness"] {
            wait_for(&format!("console of {node}"), Duration::from_secs(60), || {
                self.ctl(node, &["setup"]).ok()
            })?;
        }
        self.ctl("a", &["node", "create-cluster", "--portal", PORTAL])?;
        for (node, address) in [("b", "198.51.100.12:7780"), ("witness", "198.51.100.13:7780")] {
            let offer: Value = serde_json::from_str(&self.ctl(node, &["node", "offer", "--json"])?)?;
            let code = offer["code"].as_str().with_context(|| format!("no code in {offer}"))?;
            self.ctl("a", &["node", "pair", address, code]).with_context(|| format!("pair with {node}"))?;
        }
        // Space is known once both storage processes have reported.
        let mut last = None;
        wait_for("the volume's creation", Duration::from_secs(60), || {
            last = Some(self.ctl("a", &["volume", "create", "demo", size]));
            last.as_ref().is_some_and(Result::is_ok).then_some(())
        })
        .with_context(|| format!("{last:?}"))?;
        self.ctl("a", &["target", "create", IQN])?;
        self.ctl("a", &["target", "map", IQN, "0", "demo"])?;
        Ok(())
    }

    /// `futago ctl` at a node's console.
    pub fn ctl(&self, node: &str, arguments: &[&str]) -> Result<String> {
        let url = match node {
            "a" => "https://198.51.100.11",
            "b" => "https://198.51.100.12",
            _ => "https://198.51.100.13:8443",
        };
        ctl(url, arguments)
    }

    /// The volume as the first running node sees it that answers.
    pub fn volume(&self) -> Option<Value> {
        let names = ["a", "b"].into_iter().zip(&self.running).filter(|(_, running)| running.is_some());
        let mut status = names.filter_map(|(name, _)| self.ctl(name, &["status", "--json"]).ok());
        let status: Value = serde_json::from_str(&status.next()?).ok()?;
        status["volumes"].as_array()?.iter().find(|volume| volume["name"] == "demo").cloned()
    }

    /// Waits until both copies are in sync; answers the time it took.
    pub fn wait_healthy(&self, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        let mut last = Value::Null;
        wait_for("both copies in sync", limit, || {
            last = self.volume().unwrap_or_default();
            (last["state"] == "healthy").then_some(())
        })
        .with_context(|| format!("last seen: {last}"))?;
        Ok(start.elapsed())
    }

    /// Which machine serves.
    pub fn primary(&self) -> Result<String> {
        wait_for("a primary", Duration::from_secs(60), || {
            self.volume()?["primary"].as_str().map(str::to_owned)
        })
    }

    /// The third machine: writes `files` files on a new file system on the LUN, at most ten a second, and checks them.
    pub fn start_initiator(&self, files: u32) -> Result<Machine> {
        let mut hardware = self.initiator.clone();
        hardware.command_line =
            format!("ADDRESS=198.51.100.20/24 PORTAL={PORTAL} TARGET={IQN} FILES={files} PAUSE_US=100000");
        Machine::start(&self.dir, &hardware)
    }

    /// `kill -9` of an appliance's QEMU.
    pub fn cut_power(&mut self, name: &str) -> Result<()> {
        let mut machine = self.running[index(name)].take().context("is off")?;
        machine.cut_power()
    }

    /// Switches an appliance on again.
    pub fn switch_on(&mut self, name: &str) -> Result<()> {
        let machine = Machine::start(&self.dir, &self.hardware[index(name)])?;
        self.running[index(name)].insert(machine).wait_line("web console at", BOOT).map(drop)
    }

    /// Restarts the witness with another release's program.
    pub fn replace_witness(&mut self, program: &Path) -> Result<()> {
        run("kill", &["-TERM", &self.witness.id().to_string()])?;
        self.witness.wait()?;
        self.witness = start_witness(&self.dir, program)?;
        Ok(())
    }

    /// The versions in which things are written down, as a node knows them.
    pub fn levels(&self, node: &str) -> Result<Levels> {
        let status: Value = serde_json::from_str(&self.ctl(node, &["status", "--json"])?)?;
        Ok(serde_json::from_value(status["cluster"]["formats"].clone())?)
    }

    /// What a node, asked itself, says is wrong.
    pub fn problems(&self, node: &str) -> Result<Vec<String>> {
        let status: Value = serde_json::from_str(&self.ctl(node, &["status", "--json"])?)?;
        Ok(serde_json::from_value(status["problems"].clone())?)
    }

    /// A running appliance.
    pub fn machine(&mut self, name: &str) -> Result<&mut Machine> {
        self.running[index(name)].as_mut().context("is off")
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let _ = self.witness.kill();
        let _ = self.witness.wait();
        if std::thread::panicking() {
            let log = |path: &str| std::fs::read_to_string(self.dir.join(path)).unwrap_or_default();
            eprintln!("--- witness ---\n{}{}", log("witness.log"), log("witness/log/cluster.log"));
        }
    }
}

/// `futago ctl` at a console.
pub fn ctl(url: &str, arguments: &[&str]) -> Result<String> {
    ctl_within(Duration::from_secs(60), url, arguments)
}

/// `futago ctl` at a console, with a time limit.
pub fn ctl_within(limit: Duration, url: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new("timeout")
        .arg(limit.as_secs().to_string())
        .arg(futago())
        .args(["ctl", "--url", url, "--insecure"])
        .args(arguments)
        .env("FUTAGO_PASSWORD", PASSWORD)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("ctl at {url}, {}: {error}{text}", arguments.join(" "));
    }
    Ok(text)
}

fn index(name: &str) -> usize {
    usize::from(name != "a")
}

fn tap(name: &str) -> String {
    format!("tap,ifname=tap-{name},script=no,downscript=no")
}

fn appliance_hardware(dir: &Path, name: &str, disk: &SystemDisk) -> Result<Hardware> {
    let number = if name == "a" { 11 } else { 12 };
    let settings = json!({
        "version": 1, "name": name, "role": "data", "address": format!("198.51.100.{number}"),
        "portal_interface": "eth0", "disks": [vm::FIRST_DISK], "time_scale_percent": TIME_SCALE_PERCENT,
    });
    let disk = disk.copy(&dir.join(format!("{name}-system.img")))?;
    disk.set_settings(&dir.join(name), &settings)?;
    Ok(Hardware {
        name: name.into(),
        system_disk: Some((disk.path, Firmware::Bios)),
        memory_mib: 768,
        pvscsi_disks: vec![vm::empty_disk(dir, &format!("{name}-data.img"), DATA_DISK_MIB)?],
        links: vec![tap(name)],
        number,
        ..Hardware::default()
    })
}

fn start_witness(dir: &Path, program: &Path) -> Result<Child> {
    let state = dir.join("witness");
    std::fs::create_dir_all(&state)?;
    let settings = json!({
        "version": 1, "name": "witness", "role": "witness", "address": "198.51.100.13",
        "ports": { "cluster": 7780, "replication": 7788, "web": 8443 },
        "time_scale_percent": TIME_SCALE_PERCENT,
    });
    std::fs::write(state.join("settings.json"), settings.to_string())?;
    let log = std::fs::File::options().create(true).append(true).open(dir.join("witness.log"))?;
    let mut command = Command::new(program);
    command.arg("node").arg("--dir").arg(&state).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("witness")
}
