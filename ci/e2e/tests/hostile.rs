//! Clients that prove nothing and mean harm, on every port: they don't hinder those that are good, they don't make a
//! process grow or fall, and a session's I/O goes on beside them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futago_e2e::checker::reconnect;
use futago_e2e::demo::Demo;
use futago_e2e::initiator::Session;
use futago_e2e::tools::{Random, run, wait_for, work_dir};

const HEALTHY: Duration = Duration::from_secs(90);
/// Time that a connection has for its login (iscsi::Limits), with room for a slow machine.
const LOGIN_ENDS: std::ops::Range<u64> = 10..30;
/// What unknown clients may add to the memory of the storage process.
const GROWTH_BYTES: u64 = 48 << 20;

const NAMES: &str =
    "InitiatorName=iqn.2026-11.local.futago:stranger\0SessionType=Discovery\0AuthMethod=None\0";

/// A good session that writes and reads back until it is told to stop.
struct Good {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Duration)>,
}

impl Good {
    fn start(demo: &Demo) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut session =
            reconnect(demo.portal(), &demo.iqn(), "iqn.2026-11.local.futago:good", 1, HEALTHY).unwrap();
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut done, mut longest) = (0_u64, Duration::ZERO);
            while !told.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let data = [done.to_le_bytes()[0]; 4096];
                let lba = done % 512 * 8;
                session.write(lba, &data).unwrap();
                assert_eq!(session.read(lba, data.len()).unwrap(), data);
                longest = longest.max(begun.elapsed());
                done += 1;
            }
            (done, longest)
        });
        Self { stop, thread }
    }

    /// Writes with their reads, and the longest of them. An error, or a session that broke, fails the test.
    fn finish(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Process number of a node's service.
fn service_pid(dir: &Path, node: &str, service: &str) -> u32 {
    let dir = dir.join(node);
    let found = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        let is_it =
            words.get(1) == Some(&service.as_bytes()) && words.contains(&dir.as_os_str().as_encoded_bytes());
        is_it.then_some(pid)
    });
    found.unwrap_or_else(|| panic!("no process {service} of node {node}"))
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
}

/// A login request's header: discovery, as it is in RFC 7143 §11.12, its data segment of `len` bytes.
fn login_header(flags: u8, len: usize) -> [u8; 48] {
    let mut header = [0; 48];
    header[0] = 0x43;
    header[1] = flags;
    header[5..8].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes()[1..]);
    header[8] = 0x80;
    header[19] = 1;
    header[27] = 1;
    header
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(40))).unwrap();
    stream
}

/// Reads until the other side ends the connection; answers what it said before.
fn read_to_end(stream: &mut TcpStream, what: &str) -> Vec<u8> {
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return said,
            Ok(count) => said.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                return said;
            }
            Err(error) => panic!("{what}: not closed: {error}"),
        }
    }
}

/// Writes as much as the other side takes; answers how much that was.
fn write_all_it_takes(stream: &mut TcpStream, bytes: &[u8], times: usize) -> usize {
    let mut taken = 0;
    for _ in 0..times {
        match stream.write_all(bytes) {
            Ok(()) => taken += bytes.len(),
            Err(error) => {
                let closed = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
                assert!(closed, "not closed after {taken} bytes: {error}");
                break;
            }
        }
    }
    taken
}

fn open(demo: &Demo, qualifier: u16) -> Session {
    let name = "iqn.2026-11.local.futago:genuine";
    Session::open(demo.portal(), &demo.iqn(), name, qualifier, Duration::from_secs(10)).unwrap()
}

/// 500 connections that stand there, half of them amid their login: who comes then gets in at once.
fn half_open_connections(demo: &Demo) {
    let portal = demo.portal();
    let header = login_header(0x81, NAMES.len());
    let half_a_login = [&header[..], &NAMES.as_bytes()[..20]].concat();
    let held: Vec<TcpStream> = (0..500)
        .map(|number| {
            let mut stream = connect(portal);
            if number % 2 == 0 {
                // It may have given way to a later one already.
                let _ = stream.write_all(&half_a_login);
            }
            stream
        })
        .collect();
    let begun = Instant::now();
    for qualifier in 10..20 {
        open(demo, qualifier);
    }
    println!("hostile: 10 logins beside {} half-open connections took {:?}", held.len(), begun.elapsed());
}

/// New connections all the time, more than there are places: logins still get through.
fn login_flood(demo: &Demo) {
    let flood = Flood::start(vec![demo.portal()]);
    std::thread::sleep(Duration::from_secs(2));
    let mut slowest = Duration::ZERO;
    for qualifier in 20..30 {
        let begun = Instant::now();
        open(demo, qualifier);
        slowest = slowest.max(begun.elapsed());
    }
    let opened = flood.finish();
    println!("hostile: the slowest of 10 logins beside a flood of {opened} connections took {slowest:?}");
    assert!(opened > 200, "no flood: {opened}");
}

/// A login byte by byte, never silent for long: it ends when a login's time is over.
fn byte_at_a_time(portal: SocketAddr) {
    let login = [&login_header(0x87, NAMES.len())[..], NAMES.as_bytes()].concat();
    let mut stream = connect(portal);
    let begun = Instant::now();
    for byte in &login {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    let seconds = begun.elapsed().as_secs();
    assert!(read_to_end(&mut stream, "a slow login").is_empty());
    assert!(LOGIN_ENDS.contains(&seconds), "a slow login ended after {seconds} s");
}

/// Streams that are no login: each is closed, the worst of them at once.
fn garbage(portal: SocketAddr) {
    let mut random = Random::seeded("hostile");
    for _ in 0..100 {
        let mut bytes: Vec<u8> = (0..=random.below(4000)).flat_map(|_| random.draw().to_le_bytes()).collect();
        if random.below(2) == 0 {
            bytes[0] = 0x43;
            bytes[4..7].copy_from_slice(&[0, 0, 16]);
        }
        let mut stream = connect(portal);
        write_all_it_takes(&mut stream, &bytes, 1);
        let _ = stream.shutdown(Shutdown::Write);
        read_to_end(&mut stream, "random bytes");
    }
    let login = [&login_header(0x87, NAMES.len())[..], NAMES.as_bytes()].concat();
    for cut in [1, 4, 47, 48, 49, login.len() - 1] {
        let mut stream = connect(portal);
        stream.write_all(&login[..cut]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(read_to_end(&mut stream, "a truncated login").is_empty());
    }
    at_once(portal, "1020 bytes of additional headers, and an end", |stream| {
        let mut header = login_header(0x87, NAMES.len());
        header[4] = 255;
        write_all_it_takes(stream, &[&header[..], &[0x5a; 1020], NAMES.as_bytes()].concat(), 1);
        let _ = stream.shutdown(Shutdown::Write);
    });
    at_once(portal, "a data segment of 16 MiB before the login", |stream| {
        write_all_it_takes(stream, &login_header(0x87, 0xff_ffff), 1);
        write_all_it_takes(stream, &[0x41; 65_536], 256);
    });
    at_once(portal, "a login that is always to be continued", |stream| {
        let part = [&login_header(0x40, 8192)[..], &[0x41; 8192]].concat();
        write_all_it_takes(stream, &part, 4096);
    });
    at_once(portal, "a command before the login", |stream| {
        let mut header = login_header(0xa1, 0);
        header[0] = 0x01;
        write_all_it_takes(stream, &header, 1);
    });
}

/// `attack` makes the target close long before a login's time is over.
fn at_once(portal: SocketAddr, what: &str, attack: impl FnOnce(&mut TcpStream)) {
    let mut stream = connect(portal);
    let begun = Instant::now();
    attack(&mut stream);
    read_to_end(&mut stream, what);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "{what}: closed only after {took:?}");
}

/// Opens connections to these ports all the time and holds each for a while; some say nothing, some begin a TLS
/// handshake or a login, some talk nonsense.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Flood {
    fn start(ports: Vec<SocketAddr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut held, mut opened) = (VecDeque::new(), 0_u64);
            let mut random = Random(7);
            while !told.load(Ordering::Relaxed) {
                for port in &ports {
                    let Ok(mut stream) = TcpStream::connect_timeout(port, Duration::from_secs(1)) else {
                        continue;
                    };
                    let _ = match random.below(4) {
                        0 => stream.write_all(&[0x16, 3, 1, 2, 0, 1]),
                        1 => stream.write_all(&login_header(0x87, 100)),
                        2 => stream.write_all(&random.draw().to_le_bytes().repeat(40)),
                        _ => Ok(()),
                    };
                    held.push_back(stream);
                    opened += 1;
                }
                while held.len() > 500 {
                    held.pop_front();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            opened
        });
        Self { stop, thread }
    }

    /// Connections that were opened.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The ports of the nodes themselves: a node comes back and its copy is brought up to date, and the console answers,
/// while all of them are flooded.
fn floods_between_nodes(demo: &Demo, primary: &str) {
    let other = Demo::other(primary);
    let ports: Vec<SocketAddr> = ["127.0.0.11", "127.0.0.12", "127.0.0.13"]
        .iter()
        .flat_map(|ip| [7780, 7788, 8443].map(|port| format!("{ip}:{port}").parse().unwrap()))
        .collect();
    let flood = Flood::start(ports);
    std::thread::sleep(Duration::from_secs(2));
    demo.kill(other).unwrap();
    wait_for("the loss of a node", Duration::from_secs(30), || {
        (demo.volume()?["state"] != "healthy").then_some(())
    })
    .unwrap();
    demo.start_node(other).unwrap();
    let back = demo.wait_healthy(HEALTHY).unwrap();
    let json = demo.json();
    let web =
        json["nodes"].as_array().unwrap().iter().find(|node| node["name"] == primary).unwrap()["web"].clone();
    let begun = Instant::now();
    let url = format!("{}/", web.as_str().unwrap());
    let answer =
        run("curl", &["-sk", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}", &url]).unwrap();
    assert!(["200", "302", "303"].contains(&answer.as_str()), "{answer}");
    let asked = begun.elapsed();
    let opened = flood.finish();
    println!(
        "hostile: beside {opened} connections to the nodes' ports, node {other} was back after {back:?}, and the console \
         answered after {asked:?}"
    );
}

fn check_nothing_fell(demo: &Demo) {
    for node in ["a", "b"] {
        for service in demo.status_of(node).unwrap()["services"].as_array().unwrap() {
            assert_eq!(service["restarts"], 0, "node {node}: {service}");
        }
    }
    for node in ["a", "b", "witness"] {
        for log in std::fs::read_dir(demo.dir.join(node).join("log")).unwrap() {
            let log = log.unwrap().path();
            let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
            assert!(!text.contains("panicked"), "{}: {text}", log.display());
        }
    }
}

#[test]
fn hostile_clients_hinder_nobody() {
    let dir = work_dir("hostile");
    let mut demo = Demo::start(&dir, "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let primary = demo.primary().unwrap();
    let storage = service_pid(&demo.dir, &primary, "storage");
    let portal = demo.portal();

    // What the good session needs is there before it counts.
    let good = Good::start(&demo);
    std::thread::sleep(Duration::from_secs(2));
    let before = resident_bytes(storage);
    let slow = std::thread::spawn(move || byte_at_a_time(portal));
    garbage(portal);
    slow.join().unwrap();
    half_open_connections(&demo);
    login_flood(&demo);
    let after = resident_bytes(storage);
    let (done, longest) = good.finish();
    println!(
        "hostile: {done} writes and reads beside, the longest {longest:?}; storage {before} → {after} bytes"
    );
    assert!(after < before + GROWTH_BYTES, "storage grew from {before} to {after} bytes");
    assert!(done > 100 && longest < Duration::from_secs(5), "{done} writes, the longest {longest:?}");
    assert_eq!(service_pid(&demo.dir, &primary, "storage"), storage);

    let good = Good::start(&demo);
    floods_between_nodes(&demo, &primary);
    let (done, _) = good.finish();
    assert!(done > 100, "{done} writes");
    assert_eq!(demo.primary().unwrap(), primary, "the service moved");
    check_nothing_fell(&demo);
    demo.stop().unwrap();
}
