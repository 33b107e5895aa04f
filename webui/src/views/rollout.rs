//! The panel that follows an update of all nodes: `templates/panels/rollout.html`.

use super::words::State;
use crate::client::KnownUpdate;
use crate::watch::Snapshot;
use askama::Template;
use control::update::{ClusterUpdate, ClusterUpdateState, NodeStep};

#[derive(Template)]
#[template(path = "panels/rollout.html")]
pub(super) struct RolloutPanel {
    rollout: Option<Rollout>,
}

struct Rollout {
    release: String,
    leader: String,
    state: State,
    text: String,
    nodes: Vec<(String, State)>,
    /// Names of those that are left out.
    without: String,
    /// The leader says nothing.
    silent_s: Option<u64>,
}

/// As its leader last said.
pub(super) fn panel(seen: &Snapshot) -> RolloutPanel {
    let KnownUpdate { update, silent_s } = &seen.cluster_update;
    RolloutPanel { rollout: update.as_ref().map(|update| rollout(update, *silent_s)) }
}

fn rollout(update: &ClusterUpdate, silent_s: u64) -> Rollout {
    Rollout {
        release: update.release.clone(),
        leader: update.leader.clone(),
        state: overall(update.state, silent_s > 0),
        text: update.text.clone(),
        nodes: update.nodes.iter().map(|node| (node.name.clone(), step(node.step))).collect(),
        without: update.without.join(", "),
        silent_s: (silent_s > 0).then_some(silent_s),
    }
}

fn overall(state: ClusterUpdateState, silent: bool) -> State {
    let (word, tone) = match state {
        ClusterUpdateState::Running if silent => ("Unknown", "warn"),
        ClusterUpdateState::Running => ("Under way", "busy"),
        ClusterUpdateState::Finished => ("Finished", "good"),
        ClusterUpdateState::Stopped => ("Stopped", "bad"),
    };
    State { word, tone, meaning: "" }
}

fn step(step: NodeStep) -> State {
    let (word, tone, meaning) = match step {
        NodeStep::Waiting => ("Waiting", "quiet", "It is not its turn yet."),
        NodeStep::Installing => ("Installing", "busy", "It gets the release into its other slot."),
        NodeStep::HandingOver => ("Handing over", "busy", "Another node takes the volumes that it serves."),
        NodeStep::Restarting => ("Restarting", "busy", "It goes down and starts the release."),
        NodeStep::Proving => ("Proving", "busy", "Its services have to run for a while."),
        NodeStep::Returning => ("Returning", "busy", "Its copies are brought up to date."),
        NodeStep::Updated => ("Updated", "good", "It runs the release."),
    };
    State { word, tone, meaning }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::update::NodeProgress;

    #[test]
    fn the_step_of_each_node_and_why_it_stopped() {
        let shown = |state, silent_s| {
            let node = |name: &str, step| NodeProgress { name: name.into(), step };
            let update = ClusterUpdate {
                id: "1".into(),
                release: "0.2.0".into(),
                begun_at: 5,
                leader: "b".into(),
                moves: 1,
                without: vec!["witness".into()],
                state,
                text: "node a: it is <bad>".into(),
                nodes: vec![node("b", NodeStep::Updated), node("a", NodeStep::HandingOver)],
            };
            let cluster_update = KnownUpdate { update: Some(update), silent_s };
            panel(&Snapshot { cluster_update, ..Snapshot::default() }).render().unwrap()
        };
        let running = shown(ClusterUpdateState::Running, 0);
        for part in ["0.2.0", "Under way", "Handing over", "Updated", "witness", "node b leads"] {
            assert!(running.contains(part), "{part}: {running}");
        }
        let stopped = shown(ClusterUpdateState::Stopped, 0);
        assert!(stopped.contains("Stopped") && stopped.contains("it is &#60;bad&#62;"), "{stopped}");
        let silent = shown(ClusterUpdateState::Running, 75);
        assert!(silent.contains("has said nothing for 75 s") && silent.contains("Unknown"), "{silent}");
        assert!(!panel(&Snapshot::default()).render().unwrap().contains("leads"));
    }
}
