//! What is.

use super::extract::{NoQuery, Path, Query};
use crate::app::Shared;
use crate::errors::ApiError;
use crate::logs;
use axum::Json;
use axum::extract::State;
use control::api::{Event, Status};
use control::service::ServiceStatus;
use serde::{Deserialize, Serialize};

/// The end of a log that is sent.
const LOG_BYTES: u64 = 1 << 20;

/// Everything, as of now.
pub(super) async fn status(State(app): State<Shared>) -> Result<Json<Status>, ApiError> {
    app.status().await.map(Json)
}

/// This node's services; answers also while the cluster manager does not.
pub(super) async fn services(State(app): State<Shared>) -> Result<Json<Vec<ServiceStatus>>, ApiError> {
    app.upstream.services().await.map(Json)
}

/// The end of a service's log, as text.
pub(super) async fn log(
    State(app): State<Shared>,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<String, ApiError> {
    logs::of_service(&app.dir, &name, LOG_BYTES)
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
