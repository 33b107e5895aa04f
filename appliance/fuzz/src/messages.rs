//! JSON messages: the storage link's lines, cluster messages, settings, and committed commands, which are applied.
//!
//! Checked: what was understood reads the same after it was written again; after any commands the cluster's state is
//! consistent, and what storage is told of it can be read back.

use cluster::{ClusterState, Command};
use control::link::{CommittedState, ToCluster, ToStorage};
use control::settings::Settings;
use serde_json::{from_slice, to_vec};

macro_rules! round_trip {
    ($data:expr, $($type:ty),+) => {$(
        if let Ok(message) = from_slice::<$type>($data) {
            let written = to_vec(&message).unwrap();
            assert_eq!(from_slice::<$type>(&written).unwrap(), message);
        }
    )+};
}

/// Every kind of message over the same bytes; then the bytes as a list of commands, a line each.
pub fn target(data: &[u8]) {
    round_trip!(data, ToStorage, ToCluster, CommittedState, Command);
    if let Ok(settings) = from_slice::<Settings>(data) {
        let _ = settings.validate();
        assert_eq!(from_slice::<Settings>(&to_vec(&settings).unwrap()).unwrap(), settings);
    }
    manager::fuzzing::decode(data);
    let mut state = ClusterState::default();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Ok(command) = from_slice::<Command>(line) else { continue };
        state.apply(&command);
        if let Err(error) = state.validate() {
            panic!("after {command:?}: {error:?}");
        }
        for node in state.members.keys() {
            if let Some(told) = state.for_storage(*node) {
                let written = to_vec(&told).unwrap();
                assert_eq!(from_slice::<CommittedState>(&written).unwrap(), told);
            }
        }
    }
}
