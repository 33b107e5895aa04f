//! Nodes on loopback addresses of their own test, and calls to their control sockets.

use super::fake_storage::FakeStorage;
use crate::node::{Manager, Node};
use base::Formats;
use control::api::{Answer, Command, Event, Status};
use control::paths;
use control::settings::{Ports, Role, Settings, Timing};
use control::update::{InUse, Understood};
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

pub(super) const IQN: &str = "iqn.2026-11.local.futago:test";
/// Tests run beside each other on few cores: time-outs are longer than on an appliance.
const SCALE_PERCENT: u32 = 150;

/// One node.
pub(super) struct TestNode {
    pub(super) settings: Settings,
    pub(super) dir: PathBuf,
    runtime: Option<Runtime>,
    node: Option<Arc<Node>>,
    pub(super) storage: Option<FakeStorage>,
    _home: tempfile::TempDir,
}

impl TestNode {
    /// A node that is not started yet; `net` is the test's own part of 127.1.0.0/16.
    pub(super) fn new(net: u8, host: u8, name: &str, role: Role) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let settings = Settings {
            version: 1,
            name: name.into(),
            role,
            address: [127, 1, net, host].into(),
            ports: Ports::default(),
            portal_interface: None,
            portal_prefix_len: 24,
            gateway: None,
            mirror: None,
            dns: Vec::new(),
            ntp: Vec::new(),
            disks: if role == Role::Data { vec!["disk0.img".into()] } else { Vec::new() },
            time_scale_percent: SCALE_PERCENT,
            web: false,
        };
        std::fs::write(dir.join(paths::SETTINGS), serde_json::to_vec(&settings).unwrap()).unwrap();
        std::fs::create_dir(dir.join(paths::RUN_DIR)).unwrap();
        let understood = Understood { formats: Formats::CURRENT, above: None };
        let understood = serde_json::to_vec(&understood).unwrap();
        std::fs::write(dir.join(paths::UNDERSTOOD), understood).unwrap();
        Self { settings, dir, runtime: None, node: None, storage: None, _home: home }
    }

    /// PID 1 says it; `None`: a release is on trial.
    pub(super) fn understands(&self, formats: Option<Formats>) {
        let path = self.dir.join(paths::UNDERSTOOD);
        match formats {
            Some(formats) => {
                let understood = Understood { formats, above: None };
                std::fs::write(path, serde_json::to_vec(&understood).unwrap()).unwrap();
            }
            None => std::fs::remove_file(path).unwrap(),
        }
    }

    /// The same, in a later promise than number `above`.
    pub(super) fn understands_above(&self, formats: Formats, above: u64) {
        let understood = Understood { formats, above: Some(above) };
        std::fs::write(self.dir.join(paths::UNDERSTOOD), serde_json::to_vec(&understood).unwrap()).unwrap();
    }

    /// What PID 1 is told.
    pub(super) fn in_use(&self) -> Option<InUse> {
        serde_json::from_slice(&std::fs::read(self.dir.join(paths::FORMATS)).ok()?).ok()
    }

    pub(super) fn why_raft_stopped(&self) -> Option<String> {
        let metrics = self.node.as_ref().unwrap().raft.metrics().borrow().clone();
        metrics.running_state.err().map(|error| error.to_string())
    }

    /// Starts the manager.
    pub(super) fn try_start(&mut self) -> Result<(), String> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut manager =
            runtime.block_on(Manager::start(&self.dir)).map_err(|error| format!("{error:#}"))?;
        self.node = Some(manager.node.clone());
        runtime.spawn(async move {
            let error = manager.failed().await;
            eprintln!("manager failed: {error:#}");
        });
        self.runtime = Some(runtime);
        Ok(())
    }

    pub(super) fn start(&mut self) {
        self.try_start().unwrap();
    }

    /// Starts the stand-in for the storage process.
    pub(super) fn start_storage(&mut self) {
        self.storage = Some(FakeStorage::start(&self.dir, self.timing()));
    }

    pub(super) fn storage(&self) -> &FakeStorage {
        self.storage.as_ref().unwrap()
    }

    /// Ends everything of this node at once, without a goodbye.
    pub(super) fn kill(&mut self) {
        self.storage = None;
        self.node = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    pub(super) fn timing(&self) -> Timing {
        self.settings.timing()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.settings.cluster_address()
    }

    pub(super) fn status(&self) -> Status {
        self.http("GET", "/status", "")
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.http("GET", "/events?after=0", "")
    }

    pub(super) fn command(&self, command: &Command) -> Answer {
        self.http("POST", "/command", &serde_json::to_string(command).unwrap())
    }

    pub(super) fn done(&self, command: &Command) {
        assert_eq!(self.command(command), Answer::Done, "{command:?}");
    }

    /// The kind and message of a command's failure.
    pub(super) fn fails(&self, command: &Command) -> (String, String) {
        match self.command(command) {
            Answer::Failed { kind, message } => (kind, message),
            other => panic!("{command:?}: {other:?}"),
        }
    }

    pub(super) fn offer(&self) -> String {
        match self.command(&Command::OfferPairing) {
            Answer::PairingCode { code, valid_s } => {
                assert_eq!(valid_s, 600);
                code
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn pair(&self, other: &Self) {
        self.done(&Command::Pair { address: other.address(), code: other.offer() });
    }

    /// Makes a snapshot and drops the log behind it.
    pub(super) fn compact(&self) {
        let raft = &self.node.as_ref().unwrap().raft;
        let runtime = self.runtime.as_ref().unwrap();
        let last =
            runtime.block_on(raft.wait(None).metrics(|m| m.last_applied.is_some(), "applied")).unwrap();
        let last = last.last_applied.unwrap().index;
        runtime.block_on(async {
            raft.trigger().snapshot().await.unwrap();
            raft.wait(None)
                .metrics(|m| m.snapshot.is_some_and(|id| id.index >= last), "snapshot")
                .await
                .unwrap();
            raft.trigger().purge_log(last).await.unwrap();
            raft.wait(None).metrics(|m| m.purged.is_some_and(|id| id.index >= last), "purged").await.unwrap();
        });
    }

    fn http<T: DeserializeOwned>(&self, method: &str, path: &str, body: &str) -> T {
        http(&self.dir.join(paths::CLUSTER_SOCKET), method, path, body)
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.kill();
    }
}

fn http<T: DeserializeOwned>(socket: &Path, method: &str, path: &str, body: &str) -> T {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).unwrap()
}

/// Waits until `check` gives something.
pub(super) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Two data nodes and a witness, started, paired and voting; no storage yet.
pub(super) fn trio(net: u8) -> [TestNode; 3] {
    let mut nodes = [
        TestNode::new(net, 11, "a", Role::Data),
        TestNode::new(net, 12, "b", Role::Data),
        TestNode::new(net, 13, "witness", Role::Witness),
    ];
    for node in &mut nodes {
        node.start();
    }
    let portal = SocketAddr::from(([127, 1, net, 50], 3260));
    nodes[0].done(&Command::CreateCluster { portal });
    nodes[0].pair(&nodes[1]);
    nodes[0].pair(&nodes[2]);
    nodes
}

/// Volume `v`, as it is by default.
pub(super) fn create_volume(mib: u64) -> Command {
    let size = base::ByteCount::mib(mib);
    Command::CreateVolume { name: "v".into(), size, presentation: control::targets::Presentation::default() }
}

/// A trio with storage, a volume `v` that is LUN 0, and its primary's place in the array.
pub(super) fn serving_trio(net: u8) -> ([TestNode; 3], usize) {
    let mut nodes = trio(net);
    nodes[0].start_storage();
    nodes[1].start_storage();
    // Asked of a node that need not lead.
    nodes[1].done(&create_volume(64));
    nodes[1].done(&Command::CreateTarget { iqn: IQN.into() });
    nodes[1].done(&Command::MapLun {
        iqn: IQN.into(),
        lun: 0,
        volume: "v".into(),
        read_only: false,
        initiators: Vec::new(),
    });
    let primary =
        eventually("a storage process serves", || (0..2).find(|node| nodes[*node].storage().serves()));
    (nodes, primary)
}
