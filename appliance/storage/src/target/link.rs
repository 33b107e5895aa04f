//! One connection: its socket, its machine, and the task that moves bytes between them.
//!
//! Invariants
//! - One system call reads a batch of PDUs, or fills a command's buffer and reads on behind it; one sends all responses
//!   that have gathered.
//! - The task ends when the socket is closed and the backend holds nothing of the connection any more.

use super::backend::{Reply, RequestId};
use super::driver::{Driver, TargetEntry};
use super::{Inner, SessionInfo};
use base::Monotonic;
use iscsi::login::Identity;
use iscsi::{CloseReason, Connection, Scope};
use scsi::NexusId;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Turns of one poll; then other tasks have their turn.
const TURNS: usize = 16;
/// Slices of one send.
const SLICES: usize = 64;
/// Windows smaller than this are filled by a copy: one more slice in the read costs more.
const DIRECT_BYTES: usize = 2048;

/// What reaches a connection from elsewhere.
pub(super) enum Event {
    /// A request of it was answered.
    Reply(RequestId, Reply),
    /// A task of another session, which a task management request waits for, has settled.
    Settled(u32),
    /// As before, for a command.
    CommandSettled(u64),
    /// Ask for a logout.
    RequestLogout(u16),
    /// Tasks were aborted for another session: there is room for others.
    Room,
}

struct Core {
    machine: Connection<Driver>,
    driver: Driver,
    /// Bytes that were received and not taken yet.
    leftover: Vec<u8>,
}

/// A connection.
pub(super) struct Link {
    pub(super) id: u64,
    address: SocketAddr,
    inner: Rc<Inner>,
    stream: RefCell<Option<TcpStream>>,
    core: RefCell<Core>,
    events: RefCell<VecDeque<Event>>,
    waker: RefCell<Option<Waker>>,
    /// The next turn asks the socket, not the runtime, whether something came.
    listening: Cell<bool>,
}

/// How far a direction got.
#[derive(PartialEq, Eq)]
enum Progress {
    Some,
    None,
    Closed,
}

impl Link {
    pub(super) fn new(
        id: u64,
        address: SocketAddr,
        portal: SocketAddr,
        stream: TcpStream,
        inner: Rc<Inner>,
    ) -> Rc<Self> {
        let limits = inner.limits.connection.clone();
        Rc::new_cyclic(|weak| Self {
            id,
            address,
            stream: RefCell::new(Some(stream)),
            core: RefCell::new(Core {
                machine: Connection::new(limits, portal.to_string(), crate::clock::now()),
                driver: Driver::new(Rc::clone(&inner), id, weak.clone()),
                leftover: Vec::new(),
            }),
            events: RefCell::default(),
            waker: RefCell::new(None),
            listening: Cell::new(false),
            inner,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its socket is open.
    pub(super) fn is_connected(&self) -> bool {
        self.stream.borrow().is_some()
    }

    pub(super) fn is_full_feature(&self) -> bool {
        self.core.borrow().machine.is_full_feature()
    }

    /// Whether it is a session of `target`.
    pub(super) fn is_at(&self, target: &TargetEntry) -> bool {
        self.target_name() == target.name
    }

    pub(super) fn target_name(&self) -> String {
        self.core.borrow().machine.identity().target.clone()
    }

    pub(super) fn tsih(&self) -> u16 {
        self.core.try_borrow().map_or(0, |core| core.machine.identity().tsih)
    }

    pub(super) fn cid(&self) -> u16 {
        self.core.borrow().machine.identity().cid
    }

    pub(super) fn nexus(&self) -> Option<NexusId> {
        self.core.borrow().driver.nexus()
    }

    /// Whether it is a live session of the same initiator port with the same target.
    pub(super) fn is_session(&self, identity: &Identity) -> bool {
        let core = self.core.borrow();
        let own = core.machine.identity();
        core.driver.nexus().is_some()
            && own.initiator == identity.initiator
            && own.isid == identity.isid
            && own.target == identity.target
    }

    pub(super) fn info(&self) -> Option<SessionInfo> {
        let core = self.core.borrow();
        core.driver.nexus()?;
        let identity = core.machine.identity();
        Some(SessionInfo {
            initiator: identity.initiator.clone(),
            target: identity.target.clone(),
            address: self.address,
        })
    }

    pub(super) fn has_tasks(&self, scope: Scope) -> bool {
        self.core.borrow().machine.has_tasks(scope)
    }

    /// Aborts tasks for another session.
    pub(super) fn abort(&self, scope: Scope, token: u64) -> usize {
        let core = &mut *self.core.borrow_mut();
        let left = core.machine.abort(scope, token, &mut core.driver);
        self.push(Event::Room);
        left
    }

    pub(super) fn push(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
        self.wake();
    }

    pub(super) fn listen(&self) {
        self.listening.set(true);
        self.wake();
    }

    pub(super) fn tick(&self, now: Monotonic) {
        let mut core = self.core.borrow_mut();
        core.machine.handle_tick(now);
        if core.machine.has_output() || core.machine.close_reason().is_some() {
            drop(core);
            self.wake();
        }
    }

    /// Ends the connection at once: the socket is reset, so that nothing queued in it is sent any more (S5).
    pub(super) fn end(&self) {
        if let Some(stream) = self.stream.borrow_mut().take() {
            // A socket that is gone already can't be told, and need not.
            let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        }
        let core = &mut *self.core.borrow_mut();
        core.machine.handle_closed(&mut core.driver);
        core.driver.detach();
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Serves the connection to its end.
    pub(super) async fn run(&self) {
        poll_fn(|context| self.poll(context)).await;
        let core = &mut *self.core.borrow_mut();
        let reason = core.machine.close_reason();
        let initiator = core.machine.identity().initiator.as_str();
        if !core.driver.refused {
            tracing::info!(address = %self.address, initiator, ?reason, "connection ended");
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        self.remember(context);
        for _ in 0..TURNS {
            let mut progress = self.handle_events();
            let moved = match &*self.stream.borrow() {
                None => Progress::None,
                Some(stream) => match self.read(stream, context) {
                    Progress::Closed => Progress::Closed,
                    read => match self.write(stream, context) {
                        Progress::None => read,
                        written => written,
                    },
                },
            };
            match moved {
                Progress::Closed => self.hang_up(),
                Progress::Some => progress = true,
                Progress::None => {}
            }
            if self.core.borrow().machine.is_finished() && self.stream.borrow().is_some() {
                self.hang_up();
            }
            if self.stream.borrow().is_none() && self.core.borrow().machine.executing() == 0 {
                return Poll::Ready(());
            }
            if !progress {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn remember(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }

    /// Closes the socket in the ordinary way: what was sent still arrives.
    fn hang_up(&self) {
        drop(self.stream.borrow_mut().take());
        let core = &mut *self.core.borrow_mut();
        core.machine.handle_closed(&mut core.driver);
        core.driver.detach();
    }

    /// Handles everything that has gathered; false: nothing had.
    fn handle_events(&self) -> bool {
        let mut any = false;
        loop {
            let event = self.events.borrow_mut().pop_front();
            let Some(event) = event else { return any };
            any = true;
            let Core { machine, driver, .. } = &mut *self.core.borrow_mut();
            let finished = match event {
                Event::Reply(id, reply) => driver.handle_reply(id, reply),
                Event::CommandSettled(token) => driver.handle_command_settled(token),
                Event::Settled(management) => {
                    machine.other_settled(management, driver);
                    None
                }
                Event::RequestLogout(seconds) => {
                    machine.request_logout(seconds);
                    None
                }
                Event::Room => {
                    machine.handle_room(driver);
                    None
                }
            };
            if let Some(finished) = finished {
                if finished.not_served {
                    machine.drop_now(CloseReason::NotServed);
                }
                machine.complete(finished.task, finished.completion, driver);
            }
        }
    }

    /// Reads once and lets the machine take what came.
    fn read(&self, stream: &TcpStream, context: &mut Context<'_>) -> Progress {
        let Core { machine, driver, leftover } = &mut *self.core.borrow_mut();
        if !machine.wants_input() {
            return Progress::None;
        }
        let scratch = &mut *self.inner.scratch.borrow_mut();
        let held = leftover.len().min(scratch.len());
        if let (Some(front), Some(bytes)) = (scratch.get_mut(..held), leftover.get(..held)) {
            front.copy_from_slice(bytes);
        }
        // Input that waited for room in the output comes before anything new.
        let taken = if held > 0 { machine.receive(scratch.get(..held).unwrap_or(&[]), driver) } else { 0 };
        if taken > 0 {
            leftover.drain(..taken.min(leftover.len()));
            return Progress::Some;
        }
        let told = stream.poll_read_ready(context).is_ready();
        if !self.listening.take() && !told {
            return Progress::None;
        }
        let window = if held == 0 { machine.direct() } else { None };
        let window = window.filter(|window| window.len() >= DIRECT_BYTES).unwrap_or(&mut []);
        let direct = window.len();
        let free = scratch.get_mut(held..).unwrap_or(&mut []);
        let received = if told { receive(stream, window, free) } else { receive_now(stream, window, free) };
        let count = match received {
            Ok(0) => return Progress::Closed,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && told => return Progress::Some,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::None,
            Err(_) => return Progress::Closed,
        };
        if direct > 0 {
            machine.handle_direct(count.min(direct));
        }
        let arrived = held.saturating_add(count.saturating_sub(direct));
        let bytes = scratch.get(..arrived).unwrap_or(&[]);
        let taken = machine.receive(bytes, driver);
        leftover.clear();
        leftover.extend_from_slice(bytes.get(taken..).unwrap_or(&[]));
        Progress::Some
    }

    /// Sends as much as the socket takes.
    fn write(&self, stream: &TcpStream, context: &mut Context<'_>) -> Progress {
        let Core { machine, driver, .. } = &mut *self.core.borrow_mut();
        let mut progress = Progress::None;
        while machine.has_output() {
            let mut parts = [&[][..]; SLICES];
            let count = machine.output(&mut parts);
            let mut slices = [IoSlice::new(&[]); SLICES];
            slices.iter_mut().zip(parts).for_each(|(slice, part)| *slice = IoSlice::new(part));
            match stream.try_write_vectored(slices.get(..count).unwrap_or(&[])) {
                Ok(sent) => {
                    machine.handle_sent(sent, driver);
                    progress = Progress::Some;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stream.poll_write_ready(context).is_pending() {
                        break;
                    }
                }
                Err(_) => return Progress::Closed,
            }
        }
        progress
    }
}

/// Reads into `window`, then into `scratch`, by one system call. A short read means that the socket is empty: its
/// readiness is cleared at once, which saves the call that would only say so.
fn receive(stream: &TcpStream, window: &mut [u8], scratch: &mut [u8]) -> io::Result<usize> {
    let room = window.len().saturating_add(scratch.len());
    let mut short = None;
    let result = stream.try_io(Interest::READABLE, || {
        let count = receive_now(stream, window, scratch)?;
        if count > 0 && count < room {
            short = Some(count);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(count)
    });
    short.map_or(result, Ok)
}

/// The same, whatever the runtime knows of the socket.
fn receive_now(stream: &TcpStream, window: &mut [u8], scratch: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::readv(stream, &mut [IoSliceMut::new(window), IoSliceMut::new(scratch)])?)
}
