//! The panel that tells which releases a node has: `templates/panels/update.html`.

use super::words::State;
use crate::watch::Snapshot;
use askama::Template;
use control::update::{Installation, UpdateStatus};

#[derive(Template)]
#[template(path = "panels/update.html")]
pub(super) struct ReleasesPanel {
    node: String,
    releases: Option<Releases>,
}

struct Releases {
    running: String,
    /// What stands beside it; `None`: no slots.
    slot: Option<String>,
    idle: Option<String>,
    next: Option<String>,
    state: Option<State>,
    text: String,
    percent: Option<u32>,
}

/// As the supervisor last said.
pub(super) fn panel(seen: &Snapshot) -> ReleasesPanel {
    ReleasesPanel {
        node: seen.status.as_ref().map(|status| status.node.clone()).unwrap_or_default(),
        releases: seen.update.as_ref().map(releases),
    }
}

fn releases(update: &UpdateStatus) -> Releases {
    let slots = update.slots.as_ref();
    let idle = slots.map(|slots| slots.idle_release.as_deref().unwrap_or("nothing that can be started"));
    let next = slots.map(|slots| {
        if slots.next == slots.running {
            update.running.clone()
        } else {
            slots.idle_release.clone().unwrap_or_else(|| format!("slot {}", slots.next))
        }
    });
    let (state, text, percent) = match &update.installation {
        None => (None, String::new(), None),
        Some(Installation::Checking) => {
            (Some(state("Checking", "busy")), "Signature, version and checksums.".to_owned(), None)
        }
        Some(Installation::Writing { release, percent }) => {
            let text = format!("Release {release} is written, then read back from the disk.");
            (Some(state("Installing", "busy")), text, Some(*percent))
        }
        Some(Installation::Installed { release }) => {
            let text = format!("Release {release} is in place; the next start takes it.");
            (Some(state("Installed", "good")), text, None)
        }
        Some(Installation::Failed { reason }) => (Some(state("Not installed", "bad")), reason.clone(), None),
    };
    Releases {
        running: update.running.clone(),
        slot: slots.map(|slots| slots.running.clone()),
        idle: idle.map(str::to_owned),
        next,
        state,
        text,
        percent,
    }
}

fn state(word: &'static str, tone: &'static str) -> State {
    State { word, tone, meaning: "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::update::SlotStatus;

    fn shown(installation: Option<Installation>, next: &str, idle: Option<&str>) -> String {
        let slots = SlotStatus {
            running: "a".into(),
            next: next.into(),
            idle_release: idle.map(str::to_owned),
            on_trial: false,
        };
        let update =
            UpdateStatus { running: "0.1.0".into(), boot: String::new(), slots: Some(slots), installation };
        panel(&Snapshot { update: Some(update), ..Snapshot::default() }).render().unwrap()
    }

    #[test]
    fn what_runs_what_is_installed_and_what_comes_next() {
        let panel = shown(None, "a", Some("0.0.9"));
        assert!(
            panel.contains("<dd>0.0.9</dd>") && panel.contains("<dt>Next start</dt><dd>0.1.0</dd>"),
            "{panel}"
        );
        let panel = shown(Some(Installation::Writing { release: "0.2.0".into(), percent: 40 }), "a", None);
        assert!(panel.contains("value=\"40\"") && panel.contains("nothing that can be started"), "{panel}");
        let panel = shown(Some(Installation::Installed { release: "0.2.0".into() }), "b", Some("0.2.0"));
        assert!(
            panel.contains("<dt>Next start</dt><dd>0.2.0</dd>") && panel.contains("Installed"),
            "{panel}"
        );
        let panel = shown(Some(Installation::Failed { reason: "It is <bad>.".into() }), "a", None);
        assert!(panel.contains("Not installed") && panel.contains("It is &#60;bad&#62;."), "{panel}");
    }
}
