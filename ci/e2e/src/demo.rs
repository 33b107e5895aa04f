//! A running `futago demo`, driven through its contract: demo.json, process groups, `futago ctl`.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::tools::{self, wait_for};

/// A demo; stopped cleanly when dropped.
#[derive(Debug)]
pub struct Demo {
    child: Option<Child>,
    pub dir: PathBuf,
}

impl Demo {
    /// Starts the demo in `dir` and waits for `READY`.
    pub fn start(dir: &Path, size: &str) -> Result<Self> {
        Self::start_with(dir, &["--size", size])
    }

    /// The same with `--fresh`.
    pub fn start_fresh(dir: &Path, size: &str) -> Result<Self> {
        Self::start_with(dir, &["--size", size, "--fresh"])
    }

    fn start_with(dir: &Path, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(tools::futago())
            .args(["demo", "--dir"])
            .arg(dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("futago demo")?;
        let output = BufReader::new(child.stdout.take().unwrap());
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if line == "READY" {
                    let _ = ready.send(());
                }
            }
        });
        let demo = Self { child: Some(child), dir: dir.to_owned() };
        is_ready.recv_timeout(Duration::from_secs(60)).context("the demo did not print READY")?;
        Ok(demo)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.dir.join("demo.json")).unwrap()).unwrap()
    }

    pub fn portal(&self) -> SocketAddr {
        self.json()["portal"].as_str().unwrap().parse().unwrap()
    }

    pub fn iqn(&self) -> String {
        self.json()["iqn"].as_str().unwrap().to_owned()
    }

    pub fn url(&self) -> String {
        format!("iscsi://{}/{}/0", self.portal(), self.iqn())
    }

    pub fn pid(&self, node: &str) -> i64 {
        let json = self.json();
        let found = json["nodes"].as_array().unwrap().iter().find(|n| n["name"] == node).unwrap();
        found["pid"].as_i64().unwrap()
    }

    /// `kill -9 -PID`: the node and all its processes end at once.
    pub fn kill(&self, node: &str) -> Result<()> {
        tools::run("kill", &["-9", "--", &format!("-{}", self.pid(node))]).map(drop)
    }

    /// Stops every process of the node where it is, or lets it go on: what a paused VM looks like from outside.
    pub fn signal(&self, node: &str, signal: &str) -> Result<()> {
        tools::run("kill", &[signal, "--", &format!("-{}", self.pid(node))]).map(drop)
    }

    /// `futago demo start NAME`.
    pub fn start_node(&self, node: &str) -> Result<()> {
        self.futago(&["demo", "start", node, "--dir", &self.dir.to_string_lossy()]).map(drop)
    }

    fn futago(&self, arguments: &[&str]) -> Result<String> {
        tools::run(&tools::futago().to_string_lossy(), arguments)
    }

    /// `futago ctl --dir DIR/NODE …`
    pub fn ctl(&self, node: &str, arguments: &[&str]) -> Result<String> {
        let dir = self.dir.join(node);
        let mut all = vec!["ctl".to_owned(), "--dir".into(), dir.to_string_lossy().into_owned()];
        all.extend(arguments.iter().map(|&a| a.to_owned()));
        self.futago(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// `status --json` of whichever data node answers.
    pub fn status(&self) -> Option<Value> {
        ["a", "b"].into_iter().find_map(|node| self.status_of(node))
    }

    pub fn status_of(&self, node: &str) -> Option<Value> {
        serde_json::from_str(&self.ctl(node, &["status", "--json"]).ok()?).ok()
    }

    /// The demo volume's status.
    pub fn volume(&self) -> Option<Value> {
        let status = self.status()?;
        status["volumes"].as_array()?.iter().find(|v| v["name"] == "demo").cloned()
    }

    pub fn primary(&self) -> Result<String> {
        wait_for("a primary", Duration::from_secs(30), || {
            self.volume().and_then(|v| Some(v["primary"].as_str()?.to_owned()))
        })
    }

    /// Waits until both copies are in sync and served; answers the time it took.
    pub fn wait_healthy(&self, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        let mut last = Value::Null;
        wait_for("both copies in sync", limit, || {
            last = self.volume().unwrap_or_default();
            (last["state"] == "healthy").then_some(())
        })
        .with_context(|| format!("last seen: {last}"))?;
        Ok(start.elapsed())
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        tools::run("kill", &["-TERM", &child.id().to_string()])?;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = child.try_wait()? {
                if !status.success() {
                    bail!("the demo ended with {status}");
                }
                return Ok(());
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                bail!("the demo did not end");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The other data node.
    pub fn other(node: &str) -> &'static str {
        if node == "a" { "b" } else { "a" }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("demo state is kept in {}", self.dir.display());
        }
        let _ = self.stop();
        for node in ["a", "b", "witness"] {
            let _ = self.futago(&["demo", "stop", node, "--dir", &self.dir.to_string_lossy()]);
        }
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
