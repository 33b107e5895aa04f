//! Volumes in memory, for tests: answers at once, or holds requests back until told to go on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, dead_code)]
#![allow(missing_docs, unreachable_pub)]

use base::{Lba, VolumeId};
use disk::{Buffer, BufferPool};
use futago_storage::target::{BackendOp, BackendRequest, BlockBackend, Decision, Reply, RequestId, Service};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

pub struct RamBackend {
    buffers: BufferPool,
    service: RefCell<Option<Service>>,
    volumes: RefCell<BTreeMap<VolumeId, Vec<u8>>>,
    held: RefCell<VecDeque<BackendRequest>>,
    holding: Cell<bool>,
    refusing: Cell<bool>,
}

impl RamBackend {
    pub fn new(buffers: BufferPool) -> Self {
        Self {
            buffers,
            service: RefCell::new(None),
            volumes: RefCell::default(),
            held: RefCell::default(),
            holding: Cell::new(false),
            refusing: Cell::new(false),
        }
    }

    pub fn attach(&self, service: Service) {
        *self.service.borrow_mut() = Some(service);
    }

    pub fn add(&self, volume: VolumeId, len_bytes: u64) {
        self.volumes.borrow_mut().insert(volume, vec![0; usize::try_from(len_bytes).unwrap()]);
    }

    /// Requests wait from now on, or those that wait are done now.
    pub fn hold(&self, hold: bool) {
        self.holding.set(hold);
        while !self.holding.get() {
            let Some(request) = self.held.borrow_mut().pop_front() else { break };
            self.answer(request);
        }
    }

    /// Every request is answered "not served" from now on.
    pub fn refuse(&self) {
        self.refusing.set(true);
    }

    pub fn held(&self) -> usize {
        self.held.borrow().len()
    }

    pub fn bytes(&self, volume: VolumeId, at: usize, len: usize) -> Vec<u8> {
        self.volumes.borrow()[&volume][at..at + len].to_vec()
    }

    fn answer(&self, request: BackendRequest) {
        let reply = if self.refusing.get() { Reply::NotServed } else { self.run(&request) };
        let service = self.service.borrow().clone();
        service.unwrap().complete(request.id, reply);
    }

    fn run(&self, request: &BackendRequest) -> Reply {
        let mut volumes = self.volumes.borrow_mut();
        let bytes = volumes.get_mut(&request.volume).unwrap();
        match &request.op {
            BackendOp::Read { lba, blocks } => {
                let source = window(bytes, *lba, *blocks as usize * 512);
                let mut buffer = self.buffers.take_urgent(source.len()).unwrap();
                buffer.as_mut_slice().copy_from_slice(source);
                Reply::Data(buffer.freeze())
            }
            BackendOp::Write { lba, data, .. } => {
                store(bytes, *lba, data);
                Reply::Done
            }
            BackendOp::Zero { lba, blocks, .. } => {
                window(bytes, *lba, *blocks as usize * 512).fill(0);
                Reply::Done
            }
            BackendOp::Flush | BackendOp::Reserve(_) => Reply::Done,
            BackendOp::Update { lba, blocks, update } => {
                let current = window(bytes, *lba, *blocks as usize * 512);
                match update.decide(current, &self.buffers) {
                    Decision::Write(data) => {
                        store(bytes, *lba, &data);
                        Reply::Done
                    }
                    Decision::Miscompare(offset) => Reply::Miscompare(offset),
                    Decision::OutOfMemory => Reply::Failed,
                }
            }
        }
    }
}

fn window(bytes: &mut [u8], lba: Lba, len: usize) -> &mut [u8] {
    let begin = usize::try_from(lba.0).unwrap() * 512;
    &mut bytes[begin..begin + len]
}

fn store(bytes: &mut [u8], lba: Lba, data: &Buffer) {
    window(bytes, lba, data.len()).copy_from_slice(data.as_slice());
}

impl BlockBackend for RamBackend {
    fn submit(&self, request: BackendRequest) {
        if self.holding.get() {
            self.held.borrow_mut().push_back(request);
        } else {
            self.answer(request);
        }
    }

    fn abort(&self, _id: RequestId) {}
}
