//! Drivers that the kernel has as modules. The initramfs lists their files in dependency order; a kernel with everything
//! built in has no list.

use anyhow::{Context, bail};
use rustix::io::Errno;
use std::fs::File;
use std::io::ErrorKind;

/// One path a line.
const LIST: &str = "/etc/futago/modules";

/// Loads every module of the list, also after a failure.
pub(crate) fn load_all() -> anyhow::Result<()> {
    let list = match std::fs::read_to_string(LIST) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        read => read.context(LIST)?,
    };
    let failures: Vec<String> = list
        .lines()
        .filter(|path| !path.is_empty())
        .filter_map(|path| load(path).err().map(|error| format!("{path}: {error:#}")))
        .collect();
    if failures.is_empty() { Ok(()) } else { bail!(failures.join(", ")) }
}

fn load(path: &str) -> anyhow::Result<()> {
    match rustix::system::finit_module(File::open(path)?, c"", 0) {
        // Loaded before, or built in; or there is no such hardware, which is not for us to judge.
        Ok(()) | Err(Errno::EXIST | Errno::NODEV) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
