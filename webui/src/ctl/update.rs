//! `futago ctl update` and `restart`: one node, or one after the other ([`update::rolling`]).
//!
//! Invariant: what is decided about several nodes is decided there; here it is looked at and carried out.

use super::{CtlArguments, Report, password, trust};
use crate::client::{Client, ClientError, Trust};
use clap::Args;
use control::api::Status;
use control::update::{Installation, UpdateStatus};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use update::rolling::{Decision, Order, Rolling, View};
use update::{Claimed, HEADER_BYTES};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a node may be silent while it installs.
const SILENCE: Duration = Duration::from_secs(120);
/// Time for a node to restart.
const RESTART: Duration = Duration::from_secs(1800);
/// Where an appliance's console is.
const HTTPS: u16 = 443;

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
    /// With --rolling: another node's console and its certificate, https://HOST[:PORT]=SHA256 (with --insecure, without
    /// =SHA256, and by default the members' addresses); the password is the same
    #[arg(long = "peer", value_name = "URL=SHA256", requires = "rolling")]
    peers: Vec<String>,
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

pub(super) async fn run(
    client: &Client,
    args: &CtlArguments,
    update: &UpdateArguments,
) -> Result<Report, ClientError> {
    let Some(file) = &update.file else {
        let status = client.update_status().await?;
        return Report::new(&status, output(&status));
    };
    let bundle = Bundle::read(file)?;
    if update.rolling {
        if args.url.is_none() {
            let text = "--rolling needs --url, from another machine: each node restarts, also the one that this runs on";
            return Err(ClientError::new("invalid", text));
        }
        return rolling(client, args, update, &bundle).await;
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

async fn rolling(
    client: &Client,
    args: &CtlArguments,
    update: &UpdateArguments,
    bundle: &Bundle,
) -> Result<Report, ClientError> {
    let stopped =
        |reason: String| ClientError::new("refused", format!("the rolling update stopped: {reason}"));
    let nodes = consoles(client, args, update).await?;
    let without: BTreeSet<String> = update.without.iter().cloned().collect();
    let begun = Instant::now();
    let mut machine = Rolling::plan(&bundle.release, &look(&nodes).await, &without).map_err(stopped)?;
    let planned = machine.nodes().to_vec();
    let mut told = String::new();
    tell(&mut told, format!("release {} for: {}", bundle.release, list(&planned)));
    loop {
        match machine.poll(&look(&nodes).await, begun.elapsed()) {
            Decision::Wait(why) => {
                tell(&mut told, why);
                tokio::time::sleep(PERIOD).await;
            }
            Decision::Do(order) => {
                tell(&mut told, say(&order));
                if let Err(error) = carry_out(&nodes, &order, bundle).await {
                    machine.handle_failure(&error.message);
                }
            }
            Decision::Finished => {
                let report = serde_json::json!({ "release": bundle.release, "updated": planned });
                let human =
                    format!("every node runs release {}; updated: {}\n", bundle.release, list(&planned));
                return Report::new(&report, human);
            }
            Decision::Stopped(reason) => return Err(stopped(reason)),
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn say(order: &Order) -> String {
    match order {
        Order::Install { node } => format!("node {node}: sending the update"),
        Order::HandOver { volume, to } => format!("handing volume {volume} over to node {to}"),
        Order::Restart { node } => format!("node {node}: restarting"),
    }
}

async fn carry_out(
    nodes: &BTreeMap<String, Client>,
    order: &Order,
    bundle: &Bundle,
) -> Result<(), ClientError> {
    let find = |node: &str| {
        nodes
            .get(node)
            .ok_or_else(|| ClientError::new("invalid", format!("no console of node {node} is known")))
    };
    match order {
        Order::Install { node } => find(node)?.upload_update(bundle.content.clone()).await,
        Order::HandOver { volume, to } => find(to)?.hand_over(volume, Some(to)).await,
        Order::Restart { node } => find(node)?.restart().await,
    }
}

/// The consoles of all nodes, by the names that they give themselves.
async fn consoles(
    client: &Client,
    args: &CtlArguments,
    update: &UpdateArguments,
) -> Result<BTreeMap<String, Client>, ClientError> {
    let status = client.status().await?;
    let mut peers = Vec::new();
    for peer in &update.peers {
        peers.push(console(args, peer)?);
    }
    if update.peers.is_empty() && args.insecure {
        let members = status.cluster.iter().flat_map(|cluster| &cluster.members);
        for member in members.filter(|member| member.name != status.node) {
            let url = format!("https://{}", std::net::SocketAddr::new(member.address, HTTPS));
            peers.push(Client::remote(&url, &args.user, &password(args)?, Trust::Anyone)?);
        }
    }
    let mut nodes = BTreeMap::from([(status.node.clone(), client.clone())]);
    for peer in peers {
        // One that does not answer is missed by its name, and named then.
        if let Ok(said) = peer.status().await {
            admit(&mut nodes, &status, said, peer)?;
        }
    }
    Ok(nodes)
}

/// Takes a console that says `said` for one of the cluster that the first one is in.
fn admit<C>(
    nodes: &mut BTreeMap<String, C>,
    first: &Status,
    said: Status,
    console: C,
) -> Result<(), ClientError> {
    let invalid = |text: String| ClientError::new("invalid", text);
    // Without one, the plan says so.
    if let Some(cluster) = &first.cluster {
        update::rolling::belongs(cluster, &said).map_err(invalid)?;
    }
    if nodes.contains_key(&said.node) {
        return Err(invalid(format!("two of the consoles are that of node {}", said.node)));
    }
    nodes.insert(said.node, console);
    Ok(())
}

/// From `URL=SHA256`.
fn console(args: &CtlArguments, peer: &str) -> Result<Client, ClientError> {
    let (url, fingerprint) = match peer.split_once('=') {
        Some((url, fingerprint)) => (url, Some(fingerprint)),
        None => (peer, None),
    };
    let trust = trust("--peer needs URL=SHA256", fingerprint, args.insecure)?;
    Client::remote(url, &args.user, &password(args)?, trust)
}

/// What all of them say now, asked at once: answers one after the other would be of different moments.
async fn look(nodes: &BTreeMap<String, Client>) -> View {
    let ask = async |(name, client): (&String, &Client)| {
        let (status, update) = tokio::join!(soon(client.status()), soon(client.update_status()));
        (name.clone(), status, update)
    };
    let mut view = View::default();
    for (name, status, update) in join_all(nodes.iter().map(ask)).await {
        if let Some(status) = status {
            view.statuses.insert(name.clone(), status);
        }
        if let Some(update) = update {
            view.nodes.insert(name, update);
        }
    }
    view
}

/// A node that goes down answers nobody: it is looked at again later.
async fn soon<T>(answer: impl Future<Output = Result<T, ClientError>>) -> Option<T> {
    tokio::time::timeout(PERIOD * 10, answer).await.ok()?.ok()
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
    use control::api::{ClusterStatus, MemberStatus};
    use control::settings::Role;

    fn status(node: &str, cluster: Option<&str>) -> Status {
        let member = |name: &str| MemberStatus {
            name: name.to_owned(),
            role: Role::Data,
            online: true,
            address: "192.0.2.1".parse().unwrap(),
            ports: Default::default(),
            serving: false,
            free: base::ByteCount(0),
            capacity: base::ByteCount(0),
        };
        let cluster = cluster.map(|id| ClusterStatus {
            id: id.to_owned(),
            generation: 1,
            leader: None,
            quorum: true,
            members: ["a", "b", "witness"].map(member).into(),
            portal: None,
            formats: None,
        });
        Status {
            node: node.to_owned(),
            cluster,
            volumes: vec![],
            targets: vec![],
            sessions: vec![],
            services: vec![],
            problems: vec![],
        }
    }

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

    #[test]
    fn a_console_is_taken_once_and_only_of_this_cluster() {
        let first = status("a", Some("1"));
        let mut nodes = BTreeMap::from([("a".to_owned(), 0)]);
        for (said, expected) in [
            (status("b", Some("2")), "node b is in another cluster, 2, not in 1"),
            (status("b", None), "node b is in no cluster"),
            (status("c", Some("1")), "node c is no member of the cluster"),
            (status("a", Some("1")), "two of the consoles are that of node a"),
        ] {
            let error = admit(&mut nodes, &first, said, 1).unwrap_err();
            assert_eq!((&*error.kind, &*error.message), ("invalid", expected));
        }
        admit(&mut nodes, &first, status("b", Some("1")), 2).unwrap();
        let error = admit(&mut nodes, &first, status("b", Some("1")), 3).unwrap_err();
        assert!(error.message.contains("two of the consoles"), "{error}");
        assert_eq!(nodes, BTreeMap::from([("a".to_owned(), 0), ("b".to_owned(), 2)]));
    }
}
