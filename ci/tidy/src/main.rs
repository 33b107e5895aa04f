//! Rules that neither the compiler nor clippy knows. Read-only; exit status 1 and one line per fault.
//!
//! - Rooms: each crate uses only the rooms that ARCHITECTURE.md allows; pure rooms are `no_std` without unsafe.
//! - Unsafe stands only in the rooms that touch the kernel.
//! - Files and functions stay readable: the ratchet in [`rules::LONG_FILES`] may only shrink.
//! - Format versions in code stand in docs/ondisk.md, docs/wire.md or docs/update.md.
//! - Shell scripts stay under 100 lines.

mod rules;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let Some(root) = repository_root() else {
        eprintln!("tidy: not inside a git checkout");
        return ExitCode::FAILURE;
    };
    let files = tracked_files(&root);
    let mut faults = Vec::new();
    for (name, rule) in rules::ALL {
        for fault in rule(&root, &files) {
            faults.push(format!("{name}: {fault}"));
        }
    }
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    if faults.is_empty() {
        println!("tidy: {} files, {} rules, clean", files.len(), rules::ALL.len());
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn repository_root() -> Option<PathBuf> {
    let out = Command::new("git").args(["rev-parse", "--show-toplevel"]).output().ok()?;
    Some(PathBuf::from(String::from_utf8(out.stdout).ok()?.trim()))
}

/// Files that git tracks or would track, relative to the root.
fn tracked_files(root: &Path) -> Vec<PathBuf> {
    let out = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map(|out| out.stdout)
        .unwrap_or_default();
    let mut files: Vec<PathBuf> = String::from_utf8_lossy(&out)
        .lines()
        .map(PathBuf::from)
        .filter(|file| fs::metadata(root.join(file)).is_ok())
        .collect();
    files.sort();
    files.dedup();
    files
}
