//! Log: the end of one service's log.

use super::shell::{Shell, Tab};
use super::{Page, Viewer, html, words};
use crate::app::Shared;
use crate::logs;
use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};

/// What fits on a page.
const MOST_BYTES: u64 = 64 << 10;

#[derive(Template)]
#[template(path = "log.html")]
struct LogPage<'a> {
    shell: Shell,
    title: &'a str,
    file: String,
    text: String,
}

/// The page.
pub(super) async fn page(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
) -> Page {
    let text = logs::of_service(&app.dir, &name, MOST_BYTES)?;
    html(&LogPage {
        shell: Shell::new(&app, &viewer, Tab::Overview, &format!("Log of {name}")),
        title: words::service_title(&name),
        file: format!("{}/{name}.log", control::paths::LOG_DIR),
        text,
    })
}
