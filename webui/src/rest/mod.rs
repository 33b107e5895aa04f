//! The REST interface, `/api/v1/…`. Described for programs by `openapi.json` beside this file; a test holds the two
//! together. Errors are [`crate::errors::ErrorBody`].

mod access;
mod cluster;
mod extract;
mod machine;
pub(crate) mod setup;
mod status;
mod targets;
mod update;
mod volumes;

#[cfg(test)]
mod tests;

use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use crate::guard;
use crate::{bundle, metrics};
use axum::Router;
use axum::http::{Method, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

/// Largest body taken.
const MOST_BYTES: usize = 64 << 10;

/// The description of this interface.
const OPENAPI: &str = include_str!("openapi.json");

/// One method on one path.
struct Route {
    /// The description is held against it.
    #[cfg(test)]
    method: Method,
    path: &'static str,
    /// Answers without sign-in.
    open: bool,
    handler: MethodRouter<Shared>,
}

macro_rules! routes {
    ($($access:ident $method:ident $path:literal => $handler:expr;)+) => {
        vec![$(Route {
            #[cfg(test)]
            method: Method::$method,
            path: $path,
            open: stringify!($access) == "open",
            handler: on(MethodFilter::$method, $handler),
        }),+]
    };
}

fn routes() -> Vec<Route> {
    routes! {
        open GET "/api/v1/openapi.json" => openapi;
        open GET "/api/v1/setup" => access::setup_state;
        open POST "/api/v1/setup" => access::setup;
        open POST "/api/v1/login" => access::login;
        guarded POST "/api/v1/logout" => access::logout;
        guarded PUT "/api/v1/password" => access::change;
        guarded GET "/api/v1/status" => status::status;
        guarded GET "/api/v1/services" => status::services;
        guarded GET "/api/v1/services/{name}/log" => status::log;
        guarded GET "/api/v1/events" => status::events;
        guarded GET "/api/v1/certificate" => status::certificate;
        guarded GET "/api/v1/support-bundle" => bundle::download;
        guarded POST "/api/v1/support-bundle/link" => bundle::make_link;
        guarded GET "/api/v1/volumes" => volumes::list;
        guarded POST "/api/v1/volumes" => volumes::create;
        guarded GET "/api/v1/volumes/{name}" => volumes::one;
        guarded DELETE "/api/v1/volumes/{name}" => volumes::delete;
        guarded POST "/api/v1/volumes/{name}/grow" => volumes::grow;
        guarded POST "/api/v1/volumes/{name}/handover" => volumes::hand_over;
        guarded GET "/api/v1/targets" => targets::list;
        guarded POST "/api/v1/targets" => targets::create;
        guarded GET "/api/v1/targets/{iqn}" => targets::one;
        guarded DELETE "/api/v1/targets/{iqn}" => targets::delete;
        guarded POST "/api/v1/targets/{iqn}/luns" => targets::map;
        guarded PATCH "/api/v1/targets/{iqn}/luns/{lun}" => targets::change;
        guarded DELETE "/api/v1/targets/{iqn}/luns/{lun}" => targets::unmap;
        guarded POST "/api/v1/targets/{iqn}/initiators" => targets::allow;
        guarded DELETE "/api/v1/targets/{iqn}/initiators/{pattern}" => targets::deny;
        guarded PUT "/api/v1/targets/{iqn}/chap" => targets::set_chap;
        guarded DELETE "/api/v1/targets/{iqn}/chap" => targets::remove_chap;
        guarded PUT "/api/v1/targets/{iqn}/initiators/{pattern}/chap" => targets::set_rule_chap;
        guarded DELETE "/api/v1/targets/{iqn}/initiators/{pattern}/chap" => targets::remove_rule_chap;
        guarded GET "/api/v1/sessions" => targets::sessions;
        guarded GET "/api/v1/network" => machine::network;
        guarded PUT "/api/v1/network" => machine::set_network;
        guarded GET "/api/v1/nodes" => cluster::nodes;
        guarded DELETE "/api/v1/nodes/{name}" => cluster::remove;
        guarded GET "/api/v1/cluster" => cluster::cluster;
        guarded POST "/api/v1/cluster" => cluster::create;
        guarded POST "/api/v1/pairing/offer" => cluster::offer;
        guarded POST "/api/v1/pairing/join" => cluster::join;
        guarded GET "/api/v1/update" => update::status;
        guarded POST "/api/v1/update" => update::upload;
        guarded GET "/api/v1/update/cluster" => update::cluster_status;
        guarded POST "/api/v1/update/cluster" => update::begin_cluster;
        guarded POST "/api/v1/restart" => update::restart;
        guarded GET "/metrics" => metrics::metrics;
    }
}

/// The whole interface; the same on the network and on the unix socket.
pub(crate) fn router(app: &Shared) -> Router<Shared> {
    let (mut open, mut guarded) = (Router::new(), Router::new());
    for route in routes() {
        if route.open {
            open = open.route(route.path, route.handler);
        } else {
            guarded = guarded.route(route.path, route.handler);
        }
    }
    let unknown = Router::new().route("/api/{*rest}", axum::routing::any(no_such_path));
    guarded
        .route_layer(from_fn_with_state(app.clone(), guard::admit))
        .merge(open)
        .merge(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::extract::DefaultBodyLimit::max(MOST_BYTES))
}

/// What other members may ask for without a password: no more than an update of all nodes takes. How a member is known is the
/// cluster manager's matter.
pub(crate) fn peer_router() -> Router<Shared> {
    Router::new()
        .route("/api/v1/status", on(MethodFilter::GET, status::status))
        .route("/api/v1/update", on(MethodFilter::GET, update::status).on(MethodFilter::POST, update::upload))
        .route("/api/v1/update/cluster", on(MethodFilter::PUT, update::hear_cluster))
        .route("/api/v1/update/cluster/lead", on(MethodFilter::POST, update::lead_cluster))
        .route("/api/v1/restart", on(MethodFilter::POST, update::restart))
        .route("/api/v1/volumes/{name}/handover", on(MethodFilter::POST, volumes::hand_over))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::extract::DefaultBodyLimit::max(MOST_BYTES))
}

/// What a machine without settings has of it.
pub(crate) fn setup_router() -> Router<crate::setup::Shared> {
    Router::new()
        .route("/api/v1/openapi.json", on(MethodFilter::GET, openapi))
        .route("/api/v1/setup", on(MethodFilter::GET, setup::state).on(MethodFilter::POST, setup::set_up))
        .route("/api/{*rest}", axum::routing::any(setup::not_yet))
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::extract::DefaultBodyLimit::max(MOST_BYTES))
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn no_such_path(uri: axum::http::Uri) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("There is no {}. See /api/v1/openapi.json.", uri.path()))
}

async fn wrong_method(method: Method, uri: axum::http::Uri) -> ApiError {
    ApiError::new(ErrorKind::MethodNotAllowed, format!("{} does not take {method}.", uri.path()))
}
