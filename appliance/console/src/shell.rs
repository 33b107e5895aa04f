//! The rescue shell: a process of its own on the terminal, which it has to itself until it ends.

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

/// The appliance's programs of a shell, in one.
pub(crate) const BUSYBOX: &str = "/bin/busybox";
const SHELL: &str = "/bin/sh";
/// Cursor on, nothing on the screen.
const CLEAR: &[u8] = b"\x1b[0m\x1b[?25h\x1b[H\x1b[2J";
const GREETING: &[u8] = b"Rescue shell of this Futago node. End it with `exit`: the menu comes back.\r\n";

/// Runs it on the terminal at `tty` until it ends: a sentence either way.
///
/// It leads a session of its own with `tty` as its terminal, so that Ctrl-C and job control work in it. When it ends, the
/// kernel hangs the terminal up: everyone has to open it anew.
pub(crate) fn run(tty: &Path) -> Result<String, String> {
    tracing::warn!(tty = %tty.display(), "a rescue shell was opened");
    let ended = start(tty).map_err(|error| format!("{BUSYBOX} on {}: {error}", tty.display()));
    tracing::warn!(tty = %tty.display(), outcome = ?ended, "the rescue shell has ended");
    ended.map(|()| "The shell has ended.".into())
}

fn start(tty: &Path) -> io::Result<()> {
    let mut terminal = open(tty)?;
    terminal.write_all(CLEAR)?;
    terminal.write_all(GREETING)?;
    // How it ended is the business of whoever typed in it.
    Command::new(BUSYBOX)
        .args(["setsid", "-c", SHELL])
        .env("PATH", "/sbin:/bin:/usr/sbin:/usr/bin")
        .env("HOME", "/")
        .env("TERM", if tty.ends_with("tty1") { "linux" } else { "vt100" })
        .env("PS1", "rescue:\\w# ")
        .current_dir("/")
        .stdin(terminal.try_clone()?)
        .stdout(terminal.try_clone()?)
        .stderr(terminal)
        .status()?;
    Ok(())
}

fn open(tty: &Path) -> io::Result<File> {
    // NOCTTY: the shell's session is to have it, not the menu's.
    let flags = i32::try_from(OFlags::NOCTTY.bits()).map_err(io::Error::other)?;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(tty)
}
