//! Pages.

pub(crate) mod words;
use crate::app::Shared;
pub(crate) fn router(_app: &Shared) -> axum::Router<Shared> {
    axum::Router::new()
}
