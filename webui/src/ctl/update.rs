//! `futago ctl update` and `restart`: one node; or all, which a node does ([`crate::cluster_update`]) and this looks at.

use super::Report;
use crate::client::{Client, ClientError, KnownUpdate};
use clap::Args;
use control::update::{ClusterUpdateState, Installation, NodeStep, UpdateStatus};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use update::{Claimed, HEADER_BYTES};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a node may be silent while it installs.
const SILENCE: Duration = Duration::from_secs(120);
/// Time for a node to restart.
const RESTART: Duration = Duration::from_secs(1800);

/// Arguments of `update`.
#[derive(Args, Debug)]
pub(super) struct UpdateArguments {
    /// futago-VERSION.update; without it, what runs and what is installed is shown
    file: Option<PathBuf>,
    /// Restart the node once it is installed, and wait until the release runs
    #[arg(long, requires = "file")]
    restart: bool,
    /// Update every node of the cluster, one after the other: standby first, witness last
    #[arg(long, requires = "file", conflicts_with = "restart")]
    rolling: bool,
    /// With --rolling: leave this node out
    #[arg(long, value_name = "NODE", requires = "rolling")]
    without: Vec<String>,
}

/// An update that was read, and what it claims to be: each node looks at the signature itself.
struct Bundle {
    content: Vec<u8>,
    release: String,
}

impl Bundle {
    fn read(path: &Path) -> Result<Self, ClientError> {
        let fault =
            |e: &dyn std::fmt::Display| ClientError::new("invalid", format!("{}: {e}", path.display()));
        let content = std::fs::read(path).map_err(|e| fault(&e))?;
        let claimed =
            Claimed::decode(content.get(..HEADER_BYTES).unwrap_or(&content)).map_err(|e| fault(&e))?;
        Ok(Self { release: claimed.header.version.to_string(), content })
    }
}

pub(super) async fn run(client: &Client, update: &UpdateArguments) -> Result<Report, ClientError> {
    let Some(file) = &update.file else {
        let status = client.update_status().await?;
        return Report::new(&status, output(&status));
    };
    let bundle = Bundle::read(file)?;
    if update.rolling {
        return rolling(client, update, bundle).await;
    }
    let before = client.update_status().await?;
    client.upload_update(bundle.content).await?;
    install(client, &before.boot).await?;
    if !update.restart {
        let done = format!("release {} is installed; the next start takes it\n", bundle.release);
        return Ok(Report::done(done));
    }
    client.restart().await?;
    let after = wait_for_start(client, &before.boot).await?;
    if after.running == bundle.release {
        return Ok(Report::done(format!("release {} runs\n", bundle.release)));
    }
    let text = format!("release {} did not come up; release {} runs", bundle.release, after.running);
    Err(ClientError::new("refused", text))
}

/// Restarts the node.
pub(super) async fn restart(client: &Client) -> Result<Report, ClientError> {
    client.restart().await?;
    Ok(Report::done("the node goes down and starts again\n".to_owned()))
}

/// Until the update that was taken is installed, or why not. `boot` is the start of the machine that took it.
async fn install(client: &Client, boot: &str) -> Result<(), ClientError> {
    let mut heard = Instant::now();
    let mut told = String::new();
    loop {
        match client.update_status().await {
            Ok(status) => {
                heard = Instant::now();
                match under_way(&status, boot)? {
                    Some(line) => tell(&mut told, line),
                    None => return Ok(()),
                }
            }
            Err(error) if heard.elapsed() >= SILENCE => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// How far an installation is, for people; `None`: it is done. A node that restarts forgets it.
fn under_way(status: &UpdateStatus, boot: &str) -> Result<Option<String>, ClientError> {
    let refused = |reason: &str| Err(ClientError::new("refused", reason));
    if status.boot != boot {
        return refused("the node restarted while it installed: look at what runs, and begin again");
    }
    match &status.installation {
        Some(Installation::Installed { .. }) => Ok(None),
        Some(Installation::Failed { reason }) => refused(reason),
        Some(Installation::Writing { percent, .. }) => Ok(Some(format!("writing: {} %", percent / 10 * 10))),
        Some(Installation::Checking) => Ok(Some("checking".to_owned())),
        None => refused("the node took the update and does not install it: begin again"),
    }
}

/// Until the machine answers that was started after `boot`.
async fn wait_for_start(client: &Client, boot: &str) -> Result<UpdateStatus, ClientError> {
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        if let Ok(status) = client.update_status().await
            && status.boot != boot
        {
            return Ok(status);
        }
        if begun.elapsed() >= RESTART {
            let text = format!("the node did not come back within {} minutes", RESTART.as_secs() / 60);
            return Err(ClientError::new("timed_out", text));
        }
        tell(&mut told, "restarting".to_owned());
        tokio::time::sleep(PERIOD).await;
    }
}

/// Progress, for people, on standard error; each line once.
fn tell(last: &mut String, line: String) {
    if *last != line {
        eprintln!("{line}");
        *last = line;
    }
}

/// One node leads it, and gives the lead away before its own turn: it is the others that are asked then, by the same console.
async fn rolling(client: &Client, update: &UpdateArguments, bundle: Bundle) -> Result<Report, ClientError> {
    let begun = client.update_cluster(bundle.content, &update.without).await?;
    let planned: Vec<String> = begun
        .nodes
        .iter()
        .filter(|node| node.step != NodeStep::Updated)
        .map(|node| node.name.clone())
        .collect();
    let mut told = String::new();
    tell(&mut told, format!("release {} for: {}", begun.release, list(&planned)));
    let mut heard = Instant::now();
    loop {
        match client.cluster_update().await {
            Ok(KnownUpdate { update: Some(update), silent_s: 0 }) if update.id == begun.id => {
                heard = Instant::now();
                match update.state {
                    ClusterUpdateState::Running => tell(&mut told, update.text),
                    ClusterUpdateState::Finished => {
                        let report = serde_json::json!({ "release": update.release, "updated": planned });
                        let human = format!("{}; updated: {}\n", update.text, list(&planned));
                        return Report::new(&report, human);
                    }
                    ClusterUpdateState::Stopped => {
                        let text = format!("the rolling update stopped: {}", update.text);
                        return Err(ClientError::new("refused", text));
                    }
                }
            }
            Ok(KnownUpdate { update: Some(update), .. }) if update.begun_at > begun.begun_at => {
                return Err(ClientError::new("refused", "another update of all nodes was begun"));
            }
            // The node restarts, or has not been told yet.
            Ok(_) | Err(_) if heard.elapsed() < RESTART => {}
            Ok(_) => {
                let text = "the node that leads the update says nothing: look at the pages of all nodes";
                return Err(ClientError::new("timed_out", text));
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn output(status: &UpdateStatus) -> String {
    let mut out = format!("release {} runs", status.running);
    match &status.slots {
        None => out.push_str("; it did not start from an appliance's disk and can't be updated"),
        Some(slots) => {
            let idle = slots.idle_release.as_deref().unwrap_or("nothing");
            out.push_str(&format!(" from slot {}; the other slot holds {idle}", slots.running));
            if slots.next != slots.running {
                out.push_str(", and the next start takes that");
            }
        }
    }
    out.push('\n');
    match &status.installation {
        None | Some(Installation::Installed { .. }) => {}
        Some(Installation::Checking) => out.push_str("an update is being checked\n"),
        Some(Installation::Writing { release, percent }) => {
            out.push_str(&format!("release {release} is being written: {percent} %\n"));
        }
        Some(Installation::Failed { reason }) => out.push_str(&format!("the last update failed: {reason}\n")),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_ends_with_the_start_that_it_began_in() {
        let seen = |boot: &str, installation| {
            let (running, boot) = ("0.1.0".to_owned(), boot.to_owned());
            under_way(&UpdateStatus { running, boot, slots: None, installation }, "1")
                .map_err(|error| error.message)
        };
        let writing = Installation::Writing { release: "0.2.0".to_owned(), percent: 47 };
        let installed = Installation::Installed { release: "0.2.0".to_owned() };
        let failed = Installation::Failed { reason: "It is not signed.".to_owned() };
        assert_eq!(seen("1", Some(Installation::Checking)), Ok(Some("checking".to_owned())));
        assert_eq!(seen("1", Some(writing.clone())), Ok(Some("writing: 40 %".to_owned())));
        assert_eq!(seen("1", Some(installed.clone())), Ok(None));
        assert_eq!(seen("1", Some(failed)), Err("It is not signed.".to_owned()));
        assert!(seen("1", None).unwrap_err().contains("does not install it"));
        for installation in [None, Some(writing), Some(installed)] {
            assert!(seen("2", installation).unwrap_err().contains("restarted while it installed"));
        }
    }
}
