//! A cluster manager and a supervisor that answer on their unix sockets what a test tells them to. They speak the
//! real interfaces (`control::api`, `control::service`) and hold no data.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    unreachable_pub,
    missing_docs
)]

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use base::{ByteCount, Epoch, Levels};
use control::api::*;
use control::service::{ServiceState, ServiceStatus};
use control::settings::{Ports, Role, Settings};
use control::targets::{BlockFormat, Presentation};
use control::update::{Installation, SlotStatus, UpdateStatus};
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// What both know.
pub struct World {
    pub status: Status,
    pub services: Vec<ServiceStatus>,
    pub events: Vec<Event>,
    /// What the supervisor tells of releases.
    pub update: UpdateStatus,
    /// What the supervisor was asked to do, in order.
    pub asked: Vec<&'static str>,
    /// Commands in the order in which they came.
    pub commands: Vec<Command>,
    /// How long the next commands take.
    pub commands_take: Duration,
}

/// One node's manager and supervisor.
pub struct Fake {
    pub world: Arc<Mutex<World>>,
    dir: PathBuf,
    runtime: Runtime,
    manager: Mutex<Option<JoinHandle<()>>>,
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A port of `address` that is free at this moment.
pub fn free_port(address: IpAddr) -> u16 {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port()
}

/// Settings of a data node `a` on this machine, written to `dir`.
pub fn settings(dir: &Path) -> Settings {
    settings_of(dir, "a")
}

/// Likewise, of a node of that name.
pub fn settings_of(dir: &Path, name: &str) -> Settings {
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    let settings = Settings {
        version: 1,
        name: name.into(),
        role: Role::Data,
        address,
        ports: Ports { web: free_port(address), ..Ports::default() },
        portal_interface: None,
        portal_prefix_len: 24,
        gateway: None,
        mirror: None,
        dns: Vec::new(),
        ntp: Vec::new(),
        disks: vec!["disk0.img".into()],
        time_scale_percent: 100,
        web: true,
    };
    std::fs::write(dir.join(control::paths::SETTINGS), serde_json::to_vec(&settings).unwrap()).unwrap();
    settings
}

pub fn member(name: &str, role: Role, address: &str) -> MemberStatus {
    let capacity = if role == Role::Data { ByteCount::gib(500) } else { ByteCount(0) };
    MemberStatus {
        name: name.into(),
        role,
        online: true,
        address: address.parse().unwrap(),
        ports: Default::default(),
        votes: true,
        serving: name == "a",
        free: ByteCount(capacity.0 / 100 * 58),
        capacity,
    }
}

pub fn volume(name: &str, size: ByteCount) -> VolumeStatus {
    VolumeStatus {
        name: name.into(),
        size,
        epoch: Epoch(3),
        primary: Some("a".into()),
        in_sync: vec!["a".into(), "b".into()],
        replicas: vec!["a".into(), "b".into()],
        unopened: Vec::new(),
        state: VolumeState::Healthy,
        growth: None,
        not_grown: None,
        problems: Vec::new(),
        resync: None,
        verify: None,
        resynced_total: ByteCount(0),
        dirty: ByteCount(0),
        logged: ByteCount(0),
        block_format: BlockFormat::default(),
        thin: true,
    }
}

pub fn lun(lun: u16, volume: &str) -> LunStatus {
    LunStatus { lun, volume: volume.into(), read_only: false, initiators: vec![] }
}

/// Two data nodes, a witness, one volume behind one target: all well.
pub fn healthy() -> World {
    let started = now().saturating_sub(93_784);
    let service = |name: &str| ServiceStatus {
        name: name.into(),
        state: ServiceState::Running,
        restarts: 0,
        since: started,
    };
    let event = |number, ago, severity: &str, text: &str| Event {
        number,
        at: now().saturating_sub(ago),
        late: false,
        severity: severity.into(),
        text: text.into(),
    };
    World {
        status: Status {
            node: "a".into(),
            cluster: Some(ClusterStatus {
                id: "5f2d9c01a7be4410".into(),
                generation: 1,
                leader: Some("a".into()),
                quorum: true,
                members: vec![
                    member("a", Role::Data, "127.0.0.11"),
                    member("b", Role::Data, "127.0.0.12"),
                    member("witness", Role::Witness, "127.0.0.13"),
                ],
                portal: Some("127.0.0.50:3260".parse().unwrap()),
                formats: Some(Levels::OLDEST),
            }),
            volumes: vec![volume("demo", ByteCount::gib(200))],
            targets: vec![TargetStatus {
                iqn: "iqn.2026-11.local.futago:demo".into(),
                luns: vec![lun(0, "demo")],
                initiators: vec![],
                chap: None,
            }],
            sessions: vec![SessionStatus {
                initiator: "iqn.1998-01.com.vmware:esx-1".into(),
                address: "127.0.0.1:40312".parse().unwrap(),
                target: "iqn.2026-11.local.futago:demo".into(),
                node: "a".into(),
            }],
            services: vec![],
            problems: vec![],
        },
        services: ["storage", "cluster", "web"].map(service).to_vec(),
        events: vec![
            event(1, 93_780, "info", "The cluster was created."),
            event(2, 93_700, "info", "Node b joined the cluster."),
            event(3, 93_600, "info", "Node witness joined the cluster."),
            event(4, 93_500, "info", "Volume demo was created, 200 GiB on a and b."),
            event(5, 93_499, "info", "Node a serves volume demo (epoch 3)."),
        ],
        update: UpdateStatus {
            running: "0.1.0".into(),
            boot: "first".into(),
            slots: Some(SlotStatus {
                running: "a".into(),
                next: "a".into(),
                idle_release: Some("0.0.9".into()),
                on_trial: false,
            }),
            installation: None,
        },
        asked: vec![],
        commands: vec![],
        commands_take: Duration::ZERO,
    }
}

impl Fake {
    /// Starts both below `dir`.
    pub fn start(dir: &Path, world: World) -> Self {
        std::fs::create_dir_all(dir.join(control::paths::RUN_DIR)).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let world = Arc::new(Mutex::new(world));
        let supervisor = Router::new()
            .route(
                "/services",
                get(async |State(w): State<Arc<Mutex<World>>>| Json(w.lock().unwrap().services.clone())),
            )
            .route(
                "/update",
                get(async |State(w): State<Arc<Mutex<World>>>| Json(w.lock().unwrap().update.clone()))
                    .post(begin_update),
            )
            .route("/restart", post(restart))
            .with_state(world.clone());
        let socket = dir.join(control::paths::SUPERVISOR_SOCKET);
        runtime.spawn(serve(socket, supervisor));
        let fake = Self { world, dir: dir.to_owned(), runtime, manager: Mutex::new(None) };
        fake.resume();
        fake
    }

    /// Changes what they answer.
    pub fn edit<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.world.lock().unwrap())
    }

    /// The cluster manager falls silent.
    pub fn silence(&self) {
        if let Some(task) = self.manager.lock().unwrap().take() {
            task.abort();
        }
        let _ = std::fs::remove_file(self.dir.join(control::paths::CLUSTER_SOCKET));
    }

    /// The cluster manager answers (again).
    pub fn resume(&self) {
        let manager = Router::new()
            .route(
                "/status",
                get(async |State(w): State<Arc<Mutex<World>>>| Json(w.lock().unwrap().status.clone())),
            )
            .route("/events", get(events))
            .route("/command", post(command))
            .with_state(self.world.clone());
        let socket = self.dir.join(control::paths::CLUSTER_SOCKET);
        *self.manager.lock().unwrap() = Some(self.runtime.spawn(serve(socket.clone(), manager)));
        while !socket.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

async fn serve(socket: PathBuf, router: Router) {
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(socket).unwrap();
    axum::serve(listener, router).await.unwrap();
}

async fn begin_update(State(w): State<Arc<Mutex<World>>>) -> StatusCode {
    let mut world = w.lock().unwrap();
    world.asked.push("update");
    world.update.installation = Some(Installation::Writing { release: "0.2.0".into(), percent: 40 });
    StatusCode::ACCEPTED
}

async fn restart(State(w): State<Arc<Mutex<World>>>) -> (StatusCode, &'static str) {
    let mut world = w.lock().unwrap();
    world.asked.push("restart");
    if world.update.slots.is_some() {
        (StatusCode::ACCEPTED, "")
    } else {
        (StatusCode::CONFLICT, "There is no machine to restart.")
    }
}

#[derive(serde::Deserialize)]
struct After {
    after: u64,
}

async fn events(
    State(w): State<Arc<Mutex<World>>>,
    Query(After { after }): Query<After>,
) -> Json<Vec<Event>> {
    Json(w.lock().unwrap().events.iter().filter(|e| e.number > after).cloned().collect())
}

async fn command(State(w): State<Arc<Mutex<World>>>, Json(command): Json<Command>) -> Json<Answer> {
    let commands_take = w.lock().unwrap().commands_take;
    tokio::time::sleep(commands_take).await;
    let mut world = w.lock().unwrap();
    world.commands.push(command.clone());
    Json(
        obey(&mut world, command)
            .unwrap_or_else(|(kind, message)| Answer::Failed { kind: kind.into(), message }),
    )
}

fn target<'a>(status: &'a mut Status, iqn: &str) -> Result<&'a mut TargetStatus, (&'static str, String)> {
    let found = status.targets.iter_mut().find(|t| t.iqn == iqn);
    found.ok_or_else(|| ("not_found", format!("There is no target {iqn}.")))
}

fn obey(world: &mut World, command: Command) -> Result<Answer, (&'static str, String)> {
    let status = &mut world.status;
    let missing = |what: &str, name: &str| ("not_found", format!("There is no {what} {name}."));
    let text = match command {
        Command::CreateCluster { .. } => return Err(("exists", "Node a is in a cluster already.".into())),
        Command::OfferPairing => return Ok(Answer::PairingCode { code: "4821-9037".into(), valid_s: 600 }),
        Command::Pair { code, .. } if code != "4821-9037" => {
            return Err(("refused", "The pairing code is wrong.".into()));
        }
        Command::Pair { address, .. } => format!("The node at {address} joined the cluster."),
        Command::RemoveMember { name } => {
            let members = &mut status.cluster.as_mut().unwrap().members;
            let at = members.iter().position(|m| m.name == name).ok_or_else(|| missing("node", &name))?;
            if members[at].serving {
                return Err(("in_use", format!("Node {name} serves a volume: hand it over first.")));
            }
            members.remove(at);
            format!("{name} left the cluster.")
        }
        Command::CreateVolume { name, size, presentation } => {
            if status.volumes.iter().any(|v| v.name == name) {
                return Err(("exists", format!("There is a volume {name} already.")));
            }
            let Presentation { block_format, thin } = presentation;
            status.volumes.push(VolumeStatus { block_format, thin, ..volume(&name, size) });
            format!("Volume {name} was created, {size}.")
        }
        Command::GrowVolume { name, size } => {
            let volume = status.volumes.iter_mut().find(|v| v.name == name);
            let volume = volume.ok_or_else(|| missing("volume", &name))?;
            if size <= volume.size {
                return Err(("invalid", format!("Volume {name} can't become smaller.")));
            }
            volume.size = size;
            format!("Volume {name} was grown to {size}.")
        }
        Command::DeleteVolume { name } => {
            if status.targets.iter().flat_map(|t| &t.luns).any(|l| l.volume == name) {
                return Err(("in_use", format!("Volume {name} is a LUN; take it away first.")));
            }
            let at = status.volumes.iter().position(|v| v.name == name);
            status.volumes.remove(at.ok_or_else(|| missing("volume", &name))?);
            format!("Volume {name} was deleted.")
        }
        Command::CreateTarget { iqn } => {
            status.targets.push(TargetStatus {
                iqn: iqn.clone(),
                luns: vec![],
                initiators: vec![],
                chap: None,
            });
            format!("Target {iqn} was created.")
        }
        Command::DeleteTarget { iqn } => {
            if !target(status, &iqn)?.luns.is_empty() {
                return Err(("in_use", format!("Target {iqn} has LUNs; take them away first.")));
            }
            status.targets.retain(|t| t.iqn != iqn);
            format!("Target {iqn} was deleted.")
        }
        Command::MapLun { iqn, lun, volume, read_only, initiators } => {
            let luns = &mut target(status, &iqn)?.luns;
            if luns.iter().any(|l| l.lun == lun) {
                return Err(("exists", format!("Target {iqn} has a LUN {lun} already.")));
            }
            luns.push(LunStatus { lun, volume: volume.clone(), read_only, initiators });
            format!("Volume {volume} is LUN {lun} of {iqn}.")
        }
        Command::ChangeLun { iqn, lun, read_only, initiators } => {
            let found = target(status, &iqn)?.luns.iter_mut().find(|l| l.lun == lun);
            let found = found.ok_or_else(|| missing("LUN", &lun.to_string()))?;
            found.read_only = read_only.unwrap_or(found.read_only);
            found.initiators = initiators.unwrap_or_else(|| found.initiators.clone());
            format!("LUN {lun} of {iqn} was changed.")
        }
        Command::UnmapLun { iqn, lun } => {
            target(status, &iqn)?.luns.retain(|l| l.lun != lun);
            format!("LUN {lun} of {iqn} was taken away.")
        }
        Command::AllowInitiator { iqn, pattern } => {
            target(status, &iqn)?.initiators.push(RuleStatus { pattern: pattern.clone(), chap: None });
            format!("{pattern} may log in to {iqn}.")
        }
        Command::DenyInitiator { iqn, pattern, open } => {
            let rules = &mut target(status, &iqn)?.initiators;
            if rules.len() == 1 && !open {
                return Err(("refused", format!("{pattern} is the last rule.")));
            }
            rules.retain(|rule| rule.pattern != pattern);
            format!("{iqn} has no rule for {pattern} any more.")
        }
        Command::SetChap { iqn, pattern, chap } => {
            let found = target(status, &iqn)?;
            let chap = chap.as_ref().map(ChapStatus::from);
            match pattern {
                None => found.chap = chap,
                Some(pattern) => {
                    let rule = found.initiators.iter_mut().find(|rule| rule.pattern == pattern);
                    rule.ok_or_else(|| missing("rule", pattern.as_str()))?.chap = chap;
                }
            }
            format!("CHAP of {iqn} was changed.")
        }
        Command::HandOver { volume: name, to } => {
            let volume = status.volumes.iter_mut().find(|v| v.name == name);
            let volume = volume.ok_or_else(|| missing("volume", &name))?;
            let old = volume.primary.clone().unwrap_or_default();
            let new = to.or_else(|| volume.in_sync.iter().find(|n| **n != old).cloned());
            let Some(new) = new.filter(|n| volume.in_sync.contains(n)) else {
                return Err(("refused", format!("No other node is in sync with volume {name}.")));
            };
            volume.primary = Some(new.clone());
            volume.epoch = volume.epoch.next();
            for member in &mut status.cluster.as_mut().unwrap().members {
                member.serving = member.name == new;
            }
            format!("Volume {name} was handed over from {old} to {new}.")
        }
    };
    let number = world.events.last().map_or(1, |e| e.number + 1);
    world.events.push(Event { number, at: now(), late: false, severity: "info".into(), text });
    Ok(Answer::Done)
}
