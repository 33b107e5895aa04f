//! The storage process's end of the storage link (control::link): dials the cluster manager, says hello, turns
//! lines into inputs and messages into lines, and dials again for ever. While the link is down storage serves on
//! until its leases end (S5); nothing here decides anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base::InstanceId;
use control::link::{ToCluster, ToStorage};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// What the link tells the engine.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A connection stands and hello was said; everything in doubt is to be sent again.
    Up,
    /// The connection broke.
    Down,
    /// A message.
    Message(Box<ToStorage>),
}

/// Pause between two attempts to dial.
const REDIAL: Duration = Duration::from_millis(100);

/// Runs the link for ever: events go to `event`, messages come from `outgoing`.
pub(crate) async fn run(
    socket: PathBuf,
    instance: InstanceId,
    mut outgoing: mpsc::UnboundedReceiver<ToCluster>,
    event: impl Fn(LinkEvent),
) {
    loop {
        match UnixStream::connect(&socket).await {
            Ok(stream) => {
                // What was queued for the old connection is out of date: the engine sends its state anew on `Up`.
                while outgoing.try_recv().is_ok() {}
                if let Err(error) = converse(stream, instance, &mut outgoing, &event).await {
                    tracing::warn!(%error, "storage link lost");
                }
                event(LinkEvent::Down);
            }
            Err(error) => {
                tracing::debug!(%error, socket = %socket.display(), "cluster manager not there yet");
                while outgoing.try_recv().is_ok() {}
            }
        }
        tokio::time::sleep(REDIAL).await;
    }
}

async fn converse(
    stream: UnixStream,
    instance: InstanceId,
    outgoing: &mut mpsc::UnboundedReceiver<ToCluster>,
    event: &impl Fn(LinkEvent),
) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    send(&mut writer, &ToCluster::Hello { instance, pid: std::process::id() }).await?;
    event(LinkEvent::Up);
    let mut lines = BufReader::new(reader).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => event(LinkEvent::Message(Box::new(serde_json::from_str(&line)?))),
                None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            },
            message = outgoing.recv() => match message {
                Some(message) => send(&mut writer, &message).await?,
                None => return Ok(()),
            },
        }
    }
}

async fn send(writer: &mut tokio::net::unix::OwnedWriteHalf, message: &ToCluster) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

/// The socket below a node's directory.
pub(crate) fn socket(dir: &Path) -> PathBuf {
    dir.join(control::paths::LINK_SOCKET)
}
