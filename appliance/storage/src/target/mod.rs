//! The iSCSI service: sockets, sessions and targets around the pure machines of `iscsi` and `scsi`.
//!
//! Flow: a connection's task (`link`) moves bytes between its socket and its machine; commands go through `driver` to
//! the target's device server; what that asks of the medium becomes requests to the [`BlockBackend`] (`running`);
//! [`Service::complete`] queues the answers to the connection, which handles all that have gathered in one turn.
//!
//! Invariants
//! - One thread owns everything; no borrow is held across a call to the backend.
//! - After [`Service::stop`] returned, the portal is closed and no byte more is sent to any initiator (S5): sockets are
//!   reset, not closed, so that what the kernel has queued is dropped too.
//! - A request is answered once; a connection's record lives until the last of its requests was answered, so that
//!   task management in other sessions learns of it (S16).
//! - A session's end releases its SCSI-2 reservations and keeps its registrations (S15).

mod backend;
mod driver;
mod link;
mod running;

pub use backend::{
    BackendOp, BackendRequest, BlockBackend, Decision, MAX_REQUEST_BYTES, Reply, RequestId, Update,
};

use crate::clock;
use base::{Repeats, Reservations, VolumeId};
use control::names::Pattern;
use control::targets::Access;
use disk::BufferPool;
use driver::TargetEntry;
use link::{Event, Link};
use running::{Running, Slab};
use scsi::UnitConfig;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use transport::door::gives_way;

/// How often connections look at the time.
const TICK: Duration = Duration::from_millis(500);
/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 1024;
/// Pause after a failed accept (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// One read takes at most so many bytes beside a command's own buffer.
const SCRATCH_BYTES: usize = 64 << 10;

/// What the service may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of each connection.
    pub connection: iscsi::Limits,
    /// Data buffers in use, bytes, beyond which each connection gets on with one command at a time.
    pub memory_bytes: u64,
    /// Connections in all; once so many are logged in, more are closed at once.
    pub connections: usize,
    /// Connections that have not finished their login; a new one makes another give way ([`transport::door`]).
    pub half_open: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connection: iscsi::Limits::default(),
            memory_bytes: 160 << 20,
            connections: 512,
            half_open: 64,
        }
    }
}

/// One target as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetConfig {
    /// iSCSI name.
    pub iqn: String,
    /// LUN → what it shows.
    pub luns: BTreeMap<u16, Lun>,
    /// Who may log in, and what they must know.
    pub access: Access,
}

/// One LUN as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lun {
    /// The unit behind it.
    pub unit: UnitConfig,
    /// Who sees it of those who may log in; empty: all of them.
    pub initiators: Vec<Pattern>,
}

impl From<UnitConfig> for Lun {
    /// Shown to all who may log in.
    fn from(unit: UnitConfig) -> Self {
        Self { unit, initiators: Vec::new() }
    }
}

/// A session that is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// iSCSI name of the initiator.
    pub initiator: String,
    /// iSCSI name of the target; empty in a discovery session.
    pub target: String,
    /// Where it comes from.
    pub address: SocketAddr,
}

/// Who waits for aborted tasks to settle.
#[derive(Clone, Copy)]
enum Settle {
    /// A task management request of a connection.
    Management { link: u64, id: u32 },
    /// A command: the token of its entry.
    Command(u64),
}

/// Everything, shared by the connections.
struct Inner {
    limits: Limits,
    buffers: BufferPool,
    backend: Rc<dyn BlockBackend>,
    targets: RefCell<BTreeMap<String, Rc<TargetEntry>>>,
    links: RefCell<BTreeMap<u64, Rc<Link>>>,
    running: RefCell<Slab>,
    settles: RefCell<BTreeMap<u64, (Settle, usize)>>,
    listener: RefCell<Option<(SocketAddr, TcpListener)>>,
    /// Connections that come wait in the kernel: a controlled move is under way.
    moving: Cell<bool>,
    accept_waker: RefCell<Option<Waker>>,
    scratch: RefCell<Vec<u8>>,
    /// The connection that was answered last.
    answered: RefCell<Weak<Link>>,
    /// Logins that were refused, for the log.
    refused: RefCell<Repeats<IpAddr>>,
    counter: Cell<u64>,
    tsih: Cell<u16>,
}

/// The service. Clones share it.
#[derive(Clone)]
pub struct Service {
    inner: Rc<Inner>,
}

impl Service {
    /// A service that listens nowhere and has no targets. Must be called within a `LocalSet`.
    #[must_use]
    pub fn new(limits: Limits, buffers: BufferPool, backend: Rc<dyn BlockBackend>) -> Self {
        let inner = Rc::new(Inner {
            limits,
            buffers,
            backend,
            targets: RefCell::default(),
            links: RefCell::default(),
            running: RefCell::default(),
            settles: RefCell::default(),
            listener: RefCell::new(None),
            moving: Cell::new(false),
            accept_waker: RefCell::new(None),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES]),
            answered: RefCell::default(),
            refused: RefCell::default(),
            counter: Cell::new(0),
            tsih: Cell::new(0),
        });
        tokio::task::spawn_local(tick(Rc::downgrade(&inner)));
        Self { inner }
    }

    /// Sets the targets: new ones appear, missing ones end their sessions, changed LUNs tell their initiators by unit
    /// attentions, and sessions of initiators that may not log in any more end.
    pub fn set_targets(&self, targets: &[TargetConfig]) {
        let mut entries = self.inner.targets.borrow_mut();
        let gone: Vec<String> = entries
            .keys()
            .filter(|name| !targets.iter().any(|target| target.iqn == **name))
            .cloned()
            .collect();
        for name in &gone {
            entries.remove(name);
        }
        for target in targets {
            match entries.get(&target.iqn) {
                Some(entry) => entry.update(target),
                None => drop(entries.insert(target.iqn.clone(), Rc::new(TargetEntry::new(target)))),
            }
        }
        drop(entries);
        self.inner.stop_commands(|command| command.has_lost_its_unit());
        for link in self.inner.links() {
            if gone.contains(&link.target_name()) || self.is_shut_out(&link) {
                link.end();
            }
        }
    }

    /// Whether `link` is a session that could not be opened any more.
    fn is_shut_out(&self, link: &Link) -> bool {
        let Some(session) = link.info() else { return false };
        let targets = self.inner.targets.borrow();
        let Some(entry) = targets.get(&session.target) else { return false };
        let shut_out = entry.may_log_in(&session.initiator).is_err();
        if shut_out {
            tracing::info!(initiator = session.initiator, target = session.target, "may not log in any more");
        }
        shut_out
    }

    /// Whether a volume is served here; if not, commands that need the medium answer "not ready, retry".
    pub fn set_served(&self, volume: VolumeId, served: bool) {
        for entry in self.inner.targets.borrow().values() {
            entry.set_served(volume, served);
        }
    }

    /// The persistent reservations of a volume as the cluster has committed them (S15): after [`Service::set_targets`],
    /// before the volume is served, and before the reply to a request that changed them.
    pub fn set_reservations(&self, volume: VolumeId, reservations: &Reservations) {
        for entry in self.inner.targets.borrow().values() {
            entry.set_reservations(volume, reservations);
        }
    }

    /// Opens the portal. No effect if it is open there already; closed elsewhere first.
    ///
    /// # Errors
    /// The address can't be bound: not on this machine, in use, not permitted.
    pub fn start(&self, address: SocketAddr) -> io::Result<()> {
        if self.inner.listener.borrow().as_ref().is_some_and(|(open, _)| *open == address) {
            return Ok(());
        }
        self.stop();
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        tracing::info!(%address, "portal open");
        *self.inner.listener.borrow_mut() = Some((address, listener));
        tokio::task::spawn_local(accept(Rc::downgrade(&self.inner)));
        Ok(())
    }

    /// Closes the portal and resets every connection, at once. What is unanswered stays so (S5).
    pub fn stop(&self) {
        if let Some((address, listener)) = self.inner.listener.borrow_mut().take() {
            drop(listener);
            tracing::info!(%address, "portal closed");
        }
        self.set_moving(false);
        for link in self.inner.links() {
            link.end();
        }
    }

    /// Where the portal is open; with port 0 asked for, the port that was given.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.inner.listener.borrow().as_ref().and_then(|(_, listener)| listener.local_addr().ok())
    }

    /// Asks every initiator to log out within `seconds`, before a controlled move. Who comes from now on waits in the
    /// kernel: a login would only last until the move.
    pub fn request_logout(&self, seconds: u16) {
        self.set_moving(true);
        for link in self.inner.links() {
            link.push(Event::RequestLogout(seconds));
        }
    }

    /// The move did not come to pass: connections are accepted again.
    pub fn resume(&self) {
        self.set_moving(false);
    }

    fn set_moving(&self, moving: bool) {
        self.inner.moving.set(moving);
        if let Some(waker) = self.inner.accept_waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Initiators were asked to log out, and nobody else gets in.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.inner.moving.get()
    }

    /// Nobody is logged in.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.inner.links().iter().any(|link| link.nexus().is_some())
    }

    /// The backend's answer to a request. Unknown ids are ignored.
    pub fn complete(&self, id: RequestId, reply: Reply) {
        let link = self.inner.running.borrow_mut().get_mut(id.0).map(|running| Rc::clone(&running.link));
        if let Some(link) = link {
            *self.inner.answered.borrow_mut() = Rc::downgrade(&link);
            link.push(Event::Reply(id, reply));
        }
    }

    /// Lets the connection that was answered last look at its socket at once, whatever the runtime knows of it.
    pub fn listen(&self) {
        if let Some(link) = self.inner.answered.borrow().upgrade() {
            link.listen();
        }
    }

    /// Sessions that are logged in.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.inner.links().iter().filter_map(|link| link.info()).collect()
    }
}

impl Inner {
    /// The connections there are now.
    fn links(&self) -> Vec<Rc<Link>> {
        self.links.borrow().values().cloned().collect()
    }

    fn next_number(&self) -> u64 {
        let number = self.counter.get().wrapping_add(1);
        self.counter.set(number);
        number
    }

    /// A session handle that no session has.
    fn next_tsih(&self) -> u16 {
        let taken: Vec<u16> = self.links().iter().map(|link| link.tsih()).collect();
        let mut tsih = self.tsih.get();
        loop {
            tsih = tsih.wrapping_add(1).max(1);
            if !taken.contains(&tsih) {
                self.tsih.set(tsih);
                return tsih;
            }
        }
    }

    /// Commands that satisfy `wanted` are to end soon; nothing more is submitted for them. Answers their tokens.
    fn stop_commands(&self, wanted: impl Fn(&Running) -> bool) -> Vec<u64> {
        let mut running = self.running.borrow_mut();
        let tokens: Vec<u64> = running.tokens(wanted).collect();
        let mut requests: Vec<RequestId> = Vec::new();
        for &token in &tokens {
            if let Some(command) = running.get_mut(token) {
                command.stop();
            }
            requests.extend(running.out_requests(token));
        }
        drop(running);
        requests.into_iter().for_each(|request| self.backend.abort(request));
        tokens
    }

    /// Tasks that someone waits for were aborted; `left` have to settle yet.
    fn wait(&self, token: u64, settle: Settle, left: usize) {
        if left > 0 {
            self.settles.borrow_mut().insert(token, (settle, left));
        }
    }

    /// One of them has settled.
    fn settled(&self, token: u64) {
        let mut settles = self.settles.borrow_mut();
        let Some((settle, left)) = settles.get_mut(&token) else { return };
        let settle = *settle;
        *left = left.saturating_sub(1);
        if *left == 0 {
            settles.remove(&token);
        }
        drop(settles);
        match settle {
            Settle::Management { link, id } => {
                let link = self.links.borrow().get(&link).cloned();
                if let Some(link) = link {
                    link.push(Event::Settled(id));
                }
            }
            Settle::Command(token) => {
                let link = self.running.borrow_mut().get_mut(token).map(|running| Rc::clone(&running.link));
                if let Some(link) = link {
                    link.push(Event::CommandSettled(token));
                }
            }
        }
    }

    /// Makes room for a connection from `address`, which has not logged in yet; false: there are too many in all.
    fn make_room(&self, address: IpAddr) -> bool {
        let links: Vec<_> = self.links().into_iter().filter(|link| link.is_connected()).collect();
        let half_open: Vec<_> = links.iter().filter(|link| !link.is_full_feature()).collect();
        if links.len().saturating_sub(half_open.len()) >= self.limits.connections {
            return false;
        }
        let full = half_open.len() >= self.limits.half_open || links.len() >= self.limits.connections;
        if full {
            let waiting = half_open.iter().map(|link| (Some(*link), link.address().ip()));
            if let Some(Some(link)) = gives_way(waiting.chain([(None, address)])) {
                link.end();
            }
        }
        true
    }
}

/// Accepts connections until the portal closes.
async fn accept(inner: Weak<Inner>) {
    loop {
        let accepted = poll_fn(|context| {
            let Some(inner) = inner.upgrade() else { return Poll::Ready(None) };
            *inner.accept_waker.borrow_mut() = Some(context.waker().clone());
            match &*inner.listener.borrow() {
                None => Poll::Ready(None),
                Some(_) if inner.moving.get() => Poll::Pending,
                Some((_, listener)) => listener.poll_accept(context).map(Some),
            }
        });
        match accepted.await {
            None => return,
            Some(Ok((stream, address))) => {
                if let Some(inner) = inner.upgrade() {
                    admit(&inner, stream, address);
                }
            }
            Some(Err(error)) => {
                tracing::warn!("accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(inner: &Rc<Inner>, stream: TcpStream, address: SocketAddr) {
    if !inner.make_room(address.ip()) {
        tracing::warn!(%address, "too many connections: closed");
        return;
    }
    let (Ok(portal), Ok(())) = (stream.local_addr(), stream.set_nodelay(true)) else { return };
    let id = inner.next_number();
    let link = Link::new(id, address, portal, stream, Rc::clone(inner));
    inner.links.borrow_mut().insert(id, Rc::clone(&link));
    let inner = Rc::downgrade(inner);
    tokio::task::spawn_local(async move {
        link.run().await;
        if let Some(inner) = inner.upgrade() {
            inner.links.borrow_mut().remove(&id);
        }
    });
}

/// Tells connections the time, as long as the service lives.
async fn tick(inner: Weak<Inner>) {
    let mut interval = tokio::time::interval(TICK);
    loop {
        interval.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let now = clock::now();
        for link in inner.links() {
            link.tick(now);
        }
    }
}
