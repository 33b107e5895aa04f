//! The storage link: one storage process of this node, connected over a unix socket ([`control::link`]).
//!
//! Invariants
//! - At most one storage process is connected; a newer connection ends the older one.
//! - A lease, a hand-over or a refusal is sent only to the process (instance) that it is for.
//! - The committed state that storage has seen never goes back: it is sent in the order in which it was applied, before
//!   a refusal that rests on it.

use crate::node::Node;
use crate::{grow, proposals};
use base::{InstanceId, NodeId, ProposalId, VolumeId};
use cluster::{Command, Outcome};
use control::link::{CommittedState, Report, ToCluster, ToStorage};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// Messages that may wait for a storage process that does not read; more end the connection.
const QUEUE: usize = 256;
/// Longest line from storage.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// The connected storage process, if any.
#[derive(Default)]
pub(crate) struct StorageLink {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    connections: u64,
    session: Option<Session>,
    waiting: BTreeMap<VolumeId, oneshot::Sender<String>>,
}

struct Session {
    connection: u64,
    instance: InstanceId,
    out: mpsc::Sender<ToStorage>,
    told: Option<CommittedState>,
    report: Option<Report>,
    /// Proposals under way: storage repeats them until they are decided.
    proposed: BTreeSet<Key>,
}

/// Names a proposal of the connected storage process. Each volume counts its own, and changes of reservations apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    volume: VolumeId,
    number: u64,
    reservations: bool,
}

impl Key {
    fn refusal(self, reason: String) -> ToStorage {
        let Self { volume, number, reservations } = self;
        if reservations {
            ToStorage::ReservationRefused { volume, number, reason }
        } else {
            ToStorage::Refused { volume, number, reason }
        }
    }
}

impl Session {
    /// Queues a message; false if storage does not read any more.
    fn send(&self, message: ToStorage) -> bool {
        self.out.try_send(message).is_ok()
    }
}

impl StorageLink {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connected storage process and its last report.
    pub(crate) fn current(&self) -> (Option<InstanceId>, Option<Report>) {
        let inner = self.lock();
        let session = inner.session.as_ref();
        (session.map(|session| session.instance), session.and_then(|session| session.report.clone()))
    }

    /// Tells `message` to the storage process `instance`, if it is that one that is connected.
    pub(crate) fn tell(&self, instance: InstanceId, message: ToStorage) {
        let mut inner = self.lock();
        let session = inner.session.as_ref().filter(|session| session.instance == instance);
        if session.is_some_and(|session| !session.send(message)) {
            inner.session = None;
        }
    }

    /// Tells the committed state, if it is another than the one told last.
    pub(crate) fn tell_state(&self, state: impl FnOnce() -> Option<CommittedState>) {
        let mut inner = self.lock();
        let Some(session) = inner.session.as_mut() else { return };
        // Made under the lock: a state that was made later is told later.
        let Some(state) = state().filter(|state| session.told.as_ref() != Some(state)) else { return };
        session.told = Some(state.clone());
        if !session.send(ToStorage::State(Box::new(state))) {
            inner.session = None;
        }
    }

    /// Asks for a hand-over. The receiver gets the reason if storage can't do it.
    pub(crate) fn ask_hand_over(
        &self,
        volume: VolumeId,
        to: NodeId,
        instance: InstanceId,
    ) -> Option<oneshot::Receiver<String>> {
        let mut inner = self.lock();
        let (failed, receiver) = oneshot::channel();
        let sent = inner.session.as_ref()?.send(ToStorage::HandOver { volume, to, instance });
        inner.waiting.insert(volume, failed);
        sent.then_some(receiver)
    }

    /// A new connection; answers its number.
    fn open(&self, instance: InstanceId, out: mpsc::Sender<ToStorage>) -> u64 {
        let mut inner = self.lock();
        inner.connections = inner.connections.saturating_add(1);
        let connection = inner.connections;
        inner.session =
            Some(Session { connection, instance, out, told: None, report: None, proposed: BTreeSet::new() });
        connection
    }

    fn close(&self, connection: u64) {
        let mut inner = self.lock();
        if inner.session.as_ref().is_some_and(|session| session.connection == connection) {
            inner.session = None;
            inner.waiting.clear();
        }
    }

    /// Takes a report in; answers whether it changes what this node may be promoted to. `None`: the connection is old.
    fn take_report(&self, connection: u64, report: Report) -> Option<bool> {
        let mut inner = self.lock();
        let session = inner.session.as_mut().filter(|session| session.connection == connection)?;
        let usable = |report: &Report| -> Vec<_> {
            report.volumes.iter().map(|volume| (volume.volume, volume.epoch, volume.usable)).collect()
        };
        let changed = session.report.as_ref().map(usable) != Some(usable(&report));
        session.report = Some(report);
        Some(changed)
    }

    fn hand_over_failed(&self, volume: VolumeId, reason: String) {
        if let Some(waiting) = self.lock().waiting.remove(&volume) {
            let _gone = waiting.send(reason);
        }
    }

    /// Whether the proposal has to be started: it is not under way yet.
    fn begin(&self, connection: u64, key: Key) -> bool {
        let mut inner = self.lock();
        let session = inner.session.as_mut().filter(|session| session.connection == connection);
        session.is_some_and(|session| session.proposed.insert(key))
    }

    /// The proposal is not under way any more; `refused` tells storage why.
    fn end(&self, connection: u64, key: Key, refused: Option<String>) {
        let mut inner = self.lock();
        let Some(session) = inner.session.as_mut().filter(|session| session.connection == connection) else {
            return;
        };
        session.proposed.remove(&key);
        if let Some(reason) = refused
            && !session.send(key.refusal(reason))
        {
            inner.session = None;
        }
    }
}

/// Accepts storage processes for ever.
pub(crate) async fn serve(node: Arc<Node>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let node = node.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection(&node, stream).await {
                        tracing::warn!(error = %error, "storage link ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "storage link: accept");
                tokio::time::sleep(node.timing.renew).await;
            }
        }
    }
}

async fn connection(node: &Arc<Node>, stream: UnixStream) -> anyhow::Result<()> {
    let (reader, writer) = stream.into_split();
    let mut lines = BufReader::new(reader);
    let Some(ToCluster::Hello { instance, pid }) = next(&mut lines).await? else {
        anyhow::bail!("storage said no hello");
    };
    anyhow::ensure!(instance.0 != 0, "storage has instance 0");
    tracing::info!(%instance, pid, "storage connected");
    let (out, queue) = mpsc::channel(QUEUE);
    let connection = node.storage.open(instance, out);
    let writing = tokio::spawn(write(writer, queue));
    node.tell_storage();
    node.heart.wake();
    let result = listen(node, &mut lines, connection).await;
    node.storage.close(connection);
    node.heart.wake();
    writing.abort();
    tracing::info!(%instance, pid, "storage disconnected");
    result
}

async fn listen(
    node: &Arc<Node>,
    lines: &mut BufReader<OwnedReadHalf>,
    connection: u64,
) -> anyhow::Result<()> {
    while let Some(message) = next(lines).await? {
        match message {
            ToCluster::Hello { .. } => anyhow::bail!("storage said hello twice"),
            ToCluster::Propose(proposal) => {
                let key = Key { volume: proposal.volume, number: proposal.id.number, reservations: false };
                propose(node, connection, key, proposal.id, Command::Propose(proposal));
            }
            ToCluster::Reserve(proposal) => {
                let key = Key { volume: proposal.volume, number: proposal.id.number, reservations: true };
                propose(node, connection, key, proposal.id, Command::Reserve(proposal));
            }
            ToCluster::Report(report) => {
                grow::give_up(node, &report);
                match node.storage.take_report(connection, report) {
                    Some(true) => node.heart.wake(),
                    Some(false) => {}
                    None => anyhow::bail!("another storage process took its place"),
                }
            }
            ToCluster::HandOverFailed { volume, reason } => node.storage.hand_over_failed(volume, reason),
        }
    }
    Ok(())
}

async fn next(lines: &mut BufReader<OwnedReadHalf>) -> anyhow::Result<Option<ToCluster>> {
    let mut line = Vec::new();
    let length = lines.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await?;
    if length == 0 {
        return Ok(None);
    }
    anyhow::ensure!(line.ends_with(b"\n"), "a line from storage is cut off or too long");
    Ok(Some(serde_json::from_slice(&line)?))
}

async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<ToStorage>) {
    while let Some(message) = queue.recv().await {
        let Ok(mut line) = serde_json::to_vec(&message) else { return };
        line.push(b'\n');
        if writer.write_all(&line).await.is_err() {
            return;
        }
    }
    // Dropping the writer ends storage's side: it dials anew.
    let _closed = writer.shutdown().await;
}

/// Has the voters decide on what storage proposes. Storage learns the result from the next state, a refusal from us.
fn propose(node: &Arc<Node>, connection: u64, key: Key, id: ProposalId, command: Command) {
    let own = id.proposer == node.me && node.storage.current().0 == Some(id.instance);
    if !own {
        node.storage.end(connection, key, Some("not this storage process's own proposal".into()));
        return;
    }
    if !node.storage.begin(connection, key) {
        return;
    }
    let node = node.clone();
    tokio::spawn(async move {
        let expected = match &command {
            Command::Propose(proposal) => Some(proposal.expected),
            _ => None,
        };
        let decided = proposals::propose(&node, command, node.patience()).await;
        let refused = match decided {
            Ok(Outcome::Refused(refusal)) => Some(refusal.message),
            // S21: refused earlier, and the answer was lost. If a later epoch was made, the state tells.
            Ok(Outcome::Repeated { made: None }) => {
                let epoch = node.log.applied().state.config(key.volume).map(|config| config.epoch);
                (epoch.is_some() && epoch == expected).then(|| "this proposal was refused before".to_owned())
            }
            Ok(Outcome::Applied { .. } | Outcome::Stale { .. } | Outcome::Repeated { made: Some(_) }) => None,
            // In doubt: storage asks again with the same number.
            Err(_) => None,
        };
        node.tell_storage();
        node.storage.end(connection, key, refused);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each volume's replica counts its proposals from 1: losing a peer makes all of them propose under the same number.
    #[test]
    fn proposals_of_two_volumes_under_one_number_are_two() {
        let link = StorageLink::default();
        let (out, mut told) = mpsc::channel(QUEUE);
        let connection = link.open(InstanceId(5), out);
        let key = |volume, reservations| Key { volume: VolumeId(volume), number: 7, reservations };
        let (one, other, reservations) = (key(1, false), key(2, false), key(1, true));
        assert!(link.begin(connection, one) && link.begin(connection, other));
        assert!(link.begin(connection, reservations));
        assert!(!link.begin(connection, one), "repeated while it is under way");
        link.end(connection, one, Some("no".into()));
        let refused = ToStorage::Refused { volume: VolumeId(1), number: 7, reason: "no".into() };
        assert_eq!(told.try_recv().ok(), Some(refused));
        assert!(link.begin(connection, one) && !link.begin(connection, other));
        link.end(connection, reservations, Some("no".into()));
        let refused = ToStorage::ReservationRefused { volume: VolumeId(1), number: 7, reason: "no".into() };
        assert_eq!(told.try_recv().ok(), Some(refused));
    }
}
