//! `futago demo`: two data nodes and a witness on this machine, without root. The contract is docs/demo.md.
//!
//! Nothing is faked: each node is the supervisor and services of the image; the demo only writes their settings,
//! pairs them as an administrator would, and starts and ends their processes.

mod first_run;
mod layout;
mod processes;
mod summary;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base::ByteCount;
use clap::{Args, Subcommand};

use self::layout::{DemoNode, NODES};

/// Arguments of `futago demo`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DemoArguments {
    #[command(subcommand)]
    action: Option<Action>,
    /// Where the nodes keep everything
    #[arg(long, default_value = "demo-state")]
    dir: PathBuf,
    /// Size of the volume when the demo is started for the first time
    #[arg(long, default_value = "1GiB", value_parser = webui::text::parse_size)]
    size: ByteCount,
    /// Throw the old state away and start over
    #[arg(long)]
    fresh: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Start a node that was killed or stopped
    Start(OneNode),
    /// Stop a node cleanly
    Stop(OneNode),
}

#[derive(Args)]
struct OneNode {
    /// a, b or witness
    name: String,
    /// The demo's directory
    #[arg(long, default_value = "demo-state")]
    dir: PathBuf,
}

/// How long the portal may take to answer.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the demo until SIGINT or SIGTERM, or starts or stops one of its nodes.
pub(crate) fn run(arguments: &DemoArguments) -> anyhow::Result<()> {
    match &arguments.action {
        Some(Action::Start(which)) => with_node(which, |node, dir| processes::start(node, dir).map(drop)),
        Some(Action::Stop(which)) => with_node(which, processes::stop),
        None => run_all(arguments),
    }
}

fn with_node(
    which: &OneNode,
    action: impl FnOnce(DemoNode, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let node = DemoNode::named(&which.name)?;
    let dir = existing(&which.dir)?;
    action(node, &dir)?;
    summary::refresh(&dir)
}

fn existing(dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = dir.canonicalize().with_context(|| format!("{}: no demo there", dir.display()))?;
    if !dir.join("a").join(control::paths::SETTINGS).exists() {
        bail!("{}: no demo there", dir.display());
    }
    Ok(dir)
}

fn run_all(arguments: &DemoArguments) -> anyhow::Result<()> {
    let dir = prepare(arguments)?;
    let _lock = lock(&dir)?;
    for node in NODES {
        if let Some(pid) = processes::running(node, &dir) {
            bail!(
                "node {0} of {1} runs already (process {2}): `futago demo stop {0} --dir {1}` stops it",
                node.name,
                dir.display(),
                pid.as_raw_nonzero()
            );
        }
        node.check_addresses().with_context(|| format!("node {}", node.name))?;
    }
    layout::check_address(layout::portal()).context("floating portal")?;
    if arguments.fresh {
        clear(&dir)?;
    }
    for node in NODES {
        node.create(&dir, arguments.size)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(&dir, arguments.size));
    let stopped = stop_all(&dir);
    outcome.and(stopped)
}

async fn serve(dir: &Path, size: ByteCount) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    for node in NODES {
        processes::start(node, dir)?;
    }
    let come_up = async {
        let password = first_run::set_up(dir, size).await?;
        wait_for_portal(dir).await?;
        summary::announce(dir, &password)
    };
    tokio::select! {
        done = come_up => done?,
        ended = processes::first_end(dir) => return ended,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    }
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(200)) => processes::reap(),
        }
    }
}

async fn wait_for_portal(dir: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    while tokio::net::TcpStream::connect(layout::portal()).await.is_err() {
        if Instant::now() > deadline {
            bail!("the portal did not answer; the nodes' logs are in {}/*/log", dir.display());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The demo's directory, absolute.
fn prepare(arguments: &DemoArguments) -> anyhow::Result<PathBuf> {
    if arguments.size.0 < ByteCount::mib(16).0 || !arguments.size.0.is_multiple_of(4096) {
        bail!("--size {}: at least 16 MiB and a multiple of 4096 bytes", arguments.size);
    }
    let dir = &arguments.dir;
    fs::create_dir_all(dir).with_context(|| format!("{}: can't be created", dir.display()))?;
    dir.canonicalize().with_context(|| format!("{}: can't be opened", dir.display()))
}

/// One demo per directory: held until the process ends.
fn lock(dir: &Path) -> anyhow::Result<fs::File> {
    let path = dir.join("demo.lock");
    let file = fs::File::create(&path).with_context(|| format!("{}: can't be created", path.display()))?;
    if file.try_lock().is_err() {
        bail!("{}: another demo runs in this directory", dir.display());
    }
    Ok(file)
}

/// Removes the nodes' directories, and nothing else that may stand beside them. All of them must look like a node's:
/// `--dir` may name a directory of somebody else's, with an `a` in it.
fn clear(dir: &Path) -> anyhow::Result<()> {
    for node in NODES {
        if !node.is_ours(dir) {
            bail!("{}: no node of a demo, left alone; choose another --dir", node.dir(dir).display());
        }
    }
    for node in NODES {
        let dir = node.dir(dir);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("{}: can't be removed", dir.display()))?;
        }
    }
    Ok(())
}

/// Stops every node, also those that `futago demo start` started, and says the first fault.
fn stop_all(dir: &Path) -> anyhow::Result<()> {
    // The data nodes first: a hand-over or a flush may still want the witness's vote.
    let faults: Vec<_> = NODES.into_iter().filter_map(|node| processes::stop(node, dir).err()).collect();
    summary::remove(dir);
    faults.into_iter().next().map_or(Ok(()), Err)
}
