//! The replica's state, getters, and the plumbing that every event runs through.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use base::{ByteCount, Epoch, Monotonic, NodeId, VolumeConfig};

use crate::activity_log::{ActivityLog, LogRecord};
use crate::api::{
    Answer, Buffer, Command, DiskOp, DiskResult, DiskToken, Identity, Options, Problem, Request,
    RequestError, Status,
};
use crate::bitmap::Bitmap;
use crate::epoch::Pending;
use crate::handover::{Closing, Wanted};
use crate::job::Job;
use crate::layout::{self, ACTIVITY_LOG, Layout, SUPERBLOCK};
use crate::range_lock::RangeLocks;
use crate::record::{self, Kind as RecordKind, Next, TwoPlaces};
use crate::resize::Resizing;
use crate::resync::Resync;
use crate::rewrite::Rewriting;
use crate::sabotage::Sabotage;
use crate::session::{Incoming, Link};
use crate::slab::Slab;
use crate::superblock::Superblock;
use crate::watch::DiskWatch;

/// Tokens of metadata writes have this bit; the rest is the record's index. Keys of jobs never have it.
const META_TOKEN: u64 = 1 << 63;

/// One volume's copy on one node.
///
/// Fields are grouped by the file that owns them; every event is one `handle_*` call, which ends in [`Self::pump`].
#[derive(Debug)]
pub struct Replica<B> {
    pub(crate) identity: Identity,
    pub(crate) options: Options,
    pub(crate) layout: Layout,
    /// The latest time that an event told.
    pub(crate) now: Monotonic,
    pub(crate) out: VecDeque<Command<B>>,
    pub(crate) sabotage: Sabotage,

    // Metadata (this file).
    pub(crate) superblock: Superblock,
    pub(crate) superblock_record: TwoPlaces,
    superblock_writing: Epoch,
    /// The epoch that both places of the superblock hold (S4).
    pub(crate) durable_epoch: Epoch,
    /// The version in force (rewrite.rs).
    pub(crate) rewriting: Rewriting,
    pub(crate) log: ActivityLog,
    pub(crate) bitmap: Bitmap,
    /// Logged extents of an earlier primary life are being turned into dirty bits (S9); `Some` once only the log's
    /// record is left to write.
    pub(crate) converting: Option<Converting>,

    // Configuration (epoch.rs).
    pub(crate) known: Option<VolumeConfig>,
    /// The epoch of this node as primary that its machine's start ended.
    pub(crate) ended: Option<Epoch>,
    /// The highest epoch learned by any means (S4).
    pub(crate) floor: Epoch,
    /// `known` is not yet acted in.
    pub(crate) adopting: bool,
    /// `known` names this node and this instance (S6).
    pub(crate) primary: bool,
    pub(crate) proposals: Vec<Pending>,
    pub(crate) next_number: u64,
    /// A grow was proposed in this epoch (S8).
    pub(crate) growing: bool,

    // Size (resize.rs).
    pub(crate) resizing: Resizing,

    // Serving (serve.rs).
    pub(crate) serving: bool,
    pub(crate) lease: Option<Monotonic>,
    /// Waiting for the old primary's lease (S5).
    pub(crate) not_before: Monotonic,
    /// Disk writes of an earlier role may still run (S4).
    pub(crate) draining: bool,
    /// A hand-over was proposed in this epoch (S3).
    pub(crate) gave_up: bool,
    /// The disk failed to write (S11).
    pub(crate) failed: bool,
    /// The disk does not answer (watch.rs, S11).
    pub(crate) watch: DiskWatch,
    pub(crate) wanted: Option<Wanted>,
    pub(crate) closing: Option<Closing>,
    pub(crate) stopped: bool,
    /// Requests that wait for the end of an attempt to hand over.
    pub(crate) parked: VecDeque<Request<B>>,

    // Peer (session.rs, timers.rs).
    pub(crate) link: Option<Link>,
    pub(crate) incoming: Option<Incoming>,
    pub(crate) dialling: Option<Monotonic>,
    pub(crate) redial_at: Monotonic,
    /// The peer has said goodbye and is not dialled before.
    pub(crate) left_until: Monotonic,
    /// Since when a peer that must confirm writes has had no open session.
    pub(crate) down_since: Option<Monotonic>,
    pub(crate) resync: Option<Resync>,
    pub(crate) resynced_total: u64,
    pub(crate) checksum_errors: u64,

    // Work (write.rs, read.rs, apply.rs).
    pub(crate) jobs: Slab<Job<B>>,
    pub(crate) locks: RangeLocks,
    /// Jobs that got their range.
    pub(crate) ready: VecDeque<u64>,
    /// Jobs that found no slot in the activity log.
    pub(crate) log_waiting: VecDeque<u64>,
    /// A slot may have become free.
    pub(crate) log_retry: bool,
    /// Jobs whose extents are listed from this change of the log on.
    pub(crate) log_listed: VecDeque<(u64, u64)>,
    /// Applied writes whose activity log number is not durable yet.
    pub(crate) number_waiting: Vec<u64>,
    /// Data writes that the disk works on.
    pub(crate) data_writes: usize,
}

/// How far the conversion of logged extents has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Converting {
    /// Their dirty bits are being written.
    Pages,
    /// The emptied log is being written: this change.
    Log(u64),
}

/// What recovery found, handed to [`Replica::recovered`].
pub(crate) struct Recovered {
    pub(crate) identity: Identity,
    pub(crate) layout: Layout,
    pub(crate) version: u16,
    pub(crate) superblock: Superblock,
    pub(crate) superblock_record: TwoPlaces,
    pub(crate) log: LogRecord,
    pub(crate) log_record: TwoPlaces,
    pub(crate) bitmap: Bitmap,
}

impl<B: Buffer> Replica<B> {
    pub(crate) fn recovered(found: Recovered, options: Options) -> Self {
        let mut superblock = found.superblock;
        superblock.peer.al_number = superblock.peer.al_number.max(found.log.peer_number);
        let mut replica = Self {
            identity: found.identity,
            options,
            layout: found.layout,
            now: Monotonic(0),
            out: VecDeque::new(),
            sabotage: Sabotage::None,
            superblock,
            // S12: an epoch that only one place holds is written again before it is relied on.
            durable_epoch: if found.superblock_record.is_clean() { superblock.epoch } else { Epoch(0) },
            superblock_record: found.superblock_record,
            superblock_writing: superblock.epoch,
            rewriting: Rewriting::found(found.version),
            log: ActivityLog::found(found.layout.al_slots, &found.log, found.log_record),
            bitmap: found.bitmap,
            converting: None,
            known: None,
            ended: None,
            floor: superblock.epoch,
            adopting: false,
            primary: false,
            proposals: Vec::new(),
            next_number: 1,
            growing: false,
            resizing: Resizing::found(found.layout.size),
            serving: false,
            lease: None,
            not_before: Monotonic(0),
            draining: false,
            gave_up: false,
            failed: false,
            watch: DiskWatch::default(),
            wanted: None,
            closing: None,
            stopped: false,
            parked: VecDeque::new(),
            link: None,
            incoming: None,
            dialling: None,
            redial_at: Monotonic(0),
            left_until: Monotonic(0),
            down_since: None,
            resync: None,
            resynced_total: 0,
            checksum_errors: 0,
            jobs: Slab::new(),
            locks: RangeLocks::new(),
            ready: VecDeque::new(),
            log_waiting: VecDeque::new(),
            log_retry: false,
            log_listed: VecDeque::new(),
            number_waiting: Vec::new(),
            data_writes: 0,
        };
        replica.convert_log();
        replica.pump();
        replica
    }

    // Getters.

    /// What reports show.
    #[must_use]
    pub fn status(&self, now: Monotonic) -> Status {
        let known = self.known.as_ref().map_or(Epoch(0), |config| config.epoch);
        Status {
            epoch: known.min(self.durable_epoch),
            usable: self.superblock.inconsistent == Epoch(0)
                && !self.failed
                && !self.watch.aside
                && self.known.is_some(),
            serving: self.gate(now),
            connected: self.link.as_ref().is_some_and(Link::is_open),
            dirty: self.dirty_bytes(),
            resync: self.resync_status(),
            resynced_total: ByteCount(self.resynced_total),
            checksum_errors: self.checksum_errors,
            size: self.size(),
            room: self.room(),
        }
    }

    /// The node that holds the other copy.
    pub(crate) fn peer(&self) -> Option<NodeId> {
        self.known.as_ref()?.replicas.iter().copied().find(|node| *node != self.identity.node)
    }

    /// The peer is in the committed in-sync set.
    pub(crate) fn peer_in_sync(&self) -> bool {
        self.peer()
            .is_some_and(|peer| self.known.as_ref().is_some_and(|config| config.in_sync.contains(&peer)))
    }

    /// Every write needs the peer's confirmation (S1), or may need it (S8).
    pub(crate) fn peer_required(&self) -> bool {
        let growing = self.growing && !self.breaks(Sabotage::AnswerWhileGrowing);
        (self.peer_in_sync() || growing) && !self.breaks(Sabotage::AnswerWithoutShrink)
    }

    /// This node is primary of the newest epoch that it has heard of, and that epoch, its size included, is durable here
    /// (S4, S22).
    pub(crate) fn acting(&self) -> bool {
        self.primary
            && !self.failed
            && !self.watch.aside
            && !self.gave_up
            && !self.resizing.is_under_way()
            && self.durable_epoch >= self.floor
            && self.known.as_ref().is_some_and(|config| config.epoch == self.floor)
    }

    /// Test-only: whether this rule is to be broken.
    pub(crate) fn breaks(&self, rule: Sabotage) -> bool {
        cfg!(feature = "sabotage") && self.sabotage == rule
    }

    /// Test-only: break one rule from now on.
    #[cfg(feature = "sabotage")]
    pub fn set_sabotage(&mut self, rule: Sabotage) {
        self.sabotage = rule;
        self.locks.broken = rule == Sabotage::Overlap;
    }

    // Events.

    /// A disk operation ended.
    pub fn handle_disk(&mut self, now: Monotonic, token: DiskToken, result: DiskResult<B>) {
        self.advance(now);
        if token.0 & META_TOKEN == 0 {
            self.data_ended(token.0, result);
        } else if matches!(result, DiskResult::Failed) {
            self.fail(true);
        } else {
            self.meta_ended(token.0 & !META_TOKEN);
        }
        self.pump();
    }

    // Commands.

    /// The next thing to do; call after every event until `None`.
    pub fn poll_command(&mut self) -> Option<Command<B>> {
        self.out.pop_front()
    }

    // Plumbing.

    pub(crate) fn advance(&mut self, now: Monotonic) {
        self.now = self.now.max(now);
    }

    pub(crate) fn emit(&mut self, command: Command<B>) {
        self.out.push_back(command);
    }

    pub(crate) fn problem(&mut self, problem: Problem) {
        self.emit(Command::Problem(problem));
    }

    /// Runs everything that an event has made possible.
    pub(crate) fn pump(&mut self) {
        loop {
            if let Some(key) = self.ready.pop_front() {
                self.start(key);
            } else if self.log_retry {
                self.retry_log();
            } else {
                break;
            }
        }
        if self.draining && self.data_writes == 0 {
            self.draining = false;
        }
        self.resize_further();
        if self.converting.is_some() {
            self.convert_further();
        }
        self.session_progress();
        if self.resync.is_some() {
            self.resync_pump();
        }
        self.wanted_progress();
        if self.closing.is_some() {
            self.closing_progress();
        }
        self.try_serve();
        self.propose_size();
        self.dial();
        self.rewrite_further();
        self.write_superblock();
        self.write_log();
        if !self.ready.is_empty() {
            self.pump();
        }
    }

    /// The disk failed to write (S11): this copy is out of use until the process restarts and finds it a target.
    pub(crate) fn fail(&mut self, metadata: bool) {
        if self.failed {
            return;
        }
        self.problem(Problem::DiskWriteFailed { metadata });
        self.stop_serving();
        self.failed = true;
        self.drop_link();
    }

    /// Answers a client, if the lease still holds (S5: checked again before the answer goes out).
    pub(crate) fn reply(&mut self, id: crate::api::RequestId, result: Result<Answer<B>, RequestError>) {
        let result = if self.gate(self.now) { result } else { Err(RequestError::NotServing) };
        self.emit(Command::Reply { id, result });
    }

    // Metadata writes.

    fn write_meta(&mut self, index: u32, place: u8, bytes: Vec<u8>) {
        let offset = layout::offset(index, place);
        let token = DiskToken(META_TOKEN | u64::from(index));
        self.emit(Command::Disk { token, op: DiskOp::WriteMeta { offset, bytes } });
    }

    /// The superblock has changed: write it. Returns the change to wait for.
    pub(crate) fn save_superblock(&mut self) -> u64 {
        let change = self.superblock_record.touch();
        self.write_superblock();
        change
    }

    fn write_superblock(&mut self) {
        let (identity, version, content) = (self.identity, self.rewriting.version, self.superblock);
        let begun = self.superblock_record.begin(version, |sequence| {
            record::encode(&identity, version, RecordKind::Superblock, 0, sequence, &content.encode())
        });
        if let Some((place, bytes)) = begun {
            self.superblock_writing = content.epoch;
            self.write_meta(SUPERBLOCK, place, bytes);
        }
    }

    pub(crate) fn write_log(&mut self) {
        let (identity, version) = (self.identity, self.rewriting.version);
        let begun = self.log.begin(version, self.superblock.peer.al_number, |sequence, body| {
            record::encode(&identity, version, RecordKind::ActivityLog, 0, sequence, body)
        });
        if let Some((place, bytes)) = begun {
            self.write_meta(ACTIVITY_LOG, place, bytes);
        }
    }

    pub(crate) fn write_page(&mut self, page: u32) {
        if !self.bitmap.record(page).is_some_and(|record| record.is_due()) {
            return;
        }
        let body = self.bitmap.encode(page);
        let (identity, version) = (self.identity, self.rewriting.version);
        let seal =
            |sequence| record::encode(&identity, version, RecordKind::BitmapPage, page, sequence, &body);
        if let Some((place, bytes)) = self.bitmap.record(page).and_then(|record| record.begin(version, seal))
        {
            self.write_meta(self.layout.first_page + page, place, bytes);
        }
    }

    pub(crate) fn save_bitmap(&mut self, cleared_too: bool) {
        for page in self.bitmap.save_all(cleared_too) {
            self.write_page(page);
        }
    }

    fn meta_ended(&mut self, index: u64) {
        let Ok(index) = u32::try_from(index) else { return };
        // A page that the bitmap has left behind (S22) is none any more.
        let page = index.checked_sub(self.layout.first_page);
        let record = match index {
            SUPERBLOCK => Some(&mut self.superblock_record),
            ACTIVITY_LOG => Some(&mut self.log.record),
            _ => page.and_then(|page| self.bitmap.record(page)),
        };
        match record.map_or(Next::Idle, TwoPlaces::completed) {
            Next::Idle => {}
            Next::Write(place, bytes) => self.write_meta(index, place, bytes),
            Next::Durable => match (index, page) {
                (SUPERBLOCK, _) => self.superblock_durable(),
                (ACTIVITY_LOG, _) => self.log_durable(),
                (_, Some(page)) => {
                    self.log_retry = true;
                    self.write_page(page);
                }
                (_, None) => {}
            },
        }
    }

    fn superblock_durable(&mut self) {
        self.durable_epoch = self.superblock_writing;
        self.adopted_if_durable();
    }

    /// The metadata writes under way: which record, and which write of it.
    pub(crate) fn meta_writes(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let pages = (self.layout.first_page..).zip(self.bitmap.records());
        let records = [(SUPERBLOCK, &self.superblock_record), (ACTIVITY_LOG, &self.log.record)];
        let under_way = |(index, record): (u32, &TwoPlaces)| {
            record.write_under_way().map(|write| (META_TOKEN | u64::from(index), write))
        };
        records.into_iter().chain(pages).filter_map(under_way)
    }

    /// No metadata write is under way.
    pub(crate) fn meta_quiet(&self) -> bool {
        !self.superblock_record.is_writing() && !self.log.record.is_writing() && !self.bitmap.is_writing()
    }

    // S9: extents logged in an earlier primary life become dirty bits before the log is reused.

    pub(crate) fn convert_log(&mut self) {
        if self.log.is_empty() {
            return;
        }
        let per_extent = self.layout.blocks_per_extent();
        for extent in self.log.extents().collect::<Vec<_>>() {
            self.bitmap.set(u64::from(extent) * per_extent, per_extent);
        }
        self.converting = Some(Converting::Pages);
        self.save_bitmap(false);
    }

    fn convert_further(&mut self) {
        if self.resizing.is_under_way() {
            // The log covers what the bitmap has in a place that does not count yet (S22).
            return;
        }
        match self.converting {
            Some(Converting::Pages) if self.bitmap.all_saved(false) => {
                self.converting = Some(Converting::Log(self.log.clear()));
                self.write_log();
            }
            Some(Converting::Log(change)) if self.log.record.is_durable(change) => {
                self.converting = None;
                self.log_retry = true;
            }
            _ => {}
        }
    }
}
