//! Updates of this node, and its restart; updates of all nodes.

use super::extract::{DONE, Done, DoneAnswer, Query};
use crate::app::Shared;
use crate::client::KnownUpdate;
use crate::cluster_update;
use crate::errors::ApiError;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use control::update::{ClusterUpdate, UpdateStatus};
use serde::Deserialize;

/// What runs, and what became of the last update.
pub(super) async fn status(State(app): State<Shared>) -> Result<Json<UpdateStatus>, ApiError> {
    app.upstream.update().await.map(Json)
}

/// Takes an update, which is the body, and begins to install it.
pub(super) async fn upload(
    State(app): State<Shared>,
    body: Body,
) -> Result<(StatusCode, Json<Done>), ApiError> {
    app.take_update(body.into_data_stream()).await?;
    Ok((StatusCode::ACCEPTED, DONE))
}

/// Restarts the machine, in order.
pub(super) async fn restart(State(app): State<Shared>) -> Result<(StatusCode, Json<Done>), ApiError> {
    app.restart_machine().await?;
    Ok((StatusCode::ACCEPTED, DONE))
}

/// The last update of all nodes that this one knows of.
pub(super) async fn cluster_status(State(app): State<Shared>) -> Json<KnownUpdate> {
    Json(app.cluster_updates.known())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Without {
    /// Names, with commas between them.
    #[serde(default)]
    without: String,
}

/// Takes an update, which is the body, and begins to bring it to all nodes.
pub(super) async fn begin_cluster(
    State(app): State<Shared>,
    Query(Without { without }): Query<Without>,
    body: Body,
) -> Result<(StatusCode, Json<ClusterUpdate>), ApiError> {
    let without = without.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let update = cluster_update::begin(&app, without, body.into_data_stream()).await?;
    Ok((StatusCode::ACCEPTED, Json(update)))
}

/// The leader of an update of all nodes tells how far it is.
pub(super) async fn hear_cluster(
    State(app): State<Shared>,
    super::extract::Body(update): super::extract::Body<ClusterUpdate>,
) -> DoneAnswer {
    app.cluster_updates.hear_member(update)?;
    Ok(DONE)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Id {
    id: String,
}

/// Another node gives the lead to this one, with the update, which is the body.
pub(super) async fn lead_cluster(
    State(app): State<Shared>,
    Query(Id { id }): Query<Id>,
    body: Body,
) -> Result<(StatusCode, Json<Done>), ApiError> {
    cluster_update::take_over(&app, &id, body.into_data_stream()).await?;
    Ok((StatusCode::ACCEPTED, DONE))
}
