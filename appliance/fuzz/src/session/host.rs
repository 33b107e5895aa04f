//! The backend's side: counts the memory that the machine holds, keeps commands until they are completed, and checks that a
//! write has arrived whole before it is executed.

use super::initiator::pattern;
use arbitrary::Arbitrary;
use iscsi::chap::Nonce;
use iscsi::login::{Access, Gate, Identity};
use iscsi::pdu::{LoginStatus, TaskFunction};
use iscsi::{CommandView, Completion, Host, Limits, TaskId};
use scsi::{Asc, DataIn, Response, Sense, SenseKey, Status};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Small, so that each is met.
pub(super) const LIMITS: Limits = Limits {
    tasks: 4,
    immediate_tasks: 2,
    memory_bytes: 64 << 10,
    command_bytes: 256 << 10,
    output_bytes: 64 << 10,
    login_time: Duration::from_secs(5),
    ping_after: Duration::from_secs(60),
    ping_time: Duration::from_secs(30),
};

/// Buffers at once: the budget, or one command above it, and the first burst of each task that waits.
pub(super) fn memory_bound() -> usize {
    let tasks = usize::from(LIMITS.tasks + LIMITS.immediate_tasks);
    usize::try_from(LIMITS.memory_bytes.max(LIMITS.command_bytes)).unwrap() + tasks * (64 << 10)
}

/// A buffer that counts itself.
pub(super) struct Counted {
    pub(super) bytes: Vec<u8>,
    live: Rc<Cell<usize>>,
}

impl Counted {
    pub(super) fn new(bytes: Vec<u8>, live: &Rc<Cell<usize>>) -> Self {
        live.set(live.get() + bytes.len());
        Self { bytes, live: Rc::clone(live) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.set(self.live.get() - self.bytes.len());
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Counted {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// A filled buffer.
#[derive(Clone)]
pub(super) struct Shared(Rc<Counted>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// How the backend ends a command.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum How {
    Good,
    Sense { descriptor: bool, information: u64 },
    Busy,
}

/// A command with the backend.
pub(super) struct Seen {
    pub(super) task: TaskId,
    pub(super) view: CommandView,
    /// Its tag, where the initiator model made it.
    pub(super) tag: Option<u32>,
    _data: Option<Counted>,
}

#[derive(Default)]
pub(super) struct FuzzHost {
    pub(super) seen: Vec<Seen>,
    pub(super) at_once: bool,
    pub(super) crowded: bool,
    pub(super) no_memory: bool,
    pub(super) noisy: bool,
    pub(super) live: Rc<Cell<usize>>,
    /// Tasks of other sessions that a function covers.
    pub(super) others: usize,
    /// Their settling is to be told to these functions.
    pub(super) to_settle: Vec<u32>,
    pub(super) settled: usize,
    /// Data-in bytes of each command that was completed, by tag.
    pub(super) done: Vec<(u32, u64)>,
}

/// The tag that [`super::initiator`] hid in the LBA field of a CDB.
fn tag_of(cdb: &[u8; 16]) -> Option<u32> {
    let tag = u32::from_be_bytes([cdb[2], cdb[3], cdb[4], cdb[5]]);
    (matches!(cdb[0], 0x28 | 0x2a) && cdb[2] == 0 && tag != 0).then_some(tag)
}

impl FuzzHost {
    /// How `how` looks for a command, with the data that it asks for.
    pub(super) fn completion(&self, view: &CommandView, how: How) -> (Completion<Shared>, u64) {
        let mut response = match how {
            How::Good => Response::good(),
            How::Busy => Response::status(Status::Busy),
            How::Sense { descriptor, information } => {
                let sense = Sense::new(SenseKey::MediumError, Asc::UNRECOVERED_READ_ERROR)
                    .with_information(information);
                Response::from(Sense { descriptor_format: descriptor, ..sense })
            }
        };
        let mut medium = None;
        match (how, view.cdb[0]) {
            (How::Good, 0x28) => {
                let len = usize::from(view.cdb[7]) << 17 | usize::from(view.cdb[8]) << 9;
                if len as u64 > LIMITS.command_bytes {
                    // As the device server does.
                    return (Response::from(Sense::illegal(Asc::INVALID_FIELD_IN_CDB)).into(), 0);
                }
                response.data_in = DataIn::Medium { len_bytes: len as u64 };
                let tag = tag_of(&view.cdb).unwrap_or(0);
                let bytes = (0..len).map(|at| pattern(tag, at)).collect();
                medium = Some(Shared(Rc::new(Counted::new(bytes, &self.live))));
            }
            (How::Good, 0x12) => {
                let len = usize::from(view.cdb[3]) << 8 | usize::from(view.cdb[4]);
                response.data_in = DataIn::Parameters((0..len).map(|at| pattern(0, at)).collect());
            }
            _ => {}
        }
        let len = response.data_in.len_bytes();
        (Completion { response, medium }, len)
    }
}

impl Gate for FuzzHost {
    fn access(&mut self, _: &str, _: Option<&str>) -> Access {
        Access::Open
    }
    fn nonce(&mut self) -> Nonce {
        Nonce { id: 0, challenge: [0; 16] }
    }
    fn open_session(&mut self, _: &Identity) -> Result<u16, LoginStatus> {
        Ok(1)
    }
}

impl Host for FuzzHost {
    type Filling = Counted;
    type Shared = Shared;

    fn has_room(&self, _: u64) -> bool {
        !self.crowded
    }

    fn allocate(&mut self, len_bytes: usize) -> Option<Counted> {
        (!self.no_memory).then(|| Counted::new(vec![0xee; len_bytes], &self.live))
    }

    fn execute(
        &mut self,
        task: TaskId,
        view: &CommandView,
        data_out: Option<Counted>,
    ) -> Option<Completion<Shared>> {
        let tag = tag_of(&view.cdb);
        if let Some(tag) = tag.filter(|_| !self.noisy && view.cdb[0] == 0x2a) {
            let len = usize::from(view.cdb[7]) << 17 | usize::from(view.cdb[8]) << 9;
            let wanted = len.min(view.offered_bytes as usize);
            let data = data_out.as_ref().map_or(&[][..], AsRef::as_ref);
            assert_eq!(data.len(), wanted, "data of write {tag:#x}");
            let bad = data.iter().enumerate().position(|(at, byte)| *byte != pattern(tag, at));
            assert_eq!(bad, None, "write {tag:#x} of {wanted} bytes is executed with a wrong byte");
        }
        if self.at_once {
            let (completion, len) = self.completion(view, How::Good);
            self.done.extend(tag.map(|tag| (tag, len)));
            return Some(completion);
        }
        self.seen.push(Seen { task, view: *view, tag, _data: data_out });
        None
    }

    fn targets(&mut self, _: &str, visit: &mut dyn FnMut(&str)) {
        (0..40).for_each(|number| visit(&format!("iqn.2026-11.x:{number:04}")));
    }

    fn has_unit(&self, lun: [u8; 8]) -> bool {
        lun[..7] == [0; 7]
    }

    fn abort_others(&mut self, _: TaskFunction, _: [u8; 8], management: u32) -> usize {
        self.to_settle.extend(std::iter::repeat_n(management, self.others));
        self.others
    }

    fn reset(&mut self, _: TaskFunction, _: [u8; 8]) {}

    fn cancel(&mut self, task: TaskId) {
        assert!(self.seen.iter().any(|seen| seen.task == task), "a task that the backend does not have");
    }

    fn settled(&mut self, token: u64) {
        assert_eq!(token, 77);
        self.settled += 1;
    }
}
