//! Update: what runs, the upload of a new release, the restart that takes it.

use super::confirm::Confirm;
use super::form::Signed;
use super::panels::{self, Panels};
use super::shell::{Shell, Tab};
use super::{Page, Viewer, back, html};
use crate::app::Shared;
use crate::csrf;
use crate::errors::{ApiError, ErrorKind};
use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::response::Response;
use control::update::Installation;
use serde::Deserialize;

/// The longest token that is read.
const MOST_TOKEN_BYTES: usize = 256;

#[derive(Template)]
#[template(path = "update.html")]
struct UpdatePage {
    shell: Shell,
    panels: Panels,
    /// There are slots to put an update into.
    possible: bool,
}

/// The page.
pub(super) async fn page(State(app): State<Shared>, Extension(viewer): Extension<Viewer>) -> Page {
    let seen = app.seen();
    let possible = seen.update.as_ref().is_some_and(|update| update.slots.is_some());
    let installation = seen.update.as_ref().and_then(|update| update.installation.as_ref());
    // Not while somebody may be choosing a file.
    let reload_s = if installation.is_some_and(Installation::is_under_way) { 3 } else { 0 };
    html(&UpdatePage {
        shell: Shell::new(&app, &viewer, Tab::Nodes, "Update").reloading(reload_s),
        panels: panels::render(&seen)?,
        possible,
    })
}

/// Takes a file and begins to install it. The token is the form's first field: nothing is read before it is proven.
pub(super) async fn upload(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    form: Multipart,
) -> Response {
    let outcome = take(&app, &viewer, form).await;
    back(&app, &viewer, "/update", outcome, "The update is here and is being installed.".to_owned())
}

async fn take(app: &Shared, viewer: &Viewer, mut form: Multipart) -> Result<(), ApiError> {
    let token = token(&mut next(&mut form, "csrf").await?).await?;
    csrf::require_token(Some(&token), &viewer.csrf)?;
    app.take_update(next(&mut form, "file").await?).await
}

async fn next<'a>(form: &'a mut Multipart, name: &str) -> Result<Field<'a>, ApiError> {
    let field = form.next_field().await.map_err(|error| broken(&error))?;
    let missing = || ApiError::new(ErrorKind::Invalid, "Choose a file first.");
    field.filter(|field| field.name() == Some(name)).ok_or_else(missing)
}

async fn token(field: &mut Field<'_>) -> Result<String, ApiError> {
    let mut token = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(|error| broken(&error))? {
        token.extend_from_slice(&piece);
        if token.len() > MOST_TOKEN_BYTES {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&token).into_owned())
}

fn broken(error: &MultipartError) -> ApiError {
    ApiError::new(ErrorKind::Invalid, format!("The upload broke: {}.", error.body_text()))
}

/// What a restart means now.
pub(super) async fn ask_restart(State(app): State<Shared>, Extension(viewer): Extension<Viewer>) -> Page {
    let seen = app.fresh().await;
    let node = &app.settings.name;
    let member = seen.status.iter().flat_map(|status| &status.cluster).flat_map(|cluster| &cluster.members);
    let serving = member.into_iter().any(|member| member.name == *node && member.serving);
    let mut text =
        vec![format!("Node {node} goes down in order and starts again; that takes about a minute.")];
    if let Some(slots) = seen.update.as_ref().and_then(|update| update.slots.as_ref())
        && slots.next != slots.running
        && let Some(release) = &slots.idle_release
    {
        text.push(format!(
            "It starts release {release} then. If that does not come up, it goes back by itself."
        ));
    }
    if serving {
        text.push("It serves volumes now: hand them over first, and hosts notice less.".to_owned());
    }
    html(&Confirm {
        shell: Shell::new(&app, &viewer, Tab::Nodes, &format!("Restart {node}?")),
        text,
        action: "/restart".to_owned(),
        fields: vec![],
        typed: None,
        button: "Restart".to_owned(),
        danger: serving,
        cancel: "/update".to_owned(),
    })
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

/// Restarts the machine.
pub(super) async fn restart(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Signed(Nothing {}): Signed<Nothing>,
) -> Response {
    let outcome = app.restart_machine().await;
    let done =
        format!("{} goes down and comes back in about a minute; sign in again then.", app.settings.name);
    back(&app, &viewer, "/update", outcome, done)
}
