//! The web room: the `futago web` process (console and REST), and the client of its REST interface that
//! `futago ctl` is made of. The only place that knows HTML and HTTP.
//!
//! Flow: [`server`] accepts a connection and notes its other end; [`guard`] decides whether the request may come
//! in; a handler of [`rest`] or [`views`] turns it into a [`control::api::Command`] or a question and asks the
//! cluster manager through [`upstream`]. Beside that, [`watch`] looks at the cluster manager once a second; pages
//! and [`sse`] show what it saw. A machine without settings has [`setup`] in place of all of that.
//!
//! Invariants
//! - Nothing here decides anything about data: a crash of this process loses sessions of browsers, and ends an update of all
//!   nodes that it leads ([`cluster_update`]), nothing else.
//! - Pages, REST and the command line run commands through one function, [`app::App::command`].
//! - What is not known is not shown as if it were: without an answer of the cluster manager REST answers
//!   `unavailable`, and pages mark what they last saw, with the time.
//! - Secrets (password hash, private key) stand in `DIR/web`, mode 0600; session and CSRF tokens in memory only.
#![forbid(unsafe_code)]

mod app;
mod bundle;
mod certificate;
pub mod client;
mod cluster_update;
mod cookies;
mod csrf;
pub mod ctl;
pub mod errors;
mod guard;
mod headers;
mod http;
mod limiter;
mod links;
mod logs;
pub mod machine;
mod metrics;
pub mod password;
mod rest;
mod server;
mod sessions;
mod setup;
mod sse;
mod store;
pub mod text;
mod tls;
mod upload;
pub mod upstream;
mod views;
mod watch;

use anyhow::{Context, Result};
use control::settings::Settings;
use std::net::SocketAddr;
use std::path::Path;

/// Runs the console of the node at `dir` until SIGTERM or SIGINT: HTTPS on `settings.address:ports.web` (unless
/// `settings.web` is off) and the REST interface on `dir/run/web.sock`. Needs no tokio runtime around it.
///
/// Errors name the file or address: settings that can't be read, a port in use, a damaged password or certificate.
pub fn run(dir: &Path) -> Result<()> {
    let settings = read_settings(dir)?;
    in_runtime(serve(dir, settings))
}

/// Runs the set-up console of the machine that PID 1 describes in `dir/run/setup-machine.json`, on the address that it
/// has been lent and `port`, until the machine is set up: then `dir/settings.json` and the admin password are stored.
/// Needs no tokio runtime around it.
///
/// Errors name the file or address.
pub fn run_setup(dir: &Path, port: u16) -> Result<()> {
    in_runtime(setup::serve(dir, port))
}

/// Runs `work` until it ends by itself or by SIGTERM or SIGINT.
fn in_runtime(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("web console: no runtime")?;
    let served = runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            ended = work => ended,
        }
    });
    // Streams to browsers never end by themselves.
    runtime.shutdown_background();
    served
}

async fn serve(dir: &Path, settings: Settings) -> Result<()> {
    let address = SocketAddr::new(settings.address, settings.ports.web);
    // The port first: if it is taken, another console may be running on this directory's socket.
    let https = if settings.web { Some(server::listen_tcp(address).await?) } else { None };
    let run_dir = dir.join(control::paths::RUN_DIR);
    std::fs::create_dir_all(&run_dir).with_context(|| format!("{}: cannot be made", run_dir.display()))?;
    let local = server::listen_unix(&dir.join(control::paths::WEB_SOCKET))?;
    let peers = server::listen_unix(&dir.join(control::paths::PEER_SOCKET))?;
    let (app, certificate) = app::App::start(dir, settings)?;
    let local = tokio::spawn(server::serve_unix(local, server::local_router(app.clone())));
    let peers = tokio::spawn(server::serve_unix(peers, server::peer_router(app.clone())));
    let remote = https.map(|listener| {
        tracing::info!(url = %format!("https://{address}"), fingerprint = certificate.fingerprint, "web console");
        tokio::spawn(server::serve_tls(listener, certificate.tls, server::network_router(app)))
    });
    let remote_ended = async {
        match remote {
            Some(task) => task.await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = local => ended.context("web socket: its server ended"),
        ended = peers => ended.context("socket for other members: its server ended"),
        ended = remote_ended => ended.context("web console: its server ended"),
    }
}

fn read_settings(dir: &Path) -> Result<Settings> {
    let path = dir.join(control::paths::SETTINGS);
    let bytes = std::fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Settings::parse(&bytes).with_context(|| path.display().to_string())
}
