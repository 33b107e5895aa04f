//! The machine's screen and serial port: PID 1's until the services run, the menus' then.
//!
//! Invariant: on a terminal that a menu owns PID 1 writes nothing; what it has to tell is among the menu's notices.

use crate::node::write_atomically;
use ::control::paths;
use ::control::settings::Settings;
use anyhow::Context;
use rustix::termios::{InputModes, OptionalActions, tcgetattr, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The kernel's console: the last `console=` of its command line.
const CONSOLE: &str = "/dev/console";
/// The VM's screen.
const SCREEN: &str = "/dev/tty1";
const KERNEL_LOG: &str = "/dev/kmsg";
/// For a few lines at the slowest speed that is still used.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// Notices kept for the menus.
const MOST_NOTICES: usize = 20;
/// Attributes off, cursor on, home, nothing on the screen.
const CLEAR: &str = "\x1b[0m\x1b[?25h\x1b[H\x1b[2J";

/// Opens the console for writing.
pub(crate) fn open() -> std::io::Result<File> {
    OpenOptions::new().write(true).open(CONSOLE)
}

/// Makes the console PID 1's standard input, output and error. The kernel does so itself when the initramfs has the
/// device node; otherwise the three are closed, and the next files opened would take their numbers.
pub(crate) fn adopt() -> anyhow::Result<()> {
    let console = OpenOptions::new().read(true).write(true).open(CONSOLE).context(CONSOLE)?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    ignore_stop(&console);
    if let Ok(screen) = OpenOptions::new().read(true).write(true).open(SCREEN) {
        ignore_stop(&screen);
    }
    Ok(())
}

/// Nobody who types Ctrl-S stops PID 1 at its next line. A menu sets its terminal itself.
fn ignore_stop(console: &File) {
    // What is no terminal can't be stopped so.
    if let Ok(mut modes) = tcgetattr(console) {
        modes.input_modes.remove(InputModes::IXON);
        let _ = tcsetattr(console, OptionalActions::Now, &modes);
    }
}

/// Where PID 1's words go.
struct Terminals {
    /// What has been told since the start, the latest last.
    notices: Vec<String>,
    /// While menus run: their file of notices, and whether one of them is on the kernel's console.
    menus: Option<(PathBuf, bool)>,
}

static TERMINALS: Mutex<Terminals> = Mutex::new(Terminals { notices: Vec::new(), menus: None });

/// From now on menus own the screen and, with `serial`, the serial port: what is told goes to them.
pub(crate) fn give_to_menus(dir: &Path, serial: bool) {
    let mut terminals = terminals();
    terminals.menus = Some((dir.join(paths::MACHINE_NOTICES), serial));
    terminals.leave_notices();
}

/// The menus have ended.
pub(crate) fn take_back() {
    if let Some((_, serial)) = terminals().menus.take() {
        let terminals = [SCREEN, CONSOLE];
        terminals.iter().take(if serial { 2 } else { 1 }).for_each(|terminal| write_raw(terminal, CLEAR));
    }
}

/// Writes a line to the console, or leaves it to the menu there. Where there is none, nobody reads it.
pub(crate) fn say(line: &str) {
    terminals().tell(line, false);
}

/// Writes lines to the console and to the VM's screen, or leaves them to the menus there.
pub(crate) fn show(lines: &str) {
    terminals().tell(lines, true);
}

/// Writes lines to the console and to the VM's screen while no menu is there. They are of no use later: no notice.
pub(crate) fn show_for_now(lines: &str) {
    terminals().write(lines, true);
}

/// Writes a line to the console if service logs go there: then no menu is on it.
pub(crate) fn log(line: &str) {
    if !matches!(terminals().menus, Some((_, true))) {
        write(CONSOLE, line);
    }
}

/// PID 1's own log goes to the kernel's from now on, where no menu is in its way.
pub(crate) fn log_to_kernel() -> anyhow::Result<()> {
    let log = OpenOptions::new().write(true).open(KERNEL_LOG).context(KERNEL_LOG)?;
    Ok(rustix::stdio::dup2_stderr(&log)?)
}

/// Waits until the console has sent what was written to it; a line that takes nothing is not waited for long.
pub(crate) fn drain() {
    let (sender, drained) = std::sync::mpsc::channel::<()>();
    let spawned = std::thread::Builder::new().name("drain-console".into()).spawn(move || {
        if let Ok(console) = open() {
            // Without a terminal there is nothing to wait for.
            let _ = rustix::termios::tcdrain(&console);
        }
        drop(sender);
    });
    if spawned.is_ok() {
        // Either way it ends: disconnected, or out of patience.
        let _ = drained.recv_timeout(DRAIN_PATIENCE);
    }
}

/// A thread that panicked amid a line has left nothing that could mislead.
fn terminals() -> MutexGuard<'static, Terminals> {
    TERMINALS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Terminals {
    fn tell(&mut self, lines: &str, screen_too: bool) {
        self.notices.extend(lines.lines().map(str::to_owned));
        let surplus = self.notices.len().saturating_sub(MOST_NOTICES);
        self.notices.drain(..surplus);
        self.leave_notices();
        self.write(lines, screen_too);
    }

    /// Where no menu is.
    fn write(&self, lines: &str, screen_too: bool) {
        let (on_screen, on_console) = match self.menus {
            Some((_, serial)) => (true, serial),
            None => (false, false),
        };
        if !on_console {
            write(CONSOLE, lines);
        }
        if screen_too && !on_screen && !console_is_screen() {
            write(SCREEN, lines);
        }
    }

    fn leave_notices(&self) {
        if let Some((path, _)) = &self.menus
            && let Err(error) = write_atomically(path, self.notices.join("\n").as_bytes())
        {
            tracing::warn!("{}: {error}", path.display());
        }
    }
}

/// The kernel's console is the screen if its last name is one of these.
fn console_is_screen() -> bool {
    let consoles = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    matches!(consoles.split_ascii_whitespace().last(), Some("tty0" | "tty1"))
}

fn write(path: &str, lines: &str) {
    write_raw(path, &format!("{}\r\n", lines.replace('\n', "\r\n")));
}

fn write_raw(path: &str, bytes: &str) {
    if let Ok(mut file) = OpenOptions::new().write(true).open(path) {
        // Where there is no terminal, nobody reads it.
        let _ = file.write_all(bytes.as_bytes());
    }
}

/// What the screen shows once the services run.
pub(crate) fn welcome(settings: &Settings) -> String {
    let host = match settings.address {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let port = if settings.ports.web == 443 { String::new() } else { format!(":{}", settings.ports.web) };
    if settings.web {
        format!("Futago {}: web console at https://{host}{port}/", settings.name)
    } else {
        format!("Futago {}: running at {host}, without a web console", settings.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_welcome_line_has_the_url() {
        let mut settings: Settings =
            serde_json::from_str(r#"{"version":1,"name":"a","role":"witness","address":"192.0.2.11"}"#)
                .unwrap();
        assert_eq!(welcome(&settings), "Futago a: web console at https://192.0.2.11/");
        settings.ports.web = 8443;
        settings.address = "2001:db8::1".parse().unwrap();
        assert_eq!(welcome(&settings), "Futago a: web console at https://[2001:db8::1]:8443/");
        settings.web = false;
        assert!(!welcome(&settings).contains("https"));
    }
}
