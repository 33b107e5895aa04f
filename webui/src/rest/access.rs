//! The door: set-up, sign-in, sign-out.

use super::extract::{Body, DONE, Done};
use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use crate::guard::{self, Access, Peer};
use crate::{cookies, csrf};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use std::time::Instant;

#[derive(Serialize)]
pub(super) struct SetupState {
    /// No password yet.
    needed: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Secret {
    password: String,
}

#[derive(Serialize)]
struct SignedIn {
    csrf_token: String,
}

/// Whether set-up is still to be done.
pub(super) async fn setup_state(State(app): State<Shared>) -> Json<SetupState> {
    Json(SetupState { needed: !app.password.is_set() })
}

/// Stores the first admin password.
pub(super) async fn setup(
    State(app): State<Shared>,
    headers: HeaderMap,
    Body(secret): Body<Secret>,
) -> Result<Json<Done>, ApiError> {
    csrf::refuse_foreign(&headers)?;
    app.password.set_first(&secret.password).await?;
    tracing::info!("the admin password was set");
    Ok(DONE)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    password: String,
    /// Not asked for on the local socket.
    #[serde(default)]
    current: Option<String>,
}

/// Stores another admin password, and signs everyone out.
pub(super) async fn change(
    State(app): State<Shared>,
    Extension(peer): Extension<Peer>,
    Body(change): Body<Change>,
) -> Result<Json<Done>, ApiError> {
    guard::change_password(&app, peer, change.current.as_deref().unwrap_or_default(), &change.password)
        .await?;
    Ok(DONE)
}

/// Opens a session: cookie, and the token for changes.
pub(super) async fn login(
    State(app): State<Shared>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Body(secret): Body<Secret>,
) -> Result<Response, ApiError> {
    csrf::refuse_foreign(&headers)?;
    let Peer::Remote(address) = peer else {
        return Err(ApiError::new(ErrorKind::Invalid, "The local socket needs no sign-in."));
    };
    if !app.password.is_set() {
        return Err(ApiError::new(ErrorKind::SetupNeeded, "This node has no admin password yet."));
    }
    guard::sign_in(&app, address, "admin", &secret.password).await?;
    let opened = app.sessions.open(Instant::now())?;
    let cookie =
        cookies::set(&opened.token).ok_or_else(|| ApiError::internal("cookie", &"no header value"))?;
    Ok(([(header::SET_COOKIE, cookie)], Json(SignedIn { csrf_token: opened.csrf })).into_response())
}

/// Ends the session.
pub(super) async fn logout(State(app): State<Shared>, Extension(access): Extension<Access>) -> Response {
    if let Access::Session(id, _) = access {
        app.sessions.close(id);
    }
    ([(header::SET_COOKIE, cookies::clear())], DONE).into_response()
}
