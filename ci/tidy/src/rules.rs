//! The rules, a function each: root and tracked files in, faults out.

use std::fs;
use std::path::{Path, PathBuf};

/// A rule: root and tracked files in, one line per fault out.
pub(crate) type Rule = fn(&Path, &[PathBuf]) -> Vec<String>;

/// Every rule with its name.
pub(crate) const ALL: &[(&str, Rule)] = &[
    ("rooms", rooms),
    ("pure", pure),
    ("unsafe", unsafe_rooms),
    ("file-length", file_length),
    ("script-length", script_length),
    ("format-version", format_version),
    ("readable-tree", readable_tree),
];

/// Room → rooms that it may use (ARCHITECTURE.md, "Rooms").
const ROOMS: &[(&str, &[&str])] = &[
    ("appliance/base", &[]),
    ("appliance/replication", &["base"]),
    ("appliance/scsi", &["base"]),
    ("appliance/iscsi", &["base", "scsi"]),
    ("appliance/control", &["base"]),
    ("appliance/cluster", &["base", "control"]),
    ("appliance/disk", &["base"]),
    ("appliance/netconf", &["control"]),
    ("appliance/transport", &["base", "control"]),
    (
        "appliance/storage",
        &["base", "replication", "scsi", "iscsi", "cluster", "control", "disk", "netconf", "transport"],
    ),
    ("appliance/manager", &["base", "cluster", "control", "transport"]),
    ("appliance/update", &["base", "replication", "cluster", "control"]),
    ("appliance/supervisor", &["control", "netconf", "update"]),
    ("appliance/console", &["control", "webui"]),
    ("appliance/simulation", &["base", "replication", "cluster", "control", "disk"]),
    (
        "appliance/fuzz",
        &[
            "base",
            "replication",
            "scsi",
            "iscsi",
            "cluster",
            "control",
            "disk",
            "manager",
            "netconf",
            "transport",
            "update",
        ],
    ),
    ("webui", &["base", "control", "transport", "update"]),
    ("image/builder", &["update"]),
];

/// Rooms without I/O: `no_std`, no unsafe.
const PURE: &[&str] = &[
    "appliance/base",
    "appliance/replication",
    "appliance/scsi",
    "appliance/iscsi",
    "appliance/control",
    "appliance/cluster",
    "appliance/update",
];

/// Rooms that may hold unsafe code: each block has its SAFETY comment (clippy checks that). And one test's allocator, which
/// counts: the trait itself is unsafe.
const UNSAFE_ALLOWED: &[&str] =
    &["appliance/disk/", "appliance/netconf/", "appliance/supervisor/", "ci/measure/src/allocations.rs"];

/// Production lines that a file may have without a reason in [`LONG_FILES`].
const FILE_LINES: usize = 600;

/// Longer files, each with its present limit and the reason. Numbers may only go down.
pub(crate) const LONG_FILES: &[(&str, usize, &str)] = &[];

fn read(root: &Path, file: &Path) -> String {
    fs::read_to_string(root.join(file)).unwrap_or_default()
}

fn rust_files(files: &[PathBuf]) -> impl Iterator<Item = &PathBuf> {
    files.iter().filter(|file| file.extension().is_some_and(|e| e == "rs"))
}

/// Lines before the first `#[cfg(test)]` module.
fn production_lines(text: &str) -> usize {
    text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count()
}

fn rooms(root: &Path, _: &[PathBuf]) -> Vec<String> {
    let names: Vec<&str> = ROOMS.iter().filter_map(|(dir, _)| dir.rsplit('/').next()).collect();
    let mut faults = Vec::new();
    for (dir, allowed) in ROOMS {
        let manifest = read(root, &Path::new(dir).join("Cargo.toml"));
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for line in dependencies.lines() {
            let used = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if names.contains(&used) && !allowed.contains(&used) {
                faults.push(format!("{dir} uses {used}; ARCHITECTURE.md does not allow it"));
            }
        }
    }
    faults
}

fn pure(root: &Path, _: &[PathBuf]) -> Vec<String> {
    let mut faults = Vec::new();
    for dir in PURE {
        let lib = read(root, &Path::new(dir).join("src/lib.rs"));
        for wanted in ["#![no_std]", "#![forbid(unsafe_code)]"] {
            if !lib.contains(wanted) {
                faults.push(format!("{dir}/src/lib.rs lacks {wanted}"));
            }
        }
        let manifest = read(root, &Path::new(dir).join("Cargo.toml"));
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for banned in ["tokio", "rustix", "libc", "io-uring", "getrandom"] {
            if dependencies.lines().any(|line| line.starts_with(banned)) {
                faults.push(format!("{dir} is pure and depends on {banned}"));
            }
        }
    }
    faults
}

fn unsafe_rooms(root: &Path, files: &[PathBuf]) -> Vec<String> {
    rust_files(files)
        .filter(|file| !file.starts_with("ci/tidy"))
        .filter(|file| !UNSAFE_ALLOWED.iter().any(|room| file.to_string_lossy().starts_with(room)))
        .filter(|file| {
            read(root, file).lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
            })
        })
        .map(|file| format!("{} holds unsafe code outside the kernel rooms", file.display()))
        .collect()
}

fn file_length(root: &Path, files: &[PathBuf]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in rust_files(files) {
        let lines = production_lines(&read(root, file));
        let name = file.to_string_lossy();
        let limit = LONG_FILES.iter().find(|(long, ..)| *long == name).map_or(FILE_LINES, |(_, n, _)| *n);
        if lines > limit {
            faults.push(format!("{name} has {lines} production lines, limit {limit}: split it by concern"));
        }
    }
    faults
}

fn script_length(root: &Path, files: &[PathBuf]) -> Vec<String> {
    files
        .iter()
        .filter_map(|file| {
            let text = read(root, file);
            let script = text.starts_with("#!") && text.lines().next().is_some_and(|l| l.contains("sh"));
            let lines = text.lines().count();
            (script && lines >= 100).then(|| format!("{} has {lines} lines, limit 99", file.display()))
        })
        .collect()
}

/// Every `…_VERSION: uN = n;` of a wire or disk format stands in its document as `NAME = n`.
fn format_version(root: &Path, files: &[PathBuf]) -> Vec<String> {
    let documents: String =
        ["docs/ondisk.md", "docs/wire.md", "docs/update.md"].map(|file| read(root, Path::new(file))).concat();
    let mut faults = Vec::new();
    for file in rust_files(files) {
        let name = file.to_string_lossy();
        if ![
            "appliance/base/",
            "appliance/cluster/",
            "appliance/replication/",
            "appliance/disk/",
            "appliance/transport/",
            "appliance/manager/",
            "appliance/update/",
        ]
        .iter()
        .any(|room| name.starts_with(room))
        {
            continue;
        }
        for line in read(root, file).lines() {
            let Some((constant, value)) = version_constant(line) else { continue };
            if !documents.contains(&format!("{constant} = {value}")) {
                faults.push(format!(
                    "{name}: `{constant} = {value}` stands in none of docs/ondisk.md, docs/wire.md, docs/update.md"
                ));
            }
        }
    }
    faults
}

fn version_constant(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once("const ")?;
    let (name, rest) = rest.split_once(':')?;
    let (_, value) = rest.split_once('=')?;
    name.ends_with("_VERSION").then(|| (name.trim(), value.trim().trim_end_matches(';')))
}

fn readable_tree(_: &Path, files: &[PathBuf]) -> Vec<String> {
    const TOP: &[&str] = &[
        "appliance",
        "ci",
        "docs",
        "firmware-config",
        "image",
        "webui",
        ".ci",
        ".config",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "clippy.toml",
        "deny.toml",
        "rust-toolchain.toml",
        "rustfmt.toml",
        ".gitignore",
    ];
    let mut faults: Vec<String> = files
        .iter()
        .filter_map(|file| file.iter().next())
        .map(|top| top.to_string_lossy().into_owned())
        .filter(|top| !TOP.contains(&top.as_str()))
        .map(|top| format!("{top}: the top level is fixed; put it into a room"))
        .collect();
    faults.dedup();
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_constants_are_found() {
        assert_eq!(version_constant("pub const WIRE_VERSION: u16 = 3;"), Some(("WIRE_VERSION", "3")));
        assert_eq!(version_constant("const OTHER: u16 = 3;"), None);
    }

    #[test]
    fn tests_do_not_count_as_production() {
        assert_eq!(production_lines("a\nb\n#[cfg(test)]\nmod tests {}\n"), 2);
    }
}
