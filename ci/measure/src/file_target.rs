//! This target on one file: the iSCSI service and the disk ring, without replica, lease or peer. What is left of a
//! command's cost when mirroring is taken away.
//!
//! Not for data that anybody wants to keep: overlapping writes are not ordered (S18), which a load of whole, aligned blocks
//! does not notice.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use anyhow::Result;
use base::{ByteCount, ClusterId, Lba, VolumeId};
use control::targets::Access;
use disk::{
    BufferPool, Completion, Disk, Durability, PoolLimits, Readiness, Returned, Ring, RingConfig, Space,
    ZeroMode,
};
use scsi::UnitConfig;
use storage::target::{
    BackendOp, BackendRequest, BlockBackend, Limits, Reply, RequestId, Service, TargetConfig,
};
use storage::vigil::Vigil;
use tokio::sync::Notify;

/// The one target.
pub(crate) const IQN: &str = "iqn.2026-11.local.futago:file";
const BLOCK_BYTES: u64 = 512;

struct File {
    ring: RefCell<Ring>,
    space: Space,
    buffers: BufferPool,
    wake: Notify,
    /// A request came since it was looked for.
    asked: Cell<bool>,
}

impl BlockBackend for File {
    fn submit(&self, request: BackendRequest) {
        let mut ring = self.ring.borrow_mut();
        let (token, space, durable) = (request.id.0, &self.space, Durability::Durable);
        let at = |lba: Lba| lba.0 * BLOCK_BYTES;
        match request.op {
            BackendOp::Read { lba, blocks } => {
                let buffer = self.buffers.take_urgent(blocks as usize * 512).expect("memory");
                ring.read(token, space, at(lba), buffer);
            }
            BackendOp::Write { lba, data, .. } => ring.write(token, space, at(lba), data, durable),
            BackendOp::Zero { lba, blocks, .. } => {
                ring.zero(token, space, at(lba), u64::from(blocks) * BLOCK_BYTES, ZeroMode::Keep, durable);
            }
            BackendOp::Flush => ring.flush(token, space),
            BackendOp::Update { .. } | BackendOp::Reserve(_) => panic!("the load has none"),
        }
        self.asked.set(true);
        self.wake.notify_one();
    }

    fn abort(&self, _: RequestId) {}
}

/// Serves `path`, LUN 0 of [`IQN`], on a port of its own until killed; `tell` gets the address.
pub(crate) fn run(path: &Path, tell: impl FnOnce(SocketAddr) + 'static) -> Result<()> {
    let disk = crate::bare::open(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // As the storage process does it: a task beside the connections' tasks.
    tokio::task::LocalSet::new()
        .block_on(&runtime, async move { tokio::task::spawn_local(serve(disk, tell)).await? })
}

async fn serve(disk: Disk, tell: impl FnOnce(SocketAddr)) -> Result<()> {
    let ring = Ring::new(&RingConfig::default())?;
    let buffers = BufferPool::new(PoolLimits { in_use_bytes: 192 << 20, cached_bytes: 64 << 20 });
    let readiness = Readiness::of(&ring)?;
    let space = Space::of_disk(&disk);
    let ByteCount(size_bytes) = space.len();
    let file = Rc::new(File {
        ring: RefCell::new(ring),
        space,
        buffers: buffers.clone(),
        wake: Notify::new(),
        asked: Cell::new(false),
    });
    let service = Service::new(Limits::default(), buffers, file.clone());
    let unit = UnitConfig::new(ClusterId(1), VolumeId(1), size_bytes / BLOCK_BYTES);
    let luns = BTreeMap::from([(0, unit.into())]);
    service.set_targets(&[TargetConfig { iqn: IQN.into(), luns, access: Access::default() }]);
    service.set_served(VolumeId(1), true);
    service.start("127.0.0.1:0".parse()?)?;
    tell(service.address().expect("open"));
    let mut vigil = Vigil::default();
    loop {
        let mut answered = complete_all(&file, &service);
        file.ring.borrow_mut().submit()?;
        if file.ring.borrow_mut().is_ready() {
            // What ended at once; and a submit after it, as always.
            answered += complete_all(&file, &service);
            file.ring.borrow_mut().submit()?;
        }
        if file.ring.borrow_mut().is_ready() {
            tokio::task::yield_now().await;
            continue;
        }
        file.asked.set(false);
        let came = || file.asked.get() || file.ring.borrow_mut().is_ready();
        let open = file.ring.borrow().open_requests();
        if vigil.look(open, answered, || service.listen(), came).await {
            continue;
        }
        tokio::select! {
            () = file.wake.notified() => {}
            ready = readiness.wait() => ready?,
        }
    }
}

/// Answers what has ended; how many.
fn complete_all(file: &File, service: &Service) -> usize {
    let mut answered = 0;
    while let Some(done) = next(file) {
        answered += 1;
        service.complete(RequestId(done.token), reply(done));
    }
    answered
}

fn next(file: &File) -> Option<Completion> {
    file.ring.borrow_mut().next()
}

fn reply(done: Completion) -> Reply {
    match (done.result, done.buffer) {
        (Err(_), _) => Reply::Medium,
        (Ok(()), Returned::Read(buffer)) => Reply::Data(buffer.freeze()),
        (Ok(()), _) => Reply::Done,
    }
}
