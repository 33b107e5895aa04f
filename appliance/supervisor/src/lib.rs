//! The supervisor: PID 1 of the appliance (`futago init`), or an ordinary process (`futago node`).
//!
//! It owns boot, the child processes, their restart and back-off, their logs, and the shutdown order. It does not know
//! what a volume is.
//!
//! # Flow
//!
//! [`plan`] holds what runs, as data; [`policy`] decides when one service starts, waits and is killed (both pure).
//! `node` is the loop round them: it carries their actions out (`child`), takes what the services write (`logs`) and
//! answers on the control socket (`control`). As PID 1 it also limits them (`cgroup`). `init` prepares the machine first;
//! `install` puts a new release beside the one that runs.
//!
//! # Invariants
//!
//! - No service outlives its supervisor, however that ends: death signal and process group.
//! - Two supervisors never run on one folder, and no start meets processes of the run before it: the lock file is held
//!   by the supervisor and all its services.
//! - Storage is stopped before the cluster manager, and has time to hand its volumes over.
//!
//! # A service that ends by itself
//!
//! It is started again, after 100 ms at first, then twice as long each time up to 10 s; a run of 10 s starts over. Exit
//! status 78 (`EX_CONFIG`) before it ever ran for 10 s means that it can't work as configured: an address in use,
//! a corrupted state file. Then `futago node` stops the other services and fails with the last line that the service
//! wrote; PID 1, which nobody would start again, keeps trying every 10 s.

mod cgroup;
mod child;
mod control;
mod init;
mod install;
mod logs;
mod node;
pub mod plan;
pub mod policy;

pub use init::run_init;

use anyhow::Context;
use install::Installer;
use std::path::Path;
use std::sync::Arc;

/// Runs the node of folder `dir` as an ordinary process, its services being `exe NAME --dir DIR`, until SIGTERM or
/// SIGINT. Becomes the leader of a process group of its own. Call it on the main thread.
///
/// # Errors
///
/// Settings that can't be used, a folder in use by another node, or the configuration error of a service.
pub fn run_node(dir: &Path, exe: &Path) -> anyhow::Result<()> {
    let settings = node::load_settings(dir)?;
    match rustix::process::setsid() {
        // Not permitted: it leads a process group already, which is all that is wanted.
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error).context("new session"),
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("event loop")?;
    runtime.block_on(async {
        // Held to the end of the process.
        let _lock = node::claim(dir).await?;
        let mut mode = node::Mode {
            init: false,
            echo: None,
            power_button: None,
            menus: Vec::new(),
            when_running: None,
            installer: Arc::new(Installer::without_slots(dir)),
            watchdog: &mut init::watchdog::Watchdog::default(),
        };
        node::supervise(dir, exe, &settings, &mut mode).await
    })?;
    Ok(())
}
