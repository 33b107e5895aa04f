//! One running cluster manager: what its parts share, and how it starts and ends.

use crate::events::Events;
use crate::formats;
use crate::heartbeat::{self, Heart};
use crate::link::{self, StorageLink};
use crate::membership;
use crate::peers::Peers;
use crate::raft::log_store::LogStore;
use crate::raft::log_view::LogView;
use crate::raft::network::Network;
use crate::raft::state_machine::{self, StateMachine};
use crate::raft::store::{Introduction, Store};
use crate::raft::{self, Raft};
use crate::{api, restart, server, tunnel};
use anyhow::Context;
use base::{ClusterId, Epoch, Formats, InstanceId, NodeId, VolumeId};
use control::api::Answer;
use control::paths;
use control::settings::{Settings, Timing};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use transport::pairing::{Card, Offer};
use transport::{Endpoint, Identity, Protocol};

/// Least time for a handshake: the time-outs scale, the cost of a handshake does not.
const LEAST_HANDSHAKE: Duration = Duration::from_secs(1);

/// What the parts of one cluster manager share.
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) timing: Timing,
    pub(crate) me: NodeId,
    pub(crate) card: Card,
    pub(crate) store: Arc<Store>,
    pub(crate) log: Arc<LogView>,
    pub(crate) raft: Raft,
    pub(crate) endpoint: Endpoint,
    pub(crate) peers: Arc<Peers>,
    pub(crate) offer: Offer,
    pub(crate) events: Arc<Events>,
    pub(crate) storage: StorageLink,
    pub(crate) heart: Heart,
    /// Its epochs as primary that ended when the machine started (restart.rs).
    pub(crate) ended: BTreeMap<VolumeId, Epoch>,
    /// What pairing told, for as long as the committed state does not say it.
    pub(crate) introduction: Mutex<Option<Introduction>>,
    /// The node that was paired last and is not, or does not know that it is, a member yet.
    pub(crate) visitor: Mutex<Option<Card>>,
}

/// A command that was not carried out. For the kinds see [`Answer::Failed`].
pub(crate) fn failed(kind: &str, message: String) -> Answer {
    Answer::Failed { kind: kind.into(), message }
}

impl Node {
    /// The cluster that this node is in.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        let committed = self.log.applied().state.cluster.as_ref().map(|cluster| cluster.id);
        committed.or_else(|| {
            let told = self.introduction.lock().unwrap_or_else(PoisonError::into_inner);
            told.as_ref().map(|told| told.cluster)
        })
    }

    /// What PID 1 finds wrong with this machine.
    pub(crate) fn machine_problems(&self) -> Vec<String> {
        // Absent where there is nothing to tell, or no PID 1 of ours.
        let text = fs::read_to_string(self.dir.join(paths::MACHINE_PROBLEMS)).unwrap_or_default();
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// What may be promised to a cluster that this node enters; or why not yet.
    pub(crate) fn formats_to_promise(&self) -> Result<Formats, Answer> {
        formats::understood(&self.dir).map(|understood| understood.formats).ok_or_else(|| {
            let text = format!(
                "the release of {} has not proved itself yet: wait a minute. One that was started by hand, or whose boot \
                 variables can't be read, has to be restarted",
                self.settings.name
            );
            failed("unavailable", text)
        })
    }

    /// Who this node is, to a node that it is paired with now.
    pub(crate) fn card(&self) -> Card {
        let mut card = self.card.clone();
        if let Some(understood) = formats::understood(&self.dir) {
            card.formats = understood.formats;
        }
        card
    }

    /// How long a command may take in all.
    pub(crate) fn patience(&self) -> Duration {
        self.timing.raft_election_max * 10
    }

    /// How long one attempt of it may take.
    pub(crate) fn attempt_time(&self) -> Duration {
        self.timing.raft_election_max * 2
    }

    /// Tells storage what is committed.
    pub(crate) fn tell_storage(&self) {
        self.storage.tell_state(|| {
            let mut state = self.log.applied().state.for_storage(self.me)?;
            for volume in &mut state.volumes {
                volume.ended = self.ended.get(&volume.config.volume).copied();
            }
            Some(state)
        });
    }

    /// Remembers, durably, that this identity belongs to a cluster: from now on it is nothing without its log (S20), and
    /// has to stay at the address by which the others know it.
    pub(crate) fn mark_identity(&self, cluster: ClusterId) -> anyhow::Result<()> {
        let next = read_settings(&self.dir.join(paths::SETTINGS))?.address;
        anyhow::ensure!(
            next == self.settings.address,
            "{} is about to move to {next}: restart it first",
            self.settings.name
        );
        let dir = self.dir.join(paths::IDENTITY_DIR);
        let path = dir.join(paths::IN_CLUSTER);
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            writeln!(file, "{cluster}")?;
            file.sync_all()?;
            File::open(&dir)?.sync_all()
        };
        write().with_context(|| format!("{} can't be written", path.display()))
    }
}

/// A running cluster manager.
pub(crate) struct Manager {
    pub(crate) node: Arc<Node>,
    tasks: JoinSet<&'static str>,
}

impl Manager {
    /// Starts everything. On an error nothing of the node's state was changed but that this start was noted.
    pub(crate) async fn start(dir: &Path) -> anyhow::Result<Self> {
        let settings = read_settings(&dir.join(paths::SETTINGS))?;
        let timing = settings.timing();
        let address = settings.cluster_address();
        // First of all the port: a second instance, or a wrong address, is to touch nothing.
        let port = TcpListener::bind(address).await.with_context(|| format!("cluster port {address}"))?;
        let identity = Identity::load_or_create(&dir.join(paths::IDENTITY_DIR))?;
        let database = dir.join(paths::RAFT_DB);
        anyhow::ensure!(
            database.exists() || !dir.join(paths::IDENTITY_DIR).join(paths::IN_CLUSTER).exists(),
            "Raft log {} is missing, but this node has been in a cluster: without its log it has to join as a new \
             node, with a new identity (S20)",
            database.display()
        );
        let me = identity.node;
        let card = Card {
            node: me,
            name: settings.name.clone(),
            role: settings.role,
            cluster_address: address,
            replication_address: settings.replication_address(),
            certificate_sha256: identity.pin.to_string(),
            formats: Formats::CURRENT,
        };
        let store = Arc::new(Store::open(&database, me)?);
        let applied = state_machine::load(&store)?;
        let after = applied.last.map_or(0, |last| last.index.saturating_add(1));
        let introduction = store.introduction()?;
        let committed = store.committed()?;
        let entries = store.entries(after..)?;
        let boot = restart::boot_id();
        let ended = restart::note_start(&store, boot.as_deref(), me, &applied, &entries, committed)?;
        let known = entries.last().map_or(0, |entry| entry.log_id.index).max(applied.index());
        let events = Arc::new(Events::open(&dir.join(paths::EVENTS), known));
        let log = Arc::new(LogView::new(applied, &entries));

        let run = dir.join(paths::RUN_DIR);
        fs::create_dir_all(&run).with_context(|| format!("directory {}", run.display()))?;
        let link_socket = listen(&dir.join(paths::LINK_SOCKET))?;
        let api_socket = listen(&dir.join(paths::CLUSTER_SOCKET))?;
        let tunnel_socket = listen(&dir.join(paths::TUNNEL_SOCKET))?;

        let endpoint = Endpoint::new(
            identity,
            Protocol::Cluster,
            cluster::MESSAGES,
            (timing.dead * 2).max(LEAST_HANDSHAKE),
        )?
        .and(Protocol::Console, tunnel::VERSIONS);
        let peers = Arc::new(Peers::new(endpoint.clone(), timing.renew / 3));
        let raft = Raft::new(
            me.0,
            Arc::new(raft::config(&timing)?),
            Network::new(peers.clone(), timing.raft_heartbeat),
            LogStore::new(store.clone(), log.clone()),
            StateMachine::new(store.clone(), log.clone(), events.clone(), committed),
        )
        .await
        .with_context(|| format!("Raft log {}", database.display()))?;
        let incarnation = InstanceId(transport::random_id()?);
        let node = Arc::new(Node {
            dir: dir.into(),
            settings,
            timing,
            me,
            card,
            store,
            log,
            raft,
            endpoint,
            peers,
            offer: Offer::default(),
            events,
            storage: StorageLink::default(),
            heart: Heart::new(me, incarnation, timing),
            ended,
            introduction: Mutex::new(introduction),
            visitor: Mutex::default(),
        });
        tracing::info!(%me, name = node.settings.name, %address, %incarnation, "cluster manager started");
        membership::refresh_contacts(&node);
        let mut tasks = JoinSet::new();
        part(&mut tasks, "cluster port", server::serve(node.clone(), port));
        part(&mut tasks, "storage link", link::serve(node.clone(), link_socket));
        part(&mut tasks, "control socket", api::serve(node.clone(), api_socket));
        part(&mut tasks, "state", membership::follow(node.clone()));
        part(&mut tasks, "membership", membership::reconcile(node.clone()));
        part(&mut tasks, "heartbeat", heartbeat::run(node.clone()));
        part(&mut tasks, "tunnel socket", tunnel::serve(node.clone(), tunnel_socket));
        part(&mut tasks, "formats", formats::follow(node.clone()));
        part(&mut tasks, "events", node.events.clone().keep());
        Ok(Self { node, tasks })
    }

    /// Ends when something that the manager can't do without has ended.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let mut raft = self.node.raft.metrics();
        tokio::select! {
            ended = self.tasks.join_next() => match ended {
                Some(Ok(part)) => anyhow::anyhow!("{part} ended"),
                Some(Err(error)) => anyhow::anyhow!(error).context("a part of the cluster manager failed"),
                None => anyhow::anyhow!("nothing runs"),
            },
            stopped = raft.wait_for(|metrics| metrics.running_state.is_err()) => {
                let reason = match stopped {
                    Ok(metrics) => metrics.running_state.clone().err().map(|fatal| fatal.to_string()),
                    Err(_) => None,
                };
                anyhow::anyhow!("Raft stopped: {}", reason.unwrap_or_else(|| "it is gone".into()))
            }
        }
    }

    /// Ends cleanly. Storage goes on until its lease ends.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
        if let Err(error) = self.node.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not end well");
        }
        let events = self.node.events.clone();
        let _ended = tokio::task::spawn_blocking(move || events.sync()).await;
        for socket in [paths::LINK_SOCKET, paths::CLUSTER_SOCKET, paths::TUNNEL_SOCKET] {
            let _gone = fs::remove_file(self.node.dir.join(socket));
        }
        tracing::info!("cluster manager stopped");
    }
}

/// Starts a part of the manager that never ends.
fn part(
    tasks: &mut JoinSet<&'static str>,
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        work.await;
        name
    });
}

fn read_settings(path: &Path) -> anyhow::Result<Settings> {
    let context = || format!("settings {}", path.display());
    let bytes = fs::read(path).with_context(context)?;
    Settings::parse(&bytes).with_context(context)
}

/// A unix socket for this node's own processes. What an earlier start left there is removed: the Raft log is locked, so
/// nobody listens on it any more.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let bind = || -> io::Result<UnixListener> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().with_context(|| format!("socket {}", path.display()))
}
