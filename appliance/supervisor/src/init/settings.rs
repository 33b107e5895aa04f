//! Where a machine's settings come from: the state disk; else the kernel command line or the initramfs, whose settings
//! are then written to the state disk.

use super::command_line::CommandLine;
use crate::node::{load_settings, write_atomically};
use ::control::paths::SETTINGS;
use ::control::settings::Settings;
use anyhow::Context;
use std::path::Path;

/// Settings that came with the initramfs.
const BUILT_IN: &str = "/etc/futago/settings.json";

/// The machine's settings, validated.
pub(crate) fn find(state_dir: &Path, command_line: &CommandLine) -> anyhow::Result<Settings> {
    find_with(state_dir, command_line, Path::new(BUILT_IN))
}

fn find_with(state_dir: &Path, command_line: &CommandLine, built_in: &Path) -> anyhow::Result<Settings> {
    let path = state_dir.join(SETTINGS);
    if !path.exists() {
        let first = match &command_line.settings {
            Some(bytes) => bytes.clone(),
            None => std::fs::read(built_in)
                .context("none on the state disk, the command line or the initramfs")?,
        };
        write_atomically(&path, &first).with_context(|| format!("{}", path.display()))?;
    }
    load_settings(state_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_disk_comes_first_and_keeps_what_came_otherwise() {
        let json =
            |name| format!(r#"{{"version":1,"name":"{name}","role":"witness","address":"192.0.2.1"}}"#);
        let dir = tempfile::tempdir().unwrap();
        let built_in = dir.path().join("built-in.json");
        let mut line = CommandLine::default();
        assert!(find_with(dir.path(), &line, &built_in).is_err());
        std::fs::write(&built_in, json("built-in")).unwrap();
        assert_eq!(find_with(dir.path(), &line, &built_in).unwrap().name, "built-in");
        line.settings = Some(json("line").into_bytes());
        assert_eq!(find_with(dir.path(), &line, &built_in).unwrap().name, "built-in", "kept");
        std::fs::remove_file(dir.path().join(SETTINGS)).unwrap();
        assert_eq!(find_with(dir.path(), &line, &built_in).unwrap().name, "line");
    }
}
