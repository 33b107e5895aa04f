//! Forms of signed-in browsers.

use super::Viewer;
use super::error::PageError;
use crate::csrf;
use crate::errors::{ApiError, ErrorKind};
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A form that carries the session's token. There is no other way to read a form behind the door.
pub(crate) struct Signed<T>(pub(crate) T);

#[derive(Deserialize)]
struct Envelope<T> {
    csrf: String,
    #[serde(flatten)]
    inner: T,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Signed<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let expected = request.extensions().get::<Viewer>().map(|v| v.csrf.clone()).unwrap_or_default();
        let form = axum::Form::<Envelope<T>>::from_request(request, state).await;
        let error = match form {
            Err(rejection) => ApiError::new(ErrorKind::Invalid, rejection.body_text()),
            Ok(axum::Form(envelope)) => match csrf::require_token(Some(&envelope.csrf), &expected) {
                // An empty expectation means no session: nothing matches it.
                Ok(()) if !expected.is_empty() => return Ok(Self(envelope.inner)),
                Ok(()) => ApiError::new(ErrorKind::Unauthorized, "Sign in first."),
                Err(error) => error,
            },
        };
        Err(PageError::from(error).into_response())
    }
}
