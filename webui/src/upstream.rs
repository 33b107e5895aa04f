//! The two processes that know: the cluster manager ([`control::api`]) and the supervisor ([`control::service`]),
//! each on its unix socket.

use crate::errors::{ApiError, ErrorKind};
use crate::http::{self, Body, HttpError};
use control::api::{Answer, Command, Event, Status};
use control::service::ServiceStatus;
use control::update::UpdateStatus;
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest answer taken.
const MOST_BYTES: usize = 8 << 20;
/// Time for a question; the page says "does not answer" after it.
const QUESTION: Duration = Duration::from_secs(2);
/// Time for a command: commits wait for a majority, a hand-over for the drain.
const COMMAND: Duration = Duration::from_secs(30);
/// Pairing crosses the network and runs through a join.
const PAIRING: Duration = Duration::from_secs(60);

/// The sockets below one node's directory.
pub struct Upstream {
    cluster: PathBuf,
    supervisor: PathBuf,
}

impl Upstream {
    /// For the node at `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            cluster: dir.join(control::paths::CLUSTER_SOCKET),
            supervisor: dir.join(control::paths::SUPERVISOR_SOCKET),
        }
    }

    /// What the cluster manager knows. `services` is as the manager left it (empty).
    pub async fn status(&self) -> Result<Status, ApiError> {
        get(&self.cluster, "/status", MANAGER).await
    }

    /// Events after number `after`.
    pub async fn events(&self, after: u64) -> Result<Vec<Event>, ApiError> {
        get(&self.cluster, &format!("/events?after={after}"), MANAGER).await
    }

    /// This node's services.
    pub async fn services(&self) -> Result<Vec<ServiceStatus>, ApiError> {
        get(&self.supervisor, "/services", SUPERVISOR).await
    }

    /// What runs on this node, and what is installed beside it.
    pub async fn update(&self) -> Result<UpdateStatus, ApiError> {
        get(&self.supervisor, "/update", SUPERVISOR).await
    }

    /// Has the update that was uploaded installed.
    pub async fn begin_update(&self) -> Result<(), ApiError> {
        self.ask_supervisor("/update").await
    }

    /// Restarts the machine.
    pub async fn restart_machine(&self) -> Result<(), ApiError> {
        self.ask_supervisor("/restart").await
    }

    /// 202, or 409 with a sentence.
    async fn ask_supervisor(&self, path: &str) -> Result<(), ApiError> {
        let request = http::request(Method::POST, "localhost", path, None, None);
        let request = request.map_err(|e| no_answer(SUPERVISOR, &e))?;
        let answered = http::over_unix(&self.supervisor, request, MOST_BYTES, QUESTION).await;
        let answered = answered.map_err(|e| no_answer(SUPERVISOR, &e))?;
        match answered.status {
            StatusCode::ACCEPTED => Ok(()),
            StatusCode::CONFLICT => {
                let reason = String::from_utf8_lossy(&answered.body).into_owned();
                Err(ApiError::new(ErrorKind::Refused, reason))
            }
            other => Err(not_understood(SUPERVISOR, other)),
        }
    }

    /// Runs a command; [`Answer::Failed`] comes out as an error.
    pub async fn command(&self, command: &Command) -> Result<Answer, ApiError> {
        let content = serde_json::to_vec(command).map_err(|e| ApiError::internal("command", &e))?;
        let body = Body::of(content, "application/json");
        let request = http::request(Method::POST, "localhost", "/command", None, Some(body))
            .map_err(|e| no_answer(MANAGER, &e))?;
        let time = if matches!(command, Command::Pair { .. }) { PAIRING } else { COMMAND };
        let answered =
            http::over_unix(&self.cluster, request, MOST_BYTES, time).await.map_err(|e| match e {
                HttpError::Slow(_) => ApiError::new(
                    ErrorKind::TimedOut,
                    format!("{MANAGER} gave {e}. The command may still take effect: look at the status."),
                ),
                HttpError::Connect(_) | HttpError::Broken(_) => no_answer(MANAGER, &e),
            })?;
        // A failed command may come with any status code: what it says counts.
        match serde_json::from_slice(&answered.body) {
            Ok(Answer::Failed { kind, message }) => Err(ApiError::new(ErrorKind::of_manager(&kind), message)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(not_understood(MANAGER, answered.status)),
        }
    }
}

/// How messages call it.
const MANAGER: &str = "The cluster manager";
/// Likewise.
const SUPERVISOR: &str = "The supervisor";

async fn get<T: DeserializeOwned>(socket: &Path, path: &str, who: &str) -> Result<T, ApiError> {
    let request =
        http::request(Method::GET, "localhost", path, None, None).map_err(|e| no_answer(who, &e))?;
    let answered =
        http::over_unix(socket, request, MOST_BYTES, QUESTION).await.map_err(|e| no_answer(who, &e))?;
    if answered.status != StatusCode::OK {
        return Err(not_understood(who, answered.status));
    }
    serde_json::from_slice(&answered.body).map_err(|e| {
        ApiError::new(ErrorKind::Unavailable, format!("{who} sent an answer that cannot be read: {e}."))
    })
}

fn no_answer(who: &str, error: &HttpError) -> ApiError {
    ApiError::new(ErrorKind::Unavailable, format!("{who} of this node does not answer ({error})."))
}

fn not_understood(who: &str, status: StatusCode) -> ApiError {
    ApiError::new(ErrorKind::Unavailable, format!("{who} of this node answered with HTTP status {status}."))
}
