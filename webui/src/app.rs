//! What all handlers share.

use crate::certificate;
use crate::cluster_update::ClusterUpdates;
use crate::errors::ApiError;
use crate::limiter::Limiter;
use crate::links::Links;
use crate::password::Password;
use crate::sessions::Sessions;
use crate::store;
use crate::upload::Uploads;
use crate::upstream::Upstream;
use crate::watch::{self, Snapshot};
use anyhow::{Context, Result};
use axum::body::Bytes;
use control::api::{Answer, Command, Status};
use control::settings::Settings;
use futures_util::Stream;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch as channel};

/// Handed to every handler.
pub(crate) type Shared = Arc<App>;

/// How long a page waits for the status of this moment, rather than show the last one.
const FRESH_PATIENCE: Duration = Duration::from_secs(1);

/// One console process.
pub(crate) struct App {
    /// The node's directory.
    pub(crate) dir: PathBuf,
    /// Its settings, as they were at start.
    pub(crate) settings: Settings,
    /// The admin password.
    pub(crate) password: Password,
    /// Who is signed in.
    pub(crate) sessions: Sessions,
    /// Wrong passwords.
    pub(crate) limiter: Limiter,
    /// Downloads of the support bundle that need no sign-in.
    pub(crate) links: Links,
    /// Cluster manager and supervisor.
    pub(crate) upstream: Arc<Upstream>,
    /// What was last seen of them.
    pub(crate) snapshot: channel::Receiver<Snapshot>,
    /// SHA-256 of the console's certificate.
    pub(crate) fingerprint: String,
    /// Updates of all nodes.
    pub(crate) cluster_updates: Arc<ClusterUpdates>,
    uploads: Uploads,
    nudge: Arc<Notify>,
}

impl App {
    /// Reads `dir` and starts to watch. Needs a tokio runtime.
    pub(crate) fn start(dir: &Path, settings: Settings) -> Result<(Shared, certificate::Certificate)> {
        let web_dir = dir.join(control::paths::WEB_DIR);
        store::private_dir(&web_dir).with_context(|| format!("{}: cannot be made", web_dir.display()))?;
        let certificate = certificate::load_or_make(&web_dir, &settings.name, settings.address)?;
        let upstream = Arc::new(Upstream::new(dir));
        let nudge = Arc::new(Notify::new());
        let nothing_yet = Snapshot { heard_at: crate::text::unix_now(), ..Snapshot::default() };
        let (sender, snapshot) = channel::channel(nothing_yet);
        let cluster_updates = Arc::new(ClusterUpdates::new(dir, &settings.name));
        tokio::spawn(watch::keep(upstream.clone(), cluster_updates.clone(), sender, nudge.clone()));
        let app = Self {
            dir: dir.to_owned(),
            settings,
            password: Password::open(&web_dir)?,
            sessions: Sessions::default(),
            limiter: Limiter::default(),
            links: Links::default(),
            upstream,
            snapshot,
            fingerprint: certificate.fingerprint.clone(),
            cluster_updates,
            uploads: Uploads::new(dir.join(control::paths::UPDATE_BUNDLE)),
            nudge,
        };
        Ok((Arc::new(app), certificate))
    }

    /// What was last seen.
    pub(crate) fn seen(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// What was last seen, with the status of this moment if it comes soon: a page that follows a command shows its
    /// effect.
    pub(crate) async fn fresh(&self) -> Snapshot {
        let mut seen = self.seen();
        if seen.is_stale() {
            return seen;
        }
        if let Ok(Ok(status)) = tokio::time::timeout(FRESH_PATIENCE, self.upstream.status()).await {
            seen.status = Some(status);
            seen.heard_at = crate::text::unix_now();
        }
        seen
    }

    /// The status of this moment, with the services, or why there is none.
    pub(crate) async fn status(&self) -> Result<Status, ApiError> {
        let (status, services) = tokio::join!(self.upstream.status(), self.upstream.services());
        let mut status = status?;
        match services {
            Ok(services) => status.services = services,
            Err(error) => status.problems.push(error.message),
        }
        Ok(status)
    }

    /// Runs a command: the one way for pages, REST and the command line.
    pub(crate) async fn command(&self, command: &Command) -> Result<Answer, ApiError> {
        let answer = self.upstream.command(command).await;
        self.nudge.notify_one();
        match &answer {
            Ok(_) => tracing::info!(command = name_of(command), "done"),
            Err(e) => tracing::warn!(command = name_of(command), reason = e.message, "not done"),
        }
        answer
    }

    /// Takes an update and begins to install it: the one way for pages and REST.
    pub(crate) async fn take_update<E: Display>(
        &self,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), ApiError> {
        let taken = self.uploads.take(&self.upstream, body).await;
        self.nudge.notify_one();
        log("update", taken)
    }

    /// Restarts the machine.
    pub(crate) async fn restart_machine(&self) -> Result<(), ApiError> {
        log("restart", self.upstream.restart_machine().await)
    }
}

fn log(command: &'static str, outcome: Result<(), ApiError>) -> Result<(), ApiError> {
    match &outcome {
        Ok(()) => tracing::info!(command, "done"),
        Err(e) => tracing::warn!(command, reason = e.message, "not done"),
    }
    outcome
}

/// For the log; never the pairing code, nor a secret.
fn name_of(command: &Command) -> &'static str {
    match command {
        Command::CreateCluster { .. } => "create cluster",
        Command::OfferPairing => "offer pairing",
        Command::Pair { .. } => "pair",
        Command::RemoveMember { .. } => "remove member",
        Command::CreateVolume { .. } => "create volume",
        Command::GrowVolume { .. } => "grow volume",
        Command::DeleteVolume { .. } => "delete volume",
        Command::CreateTarget { .. } => "create target",
        Command::DeleteTarget { .. } => "delete target",
        Command::MapLun { .. } => "map LUN",
        Command::ChangeLun { .. } => "change LUN",
        Command::UnmapLun { .. } => "unmap LUN",
        Command::AllowInitiator { .. } => "allow initiator",
        Command::DenyInitiator { .. } => "deny initiator",
        Command::SetChap { .. } => "set CHAP",
        Command::HandOver { .. } => "hand over",
    }
}
