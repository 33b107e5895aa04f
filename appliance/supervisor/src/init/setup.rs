//! A machine that nobody has told who it is: it borrows an address, runs the set-up console there (`futago setup`), and
//! shows the way to it, until there are settings.
//!
//! # Invariants
//!
//! - It begins only where no settings are and nothing was said at deployment: a node has no lent address, ever.
//! - When it has ended, the console has ended and the address is off the link, whichever way it ended.

use super::console::show_for_now;
use super::lease::Borrower;
use super::{disk_links, settings};
use crate::cgroup::{self, Groups};
use crate::child;
use crate::logs::{ServiceLog, capture};
use crate::node::{self, write_atomically};
use crate::plan::SETUP;
use ::control::paths;
use ::control::setup::{Disk, Door, Machine};
use anyhow::Context;
use netconf::Interface;
use netconf::dhcp::Lease;
use rustix::process::{Pid, Signal, WaitOptions};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// Between two looks at the disks, the console, and whether there are settings.
const TICK: Duration = Duration::from_secs(1);
/// Wait before a console that has ended is started again.
const RESTART: Duration = Duration::from_secs(3);
/// How long the console has for its last answer.
const FAREWELL: Duration = Duration::from_secs(10);
/// Unanswered requests after which people are told: that takes 12 seconds.
const SILENCE: u32 = 3;
/// Size of a disk in sysfs is in these, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;
/// Bytes of a fingerprint on a line of the screen, which has 80 columns.
const FINGERPRINT_LINE: usize = 16;

/// Runs until there are settings below `dir`. Service logs go to `echo`, too.
pub(crate) async fn run(dir: &Path, exe: &Path, echo: Option<File>) -> anyhow::Result<()> {
    let _lock = node::claim(dir).await?;
    let mut setup = Setup {
        dir: dir.to_owned(),
        exe: exe.to_owned(),
        groups: Groups::below(Path::new(cgroup::ROOT)),
        log: ServiceLog::open(SETUP.name, dir.join(paths::LOG_DIR).join("setup.log"), echo)
            .context("log writer")?,
        adapter: None,
        described: None,
        console: None,
        start_after: Instant::now(),
        shown: String::new(),
    };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            stepped = step(&mut setup.adapter) => stepped?,
            _ = tick.tick() => setup.look()?,
        }
        if dir.join(paths::SETTINGS).exists() {
            setup.end().await;
            return Ok(());
        }
    }
}

async fn step(adapter: &mut Option<Adapter>) -> anyhow::Result<()> {
    match adapter {
        Some(adapter) => adapter.borrower.step().await,
        None => std::future::pending().await,
    }
}

/// The adapter that the address is for.
struct Adapter {
    link: Interface,
    borrower: Borrower,
}

/// The running console, with the lease that it was started for. Ends with the value.
struct Console {
    pid: Pid,
    lease: Lease,
}

impl Drop for Console {
    fn drop(&mut self) {
        child::signal(self.pid, Signal::KILL);
        // Fails only if it has been taken already.
        let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
    }
}

struct Setup {
    dir: PathBuf,
    exe: PathBuf,
    groups: Groups,
    log: Arc<ServiceLog>,
    adapter: Option<Adapter>,
    /// What the console was told of the machine last.
    described: Option<Machine>,
    console: Option<Console>,
    /// The console is not started before.
    start_after: Instant,
    /// What stands on the screen.
    shown: String,
}

impl Setup {
    fn look(&mut self) -> anyhow::Result<()> {
        self.reap();
        self.look_for_adapter()?;
        let lease = self.adapter.as_ref().and_then(|adapter| adapter.borrower.lease());
        if self.console.as_ref().is_some_and(|console| Some(console.lease) != lease) {
            self.console = None;
        }
        if let (Some(lease), Some(adapter)) = (lease, &self.adapter) {
            let machine = describe(&adapter.link, lease)?;
            self.tell_console(machine)?;
            if self.console.is_none() && Instant::now() >= self.start_after {
                self.start(lease)?;
            }
        }
        let text = self.text();
        if text != self.shown {
            show_for_now(&text);
            self.shown = text;
        }
        Ok(())
    }

    /// An adapter may come, go, or be another one.
    fn look_for_adapter(&mut self) -> anyhow::Result<()> {
        let found = settings::adapter();
        let index = |link: &Interface| link.index;
        if self.adapter.as_ref().map(|adapter| index(&adapter.link)) != found.as_ref().map(index) {
            self.console = None;
            self.adapter = None;
            if let Some(link) = found {
                let borrower = Borrower::open(&link).with_context(|| link.name.clone())?;
                self.adapter = Some(Adapter { link, borrower });
            }
        }
        Ok(())
    }

    fn tell_console(&mut self, machine: Machine) -> anyhow::Result<()> {
        if self.described.as_ref() != Some(&machine) {
            write_atomically(&self.dir.join(paths::SETUP_MACHINE), &serde_json::to_vec(&machine)?)
                .context(paths::SETUP_MACHINE)?;
            self.described = Some(machine);
        }
        Ok(())
    }

    fn start(&mut self, lease: Lease) -> anyhow::Result<()> {
        // What the console before has written is no way in any more.
        let _ = std::fs::remove_file(self.dir.join(paths::SETUP_DOOR));
        let process = child::spawn(&self.exe, SETUP.command, &self.dir).context("set-up console")?;
        self.groups.place(&SETUP, process.pid);
        for pipe in process.output {
            tokio::spawn(capture(pipe, Arc::clone(&self.log)));
        }
        self.console = Some(Console { pid: process.pid, lease });
        Ok(())
    }

    /// Takes every child that has ended: PID 1 inherits orphans.
    fn reap(&mut self) {
        while let Some((pid, status)) = child::reap(None) {
            if self.console.as_ref().is_some_and(|console| console.pid == pid) {
                tracing::info!("the set-up console has ended: {}", child::describe(Some(status)));
                self.groups.clear(SETUP.name);
                self.console = None;
                self.start_after = Instant::now() + RESTART;
            }
        }
    }

    fn text(&self) -> String {
        let Some(Adapter { link, borrower }) = &self.adapter else {
            return "This machine has no network adapter.".into();
        };
        let door = self.console.as_ref().and_then(|_| std::fs::read(self.dir.join(paths::SETUP_DOOR)).ok());
        let door = door.and_then(|json| serde_json::from_slice(&json).ok());
        screen(link, borrower.lease(), borrower.unanswered(), door.as_ref())
    }

    /// Waits for the console's last answer.
    async fn end(mut self) {
        let deadline = Instant::now() + FAREWELL;
        while self.console.is_some() && Instant::now() < deadline {
            self.reap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        // Its file would keep the state disk mounted.
        self.log.close(Duration::from_secs(2));
    }
}

/// What the machine has.
fn describe(link: &Interface, lease: Lease) -> anyhow::Result<Machine> {
    let disks = disk_links::unpartitioned().context("disks")?;
    Ok(Machine {
        interface: link.name.clone(),
        hardware_address: hardware_address(link),
        address: lease.address.into(),
        prefix_len: lease.prefix_len,
        gateway: lease.gateway.map(Into::into),
        mirror_interface: settings::adapters().into_iter().nth(1).map(|link| link.name),
        disks: disks.into_iter().map(|path| Disk::new(path.clone(), size_bytes(&path))).collect(),
    })
}

/// 0 if it has just gone.
fn size_bytes(disk: &str) -> u64 {
    let sectors = || {
        let device = std::fs::canonicalize(disk).ok()?;
        let size = Path::new("/sys/class/block").join(device.file_name()?).join("size");
        std::fs::read_to_string(size).ok()?.trim().parse::<u64>().ok()
    };
    sectors().unwrap_or(0).saturating_mul(SECTOR_BYTES)
}

fn hardware_address(link: &Interface) -> String {
    let bytes = link.hardware_address.unwrap_or_default();
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// What the screen says. Pure.
fn screen(link: &Interface, lease: Option<Lease>, unanswered: u32, door: Option<&Door>) -> String {
    let adapter = format!("{}, {}", link.name, hardware_address(link));
    let Some(lease) = lease else {
        return if unanswered < SILENCE {
            format!("Asking for an address by DHCP ({adapter}).")
        } else {
            format!(
                "No DHCP server answers ({adapter}). This machine goes on asking.\n\
                 Where there is none, its properties say at deployment who it is to be."
            )
        };
    };
    let lent = format!("{adapter}: {}/{}, lent by {}.", lease.address, lease.prefix_len, lease.server);
    let Some(door) = door else { return lent };
    let bytes: Vec<&str> = door.fingerprint.split(':').collect();
    let fingerprint: Vec<String> = bytes.chunks(FINGERPRINT_LINE).map(|line| line.join(":")).collect();
    format!(
        "To set this machine up, open https://{}/\n\
         Setup code: {}\n\
         SHA-256 of the page's certificate:\n  {}\n{lent}",
        lease.address,
        door.code,
        fingerprint.join("\n  ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_screen_shows_how_far_it_is_and_the_way_in() {
        let link = Interface {
            index: 2,
            name: "eth0".into(),
            up: true,
            loopback: false,
            hardware_address: Some([0x52, 0x54, 0, 0, 0, 0x1f]),
        };
        let gateway = None;
        let lease = Lease {
            address: "192.0.2.77".parse().unwrap(),
            prefix_len: 24,
            gateway,
            server: "192.0.2.1".parse().unwrap(),
        };
        let door = Door { code: "k7mf-2xq9".into(), fingerprint: vec!["AB"; 32].join(":") };
        for (lease, unanswered, door, parts) in [
            (None, 1, None, vec!["Asking", "eth0, 52:54:00:00:00:1f"]),
            (None, SILENCE, None, vec!["No DHCP server answers", "52:54:00:00:00:1f", "goes on"]),
            (Some(lease), 0, None, vec!["192.0.2.77/24, lent by 192.0.2.1"]),
            (
                Some(lease),
                0,
                Some(&door),
                vec!["https://192.0.2.77/\n", "Setup code: k7mf-2xq9\n", "lent by"],
            ),
        ] {
            let text = screen(&link, lease, unanswered, door);
            for part in parts {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(text.lines().all(|line| line.len() < 80), "{text}");
            assert_eq!(text.matches("AB").count(), if door.is_some() { 32 } else { 0 });
        }
    }
}
