//! A replica's records on disk: a formatted metadata area with any records damaged, changed, or changed and sealed again.
//!
//! Checked: recovery ends within the pieces that it asks for, in an error or a replica; a replica that came of it tells its
//! status and its first commands, whose writes lie within the areas.

use arbitrary::{Arbitrary, Unstructured};
use base::formats::META_VERSION;
use base::{ByteCount, ClusterId, Epoch, InstanceId, Monotonic, NodeId, ReplicaId, VolumeId, crc32c};
use core::ops::Range;
use core::time::Duration;
use replication::{Buffer, Identity, Layout, Options, RECORD_BYTES, Recovery, Replica, Timing, format};

const IDENTITY: Identity =
    Identity { cluster: ClusterId(1), volume: VolumeId(2), node: NodeId(3), replica: ReplicaId(4) };
const SECOND: Duration = Duration::from_secs(1);
const OPTIONS: Options = Options {
    instance: InstanceId(9),
    timing: Timing { lease: SECOND, drift: Duration::from_millis(10), renew: SECOND, peer: SECOND },
};

/// Data that is never looked at.
#[derive(Clone)]
struct NoData(usize);

impl Buffer for NoData {
    fn len(&self) -> usize {
        self.0
    }
    fn slice(&self, range: Range<usize>) -> Self {
        Self(range.len())
    }
    fn crc32c(&self) -> u32 {
        0
    }
}

#[derive(Arbitrary, Debug)]
enum Edit {
    /// Other bytes in both places of a record, sealed again or not.
    Both { record: u8, at: u16, bytes: [u8; 8], len: u8, seal: bool },
    /// In one place.
    One { record: u8, second: bool, at: u16, bytes: [u8; 8], len: u8, seal: bool },
    /// A whole record moves to another's place.
    Move { from: u8, to: u8 },
    /// A place can't be read.
    Unreadable { piece: u8 },
}

/// One recovery.
pub fn target(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((mib, created, in_sync, meta_off)) = input.arbitrary::<(u8, Option<u64>, bool, i8)>() else {
        return;
    };
    // Up to 512 MiB: some bitmap pages.
    let size = ByteCount(u64::from(mib) * (2 << 20) + 4096);
    let layout = Layout::for_size(size).expect("a size that can be");
    let mut area = vec![0; usize::try_from(layout.meta_len.0).unwrap()];
    for (offset, bytes) in
        format(IDENTITY, size, created.map(Epoch), in_sync, META_VERSION).expect("a size that can be")
    {
        let begin = usize::try_from(offset).unwrap();
        area[begin..begin + bytes.len()].copy_from_slice(&bytes);
    }
    let mut unreadable = Vec::new();
    while !input.is_empty() {
        let Ok(edit) = input.arbitrary::<Edit>() else { break };
        apply(&mut area, &edit, &mut unreadable);
    }
    let meta_len = match meta_off {
        0..100 => layout.meta_len,
        off => ByteCount(layout.meta_len.0.saturating_add_signed(i64::from(off) * 8192)),
    };
    recover(&area, meta_len, &unreadable, size);
}

fn apply(area: &mut [u8], edit: &Edit, unreadable: &mut Vec<usize>) {
    let records = area.len() / RECORD_BYTES / 2;
    match *edit {
        Edit::Both { record, at, bytes, len, seal } => {
            let record = usize::from(record) % records;
            for place in 0..2 {
                write(area, record + place * records, at, &bytes[..usize::from(len % 9)], seal);
            }
        }
        Edit::One { record, second, at, bytes, len, seal } => {
            let record = usize::from(record) % records + if second { records } else { 0 };
            write(area, record, at, &bytes[..usize::from(len % 9)], seal);
        }
        Edit::Move { from, to } => {
            let begin = usize::from(from) % (2 * records) * RECORD_BYTES;
            area.copy_within(begin..begin + RECORD_BYTES, usize::from(to) % (2 * records) * RECORD_BYTES);
        }
        Edit::Unreadable { piece } => unreadable.push(usize::from(piece % 8)),
    }
}

fn write(area: &mut [u8], record: usize, at: u16, bytes: &[u8], seal: bool) {
    let record = &mut area[record * RECORD_BYTES..(record + 1) * RECORD_BYTES];
    // Mostly where something stands: header and the body's first bytes.
    let at = usize::from(if at & 1 == 0 { at / 2 % 160 } else { at / 2 }) % (RECORD_BYTES - 12);
    record[at..at + bytes.len()].copy_from_slice(bytes);
    if seal {
        let crc = crc32c(&record[..RECORD_BYTES - 4]);
        record[RECORD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    }
}

fn recover(area: &[u8], meta_len: ByteCount, unreadable: &[usize], size: ByteCount) {
    let mut recovery = Recovery::new(IDENTITY, meta_len);
    let mut pieces = 0;
    while let Some(wanted) = recovery.wanted() {
        let end = wanted.offset + u64::from(wanted.len);
        assert!(end <= meta_len.0 || meta_len.0 < (RECORD_BYTES * 4) as u64, "{wanted:?} of {meta_len}");
        let range = usize::try_from(wanted.offset).unwrap()..usize::try_from(end).unwrap();
        let bytes = area.get(range).filter(|_| !unreadable.contains(&pieces));
        recovery.supply(bytes);
        pieces += 1;
        assert!(pieces < 10_000, "recovery never ends");
    }
    let Ok(mut replica) = recovery.finish::<NoData>(OPTIONS) else { return };
    let status = replica.status(Monotonic(0));
    assert!(status.dirty.0 <= size.0, "{status:?} of {size}");
    first_commands(&mut replica);
}

fn first_commands(replica: &mut Replica<NoData>) {
    for second in 0..4 {
        while let Some(_command) = replica.poll_command() {}
        if let Some(due) = replica.poll_timeout() {
            let now = Monotonic(due.0.max(second * 1_000_000_000));
            replica.handle_timeout(now);
        }
    }
}
