//! The control socket: HTTP/JSON on `run/supervisor.sock`, guarded by its file permissions.
//!
//! | request | answer |
//! |---|---|
//! | `GET /services` | `[ServiceStatus]` |
//! | `POST /services/{name}/restart` | 202, or 404 |
//! | `GET /log/{name}` | the lines in memory as text, or 404 |

use crate::logs::ServiceLog;
use ::control::service::ServiceStatus;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

/// What the socket asks of the supervisor's loop.
pub(crate) enum Request {
    /// All services.
    Status(oneshot::Sender<Vec<ServiceStatus>>),
    /// Restart one; answers whether it exists.
    Restart(String, oneshot::Sender<bool>),
}

/// Logs by service name.
pub(crate) type Logs = Arc<BTreeMap<&'static str, Arc<ServiceLog>>>;

#[derive(Clone)]
struct Shared {
    requests: mpsc::Sender<Request>,
    logs: Logs,
}

/// Listens on `path`, replacing what an earlier run left there, and serves in the background.
pub(crate) fn listen(path: &std::path::Path, requests: mpsc::Sender<Request>, logs: Logs) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let router = Router::new()
        .route("/services", get(services))
        .route("/services/{name}/restart", post(restart))
        .route("/log/{name}", get(log))
        .with_state(Shared { requests, logs });
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("control socket: {error}");
        }
    });
    Ok(())
}

async fn services(State(shared): State<Shared>) -> Result<Json<Vec<ServiceStatus>>, StatusCode> {
    ask(&shared, Request::Status).await.map(Json)
}

async fn restart(State(shared): State<Shared>, Path(name): Path<String>) -> Result<StatusCode, StatusCode> {
    let known = ask(&shared, |answer| Request::Restart(name, answer)).await?;
    if known { Ok(StatusCode::ACCEPTED) } else { Err(StatusCode::NOT_FOUND) }
}

async fn log(State(shared): State<Shared>, Path(name): Path<String>) -> Result<String, StatusCode> {
    shared.logs.get(name.as_str()).map(|log| log.text()).ok_or(StatusCode::NOT_FOUND)
}

async fn ask<T>(
    shared: &Shared,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, StatusCode> {
    let (answer, answered) = oneshot::channel();
    // The loop is gone only while the process ends.
    shared.requests.send(request(answer)).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    answered.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}
