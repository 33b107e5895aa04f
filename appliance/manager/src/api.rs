//! The control socket: status, commands and events as HTTP/JSON ([`control::api`]).

use crate::node::{Node, failed};
use crate::pairing::{self, decided};
use crate::{grow, hand_over, proposals, status};
use axum::extract::{Query, State};
use axum::response::Json;
use axum::routing::{get, post};
use base::{ByteCount, VolumeId};
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

/// Creates a volume once every data node is known to have the room (S22).
async fn create_volume(node: &Node, name: String, size: ByteCount, presentation: Presentation) -> Answer {
    if let Err(answer) = in_cluster(node) {
        return answer;
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
    let command = cluster::Command::CreateVolume { id, name, size, write_back: false, presentation };
    propose(node, command).await
}

enum Shortage {
    Full(String),
    Unknown(String),
}

fn room(node: &Node, size: ByteCount) -> Result<(), Shortage> {
    let state = node.log.applied().state;
    let own = node.storage.current().1;
    let pulse = node.heart.pulse(state.members.keys().copied());
    for data_node in state.data_nodes() {
        let report: Option<&Report> = if data_node == node.me {
            own.as_ref()
        } else {
            pulse.alive.get(&data_node).and_then(Option::as_ref)
        };
        let name = state.name_of(data_node);
        match report {
            None => return Err(Shortage::Unknown(format!("the storage process of {name} is not reached"))),
            Some(report) if report.free < size => {
                return Err(Shortage::Full(format!("{name} has {} free, {size} is needed", report.free)));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
