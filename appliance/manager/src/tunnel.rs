//! What the web processes of two members say to each other: bytes between unix sockets, over the pinned TLS of the cluster
//! port. docs/wire.md, "Consoles".
//!
//! Invariants
//! - Keys stay here: the web process, which strangers talk to, has none, and reaches members by their names alone.
//! - A connection ends when the node at its other end is no member any more: who was only paired is none yet.
//! - Each way in has a connection of its own: what flows here holds up no sign of life.

use crate::node::Node;
use crate::peers::chain;
use crate::raft::log_view::Applied;
use base::{NodeId, Versions, next};
use control::paths;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use transport::{Protocol, TlsStream};

/// The version of what goes through: `futago-console/1`.
const CONSOLE_VERSION: u16 = 1;
/// Those that this build speaks.
pub(crate) const VERSIONS: Versions = Versions { oldest: CONSOLE_VERSION, newest: next(CONSOLE_VERSION) };
/// Time to be put through, and for sent bytes to be confirmed: a node that writes an update down may be slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest name with its end of line.
const MOST_NAME_BYTES: u64 = 64;

/// Puts this node's web process through to other members, for ever.
pub(crate) async fn serve(node: Arc<Node>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let node = node.clone();
                tokio::spawn(async move { put_through(&node, stream).await });
            }
            Err(error) => {
                tracing::warn!(%error, "tunnel socket: accept");
                tokio::time::sleep(node.timing.renew).await;
            }
        }
    }
}

async fn put_through(node: &Node, mut local: UnixStream) {
    let dialled = match timeout(PATIENCE, read_name(&mut local)).await {
        Ok(Ok(name)) => dial(node, &name).await,
        // It has gone, or says nothing.
        Ok(Err(_)) | Err(_) => return,
    };
    let (answer, reached) = match dialled {
        Ok(reached) => ("ok".to_owned(), Some(reached)),
        Err(reason) => (reason, None),
    };
    if local.write_all(format!("{answer}\n").as_bytes()).await.is_ok()
        && let Some((member, stream)) = reached
    {
        pass_on(node, member, local, stream).await;
    }
}

fn is_member(applied: &Applied, node: NodeId) -> bool {
    applied.state.members.contains_key(&node)
}

/// Until either end goes, at any time, or `peer` is no member any more: the other end sees its stream end.
async fn pass_on(
    node: &Node,
    peer: NodeId,
    mut one: impl AsyncRead + AsyncWrite + Unpin,
    mut other: impl AsyncRead + AsyncWrite + Unpin,
) {
    let mut applied = node.log.watch();
    tokio::select! {
        _gone = copy_bidirectional(&mut one, &mut other) => {}
        _ = applied.wait_for(|applied| !is_member(applied, peer)) => {
            tracing::info!(node = %peer, "no member any more: what its console had open ends");
        }
    }
}

/// A line, read byte by byte: what follows is not for this node.
async fn read_name(local: &mut UnixStream) -> std::io::Result<String> {
    let mut name = String::new();
    for _ in 0..MOST_NAME_BYTES {
        match local.read_u8().await? {
            b'\n' => break,
            byte => name.push(char::from(byte)),
        }
    }
    Ok(name)
}

async fn dial(node: &Node, name: &str) -> Result<(NodeId, TlsStream), String> {
    let member = node.log.applied().state.member_named(name).map(|member| member.node);
    let reached = member.and_then(|member| Some((member, node.peers.contact(member)?)));
    let (member, contact) = reached.ok_or_else(|| format!("{name:?} is no other member of this cluster"))?;
    let endpoint = node.endpoint.speaking(Protocol::Console, VERSIONS, PATIENCE);
    let stream = endpoint.connect(contact.address, contact.pin).await.map_err(|error| chain(&error))?;
    Ok((member, stream))
}

/// Puts a member through to this node's web process.
pub(crate) async fn accept(node: &Node, stream: TlsStream, peer: NodeId) {
    if !is_member(&node.log.applied(), peer) {
        return;
    }
    match UnixStream::connect(node.dir.join(paths::PEER_SOCKET)).await {
        Ok(local) => pass_on(node, peer, stream, local).await,
        // A node may have no console. Its peer sees the connection end.
        Err(error) => tracing::debug!(node = %peer, %error, "no console to put a peer through to"),
    }
}
