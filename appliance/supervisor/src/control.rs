//! The control socket: HTTP/JSON on `run/supervisor.sock`, guarded by its file permissions.
//!
//! | request | answer |
//! |---|---|
//! | `GET /services` | `[ServiceStatus]` |
//! | `POST /services/{name}/restart` | 202, or 404 |
//! | `POST /restart` | 202: the machine goes down and starts again; 409 and why not |
//! | `GET /update` | [`UpdateStatus`] |
//! | `POST /update` | 202: the update that was uploaded is being installed; 409 and why not |
//! | `GET /log/{name}` | the lines in memory as text, or 404 |

use crate::install::Installer;
use crate::logs::ServiceLog;
use ::control::service::ServiceStatus;
use ::control::update::UpdateStatus;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

/// Time for the answer to a restart to reach whoever asked.
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// What the socket asks of the supervisor's loop.
pub(crate) enum Request {
    /// All services.
    Status(oneshot::Sender<Vec<ServiceStatus>>),
    /// Restart one; answers whether it exists.
    Restart(String, oneshot::Sender<bool>),
    /// The whole machine, in order.
    RestartMachine,
}

/// Logs by service name.
pub(crate) type Logs = Arc<BTreeMap<&'static str, Arc<ServiceLog>>>;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Shared {
    requests: mpsc::Sender<Request>,
    logs: Logs,
    installer: Arc<Installer>,
    /// The supervisor is the machine's first process.
    machine: bool,
}

impl Shared {
    pub(crate) fn new(
        requests: mpsc::Sender<Request>,
        logs: &Logs,
        installer: &Arc<Installer>,
        machine: bool,
    ) -> Self {
        Self { requests, logs: Arc::clone(logs), installer: Arc::clone(installer), machine }
    }
}

/// Listens on `path`, replacing what an earlier run left there, and serves in the background.
pub(crate) fn listen(path: &std::path::Path, shared: Shared) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let router = Router::new()
        .route("/services", get(services))
        .route("/services/{name}/restart", post(restart))
        .route("/restart", post(restart_machine))
        .route("/update", get(update_status).post(begin_update))
        .route("/log/{name}", get(log))
        .with_state(shared);
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

/// The answer goes out first: the way down ends whoever asked.
async fn restart_machine(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if !shared.machine {
        return (
            StatusCode::CONFLICT,
            "This node is an ordinary process: there is no machine of its own to restart.",
        );
    }
    tokio::spawn(async move {
        tokio::time::sleep(RESTART_DELAY).await;
        // The loop is gone only while the process ends.
        let _ = shared.requests.send(Request::RestartMachine).await;
    });
    (StatusCode::ACCEPTED, "")
}

async fn update_status(State(shared): State<Shared>) -> Json<UpdateStatus> {
    Json(shared.installer.status())
}

async fn begin_update(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    match shared.installer.begin() {
        Ok(()) => (StatusCode::ACCEPTED, ""),
        Err(reason) => (StatusCode::CONFLICT, reason),
    }
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
