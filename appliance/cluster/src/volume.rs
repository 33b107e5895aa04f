//! Who may change a volume's configuration, and to what (S2, S3, S8, S21, S22).

use crate::command::{Outcome, Refusal, RefusalKind, Severity};
use crate::state::{ClusterState, LastNumber, check_growth};
use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use base::{ByteCount, Change, EpochReason, NodeId, Proposal, VolumeConfig, VolumeId};

impl ClusterState {
    /// Applies a proposal if it acted on the present epoch and its proposer may make it.
    pub(crate) fn propose(&mut self, proposal: &Proposal) -> Outcome {
        let names: Vec<(NodeId, String)> = self.members.values().map(|m| (m.node, m.name.clone())).collect();
        let Some(entry) = self.volumes.get_mut(&proposal.volume) else {
            return Outcome::Refused(Refusal::new(
                RefusalKind::NotFound,
                format!("volume {} does not exist", proposal.volume),
            ));
        };
        let promotion = matches!(proposal.change, Change::Promote);
        let last = if promotion { &mut entry.promotions } else { &mut entry.proposals };
        let id = proposal.id;
        // S21: at most once. A proposal of another instance of the same node starts the count anew; one of a process
        // that is gone can at most apply to the very epoch that it saw.
        if let Some(seen) = last.get(&id.proposer)
            && seen.instance == id.instance
            && id.number <= seen.number
        {
            let made = if seen.number == id.number { seen.made } else { None };
            return Outcome::Repeated { made };
        }
        let result = if proposal.expected == entry.config.epoch {
            changed(&entry.config, entry.wanted_size, proposal).map(Some)
        } else {
            Ok(None)
        };
        let made = match &result {
            Ok(Some(config)) => Some(config.epoch),
            Ok(None) | Err(_) => None,
        };
        last.insert(id.proposer, LastNumber { instance: id.instance, number: id.number, made });
        match result {
            Ok(None) => Outcome::Stale { epoch: entry.config.epoch },
            Err(mut refusal) => {
                refusal.message = format!("volume {}: {}", entry.name, refusal.message);
                Outcome::Refused(refusal)
            }
            Ok(Some(config)) => {
                // S2: it raises the epoch, and is no news to anybody.
                let again = config.reason == EpochReason::Shrunk && config.in_sync == entry.config.in_sync;
                let told = (!again).then(|| describe(&entry.name, &config, &names));
                entry.config = config;
                entry.wanted_size = entry.wanted_size.filter(|size| *size > entry.config.size);
                told.map_or_else(Outcome::done, |(severity, text)| Outcome::told(severity, text))
            }
        }
    }
}

impl ClusterState {
    /// S22: what the administrator wants. The size changes when the primary proposes it.
    pub(crate) fn grow_volume(&mut self, name: &str, size: ByteCount) -> Result<Outcome, Refusal> {
        let Some(entry) = self.volumes.values_mut().find(|entry| entry.name == name) else {
            return Err(Refusal::new(RefusalKind::NotFound, format!("volume {name} does not exist")));
        };
        check_growth(entry.config.size, size)
            .map_err(|why| Refusal::new(RefusalKind::Invalid, format!("volume {name}: {why}")))?;
        match entry.wanted_size {
            Some(wanted) if wanted == size => Ok(Outcome::done()),
            // Its copies are making room for another size at this moment.
            Some(wanted) => Err(Refusal::new(
                RefusalKind::InUse,
                format!("volume {name} is growing to {wanted} already; wait until it has that size"),
            )),
            None => {
                entry.wanted_size = Some(size);
                entry.not_grown = None;
                let text = format!("Volume {name} is to grow from {} to {size}.", entry.config.size);
                Ok(Outcome::told(Severity::Info, text))
            }
        }
    }

    /// S22: a node has no room. The primary's proposal of that size is refused from now on.
    pub(crate) fn end_growth(&mut self, volume: VolumeId, size: ByteCount, reason: &str) -> Outcome {
        match self.volumes.get_mut(&volume) {
            Some(entry) if entry.wanted_size == Some(size) => {
                entry.wanted_size = None;
                entry.not_grown = Some(reason.into());
                let text = format!(
                    "Volume {} does not grow to {size}, it keeps {}: {reason}.",
                    entry.name, entry.config.size
                );
                Outcome::told(Severity::Warning, text)
            }
            _ => Outcome::done(),
        }
    }
}

/// The configuration that `proposal`, which acted on the present epoch, makes of `config`.
fn changed(
    config: &VolumeConfig,
    wanted_size: Option<ByteCount>,
    proposal: &Proposal,
) -> Result<VolumeConfig, Refusal> {
    let mut next = config.clone();
    next.epoch = config.epoch.next();
    match &proposal.change {
        Change::Promote => promote(&mut next, proposal)?,
        Change::HandOver { to, instance, leaves } => {
            by_primary(config, proposal)?;
            if Some(*to) == config.primary {
                return refused("a hand-over to the primary itself");
            }
            if !config.in_sync.contains(to) {
                return refused("a hand-over to a node that is not in sync");
            }
            if instance.0 == 0 {
                return refused("a hand-over to no storage process");
            }
            if *leaves {
                next.in_sync.remove(&proposal.id.proposer);
            }
            next.primary = Some(*to);
            next.primary_instance = *instance;
            next.reason = EpochReason::HandedOver;
        }
        Change::Shrink { keep } => {
            by_primary(config, proposal)?;
            shrink(&mut next, keep)?;
        }
        Change::Grow { add } => {
            by_primary(config, proposal)?;
            if !config.replicas.contains(add) {
                return refused("a node without a copy can't be in sync");
            }
            if !next.in_sync.insert(*add) {
                return refused("the node is in sync already");
            }
            next.reason = EpochReason::Grown;
        }
        Change::Resize { size } => {
            by_primary(config, proposal)?;
            check_growth(config.size, *size).map_err(|why| Refusal::new(RefusalKind::Invalid, why))?;
            if wanted_size != Some(*size) {
                return refused("a size that nobody wants any more");
            }
            next.size = *size;
            next.reason = EpochReason::Resized;
        }
    }
    Ok(next)
}

/// S3: a member of the in-sync set makes itself primary, with the storage process that proposes it (S6), and is then
/// alone in sync. The first promotion of a new volume is no exception, although its copies are equal: the peer joins as
/// soon as it is connected (nothing is dirty for it), and until then no write waits for it.
fn promote(next: &mut VolumeConfig, proposal: &Proposal) -> Result<(), Refusal> {
    let id = proposal.id;
    if !next.in_sync.contains(&id.proposer) {
        return refused("a node that is not in sync can't become primary");
    }
    if id.instance.0 == 0 {
        return refused("a promotion of no storage process");
    }
    if next.primary == Some(id.proposer) && next.primary_instance == id.instance {
        return refused("this storage process is primary already");
    }
    next.primary = Some(id.proposer);
    next.primary_instance = id.instance;
    next.in_sync = BTreeSet::from([id.proposer]);
    next.reason = EpochReason::Promoted;
    Ok(())
}

/// S2: the primary goes on with fewer. The epoch rises even if nothing else changes: only that kills a delayed grow.
fn shrink(next: &mut VolumeConfig, keep: &BTreeSet<NodeId>) -> Result<(), Refusal> {
    if !next.primary.is_some_and(|primary| keep.contains(&primary)) {
        return refused("the primary can't leave the in-sync set");
    }
    if !keep.is_subset(&next.in_sync) {
        return refused("a shrink can't add to the in-sync set");
    }
    next.in_sync.clone_from(keep);
    next.reason = EpochReason::Shrunk;
    Ok(())
}

/// S3: all but a promotion is the serving storage process's to propose.
fn by_primary(config: &VolumeConfig, proposal: &Proposal) -> Result<(), Refusal> {
    if config.primary != Some(proposal.id.proposer) {
        return refused("only the primary may propose this");
    }
    if config.primary_instance != proposal.id.instance {
        return refused("proposed by a storage process that is not the primary");
    }
    Ok(())
}

fn refused<T>(why: &str) -> Result<T, Refusal> {
    Err(Refusal::new(RefusalKind::Refused, why.into()))
}

/// One sentence for the event list.
fn describe(volume: &str, config: &VolumeConfig, names: &[(NodeId, String)]) -> (Severity, String) {
    let name = |node: NodeId| names.iter().find(|n| n.0 == node).map_or("an unknown node", |n| n.1.as_str());
    let primary = config.primary.map_or("nobody", name);
    let mut in_sync: Vec<&str> = config.in_sync.iter().map(|node| name(*node)).collect();
    in_sync.sort_unstable();
    let in_sync = in_sync.join(", ");
    let (severity, what) = match config.reason {
        EpochReason::Created => (Severity::Info, "created".into()),
        EpochReason::Promoted => (Severity::Warning, format!("{primary} became primary")),
        EpochReason::HandedOver => (Severity::Info, format!("handed over to {primary}")),
        EpochReason::Shrunk => (Severity::Warning, format!("{primary} goes on without its peer")),
        EpochReason::Grown => (Severity::Info, "a copy is in sync again".into()),
        EpochReason::Resized => (Severity::Info, format!("grown to {}", config.size)),
        EpochReason::Copies => (Severity::Info, "its copies changed".into()),
    };
    (severity, format!("Volume {volume}: {what} (epoch {}, in sync: {in_sync}).", config.epoch.0))
}
