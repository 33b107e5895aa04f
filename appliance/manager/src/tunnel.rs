//! What the web processes of two members say to each other: bytes between unix sockets, over the pinned TLS of the cluster
//! port. docs/wire.md, "Consoles".
//!
//! Invariants
//! - Keys stay here: the web process, which strangers talk to, has none, and reaches members by their names alone.
//! - Each way in has a connection of its own: what flows here holds up no sign of life.

use crate::node::Node;
use crate::peers::chain;
use base::{NodeId, Versions, next};
use control::paths;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
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
    let (answer, stream) = match dialled {
        Ok(stream) => ("ok".to_owned(), Some(stream)),
        Err(reason) => (reason, None),
    };
    if local.write_all(format!("{answer}\n").as_bytes()).await.is_ok()
        && let Some(mut stream) = stream
    {
        // Either end may go at any time: the other one sees its stream end.
        let _gone = copy_bidirectional(&mut local, &mut stream).await;
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

async fn dial(node: &Node, name: &str) -> Result<TlsStream, String> {
    let member = node.log.applied().state.member_named(name).map(|member| member.node);
    let contact = member.and_then(|member| node.peers.contact(member));
    let contact = contact.ok_or_else(|| format!("{name:?} is no other member of this cluster"))?;
    let endpoint = node.endpoint.speaking(Protocol::Console, VERSIONS, PATIENCE);
    endpoint.connect(contact.address, contact.pin).await.map_err(|error| chain(&error))
}

/// Puts a member through to this node's web process.
pub(crate) async fn accept(node: &Node, mut stream: TlsStream, peer: NodeId) {
    if !node.peers.contains(peer) {
        return;
    }
    match UnixStream::connect(node.dir.join(paths::PEER_SOCKET)).await {
        Ok(mut local) => {
            // As above.
            let _gone = copy_bidirectional(&mut stream, &mut local).await;
        }
        // A node may have no console. Its peer sees the connection end.
        Err(error) => tracing::debug!(node = %peer, %error, "no console to put a peer through to"),
    }
}
