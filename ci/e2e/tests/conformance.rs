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
/// Of the 238 tests of libiscsi 1.20.0.
const PASSES: usize = 210;
/// Of the 229 tests of Debian 12's libiscsi 1.19 that count.
const DEBIANS_PASSES: usize = 201;
/// Fails in 1.19 against any target; docs/conformance.md says why.
const DEBIANS_OWN: &str = "iSCSITMF.LUNResetSimpleAsync";
/// Tests that want another kind of unit than LUN 0, and where it is: at the demo's target, or one with CHAP.
const OTHER_UNITS: [(&str, Unit); 4] = [
    ("ReadOnly.ReadOnlySBC", Unit::Lun(1)),
    ("GetLBAStatus.UnmapSingle", Unit::Lun(2)),
    ("iSCSICHAP.Simple", Unit::Guarded),
    ("iSCSICHAP.Invalid", Unit::Guarded),
];
const GUARDED: &str = "iqn.2026-11.local.futago:guarded";
const USER: &str = "suite";
const SECRET: &str = "conformance-secret";

#[derive(Clone, Copy, Debug)]
enum Unit {
    Lun(u16),
    Guarded,
}

/// LUN 1 is write-protected, LUN 2 has physical blocks of 512 bytes.
fn make_units(demo: &Demo) {
    let ctl = |arguments: &[&str]| demo.ctl("a", arguments).unwrap();
    ctl(&["volume", "create", "protected", "64MiB"]);
    ctl(&["volume", "create", "native", "64MiB", "--block-format", "512n"]);
    ctl(&["volume", "create", "guarded", "16MiB"]);
    ctl(&["target", "map", &demo.iqn(), "1", "protected", "--read-only"]);
    ctl(&["target", "map", &demo.iqn(), "2", "native"]);
    ctl(&["target", "create", GUARDED]);
    ctl(&["target", "map", GUARDED, "0", "guarded"]);
    let secret = demo.dir.join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    ctl(&["target", "chap", GUARDED, "--user", USER, "--secret-file", &secret.to_string_lossy()]);
}

fn url_of(demo: &Demo, unit: Unit) -> String {
    match unit {
        Unit::Lun(lun) => format!("iscsi://{}/{}/{lun}", demo.portal(), demo.iqn()),
        Unit::Guarded => format!("iscsi://{USER}%{SECRET}@{}/{GUARDED}/0", demo.portal()),
    }
}

/// Where a test finds the unit that it wants.
fn url(demo: &Demo, test: &str) -> String {
    let other = OTHER_UNITS.iter().find(|(name, _)| *name == test);
    url_of(demo, other.map_or(Unit::Lun(0), |(_, unit)| *unit))
}

/// Until every unit is served: libiscsi gives up at the first "not ready".
fn wait_ready(demo: &Demo) {
    for unit in OTHER_UNITS.iter().map(|(_, unit)| *unit).chain([Unit::Lun(0)]) {
        let url = url_of(demo, unit);
        wait_for(&format!("{unit:?} is served"), HEALTHY, || run("iscsi-readcapacity16", &[&url]).ok())
            .unwrap();
    }
}

/// The suite's tests, but for the one that its version is wrong about.
fn tests() -> Vec<String> {
    let mut tests = conformance::tests().unwrap();
    if !conformance::is_built() {
        println!("conformance: Debian's suite, without {DEBIANS_OWN}");
        tests.retain(|test| test != DEBIANS_OWN);
    }
    tests
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
    let passes = if conformance::is_built() { PASSES } else { DEBIANS_PASSES };
    assert!(report.count(Verdict::Pass) >= passes, "{title}: only {} pass", report.count(Verdict::Pass));
}

#[test]
fn the_suite_passes_on_both_nodes_and_on_one() {
    let dir = work_dir("conformance");
    let mut demo = Demo::start(&dir, "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    make_units(&demo);
    demo.wait_healthy(HEALTHY).unwrap();
    wait_ready(&demo);
    let tests = tests();
    check("mirrored pair", &demo, &tests);
    demo.kill("a").unwrap();
    futago_e2e::checker::reconnect(demo.portal(), &demo.iqn(), "iqn.2026-11.local.futago:wait", 1, HEALTHY)
        .unwrap();
    wait_ready(&demo);
    check("one node", &demo, &tests);
    demo.stop().unwrap();
}
