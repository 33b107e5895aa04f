//! What REST answers when something is not done: `{"error":{"kind","message"}}` with the status code of the kind.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The word for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// No such thing.
    NotFound,
    /// There is one of that name already.
    Exists,
    /// The request can't be understood or breaks a rule.
    Invalid,
    /// Whoever must answer does not, or there is no majority.
    Unavailable,
    /// Understood, and not done.
    Refused,
    /// Something else uses it.
    InUse,
    /// No answer in time; it may still happen.
    TimedOut,
    /// Sign in first.
    Unauthorized,
    /// Not from there, or not in this way.
    Forbidden,
    /// No admin password yet: only set-up answers.
    SetupNeeded,
    /// Wait before the next try.
    TooManyAttempts,
    /// The body is too large.
    TooLarge,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// A fault of this process.
    Internal,
}

impl ErrorKind {
    /// From the word that the cluster manager uses ([`control::api::Answer::Failed`]).
    pub(crate) fn of_manager(word: &str) -> Self {
        match word {
            "not_found" => Self::NotFound,
            "exists" => Self::Exists,
            "invalid" => Self::Invalid,
            "unavailable" => Self::Unavailable,
            "in_use" => Self::InUse,
            "timed_out" => Self::TimedOut,
            // `refused`, and any word of a newer manager: it was understood and not done.
            _ => Self::Refused,
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Exists | Self::Refused | Self::InUse => StatusCode::CONFLICT,
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::SetupNeeded => StatusCode::FORBIDDEN,
            Self::TooManyAttempts => StatusCode::TOO_MANY_REQUESTS,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// An answer other than success: a word for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The word.
    pub kind: ErrorKind,
    /// The sentence; names the thing.
    pub message: String,
    /// Whole seconds to wait, for [`ErrorKind::TooManyAttempts`].
    pub retry_after_s: Option<u64>,
}

/// The body of an error answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    /// What went wrong.
    pub(crate) error: ErrorDetail,
}

/// Inside of [`ErrorBody`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorDetail {
    /// An [`ErrorKind`], as a word: an older client may not know it.
    pub(crate) kind: String,
    /// The sentence.
    pub(crate) message: String,
}

impl ApiError {
    /// An error of `kind`.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after_s: None }
    }

    /// A fault of this process: the reason goes to the log, too.
    pub(crate) fn internal(what: &str, reason: &dyn std::fmt::Display) -> Self {
        tracing::error!(%reason, "{what}");
        Self::new(ErrorKind::Internal, format!("{what}: {reason}"))
    }

    /// Too many wrong `secrets` (`passwords`): come back after `wait`.
    pub(crate) fn wait(secrets: &str, wait: Duration) -> Self {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        let unit = if seconds == 1 { "second" } else { "seconds" };
        Self {
            kind: ErrorKind::TooManyAttempts,
            message: format!("Too many wrong {secrets} from this address. Try again in {seconds} {unit}."),
            retry_after_s: Some(seconds),
        }
    }

    /// The status code of its kind.
    pub(crate) fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// Adds the headers that belong to the kind.
    pub(crate) fn decorate(&self, response: &mut Response) {
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = serde_json::to_value(self.kind)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_else(|| "internal".to_owned());
        let body = ErrorBody { error: ErrorDetail { kind, message: self.message.clone() } };
        let mut response = (self.status(), axum::Json(body)).into_response();
        if self.kind == ErrorKind::Unauthorized {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"futago\""));
        }
        self.decorate(&mut response);
        response
    }
}
