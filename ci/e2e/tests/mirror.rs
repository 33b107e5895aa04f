//! Two data nodes whose settings give replication a network of its own: the copies come together over it, and nothing of
//! them goes elsewhere.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use futago_e2e::checker::reconnect;
use futago_e2e::demo::Demo;
use futago_e2e::tools::{pattern, run, work_dir};
use serde_json::json;

const HEALTHY: Duration = Duration::from_secs(90);
const WRITER: &str = "iqn.2026-11.local.futago:writer";
const BYTES: usize = 65536;
/// A node's folder as the demo would make it, but for the mirror network.
fn prepare(dir: &Path, name: &str, number: u8) {
    let node = dir.join(name);
    std::fs::create_dir_all(&node).unwrap();
    let disk = node.join("disk0.img");
    run("fallocate", &["-l", "256MiB", &disk.to_string_lossy()]).unwrap();
    let settings = json!({
        "version": 1, "name": name, "role": "data", "address": format!("127.0.0.{number}"),
        "ports": { "cluster": 7780, "replication": 7788, "web": 8443 },
        "mirror": { "interface": "lo", "address": format!("127.0.2.{number}"), "prefix_len": 8 },
        "portal_prefix_len": 32, "disks": [disk],
    });
    std::fs::write(node.join("settings.json"), settings.to_string()).unwrap();
}

#[test]
fn copies_come_together_over_their_own_network() {
    let dir = work_dir("mirror").canonicalize().unwrap();
    prepare(&dir, "a", 11);
    prepare(&dir, "b", 12);
    let mut demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let mut session = reconnect(demo.portal(), &demo.iqn(), WRITER, 1, HEALTHY).unwrap();
    let written = pattern(7, BYTES);
    session.write(0, &written).unwrap();

    // Nobody listens elsewhere: what the other copy has came over the network of its own.
    let connect = |address: [u8; 4]| TcpStream::connect(SocketAddr::from((address, 7788))).map(drop);
    for number in [11, 12] {
        connect([127, 0, 2, number]).unwrap();
        assert_eq!(connect([127, 0, 0, number]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    let primary = demo.primary().unwrap();
    demo.kill(&primary).unwrap();
    let mut survivor = reconnect(demo.portal(), &demo.iqn(), WRITER, 2, HEALTHY).unwrap();
    assert!(survivor.read(0, BYTES).unwrap() == written, "what the mirror network has carried");
    demo.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}
