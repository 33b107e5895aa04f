//! libiscsi's `iscsi-perf`: a second client, written by others. It only reads.

use std::fmt::Write;

use anyhow::{Context, Result};
use futago_e2e::tools::run_within;

use crate::report::median;
use crate::systems::System;
use std::time::Duration;

const SECONDS: &str = "1";

/// Random reads of 4 KiB at depth 1 and 32 on every system that speaks iSCSI.
pub(crate) fn table(systems: &mut [System], rounds: usize) -> Result<String> {
    let mut text = String::new();
    for depth in ["1", "32"] {
        let mut found = vec![Vec::new(); systems.len()];
        for _ in 0..rounds {
            for (system, found) in systems.iter().zip(&mut found) {
                if let Some(url) = system.url()? {
                    found.push(once(&url, depth).with_context(|| format!("iscsi-perf on {}", system.name))?);
                }
            }
        }
        for (system, found) in systems.iter().zip(&mut found).filter(|(_, found)| !found.is_empty()) {
            writeln!(text, "  depth {depth:>2}  {:<11} {:>9.0}", system.name, median(found))?;
        }
    }
    Ok(text)
}

/// Its average, of the last line that tells one: `iops average 12345 (48 MB/s)`.
fn once(url: &str, depth: &str) -> Result<f64> {
    let arguments = ["-m", depth, "-b", "8", "-t", SECONDS, "-r", url];
    let said = run_within(Duration::from_secs(20), "iscsi-perf", &arguments)?;
    let words: Vec<&str> = said.split_whitespace().collect();
    let at = words.windows(2).rposition(|pair| pair == ["iops", "average"]);
    at.and_then(|at| words.get(at + 2)?.parse().ok()).with_context(|| format!("no average in: {said}"))
}
