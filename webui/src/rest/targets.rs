//! Targets, LUNs, and who may log in.

use super::extract::{Body, CreatedAnswer, DONE, DoneAnswer, Path, Query};
use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use control::api::{Command, SessionStatus, TargetStatus};
use control::names::{Pattern, normal};
use control::targets::Chap;
use serde::Deserialize;

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
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    initiators: Vec<Pattern>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LunChange {
    read_only: Option<bool>,
    initiators: Option<Vec<Pattern>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRule {
    pattern: Pattern,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Denial {
    #[serde(default)]
    open: bool,
}

/// Every target with its LUNs and rules.
pub(super) async fn list(State(app): State<Shared>) -> Result<Json<Vec<TargetStatus>>, ApiError> {
    app.status().await.map(|status| Json(status.targets))
}

/// One target.
pub(super) async fn one(
    State(app): State<Shared>,
    Path(iqn): Path<String>,
) -> Result<Json<TargetStatus>, ApiError> {
    let iqn = normal(&iqn);
    let found = app.status().await?.targets.into_iter().find(|target| target.iqn == iqn);
    found.map(Json).ok_or_else(|| ApiError::new(ErrorKind::NotFound, format!("There is no target {iqn}.")))
}

/// Who is logged in, wherever it is served.
pub(super) async fn sessions(State(app): State<Shared>) -> Result<Json<Vec<SessionStatus>>, ApiError> {
    app.status().await.map(|status| Json(status.sessions))
}

/// A new target.
pub(super) async fn create(State(app): State<Shared>, Body(new): Body<NewTarget>) -> CreatedAnswer {
    app.command(&Command::CreateTarget { iqn: new.iqn }).await?;
    Ok((StatusCode::CREATED, DONE))
}

/// Deletes a target that has no LUN.
pub(super) async fn delete(State(app): State<Shared>, Path(iqn): Path<String>) -> DoneAnswer {
    app.command(&Command::DeleteTarget { iqn }).await?;
    Ok(DONE)
}

/// Shows a volume as a LUN.
pub(super) async fn map(
    State(app): State<Shared>,
    Path(iqn): Path<String>,
    Body(new): Body<NewLun>,
) -> CreatedAnswer {
    let NewLun { lun, volume, read_only, initiators } = new;
    app.command(&Command::MapLun { iqn, lun, volume, read_only, initiators }).await?;
    Ok((StatusCode::CREATED, DONE))
}

/// Changes how a LUN is shown.
pub(super) async fn change(
    State(app): State<Shared>,
    Path((iqn, lun)): Path<(String, u16)>,
    Body(LunChange { read_only, initiators }): Body<LunChange>,
) -> DoneAnswer {
    app.command(&Command::ChangeLun { iqn, lun, read_only, initiators }).await?;
    Ok(DONE)
}

/// Takes a LUN away.
pub(super) async fn unmap(State(app): State<Shared>, Path((iqn, lun)): Path<(String, u16)>) -> DoneAnswer {
    app.command(&Command::UnmapLun { iqn, lun }).await?;
    Ok(DONE)
}

/// Lets initiators log in.
pub(super) async fn allow(
    State(app): State<Shared>,
    Path(iqn): Path<String>,
    Body(NewRule { pattern }): Body<NewRule>,
) -> CreatedAnswer {
    app.command(&Command::AllowInitiator { iqn, pattern }).await?;
    Ok((StatusCode::CREATED, DONE))
}

/// Takes such a rule back.
pub(super) async fn deny(
    State(app): State<Shared>,
    Path((iqn, pattern)): Path<(String, Pattern)>,
    Query(Denial { open }): Query<Denial>,
) -> DoneAnswer {
    app.command(&Command::DenyInitiator { iqn, pattern, open }).await?;
    Ok(DONE)
}

/// CHAP of a target.
pub(super) async fn set_chap(
    State(app): State<Shared>,
    Path(iqn): Path<String>,
    chap: Result<Body<Chap>, ApiError>,
) -> DoneAnswer {
    let chap = Some(readable(chap)?);
    app.command(&Command::SetChap { iqn, pattern: None, chap }).await?;
    Ok(DONE)
}

/// No CHAP for a target any more.
pub(super) async fn remove_chap(State(app): State<Shared>, Path(iqn): Path<String>) -> DoneAnswer {
    app.command(&Command::SetChap { iqn, pattern: None, chap: None }).await?;
    Ok(DONE)
}

/// CHAP of one rule.
pub(super) async fn set_rule_chap(
    State(app): State<Shared>,
    Path((iqn, pattern)): Path<(String, Pattern)>,
    chap: Result<Body<Chap>, ApiError>,
) -> DoneAnswer {
    let chap = Some(readable(chap)?);
    app.command(&Command::SetChap { iqn, pattern: Some(pattern), chap }).await?;
    Ok(DONE)
}

/// A rule asks for what its target asks for.
pub(super) async fn remove_rule_chap(
    State(app): State<Shared>,
    Path((iqn, pattern)): Path<(String, Pattern)>,
) -> DoneAnswer {
    app.command(&Command::SetChap { iqn, pattern: Some(pattern), chap: None }).await?;
    Ok(DONE)
}

/// The body, or an error that quotes nothing of it: a secret may stand in the wrong place.
fn readable(body: Result<Body<Chap>, ApiError>) -> Result<Chap, ApiError> {
    let form = "CHAP is described by {\"user\", \"secret\"} and, if wanted, \"mutual\" with the same two; see \
                /api/v1/openapi.json.";
    body.map(|Body(chap)| chap).map_err(|error| ApiError::new(error.kind, form))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_body_is_not_quoted() {
        let told = ApiError::new(ErrorKind::Invalid, "invalid type: string \"hunter2hunter2\"");
        let error = readable(Err(told)).unwrap_err();
        assert!(!error.message.contains("hunter2") && error.message.contains("secret"), "{}", error.message);
    }
}
