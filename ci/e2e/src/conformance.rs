//! libiscsi's conformance suite (`iscsi-test-cu`), one test per process, each with a verdict of its own.
//!
//! One per process, so that none leaves anything to the next (Debian's 1.19 leaks a hook that corrupts later commands).
//! Verdicts are this module's: the suite counts a skipped test as passed and ends with status 0 after a failed assertion
//! of its set-up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::tools::repository;

/// The slowest tests sleep for some seconds, or run a thousand commands one after the other on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);
/// Where a test's own output begins.
const BANNER: &str = "cunit.sourceforge.net";
/// Families that want the logical unit by two paths.
const TWO_PATHS: &str = "MultipathIO";

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Ran to its end, no assertion failed, no part was left out.
    Pass,
    /// An assertion failed.
    Fail,
    /// The suite left the test or a part of it out.
    Skip,
    /// Still running after three minutes.
    Hang,
    /// Ended without a result: a signal, or a set-up that failed.
    Crash,
}

/// One test's end.
#[derive(Clone, Debug)]
pub struct Case {
    /// `Family.Test`.
    pub name: String,
    pub verdict: Verdict,
    /// Why it was skipped, which assertions failed, or its last words.
    pub reasons: Vec<String>,
    pub elapsed: Duration,
}

/// All cases of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub cases: Vec<Case>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
            Self::Hang => "HANG",
            Self::Crash => "CRASH",
        })
    }
}

/// What `ci/e2e/suite/build` makes: the suite's version that docs/conformance.md is about.
fn built() -> PathBuf {
    repository().join("target/libiscsi/bin/iscsi-test-cu")
}

/// Whether it is there; else it is Debian's that runs.
#[must_use]
pub fn is_built() -> bool {
    built().exists()
}

fn suite() -> Command {
    if is_built() { Command::new(built()) } else { Command::new("iscsi-test-cu") }
}

/// Every test of the suite, `Family.Test`.
pub fn tests() -> Result<Vec<String>> {
    let output = suite().arg("--list").output().context("iscsi-test-cu")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("ALL."));
    let tests: Vec<String> = names.filter(|name| name.contains('.')).map(str::to_owned).collect();
    if tests.is_empty() {
        bail!("iscsi-test-cu lists no tests");
    }
    Ok(tests)
}

/// Runs each test against the logical unit at its URL, which it destroys.
pub fn run(url: impl Fn(&str) -> String, tests: &[String], mut each: impl FnMut(&Case)) -> Result<Report> {
    let mut report = Report::default();
    for test in tests {
        let case = run_one(&url(test), test)?;
        each(&case);
        report.cases.push(case);
    }
    Ok(report)
}

fn run_one(url: &str, test: &str) -> Result<Case> {
    let mut command = suite();
    command.args(["-d", "-S", "-n", "-t", &format!("ALL.{test}"), url]);
    if test.starts_with(TWO_PATHS) {
        command.arg(url);
    }
    let start = Instant::now();
    // Both streams into one pipe, so that they stay in order.
    let (mut output, input) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    let mut child = command.spawn().context("iscsi-test-cu")?;
    drop(command); // Its copy of the pipe would keep the reader from the end.
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned())
    });
    let ended = wait(&mut child)?;
    let text = reader.join().unwrap()?;
    let (verdict, reasons) = if ended { judge(test, &text) } else { (Verdict::Hang, last_words(&text)) };
    Ok(Case { name: test.to_owned(), verdict, reasons, elapsed: start.elapsed() })
}

/// False: it had to be killed.
fn wait(child: &mut Child) -> Result<bool> {
    let deadline = Instant::now() + LIMIT;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}

/// The verdict on what a test printed.
fn judge(test: &str, text: &str) -> (Verdict, Vec<String>) {
    let Some((total, failed)) = summary(text) else { return (Verdict::Crash, last_words(text)) };
    let body = text.split_once(BANNER).map_or(text, |(_, body)| body);
    let marked = |mark: &str| -> Vec<String> {
        let lines = body.lines().filter_map(|line| Some(line.split_once(mark)?.1.trim().to_owned()));
        lines.collect::<BTreeSet<_>>().into_iter().collect()
    };
    let mut skips = marked("[SKIPPED]");
    // Every test first clears persistent reservations, and says so where there are none.
    if !test.starts_with("Pr") {
        skips.retain(|reason| !reason.contains("PERSISTENT RESERVE"));
    }
    match (total, failed) {
        (0, _) => (Verdict::Crash, last_words(text)),
        (_, 0) if skips.is_empty() => (Verdict::Pass, Vec::new()),
        (_, 0) => (Verdict::Skip, skips),
        _ => {
            let mut reasons = marked("[FAILED]");
            reasons.extend(body.lines().filter(|line| line.contains(". test_")).map(|l| l.trim().to_owned()));
            (Verdict::Fail, reasons)
        }
    }
}

/// Tests run and assertions or tests failed, from CUnit's closing table.
fn summary(text: &str) -> Option<(u64, u64)> {
    let row = |name: &str| -> Option<Vec<u64>> {
        let line = text.lines().rev().find(|line| line.trim_start().starts_with(name))?;
        Some(line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
    };
    // tests: total ran passed failed inactive; asserts: total ran passed failed.
    let (tests, asserts) = (row("tests ")?, row("asserts ")?);
    Some((*tests.get(1)?, tests.get(3)? + asserts.get(3)?))
}

fn last_words(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].iter().map(|line| line.trim().to_owned()).collect()
}

impl Report {
    /// How many cases have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.with(verdict).count()
    }

    /// The cases with this verdict.
    pub fn with(&self, verdict: Verdict) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(move |case| case.verdict == verdict)
    }

    /// Names of the cases with this verdict.
    pub fn names(&self, verdict: Verdict) -> BTreeSet<String> {
        self.with(verdict).map(|case| case.name.clone()).collect()
    }
}

/// A table: a line per family, the sums, then what did not pass and why.
impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const COLUMNS: [Verdict; 5] =
            [Verdict::Pass, Verdict::Fail, Verdict::Skip, Verdict::Hang, Verdict::Crash];
        let mut families: BTreeMap<&str, Self> = BTreeMap::new();
        for case in &self.cases {
            let family = case.name.split('.').next().unwrap_or_default();
            families.entry(family).or_default().cases.push(case.clone());
        }
        let mut line = |name: &str, report: &Self| {
            write!(out, "{name:24}")?;
            COLUMNS.iter().try_for_each(|&verdict| write!(out, "{:>7}", report.count(verdict)))?;
            writeln!(out)
        };
        let head: String = COLUMNS.iter().map(|verdict| format!("{verdict:>7}")).collect();
        families.iter().try_for_each(|(name, report)| line(name, report))?;
        line("all", self)?;
        writeln!(out, "{:24}{head}", "")?;
        let mut skips: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for case in self.with(Verdict::Skip) {
            skips.entry(case.reasons.join("; ")).or_default().push(&case.name);
        }
        for (reason, names) in skips {
            writeln!(out, "SKIP  {reason}: {}", names.join(", "))?;
        }
        let faults = self.cases.iter().filter(|case| !matches!(case.verdict, Verdict::Pass | Verdict::Skip));
        for case in faults {
            let seconds = case.elapsed.as_secs_f32();
            writeln!(out, "{:5} {} ({seconds:.1} s): {}", case.verdict, case.name, case.reasons.join("; "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(body: &str, tests: &str, asserts: &str) -> String {
        format!(
            "    [SKIPPED] set-up\n     http://cunit.sourceforge.net/\n{body}\n\
             Run Summary:    Type  Total    Ran Passed Failed Inactive\n              suites     43      1    n/a      0        0\n\
             \x20              tests    {tests}\n             asserts      {asserts}      n/a\n"
        )
    }

    #[test]
    fn a_skipped_test_has_not_passed() {
        let text = output("    [SKIPPED] SANITIZE is not implemented.", "230 1 1 0 0", "3 3 3 0");
        assert_eq!(
            judge("Sanitize.Simple", &text),
            (Verdict::Skip, vec!["SANITIZE is not implemented.".into()])
        );
        assert_eq!(judge("Sanitize.Simple", &output("", "230 1 1 0 0", "3 3 3 0")).0, Verdict::Pass);
    }

    #[test]
    fn a_failed_assertion_fails_and_no_summary_is_a_crash() {
        let text = output("    [FAILED] READ10 command\n    1. test_read10.c:41 - x", "1 1 0 1 0", "3 3 2 1");
        let (verdict, reasons) = judge("Read10.Simple", &text);
        assert_eq!((verdict, reasons.len()), (Verdict::Fail, 2));
        assert_eq!(judge("Read10.Simple", "Failed to connect").0, Verdict::Crash);
        assert_eq!(judge("Read10.Simple", &output("", "230 0 0 0 0", "0 0 0 0")).0, Verdict::Crash);
    }
}
