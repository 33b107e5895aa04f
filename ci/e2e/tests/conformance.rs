//! libiscsi's conformance suite against the demo: the mirrored pair, then the node that is left.
//!
//! Nothing fails, hangs or crashes; what is skipped is exactly what docs/conformance.md lists, with its reason.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futago_e2e::conformance::{self, Report, Verdict};
use futago_e2e::demo::Demo;
use futago_e2e::tools::{repository, run, wait_for, work_dir};

const HEALTHY: Duration = Duration::from_secs(90);
/// Of the 230 tests of Debian 12's suite (libiscsi 1.19).
const PASSES: usize = 201;
/// Fail against any target, by these assertions alone: docs/conformance.md says why.
const SUITES_OWN: [(&str, &str); 1] = [("iSCSITMF.LUNResetSimpleAsync", "test_async_lu_reset_simple.c:157")];
/// Tests that want another kind of unit than LUN 0, and where it is.
const OTHER_UNITS: [(&str, &str); 2] = [("ReadOnly.ReadOnlySBC", "1"), ("GetLBAStatus.UnmapSingle", "2")];

/// LUN 1 is write-protected, LUN 2 has physical blocks of 512 bytes.
fn make_units(demo: &Demo) {
    let ctl = |arguments: &[&str]| demo.ctl("a", arguments).unwrap();
    ctl(&["volume", "create", "protected", "64MiB"]);
    ctl(&["volume", "create", "native", "64MiB", "--block-format", "512n"]);
    ctl(&["target", "map", &demo.iqn(), "1", "protected", "--read-only"]);
    ctl(&["target", "map", &demo.iqn(), "2", "native"]);
}

/// Where a test finds the unit that it wants.
fn url(demo: &Demo, test: &str) -> String {
    let lun = OTHER_UNITS.iter().find(|(name, _)| *name == test).map_or("0", |(_, lun)| *lun);
    format!("{}/{lun}", demo.url().trim_end_matches("/0"))
}

/// Until every unit is served: libiscsi gives up at the first "not ready".
fn wait_ready(demo: &Demo) {
    for lun in OTHER_UNITS.iter().map(|(_, lun)| *lun).chain(["0"]) {
        let url = format!("{}/{lun}", demo.url().trim_end_matches("/0"));
        wait_for("a unit that is served", HEALTHY, || run("iscsi-readcapacity16", &[&url]).ok()).unwrap();
    }
}

/// The tests that the document says are skipped.
fn documented() -> BTreeSet<String> {
    let text = std::fs::read_to_string(repository().join("docs/conformance.md")).unwrap();
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    cells.map(|(name, _)| name.to_owned()).collect()
}

fn check(title: &str, demo: &Demo, tests: &[String]) {
    let start = Instant::now();
    let report = conformance::run(|test| url(demo, test), tests, |_| ()).unwrap();
    println!("conformance, {title}, {:.0} s:\n{report}", start.elapsed().as_secs_f32());
    let faults: Vec<&str> = [Verdict::Fail, Verdict::Hang, Verdict::Crash]
        .into_iter()
        .flat_map(|verdict| report.with(verdict))
        .filter(|case| {
            let own = SUITES_OWN.iter().find(|(name, _)| case.name == *name);
            // Other reasons than assertions are what the test prints at one.
            let asserted = |why: &&String| why.contains(".c:");
            own.is_none_or(|(_, place)| case.reasons.iter().filter(asserted).any(|why| !why.contains(place)))
        })
        .map(|case| case.name.as_str())
        .collect();
    assert!(faults.is_empty(), "{title}: {faults:?}");
    check_skips(title, &report);
}

fn check_skips(title: &str, report: &Report) {
    let run: BTreeSet<String> = report.cases.iter().map(|case| case.name.clone()).collect();
    let documented = documented();
    let unknown: Vec<&String> = documented.iter().filter(|name| !run.contains(*name)).collect();
    assert!(unknown.is_empty(), "docs/conformance.md names tests that the suite does not have: {unknown:?}");
    let skipped = report.names(Verdict::Skip);
    let silent: Vec<&String> = skipped.difference(&documented).collect();
    assert!(silent.is_empty(), "{title}: skipped, but not in docs/conformance.md: {silent:?}");
    let stale: Vec<&String> = documented.difference(&skipped).collect();
    assert!(stale.is_empty(), "{title}: docs/conformance.md says these are skipped, they ran: {stale:?}");
    assert!(report.count(Verdict::Pass) >= PASSES, "{title}: only {} pass", report.count(Verdict::Pass));
}

#[test]
fn the_suite_passes_on_both_nodes_and_on_one() {
    let dir = work_dir("conformance");
    let mut demo = Demo::start(&dir, "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    make_units(&demo);
    demo.wait_healthy(HEALTHY).unwrap();
    wait_ready(&demo);
    let tests = conformance::tests().unwrap();
    check("mirrored pair", &demo, &tests);
    demo.kill("a").unwrap();
    futago_e2e::checker::reconnect(demo.portal(), &demo.iqn(), "iqn.2026-11.local.futago:wait", 1, HEALTHY)
        .unwrap();
    wait_ready(&demo);
    check("one node", &demo, &tests);
    demo.stop().unwrap();
}
