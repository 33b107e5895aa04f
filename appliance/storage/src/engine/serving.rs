//! What initiators see of this node: targets, the portal and its floating address.
//!
//! Invariants
//! - The portal is open, and the floating address held, only while a replica here serves (S5). Closing it resets every
//!   session; nothing is sent to an initiator afterwards.
//! - Targets and units are made from the committed state alone, so both nodes show the same.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use base::{ByteCount, Monotonic, VolumeId};
use control::link::{CommittedState, SessionReport};
use control::settings::Settings;
use control::targets::{BlockFormat, Mapping, Target};
use netconf::FloatingAddress;
use scsi::UnitConfig;

use super::{Engine, InitiatorEvent, Input, clock};
use crate::inbox::Inbox;
use crate::target::{
    BackendRequest, BlockBackend, Limits, Lun, Reply, RequestId, Service, SessionInfo, TargetConfig,
};

/// The target's way to the engine.
struct ToEngine(Inbox<Input>);

impl BlockBackend for ToEngine {
    fn submit(&self, request: BackendRequest) {
        self.0.push(Input::Initiator(InitiatorEvent::Request(request)));
    }

    fn abort(&self, id: RequestId) {
        self.0.push(Input::Initiator(InitiatorEvent::Abort(id)));
    }
}

/// The portal of this node.
pub(crate) struct Portal {
    service: Service,
    interface: Option<(String, u8)>,
    address: Option<SocketAddr>,
    targets: Vec<TargetConfig>,
    served: BTreeSet<VolumeId>,
    floating: Option<FloatingAddress>,
    problem: Option<Problem>,
}

/// Why the portal is not open where it should be.
struct Problem {
    text: String,
    since: Monotonic,
    /// It has lasted longer than [`MOMENT`].
    lasts: bool,
}

/// Who served before may hold the address so long, where both are on one machine.
const MOMENT: Duration = Duration::from_secs(1);

impl Problem {
    /// `text` is so at `now`; `before` is what was so until then. The second value: now it is to be told.
    fn next(before: Option<Self>, text: String, now: Monotonic) -> (Self, bool) {
        let before = before.filter(|before| before.text == text);
        let (since, told) = before.map_or((now, false), |before| (before.since, before.lasts));
        let lasts = now.since(since) >= MOMENT;
        (Self { text, since, lasts }, lasts && !told)
    }
}

/// The portal as `settings` describe it, closed. A floating address that a former life left behind is removed.
pub(crate) fn portal(settings: &Settings, buffers: disk::BufferPool, inbox: Inbox<Input>) -> Portal {
    let interface = settings.portal_interface.clone().map(|name| (name, settings.portal_prefix_len));
    Portal {
        service: Service::new(Limits::default(), buffers, Rc::new(ToEngine(inbox))),
        interface,
        address: None,
        targets: Vec::new(),
        served: BTreeSet::new(),
        floating: None,
        problem: None,
    }
}

impl Portal {
    /// Answers a request.
    pub(super) fn complete(&self, id: RequestId, reply: Reply) {
        self.service.complete(id, reply);
    }

    /// See [`Service::listen`].
    pub(super) fn listen(&self) {
        self.service.listen();
    }

    /// Takes portal, targets, units and their reservations over from the committed state; a volume that is open here has
    /// the size that its replica serves (S22).
    pub(super) fn set_targets(
        &mut self,
        state: &CommittedState,
        size: impl Fn(VolumeId) -> Option<ByteCount>,
    ) {
        if self.address != state.portal {
            self.close();
            self.address = state.portal;
            self.forget_former_life();
        }
        let targets: Vec<TargetConfig> =
            state.targets.iter().map(|target| shown(state, target, &size)).collect();
        if targets != self.targets {
            self.service.set_targets(&targets);
            self.targets = targets;
            self.show_served();
        }
        for volume in &state.volumes {
            self.service.set_reservations(volume.config.volume, &volume.reservations.state);
        }
    }

    fn show_served(&self) {
        for volume in self.targets.iter().flat_map(|target| target.luns.values()).map(|lun| lun.unit.volume) {
            self.service.set_served(volume, self.served.contains(&volume));
        }
    }

    /// A process that died while it served may have left the address on the link.
    fn forget_former_life(&self) {
        if let (Some((interface, prefix_len)), Some(address)) = (&self.interface, self.address)
            && let Err(error) = FloatingAddress::remove(interface, address.ip(), *prefix_len)
        {
            tracing::warn!("floating address {address} can't be removed from {interface}: {error}");
        }
    }

    /// Opens or closes according to what is served.
    fn update(&mut self) {
        self.show_served();
        if self.served.is_empty() {
            return self.close();
        }
        let Some(address) = self.address else { return };
        match self.open(address) {
            Ok(()) => self.problem = None,
            Err(reason) => {
                let text = format!("the portal {address} can't be opened: {reason}");
                let (problem, tell) = Problem::next(self.problem.take(), text, clock::now());
                if tell {
                    tracing::error!("{}", problem.text);
                }
                self.problem = Some(problem);
            }
        }
    }

    fn open(&mut self, address: SocketAddr) -> Result<(), String> {
        if let (Some((interface, prefix_len)), None) = (&self.interface, &self.floating) {
            let acquired = FloatingAddress::acquire(interface, address.ip(), *prefix_len);
            self.floating = Some(acquired.map_err(|error| error.to_string())?);
        }
        self.service.start(address).map_err(|error| error.to_string())
    }

    /// Closes the portal and gives the floating address up.
    pub(super) fn close(&mut self) {
        self.service.stop();
        self.problem = None;
        if let Some(floating) = self.floating.take()
            && let Err(error) = floating.release()
        {
            tracing::warn!("floating address can't be released: {error}");
        }
    }

    /// Before a controlled move: asks every initiator to log out within `seconds`, and lets nobody else in.
    pub(super) fn request_logout(&self, seconds: u16) {
        self.service.request_logout(seconds);
    }

    /// The move did not come to pass.
    pub(super) fn resume(&self) {
        self.service.resume();
    }

    /// Initiators were asked to log out, and nobody else gets in.
    pub(super) fn is_moving(&self) -> bool {
        self.service.is_moving()
    }

    /// Nobody is logged in.
    pub(super) fn is_idle(&self) -> bool {
        self.service.is_idle()
    }

    /// Why initiators can't come in although something is served.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.as_ref().filter(|problem| problem.lasts).map(|problem| problem.text.clone())
    }

    /// Who is logged in.
    pub(super) fn sessions(&self) -> Vec<SessionReport> {
        let report = |session: SessionInfo| SessionReport {
            initiator: session.initiator,
            address: session.address,
            target: session.target,
        };
        self.service.sessions().into_iter().map(report).collect()
    }
}

/// A target as initiators are to see it: without the LUNs of volumes that have no copy here.
fn shown(
    state: &CommittedState,
    target: &Target,
    size: &impl Fn(VolumeId) -> Option<ByteCount>,
) -> TargetConfig {
    let lun = |mapping: &Mapping| {
        let volume = state.volumes.iter().find(|volume| volume.config.volume == mapping.volume)?;
        let size = size(mapping.volume).unwrap_or(volume.config.size);
        let unit = UnitConfig {
            physical_4k: volume.presentation.block_format == BlockFormat::Emulated,
            thin: volume.presentation.thin,
            write_back: volume.config.write_back,
            read_only: mapping.read_only,
            ..UnitConfig::new(state.cluster, mapping.volume, size.blocks())
        };
        Some(Lun { unit, initiators: mapping.initiators.clone() })
    };
    TargetConfig {
        iqn: target.iqn.clone(),
        luns: target.luns.iter().filter_map(|(number, mapping)| Some((*number, lun(mapping)?))).collect(),
        access: target.access.clone(),
    }
}

impl Engine {
    /// A replica began or ceased to serve.
    pub(super) fn set_serving(&mut self, id: VolumeId, serving: bool) {
        self.show_sizes();
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        volume.serving = serving;
        tracing::info!(volume = volume.name, epoch = volume.config.epoch.0, serving, "serving changed");
        if serving {
            self.portal.served.insert(id);
        } else {
            self.portal.served.remove(&id);
            self.drop_reservation(id);
        }
        self.portal.update();
    }

    /// Tries the portal again where it should be open and is not.
    pub(super) fn update_portal(&mut self) {
        if self.portal.problem.is_some()
            || self.portal.served.is_empty() != self.portal.service.address().is_none()
        {
            self.portal.update();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_problem_is_told_once_when_it_lasts() {
        let at = |ms| Monotonic(0) + Duration::from_millis(ms);
        let mut problem = None;
        let mut next = |text: &str, ms| {
            let (next, tell) = Problem::next(problem.take(), text.into(), at(ms));
            let lasts = next.lasts;
            problem = Some(next);
            (lasts, tell)
        };
        assert_eq!([next("in use", 0), next("in use", 900)], [(false, false); 2]);
        assert_eq!([next("in use", 1000), next("in use", 1050)], [(true, true), (true, false)]);
        assert_eq!(
            [next("no such address", 1100), next("no such address", 2100)],
            [(false, false), (true, true)]
        );
    }
}
