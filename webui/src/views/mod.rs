//! The pages: `views/x.rs` ↔ `templates/x.html`. They work without script by plain reload; with it, [`crate::sse`]
//! keeps the panels fresh.

mod access;
mod assets;
mod confirm;
mod dashboard;
mod download;
mod error;
mod events;
pub(crate) mod form;
mod initiators;
mod log;
mod machine;
mod nodes;
pub(crate) mod panels;
mod releases;
mod rollout;
mod shell;
mod targets;
mod update;
mod volumes;
pub(crate) mod words;

use crate::app::Shared;
use crate::errors::ErrorKind;
use crate::guard;
use crate::sessions::{Notice, SessionId, Typed};
use crate::setup;
use crate::sse;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use error::PageError;

/// A page or why there is none.
type Page = Result<Response, PageError>;

/// Who looks at the page; put into the request by [`enter`].
#[derive(Clone, Debug)]
pub(crate) struct Viewer {
    /// The session.
    pub(crate) id: SessionId,
    /// Its token for forms.
    pub(crate) csrf: String,
}

/// All pages.
pub(crate) fn router(app: &Shared) -> Router<Shared> {
    let inside = Router::new()
        .route("/", get(dashboard::page))
        .route("/volumes", get(volumes::page).post(volumes::create))
        .route("/volumes/{name}", get(volumes::detail))
        .route("/volumes/{name}/grow", post(volumes::grow))
        .route("/volumes/{name}/handover", get(volumes::ask_hand_over).post(volumes::hand_over))
        .route("/volumes/{name}/delete", get(volumes::ask_delete).post(volumes::delete))
        .route("/targets", get(targets::page).post(targets::create))
        .route("/targets/luns", get(targets::lun).post(targets::map))
        .route("/targets/luns/change", post(targets::change))
        .route("/targets/allow", post(initiators::allow))
        .route("/targets/deny", get(initiators::ask_deny).post(initiators::deny))
        .route("/targets/chap", get(initiators::chap).post(initiators::set_chap))
        .route("/targets/remove", get(targets::ask_remove).post(targets::remove))
        .route("/nodes", get(nodes::page))
        .route("/nodes/cluster", post(nodes::create_cluster))
        .route("/nodes/offer", post(nodes::offer))
        .route("/nodes/pair", post(nodes::pair))
        .route("/nodes/{name}/remove", get(nodes::ask_remove).post(nodes::remove))
        .route(
            "/update",
            // A stream into a file with a limit of its own.
            get(update::page).post(update::upload).layer(axum::extract::DefaultBodyLimit::disable()),
        )
        .route("/update/all", post(update::upload_for_all).layer(axum::extract::DefaultBodyLimit::disable()))
        .route("/restart", get(update::ask_restart).post(update::restart))
        .route("/events", get(events::page))
        .route("/events/stream", get(sse::stream))
        .route("/logs/{name}", get(log::page))
        .route("/password", get(access::password_page).post(access::change_password))
        .route("/logout", post(access::logout))
        .route_layer(from_fn_with_state(app.clone(), enter));
    Router::new()
        .route("/setup", get(access::setup_page).post(access::setup))
        .route("/login", get(access::login_page).post(access::login))
        .route("/bundle/{token}", get(download::bundle))
        .merge(inside)
        .merge(assets::router())
        .fallback(error::not_found)
        .layer(axum::extract::DefaultBodyLimit::max(64 << 10))
}

/// All pages of a machine that has no settings.
pub(crate) fn setup_router() -> Router<setup::Shared> {
    Router::new()
        .route("/", get(machine::to_page))
        .route("/setup", get(machine::page).post(machine::set_up))
        .merge(assets::router())
        .fallback(machine::to_page)
        .layer(axum::extract::DefaultBodyLimit::max(64 << 10))
}

/// Lets signed-in browsers in and sends the others to the door.
async fn enter(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    if !app.password.is_set() {
        return Redirect::to("/setup").into_response();
    }
    match guard::session(&app, &parts) {
        Err(error) => PageError::from(error).into_response(),
        Ok(Some((id, csrf))) => {
            parts.extensions.insert(Viewer { id, csrf });
            next.run(Request::from_parts(parts, body)).await
        }
        // A stream can't follow to the door: the script loads the page again, which can.
        Ok(None) if parts.uri.path() == "/events/stream" => StatusCode::UNAUTHORIZED.into_response(),
        Ok(None) if parts.method == Method::GET => {
            Redirect::to(&access::door(parts.uri.path())).into_response()
        }
        Ok(None) => {
            let text = "You are signed out; nothing was done. Sign in and do it again.";
            PageError::new(ErrorKind::Unauthorized, text).into_response()
        }
    }
}

/// Renders `template`.
fn html(template: &impl askama::Template) -> Page {
    Ok(Html(template.render()?).into_response())
}

/// Back to `path`, with what came of the command: `done` or the error.
fn back<T>(
    app: &Shared,
    viewer: &Viewer,
    path: &str,
    outcome: Result<T, crate::errors::ApiError>,
    done: String,
) -> Response {
    let notice = match outcome {
        Ok(_) => Notice { failed: false, text: done, typed: None },
        Err(error) => Notice { failed: true, text: error.message, typed: None },
    };
    app.sessions.leave_notice(viewer.id, notice);
    Redirect::to(path).into_response()
}

/// Likewise, but if it was refused, back to the form, filled in as it was.
fn back_or_again<T>(
    app: &Shared,
    viewer: &Viewer,
    path: &str,
    outcome: Result<T, crate::errors::ApiError>,
    done: String,
    typed: Typed,
) -> Response {
    let Err(error) = outcome else { return back(app, viewer, path, outcome, done) };
    let page = typed.page.clone();
    let notice = Notice { failed: true, text: error.message, typed: Some(typed) };
    app.sessions.leave_notice(viewer.id, notice);
    Redirect::to(&page).into_response()
}
