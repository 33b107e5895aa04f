//! What surrounds every page: `templates/layout.html`.

use super::{Viewer, assets};
use crate::app::Shared;
use crate::sessions::Notice;

/// Entries of the menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Volumes,
    Targets,
    Nodes,
    Events,
}

/// One entry of the menu, for the template.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    pub(super) current: bool,
}

/// Data of `layout.html`.
pub(super) struct Shell {
    pub(super) title: String,
    pub(super) node: String,
    /// Empty where nobody is signed in: no menu then.
    pub(super) menu: Vec<Entry>,
    pub(super) csrf: String,
    pub(super) notice: Option<Notice>,
    /// Changes with the style sheet and the script, so that browsers may keep them.
    pub(super) assets: &'static str,
    /// Without script, the page loads itself anew every so many seconds; 0: not.
    pub(super) reload_s: u32,
    pub(super) version: &'static str,
}

impl Shell {
    /// For a page behind the door.
    pub(super) fn new(app: &Shared, viewer: &Viewer, tab: Tab, title: &str) -> Self {
        let entry = |name, path, of| Entry { name, path, current: tab == of };
        Self {
            menu: vec![
                entry("Overview", "/", Tab::Overview),
                entry("Volumes", "/volumes", Tab::Volumes),
                entry("Targets", "/targets", Tab::Targets),
                entry("Nodes", "/nodes", Tab::Nodes),
                entry("Events", "/events", Tab::Events),
            ],
            csrf: viewer.csrf.clone(),
            notice: app.sessions.take_notice(viewer.id),
            node: app.settings.name.clone(),
            ..Self::bare(title)
        }
    }

    /// For a page at the door.
    pub(super) fn outside(app: &Shared, title: &str) -> Self {
        Self { node: app.settings.name.clone(), ..Self::bare(title) }
    }

    /// For a page that knows nothing.
    pub(super) fn bare(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            node: String::new(),
            menu: Vec::new(),
            csrf: String::new(),
            notice: None,
            assets: assets::version(),
            reload_s: 0,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// What stood in `field` of `form`, if that was just refused. Called by the templates.
    pub(super) fn typed(&self, form: &str, field: &str) -> Option<&str> {
        let typed = self.notice.as_ref()?.typed.as_ref().filter(|typed| typed.form == form)?;
        typed.fields.iter().find(|(name, _)| *name == field).map(|(_, text)| text.as_str())
    }

    /// Loads itself anew without script.
    pub(super) fn reloading(self, reload_s: u32) -> Self {
        Self { reload_s, ..self }
    }
}
