//! The engine: the one owner of replicas, disks and leases of this process.
//!
//! Flow of a turn: inputs that gathered in the inbox, disk completions, timers; then the replicas' commands until there
//! are none; then one submit to the ring. Everything is handled on one thread; nothing here waits.
//!
//! Invariants
//! - A replica hears of a lease only through [`Engine::judge_leases`], which asks `cluster::lease::Guard` (S5).
//! - A reply leaves only if the lease is still valid at that moment (S5); else the initiator gets none.
//! - This instance's id is drawn at start (S6): nothing of an earlier process's promotion is believed.
//! - Every command of a replica is executed in the order given.

mod commands;
mod data;
mod moving;
mod opening;
mod report;
mod requests;
mod reservations;
mod ring;
mod serving;
mod state;
mod volume;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use base::{InstanceId, Monotonic, VolumeId};
use cluster::lease::Guard;
use control::link::{CommittedState, ToCluster};
use disk::{BufferPool, PoolLimits, Readiness, Ring, RingConfig};
use replication::Options;
use tokio::sync::mpsc;

use self::moving::{Move, Moves};
use self::opening::{Grown, Opened, Opener};
use self::requests::Requests;
use self::reservations::ReservationRequests;
use self::ring::Operations;
use self::serving::Portal;
use self::volume::Volume;
use crate::clock;
use crate::inbox::Inbox;
use crate::link::LinkEvent;
use crate::peers::{PeerEvent, Peers};
use crate::vigil::Vigil;

pub(crate) use self::opening::opener;
pub(crate) use self::requests::InitiatorEvent;
pub(crate) use self::serving::portal;

/// Everything that happens to the engine.
pub(crate) enum Input {
    Link(LinkEvent),
    Peer(PeerEvent),
    Initiator(InitiatorEvent),
    /// A volume was opened or formatted in the background, or could not be.
    Opened(Box<Opened>),
    /// A copy got more room in the background, or could not (S22).
    Grown(Box<Grown>),
    /// End cleanly.
    Stop,
}

/// Longest sleep of the loop: clocks are looked at so often (S5), and reports go out.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// See the module's page.
pub(crate) struct Engine {
    instance: InstanceId,
    inbox: Inbox<Input>,
    operations: Operations,
    peers: Peers,
    link: mpsc::UnboundedSender<ToCluster>,
    opener: Opener,
    requests: Requests,
    reservations: ReservationRequests,
    portal: Portal,
    moves: Moves,
    state: Option<CommittedState>,
    guard: Option<Guard>,
    volumes: BTreeMap<VolumeId, Volume>,
    last_report: Option<(Monotonic, control::link::Report)>,
    vigil: Vigil,
    stopping: bool,
}

/// What an engine is made of.
pub(crate) struct Parts {
    pub(crate) instance: InstanceId,
    pub(crate) inbox: Inbox<Input>,
    pub(crate) buffers: BufferPool,
    pub(crate) peers: Peers,
    pub(crate) link: mpsc::UnboundedSender<ToCluster>,
    pub(crate) opener: Opener,
    pub(crate) portal: Portal,
}

/// Memory for data in flight: a fifth of the appliance's, and never less than what a few large commands need.
pub(crate) fn buffers() -> BufferPool {
    BufferPool::new(PoolLimits { in_use_bytes: 192 << 20, cached_bytes: 64 << 20 })
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> anyhow::Result<Self> {
        let ring = Ring::new(&RingConfig::default()).context("disk ring")?;
        let Parts { instance, inbox, buffers, peers, link, opener, portal } = parts;
        Ok(Self {
            instance,
            requests: Requests::new(buffers.clone()),
            reservations: ReservationRequests::default(),
            operations: Operations::new(ring, buffers),
            inbox,
            peers,
            link,
            opener,
            portal,
            moves: Moves::default(),
            state: None,
            guard: None,
            volumes: BTreeMap::new(),
            last_report: None,
            vigil: Vigil::default(),
            stopping: false,
        })
    }

    /// Runs until a stop has been carried out.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let wake = Readiness::of(&self.operations.ring)?;
        loop {
            self.turn();
            if self.stopped() {
                self.portal.close();
                return Ok(());
            }
            if self.inbox.len() > 0 || self.operations.ring.is_ready() {
                // Connections run between two turns, also when there is more to do at once.
                tokio::task::yield_now().await;
                continue;
            }
            let (open, answered) = self.requests.state();
            let came = || self.inbox.len() > 0 || self.operations.ring.is_ready();
            let listen = || self.portal.listen();
            if self.vigil.look(open, answered, listen, came).await {
                continue;
            }
            tokio::select! {
                () = self.inbox.ready() => {}
                ready = wake.wait() => ready?,
                () = tokio::time::sleep(self.sleep()) => {}
            }
        }
    }

    fn turn(&mut self) {
        // First of all: what gathered while the machine stood still is not answered under a lease from before (S5).
        self.judge_leases();
        self.execute_all();
        while let Some(input) = self.inbox.pop() {
            self.handle(input);
            self.execute_all();
        }
        self.handle_disks();
        self.judge_leases();
        self.run_moves();
        self.run_timers();
        self.repeat_reservations();
        self.look_after_volumes();
        self.make_room();
        self.show_sizes();
        self.update_portal();
        self.execute_all();
        self.report_if_due();
        self.submit();
        // What ended at once is answered in this turn.
        if self.operations.ring.is_ready() {
            self.judge_leases();
            self.execute_all();
            self.handle_disks();
            self.submit();
        }
    }

    fn handle_disks(&mut self) {
        while let Some((volume, token, result)) = self.operations.next_done() {
            if let Some(volume) = self.volumes.get_mut(&volume) {
                volume.replica.handle_disk(clock::now(), token, result);
            }
            self.execute_all();
        }
    }

    fn submit(&mut self) {
        if let Err(error) = self.operations.ring.submit() {
            tracing::error!("disk ring: {}", crate::chain(&error));
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Link(event) => self.handle_link(event),
            Input::Peer(event) => self.handle_peer(event),
            Input::Initiator(event) => self.handle_initiator(event),
            Input::Opened(opened) => self.handle_opened(*opened),
            Input::Grown(grown) => self.handle_grown(*grown),
            Input::Stop => self.handle_stop(),
        }
    }

    fn handle_peer(&mut self, event: PeerEvent) {
        let now = clock::now();
        match event {
            PeerEvent::Opened { volume, peer, dialled, handle } => {
                // Not open here (yet): the handle is dropped, which closes the connection; the peer dials again.
                let Some(volume) = self.volumes.get_mut(&volume) else { return };
                let session = handle.id;
                volume.sessions.insert(session, handle);
                volume.replica.handle_session_opened(now, peer, session, dialled);
            }
            PeerEvent::DialFailed { volume, peer } => {
                if let Some(volume) = self.volumes.get_mut(&volume) {
                    volume.replica.handle_dial_failed(now, peer);
                }
            }
            PeerEvent::Frame { session, frame, payload } => {
                let Some(volume) = self.volumes.get_mut(&frame.volume) else { return };
                if volume.sessions.contains_key(&session) {
                    volume.replica.handle_frame(now, session, frame, payload.map(data::Data));
                }
            }
            PeerEvent::Closed { session } => {
                for volume in self.volumes.values_mut() {
                    if volume.sessions.remove(&session).is_some() {
                        volume.replica.handle_session_closed(now, session);
                    }
                }
            }
        }
    }

    /// Tells each replica until when it may serve, as the guard judges now (S5).
    fn judge_leases(&mut self) {
        let Some(guard) = &mut self.guard else { return };
        let now = clock::clocks();
        guard.handle_clocks(now);
        for volume in self.volumes.values_mut() {
            let until = guard.valid_until(volume.id, now.boot);
            if until != volume.lease_until {
                volume.lease_until = until;
                volume.replica.handle_lease(now.boot, until);
            }
        }
    }

    fn run_timers(&mut self) {
        let now = clock::now();
        for volume in self.volumes.values_mut() {
            if volume.replica.poll_timeout().is_some_and(|due| due <= now) {
                volume.replica.handle_timeout(now);
            }
        }
    }

    fn sleep(&self) -> Duration {
        let due = self.volumes.values().filter_map(|volume| volume.replica.poll_timeout()).min();
        due.map_or(LONGEST_SLEEP, |due| due.since(clock::now()).min(LONGEST_SLEEP))
    }

    fn options(&self, state: &CommittedState) -> Options {
        let timing = &state.timing;
        Options {
            instance: self.instance,
            timing: replication::Timing {
                lease: timing.lease,
                drift: timing.drift,
                renew: timing.renew,
                peer: timing.peer,
            },
        }
    }

    /// Hand over what can be, let everything in flight end.
    fn handle_stop(&mut self) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.move_later(Move::Stop);
    }

    fn stopped(&self) -> bool {
        self.stopping && self.volumes.values().all(|volume| volume.stopped)
    }
}
