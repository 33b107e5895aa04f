//! Volumes, targets and LUNs.

use super::extract::{Body, DONE, Done, Path};
use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base::ByteCount;
use control::api::{Command, TargetStatus, VolumeStatus};
use serde::Deserialize;

type DoneAnswer = Result<Json<Done>, ApiError>;
type CreatedAnswer = Result<(StatusCode, Json<Done>), ApiError>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewVolume {
    name: String,
    size: ByteCount,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grow {
    size: ByteCount,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTarget {
    iqn: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewLun {
    lun: u16,
    volume: String,
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

/// A new volume on every data node.
pub(super) async fn create(State(app): State<Shared>, Body(new): Body<NewVolume>) -> CreatedAnswer {
    app.command(&Command::CreateVolume { name: new.name, size: new.size }).await?;
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

/// Every target with its LUNs.
pub(super) async fn targets(State(app): State<Shared>) -> Result<Json<Vec<TargetStatus>>, ApiError> {
    app.status().await.map(|status| Json(status.targets))
}

/// A new target.
pub(super) async fn create_target(State(app): State<Shared>, Body(new): Body<NewTarget>) -> CreatedAnswer {
    app.command(&Command::CreateTarget { iqn: new.iqn }).await?;
    Ok((StatusCode::CREATED, DONE))
}

/// Deletes a target.
pub(super) async fn delete_target(State(app): State<Shared>, Path(iqn): Path<String>) -> DoneAnswer {
    app.command(&Command::DeleteTarget { iqn }).await?;
    Ok(DONE)
}

/// Shows a volume as a LUN.
pub(super) async fn map(
    State(app): State<Shared>,
    Path(iqn): Path<String>,
    Body(new): Body<NewLun>,
) -> CreatedAnswer {
    app.command(&Command::MapLun { iqn, lun: new.lun, volume: new.volume }).await?;
    Ok((StatusCode::CREATED, DONE))
}

/// Takes a LUN away.
pub(super) async fn unmap(State(app): State<Shared>, Path((iqn, lun)): Path<(String, u16)>) -> DoneAnswer {
    app.command(&Command::UnmapLun { iqn, lun }).await?;
    Ok(DONE)
}
