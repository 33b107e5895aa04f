//! Bodies, paths and queries of requests; a fault is answered in our own form.

use crate::errors::{ApiError, ErrorKind};
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts};
use axum::http::StatusCode;
use serde::Serialize;

/// A JSON body.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(ApiError))]
pub(super) struct Body<T>(pub(super) T);

/// Parts of the path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub(super) struct Path<T>(pub(super) T);

/// What stands behind the question mark.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub(super) struct Query<T>(pub(super) T);

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let kind = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ErrorKind::TooLarge,
            _ => ErrorKind::Invalid,
        };
        Self::new(kind, rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(ErrorKind::Invalid, rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(ErrorKind::Invalid, rejection.body_text())
    }
}

/// The answer of a command that has nothing to say but that it is done.
#[derive(Serialize)]
pub(super) struct Done {
    done: bool,
}

/// Done and committed.
pub(super) const DONE: axum::Json<Done> = axum::Json(Done { done: true });

/// What comes of a change.
pub(super) type DoneAnswer = Result<axum::Json<Done>, ApiError>;

/// What comes of making something.
pub(super) type CreatedAnswer = Result<(StatusCode, axum::Json<Done>), ApiError>;
