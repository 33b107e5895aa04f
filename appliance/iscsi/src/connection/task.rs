//! The commands of one session that have no response yet.
//!
//! Invariants
//! - A task is in the slab from its command until its response was queued or its abort has settled.
//! - An aborted task stays only while the backend works on it, and gets no response.
//! - At most [`MAX_R2T`] R2Ts of a task are open.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Most R2Ts that are open for one task; what the key MaxOutstandingR2T is answered with at most.
pub(super) const MAX_R2T: usize = 8;

/// Names a task of one connection; never names another task later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    pub(super) slot: u16,
    pub(super) generation: u32,
}

/// Who waits until an aborted task has settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A task management request of this connection.
    Local(u32),
    /// Someone else, told through [`super::Host::settled`].
    Other(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Data of a write is still to come, or there is no memory for it yet.
    Collecting,
    /// With the device server or the backend.
    Executing,
    /// As before, but nobody waits for the response.
    Aborted,
}

/// One R2T that was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OpenR2t {
    pub(super) tag: u32,
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) received: u32,
    pub(super) data_sn: u32,
}

/// One command.
#[derive(Debug)]
pub(super) struct Task<F> {
    pub(super) tag: u32,
    pub(super) lun: [u8; 8],
    pub(super) cdb: [u8; 16],
    pub(super) immediate: bool,
    /// What the initiator expects to get, bytes.
    pub(super) expected_in: u32,
    /// What the initiator expects to send, bytes.
    pub(super) expected_out: u32,
    /// What the command can take of that, bytes.
    pub(super) wanted_out: u32,
    /// What the command moves out in full, bytes; compared with `expected_out` for the residual.
    pub(super) command_out: u64,
    pub(super) state: State,
    /// Memory that the command needs, bytes; counted once `admitted`.
    pub(super) cost_bytes: u64,
    pub(super) admitted: bool,
    /// Where data-out goes; shorter than `wanted_out` until admitted.
    pub(super) data_out: Option<F>,
    /// Unsolicited data may still come.
    pub(super) unsolicited_open: bool,
    /// Immediate and unsolicited bytes that came.
    pub(super) unsolicited: u32,
    pub(super) unsolicited_data_sn: u32,
    /// Bytes up to here were asked for or came unsolicited.
    pub(super) asked: u32,
    /// Solicited bytes that came.
    pub(super) solicited: u32,
    pub(super) r2ts: [OpenR2t; MAX_R2T],
    pub(super) r2t_count: usize,
    pub(super) r2t_sn: u32,
    pub(super) waiters: Vec<Waiter>,
}

impl<F> Task<F> {
    /// The open R2T that `tag` names.
    pub(super) fn r2t(&mut self, tag: u32) -> Option<&mut OpenR2t> {
        self.r2ts.iter_mut().take(self.r2t_count).find(|r2t| r2t.tag == tag)
    }

    pub(super) fn close_r2t(&mut self, tag: u32) {
        if let Some(at) = self.r2ts.iter().take(self.r2t_count).position(|r2t| r2t.tag == tag) {
            self.r2t_count = self.r2t_count.saturating_sub(1);
            self.r2ts.swap(at, self.r2t_count);
        }
    }

    pub(super) fn open_r2t(&mut self, r2t: OpenR2t) {
        if let Some(slot) = self.r2ts.get_mut(self.r2t_count) {
            *slot = r2t;
            self.r2t_count += 1;
        }
    }

    /// All of the wanted data is here.
    pub(super) fn is_complete(&self) -> bool {
        !self.unsolicited_open && self.r2t_count == 0 && self.asked >= self.wanted_out
    }
}

#[derive(Debug)]
struct Slot<F> {
    generation: u32,
    task: Option<Task<F>>,
}

/// The slab.
#[derive(Debug)]
pub(super) struct Tasks<F> {
    slots: Vec<Slot<F>>,
    /// Initiator task tags by slot, apart from the tasks so that a search stays in few cache lines.
    tags: Vec<Option<u32>>,
    free: Vec<u16>,
    capacity: u16,
    /// Tasks that came in command order. The command window bounds them.
    ordered: u32,
    immediate: u16,
    most_immediate: u16,
    /// Tasks that wait for memory, oldest first.
    pub(super) waiting: VecDeque<TaskId>,
    executing: usize,
}

impl<F> Tasks<F> {
    pub(super) fn new(ordered: u16, immediate: u16) -> Self {
        Self {
            slots: Vec::new(),
            tags: Vec::new(),
            free: Vec::new(),
            capacity: ordered.saturating_add(immediate),
            ordered: 0,
            immediate: 0,
            most_immediate: immediate,
            waiting: VecDeque::new(),
            executing: 0,
        }
    }

    /// Tasks that take a place of the command window.
    pub(super) fn ordered(&self) -> u32 {
        self.ordered
    }

    /// Tasks that the backend works on, aborted ones too.
    pub(super) fn executing(&self) -> usize {
        self.executing
    }

    /// Adds a task; `None` when its kind has no place left. Immediate tasks never take one that the window has promised.
    pub(super) fn insert(&mut self, task: Task<F>) -> Option<TaskId> {
        if task.immediate && self.immediate >= self.most_immediate {
            return None;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u16::try_from(self.slots.len()).ok().filter(|slot| *slot < self.capacity)?;
                self.slots.push(Slot { generation: 0, task: None });
                self.tags.push(None);
                slot
            }
        };
        let place = self.slots.get_mut(usize::from(slot))?;
        place.generation = place.generation.wrapping_add(1);
        let id = TaskId { slot, generation: place.generation };
        if let Some(tag) = self.tags.get_mut(usize::from(slot)) {
            *tag = Some(task.tag);
        }
        self.ordered += u32::from(!task.immediate);
        self.immediate += u16::from(task.immediate);
        place.task = Some(task);
        Some(id)
    }

    pub(super) fn get(&self, id: TaskId) -> Option<&Task<F>> {
        let slot = self.slots.get(usize::from(id.slot))?;
        slot.task.as_ref().filter(|_| slot.generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: TaskId) -> Option<&mut Task<F>> {
        let slot = self.slots.get_mut(usize::from(id.slot))?;
        slot.task.as_mut().filter(|_| slot.generation == id.generation)
    }

    pub(super) fn remove(&mut self, id: TaskId) -> Option<Task<F>> {
        let slot =
            self.slots.get_mut(usize::from(id.slot)).filter(|slot| slot.generation == id.generation)?;
        let task = slot.task.take()?;
        if let Some(tag) = self.tags.get_mut(usize::from(id.slot)) {
            *tag = None;
        }
        self.free.push(id.slot);
        self.ordered = self.ordered.saturating_sub(u32::from(!task.immediate));
        self.immediate = self.immediate.saturating_sub(u16::from(task.immediate));
        if task.state != State::Collecting {
            self.executing = self.executing.saturating_sub(1);
        }
        Some(task)
    }

    /// The task goes to the backend.
    pub(super) fn start(&mut self, id: TaskId) {
        if let Some(task) = self.get_mut(id) {
            task.state = State::Executing;
            self.executing += 1;
        }
    }

    /// The task with this initiator task tag that still wants its response.
    pub(super) fn find(&self, tag: u32) -> Option<TaskId> {
        let alive = |slot: usize| {
            self.slots
                .get(slot)
                .and_then(|slot| slot.task.as_ref())
                .is_some_and(|task| task.state != State::Aborted)
        };
        let slot =
            (0..self.tags.len()).find(|&slot| self.tags.get(slot) == Some(&Some(tag)) && alive(slot))?;
        self.id_at(slot)
    }

    /// The task in a slot.
    pub(super) fn id_at(&self, slot: usize) -> Option<TaskId> {
        let place = self.slots.get(slot).filter(|place| place.task.is_some())?;
        Some(TaskId { slot: u16::try_from(slot).ok()?, generation: place.generation })
    }

    /// Slots that were ever used.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }
}
