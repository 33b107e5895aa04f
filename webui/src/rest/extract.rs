//! Bodies, paths and queries of requests; a fault is answered in our own form.

use crate::errors::{ApiError, ErrorKind};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A JSON body: an object.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let whole = Request::from_parts(parts.clone(), body);
        let bytes = Bytes::from_request(whole, state).await.map_err(|rejection| {
            let kind = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ErrorKind::TooLarge,
                _ => ErrorKind::Invalid,
            };
            ApiError::new(kind, rejection.body_text())
        })?;
        // serde takes the fields of an object from an array, too, by their order.
        let is_array = bytes.trim_ascii_start().first() == Some(&b'[');
        let Json(read) = Json::<T>::from_request(Request::from_parts(parts, bytes.into()), state).await?;
        if is_array {
            return Err(ApiError::new(ErrorKind::Invalid, "The body is an array; it must be a JSON object."));
        }
        Ok(Self(read))
    }
}

/// Of a request that asks for nothing behind the question mark.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoQuery {}

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
