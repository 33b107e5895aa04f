//! Updates of this node, and its restart.

use super::extract::{DONE, Done};
use crate::app::Shared;
use crate::errors::ApiError;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use control::update::UpdateStatus;

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
