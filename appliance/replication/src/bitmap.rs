//! The dirty bitmap: blocks that the peer may lack.
//!
//! Invariants
//! - `dirty` is the number of set bits.
//! - A page whose bits were set since its last complete write is not `saved`; extents on it stay in the activity log
//!   (S9). Cleared bits may reach the disk late: a stale set bit only costs a needless copy.
//! - A bitmap that grows keeps every set bit; blocks that are added are clean (S22).

use alloc::boxed::Box;
use alloc::vec::Vec;

use base::{DecodeError, Formats, Reader};

use crate::frame::Run;
use crate::layout::{Layout, PAGE_BITS};
use crate::record::{BODY_BYTES, TwoPlaces};

const WORDS: usize = 496;
const WORD_BITS: u64 = 64;
type Words = [u64; WORDS];
const _: () = assert!(WORDS as u64 * WORD_BITS == PAGE_BITS && WORDS * 8 <= BODY_BYTES);

#[derive(Clone, Debug)]
struct Page {
    /// `None`: all clear.
    words: Option<Box<Words>>,
    record: TwoPlaces,
    /// The change that must be durable for every set bit to be on disk.
    saved_at: u64,
    /// The change that must be durable for every cleared bit to be.
    cleared_at: u64,
    /// The change that someone waits for.
    awaited: u64,
}

/// The bitmap in memory.
#[derive(Clone, Debug)]
pub(crate) struct Bitmap {
    pages: Vec<Page>,
    blocks: u64,
    block_bytes: u64,
    blocks_per_extent: u64,
    dirty: u64,
}

impl Page {
    /// As it is formatted: all clear, in both places, in the oldest version or a later one.
    fn blank() -> Self {
        let record = TwoPlaces::found(1, 0, Formats::CURRENT.metadata.oldest);
        Self { words: None, record, saved_at: 0, cleared_at: 0, awaited: 0 }
    }
}

/// The part of a run on one page: page, first bit, bit after the last.
fn parts(start: u64, end: u64) -> impl Iterator<Item = (usize, u64, u64)> {
    let first = start / PAGE_BITS;
    let last = end.saturating_sub(1) / PAGE_BITS;
    let pages = if start < end { first..last + 1 } else { 0..0 };
    pages.filter_map(move |page| {
        let base = page * PAGE_BITS;
        let from = start.max(base) - base;
        let to = end.min(base + PAGE_BITS) - base;
        usize::try_from(page).ok().map(|page| (page, from, to))
    })
}

/// The bits of word `word` that lie in `from..to`.
fn mask(word: u64, from: u64, to: u64) -> u64 {
    let base = word * WORD_BITS;
    let low = from.saturating_sub(base).min(WORD_BITS);
    let high = to.saturating_sub(base).min(WORD_BITS);
    let below = |n: u64| if n >= WORD_BITS { u64::MAX } else { (1 << n) - 1 };
    below(high) & !below(low)
}

fn words_of(from: u64, to: u64) -> (usize, usize) {
    let first = usize::try_from(from / WORD_BITS).unwrap_or(WORDS);
    let last = usize::try_from(to.div_ceil(WORD_BITS)).unwrap_or(WORDS).min(WORDS);
    (first, last.saturating_sub(first))
}

impl Bitmap {
    /// A bitmap without a set bit; pages are then found one by one.
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            pages: (0..layout.pages).map(|_| Page::blank()).collect(),
            blocks: layout.dirty_blocks,
            block_bytes: layout.dirty_block_bytes,
            blocks_per_extent: layout.blocks_per_extent(),
            dirty: 0,
        }
    }

    /// The volume has grown to `layout`, whose further pages are formatted. If its dirty block is another, all pages
    /// are others: every set bit is then unsaved.
    pub(crate) fn grow(&mut self, layout: &Layout) {
        if layout.dirty_block_bytes == self.block_bytes {
            let pages = self.pages.len().max(layout.pages as usize);
            self.pages.resize_with(pages, Page::blank);
            self.blocks = self.blocks.max(layout.dirty_blocks);
            return;
        }
        let mut grown = Self::new(layout);
        let times = (layout.dirty_block_bytes / self.block_bytes).max(1);
        for (page, words) in
            (0u64..).zip(&self.pages).filter_map(|(n, page)| Some((n, page.words.as_deref()?)))
        {
            for (at, word) in (0u64..).zip(words.iter()).filter(|(_, word)| **word != 0) {
                let first = page * PAGE_BITS + at * WORD_BITS;
                for bit in (0..WORD_BITS).step_by(usize::try_from(times.min(WORD_BITS)).unwrap_or(1)) {
                    if word & mask(0, bit, bit + times) != 0 {
                        grown.set((first + bit) / times, 1);
                    }
                }
            }
        }
        *self = grown;
    }

    /// Page `index` as found on disk; unless `both` places held it, it counts as unsaved (S12).
    pub(crate) fn found(
        &mut self,
        index: u32,
        body: &[u8],
        record: TwoPlaces,
        both: bool,
    ) -> Result<(), DecodeError> {
        let mut r = Reader::new("bitmap page", body);
        let mut words: Box<Words> = Box::new([0; WORDS]);
        for word in words.iter_mut() {
            *word = r.u64()?;
        }
        let set: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
        if let Some(page) = self.pages.get_mut(index as usize) {
            page.record = record;
            page.saved_at = if both { 0 } else { page.record.wanted() };
            page.words = (set > 0).then_some(words);
            self.dirty += set;
        }
        Ok(())
    }

    /// Content of page `index` for its record.
    pub(crate) fn encode(&self, index: u32) -> Vec<u8> {
        let words = self.pages.get(index as usize).and_then(|page| page.words.as_deref());
        let mut out = Vec::with_capacity(WORDS * 8);
        for word in words.unwrap_or(&[0; WORDS]) {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// Number of dirty blocks.
    pub(crate) fn dirty(&self) -> u64 {
        self.dirty
    }

    /// Sets `start .. start + count`, clipped to the volume.
    pub(crate) fn set(&mut self, start: u64, count: u64) {
        let end = start.saturating_add(count).min(self.blocks);
        for (index, from, to) in parts(start, end) {
            let Some(page) = self.pages.get_mut(index) else { continue };
            let words = page.words.get_or_insert_with(|| Box::new([0; WORDS]));
            let (skip, take) = words_of(from, to);
            let mut added = 0;
            for (at, word) in (0u64..).zip(words.iter_mut()).skip(skip).take(take) {
                let new = mask(at, from, to) & !*word;
                *word |= new;
                added += u64::from(new.count_ones());
            }
            if added > 0 {
                page.saved_at = page.record.next_change();
                self.dirty += added;
            }
        }
    }

    /// Clears `start .. start + count`, clipped to the volume.
    pub(crate) fn clear(&mut self, start: u64, count: u64) {
        let end = start.saturating_add(count).min(self.blocks);
        for (index, from, to) in parts(start, end) {
            let Some(page) = self.pages.get_mut(index) else { continue };
            let Some(words) = page.words.as_mut() else { continue };
            let (skip, take) = words_of(from, to);
            let mut removed = 0;
            for (at, word) in (0u64..).zip(words.iter_mut()).skip(skip).take(take) {
                let old = mask(at, from, to) & *word;
                *word &= !old;
                removed += u64::from(old.count_ones());
            }
            if removed > 0 {
                page.cleared_at = page.record.next_change();
                self.dirty -= removed;
            }
        }
    }

    /// Sets every bit.
    pub(crate) fn set_all(&mut self) {
        self.set(0, self.blocks);
    }

    /// Clears every bit.
    pub(crate) fn clear_all(&mut self) {
        for page in &mut self.pages {
            if page.words.take().is_some() {
                page.cleared_at = page.record.next_change();
            }
        }
        self.dirty = 0;
    }

    /// Whether any of `start .. start + count` is dirty.
    pub(crate) fn any(&self, start: u64, count: u64) -> bool {
        self.next(start).is_some_and(|block| block < start.saturating_add(count))
    }

    /// The first dirty block at or after `from`.
    fn next(&self, from: u64) -> Option<u64> {
        parts(from, self.blocks).find_map(|(index, first, _)| {
            let words = self.pages.get(index)?.words.as_deref()?;
            let (skip, take) = words_of(first, PAGE_BITS);
            let found = (0u64..).zip(words.iter()).skip(skip).take(take).find_map(|(at, word)| {
                let set = word & mask(at, first, PAGE_BITS);
                (set != 0).then(|| at * WORD_BITS + u64::from(set.trailing_zeros()))
            });
            found.map(|bit| index as u64 * PAGE_BITS + bit)
        })
    }

    fn is_set(&self, block: u64) -> bool {
        self.any(block, 1)
    }

    /// The first run of dirty blocks at or after `from`, of at most `most` blocks.
    pub(crate) fn next_run(&self, from: u64, most: u32) -> Option<Run> {
        let start = self.next(from)?;
        let mut count = 1;
        while count < most && self.is_set(start + u64::from(count)) {
            count += 1;
        }
        Some(Run { start, count })
    }

    fn page_of(&self, extent: u32) -> Option<&Page> {
        let page = u64::from(extent) * self.blocks_per_extent / PAGE_BITS;
        self.pages.get(usize::try_from(page).ok()?)
    }

    /// Whether every set bit of `extent` is on disk.
    pub(crate) fn extent_saved(&self, extent: u32) -> bool {
        self.page_of(extent).is_none_or(|page| page.record.is_durable(page.saved_at))
    }

    /// Asks for the page of `extent` to be written if it has unsaved bits; returns its index.
    pub(crate) fn save_extent(&mut self, extent: u32) -> Option<u32> {
        let page = u64::from(extent) * self.blocks_per_extent / PAGE_BITS;
        let index = u32::try_from(page).ok()?;
        self.ask(index, |page| page.saved_at).then_some(index)
    }

    fn ask(&mut self, index: u32, upto: impl Fn(&Page) -> u64) -> bool {
        let Some(page) = self.pages.get_mut(index as usize) else { return false };
        let change = upto(page);
        if change > page.record.wanted() {
            page.record.touch();
        }
        // One that recovery found in one place only has been asked for, but nobody has begun to write it.
        !page.record.is_durable(change)
    }

    /// Asks for every page with unsaved changes (set, or cleared too) to be written; returns their indices.
    pub(crate) fn save_all(&mut self, cleared_too: bool) -> Vec<u32> {
        let upto = |page: &Page| if cleared_too { page.saved_at.max(page.cleared_at) } else { page.saved_at };
        let pages = u32::try_from(self.pages.len()).unwrap_or(u32::MAX);
        (0..pages).filter(|index| self.ask(*index, upto)).collect()
    }

    /// From now on [`Self::awaited_saved`] asks for the bits that are set now, not for those that follow: on a primary
    /// that serves, there may always be some that are not saved yet.
    pub(crate) fn await_saved(&mut self) {
        for page in &mut self.pages {
            page.awaited = page.saved_at;
        }
    }

    /// Whether every bit that was set at the last [`Self::await_saved`] is on disk.
    pub(crate) fn awaited_saved(&self) -> bool {
        self.pages.iter().all(|page| page.record.is_durable(page.awaited))
    }

    /// Whether every set bit (and every cleared one) is on disk.
    pub(crate) fn all_saved(&self, cleared_too: bool) -> bool {
        self.pages.iter().all(|page| {
            page.record.is_durable(page.saved_at) && (!cleared_too || page.record.is_durable(page.cleared_at))
        })
    }

    /// The writer of page `index`'s record.
    pub(crate) fn record(&mut self, index: u32) -> Option<&mut TwoPlaces> {
        self.pages.get_mut(index as usize).map(|page| &mut page.record)
    }

    /// The writers of all pages' records, in order.
    pub(crate) fn records(&self) -> impl Iterator<Item = &TwoPlaces> {
        self.pages.iter().map(|page| &page.record)
    }

    /// A page write is under way.
    pub(crate) fn is_writing(&self) -> bool {
        self.pages.iter().any(|page| page.record.is_writing())
    }

    /// Counts again.
    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        let set = |page: &Page| -> u64 {
            page.words.iter().flat_map(|words| words.iter()).map(|word| u64::from(word.count_ones())).sum()
        };
        if self.pages.iter().map(set).sum::<u64>() == self.dirty {
            Ok(())
        } else {
            Err("bitmap: wrong number of dirty blocks")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec;
    use base::ByteCount;
    use proptest::prelude::*;

    fn bitmap() -> Bitmap {
        // 70000 blocks on three pages.
        Bitmap::new(&Layout::for_size(ByteCount(70_000 * 4096)).unwrap())
    }

    fn write(bitmap: &mut Bitmap, index: u32) {
        let record = bitmap.record(index).unwrap();
        record.begin(2, |_| vec![]).unwrap();
        record.completed();
        record.completed();
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_blocks(steps in prop::collection::vec((any::<bool>(), 0u64..71_000, 0u64..3000), 1..30)) {
            let mut bitmap = bitmap();
            let mut model = BTreeSet::new();
            for (set, start, count) in steps {
                let range = start..(start + count).min(70_000);
                if set {
                    bitmap.set(start, count);
                    model.extend(range);
                } else {
                    bitmap.clear(start, count);
                    model.retain(|block| !range.contains(block));
                }
                prop_assert_eq!(bitmap.dirty(), model.len() as u64);
                prop_assert_eq!(bitmap.next(start), model.range(start..).next().copied());
            }
            prop_assert_eq!(bitmap.validate(), Ok(()));
            let mut blocks = BTreeSet::new();
            let mut from = 0;
            while let Some(run) = bitmap.next_run(from, 64) {
                blocks.extend(run.start..run.start + u64::from(run.count));
                from = run.start + u64::from(run.count);
            }
            prop_assert_eq!(&blocks, &model);
            let mut read = self::bitmap();
            for index in 0..3 {
                read.found(index, &bitmap.encode(index), TwoPlaces::found(1, 0, 2), true).unwrap();
            }
            prop_assert_eq!((read.dirty(), read.next(0)), (bitmap.dirty(), bitmap.next(0)));
        }
    }

    #[test]
    fn a_grown_bitmap_keeps_its_bits() {
        let size = |blocks: u64| Layout::for_size(ByteCount(blocks * 4096)).unwrap();
        let mut grown = Bitmap::new(&size(1000));
        grown.set(990, 20);
        assert_eq!(grown.dirty(), 10, "clipped to the volume");
        grown.grow(&size(70_000));
        assert_eq!((grown.dirty(), grown.next_run(0, 64)), (10, Some(Run { start: 990, count: 10 })));
        grown.set(69_999, 1);
        assert_eq!((grown.dirty(), grown.validate()), (11, Ok(())));
        assert!(!grown.all_saved(false) && grown.record(2).is_some() && grown.record(3).is_none());
    }

    proptest! {
        #[test]
        fn doubled_blocks_cover_what_was_dirty(
            doubled in 1u32..5, runs in prop::collection::vec((0u64..70_000, 1u64..200), 0..20)
        ) {
            let layout = Layout::for_size(ByteCount(70_000 * 4096)).unwrap();
            let mut grown = Bitmap::new(&layout);
            let mut model = BTreeSet::new();
            for (start, count) in runs {
                grown.set(start, count);
                model.extend((start..(start + count).min(70_000)).map(|block| block >> doubled));
            }
            grown.grow(&Layout { dirty_block_bytes: 4096 << doubled, dirty_blocks: 90_000, ..layout });
            let mut blocks = BTreeSet::new();
            let mut from = 0;
            while let Some(run) = grown.next_run(from, 64) {
                blocks.extend(run.start..run.start + u64::from(run.count));
                from = run.start + u64::from(run.count);
            }
            prop_assert_eq!(&blocks, &model);
            prop_assert_eq!(grown.validate(), Ok(()));
            prop_assert_eq!(grown.all_saved(false), model.is_empty(), "none of it is on disk yet");
        }
    }

    #[test]
    fn set_bits_hold_their_extent_until_saved() {
        let mut bitmap = bitmap();
        assert!(bitmap.extent_saved(0) && bitmap.all_saved(true));
        bitmap.set(1030, 2);
        assert!(!bitmap.extent_saved(1) && bitmap.extent_saved(31), "page 0 holds extents 0 to 30");
        assert_eq!(bitmap.save_extent(1), Some(0));
        assert_eq!(bitmap.save_extent(1), Some(0), "due until it is durable");
        bitmap.record(0).unwrap().begin(2, |_| vec![]).unwrap();
        bitmap.set(5, 1);
        bitmap.record(0).unwrap().completed();
        bitmap.record(0).unwrap().completed();
        assert!(!bitmap.extent_saved(0), "set after the write began");
        assert_eq!(bitmap.save_all(false), [0]);
        bitmap.await_saved();
        write(&mut bitmap, 0);
        assert!(bitmap.all_saved(false));
        bitmap.set(7, 1);
        assert!(bitmap.awaited_saved() && !bitmap.all_saved(false), "what is set later is not waited for");
        bitmap.await_saved();
        assert!(!bitmap.awaited_saved());
        bitmap.save_all(false);
        write(&mut bitmap, 0);
        assert!(bitmap.awaited_saved());
        bitmap.clear_all();
        assert!(bitmap.all_saved(false) && !bitmap.all_saved(true) && !bitmap.is_writing());
        assert_eq!(bitmap.save_all(true), [0]);
        write(&mut bitmap, 0);
        assert!(bitmap.all_saved(true) && !bitmap.any(0, 70_000));
    }
}
