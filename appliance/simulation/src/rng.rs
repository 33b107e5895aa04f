//! All chance in a run comes from here, and so from the seed.

use std::ops::Range;

/// Nanoseconds of true time since the run began, which no node can see.
pub(crate) type Nanos = u64;

/// One millisecond.
pub(crate) const MS: Nanos = 1_000_000;

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Self(seed ^ 0x5851_f42d_4c95_7f2d);
        rng.next();
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in the range, which must not be empty.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    /// True in `n` of 1000 cases.
    pub(crate) fn permille(&mut self, n: u64) -> bool {
        self.next() % 1000 < n
    }

    /// One of them.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let at = self.within(0..of.len() as u64);
        of[usize::try_from(at).unwrap()]
    }

    /// Milliseconds, at a resolution of microseconds.
    pub(crate) fn ms(&mut self, range: Range<u64>) -> Nanos {
        self.within(range.start * 1000..range.end * 1000) * 1000
    }

    /// Mostly short, now and then long: how queues behave.
    pub(crate) fn delay(&mut self, usual: Range<u64>, long_permille: u64, long: Range<u64>) -> Nanos {
        if self.permille(long_permille) { self.ms(long) } else { self.ms(usual) }
    }

    /// Not zero.
    pub(crate) fn id(&mut self) -> u64 {
        self.next() | 1
    }
}
