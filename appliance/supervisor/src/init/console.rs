//! The machine's screen and serial port.

use ::control::settings::Settings;
use anyhow::Context;
use std::fs::{File, OpenOptions};
use std::io::Write;

/// The kernel's console: the last `console=` of its command line.
const CONSOLE: &str = "/dev/console";
/// The VM's screen.
const SCREEN: &str = "/dev/tty1";

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
    Ok(())
}

/// Writes a line to the console. Where there is none, nobody reads it.
pub(crate) fn say(line: &str) {
    write(CONSOLE, line);
}

/// Writes lines to the console and to the VM's screen.
pub(crate) fn show(lines: &str) {
    say(lines);
    let consoles = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    // The kernel's console is the screen already if its last name is one of these.
    if !matches!(consoles.split_ascii_whitespace().last(), Some("tty0" | "tty1")) {
        write(SCREEN, lines);
    }
}

fn write(path: &str, lines: &str) {
    if let Ok(mut file) = OpenOptions::new().write(true).open(path) {
        // See `say`.
        let _ = file.write_all(format!("{}\r\n", lines.replace('\n', "\r\n")).as_bytes());
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
