//! Wrong codes, strangers, damaged files, ports in use.

use super::fixture::{TestNode, eventually, trio};
use control::api::Command;
use control::paths;
use control::settings::Role;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;
use transport::{Endpoint, Identity, Protocol};

fn pair_of_strangers(net: u8) -> [TestNode; 2] {
    let mut nodes = [TestNode::new(net, 11, "a", Role::Data), TestNode::new(net, 12, "b", Role::Data)];
    for node in &mut nodes {
        node.start();
    }
    let portal = format!("127.1.{net}.50:3260").parse().unwrap();
    nodes[0].done(&Command::CreateCluster { portal });
    nodes
}

#[test]
fn a_wrong_code_changes_nothing_but_its_count() {
    let nodes = pair_of_strangers(30);
    let pair = |code: &str| Command::Pair { address: nodes[1].address(), code: code.into() };
    assert_eq!(nodes[0].fails(&pair("12")).0, "invalid");
    let (kind, message) = nodes[0].fails(&pair("123-456-789"));
    assert!(kind == "unavailable" && message.contains("offers no pairing"), "{message}");
    let code = nodes[1].offer();
    let wrong = if code == "123-456-789" { "123-456-780" } else { "123-456-789" };
    let (kind, message) = nodes[0].fails(&pair(wrong));
    assert!(kind == "refused" && message.contains("wrong pairing code; 4 tries left"), "{message}");
    eventually("the offering side tells", || {
        nodes[1].events().iter().any(|event| event.text.contains("wrong pairing code")).then_some(())
    });
    assert_eq!(nodes[0].status().cluster.unwrap().members.len(), 1);
    assert!(nodes[1].status().cluster.is_none());
    nodes[0].done(&pair(&code));
    assert_eq!(nodes[0].status().cluster.unwrap().members.len(), 2);
    // Nobody there at all.
    let (kind, message) =
        nodes[0].fails(&Command::Pair { address: "127.1.30.99:7780".parse().unwrap(), code });
    assert!(kind == "unavailable" && message.contains("127.1.30.99:7780"), "{message}");
}

#[test]
fn a_stranger_is_refused_and_disturbs_nobody() {
    let nodes = trio(31);
    let home = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_create(home.path()).unwrap();
    let endpoint =
        Endpoint::new(identity, Protocol::Cluster, cluster::MESSAGES, Duration::from_secs(5)).unwrap();
    let pin = Identity::load(&nodes[0].dir.join(paths::IDENTITY_DIR)).unwrap().pin;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stream = endpoint.connect(nodes[0].address(), pin).await.unwrap();
        let error = tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap_err();
        assert!(transport::tls::is_refusal(nodes[0].address(), error));
    });
    // Garbage, half a frame of pairing, silence: each connection ends by itself.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"FUTAPAIR\xff\xff\xff\xff", b"\x16\x03\x01\xff\xff"] {
        let mut stream = TcpStream::connect(nodes[0].address()).unwrap();
        stream.write_all(bytes).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let mut rest = Vec::new();
        let _ended = stream.read_to_end(&mut rest);
    }
    nodes[2].done(&Command::CreateTarget { iqn: super::fixture::IQN.into() });
}

/// Asks the tunnel socket of `from` for `name`: its answer, and what a word comes to that is sent then.
fn through(from: &TestNode, name: &str) -> (String, String) {
    let stream = UnixStream::connect(from.dir.join(paths::TUNNEL_SOCKET)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    writeln!(&stream, "{name}").unwrap();
    let mut reader = BufReader::new(&stream);
    let (mut answer, mut rest) = (String::new(), String::new());
    reader.read_line(&mut answer).unwrap();
    if answer == "ok\n" && write!(&stream, "hello").is_ok() {
        let _gone = stream.shutdown(std::net::Shutdown::Write);
        let _gone = reader.read_to_string(&mut rest);
    }
    (answer.trim().to_owned(), rest)
}

#[test]
fn consoles_reach_each_other_through_the_managers_and_nobody_else() {
    let nodes = trio(33);
    let console = UnixListener::bind(nodes[1].dir.join(paths::PEER_SOCKET)).unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = console.accept().unwrap();
        let mut word = String::new();
        stream.read_to_string(&mut word).unwrap();
        write!(stream, "{word} from b").unwrap();
    });
    eventually("b is known", || nodes[2].status().cluster.filter(|c| c.members.len() == 3));
    assert_eq!(through(&nodes[2], "b"), ("ok".into(), "hello from b".into()));
    echo.join().unwrap();
    assert_eq!(through(&nodes[0], "witness"), ("ok".into(), String::new()), "it has no console");
    for name in ["a", "zz", "b/../a", ""] {
        let (answer, rest) = through(&nodes[0], name);
        assert!(answer.contains("is no other member") && rest.is_empty(), "{answer}");
    }
}

#[test]
fn what_keeps_a_node_from_starting_is_named_and_left_alone() {
    let mut node = TestNode::new(32, 11, "a", Role::Data);
    // The port.
    let taken = TcpListener::bind(node.address()).unwrap();
    let error = node.try_start().unwrap_err();
    assert!(error.contains("cluster port 127.1.32.11:7780") && error.contains("in use"), "{error}");
    assert!(!node.dir.join(paths::RAFT_DB).exists() && !node.dir.join(paths::IDENTITY_DIR).exists());
    drop(taken);
    // The files.
    node.start();
    node.done(&Command::CreateCluster { portal: "127.1.32.50:3260".parse().unwrap() });
    node.kill();
    for file in [paths::SETTINGS, "identity/identity.json", paths::RAFT_DB] {
        let path = node.dir.join(file);
        let good = fs::read(&path).unwrap();
        let damaged = vec![b'x'; good.len()];
        fs::write(&path, &damaged).unwrap();
        let error = node.try_start().unwrap_err();
        assert!(error.contains(file), "{file}: {error}");
        assert_eq!(fs::read(&path).unwrap(), damaged, "{file} was touched");
        fs::write(&path, good).unwrap();
    }
    // S20: an identity that has been in a cluster is nothing without its log.
    let (log, kept) = (node.dir.join(paths::RAFT_DB), node.dir.join("kept"));
    fs::rename(&log, &kept).unwrap();
    let error = node.try_start().unwrap_err();
    assert!(error.contains("raft.redb is missing"), "{error}");
    assert!(!log.exists());
    fs::rename(&kept, &log).unwrap();
    // And with everything in place it goes on.
    node.start();
    eventually("it leads again", || node.status().cluster?.leader);
}

#[test]
fn a_node_that_is_about_to_move_joins_nothing() {
    let mut node = TestNode::new(44, 1, "a", Role::Data);
    node.start();
    let mut moved = node.settings.clone();
    moved.address = [127, 1, 44, 2].into();
    let write = |settings| {
        std::fs::write(node.dir.join(paths::SETTINGS), serde_json::to_vec(settings).unwrap()).unwrap();
    };
    write(&moved);
    let create = Command::CreateCluster { portal: "127.1.44.50:3260".parse().unwrap() };
    let (_, message) = node.fails(&create);
    assert!(message.contains("about to move to 127.1.44.2"), "{message}");
    write(&node.settings);
    node.done(&create);
}

#[test]
fn a_second_instance_is_refused() {
    let mut node = TestNode::new(33, 11, "a", Role::Data);
    node.start();
    let mut second = TestNode::new(33, 12, "b", Role::Data);
    fs::create_dir_all(second.dir.join(paths::IDENTITY_DIR)).unwrap();
    let identity = "identity/identity.json";
    fs::copy(node.dir.join(identity), second.dir.join(identity)).unwrap();
    std::os::unix::fs::symlink(node.dir.join(paths::RAFT_DB), second.dir.join(paths::RAFT_DB)).unwrap();
    let error = second.try_start().unwrap_err();
    assert!(error.contains("raft.redb"), "{error}");
    assert!(node.status().cluster.is_none());
}
