//! The support bundle by a link of [`crate::links`].

use super::Page;
use super::error::PageError;
use crate::app::Shared;
use crate::bundle;
use crate::errors::ErrorKind;
use crate::guard::Peer;
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::Method;
use std::time::Instant;

/// Sends it, once.
pub(super) async fn bundle(
    State(app): State<Shared>,
    Extension(peer): Extension<Peer>,
    Path(token): Path<String>,
    method: Method,
) -> Page {
    // Whoever only looks ahead (HEAD) must not use it up.
    if method != Method::GET {
        return Err(PageError::new(ErrorKind::MethodNotAllowed, "This link is for one GET."));
    }
    if !app.links.take(&token, Instant::now()) {
        let text = "This link was used, is too old, or never was one. Make another at the node's console.";
        return Err(PageError::new(ErrorKind::NotFound, text));
    }
    tracing::info!(?peer, "the support bundle is fetched by its link");
    Ok(bundle::download(State(app)).await?)
}
