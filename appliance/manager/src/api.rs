//! The control socket: status, commands and events as HTTP/JSON ([`control::api`]).

use crate::copies::{self, Reports};
use crate::node::{Node, failed};
use crate::pairing::{self, decided};
use crate::{grow, hand_over, proposals, removal, status};
use axum::extract::{Query, State};
use axum::response::Json;
use axum::routing::{get, post};
use base::{ByteCount, NodeId, VolumeId};
use control::api::{Answer, Command, Event, Status};
use control::link::Report;
use control::names::{Pattern, normal};
use control::targets::Presentation;
use serde::Deserialize;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::time::{Instant, sleep};

/// Serves the control socket for ever.
pub(crate) async fn serve(node: Arc<Node>, listener: UnixListener) {
    let router = axum::Router::new()
        .route("/status", get(get_status))
        .route("/command", post(post_command))
        .route("/events", get(get_events))
        .with_state(node);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "control socket");
    }
}

async fn get_status(State(node): State<Arc<Node>>) -> Json<Status> {
    Json(status::status(&node))
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn get_events(State(node): State<Arc<Node>>, Query(query): Query<After>) -> Json<Vec<Event>> {
    Json(node.events.after(query.after))
}

async fn post_command(State(node): State<Arc<Node>>, body: axum::body::Bytes) -> Json<Answer> {
    let command = match serde_json::from_slice(&body) {
        Ok(command) => command,
        Err(error) => return Json(failed("invalid", format!("no command: {error}"))),
    };
    // In a task of its own: a command that was begun goes on when whoever asked hangs up.
    let done = tokio::spawn(async move { run(&node, command).await });
    Json(
        done.await.unwrap_or_else(|error| failed("unavailable", format!("the command did not end: {error}"))),
    )
}

async fn run(node: &Node, command: Command) -> Answer {
    let command = match command {
        Command::CreateCluster { portal } => return pairing::create_cluster(node, portal).await,
        Command::OfferPairing => return pairing::offer(node),
        Command::Pair { address, code } => return pairing::pair(node, address, &code).await,
        Command::RemoveMember { name } => return removal::run(node, &name).await,
        Command::HandOver { volume, to } => return hand_over::run(node, &volume, to.as_deref()).await,
        Command::CreateVolume { name, size, presentation } => {
            return create_volume(node, name, size, presentation).await;
        }
        Command::GrowVolume { name, size } => return grow::run(node, name, size).await,
        Command::DeleteVolume { name } => cluster::Command::DeleteVolume { name },
        Command::CreateTarget { iqn } => cluster::Command::CreateTarget { iqn: normal(&iqn) },
        Command::DeleteTarget { iqn } => cluster::Command::DeleteTarget { iqn: normal(&iqn) },
        Command::MapLun { iqn, lun, volume, read_only, initiators } => {
            let (iqn, initiators) = (normal(&iqn), normal_all(&initiators));
            cluster::Command::MapLun { iqn, lun, volume, read_only, initiators }
        }
        Command::ChangeLun { iqn, lun, read_only, initiators } => {
            let (iqn, initiators) = (normal(&iqn), initiators.as_deref().map(normal_all));
            cluster::Command::ChangeLun { iqn, lun, read_only, initiators }
        }
        Command::UnmapLun { iqn, lun } => cluster::Command::UnmapLun { iqn: normal(&iqn), lun },
        Command::AllowInitiator { iqn, pattern } => {
            cluster::Command::AllowInitiator { iqn: normal(&iqn), pattern: normal_one(&pattern) }
        }
        Command::DenyInitiator { iqn, pattern, open } => {
            cluster::Command::DenyInitiator { iqn: normal(&iqn), pattern: normal_one(&pattern), open }
        }
        Command::SetChap { iqn, pattern, chap } => {
            let pattern = pattern.as_ref().map(normal_one);
            cluster::Command::SetChap { iqn: normal(&iqn), pattern, chap }
        }
    };
    propose(node, command).await
}

fn normal_one(pattern: &Pattern) -> Pattern {
    Pattern::typed(pattern.as_str())
}

fn normal_all(patterns: &[Pattern]) -> Vec<Pattern> {
    patterns.iter().map(normal_one).collect()
}

pub(crate) async fn propose(node: &Node, command: cluster::Command) -> Answer {
    if let Err(answer) = in_cluster(node) {
        return answer;
    }
    decided(proposals::propose(node, command, node.patience()).await)
}

pub(crate) fn in_cluster(node: &Node) -> Result<(), Answer> {
    match node.cluster() {
        Some(_) => Ok(()),
        None => Err(failed("unavailable", format!("{} is in no cluster yet", node.settings.name))),
    }
}

/// Creates a volume once the nodes that are to hold it are known to have the room (S22), and waits until each has made its copy.
async fn create_volume(node: &Node, name: String, size: ByteCount, presentation: Presentation) -> Answer {
    if let Err(answer) = in_cluster(node) {
        return answer;
    }
    if let Err(refusal) = node.log.applied().state.check_new_volume(&name, size) {
        return refusal.into();
    }
    // A storage process that was started a moment ago is about to report.
    let deadline = Instant::now() + node.timing.dead * 3;
    loop {
        match room(node, size) {
            Ok(()) => break,
            Err(Shortage::Full(text)) => return failed("unavailable", text),
            Err(Shortage::Unknown(text)) if Instant::now() >= deadline => return failed("unavailable", text),
            Err(Shortage::Unknown(_)) => sleep(node.timing.raft_heartbeat).await,
        }
    }
    let id = match transport::random_id() {
        Ok(id) => VolumeId(id),
        Err(error) => return failed("unavailable", format!("no random numbers: {error}")),
    };
    let command =
        cluster::Command::CreateVolume { id, name: name.clone(), size, write_back: false, presentation };
    match propose(node, command).await {
        Answer::Done => made(node, id, &name).await,
        other => other,
    }
}

enum Shortage {
    Full(String),
    Unknown(String),
}

fn room(node: &Node, size: ByteCount) -> Result<(), Shortage> {
    let state = node.log.applied().state;
    let reports = Reports::of(node, &state);
    for data_node in state.nodes_for_copies() {
        let name = state.name_of(data_node);
        let Some(report) = reports.get(data_node) else {
            return Err(Shortage::Unknown(format!("the storage process of {name} is not reached")));
        };
        if let Some(text) = copies::shortage(&state, data_node, report, size) {
            let text = format!("{name} {text}");
            let early = copies::is_early(&state, data_node, report);
            return Err(if early { Shortage::Unknown(text) } else { Shortage::Full(text) });
        }
    }
    Ok(())
}

/// Waits until every copy is there, or one can't be made. What takes longer goes on by itself.
async fn made(node: &Node, id: VolumeId, name: &str) -> Answer {
    let deadline = Instant::now() + node.patience();
    while Instant::now() < deadline {
        let state = node.log.applied().state;
        let Some(config) = state.config(id) else { break };
        let reports = Reports::of(node, &state);
        let of = |copy: &NodeId| reports.get(*copy).map(|report| (*copy, report));
        let failure = config.replicas.iter().filter_map(of).find_map(|(copy, report)| {
            report.unopened.iter().find(|unopened| unopened.volume == id).map(|unopened| (copy, unopened))
        });
        if let Some((copy, unopened)) = failure {
            let text = format!(
                "volume {name} exists, but its copy on {} can't be made: {}. It is tried again until the volume is deleted",
                state.name_of(copy),
                unopened.reason
            );
            return failed("unavailable", text);
        }
        let is_open = |(_, report): (NodeId, &Report)| report.volumes.iter().any(|copy| copy.volume == id);
        if config.replicas.iter().all(|copy| of(copy).is_some_and(is_open)) {
            break;
        }
        sleep(node.timing.raft_heartbeat).await;
    }
    Answer::Done
}
