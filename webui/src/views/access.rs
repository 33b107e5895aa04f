//! The door: first password, sign-in, sign-out.

use super::shell::{Shell, Tab};
use super::{Page, Viewer, html};
use crate::app::Shared;
use crate::errors::ApiError;
use crate::guard::{self, Peer};
use crate::password::MIN_CHARACTERS;
use crate::{cookies, csrf};
use askama::Template;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::Deserialize;
use std::time::Instant;

#[derive(Template)]
#[template(path = "setup.html")]
struct SetupPage {
    shell: Shell,
    error: Option<String>,
    least: usize,
    fingerprint: String,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    shell: Shell,
    error: Option<String>,
    next: String,
}

#[derive(Deserialize)]
pub(super) struct NewPassword {
    password: String,
    again: String,
}

#[derive(Deserialize)]
pub(super) struct Credentials {
    password: String,
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

/// The address of the sign-in page for someone who wanted to see `path`.
pub(super) fn door(path: &str) -> String {
    match destination(path) {
        "/" => "/login".to_owned(),
        path => format!("/login?next={path}"),
    }
}

/// `next`, if it is a plain path of ours; never another site.
fn destination(next: &str) -> &str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.".contains(&b);
    if next.starts_with('/') && !next.starts_with("//") && next.bytes().all(plain) { next } else { "/" }
}

fn setup_with(app: &Shared, error: Option<String>) -> Page {
    let shell = Shell::outside(app, "Choose a password");
    html(&SetupPage { shell, error, least: MIN_CHARACTERS, fingerprint: app.fingerprint.clone() })
}

/// The first page of a new node.
pub(super) async fn setup_page(State(app): State<Shared>) -> Page {
    if app.password.is_set() {
        return Ok(Redirect::to("/").into_response());
    }
    setup_with(&app, None)
}

/// Stores the password and signs in.
pub(super) async fn setup(
    State(app): State<Shared>,
    headers: HeaderMap,
    Form(new): Form<NewPassword>,
) -> Page {
    csrf::refuse_foreign(&headers)?;
    let stored = if new.password == new.again {
        app.password.set_first(&new.password).await.map_err(|e| e.message)
    } else {
        Err("The two passwords differ.".to_owned())
    };
    match stored {
        Ok(()) => {
            tracing::info!("the admin password was set");
            Ok(open_session(&app, "/")?)
        }
        Err(message) => setup_with(&app, Some(message)),
    }
}

/// Asks for the password.
pub(super) async fn login_page(State(app): State<Shared>, Query(Next { next }): Query<Next>) -> Page {
    if !app.password.is_set() {
        return Ok(Redirect::to("/setup").into_response());
    }
    let next = destination(&next).to_owned();
    html(&LoginPage { shell: Shell::outside(&app, "Sign in"), error: None, next })
}

/// Checks it.
pub(super) async fn login(
    State(app): State<Shared>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(given): Form<Credentials>,
) -> Page {
    csrf::refuse_foreign(&headers)?;
    let outcome = match peer {
        Peer::Remote(address) => guard::sign_in(&app, address, "admin", &given.password).await,
        // Pages are not served on the unix socket.
        Peer::Local => Ok(()),
    };
    match outcome {
        Ok(()) => Ok(open_session(&app, destination(&given.next))?),
        Err(error) => {
            let next = destination(&given.next).to_owned();
            let shell = Shell::outside(&app, "Sign in");
            let page = html(&LoginPage { shell, error: Some(error.message.clone()), next })?;
            let mut response = (error.status(), page).into_response();
            error.decorate(&mut response);
            Ok(response)
        }
    }
}

fn open_session(app: &Shared, next: &str) -> Result<Response, ApiError> {
    let opened = app.sessions.open(Instant::now())?;
    let cookie =
        cookies::set(&opened.token).ok_or_else(|| ApiError::internal("cookie", &"no header value"))?;
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response())
}

#[derive(Template)]
#[template(path = "password.html")]
struct PasswordPage {
    shell: Shell,
    error: Option<String>,
    least: usize,
}

#[derive(Deserialize)]
pub(super) struct OtherPassword {
    current: String,
    password: String,
    again: String,
}

fn password_with(app: &Shared, viewer: &Viewer, error: Option<String>) -> Page {
    let shell = Shell::new(app, viewer, Tab::Nodes, "Change the password");
    html(&PasswordPage { shell, error, least: MIN_CHARACTERS })
}

/// Asks for the current password and another one.
pub(super) async fn password_page(State(app): State<Shared>, Extension(viewer): Extension<Viewer>) -> Page {
    password_with(&app, &viewer, None)
}

/// Stores it, signs everyone out, and this browser in again.
pub(super) async fn change_password(
    State(app): State<Shared>,
    Extension(peer): Extension<Peer>,
    Extension(viewer): Extension<Viewer>,
    super::form::Signed(new): super::form::Signed<OtherPassword>,
) -> Page {
    let changed = if new.password == new.again {
        guard::change_password(&app, peer, &new.current, &new.password).await.map_err(|e| e.message)
    } else {
        Err("The two passwords differ.".to_owned())
    };
    match changed {
        Ok(()) => Ok(open_session(&app, "/")?),
        Err(message) => password_with(&app, &viewer, Some(message)),
    }
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

/// Signs out.
pub(super) async fn logout(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    super::form::Signed(Nothing {}): super::form::Signed<Nothing>,
) -> Response {
    app.sessions.close(viewer.id);
    ([(header::SET_COOKIE, cookies::clear())], Redirect::to("/login")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_is_never_another_site() {
        for (next, path) in [
            ("/volumes/demo", "/volumes/demo"),
            ("//evil.example", "/"),
            ("https://evil.example", "/"),
            ("/\\evil", "/"),
            ("", "/"),
            ("/a?b", "/"),
        ] {
            assert_eq!(destination(next), path, "{next}");
        }
        assert_eq!((door("/"), door("/nodes")), ("/login".to_owned(), "/login?next=/nodes".to_owned()));
    }
}
