//! The update of all nodes: three real console process loops, with fake managers and supervisors, and a fake tunnel between
//! them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod fake;

use control::api::Command;
use control::paths;
use control::update::{ClusterUpdateState, Installation, NodeStep};
use fake::Fake;
use futago_webui::client::Client;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const NODES: [&str; 3] = ["a", "b", "witness"];
const OLD: &str = "0.1.0";
const NEW: &str = "0.2.0";

/// The nodes, and what happens on them by itself until it is dropped.
struct Cluster {
    home: tempfile::TempDir,
    fakes: Arc<Vec<Fake>>,
    over: Arc<AtomicBool>,
    physics: Option<std::thread::JoinHandle<()>>,
}

impl Cluster {
    /// Node a serves. The supervisor of `refuses` does not install what it gets.
    fn start(refuses: Option<&'static str>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut fakes = Vec::new();
        for name in NODES {
            let dir = home.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            let mut world = fake::healthy();
            world.status.node = name.into();
            fakes.push(Fake::start(&dir, world));
            tunnel(home.path(), &dir);
            console(&dir, name);
        }
        let (fakes, over) = (Arc::new(fakes), Arc::new(AtomicBool::new(false)));
        let (all, end) = (fakes.clone(), over.clone());
        let physics = Some(std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let moved = all.iter().find_map(|fake| fake.edit(|w| primary(w).filter(|name| name != "a")));
                for (fake, name) in all.iter().zip(NODES) {
                    fake.edit(|w| advance(w, refuses == Some(name), moved.as_deref()));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }));
        Self { home, fakes, over, physics }
    }

    fn client(&self, name: &str) -> Client {
        Client::local(&self.home.path().join(name))
    }

    fn asked(&self, name: &str) -> Vec<&'static str> {
        self.fakes[NODES.iter().position(|known| *known == name).unwrap()].edit(|w| w.asked.clone())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(physics) = self.physics.take() {
            physics.join().unwrap();
        }
    }
}

fn primary(world: &mut fake::World) -> Option<String> {
    world.status.volumes[0].primary.clone()
}

/// What was begun is done; who was handed over to is known to all.
fn advance(world: &mut fake::World, refuses: bool, moved: Option<&str>) {
    if matches!(world.update.installation, Some(Installation::Writing { .. })) {
        world.update.installation = Some(if refuses {
            Installation::Failed { reason: "It is not signed.".into() }
        } else {
            Installation::Installed { release: NEW.into() }
        });
    }
    if world.asked.last() == Some(&"restart") && world.update.running == OLD {
        world.update.running = NEW.into();
        world.update.boot = "second".into();
        world.update.installation = None;
    }
    if let Some(moved) = moved {
        world.status.volumes[0].primary = Some(moved.into());
        for member in &mut world.status.cluster.as_mut().unwrap().members {
            member.serving = member.name == moved;
        }
    }
}

fn console(dir: &Path, name: &str) {
    fake::settings_of(dir, name);
    let owned = dir.to_owned();
    std::thread::spawn(move || futago_webui::run(&owned).unwrap());
    let start = Instant::now();
    while !dir.join(paths::PEER_SOCKET).exists() || !dir.join(paths::WEB_SOCKET).exists() {
        assert!(start.elapsed() < Duration::from_secs(20), "no console");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Puts the console at `dir` through to the others below `home`, as the cluster manager does.
fn tunnel(home: &Path, dir: &Path) {
    let listener = UnixListener::bind(dir.join(paths::TUNNEL_SOCKET)).unwrap();
    let home = home.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, home) = (stream.unwrap(), home.clone());
            std::thread::spawn(move || put_through(stream, home));
        }
    });
}

fn put_through(mut local: UnixStream, home: PathBuf) {
    let mut name = String::new();
    // One byte at a time is what a buffer of one reads ahead.
    BufReader::with_capacity(1, &local).read_line(&mut name).unwrap();
    let Ok(peer) = UnixStream::connect(home.join(name.trim()).join(paths::PEER_SOCKET)) else {
        let _gone = writeln!(local, "nobody is there");
        return;
    };
    local.write_all(b"ok\n").unwrap();
    let copies = [(&local, &peer), (&peer, &local)]
        .map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()));
    let copies = copies.map(|(mut from, mut to)| {
        std::thread::spawn(move || {
            let _gone = std::io::copy(&mut from, &mut to);
            let _gone = to.shutdown(std::net::Shutdown::Write);
        })
    });
    for copy in copies {
        copy.join().unwrap();
    }
}

fn bundle() -> Vec<u8> {
    let part = |len_bytes| update::Part { len_bytes, sha256: [0; 32] };
    let header = update::Header {
        version: NEW.parse().unwrap(),
        replaces_from: OLD.parse().unwrap(),
        formats: update::Formats::CURRENT,
        kernel: part(1),
        initramfs: part(2 << 20),
    };
    let mut bytes = header.signed_part().unwrap().to_vec();
    bytes.resize(update::HEADER_BYTES + 1 + (2 << 20), 7);
    bytes
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Until the node knows that it has ended.
async fn ended(client: &Client) -> control::update::ClusterUpdate {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < Duration::from_secs(120), "no end: {:?}", client.cluster_update().await);
        let known = client.cluster_update().await.unwrap();
        if let Some(update) = known.update.filter(|update| update.state != ClusterUpdateState::Running) {
            return update;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn one_node_leads_and_gives_the_lead_away_before_its_own_turn() {
    let cluster = Cluster::start(None);
    block_on(async {
        let a = cluster.client("a");
        let error = a.update_cluster(bundle(), &["zz".into()]).await.unwrap_err();
        assert!(error.kind == "refused" && error.message.contains("no node zz"), "{error}");
        assert_eq!(kept(&cluster), 0, "refused late");
        assert_eq!(a.update_cluster(vec![7; 1000], &[]).await.unwrap_err().kind, "invalid");
        assert_eq!(a.cluster_update().await.unwrap().update, None);

        let begun = a.update_cluster(bundle(), &[]).await.unwrap();
        assert_eq!((&*begun.leader, &*begun.release, begun.nodes.len()), ("a", NEW, 3));
        let again = a.update_cluster(bundle(), &[]).await.unwrap_err();
        assert!(again.kind == "in_use" && again.message.contains("node a leads"), "{again}");

        for name in NODES {
            let update = ended(&cluster.client(name)).await;
            assert_eq!((update.state, &*update.id), (ClusterUpdateState::Finished, &*begun.id), "{update:?}");
            assert_eq!((&*update.leader, update.moves), ("b", 1));
            assert!(update.nodes.iter().all(|node| node.step == NodeStep::Updated), "{update:?}");
            assert_eq!(cluster.asked(name), ["update", "restart"]);
            let kept = cluster.home.path().join(name).join(paths::UPDATE_BUNDLE);
            assert!(std::fs::read(kept).unwrap() == bundle());
            assert!(!cluster.home.path().join(name).join(paths::CLUSTER_BUNDLE).exists());
        }
    });
    let commands: Vec<Command> =
        cluster.fakes.iter().flat_map(|fake| fake.edit(|w| w.commands.clone())).collect();
    assert_eq!(commands, [Command::HandOver { volume: "demo".into(), to: Some("b".into()) }]);
}

/// Files that what comes to lead node a has left there.
fn kept(cluster: &Cluster) -> usize {
    let bundle = cluster.home.path().join("a").join(paths::CLUSTER_BUNDLE);
    [bundle.with_extension("new"), bundle].iter().filter(|file| file.exists()).count()
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    let cluster = Cluster::start(None);
    let mut stream = UnixStream::connect(cluster.home.path().join("a").join(paths::WEB_SOCKET)).unwrap();
    let bundle = bundle();
    let head = "POST /api/v1/update/cluster HTTP/1.1\r\nHost: a\r\nContent-Length:";
    write!(stream, "{head} {}\r\n\r\n", bundle.len()).unwrap();
    stream.write_all(&bundle[..bundle.len() / 2]).unwrap();
    let wait = |expected| {
        let start = Instant::now();
        while kept(&cluster) != expected {
            assert!(start.elapsed() < Duration::from_secs(20), "{} files", kept(&cluster));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait(1);
    drop(stream);
    wait(0);
    block_on(async {
        cluster.client("a").update_cluster(bundle, &[]).await.unwrap();
    });
    assert_eq!(kept(&cluster), 1, "it leads");
}

#[test]
fn a_leader_speaks_while_it_waits_for_an_order_to_be_carried_out() {
    let cluster = Cluster::start(None);
    // The console gives an order up later.
    for fake in cluster.fakes.iter() {
        fake.edit(|w| w.commands_take = Duration::from_secs(3600));
    }
    block_on(async {
        cluster.client("a").update_cluster(bundle(), &[]).await.unwrap();
        let witness = cluster.client("witness");
        let start = Instant::now();
        loop {
            let update = witness.cluster_update().await.unwrap().update;
            if update.as_ref().is_some_and(|update| update.text.starts_with("handing volume demo over")) {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{update:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert!(cluster.fakes.iter().all(|fake| fake.edit(|w| w.commands.is_empty())), "it is not carried out");
}

#[test]
fn the_first_refusal_ends_it_and_every_node_says_why() {
    let cluster = Cluster::start(Some("b"));
    block_on(async {
        // The node that is asked is not the first.
        cluster.client("witness").update_cluster(bundle(), &[]).await.unwrap();
        for name in NODES {
            let update = ended(&cluster.client(name)).await;
            assert_eq!(update.state, ClusterUpdateState::Stopped);
            assert_eq!(update.text, "node b: It is not signed.");
        }
        assert_eq!((cluster.asked("a").len(), cluster.asked("b")), (0, vec!["update"]));
    });
}

/// What members may ask for without a password is what an update of all nodes takes, and no more.
#[test]
fn members_are_let_in_for_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let _fake = Fake::start(dir.path(), fake::healthy());
    console(dir.path(), "a");
    let ask = |method: &str, path: &str| {
        let mut stream = UnixStream::connect(dir.path().join(paths::PEER_SOCKET)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    for (method, path, expected) in [
        ("GET", "/api/v1/status", 200),
        ("GET", "/api/v1/update", 200),
        ("POST", "/api/v1/update/cluster/lead?id=1", 409),
        ("POST", "/api/v1/update/cluster", 405),
        ("PUT", "/api/v1/password", 404),
        ("POST", "/api/v1/setup", 404),
        ("GET", "/api/v1/support-bundle", 404),
        ("POST", "/api/v1/volumes", 404),
        ("DELETE", "/api/v1/volumes/demo", 404),
        ("PUT", "/api/v1/targets/x/chap", 404),
        ("GET", "/", 404),
    ] {
        assert_eq!(ask(method, path), expected, "{method} {path}");
    }
}
