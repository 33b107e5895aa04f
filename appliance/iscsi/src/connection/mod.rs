//! One connection, which is also one session (MaxConnections is 1): bytes and completions in, bytes and calls out.
//!
//! The flow: the driver hands received bytes to [`Connection::receive`]. Login PDUs go to the login machine; commands
//! collect their data and are handed to [`Host::execute`]; its answer, or a later [`Connection::complete`], queues the
//! response. The driver sends what [`Connection::output`] shows. Large data segments are received straight into
//! their final buffer: [`Connection::direct`].
//!
//! Invariants
//! - No input makes it panic or hold more than [`Limits`] say.
//! - Commands execute in CmdSN order of arrival; a command outside of the window is ignored.
//! - Every task gets exactly one response, unless it was aborted: then none.
//! - A task management response is queued only when every task that it covers has left the backend (S16).
//! - At error recovery level 0 a damaged PDU ends the connection (RFC 7143 §7.8, §7.10).

mod command;
mod data_out;
mod management;
mod receive;
mod respond;
mod service;
mod task;
mod transmit;
mod window;

#[cfg(test)]
mod tests;

use crate::keys::Parameters;
use crate::login::{Gate, Identity, Login};
use crate::pdu::TaskFunction;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use base::Monotonic;
use core::time::Duration;
use management::Management;
use receive::Receiver;
pub use task::TaskId;
use task::Tasks;
use transmit::Transmit;
use window::Window;

/// What one connection may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Commands at once; the command window.
    pub tasks: u16,
    /// Immediate commands at once, on top.
    pub immediate_tasks: u16,
    /// Data buffers at once, bytes. One command larger than this is served alone. Unsolicited data (up to
    /// FirstBurstLength a command) may come on top.
    pub memory_bytes: u64,
    /// Largest command, bytes.
    pub command_bytes: u64,
    /// Unsent headers and small data at which no more input is taken, bytes.
    pub output_bytes: usize,
    /// From the connection's begin to the full-feature phase.
    pub login_time: Duration,
    /// Silence after which the target pings.
    pub ping_after: Duration,
    /// How long the answer to the ping may take.
    pub ping_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tasks: 128,
            immediate_tasks: 16,
            memory_bytes: 64 << 20,
            command_bytes: 64 << 20,
            output_bytes: 256 << 10,
            login_time: Duration::from_secs(15),
            ping_after: Duration::from_secs(15),
            ping_time: Duration::from_secs(10),
        }
    }
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The initiator logged out.
    Logout,
    /// The login was refused; the answer says why.
    LoginRefused,
    /// The target is configured but not served here now.
    NotServed,
    /// The login took too long.
    LoginTimeout,
    /// The initiator does not answer.
    Silent,
    /// A header or data digest does not match.
    Digest,
    /// The initiator broke the protocol; the text names how.
    Protocol(&'static str),
    /// The driver ended it.
    Ended,
}

/// A command as the device server sees it.
#[derive(Clone, Copy, Debug)]
pub struct CommandView {
    /// The LUN field.
    pub lun: [u8; 8],
    /// The CDB.
    pub cdb: [u8; 16],
    /// Data-out bytes that the initiator offers. The data-out buffer holds the lesser of this and what the CDB takes.
    pub offered_bytes: u32,
}

/// What the connection asks of its driver.
pub trait Host: Gate {
    /// A buffer that is being filled.
    type Filling: AsRef<[u8]> + AsMut<[u8]>;
    /// A filled buffer; clones share it.
    type Shared: AsRef<[u8]> + Clone;

    /// Whether so many bytes more may be used now, by all connections together. Asked only by a connection that has
    /// some in use already, so that each always gets on with at least one command.
    fn has_room(&self, bytes: u64) -> bool;
    /// A buffer of `len_bytes`; `None` when the system has no memory.
    fn allocate(&mut self, len_bytes: usize) -> Option<Self::Filling>;
    /// Runs a command. `Some`: it is done. `None`: [`Connection::complete`] comes later.
    fn execute(
        &mut self,
        task: TaskId,
        command: &CommandView,
        data_out: Option<Self::Filling>,
    ) -> Option<Completion<Self::Shared>>;
    /// Names of the targets that `initiator` may see, for SendTargets.
    fn targets(&mut self, initiator: &str, visit: &mut dyn FnMut(&str));
    /// Whether a unit answers at this LUN field.
    fn has_unit(&self, lun: [u8; 8]) -> bool;
    /// Aborts the tasks that `function` covers in *other* sessions of the target. Answers how many of them have still
    /// to settle; each is reported by [`Connection::other_settled`] with `management`.
    fn abort_others(&mut self, function: TaskFunction, lun: [u8; 8], management: u32) -> usize;
    /// Every task that the function covers has settled: resets the unit or units.
    fn reset(&mut self, function: TaskFunction, lun: [u8; 8]);
    /// Nobody waits for the task any more; its completion may come early, and must come.
    fn cancel(&mut self, task: TaskId);
    /// A task that was aborted by [`Connection::abort`] with `token` has settled.
    fn settled(&mut self, token: u64);
}

/// The end of a command.
#[derive(Clone, Debug)]
pub struct Completion<S> {
    /// Status, sense, parameter data.
    pub response: scsi::Response,
    /// The buffer that the read filled, where the response has medium data.
    pub medium: Option<S>,
}

impl<S> From<scsi::Response> for Completion<S> {
    fn from(response: scsi::Response) -> Self {
        Self { response, medium: None }
    }
}

/// Which tasks to abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Of one LUN field.
    Unit([u8; 8]),
    /// All.
    All,
}

#[derive(Debug)]
enum Phase {
    Login(Box<Login>),
    FullFeature,
}

/// See the module's documentation.
pub struct Connection<H: Host> {
    limits: Limits,
    /// `address:port` that the initiator connected to, for SendTargets.
    portal: String,
    phase: Phase,
    identity: Identity,
    parameters: Parameters,
    window: Window,
    receiver: Receiver,
    transmit: Transmit<H::Shared>,
    tasks: Tasks<H::Filling>,
    /// Memory of admitted tasks, bytes.
    admitted_bytes: u64,
    next_r2t_tag: u16,
    /// Waiting tasks are being admitted: not again from within.
    admitting: bool,
    managements: Vec<Management>,
    next_management: u32,
    text: service::TextExchange,
    /// The rest of the stream is not looked at; the connection ends when the output is sent.
    closing: Option<CloseReason>,
    /// The output need not be sent either.
    dropped: bool,
    began: Monotonic,
    last_heard: Monotonic,
    heard: bool,
    pinged: Option<Monotonic>,
}

impl<H: Host> Connection<H> {
    /// A connection that was just accepted at `portal` (`address:port`).
    #[must_use]
    pub fn new(limits: Limits, portal: String, now: Monotonic) -> Self {
        let tasks = Tasks::new(limits.tasks, limits.immediate_tasks);
        Self {
            limits,
            portal,
            phase: Phase::Login(Box::default()),
            identity: Identity::default(),
            parameters: Parameters::default(),
            window: Window::default(),
            receiver: Receiver::default(),
            transmit: Transmit::new(),
            tasks,
            admitted_bytes: 0,
            next_r2t_tag: 0,
            admitting: false,
            managements: Vec::new(),
            next_management: 0,
            text: service::TextExchange::default(),
            closing: None,
            dropped: false,
            began: now,
            last_heard: now,
            heard: false,
            pinged: None,
        }
    }

    /// Who is logged in; empty before the full-feature phase.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Commands are served.
    #[must_use]
    pub fn is_full_feature(&self) -> bool {
        matches!(self.phase, Phase::FullFeature)
    }

    /// Tasks that the backend works on, aborted ones too. The connection must be kept until none is left, as others
    /// may wait for them to settle.
    #[must_use]
    pub fn executing(&self) -> usize {
        self.tasks.executing()
    }

    /// Some task of `scope` has no response yet.
    #[must_use]
    pub fn has_tasks(&self, scope: Scope) -> bool {
        (0..self.tasks.slots()).filter_map(|slot| self.tasks.get(self.tasks.id_at(slot)?)).any(|task| {
            match scope {
                Scope::All => true,
                Scope::Unit(lun) => task.lun == lun,
            }
        })
    }

    /// Set once the connection is to end.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.closing
    }

    /// The socket can be closed now.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.closing.is_some() && (self.dropped || self.transmit.is_empty())
    }

    /// Input may be read. False while the initiator does not read what it was sent, and at the end.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.closing.is_none() && self.transmit.arena_bytes() < self.limits.output_bytes
    }

    /// Something waits to be sent.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.dropped && !self.transmit.is_empty()
    }

    /// Fills `out` with what to send next, in order; answers how many slices were filled.
    pub fn output<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        if self.dropped { 0 } else { self.transmit.slices(out) }
    }

    /// The first `count` bytes of the output were sent.
    pub fn handle_sent(&mut self, count: usize, host: &mut H) {
        let released = self.transmit.consume(count);
        if released > 0 {
            self.release(released, host);
        }
        self.tell_open_window();
    }

    /// Time passes; call at least once a second.
    pub fn handle_tick(&mut self, now: Monotonic) {
        if core::mem::take(&mut self.heard) {
            self.last_heard = now;
        }
        if self.closing.is_some() && now.since(self.last_heard) >= self.limits.ping_time {
            // The last answers are not read.
            self.dropped = true;
        }
        match (&self.phase, self.pinged) {
            (Phase::Login(_), _) => {
                if now.since(self.began) >= self.limits.login_time {
                    self.drop_now(CloseReason::LoginTimeout);
                }
            }
            (Phase::FullFeature, Some(sent)) => {
                if now.since(sent) >= self.limits.ping_time
                    && now.since(self.last_heard) >= self.limits.ping_time
                {
                    self.drop_now(CloseReason::Silent);
                }
            }
            (Phase::FullFeature, None) => {
                if now.since(self.last_heard) >= self.limits.ping_after && self.closing.is_none() {
                    self.pinged = Some(now);
                    self.send_ping();
                }
            }
        }
    }

    /// The end: nothing more is taken, and what is queued is sent first.
    fn close(&mut self, reason: CloseReason) {
        self.closing.get_or_insert(reason);
    }

    /// The end, with nothing sent any more.
    pub fn drop_now(&mut self, reason: CloseReason) {
        self.closing.get_or_insert(reason);
        self.dropped = true;
    }

    /// Every task that the backend does not hold is forgotten; called once when the socket is closed. Those that it
    /// holds settle silently.
    pub fn handle_closed(&mut self, host: &mut H) {
        self.drop_now(CloseReason::Ended);
        self.abort_tasks(Scope::All, None, host);
    }
}
