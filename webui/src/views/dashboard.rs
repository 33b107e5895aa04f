//! Overview: everything at a glance.

use super::panels::{self, Panels};
use super::shell::{Shell, Tab};
use super::{Page, Viewer, html};
use crate::app::Shared;
use askama::Template;
use axum::Extension;
use axum::extract::State;

#[derive(Template)]
#[template(path = "dashboard.html")]
struct Dashboard {
    shell: Shell,
    panels: Panels,
}

/// The page.
pub(super) async fn page(State(app): State<Shared>, Extension(viewer): Extension<Viewer>) -> Page {
    let shell = Shell::new(&app, &viewer, Tab::Overview, "Overview").reloading(5);
    html(&Dashboard { shell, panels: panels::render(&app.seen())? })
}
