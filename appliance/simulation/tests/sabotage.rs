//! The checks are checked: each rule, broken on purpose, must be noticed within a few seeds, by a checker of what
//! happens to the data.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use futago_simulation::{Break, Focus, Options, run};
use replication::Sabotage;

/// Seeds within which a broken rule must show.
const WITHIN: u64 = 600;

fn must_show(rule: &str, sabotage: Break, focus: Focus) {
    for seed in 0..WITHIN {
        let outcome =
            run(Options { seed, focus: Some(focus), sabotage, data_only: true, ..Options::default() });
        if let Some(found) = outcome.violation {
            println!("{rule} broken: seed {seed} breaks {}: {}", found.invariant, found.text);
            return;
        }
    }
    panic!("{rule} was broken and {WITHIN} seeds did not notice");
}

macro_rules! broken {
    ($($name:ident: $rule:expr, $sabotage:expr, $focus:ident;)+) => {$(
        #[test]
        fn $name() {
            must_show($rule, $sabotage, Focus::$focus);
        }
    )+};
}

broken! {
    s2_answer_without_shrink: "S2", Break::Replica(Sabotage::AnswerWithoutShrink), LateCommits;
    s4_obey_stale: "S4", Break::Replica(Sabotage::ObeyStale), SlowPeerDisk;
    s5_ignore_lease: "S5", Break::Replica(Sabotage::IgnoreLease), StaleVoters;
    s5_ignore_uncommitted: "S5", Break::IgnoreUncommitted, StaleVoters;
    s5_ignore_pauses: "S5", Break::IgnorePauses, Pauses;
    s5_forget_boot: "S5", Break::ForgetBoot, Successors;
    s5_end_uncommitted: "S5", Break::EndUncommitted, Successors;
    s5_ignore_uptime: "S5", Break::Replica(Sabotage::IgnoreUptime), Successors;
    s6_keep_instance: "S6", Break::KeepInstance, FastRestarts;
    s7_forget_targets_part: "S7", Break::Replica(Sabotage::ForgetTargetsPart), PowerCuts;
    s8_answer_while_growing: "S8", Break::Replica(Sabotage::AnswerWhileGrowing), LateCommits;
    s9_skip_activity_log: "S9", Break::Replica(Sabotage::SkipActivityLog), PowerCuts;
    s18_overlap: "S18", Break::Replica(Sabotage::Overlap), Mixed;
    s22_resize_without_room: "S22", Break::Replica(Sabotage::ResizeWithoutRoom), Mixed;
}
