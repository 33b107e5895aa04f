//! `demo.json` and what the demo prints.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::first_run::Password;
use super::layout::{self, IQN, NODES, USER, VOLUME};
use super::processes;

/// `demo.json` (docs/demo.md).
#[derive(Serialize, Deserialize)]
struct Summary {
    portal: String,
    iqn: String,
    lun: u16,
    volume: String,
    user: String,
    password: String,
    nodes: Vec<NodeSummary>,
}

#[derive(Serialize, Deserialize)]
struct NodeSummary {
    name: String,
    /// The supervisor's process, also its process group; `None` while the node is down.
    pid: Option<i32>,
    address: String,
    web: Option<String>,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("demo.json")
}

fn nodes(dir: &Path) -> Vec<NodeSummary> {
    NODES
        .into_iter()
        .map(|node| NodeSummary {
            name: node.name.into(),
            pid: processes::running(node, dir).map(|pid| pid.as_raw_nonzero().get()),
            address: node.address.to_string(),
            web: node.web(),
        })
        .collect()
}

/// Writes `demo.json`, then prints `READY` and what a person wants to know.
pub(super) fn announce(dir: &Path, password: &Password) -> anyhow::Result<()> {
    let summary = Summary {
        portal: layout::portal().to_string(),
        iqn: IQN.into(),
        lun: 0,
        volume: VOLUME.into(),
        user: USER.into(),
        password: password.text.clone(),
        nodes: nodes(dir),
    };
    write(dir, &summary)?;
    println!("READY");
    println!();
    println!("  portal    {}", summary.portal);
    println!("  target    {IQN}, LUN 0");
    for node in &summary.nodes {
        if let Some(web) = &node.web {
            println!("  console   {web}  (node {})", node.name);
        }
    }
    println!("  login     {USER} / {}", password.text);
    for node in &password.changed_at {
        println!("            (but on node {node}: the password was changed there)");
    }
    println!();
    println!("  connect   iscsi-inq iscsi://{}/{IQN}/0", summary.portal);
    let futago = std::env::current_exe()?;
    println!("  status    {} ctl --dir {}/a status", futago.display(), dir.display());
    println!("  stop      Ctrl-C");
    Ok(())
}

/// Brings the processes in `demo.json` up to date after a node was started or stopped.
pub(super) fn refresh(dir: &Path) -> anyhow::Result<()> {
    let Ok(text) = fs::read(path(dir)) else { return Ok(()) };
    let mut summary: Summary = serde_json::from_slice(&text)?;
    summary.nodes = nodes(dir);
    write(dir, &summary)
}

fn write(dir: &Path, summary: &Summary) -> anyhow::Result<()> {
    layout::write_private(&path(dir), &serde_json::to_vec_pretty(summary)?)
}

/// Nothing runs any more.
pub(super) fn remove(dir: &Path) {
    let _ = fs::remove_file(path(dir));
}
