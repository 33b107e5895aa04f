//! The cluster and its members.

use super::extract::{Body, DONE, Done, DoneAnswer, Path};
use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use control::api::{Answer, ClusterStatus, Command, MemberStatus};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCluster {
    portal: SocketAddr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Join {
    address: SocketAddr,
    code: String,
}

#[derive(Serialize)]
pub(super) struct Offer {
    code: String,
    valid_s: u64,
}

/// The cluster that this node is in.
pub(super) async fn cluster(State(app): State<Shared>) -> Result<Json<ClusterStatus>, ApiError> {
    let none = || ApiError::new(ErrorKind::NotFound, "This node is in no cluster.");
    app.status().await?.cluster.map(Json).ok_or_else(none)
}

/// Its members; none while this node is in no cluster.
pub(super) async fn nodes(State(app): State<Shared>) -> Result<Json<Vec<MemberStatus>>, ApiError> {
    app.status().await.map(|status| Json(status.cluster.map(|c| c.members).unwrap_or_default()))
}

/// Takes a node out of the cluster.
pub(super) async fn remove(State(app): State<Shared>, Path(name): Path<String>) -> DoneAnswer {
    app.command(&Command::RemoveMember { name }).await?;
    Ok(DONE)
}

/// Makes this node the first member of a new cluster.
pub(super) async fn create(
    State(app): State<Shared>,
    Body(new): Body<NewCluster>,
) -> Result<(StatusCode, Json<Done>), ApiError> {
    app.command(&Command::CreateCluster { portal: new.portal }).await?;
    Ok((StatusCode::CREATED, DONE))
}

/// Lets one node pair with this one.
pub(super) async fn offer(State(app): State<Shared>) -> Result<Json<Offer>, ApiError> {
    match app.command(&Command::OfferPairing).await? {
        Answer::PairingCode { code, valid_s } => Ok(Json(Offer { code, valid_s })),
        Answer::Done | Answer::Failed { .. } => {
            Err(ApiError::internal("pairing", &"the cluster manager gave no code"))
        }
    }
}

/// Pairs with the node that shows the code, and adds it to this node's cluster.
pub(super) async fn join(State(app): State<Shared>, Body(join): Body<Join>) -> Result<Json<Done>, ApiError> {
    app.command(&Command::Pair { address: join.address, code: join.code }).await?;
    Ok(DONE)
}
