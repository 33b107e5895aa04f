//! PID 1: prepares the machine, runs the services, powers off.
//!
//! # Invariants
//!
//! - PID 1 never ends by itself: every step that fails is told on the console, and boot goes on with what is left. A panic, of
//!   whatever library, would be the kernel's: it is caught, and the machine restarts in order. Without settings, or with a state disk that can't be written, it stays, says so, and waits for the
//!   power button.
//! - File systems are synced and unmounted before the machine is powered off or restarted.

mod command_line;
mod console;
mod deployment;
mod disk_links;
mod guest;
mod memory;
mod modules;
mod mounts;
mod power;
mod repair;
mod settings;
mod slots;
mod state;
mod state_watch;
mod system_disk;
pub(crate) mod watchdog;

use crate::node::{self, Ending, Mode};
use crate::plan;
use ::control::settings::Settings;
use anyhow::Context;
use command_line::CommandLine;
use console::{say, show};
use netconf::Netlink;
use rustix::system::RebootCommand;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use watchdog::Watchdog;

/// Where the node's folder is on a machine.
const STATE_DIR: &str = "/var/lib/futago";
/// How long boot waits for a disk or link that must be there.
const DEVICE_PATIENCE: Duration = Duration::from_secs(10);
/// Wait before a node that could not be started is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What boot has found so far.
#[derive(Default)]
struct Machine {
    command_line: CommandLine,
    settings: Option<Settings>,
    /// Why there are none.
    no_settings: String,
    /// The node's folder is where it belongs: on the state disk, or in memory on a machine without one.
    has_state: bool,
    watchdog: Watchdog,
}

/// One step of the boot plan.
struct Step {
    name: &'static str,
    run: fn(&mut Machine) -> anyhow::Result<()>,
}

/// The boot plan. A later step works with whatever the earlier ones have achieved.
const BOOT: &[Step] = &[
    Step { name: "mount the kernel's file systems", run: |_| mounts::mount_all() },
    Step { name: "open the console", run: |_| console::adopt() },
    Step { name: "read the kernel command line", run: read_command_line },
    Step { name: "load drivers", run: |_| modules::load_all() },
    Step { name: "arm the hardware watchdog", run: arm_watchdog },
    // Ctrl-Alt-Del then is SIGINT to PID 1 instead of an immediate restart.
    Step { name: "take over Ctrl-Alt-Del", run: |_| Ok(rustix::system::reboot(RebootCommand::CadOff)?) },
];

/// The rest of it, which is tried again while there are no settings.
const SETTINGS_STEPS: &[Step] = &[
    Step { name: "mount the state disk", run: mount_state },
    Step { name: "read the settings", run: read_settings },
    Step { name: "set the network up", run: set_network_up },
    Step { name: "wait for the data disks", run: wait_for_disks },
];

fn take_steps(steps: &[Step], machine: &mut Machine) {
    for step in steps {
        let taken = catch(|| (step.run)(machine)).unwrap_or_else(|panic| Err(anyhow::anyhow!(panic)));
        if let Err(error) = taken {
            say(&format!("futago: could not {}: {error:#}", step.name));
        }
    }
}

/// What `run` answers, or the message of its panic.
fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    // What was half-changed is not looked at again but to end, or by a step that is taken anew.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        format!("internal error: {}", text.as_deref().unwrap_or("no message"))
    })
}

/// Runs as PID 1: boots, runs the services (`/proc/self/exe NAME --dir DIR`), and powers the machine off or restarts it
/// when asked to. Returns only when called by a process that is not PID 1. Call it on the main thread.
#[must_use]
pub fn run_init() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!(
            "error: `init` is for process 1 of a machine; `node` runs the same services as an ordinary process"
        );
        return ExitCode::FAILURE;
    }
    let mut machine = Machine::default();
    take_steps(BOOT, &mut machine);
    take_steps(SETTINGS_STEPS, &mut machine);
    let mut watchdog = std::mem::take(&mut machine.watchdog);
    if let Err(error) = guest::start() {
        say(&format!("futago: could not start a thread: {error}"));
    }
    let command = loop {
        match catch(|| run_services(&mut machine, &mut watchdog)) {
            Ok(Ok(Ending::Stop)) => break RebootCommand::PowerOff,
            Ok(Ok(Ending::Interrupt)) => break RebootCommand::Restart,
            // Nobody has asked for the machine to end.
            Ok(Err(error)) => say(&format!("futago: {error:#}; trying again")),
            Err(panic) => {
                console::take_back();
                say(&format!("futago: {panic}; the machine restarts"));
                break RebootCommand::Restart;
            }
        }
        watchdog.feed();
        std::thread::sleep(RETRY);
    };
    watchdog.begin_shutdown();
    guest::tell(guest::State::Stopping);
    mounts::unmount_all();
    console::log("futago: bye");
    console::drain();
    if let Err(error) = rustix::system::reboot(command) {
        say(&format!("futago: could not power off: {error}; it is safe to do so by hand"));
        // Armed, it does the restart that the kernel has refused.
        if !matches!(command, RebootCommand::Restart) {
            watchdog.disarm();
        }
    }
    loop {
        // PID 1 must not end; the machine is off in a moment.
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn run_services(machine: &mut Machine, watchdog: &mut Watchdog) -> anyhow::Result<Ending> {
    let exe = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/init"));
    let echo = if machine.command_line.log_to_console { console::open().ok() } else { None };
    if let Some(console) = &echo {
        console::ignore_stop(console);
    }
    // A serial port that service logs were asked for on has no room for a menu.
    let serial = echo.is_none();
    let menus = if serial { vec![plan::SCREEN, plan::SERIAL] } else { vec![plan::SCREEN] };
    if serial && let Err(error) = console::log_to_kernel() {
        say(&format!("futago: {error:#}"));
    }
    let power_button = Some(power::watch()?);
    let mut mode = Mode { init: true, echo, power_button, menus, when_running: None, watchdog };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("event loop")?;
    runtime.block_on(async {
        let settings = match wait_for_settings(machine, &mut mode).await? {
            Ok(settings) => settings,
            Err(ending) => return Ok(ending),
        };
        let welcome = console::welcome(&settings);
        let command_line = machine.command_line.clone();
        mode.when_running = Some(Box::new(move || {
            console::log(&welcome);
            guest::tell(guest::State::Running);
            if let Some(line) = slots::welcome(&command_line) {
                show(&line);
            }
            if command_line.log_to_console
                && let Err(error) = memory::report()
            {
                say(&format!("futago: could not start a thread: {error}"));
            }
            confirm_slot(command_line);
        }));
        loop {
            match run_once(&exe, &settings, serial, &mut mode).await {
                Ok(ending) => return Ok(ending),
                Err(error) => show(&format!("Futago could not start: {error:#}")),
            }
            if let Ok(pressed) = tokio::time::timeout(RETRY, wait_for_button(&mut mode)).await {
                return pressed;
            }
        }
    })
}

/// In a thread of its own: a disk that hangs must not hold up the services.
fn confirm_slot(command_line: CommandLine) {
    let spawned = std::thread::Builder::new().name("confirm-slot".into()).spawn(move || {
        if let Err(error) = slots::confirm(&command_line) {
            say(&format!("futago: could not tell the boot loader that this slot works: {error:#}"));
        }
    });
    if let Err(error) = spawned {
        say(&format!("futago: could not start a thread: {error}"));
    }
}

async fn run_once(
    exe: &Path,
    settings: &Settings,
    serial: bool,
    mode: &mut Mode<'_>,
) -> anyhow::Result<Ending> {
    let dir = Path::new(STATE_DIR);
    let _lock = node::claim(dir).await?;
    console::give_to_menus(dir, serial);
    let ended = node::supervise(dir, exe, settings, mode).await;
    console::take_back();
    ended
}

/// Until the power button, Ctrl-Alt-Del or SIGTERM.
async fn wait_for_button(mode: &mut Mode<'_>) -> anyhow::Result<Ending> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(Ending::Stop),
            _ = interrupt.recv() => return Ok(Ending::Interrupt),
            pressed = node::pressed(&mut mode.power_button) => match pressed {
                Some(()) => return Ok(Ending::Stop),
                None => mode.power_button = None,
            },
            () = mode.watchdog.due() => mode.watchdog.feed(),
        }
    }
}

fn arm_watchdog(machine: &mut Machine) -> anyhow::Result<()> {
    machine.watchdog = Watchdog::open()?;
    Ok(())
}

fn read_command_line(machine: &mut Machine) -> anyhow::Result<()> {
    machine.command_line = CommandLine::parse(&std::fs::read_to_string("/proc/cmdline")?);
    Ok(())
}

fn mount_state(machine: &mut Machine) -> anyhow::Result<()> {
    if machine.has_state {
        return Ok(());
    }
    let patience = if machine.command_line.state_in_memory { None } else { Some(DEVICE_PATIENCE) };
    state::mount_state(Path::new(STATE_DIR), patience)?;
    machine.has_state = true;
    Ok(())
}

fn read_settings(machine: &mut Machine) -> anyhow::Result<()> {
    // What was said at deployment is for a node that never was; this one may have been.
    if !machine.has_state {
        "the state disk can't be used; it is tried again".clone_into(&mut machine.no_settings);
        return Ok(());
    }
    match settings::find(Path::new(STATE_DIR), &machine.command_line) {
        Ok(settings) => machine.settings = Some(settings),
        Err(error) => machine.no_settings = format!("{error:#}"),
    }
    Ok(())
}

/// Until there are settings, or somebody switches off. A disk that was missing may come, and so may the disk with the settings.
async fn wait_for_settings(
    machine: &mut Machine,
    mode: &mut Mode<'_>,
) -> anyhow::Result<Result<Settings, Ending>> {
    let mut shown = String::new();
    loop {
        if let Some(settings) = &machine.settings {
            return Ok(Ok(settings.clone()));
        }
        if shown != machine.no_settings {
            shown.clone_from(&machine.no_settings);
            guest::tell(guest::State::NoSettings);
            show(&format!("Futago has no settings: {shown}"));
        }
        if let Ok(pressed) = tokio::time::timeout(RETRY, wait_for_button(mode)).await {
            return pressed.map(Err);
        }
        mode.watchdog.feed();
        take_steps(SETTINGS_STEPS, machine);
    }
}

fn set_network_up(machine: &mut Machine) -> anyhow::Result<()> {
    let mut netlink = Netlink::open()?;
    netlink.link_up("lo")?;
    let Some(settings) = &machine.settings else { return Ok(()) };
    netconf::set_hostname(&settings.name)?;
    let wanted = settings.portal_interface.as_deref();
    let name = wait_for(|| {
        let interfaces = netlink.interfaces().ok()?;
        let mut ethernet = interfaces.into_iter().filter(|i| !i.loopback && i.hardware_address.is_some());
        ethernet.find(|i| wanted.is_none_or(|wanted| i.name == wanted)).map(|i| i.name)
    });
    let name = name.with_context(|| format!("no network interface {}", wanted.unwrap_or("at all")))?;
    netlink.add_address(&name, settings.address, settings.portal_prefix_len)?;
    for interface in netlink.interfaces()?.iter().filter(|interface| interface.hardware_address.is_some()) {
        netlink.link_up(&interface.name)?;
    }
    if let Some(gateway) = settings.gateway {
        netlink.set_default_route(gateway)?;
    }
    Ok(())
}

fn wait_for_disks(machine: &mut Machine) -> anyhow::Result<()> {
    let disks = machine.settings.iter().flat_map(|settings| settings.disks.iter());
    for disk in disks.filter(|disk| disk.starts_with("/dev/")) {
        wait_for(|| {
            disk_links::refresh().ok()?;
            Path::new(disk).exists().then_some(())
        })
        .with_context(|| format!("no disk {disk}"))?;
    }
    Ok(())
}

/// What `look` finds within [`DEVICE_PATIENCE`].
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + DEVICE_PATIENCE;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
