//! Runs programs; failure carries what they said.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Runs a program to its end; any exit status but zero is an error that quotes its output.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    check(program, arguments, output)
}

/// Like [`run`] with a time limit (coreutils' `timeout`), so that a hang is a failure.
pub fn run_within(limit: Duration, program: &str, arguments: &[&str]) -> Result<String> {
    let seconds = limit.as_secs().to_string();
    let mut all = vec!["-k", "5", &seconds, program];
    all.extend_from_slice(arguments);
    run("timeout", &all)
}

fn check(program: &str, arguments: &[&str], output: Output) -> Result<String> {
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let tail: Vec<&str> = text.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("{program} {}: {}\n{}", arguments.join(" "), output.status, tail.join("\n"));
    }
    Ok(text)
}

/// The built binary: `FUTAGO_BIN`, or beside the test in cargo's target directory.
pub fn futago() -> PathBuf {
    if let Some(path) = std::env::var_os("FUTAGO_BIN") {
        return path.into();
    }
    let mut dir = std::env::current_exe().unwrap();
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    dir.join("futago")
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().parent().unwrap()
}

/// A fresh directory on a real disk (O_DIRECT works there, as it does not on tmpfs), named after the scenario.
pub fn work_dir(scenario: &str) -> PathBuf {
    let base =
        std::env::var_os("FUTAGO_E2E_DIR").map_or_else(|| repository().join("target/e2e"), PathBuf::from);
    let dir = base.join(format!("{scenario}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Polls `ready` until it answers a value; the error says what was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A small deterministic generator (splitmix64): scenarios print their seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// From `FUTAGO_SEED`, else from the clock; printed so that a failure can be repeated.
    pub fn seeded(scenario: &str) -> Self {
        let seed = std::env::var("FUTAGO_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |t| u64::from(t.subsec_nanos()) << 20 ^ t.as_secs())
        });
        println!("{scenario}: FUTAGO_SEED={seed}");
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }
}

/// Bytes that differ from seed to seed, in whole words.
pub fn pattern(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len_bytes).step_by(8).flat_map(|_| random.draw().to_le_bytes()).collect()
}
