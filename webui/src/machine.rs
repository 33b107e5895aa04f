//! The machine that the node runs on, where its supervisor is process 1; elsewhere there is none.

use crate::errors::{ApiError, ErrorKind};
use control::network::Network;
use control::paths;
use control::settings::Settings;
use rustix::process::{Pid, Signal};
use std::path::Path;

/// Whether the node at `dir` is a machine of its own.
#[must_use]
pub fn is_one(dir: &Path) -> bool {
    process_1(dir).is_some()
}

fn process_1(dir: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(dir.join(paths::SUPERVISOR_PID)).ok()?;
    Pid::from_raw(text.trim().parse().ok()?).filter(|pid| pid.is_init())
}

/// Stops the services in order, then starts the machine anew.
pub fn restart(dir: &Path) -> Result<(), ApiError> {
    signal(dir, Signal::INT)
}

/// Stops the services in order, then switches the machine off.
pub fn power_off(dir: &Path) -> Result<(), ApiError> {
    signal(dir, Signal::TERM)
}

/// What process 1 makes of a signal: see the supervisor's `Ending`.
fn signal(dir: &Path, signal: Signal) -> Result<(), ApiError> {
    let process_1 = process_1(dir).ok_or_else(no_machine)?;
    rustix::process::kill_process(process_1, signal)
        .map_err(|e| ApiError::new(ErrorKind::Unavailable, format!("Process 1: {e}.")))
}

fn no_machine() -> ApiError {
    ApiError::new(ErrorKind::Refused, "This node is not a machine of its own.")
}

/// The settings of the node at `dir`.
pub fn settings(dir: &Path) -> Result<Settings, ApiError> {
    let path = dir.join(paths::SETTINGS);
    let fault = |e: &dyn std::fmt::Display| ApiError::internal(&path.display().to_string(), e);
    let bytes = std::fs::read(&path).map_err(|e| fault(&e))?;
    Settings::parse(&bytes).map_err(|e| fault(&e))
}

/// Puts the machine elsewhere on its network, from its next start on. Not while it is in a cluster: the others know it by
/// its address, and a node that they can't reach has no vote and no copy.
pub fn set_network(dir: &Path, network: Network) -> Result<(), ApiError> {
    if !is_one(dir) {
        return Err(no_machine());
    }
    let settings = settings(dir)?;
    if dir.join(paths::IDENTITY_DIR).join(paths::IN_CLUSTER).exists() {
        let message = format!(
            "{} is in a cluster, whose nodes know each other by address: its address can't change. A factory reset makes \
             it a new node, which can be paired at another one.",
            settings.name
        );
        return Err(ApiError::new(ErrorKind::Refused, message));
    }
    let changed =
        settings.with_network(network).map_err(|e| ApiError::new(ErrorKind::Invalid, format!("{e}.")))?;
    let bytes = serde_json::to_vec_pretty(&changed).map_err(|e| ApiError::internal("settings", &e))?;
    let path = dir.join(paths::SETTINGS);
    crate::store::replace(&path, &bytes).map_err(|e| ApiError::internal(&path.display().to_string(), &e))?;
    tracing::warn!(from = %settings.network(), to = %network, "the node's address was changed");
    Ok(())
}

/// Has the machine erase what it knows, at its next start.
pub fn ask_for_reset(dir: &Path) -> Result<(), ApiError> {
    if !is_one(dir) {
        return Err(no_machine());
    }
    let path = dir.join(paths::FACTORY_RESET);
    tracing::warn!("a factory reset was asked for");
    crate::store::replace(&path, b"").map_err(|e| ApiError::internal(&path.display().to_string(), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(address: &str, gateway: &str) -> Network {
        Network::typed(address, gateway).unwrap()
    }

    #[test]
    fn the_network_of_a_machine_outside_of_clusters_can_change() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        let json = r#"{"version":1,"name":"a","role":"witness","address":"192.0.2.11"}"#;
        std::fs::write(dir.join(paths::SETTINGS), json).unwrap();
        std::fs::create_dir(dir.join(paths::RUN_DIR)).unwrap();
        let kind = |network| set_network(dir, network).unwrap_err().kind;
        let wanted = typed("192.0.2.12/26", "192.0.2.1");
        assert_eq!(kind(wanted), ErrorKind::Refused, "no machine");
        std::fs::write(dir.join(paths::SUPERVISOR_PID), "17\n").unwrap();
        assert_eq!(kind(wanted), ErrorKind::Refused, "a supervisor that is no process 1");
        assert_eq!(ask_for_reset(dir).unwrap_err().kind, ErrorKind::Refused);
        assert_eq!(restart(dir).unwrap_err().kind, ErrorKind::Refused);

        std::fs::write(dir.join(paths::SUPERVISOR_PID), "1\n").unwrap();
        assert_eq!(kind(typed("192.0.2.12/24", "192.0.3.1")), ErrorKind::Invalid);
        assert_eq!(std::fs::read_to_string(dir.join(paths::SETTINGS)).unwrap(), json, "as it was");
        set_network(dir, wanted).unwrap();
        assert_eq!(settings(dir).unwrap().network(), wanted);
        assert_eq!(settings(dir).unwrap().name, "a");

        assert!(!dir.join(paths::FACTORY_RESET).exists());
        ask_for_reset(dir).unwrap();
        assert!(dir.join(paths::FACTORY_RESET).exists());

        std::fs::create_dir(dir.join(paths::IDENTITY_DIR)).unwrap();
        std::fs::write(dir.join(paths::IDENTITY_DIR).join(paths::IN_CLUSTER), "5\n").unwrap();
        let error = set_network(dir, typed("192.0.2.13/24", "")).unwrap_err();
        assert!(error.kind == ErrorKind::Refused && error.message.contains("cluster"), "{error}");
        assert_eq!(settings(dir).unwrap().network(), wanted);
    }
}
