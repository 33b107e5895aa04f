//! The storage process's own judgement: may it serve this volume at this moment?

use super::{Clocks, GapDetector};
use base::{Epoch, EpochReason, InstanceId, Monotonic, VolumeConfig, VolumeId};
use control::link::Lease;
use control::settings::Timing;

/// Holds the last lease that was told and judges it.
#[derive(Clone, Debug)]
pub struct Guard {
    instance: InstanceId,
    timing: Timing,
    clocks: GapDetector,
    lease: Option<Lease>,
    /// Requests sent before this moment count for nothing.
    not_before: Monotonic,
}

impl Guard {
    /// The guard of the storage process `instance`.
    #[must_use]
    pub fn new(instance: InstanceId, timing: Timing) -> Self {
        Self { instance, timing, clocks: GapDetector::default(), lease: None, not_before: Monotonic(0) }
    }

    /// Call at least every `renew`, and before every judgement: notices that the process or the machine stood still
    /// longer than a lease, or that the clocks went apart; either voids the lease.
    pub fn handle_clocks(&mut self, now: Clocks) {
        if self.clocks.gap(now, self.timing.lease, self.timing.drift) {
            self.lease = None;
            self.not_before = now.boot;
        }
    }

    /// A lease came from the cluster manager. One for another process, or that was asked for before a pause, is none.
    pub fn handle_lease(&mut self, lease: Lease, now: Clocks) {
        self.handle_clocks(now);
        if lease.instance != self.instance || lease.sent_at < self.not_before || lease.sent_at > now.boot {
            return;
        }
        self.lease = Some(lease);
    }

    /// Until when `volume` may be served; `None`: not now. Ask after the receipt of each command and again before its
    /// answer goes out.
    #[must_use]
    pub fn valid_until(&self, volume: VolumeId, now: Monotonic) -> Option<Monotonic> {
        let lease = self.lease.as_ref().filter(|lease| lease.volumes.contains(&volume))?;
        let until = lease.sent_at + self.timing.lease;
        (now < until && now >= lease.sent_at).then_some(until)
    }
}

/// How long a new primary waits for its predecessor's lease to end (S5).
///
/// Make one when this process first learns of the committed epoch that made it primary, and keep it through the later
/// epochs of the same tenure. A process that restarts is not primary any more (S6) and waits anew after its promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitForOldLease {
    until: Monotonic,
}

impl WaitForOldLease {
    /// `config` made this process primary and was learned at `now`.
    ///
    /// There is nothing to wait for after a hand-over (the old primary served nothing from proposing it), and in the
    /// first epoch that ever had a primary (epoch 1 is the volume's creation).
    #[must_use]
    pub fn new(config: &VolumeConfig, now: Monotonic, timing: &Timing) -> Self {
        let nobody_before = match config.reason {
            EpochReason::HandedOver => true,
            EpochReason::Promoted => config.epoch == Epoch(2),
            EpochReason::Created
            | EpochReason::Shrunk
            | EpochReason::Grown
            | EpochReason::Resized
            | EpochReason::Copies => false,
        };
        Self { until: if nobody_before { now } else { now + timing.lease + timing.drift } }
    }

    /// When it is over.
    #[must_use]
    pub fn until(self) -> Monotonic {
        self.until
    }

    /// Whether it is over.
    #[must_use]
    pub fn over(self, now: Monotonic) -> bool {
        now >= self.until
    }
}
