//! A page that can't be shown.

use super::shell::Shell;
use crate::errors::{ApiError, ErrorKind};
use askama::Template;
use axum::response::{Html, IntoResponse, Response};

/// Why.
pub(super) struct PageError(ApiError);

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    shell: Shell,
    message: &'a str,
}

impl PageError {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(ApiError::new(kind, message))
    }
}

impl From<ApiError> for PageError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<askama::Error> for PageError {
    fn from(error: askama::Error) -> Self {
        Self(ApiError::internal("The page cannot be built", &error))
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let title = match self.0.kind {
            ErrorKind::NotFound => "Not found",
            ErrorKind::Unauthorized => "Signed out",
            ErrorKind::Unavailable | ErrorKind::TimedOut => "No answer",
            _ => "Not done",
        };
        let page = ErrorPage { shell: Shell::bare(title), message: &self.0.message };
        let body = page
            .render()
            .map_or_else(|_| self.0.message.clone().into_response(), |p| Html(p).into_response());
        let mut response = (self.0.status(), body).into_response();
        self.0.decorate(&mut response);
        response
    }
}

/// No such page.
pub(super) async fn not_found(uri: axum::http::Uri) -> PageError {
    PageError::new(ErrorKind::NotFound, format!("There is no page {}.", uri.path()))
}
