//! The kernel command line. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What it tells PID 1. Words of others are skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// `futago.settings=`: the settings file, base64; used when the state disk has none.
    pub(crate) settings: Option<Vec<u8>>,
    /// `futago.state=ram`: there is no state disk.
    pub(crate) state_in_memory: bool,
    /// `futago.log=console`: service logs are shown on the console too.
    pub(crate) log_to_console: bool,
    /// `futago.slot=`: the slot of the system disk that the boot loader has started.
    pub(crate) slot: Option<String>,
    /// `futago.boot=`: why that one.
    pub(crate) boot: Boot,
}

/// Why the boot loader has taken the slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Boot {
    /// It is the one to boot.
    #[default]
    Normal,
    /// The one to boot did not come up.
    Fallback,
    /// Somebody has chosen it in the menu.
    Manual,
}

impl CommandLine {
    pub(crate) fn parse(text: &str) -> Self {
        let mut command_line = Self::default();
        for word in text.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("futago.settings", value)) => command_line.settings = STANDARD.decode(value).ok(),
                Some(("futago.state", "ram")) => command_line.state_in_memory = true,
                Some(("futago.log", "console")) => command_line.log_to_console = true,
                Some(("futago.slot", slot @ ("a" | "b"))) => command_line.slot = Some(slot.to_owned()),
                Some(("futago.boot", "fallback")) => command_line.boot = Boot::Fallback,
                Some(("futago.boot", "manual")) => command_line.boot = Boot::Manual,
                Some(_) | None => {}
            }
        }
        command_line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_words_are_found_among_others() {
        let parsed = CommandLine::parse("console=ttyS0 futago.settings=e30= quiet futago.state=ram\n");
        let expected =
            CommandLine { settings: Some(b"{}".to_vec()), state_in_memory: true, ..CommandLine::default() };
        assert_eq!(parsed, expected);
        assert_eq!(CommandLine::parse("futago.settings=%% futago.state=disk"), CommandLine::default());
        assert!(CommandLine::parse("futago.log=console").log_to_console);
        let parsed = CommandLine::parse("futago.slot=b futago.boot=fallback");
        assert_eq!((parsed.slot.as_deref(), parsed.boot), (Some("b"), Boot::Fallback));
        assert_eq!(CommandLine::parse("futago.slot=c futago.boot=normal"), CommandLine::default());
    }
}
