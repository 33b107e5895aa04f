//! What this process tells of itself: on change, and every `renew`.

use base::ByteCount;
use control::link::{Report, ResyncReport, ToCluster, VolumeReport};
use replication::Layout;

use super::volume::Volume;
use super::{Engine, clock};

impl Engine {
    /// Sends a report if something changed or the last one is old.
    pub(super) fn report_if_due(&mut self) {
        let Some(state) = &self.state else { return };
        let now = clock::now();
        if self.last_report.as_ref().is_some_and(|(at, _)| now.since(*at) < state.timing.renew / 4) {
            return;
        }
        let report = self.report();
        let due = match &self.last_report {
            Some((at, last)) => *last != report || now.since(*at) >= state.timing.renew,
            None => true,
        };
        if due {
            self.tell(ToCluster::Report(report.clone()));
            self.last_report = Some((now, report));
        }
    }

    fn report(&self) -> Report {
        let (free, capacity) = self.opener.space();
        let largest = Some(self.opener.largest());
        let mut problems = self.opener.problems();
        problems.extend(self.portal.problem());
        problems.extend(self.volumes.values().flat_map(Volume::problems));
        problems.extend(self.volumes.values().filter_map(Volume::lacks_room));
        Report {
            instance: self.instance,
            free,
            largest,
            capacity,
            unopened: self.opener.unopened(),
            volumes: self.volumes.values().map(volume_report).collect(),
            sessions: self.portal.sessions(),
            problems,
        }
    }
}

fn volume_report(volume: &Volume) -> VolumeReport {
    let status = volume.replica.status(clock::now());
    let logged = Layout::for_size(volume.config.size)
        .map_or(0, |layout| u64::from(layout.al_slots).saturating_mul(replication::EXTENT_BYTES));
    VolumeReport {
        volume: volume.id,
        epoch: status.epoch,
        usable: status.usable,
        serving: status.serving,
        dirty: status.dirty,
        resync: status.resync.map(|resync| ResyncReport {
            target: resync.target,
            total: resync.total,
            left: resync.left,
            bytes_per_s: resync.bytes_per_s,
        }),
        resynced_total: status.resynced_total,
        logged: ByteCount(logged),
        room: status.room,
        no_room: volume.no_room.clone(),
    }
}
