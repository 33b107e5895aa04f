//! Volumes.

use super::extract::{Body, CreatedAnswer, DONE, DoneAnswer, Path};
use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base::ByteCount;
use control::api::{Command, VolumeStatus};
use control::targets::{BlockFormat, Presentation};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewVolume {
    name: String,
    size: ByteCount,
    #[serde(default)]
    block_format: BlockFormat,
    /// Absent: thin.
    thin: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grow {
    size: ByteCount,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HandOver {
    #[serde(default)]
    to: Option<String>,
}

/// Every volume.
pub(super) async fn list(State(app): State<Shared>) -> Result<Json<Vec<VolumeStatus>>, ApiError> {
    app.status().await.map(|status| Json(status.volumes))
}

/// One volume.
pub(super) async fn one(
    State(app): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<VolumeStatus>, ApiError> {
    let found = app.status().await?.volumes.into_iter().find(|v| v.name == name);
    found.map(Json).ok_or_else(|| ApiError::new(ErrorKind::NotFound, format!("There is no volume {name}.")))
}

/// A new volume.
pub(super) async fn create(State(app): State<Shared>, Body(new): Body<NewVolume>) -> CreatedAnswer {
    let thin = new.thin.unwrap_or(Presentation::default().thin);
    let presentation = Presentation { block_format: new.block_format, thin };
    app.command(&Command::CreateVolume { name: new.name, size: new.size, presentation }).await?;
    Ok((StatusCode::CREATED, DONE))
}

/// Gives a volume a larger size.
pub(super) async fn grow(
    State(app): State<Shared>,
    Path(name): Path<String>,
    Body(Grow { size }): Body<Grow>,
) -> DoneAnswer {
    app.command(&Command::GrowVolume { name, size }).await?;
    Ok(DONE)
}

/// Deletes a volume that no target uses.
pub(super) async fn delete(State(app): State<Shared>, Path(name): Path<String>) -> DoneAnswer {
    app.command(&Command::DeleteVolume { name }).await?;
    Ok(DONE)
}

/// Moves the service of a volume.
pub(super) async fn hand_over(
    State(app): State<Shared>,
    Path(volume): Path<String>,
    Body(HandOver { to }): Body<HandOver>,
) -> DoneAnswer {
    app.command(&Command::HandOver { volume, to }).await?;
    Ok(DONE)
}
