//! The storage process (`futago storage`): binds the iSCSI target and the replicas to disks, sockets and timers.
//!
//! - [`engine`]: the one owner of replicas, disks and leases; a turn of its loop is the heart of the data path.
//! - [`target`]: iSCSI connections and sessions; turns commands into requests to the engine.
//! - [`peers`]: replication connections.
//! - [`link`]: the storage link to the cluster manager.
//! - [`vigil`]: when the engine stays awake for a moment instead of falling asleep.
//!
//! Flow of a write: `target` (bytes → request) → `engine` (request → replica → disk and peer commands) → ring and
//! `peers` → completions → replica → reply → `target`.
//!
//! Invariants
//! - One thread, one engine, no locks; everything reaches the engine through its inbox.
//! - Nothing is served but by a replica that was promoted for this very process (S6) and holds a lease (S5).
//! - [`run`] fails only for what a restart can't cure: unusable settings, identity or addresses. An unusable disk is no
//!   such thing: the node goes on without it and says so (S12).
#![deny(unsafe_code)]

mod clock;
mod engine;
mod forget;
mod inbox;
mod link;
mod peers;
pub mod target;
pub mod vigil;

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use base::InstanceId;
use control::settings::Settings;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use transport::identity::IdentityError;
use transport::{Endpoint, Identity, Protocol};

pub use forget::forget_disks;

use crate::engine::{Engine, Input, Parts};
use crate::inbox::Inbox;

/// Runs the storage process of the node at `dir` until SIGTERM or SIGINT, then hands over, flushes and ends.
///
/// # Errors
/// Settings, identity or addresses can't be used; the text names what and why.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, serve(dir))
}

async fn serve(dir: &Path) -> anyhow::Result<()> {
    let settings = read_settings(dir)?;
    let identity = identity(&dir.join(control::paths::IDENTITY_DIR)).await?;
    let instance = InstanceId(transport::random_id()?);
    let endpoint =
        Endpoint::new(identity, Protocol::Replication, replication::frame::VERSIONS, settings.timing().peer)?;
    let listener = bind(settings.replication_address()).await?;

    let inbox: Inbox<Input> = Inbox::new();
    let buffers = engine::buffers();
    let from_peers = inbox.clone();
    let peers = peers::Peers::new(
        endpoint,
        buffers.clone(),
        Rc::new(move |event| from_peers.push(Input::Peer(event))),
    );
    tokio::task::spawn_local(peers.clone().listen(listener));

    let (to_cluster, outgoing) = mpsc::unbounded_channel();
    let from_link = inbox.clone();
    let linked =
        link::run(link::socket(dir), instance, outgoing, move |event| from_link.push(Input::Link(event)));
    tokio::task::spawn_local(linked);

    let portal = engine::portal(&settings, buffers.clone(), inbox.clone());
    let opener = engine::opener(dir, &settings, inbox.clone())?;
    let engine = Engine::new(Parts {
        instance,
        inbox: inbox.clone(),
        buffers,
        peers,
        link: to_cluster,
        opener,
        portal,
    })?;

    tokio::task::spawn_local(stop_on_signal(inbox)?);
    tracing::info!(node = settings.name, %instance, "storage runs");
    // A task beside the connections' tasks: a request goes there and back in one turn of the runtime, without a look at
    // the sockets between.
    tokio::task::spawn_local(engine.run()).await?
}

/// The node's identity; the cluster manager makes it at the node's first start.
async fn identity(dir: &Path) -> anyhow::Result<Identity> {
    loop {
        match Identity::load(dir) {
            Err(IdentityError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            loaded => return Ok(loaded?),
        }
    }
}

fn stop_on_signal(inbox: Inbox<Input>) -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            inbox.push(Input::Stop);
        }
    })
}

fn read_settings(dir: &Path) -> anyhow::Result<Settings> {
    let path = dir.join(control::paths::SETTINGS);
    let text = std::fs::read(&path).with_context(|| format!("{}: can't be read", path.display()))?;
    Settings::parse(&text).with_context(|| path.display().to_string())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("replication port {address}"))
}

/// An error and what it came from, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
