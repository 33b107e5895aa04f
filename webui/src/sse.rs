//! `/events/stream`: server-sent events that keep a page's panels fresh.
//!
//! - `panels`: a JSON object, id of an element → its new HTML; only what changed since the last one.
//! - `alive`: every few seconds when nothing changes, so that the page knows that it is not looking at the past.
//!
//! The stream ends with the session.

use crate::app::Shared;
use crate::sessions::SessionId;
use crate::views::Viewer;
use crate::views::panels::{self, Panels};
use crate::watch::Snapshot;
use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, Sse};
use futures_util::Stream;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio::sync::watch::Receiver;

/// The script calls the connection lost after three of these.
const ALIVE: Duration = Duration::from_secs(3);
/// Changes closer together than this are sent as one.
const PACE: Duration = Duration::from_millis(300);

/// One viewer.
struct Watcher {
    app: Shared,
    session: SessionId,
    changes: Receiver<Snapshot>,
    shown: Option<Panels>,
}

/// Begins a stream: the first event carries every panel.
pub(crate) async fn stream(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = app.snapshot.clone();
    let watcher = Watcher { app, session: viewer.id, changes, shown: None };
    Sse::new(futures_util::stream::unfold(watcher, async |mut watcher| {
        let event = watcher.next().await?;
        Some((Ok(event), watcher))
    }))
}

impl Watcher {
    /// The next event; `None` once the session has ended.
    async fn next(&mut self) -> Option<Event> {
        if self.shown.is_some() {
            match tokio::time::timeout(ALIVE, self.changes.changed()).await {
                Ok(Ok(())) => tokio::time::sleep(PACE).await,
                Ok(Err(_)) => return None,
                Err(_) => {}
            }
        }
        self.app.sessions.touch(self.session, Instant::now())?;
        let seen = self.changes.borrow_and_update().clone();
        let panels = match panels::render(&seen) {
            Ok(panels) => panels,
            Err(error) => {
                tracing::error!(%error, "panels");
                return None;
            }
        };
        let changed: BTreeMap<&str, &str> = panels
            .parts()
            .into_iter()
            .filter(|part| self.shown.as_ref().is_none_or(|shown| !shown.parts().contains(part)))
            .collect();
        let event = if changed.is_empty() {
            Event::default().event("alive").data("")
        } else {
            Event::default().event("panels").json_data(&changed).ok()?
        };
        self.shown = Some(panels);
        Some(event)
    }
}
