//! Update: what runs, the upload of a new release, the restart that takes it.

use super::confirm::Confirm;
use super::form::Signed;
use super::panels::{self, Panels};
use super::shell::{Shell, Tab};
use super::{Page, Viewer, back, html};
use crate::app::Shared;
use crate::cluster_update;
use crate::csrf;
use crate::errors::{ApiError, ErrorKind};
use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::response::Response;
use control::update::{ClusterUpdateState, Installation};
use serde::Deserialize;

/// More nodes than a cluster has.
const MOST_LEFT_OUT: usize = 16;
/// The longest token or name that is read.
const MOST_TEXT_BYTES: usize = 256;

#[derive(Template)]
#[template(path = "update.html")]
struct UpdatePage {
    shell: Shell,
    panels: Panels,
    /// There are slots to put an update into.
    possible: bool,
    /// Names of all nodes; empty without a cluster.
    members: Vec<String>,
}

/// The page.
pub(super) async fn page(State(app): State<Shared>, Extension(viewer): Extension<Viewer>) -> Page {
    let seen = app.seen();
    let possible = seen.update.as_ref().is_some_and(|update| update.slots.is_some());
    let installation = seen.update.as_ref().and_then(|update| update.installation.as_ref());
    let all = seen.cluster_update.update.as_ref();
    let under_way = installation.is_some_and(Installation::is_under_way)
        || all.is_some_and(|update| update.state == ClusterUpdateState::Running);
    // Not while somebody may be choosing a file.
    let reload_s = if under_way { 3 } else { 0 };
    let cluster = seen.status.as_ref().and_then(|status| status.cluster.as_ref());
    let members =
        cluster.iter().flat_map(|cluster| &cluster.members).map(|member| member.name.clone()).collect();
    html(&UpdatePage {
        shell: Shell::new(&app, &viewer, Tab::Nodes, "Update").reloading(reload_s),
        panels: panels::render(&seen)?,
        possible,
        members,
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
    let token = short_text(&mut next(&mut form, "csrf").await?).await?;
    csrf::require_token(Some(&token), &viewer.csrf)?;
    app.take_update(next(&mut form, "file").await?).await
}

/// Takes a file for all nodes, after the token and the names of those that are left out.
pub(super) async fn upload_for_all(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    form: Multipart,
) -> Response {
    let outcome = take_for_all(&app, &viewer, form).await;
    let done = "The update is here, and the nodes take it one after the other.".to_owned();
    back(&app, &viewer, "/update", outcome, done)
}

async fn take_for_all(app: &Shared, viewer: &Viewer, mut form: Multipart) -> Result<(), ApiError> {
    let token = short_text(&mut next(&mut form, "csrf").await?).await?;
    csrf::require_token(Some(&token), &viewer.csrf)?;
    let mut without = Vec::new();
    loop {
        let mut field = any(&mut form).await?;
        match field.name() {
            Some("without") if without.len() < MOST_LEFT_OUT => without.push(short_text(&mut field).await?),
            Some("file") => return cluster_update::begin(app, without, field).await.map(drop),
            _ => return Err(no_file()),
        }
    }
}

async fn any(form: &mut Multipart) -> Result<Field<'_>, ApiError> {
    form.next_field().await.map_err(|error| broken(&error))?.ok_or_else(no_file)
}

fn no_file() -> ApiError {
    ApiError::new(ErrorKind::Invalid, "Choose a file first.")
}

async fn next<'a>(form: &'a mut Multipart, name: &str) -> Result<Field<'a>, ApiError> {
    let field = any(form).await?;
    if field.name() == Some(name) { Ok(field) } else { Err(no_file()) }
}

async fn short_text(field: &mut Field<'_>) -> Result<String, ApiError> {
    let mut text = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(|error| broken(&error))? {
        text.extend_from_slice(&piece);
        if text.len() > MOST_TEXT_BYTES {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
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
