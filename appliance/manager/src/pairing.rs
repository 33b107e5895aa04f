//! How a node comes into a cluster: it offers a code, a member dials it, both learn each other's certificate, the
//! member has it added to the committed state, and says welcome.
//!
//! Invariants
//! - Nothing is committed before the code was proven; a wrong code changes nothing but its count.
//! - A node that is in a cluster offers nothing and follows no other welcome.
//! - The joining node marks its identity as used before it accepts: an identity whose log got lost never votes (S20).

use crate::membership;
use crate::messages::{Request, Response};
use crate::node::{Node, failed};
use crate::peers::chain;
use crate::proposals;
use crate::raft::log_store::blocking;
use crate::raft::log_view::Applied;
use crate::raft::store::Introduction;
use base::{ClusterId, NodeId};
use cluster::{Command, Outcome, Severity};
use control::api::Answer;
use control::link::Member;
use control::settings::Role;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::PoisonError;
use tokio::net::TcpStream;
use transport::pairing::{self, Card, Code, PairingError};

/// Opens an offer.
pub(crate) fn offer(node: &Node) -> Answer {
    if let Some(cluster) = node.cluster() {
        return failed("exists", format!("{} is in cluster {cluster} already", node.settings.name));
    }
    if let Err(answer) = node.formats_to_promise() {
        return answer;
    }
    match node.offer.open() {
        Ok(code) => Answer::PairingCode { code: code.to_string(), valid_s: pairing::VALID.as_secs() },
        Err(error) => failed("unavailable", format!("no random numbers: {error}")),
    }
}

/// A pairing connection came in.
pub(crate) async fn respond(node: &Node, stream: TcpStream) {
    match node.offer.respond(stream, &node.card()).await {
        Ok(card) => {
            let text = format!("Paired with {}; waiting to be added to its cluster.", card.name);
            node.events.tell(Severity::Info, text);
            expect(node, card);
        }
        Err(error) => {
            let text = chain(&error);
            tracing::warn!(error = text, "pairing");
            if let PairingError::WrongCode { .. } = error {
                node.events.tell(Severity::Warning, format!("A pairing attempt failed: {text}."));
            }
        }
    }
}

fn expect(node: &Node, card: Card) {
    *node.visitor.lock().unwrap_or_else(PoisonError::into_inner) = Some(card);
    membership::refresh_contacts(node);
}

fn member_of(card: &Card) -> Member {
    Member {
        node: card.node,
        name: card.name.clone(),
        data: card.role == Role::Data,
        cluster_address: card.cluster_address,
        replication_address: card.replication_address,
        certificate_sha256: card.certificate_sha256.clone(),
    }
}

/// Begins a cluster with this node.
pub(crate) async fn create_cluster(node: &Node, portal: SocketAddr) -> Answer {
    if let Some(cluster) = node.cluster() {
        return failed("exists", format!("{} is in cluster {cluster} already", node.settings.name));
    }
    if node.settings.role != Role::Data {
        return failed(
            "invalid",
            format!("{} is a witness; a data node creates the cluster", node.settings.name),
        );
    }
    let formats = match node.formats_to_promise() {
        Ok(formats) => formats,
        Err(answer) => return answer,
    };
    let id = match transport::random_id() {
        Ok(id) => ClusterId(id),
        Err(error) => return failed("unavailable", format!("no random numbers: {error}")),
    };
    if let Err(error) = node.mark_identity(id) {
        return failed("unavailable", format!("{error:#}"));
    }
    node.offer.close();
    let begun = match node.raft.is_initialized().await {
        // An earlier attempt got this far and no further.
        Ok(true) => Ok(()),
        Ok(false) => node
            .raft
            .initialize(BTreeMap::from([(node.me.0, openraft::EmptyNode {})]))
            .await
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = begun {
        return failed("unavailable", format!("the Raft log can't be begun: {error}"));
    }
    let first = member_of(&node.card);
    let time_scale_percent = node.settings.time_scale_percent;
    let command = Command::CreateCluster { id, portal, time_scale_percent, first, formats };
    decided(proposals::propose(node, command, node.patience()).await)
}

/// The answer to a proposed command.
pub(crate) fn decided(result: Result<Outcome, proposals::ProposeError>) -> Answer {
    match result {
        Ok(outcome) => outcome.answer(),
        Err(error @ proposals::ProposeError::TimedOut) => failed("timed_out", error.to_string()),
        Err(error @ proposals::ProposeError::Stopped) => failed("unavailable", error.to_string()),
    }
}

/// Pairs with the node at `address` and adds it to this node's cluster.
pub(crate) async fn pair(node: &Node, address: SocketAddr, code: &str) -> Answer {
    let Some(cluster) = node.cluster() else {
        return failed("unavailable", format!("{} is in no cluster: create one first", node.settings.name));
    };
    let Some(code) = Code::parse(code) else {
        return failed("invalid", "a pairing code has nine digits".into());
    };
    let card = match pairing::dial(address, &code, &node.card()).await {
        Ok(card) => card,
        Err(error) => {
            let kind = match error {
                PairingError::WrongCode { .. } | PairingError::NotProven(_) => "refused",
                PairingError::TimedOut(_) => "timed_out",
                PairingError::NotOffered(_)
                | PairingError::Busy(_)
                | PairingError::Protocol { .. }
                | PairingError::Io { .. } => "unavailable",
            };
            return failed(kind, chain(&error));
        }
    };
    let joins = Command::AddMember { member: member_of(&card), formats: card.formats };
    let name = card.name.clone();
    let added = proposals::propose(node, joins, node.patience()).await;
    match decided(added) {
        Answer::Done => {}
        other => return other,
    }
    let joined = card.node;
    expect(node, card);
    let members = node.log.applied().state.members.values().cloned().collect();
    let welcome = Request::Welcome(Introduction { cluster, members });
    match node.peers.call(joined, welcome, node.patience()).await {
        Ok(Response::Answer(Answer::Done)) => {}
        Ok(Response::Answer(other)) => return other,
        Ok(_) => return failed("refused", format!("{name} did not understand the welcome")),
        Err(error) => {
            return failed(
                "unavailable",
                format!("{name} is a member, but was not told: {error}. Pair it again."),
            );
        }
    }
    follows(node, joined, &name).await
}

/// Waits until `joined` follows the log, and votes if it is the third.
async fn follows(node: &Node, joined: NodeId, name: &str) -> Answer {
    let text = format!("{name} is a member, but does not follow the log yet; it goes on trying");
    let is_in = |applied: &Applied, _: &_| applied.membership.membership().get_node(&joined.0).is_some();
    membership::settled(node, is_in, text).await
}

/// A member says welcome.
pub(crate) async fn welcomed(node: &Node, from: NodeId, introduction: Introduction) -> Answer {
    let known = node.introduction.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if known.as_ref().is_some_and(|known| known.cluster == introduction.cluster) {
        return Answer::Done;
    }
    if let Some(cluster) = node.cluster() {
        return failed("exists", format!("{} is in cluster {cluster} already", node.settings.name));
    }
    let visitor = node.visitor.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|card| card.node);
    let names_me = introduction
        .members
        .iter()
        .any(|member| member.node == node.me && member.certificate_sha256 == node.card.certificate_sha256);
    if visitor != Some(from) || !names_me || introduction.cluster.0 == 0 {
        return failed("refused", format!("{} was not paired for that", node.settings.name));
    }
    if let Err(error) = node.mark_identity(introduction.cluster) {
        return failed("unavailable", format!("{error:#}"));
    }
    let (store, saved) = (node.store.clone(), introduction.clone());
    if let Err(error) = blocking(move || store.save_introduction(&saved)).await {
        return failed("unavailable", chain(&error));
    }
    node.events.tell(Severity::Info, format!("Welcomed into cluster {}.", introduction.cluster));
    *node.introduction.lock().unwrap_or_else(PoisonError::into_inner) = Some(introduction);
    *node.visitor.lock().unwrap_or_else(PoisonError::into_inner) = None;
    node.offer.close();
    membership::refresh_contacts(node);
    Answer::Done
}
