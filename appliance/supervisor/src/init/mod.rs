//! PID 1: prepares the machine, runs the services, powers off.
//!
//! # Invariants
//!
//! - PID 1 never ends by itself: every step that fails is told on the console, and boot goes on with what is left. A panic, of
//!   whatever library, would be the kernel's: it is caught, and the machine restarts in order. Without settings, or with a state disk that can't be written, it stays, says so, and waits for the
//!   power button.
//! - File systems are synced and unmounted before the machine is powered off or restarted.

mod clock;
mod command_line;
mod console;
mod deployment;
pub(crate) mod disk_links;
mod factory_reset;
pub(crate) mod guest;
mod lease;
mod memory;
mod modules;
mod mounts;
mod power;
mod proof;
mod repair;
mod settings;
mod setup;
pub(crate) mod slots;
mod state;
mod state_watch;
pub(crate) mod system_disk;
pub(crate) mod watchdog;

use crate::install::{Installer, SystemDisk};
use crate::node::{self, Ending, Mode};
use crate::plan;
use ::control::settings::{Mirror, Settings};
use anyhow::{Context, ensure};
use command_line::{Boot, CommandLine};
use console::{say, show, show_for_now};
use netconf::Netlink;
use rustix::system::RebootCommand;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use update::slots::Slot;
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
    /// Nobody has said who this machine is: whoever sets it up will.
    untold: bool,
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
    Step { name: "set the clock", run: set_clock },
    Step { name: "wait for the data disks", run: wait_for_disks },
];

fn take_steps(steps: &[Step], machine: &mut Machine) {
    for step in steps {
        machine.watchdog.feed();
        let taken = catch(|| (step.run)(machine)).unwrap_or_else(|panic| Err(anyhow::anyhow!(panic)));
        if let Err(error) = taken {
            say(&format!("futago: could not {}: {error:#}", step.name));
        }
    }
}

/// What `run` answers, or the message of its panic.
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
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
    // A serial port that service logs were asked for on has no room for a menu.
    let serial = echo.is_none();
    let menus = if serial { vec![plan::SCREEN, plan::SERIAL] } else { vec![plan::SCREEN] };
    if serial && let Err(error) = console::log_to_kernel() {
        say(&format!("futago: {error:#}"));
    }
    let mut mode = Mode {
        init: true,
        echo,
        power_button: Some(power::watch()?),
        menus,
        when_running: None,
        installer: installer(&machine.command_line),
        watchdog,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("event loop")?;
    runtime.block_on(async {
        let settings = match wait_for_settings(machine, &exe, &mut mode).await? {
            Ok(settings) => settings,
            Err(ending) => return Ok(ending),
        };
        let welcome = console::welcome(&settings);
        let command_line = machine.command_line.clone();
        let of_clock = settings.clone();
        let installer = Arc::clone(&mode.installer);
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
            confirm_slot(command_line, installer);
            if let Err(error) = clock::keep(of_clock) {
                say(&format!("futago: could not start a thread: {error}"));
            }
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

/// For a machine that was started from a slot. Without its thread, nothing can be installed, and all else works.
fn installer(command_line: &CommandLine) -> Arc<Installer> {
    let manual = command_line.boot == Boot::Manual;
    let running = command_line.slot.as_deref().and_then(Slot::parse);
    let started =
        running.map(|running| Installer::start(Path::new(STATE_DIR), SystemDisk { running, manual }));
    Arc::new(match started {
        Some(Ok(installer)) => installer,
        Some(Err(error)) => {
            say(&format!("futago: could not {error:#}"));
            Installer::unable(Path::new(STATE_DIR))
        }
        None => Installer::without_slots(Path::new(STATE_DIR)),
    })
}

/// Once the release has proved itself. In a thread of its own: a disk that hangs must not hold up the services.
fn confirm_slot(command_line: CommandLine, installer: Arc<Installer>) {
    if command_line.slot.is_none() {
        return;
    }
    let spawned = std::thread::Builder::new().name("confirm-slot".into()).spawn(move || {
        proof::wait(Path::new(STATE_DIR));
        if let Err(error) = slots::confirm(&command_line) {
            say(&format!("futago: could not tell the boot loader that this slot works: {error:#}"));
        }
        installer.look_again();
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
    // Who was started from a system disk has a state partition on it, be it seen by now or not.
    state::mount_state(Path::new(STATE_DIR), patience, machine.command_line.slot.is_some())?;
    machine.has_state = true;
    Ok(())
}

fn read_settings(machine: &mut Machine) -> anyhow::Result<()> {
    // What was said at deployment is for a node that never was; this one may have been.
    if !machine.has_state {
        "the state disk can't be used; it is tried again".clone_into(&mut machine.no_settings);
        return Ok(());
    }
    if let Err(error) = reset_if_asked() {
        machine.no_settings = format!("{error:#}");
        return Ok(());
    }
    match settings::find(Path::new(STATE_DIR), &machine.command_line) {
        Ok(settings) => machine.settings = Some(settings),
        Err(error) => {
            machine.untold = error.is::<settings::NothingSaid>();
            machine.no_settings = format!("{error:#}");
        }
    }
    Ok(())
}

fn reset_if_asked() -> anyhow::Result<()> {
    let dir = Path::new(STATE_DIR);
    let told = factory_reset::take(dir, || {
        let settings = Some(node::load_settings(dir)?);
        // What does not come is told by its name in the end.
        let _missing = wait_for_disks(&mut Machine { settings, ..Machine::default() });
        factory_reset::forget_disks(dir)
    })?;
    told.iter().for_each(|told| show(told));
    Ok(())
}

/// Until there are settings, or somebody switches off. A disk that was missing may come, and so may the disk with the settings;
/// or somebody sets the machine up.
async fn wait_for_settings(
    machine: &mut Machine,
    exe: &Path,
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
            show_for_now(&format!("Futago has no settings: {shown}"));
        }
        let echo = mode.echo.as_ref().and_then(|file| file.try_clone().ok());
        let pause = async {
            if machine.untold {
                match setup::run(Path::new(STATE_DIR), exe, echo).await {
                    Ok(()) => return,
                    Err(error) => say(&format!("futago: could not be set up over the network: {error:#}")),
                }
            }
            tokio::time::sleep(RETRY).await;
        };
        tokio::select! {
            pressed = wait_for_button(mode) => return pressed.map(Err),
            () = pause => {}
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
    netlink.link_up(&name)?;
    // From here on one fault does not keep the rest from working.
    let mut faults = Vec::new();
    faults.extend(settings.gateway.and_then(|gateway| netlink.set_default_route(gateway).err()));
    if let Some(Mirror { interface, address, prefix_len }) = &settings.mirror {
        wait_for(|| netlink.interface(interface).ok());
        faults.extend(netlink.add_address(interface, *address, *prefix_len).err());
    }
    for interface in netlink.interfaces()?.iter().filter(|interface| interface.hardware_address.is_some()) {
        faults.extend(netlink.link_up(&interface.name).err());
    }
    let faults: Vec<String> =
        faults.into_iter().map(|fault| format!("{:#}", anyhow::Error::from(fault))).collect();
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

fn set_clock(machine: &mut Machine) -> anyhow::Result<()> {
    machine.settings.as_ref().map_or(Ok(()), clock::set)
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
