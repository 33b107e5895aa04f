//! A stand-in for the storage process: speaks the link, judges leases as storage does, holds no data.

use base::{ByteCount, Change, InstanceId, Monotonic, NodeId, Proposal, ProposalId, VolumeConfig};
use cluster::lease::{Guard, WaitForOldLease};
use control::link::{CommittedState, NoRoom, Report, ToCluster, ToStorage, VolumeReport};
use control::paths;
use control::settings::Timing;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

pub(super) struct FakeStorage {
    pub(super) instance: InstanceId,
    shared: Arc<Mutex<Shared>>,
    stream: UnixStream,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Option<CommittedState>,
    guard: Guard,
    wait: Option<(NodeId, InstanceId, WaitForOldLease)>,
    most_room: ByteCount,
    free: ByteCount,
    number: u64,
    refused: Vec<(u64, String)>,
    ended: bool,
}

impl Shared {
    fn config(&self) -> Option<&VolumeConfig> {
        self.state.as_ref()?.volumes.first().map(|volume| &volume.config)
    }

    fn serves(&mut self, instance: InstanceId) -> bool {
        let now = crate::clock::now();
        self.guard.handle_clocks(now);
        let Some(config) = self.config().cloned() else { return false };
        let waited = self.wait.is_some_and(|(_, _, wait)| wait.over(now.boot));
        config.primary_instance == instance
            && waited
            && self.guard.valid_until(config.volume, now.boot).is_some()
    }

    /// Makes room for what is wanted, up to its limit.
    fn room(&self, size: ByteCount) -> Result<ByteCount, NoRoom> {
        let wanted = self.state.as_ref().and_then(|state| state.volumes.first()?.wanted_size).unwrap_or(size);
        if wanted <= self.most_room {
            return Ok(wanted);
        }
        Err(NoRoom { size: wanted, reason: format!("has room for {} only", self.most_room) })
    }

    fn report(&mut self, instance: InstanceId) -> Report {
        let serving = self.serves(instance);
        let volumes = self.config().map(|config| VolumeReport {
            volume: config.volume,
            epoch: config.epoch,
            usable: true,
            serving,
            dirty: base::ByteCount(0),
            logged: base::ByteCount(0),
            resync: None,
            resynced_total: base::ByteCount(0),
            room: self.room(config.size).unwrap_or(config.size),
            no_room: self.room(config.size).err(),
        });
        Report {
            instance,
            free: self.free,
            largest: None,
            unopened: Vec::new(),
            capacity: base::ByteCount::gib(2),
            volumes: volumes.into_iter().collect(),
            sessions: Vec::new(),
            problems: Vec::new(),
        }
    }
}

fn send(stream: &mut UnixStream, message: &ToCluster) -> bool {
    let mut line = serde_json::to_vec(message).unwrap();
    line.push(b'\n');
    stream.write_all(&line).is_ok()
}

impl FakeStorage {
    pub(super) fn start(dir: &Path, timing: Timing) -> Self {
        let mut stream = UnixStream::connect(dir.join(paths::LINK_SOCKET)).unwrap();
        let instance = InstanceId(transport::random_id().unwrap());
        assert!(send(&mut stream, &ToCluster::Hello { instance, pid: std::process::id() }));
        let shared = Shared {
            state: None,
            guard: Guard::new(instance, timing),
            wait: None,
            free: ByteCount::gib(1),
            most_room: ByteCount(u64::MAX),
            number: 0,
            refused: Vec::new(),
            ended: false,
        };
        let shared = Arc::new(Mutex::new(shared));
        let reading = {
            let (stream, shared) = (stream.try_clone().unwrap(), shared.clone());
            std::thread::spawn(move || read(stream, &shared, instance, timing))
        };
        let reporting = {
            let (mut stream, shared) = (stream.try_clone().unwrap(), shared.clone());
            std::thread::spawn(move || {
                loop {
                    let report = shared.lock().unwrap().report(instance);
                    if shared.lock().unwrap().ended || !send(&mut stream, &ToCluster::Report(report)) {
                        return;
                    }
                    std::thread::sleep(timing.renew / 3);
                }
            })
        };
        Self { instance, shared, stream, threads: vec![reading, reporting] }
    }

    /// From now on it has so much space.
    pub(super) fn limit_free(&self, free: ByteCount) {
        self.shared.lock().unwrap().free = free;
    }

    /// Its disks are full beyond this size of the volume.
    pub(super) fn limit_room(&self, most: ByteCount) {
        self.shared.lock().unwrap().most_room = most;
    }

    /// Would answer an initiator now.
    pub(super) fn serves(&self) -> bool {
        self.shared.lock().unwrap().serves(self.instance)
    }

    pub(super) fn state(&self) -> Option<CommittedState> {
        self.shared.lock().unwrap().state.clone()
    }

    pub(super) fn config(&self) -> Option<VolumeConfig> {
        self.shared.lock().unwrap().config().cloned()
    }

    pub(super) fn refused(&self) -> Vec<(u64, String)> {
        self.shared.lock().unwrap().refused.clone()
    }

    /// Proposes a change of the volume as it is known here; answers the proposal's number.
    pub(super) fn propose(&self, change: Change) -> u64 {
        let mut shared = self.shared.lock().unwrap();
        propose(&mut self.stream.try_clone().unwrap(), &mut shared, self.instance, change)
    }
}

fn propose(stream: &mut UnixStream, shared: &mut Shared, instance: InstanceId, change: Change) -> u64 {
    shared.number += 1;
    let (state, config) = (shared.state.as_ref().unwrap(), shared.config().unwrap());
    let proposal = Proposal {
        id: ProposalId { proposer: state.node, instance, number: shared.number },
        volume: config.volume,
        expected: config.epoch,
        change,
    };
    send(stream, &ToCluster::Propose(proposal));
    shared.number
}

fn read(stream: UnixStream, shared: &Mutex<Shared>, instance: InstanceId, timing: Timing) {
    let mut writer = stream.try_clone().unwrap();
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let message: ToStorage = serde_json::from_str(&line).unwrap();
        let mut shared = shared.lock().unwrap();
        let now = crate::clock::now();
        match message {
            ToStorage::State(state) => {
                shared.state = Some(*state);
                let Some(config) = shared.config().cloned() else { continue };
                let tenure = config.primary.map(|primary| (primary, config.primary_instance));
                if shared.wait.map(|(primary, instance, _)| (primary, instance)) != tenure {
                    shared.wait = tenure.map(|(node, instance)| {
                        (node, instance, WaitForOldLease::new(&config, now.boot, &timing))
                    });
                }
            }
            ToStorage::Lease(lease) => {
                assert_eq!(lease.instance, instance);
                assert!(lease.sent_at <= now.boot && lease.sent_at > Monotonic(0));
                shared.guard.handle_lease(lease, now);
            }
            ToStorage::HandOver { to, instance: successor, .. } => {
                propose(
                    &mut writer,
                    &mut shared,
                    instance,
                    Change::HandOver { to, instance: successor, leaves: false },
                );
            }
            ToStorage::Refused { number, reason, .. }
            | ToStorage::ReservationRefused { number, reason, .. } => shared.refused.push((number, reason)),
            ToStorage::Stop => return,
        }
    }
}

impl Drop for FakeStorage {
    fn drop(&mut self) {
        self.shared.lock().unwrap().ended = true;
        let _gone = self.stream.shutdown(std::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}
