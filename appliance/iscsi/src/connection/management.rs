//! Task management (RFC 7143 §11.5, §11.6): aborts and resets.
//!
//! Invariant: a function is answered only when every task that it covers, in any session, has left the backend; what
//! such a write has done is then there, and it does nothing later (S16).

use super::task::{State, TaskId, Waiter};
use super::{CloseReason, Connection, Host, Scope};
use crate::pdu::{TaskFunction, TaskManagementRequest, TaskManagementResponse, TaskResult};

/// Most requests that wait at once; more are rejected.
const MAX_WAITING: usize = 64;

/// A request that waits for tasks to settle.
#[derive(Debug)]
pub(super) struct Management {
    id: u32,
    tag: u32,
    function: TaskFunction,
    lun: [u8; 8],
    /// Tasks that have not settled.
    remaining: usize,
}

impl<H: Host> Connection<H> {
    pub(super) fn task_management(&mut self, request: &TaskManagementRequest, host: &mut H) {
        if !self.in_order(request.immediate, request.cmd_sn) {
            return;
        }
        let tag = request.initiator_task_tag;
        let lun = request.lun.to_be_bytes();
        let needs_unit = |function| {
            use TaskFunction::{AbortTaskSet, ClearTaskSet, LogicalUnitReset};
            matches!(function, AbortTaskSet | ClearTaskSet | LogicalUnitReset)
        };
        match TaskFunction::from_code(request.function) {
            _ if self.identity.discovery || self.managements.len() >= MAX_WAITING => {
                self.answer_management(tag, TaskResult::Rejected);
            }
            None | Some(TaskFunction::ClearAca) => self.answer_management(tag, TaskResult::Unsupported),
            Some(TaskFunction::TaskReassign) => self.answer_management(tag, TaskResult::NoReassign),
            Some(function) if needs_unit(function) && !host.has_unit(lun) => {
                self.answer_management(tag, TaskResult::NoLun);
            }
            Some(TaskFunction::AbortTask) => self.abort_one(request, host),
            Some(function) => self.abort_many(function, lun, tag, host),
        }
    }

    /// A tag that is not known was answered before (or never came): the initiator learns so, and goes on.
    fn abort_one(&mut self, request: &TaskManagementRequest, host: &mut H) {
        let lun = request.lun.to_be_bytes();
        let task = self.tasks.find(request.referenced_task_tag);
        match task.filter(|&id| self.tasks.get(id).is_some_and(|task| task.lun == lun)) {
            None => self.answer_management(request.initiator_task_tag, TaskResult::NoTask),
            Some(task) => {
                let id = self.new_management(TaskFunction::AbortTask, lun, request.initiator_task_tag);
                let left = self.abort_task(task, Some(Waiter::Local(id)), host);
                self.settle(id, usize::from(left), host);
            }
        }
    }

    fn abort_many(&mut self, function: TaskFunction, lun: [u8; 8], tag: u32, host: &mut H) {
        let id = self.new_management(function, lun, tag);
        let scope = match function {
            TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset => Scope::All,
            _ => Scope::Unit(lun),
        };
        let here = self.abort_tasks(scope, Some(Waiter::Local(id)), host);
        let elsewhere = match function {
            TaskFunction::AbortTaskSet => 0,
            _ => host.abort_others(function, lun, id),
        };
        self.settle(id, here.saturating_add(elsewhere), host);
    }

    fn new_management(&mut self, function: TaskFunction, lun: [u8; 8], tag: u32) -> u32 {
        let id = self.next_management;
        self.next_management = id.wrapping_add(1);
        // One more than there are, so that tasks that settle while others are still being aborted don't end it.
        self.managements.push(Management { id, tag, function, lun, remaining: 1 });
        id
    }

    /// All tasks are aborted; `left` of them have still to settle.
    fn settle(&mut self, id: u32, left: usize, host: &mut H) {
        self.handle_room(host);
        if let Some(management) = self.managements.iter_mut().find(|management| management.id == id) {
            management.remaining = management.remaining.saturating_add(left);
        }
        self.other_settled(id, host);
    }

    /// A task that `management` waits for has settled.
    pub fn other_settled(&mut self, management: u32, host: &mut H) {
        let Some(at) = self.managements.iter().position(|waiting| waiting.id == management) else { return };
        let Some(waiting) = self.managements.get_mut(at) else { return };
        waiting.remaining = waiting.remaining.saturating_sub(1);
        if waiting.remaining > 0 {
            return;
        }
        let done = self.managements.swap_remove(at);
        if !matches!(done.function, TaskFunction::AbortTask | TaskFunction::AbortTaskSet) {
            host.reset(done.function, done.lun);
        }
        self.answer_management(done.tag, TaskResult::Complete);
        if done.function == TaskFunction::TargetColdReset {
            self.close(CloseReason::Ended);
        }
    }

    fn answer_management(&mut self, tag: u32, result: TaskResult) {
        let (exp_cmd_sn, max_cmd_sn) = self.advertise();
        let response = TaskManagementResponse {
            last: true,
            response: result.code(),
            initiator_task_tag: tag,
            stat_sn: self.window.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        self.transmit.push(response.encode(), &[]);
    }

    /// Aborts tasks of this session for someone else, who is told of each by [`Host::settled`] with `token`. Answers
    /// how many have still to settle. Executes nothing: call [`Connection::handle_room`] soon.
    pub fn abort(&mut self, scope: Scope, token: u64, host: &mut H) -> usize {
        self.abort_tasks(scope, Some(Waiter::Other(token)), host)
    }

    pub(super) fn abort_tasks(&mut self, scope: Scope, waiter: Option<Waiter>, host: &mut H) -> usize {
        let mut left = 0_usize;
        for slot in 0..self.tasks.slots() {
            let Some(id) = self.tasks.id_at(slot) else { continue };
            let covered = match scope {
                Scope::All => true,
                Scope::Unit(lun) => self.tasks.get(id).is_some_and(|task| task.lun == lun),
            };
            if covered && self.abort_task(id, waiter, host) {
                left = left.saturating_add(1);
            }
        }
        left
    }

    /// Aborts one task. True: the backend works on it, and `waiter` is told when it has settled.
    fn abort_task(&mut self, id: TaskId, waiter: Option<Waiter>, host: &mut H) -> bool {
        let Some(task) = self.tasks.get_mut(id) else { return false };
        if task.state != State::Collecting {
            task.state = State::Aborted;
            task.waiters.extend(waiter);
            host.cancel(id);
            return true;
        }
        let cost = if task.admitted { task.cost_bytes } else { 0 };
        self.tasks.remove(id);
        self.tasks.waiting.retain(|&waiting| waiting != id);
        // Others are admitted in its place when the whole abort is through, not before: it may cover them as well.
        self.admitted_bytes = self.admitted_bytes.saturating_sub(cost);
        false
    }

    pub(super) fn tell_waiter(&mut self, waiter: Waiter, host: &mut H) {
        match waiter {
            Waiter::Local(id) => self.other_settled(id, host),
            Waiter::Other(token) => host.settled(token),
        }
    }
}
