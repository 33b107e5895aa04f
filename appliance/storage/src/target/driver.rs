//! What the connection machines ask for: targets, sessions, buffers, and the way of a command to the backend.

use super::backend::{Reply, RequestId};
use super::link::Link;
use super::running::{Ended, Running, Slab, Start};
use super::{Inner, Lun, Settle, TargetConfig};
use crate::clock;
use base::{Reservations, VolumeId};
use control::targets::{Admission, Chap, is_shown_to};
use disk::{Buffer, BufferMut};
use iscsi::chap::{Credentials, Nonce};
use iscsi::login::{Access, Gate, Identity};
use iscsi::pdu::{LoginStatus, TaskFunction};
use iscsi::{CommandView, Completion, Host, Scope, TaskId};
use scsi::{InitiatorPort, NexusId, Operation, Response, Status, Step, TargetPort};
use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// One target and its device server.
pub(super) struct TargetEntry {
    pub(super) name: String,
    server: RefCell<scsi::Target>,
    config: RefCell<TargetConfig>,
}

impl TargetEntry {
    pub(super) fn new(config: &TargetConfig) -> Self {
        let mut server = scsi::Target::new(TargetPort { iqn: config.iqn.clone() });
        for (&number, lun) in &config.luns {
            server.map(number, lun.unit.clone(), |port| lun.is_shown_to(port));
        }
        Self { name: config.iqn.clone(), server: RefCell::new(server), config: RefCell::new(config.clone()) }
    }

    /// Applies a changed configuration. A unit that stays keeps what initiators set on it.
    pub(super) fn update(&self, new: &TargetConfig) {
        let mut old = self.config.borrow_mut();
        let mut server = self.server.borrow_mut();
        for &number in old.luns.keys().filter(|number| !new.luns.contains_key(number)) {
            server.unmap(number);
        }
        for (&number, lun) in &new.luns {
            match old.luns.get(&number) {
                Some(known) if known == lun => {}
                Some(known) if known.is_same_unit(lun) => {
                    // In this order: who sees the unit anew has nothing to hear of its past.
                    server.reconfigure(number, lun.unit.clone());
                    server.mask(number, |port| lun.is_shown_to(port));
                }
                _ => server.map(number, lun.unit.clone(), |port| lun.is_shown_to(port)),
            }
        }
        *old = new.clone();
    }

    pub(super) fn set_served(&self, volume: VolumeId, served: bool) {
        let config = self.config.borrow();
        for (&number, _) in config.luns.iter().filter(|(_, lun)| lun.unit.volume == volume) {
            self.server.borrow_mut().set_served(number, served);
        }
    }

    pub(super) fn set_reservations(&self, volume: VolumeId, reservations: &Reservations) {
        let config = self.config.borrow();
        for (&number, _) in config.luns.iter().filter(|(_, lun)| lun.unit.volume == volume) {
            self.server.borrow_mut().set_reservations(number, reservations);
        }
    }

    /// What `initiator` is told at the door; `Err`: no rule covers it.
    pub(super) fn may_log_in(&self, initiator: &str) -> Result<Option<Credentials>, ()> {
        match self.config.borrow().access.admit(initiator) {
            Admission::Refused => Err(()),
            Admission::Open => Ok(None),
            Admission::Chap(chap) => Ok(Some(credentials(chap))),
        }
    }

    fn attach(&self, nexus: NexusId, port: InitiatorPort) {
        let config = self.config.borrow();
        let shown: Vec<u16> =
            config.luns.iter().filter(|(_, lun)| lun.is_shown_to(&port)).map(|(&number, _)| number).collect();
        self.server.borrow_mut().attach(nexus, port, |number| shown.contains(&number));
    }

    /// Whether the unit at this LUN field exists for `nexus`.
    pub(super) fn shows(&self, nexus: NexusId, lun: [u8; 8]) -> bool {
        self.server.borrow().has_unit(nexus, lun)
    }

    /// Whether a unit of `volume` does.
    pub(super) fn shows_volume(&self, nexus: NexusId, volume: VolumeId) -> bool {
        self.server.borrow().sees_volume(nexus, volume)
    }

    fn volume(&self, lun: [u8; 8]) -> Option<VolumeId> {
        let number = scsi::lun::decode(lun)?;
        self.server.borrow().unit(number).map(|unit| unit.config().volume)
    }
}

impl Lun {
    fn is_shown_to(&self, port: &InitiatorPort) -> bool {
        is_shown_to(&self.initiators, &port.name)
    }

    fn is_same_unit(&self, other: &Self) -> bool {
        let identity = |lun: &Self| (lun.unit.cluster, lun.unit.volume);
        identity(self) == identity(other)
    }
}

fn credentials(chap: &Chap) -> Credentials {
    let mutual = chap.mutual.as_ref();
    Credentials {
        name: chap.user.clone(),
        secret: chap.secret.as_bytes().to_vec(),
        mutual: mutual.map(|own| (own.user.clone(), own.secret.as_bytes().to_vec())),
    }
}

/// A session's place at its target.
struct Session {
    target: Rc<TargetEntry>,
    nexus: NexusId,
}

/// The driver of one connection's machine.
pub(super) struct Driver {
    inner: Rc<Inner>,
    link_id: u64,
    link: Weak<Link>,
    session: Option<Session>,
    /// The log tells, rarely, why its login was refused.
    pub(super) refused: bool,
    /// Sessions that lost tasks to the CLEAR TASK SET in progress.
    losers: Vec<NexusId>,
}

/// A command that ended, for its connection.
pub(super) struct Finished {
    pub(super) task: TaskId,
    pub(super) completion: Completion<Buffer>,
    /// The volume is not served: the connection is to be dropped instead of an answer.
    pub(super) not_served: bool,
}

impl Driver {
    pub(super) fn new(inner: Rc<Inner>, link_id: u64, link: Weak<Link>) -> Self {
        Self { inner, link_id, link, session: None, refused: false, losers: Vec::new() }
    }

    pub(super) fn nexus(&self) -> Option<NexusId> {
        self.session.as_ref().map(|session| session.nexus)
    }

    fn target(&self) -> Option<&Rc<TargetEntry>> {
        self.session.as_ref().map(|session| &session.target)
    }

    /// The session ends (S15: its SCSI-2 reservations with it).
    pub(super) fn detach(&mut self) {
        if let Some(session) = self.session.take() {
            session.target.server.borrow_mut().detach(session.nexus);
        }
    }

    /// The other connections of this session's target.
    fn others(&self) -> Vec<Rc<Link>> {
        self.target().map_or_else(Vec::new, |target| self.others_at(target))
    }

    fn others_at(&self, target: &TargetEntry) -> Vec<Rc<Link>> {
        let mut others = self.inner.links();
        others.retain(|link| link.id != self.link_id && link.is_at(target));
        others
    }

    /// The backend has answered a request of this connection.
    pub(super) fn handle_reply(&mut self, id: RequestId, reply: Reply) -> Option<Finished> {
        let token = Slab::token(id.0);
        self.inner.running.borrow_mut().get_mut(token)?.handle_reply(id, reply);
        self.go_on(token)
    }

    /// A task that a command of this connection waits for has settled.
    pub(super) fn handle_command_settled(&mut self, token: u64) -> Option<Finished> {
        self.inner.running.borrow_mut().get_mut(token)?.handle_settled();
        self.go_on(token)
    }

    /// Submits what can be submitted; goes on with the command if the operation has ended.
    fn go_on(&mut self, token: u64) -> Option<Finished> {
        self.submit(token);
        let mut running = self.inner.running.borrow_mut();
        let ended = running.get_mut(token)?.ended()?;
        let mut command = running.remove(token)?;
        drop(running);
        command.take_waiters().into_iter().for_each(|waiter| self.inner.settled(waiter));
        let task = command.task;
        let not_served = ended.not_served;
        let completion = self.resume(command, &ended)?;
        Some(Finished { task, completion, not_served })
    }

    fn submit(&self, token: u64) {
        loop {
            let request = self
                .inner
                .running
                .borrow_mut()
                .get_mut(token)
                .and_then(|command| command.next_request(token));
            let Some(request) = request else { return };
            self.inner.backend.submit(request);
        }
    }

    /// Tells the device server how the operation ended, and does what it asks next. `None`: another operation runs.
    fn resume(&mut self, command: Running, ended: &Ended) -> Option<Completion<Buffer>> {
        let step = with_command(&command, |view| {
            command.target.server.borrow_mut().resume(view, command.continuation, ended.outcome)
        });
        self.run(command, step)
    }

    /// Runs a command from `step` on until it is done or an operation is out.
    fn run(&mut self, mut command: Running, step: Step) -> Option<Completion<Buffer>> {
        let (operation, continuation) = match step {
            Step::Done(response) => {
                let medium = command.medium.take();
                return Some(Completion { response, medium });
            }
            Step::Backend(operation, continuation) => (operation, continuation),
        };
        command.begin(&operation, continuation, &self.inner.buffers);
        let (lun, target) = (command.lun, Rc::clone(&command.target));
        let Some(token) = self.inner.running.borrow_mut().insert(command) else {
            return Some(Completion::from(Response::status(Status::Busy)));
        };
        if let Operation::AbortTasks(nexuses) = &operation {
            self.abort_nexuses(&target, nexuses, lun, token);
        }
        // Ended already: nothing of it was submitted.
        self.go_on(token).map(|finished| finished.completion)
    }

    /// Copies of those nexuses (`None`: of all at the target) that write the unit by a command to another one: they are not
    /// its tasks, but write it all the same. Answers how many `wait` waits for.
    fn stop_copies(
        &self,
        target: &TargetEntry,
        nexuses: Option<&[NexusId]>,
        lun: [u8; 8],
        wait: u64,
    ) -> usize {
        let Some(volume) = target.volume(lun) else { return 0 };
        let tokens = self.inner.stop_commands(|command| {
            command.target.name == target.name
                && nexuses.is_none_or(|nexuses| nexuses.contains(&command.nexus))
                && command.copies_to(volume)
        });
        let mut running = self.inner.running.borrow_mut();
        for &token in &tokens {
            if let Some(command) = running.get_mut(token) {
                command.add_waiter(wait);
            }
        }
        tokens.len()
    }

    /// PREEMPT AND ABORT: tasks of these nexuses on the unit. This session may be gone since the command came.
    fn abort_nexuses(&mut self, target: &TargetEntry, nexuses: &[NexusId], lun: [u8; 8], token: u64) {
        let wait = self.inner.next_number();
        let mut left = 0_usize;
        for link in self.others_at(target) {
            if link.nexus().is_some_and(|nexus| nexuses.contains(&nexus)) {
                left = left.saturating_add(link.abort(Scope::Unit(lun), wait));
            }
        }
        left = left.saturating_add(self.stop_copies(target, Some(nexuses), lun, wait));
        self.inner.wait(wait, Settle::Command(token), left);
        if let Some(command) = self.inner.running.borrow_mut().get_mut(token) {
            command.wait_for(left);
        }
    }
}

/// Calls `use_it` with the device server's view of a command.
fn with_command<T>(command: &Running, use_it: impl FnOnce(&scsi::Command<'_>) -> T) -> T {
    let inspected = command.data_out.as_ref().filter(|_| scsi::expected_transfer(&command.cdb).inspected);
    use_it(&scsi::Command {
        nexus: command.nexus,
        lun: command.lun,
        cdb: &command.cdb,
        offered_len: command.offered_len,
        parameters: inspected.map_or(&[][..], Buffer::as_slice),
    })
}

impl Driver {
    /// Rarely, whatever names a stranger makes up: by its address.
    fn tell_refusal(&mut self, initiator: &str, target: &str, reason: &'static str) {
        let Some(address) = self.link.upgrade().map(|link| link.address()) else { return };
        self.refused = true;
        let what = format!("{initiator} {reason}");
        let asked = self.inner.refused.borrow_mut().ask(&address.ip(), &what, clock::now());
        if let Some(unsaid) = asked {
            tracing::warn!(initiator, target, %address, reason, unsaid, "login refused");
        }
    }
}

impl Gate for Driver {
    fn not_authentic(&mut self, identity: &Identity, reason: &'static str) {
        self.tell_refusal(&identity.initiator, &identity.target, reason);
    }

    fn access(&mut self, initiator: &str, target: Option<&str>) -> Access {
        let targets = self.inner.targets.borrow();
        // Discovery tells each initiator only what it may use.
        let Some(name) = target else {
            let known = targets.values().filter_map(|entry| entry.may_log_in(initiator).ok().flatten());
            return Access::OpenOrChap(known.collect());
        };
        let may = targets.get(name).map(|entry| entry.may_log_in(initiator));
        drop(targets);
        match may {
            None => Access::Unknown,
            Some(Ok(None)) => Access::Open,
            Some(Ok(Some(credentials))) => Access::Chap(credentials),
            Some(Err(())) => {
                self.tell_refusal(initiator, name, "is let in by no rule");
                Access::Forbidden
            }
        }
    }

    fn nonce(&mut self) -> Nonce {
        let mut bytes = [0_u8; 17];
        if let Err(error) = getrandom::fill(&mut bytes) {
            // Without randomness a challenge could be foreseen; a counter at least never repeats.
            tracing::error!("no random numbers: {error}");
            bytes[..8].copy_from_slice(&self.inner.next_number().to_be_bytes());
        }
        let [id, challenge @ ..] = bytes;
        Nonce { id, challenge }
    }

    fn open_session(&mut self, identity: &Identity) -> Result<u16, LoginStatus> {
        if identity.discovery {
            return Ok(self.inner.next_tsih());
        }
        let target = self.inner.targets.borrow().get(&identity.target).cloned();
        // Removed between the login's first request and its last.
        let target = target.ok_or(LoginStatus::OutOfResources)?;
        // So may the rule have been that let it in.
        target.may_log_in(&identity.initiator).map_err(|()| LoginStatus::AuthorizationFailure)?;
        let mut tsih = identity.tsih;
        let old =
            self.inner.links().into_iter().find(|link| link.id != self.link_id && link.is_session(identity));
        match (&old, tsih) {
            (None, 0) => tsih = self.inner.next_tsih(),
            (None, _) => return Err(LoginStatus::SessionDoesNotExist),
            (Some(_), 0) => tsih = self.inner.next_tsih(),
            (Some(old), _) if old.tsih() != tsih => return Err(LoginStatus::SessionDoesNotExist),
            (Some(old), _) if old.cid() != identity.cid => return Err(LoginStatus::TooManyConnections),
            (Some(_), _) => {}
        }
        // Reinstatement: the old session is gone before the new one begins. Its writes that the backend holds come
        // before any of the new session on the same blocks (S18).
        if let Some(old) = old {
            old.end();
        }
        let nexus = NexusId(self.inner.next_number());
        let port = InitiatorPort { name: identity.initiator.clone(), isid: identity.isid };
        target.attach(nexus, port);
        tracing::info!(initiator = identity.initiator, target = target.name, "session begins");
        self.session = Some(Session { target, nexus });
        Ok(tsih)
    }
}

impl Host for Driver {
    type Filling = BufferMut;
    type Shared = Buffer;

    fn has_room(&self, bytes: u64) -> bool {
        let used = u64::try_from(self.inner.buffers.in_use_bytes()).unwrap_or(u64::MAX);
        used.saturating_add(bytes) <= self.inner.limits.memory_bytes
    }

    fn allocate(&mut self, len_bytes: usize) -> Option<BufferMut> {
        // The connections' own budgets bound what is asked for.
        self.inner.buffers.take_urgent(len_bytes).ok()
    }

    fn execute(
        &mut self,
        task: TaskId,
        command: &CommandView,
        data_out: Option<BufferMut>,
    ) -> Option<Completion<Buffer>> {
        let failed = || Some(Completion::from(Response::status(Status::Busy)));
        let (Some(session), Some(link)) = (&self.session, self.link.upgrade()) else { return failed() };
        let target = Rc::clone(&session.target);
        let start = Start {
            link,
            task,
            nexus: session.nexus,
            lun: command.lun,
            cdb: command.cdb,
            offered_len: u64::from(command.offered_bytes),
            data_out: data_out.map(BufferMut::freeze),
        };
        let volume = target.volume(command.lun).unwrap_or_default();
        let running = Running::new(start, Rc::clone(&target), volume);
        let step = with_command(&running, |view| target.server.borrow_mut().execute(view));
        self.run(running, step)
    }

    fn targets(&mut self, initiator: &str, visit: &mut dyn FnMut(&str)) {
        let targets = self.inner.targets.borrow();
        let usable = targets.values().filter(|entry| entry.may_log_in(initiator).is_ok());
        usable.for_each(|entry| visit(&entry.name));
    }

    fn has_unit(&self, lun: [u8; 8]) -> bool {
        let Some(session) = &self.session else { return false };
        session.target.server.borrow().has_unit(session.nexus, lun)
    }

    fn abort_others(&mut self, function: TaskFunction, lun: [u8; 8], management: u32) -> usize {
        let scope = match function {
            TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset => Scope::All,
            _ => Scope::Unit(lun),
        };
        let wait = self.inner.next_number();
        let mut left = 0_usize;
        self.losers.clear();
        for link in self.others() {
            if link.has_tasks(scope) {
                self.losers.extend(link.nexus());
            }
            left = left.saturating_add(link.abort(scope, wait));
        }
        // No write that began before a reset lands after its answer, whichever unit was told to copy (S16).
        if let (TaskFunction::LogicalUnitReset, Some(target)) = (function, self.target()) {
            left = left.saturating_add(self.stop_copies(target, None, lun, wait));
        }
        self.inner.wait(wait, Settle::Management { link: self.link_id, id: management }, left);
        left
    }

    fn reset(&mut self, function: TaskFunction, lun: [u8; 8]) {
        let Some(session) = &self.session else { return };
        let target = Rc::clone(&session.target);
        match function {
            TaskFunction::ClearTaskSet => {
                target.server.borrow_mut().tasks_cleared(lun, session.nexus, &self.losers);
            }
            TaskFunction::LogicalUnitReset => target.server.borrow_mut().reset_unit(lun),
            TaskFunction::TargetWarmReset => target.server.borrow_mut().reset_all(),
            TaskFunction::TargetColdReset => {
                target.server.borrow_mut().reset_all();
                self.others().iter().for_each(|link| link.end());
            }
            TaskFunction::AbortTask
            | TaskFunction::AbortTaskSet
            | TaskFunction::ClearAca
            | TaskFunction::TaskReassign => {}
        }
    }

    fn cancel(&mut self, task: TaskId) {
        self.inner.stop_commands(|command| command.link.id == self.link_id && command.task == task);
    }

    fn settled(&mut self, token: u64) {
        self.inner.settled(token);
    }
}
