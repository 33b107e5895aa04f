//! Outgoing connections: one per peer, dialled when needed, with many requests under way at once.
//!
//! Invariants
//! - A request is sent at most once: after a break its caller hears of it, and decides.
//! - Who is dialled, where, and with which certificate is set by [`Peers::update`] alone; a peer that is not in there
//!   any more is neither dialled nor let in.

use crate::clock;
use crate::messages::{MAX_FRAME_BYTES, Request, RequestFrame, Response, ResponseFrame};
use base::{NodeId, Repeats};
use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use transport::framing::{read_frame, write_frame};
use transport::{Endpoint, Pin, TlsStream};

/// Requests that may wait for a connection.
const QUEUE: usize = 64;

/// How a peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contact {
    pub(crate) address: SocketAddr,
    pub(crate) pin: Pin,
}

/// Why there is no answer. Whether the peer acted on the request is not known, unless it was not sent.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("node {0} is not known")]
    Unknown(NodeId),
    #[error("node {0} is not reached: {1}")]
    Unreachable(NodeId, String),
    #[error("the connection with node {0} broke")]
    Broken(NodeId),
    #[error("node {0} did not answer in time")]
    TimedOut(NodeId),
    #[error("node {0} answers something else than was asked")]
    Protocol(NodeId),
}

type Reply = oneshot::Sender<Result<Response, CallError>>;

struct Call {
    request: Request,
    reply: Reply,
}

struct Link {
    contact: Contact,
    calls: mpsc::Sender<Call>,
    task: JoinHandle<()>,
    /// It does not accept this node's certificate: the last that was heard of it.
    refused: Arc<AtomicBool>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Every peer of this node.
pub(crate) struct Peers {
    endpoint: Endpoint,
    back_off: Duration,
    links: Mutex<BTreeMap<NodeId, Link>>,
}

impl Peers {
    /// No peers yet. After a failed dial nothing is dialled for `back_off`.
    pub(crate) fn new(endpoint: Endpoint, back_off: Duration) -> Self {
        Self { endpoint, back_off, links: Mutex::default() }
    }

    /// These are the peers now: let in, and reached, thus.
    pub(crate) fn update(&self, contacts: &BTreeMap<NodeId, Contact>) {
        self.endpoint.set_peers(contacts.iter().map(|(node, contact)| (contact.pin, *node)).collect());
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|node, link| contacts.get(node) == Some(&link.contact));
        for (node, contact) in contacts {
            links.entry(*node).or_insert_with(|| self.link(*node, *contact));
        }
    }

    /// Whether `node` is a peer at present.
    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&node)
    }

    /// How `node` is reached, if it is a peer at present.
    pub(crate) fn contact(&self, node: NodeId) -> Option<Contact> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(&node).map(|link| link.contact)
    }

    /// Peers that do not accept this node's certificate. They have proved to be these very peers.
    pub(crate) fn refusing(&self) -> Vec<NodeId> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().filter(|(_, link)| link.refused.load(Ordering::Relaxed)).map(|(node, _)| *node).collect()
    }

    fn link(&self, node: NodeId, contact: Contact) -> Link {
        let (calls, queue) = mpsc::channel(QUEUE);
        let refused = Arc::new(AtomicBool::new(false));
        let dialler = Dialler {
            node,
            contact,
            endpoint: self.endpoint.clone(),
            back_off: self.back_off,
            failures: Repeats::default(),
            refused: refused.clone(),
        };
        Link { contact, calls, task: tokio::spawn(dialler.run(queue)), refused }
    }

    /// Asks `to`, and waits for the answer at most `time_out`.
    pub(crate) async fn call(
        &self,
        to: NodeId,
        request: Request,
        time_out: Duration,
    ) -> Result<Response, CallError> {
        let calls = {
            let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.get(&to).map(|link| link.calls.clone()).ok_or(CallError::Unknown(to))?
        };
        let (reply, answer) = oneshot::channel();
        calls
            .try_send(Call { request, reply })
            .map_err(|_| CallError::Unreachable(to, "too many requests wait".into()))?;
        match timeout(time_out, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallError::Broken(to)),
            Err(_) => Err(CallError::TimedOut(to)),
        }
    }
}

/// Dials one peer again and again.
struct Dialler {
    node: NodeId,
    contact: Contact,
    endpoint: Endpoint,
    back_off: Duration,
    failures: Repeats<NodeId>,
    refused: Arc<AtomicBool>,
}

/// Why a session ended.
struct Ended {
    text: String,
    /// The peer does not accept this node's certificate (`transport::tls`, TLS 1.3).
    refused: bool,
}

impl From<String> for Ended {
    fn from(text: String) -> Self {
        Self { text, refused: false }
    }
}

impl Dialler {
    async fn run(mut self, mut queue: mpsc::Receiver<Call>) {
        while let Some(call) = queue.recv().await {
            match self.endpoint.connect(self.contact.address, self.contact.pin).await {
                Ok(stream) => {
                    if let Err(ended) = self.session(stream, call, &mut queue).await {
                        if ended.refused {
                            self.refused.store(true, Ordering::Relaxed);
                        }
                        self.log(&ended.text);
                        self.refuse_all(&mut queue, &ended.text).await;
                    }
                }
                Err(error) => {
                    let error = chain(&error);
                    self.log(&error);
                    let _gone = call.reply.send(Err(CallError::Unreachable(self.node, error.clone())));
                    self.refuse_all(&mut queue, &error).await;
                }
            }
        }
    }

    /// For the time of the back-off, requests fail at once.
    async fn refuse_all(&self, queue: &mut mpsc::Receiver<Call>, error: &str) {
        let end = tokio::time::Instant::now() + self.back_off;
        while let Ok(Some(call)) = tokio::time::timeout_at(end, queue.recv()).await {
            let _gone = call.reply.send(Err(CallError::Unreachable(self.node, error.into())));
        }
    }

    /// Sends requests and hands out answers until the connection breaks or nobody can ask any more.
    async fn session(
        &mut self,
        stream: TlsStream,
        first: Call,
        queue: &mut mpsc::Receiver<Call>,
    ) -> Result<(), Ended> {
        let node = self.node;
        let (reader, mut writer) = tokio::io::split(stream);
        let (frames, mut answers) = mpsc::channel(QUEUE);
        // Reading a frame can't be cancelled halfway, so it has a task of its own.
        let reading = AbortOnDrop(tokio::spawn(read_answers(reader, self.contact.address, frames)));
        let mut pending = BTreeMap::new();
        let mut number = 0_u64;
        let mut next = Some(first);
        loop {
            if let Some(call) = next.take() {
                number = number.wrapping_add(1);
                let Call { request, reply } = call;
                if let Err(error) = send(&mut writer, number, request).await {
                    let _gone = reply.send(Err(CallError::Broken(node)));
                    return Err(error.into());
                }
                pending.insert(number, reply);
                // Callers that gave up need no answer any more.
                pending.retain(|_, reply: &mut Reply| !reply.is_closed());
            }
            tokio::select! {
                call = queue.recv() => match call {
                    Some(call) => next = Some(call),
                    None => return Ok(()),
                },
                answer = answers.recv() => match answer {
                    Some(Ok(frame)) => {
                        let frame: ResponseFrame = frame;
                        self.refused.store(false, Ordering::Relaxed);
                        self.failures.ended(&node, clock::now().boot);
                        if let Some(reply) = pending.remove(&frame.number) {
                            let _gone = reply.send(Ok(frame.response));
                        }
                    }
                    Some(Err(error)) => return Err(error),
                    None => {
                        drop(reading);
                        return Err("the peer closed the connection".to_owned().into());
                    }
                },
            }
        }
    }

    fn log(&mut self, error: &str) {
        if let Some(unsaid) = self.failures.ask(&self.node, error, clock::now().boot) {
            let address = self.contact.address;
            tracing::warn!(node = %self.node, %address, error, unsaid, "peer not reached");
        }
    }
}

/// An error with its sources, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send(writer: &mut WriteHalf<TlsStream>, number: u64, request: Request) -> Result<(), String> {
    let bytes = serde_json::to_vec(&RequestFrame { number, request }).map_err(|error| error.to_string())?;
    write_frame(writer, &bytes).await.map_err(|error| error.to_string())
}

async fn read_answers(
    mut reader: ReadHalf<TlsStream>,
    peer: SocketAddr,
    frames: mpsc::Sender<Result<ResponseFrame, Ended>>,
) {
    loop {
        let frame = match read_frame(&mut reader, MAX_FRAME_BYTES).await {
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).map_err(|error| error.to_string().into()),
            Ok(None) => return,
            Err(error) => {
                let text = error.to_string();
                Err(Ended { text, refused: transport::tls::is_refusal(peer, error) })
            }
        };
        let last = frame.is_err();
        if frames.send(frame).await.is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_frame_reads_back() {
        let request = Request::Propose(cluster::Command::DeleteVolume { name: "v".into() });
        let bytes = serde_json::to_vec(&RequestFrame { number: 7, request }).unwrap();
        let frame: RequestFrame = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(frame.number, 7);
        assert!(matches!(frame.request, Request::Propose(cluster::Command::DeleteVolume { .. })));
    }
}
