//! Events: what happened, newest first.

use super::panels::{self, EventRow};
use super::shell::{Shell, Tab};
use super::{Page, Viewer, html};
use crate::app::Shared;
use askama::Template;
use axum::Extension;
use axum::extract::State;

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    shell: Shell,
    events: Vec<EventRow>,
    stale: Option<String>,
}

/// The page.
pub(super) async fn page(State(app): State<Shared>, Extension(viewer): Extension<Viewer>) -> Page {
    let seen = app.seen();
    let events = seen.events.iter().rev().map(EventRow::of).collect();
    let shell = Shell::new(&app, &viewer, Tab::Events, "Events");
    html(&EventsPage { shell, events, stale: panels::stale_mark(&seen) })
}
