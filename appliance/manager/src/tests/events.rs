//! The event list over restarts.

use super::fixture::{IQN, TestNode, eventually, serving_trio};
use control::api::{Command, Event};
use control::paths;

fn has(node: &TestNode, text: &str) -> Option<Event> {
    node.events().into_iter().find(|event| event.text.contains(text))
}

fn other() -> String {
    format!("{IQN}-other")
}

#[test]
fn events_go_on_over_restarts_and_what_was_missed_is_late() {
    let (mut nodes, primary) = serving_trio(41);
    let before = eventually("told", || has(&nodes[2], "LUN 0").map(|_| nodes[2].events()));
    eventually("written", || {
        let file = std::fs::read_to_string(nodes[2].dir.join(paths::EVENTS)).ok()?;
        (file.lines().count() >= before.len()).then_some(())
    });
    nodes[2].kill();
    nodes[0].done(&Command::CreateTarget { iqn: other() });
    nodes[2].start();
    let missed = eventually("caught up", || has(&nodes[2], "other was created"));
    assert!(missed.late, "{missed:?}");
    assert!(missed.number > before.last().unwrap().number, "{missed:?}");
    assert_eq!(nodes[2].events()[..before.len()], before);
    assert!(!has(&nodes[0], "other was created").unwrap().late);
    nodes[0].done(&Command::DeleteTarget { iqn: other() });
    let deleted = eventually("deleted", || has(&nodes[2], "other was deleted"));
    assert!(!deleted.late, "{deleted:?}");

    // A lost file takes no number back, whether the log has the entries or not.
    for (place, compact) in [(2, false), (1 - primary, true)] {
        if compact {
            nodes[place].compact();
        }
        let newest = nodes[place].events().last().unwrap().number;
        nodes[place].kill();
        std::fs::remove_file(nodes[place].dir.join(paths::EVENTS)).unwrap();
        nodes[place].start();
        nodes[primary].done(&Command::CreateTarget { iqn: other() });
        let next = eventually("told", || {
            nodes[place].events().last().filter(|event| event.text.contains("other was created")).cloned()
        });
        assert!(next.number > newest, "{next:?} after {newest}");
        nodes[primary].done(&Command::DeleteTarget { iqn: other() });
        eventually("gone", || has(&nodes[place], "other was deleted"));
    }
}
