//! What is.

use super::extract::Query;
use crate::app::Shared;
use crate::errors::ApiError;
use axum::Json;
use axum::extract::State;
use control::api::{Event, Status};
use control::service::ServiceStatus;
use serde::{Deserialize, Serialize};

/// Everything, as of now.
pub(super) async fn status(State(app): State<Shared>) -> Result<Json<Status>, ApiError> {
    app.status().await.map(Json)
}

/// This node's services; answers also while the cluster manager does not.
pub(super) async fn services(State(app): State<Shared>) -> Result<Json<Vec<ServiceStatus>>, ApiError> {
    app.upstream.services().await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct After {
    #[serde(default)]
    after: u64,
}

/// What happened, oldest first.
pub(super) async fn events(
    State(app): State<Shared>,
    Query(After { after }): Query<After>,
) -> Result<Json<Vec<Event>>, ApiError> {
    app.upstream.events(after).await.map(Json)
}

#[derive(Serialize)]
pub(super) struct Fingerprint {
    sha256: String,
}

/// What `futago ctl --url … --fingerprint` wants.
pub(super) async fn certificate(State(app): State<Shared>) -> Json<Fingerprint> {
    Json(Fingerprint { sha256: app.fingerprint.clone() })
}
