//! A factory reset that the menu has asked for, at the start, before anything reads what is to go.
//!
//! # Invariants
//!
//! - The node's state goes as a whole: an identity without its Raft log, or a log without its identity, must not be left
//!   (S20). So the mark goes last, and no settings are read while it is there: what an error or a power cut has
//!   interrupted goes on with the next attempt.
//! - The disks' labels go first, as settings and identity tell which disks those are.

use ::control::paths::{FACTORY_RESET, RUN_DIR, SETTINGS};
use anyhow::Context;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// Sockets and notices, in memory; and what e2fsck needs.
const STAYS: [&str; 2] = [RUN_DIR, "lost+found"];

/// What people are told.
const TOLD: &str =
    "This node was reset: settings, identity, password, logs and what it knew of its cluster are erased.";

/// Erases the node's state at `dir` if that was asked for. `forget_disks` takes its labels off its disks, and tells which
/// keep them. What people should know is returned.
///
/// # Errors
/// Something could not be erased; then the mark is still there.
pub(crate) fn take(
    dir: &Path,
    forget_disks: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<Option<String>> {
    let mark = dir.join(FACTORY_RESET);
    if !mark.exists() {
        return Ok(None);
    }
    let disks = match dir.join(SETTINGS).exists() {
        true => {
            forget_disks().unwrap_or_else(|error| format!("Its data disks are left as they are: {error:#}."))
        }
        false => String::new(),
    };
    erase(dir).with_context(|| format!("reset {}", dir.display()))?;
    std::fs::remove_file(&mark).and_then(|()| File::open(dir)?.sync_all()).context("end the reset")?;
    Ok(Some(format!("{TOLD}\n{disks}").trim_end().to_owned()))
}

/// Everything but the mark.
fn erase(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if STAYS.iter().any(|stays| name == *stays) || name == FACTORY_RESET {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    File::open(dir)?.sync_all()
}

/// Has the labels taken off the disks by the program that knows them.
pub(crate) fn forget_disks(dir: &Path) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("this program")?;
    let mut command = Command::new(&program);
    command.arg("forget-disks").arg("--dir").arg(dir).stdin(Stdio::null());
    let output = command.output().with_context(|| program.display().to_string())?;
    let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(told);
    }
    anyhow::bail!(
        "{}",
        String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or("no reason given")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(dir: &Path) {
        for folder in [RUN_DIR, "lost+found", "identity", "web", "log"] {
            std::fs::create_dir_all(dir.join(folder)).unwrap();
            std::fs::write(dir.join(folder).join("file"), "x").unwrap();
        }
        for file in [SETTINGS, "raft.redb", FACTORY_RESET] {
            std::fs::write(dir.join(file), "x").unwrap();
        }
    }

    fn left(dir: &Path) -> Vec<String> {
        let names =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_asked_for_is_done_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        node(dir.path());
        let told = take(dir.path(), || Ok("Disk x is left as it is.".into())).unwrap().unwrap();
        assert!(
            told.starts_with("This node was reset") && told.ends_with("\nDisk x is left as it is."),
            "{told}"
        );
        assert_eq!(left(dir.path()), ["lost+found", RUN_DIR]);
        assert!(dir.path().join(RUN_DIR).join("file").exists());
        let nothing = || panic!("nothing was asked for");
        assert_eq!(take(dir.path(), nothing).unwrap(), None);
    }

    #[test]
    fn disks_that_can_not_be_read_do_not_keep_the_node_from_its_reset() {
        let dir = tempfile::tempdir().unwrap();
        node(dir.path());
        let told = take(dir.path(), || anyhow::bail!("identity.json is damaged")).unwrap().unwrap();
        assert!(told.ends_with("left as they are: identity.json is damaged."), "{told}");
        assert_eq!(left(dir.path()), ["lost+found", RUN_DIR]);
    }

    #[test]
    fn an_interrupted_reset_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        node(dir.path());
        // The settings, which name the disks, went just before.
        std::fs::remove_file(dir.path().join(SETTINGS)).unwrap();
        let told = take(dir.path(), || panic!("the disks are not known any more")).unwrap();
        assert_eq!(told.as_deref(), Some(TOLD));
        assert_eq!(left(dir.path()), ["lost+found", RUN_DIR]);
    }
}
