//! When a release that is on trial has proved itself: its services have run for a while without a restart, its console
//! answers, and a data node in a cluster has its disks and its copies of volumes open. One that there is no room to make is no
//! fault of the release.
//!
//! Invariant: a service that ends in that time starts the count again, as [`ServiceStatus::since`] does.

use crate::plan::PLAN;
use ::control::api::Status;
use ::control::paths;
use ::control::service::{ServiceState, ServiceStatus};
use ::control::settings::Role;
use anyhow::{Context, bail, ensure};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long all services run.
const RUN_S: u64 = 30;
/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Time for a question.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer taken.
const MOST_BYTES: u64 = 8 << 20;

/// Returns when the release has proved itself on the node at `dir`.
pub(super) fn wait(dir: &Path) {
    let mut told = String::new();
    loop {
        std::thread::sleep(PERIOD);
        match look(dir) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                let missing = format!("{error:#}");
                // Once: it may last.
                if told != missing {
                    tracing::warn!("the release has not proved itself yet: {missing}");
                    told = missing;
                }
            }
        }
    }
}

/// Whether it has; services that have not run for long enough are nothing to tell of, whatever else is missing is an error.
fn look(dir: &Path) -> anyhow::Result<bool> {
    let services = ask(&dir.join(paths::SUPERVISOR_SOCKET), "/services")?;
    let services: Vec<ServiceStatus> = serde_json::from_str(&services).context("services")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if !have_run(&services, now) {
        return Ok(false);
    }
    // The console, where there is one, asks the cluster manager.
    let has_console = services.iter().any(|service| service.name == "web");
    let (socket, path) =
        if has_console { (paths::WEB_SOCKET, "/api/v1/status") } else { (paths::CLUSTER_SOCKET, "/status") };
    let status = ask(&dir.join(socket), path)?;
    let status = serde_json::from_str(&status).context("status")?;
    has_opened(&status)?;
    Ok(true)
}

/// All that is to be open on this node is.
fn has_opened(status: &Status) -> anyhow::Result<()> {
    ensure!(has_disks(status), "storage has no disk open");
    if let Some(volume) = status.volumes.iter().find(|volume| volume.unopened.contains(&status.node)) {
        bail!("the copy of volume {} is not open. {}", volume.name, volume.problems.join(" "));
    }
    Ok(())
}

/// A menu is no part of what a node promises.
fn have_run(services: &[ServiceStatus], now: u64) -> bool {
    let promised = |service: &&ServiceStatus| PLAN.iter().any(|plan| plan.name == service.name);
    let ready = |service: &ServiceStatus| {
        service.state == ServiceState::Running && now.saturating_sub(service.since) >= RUN_S
    };
    services.iter().filter(promised).all(ready)
}

/// A node in no cluster owns no disk yet.
fn has_disks(status: &Status) -> bool {
    let members = status.cluster.iter().flat_map(|cluster| &cluster.members);
    let mut own = members.filter(|member| member.name == status.node && member.role == Role::Data);
    own.all(|member| member.capacity.0 > 0)
}

/// The answer's body.
fn ask(socket: &Path, path: &str) -> anyhow::Result<String> {
    let exchange = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // By 1.0 the answer is one piece and ends with the connection.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MOST_BYTES).read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = exchange().with_context(|| socket.display().to_string())?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    let line = head.lines().next().unwrap_or_default();
    ensure!(line.split(' ').nth(1) == Some("200"), "{path}: {line}");
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn services(cluster: (ServiceState, u64), web: (ServiceState, u64)) -> Vec<ServiceStatus> {
        let service =
            |name: &str, (state, since)| ServiceStatus { name: name.into(), state, restarts: 0, since };
        // A menu may fail for ever.
        vec![
            service("cluster", cluster),
            service("web", web),
            service("serial", (ServiceState::BackingOff, 99)),
        ]
    }

    fn status(role: &str, capacity: u64) -> String {
        format!(
            r#"{{"node":"a","cluster":{{"id":"1","generation":1,"leader":null,"quorum":false,"portal":null,"members":[
            {{"name":"b","role":"data","online":false,"address":"192.0.2.2","serving":false,"free":0,"capacity":0}},
            {{"name":"a","role":"{role}","online":true,"address":"192.0.2.1","serving":false,"free":0,"capacity":{capacity}}}
            ]}},"volumes":[],"targets":[]}}"#
        )
    }

    #[test]
    fn all_services_run_for_a_while_without_a_restart() {
        use ServiceState::{BackingOff, Running, Starting};
        for (cluster, web, expected) in [
            ((Running, 100), (Running, 101), true),
            ((Running, 100), (Running, 102), false),
            ((Running, 130), (Running, 100), false),
            ((Running, 200), (Running, 100), false),
            ((BackingOff, 100), (Running, 100), false),
            ((Running, 100), (Starting, 100), false),
        ] {
            assert_eq!(have_run(&services(cluster, web), 131), expected, "{cluster:?} {web:?}");
        }
    }

    #[test]
    fn a_data_node_in_a_cluster_has_its_disks_open() {
        let found = |text: &str| has_disks(&serde_json::from_str(text).unwrap());
        assert!(found(&status("data", 4096)));
        assert!(found(&status("witness", 0)));
        assert!(!found(&status("data", 0)));
        assert!(found(r#"{"node":"a","cluster":null,"volumes":[],"targets":[]}"#));
    }

    #[test]
    fn its_copies_of_volumes_are_open() {
        let look = |unopened: &[&str]| {
            let mut status: serde_json::Value = serde_json::from_str(&status("data", 4096)).unwrap();
            status["volumes"] = serde_json::json!([{
                "name": "v", "size": 4096, "growth": null, "not_grown": null, "epoch": 1, "primary": "b",
                "in_sync": ["b"], "replicas": ["a", "b"], "unopened": unopened, "state": "degraded",
                "problems": ["a: its metadata is of a newer version."], "resync": null, "verify": null,
                "resynced_total": 0, "dirty": 0, "logged": 0
            }]);
            has_opened(&serde_json::from_value(status).unwrap())
        };
        look(&[]).unwrap();
        look(&["b"]).unwrap();
        let error = look(&["a"]).unwrap_err().to_string();
        assert_eq!(error, "the copy of volume v is not open. a: its metadata is of a newer version.");
    }

    /// Each socket's answers, one a connection.
    fn serve(path: &Path, answers: Vec<String>) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let len = stream.read(&mut request).unwrap();
                assert!(request[..len].starts_with(b"GET /"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        })
    }

    #[test]
    fn it_asks_the_supervisor_and_the_console() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(paths::RUN_DIR)).unwrap();
        let ok = |body: &str| format!("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{body}");
        assert!(look(dir.path()).is_err(), "nobody is there");
        let old = (ServiceState::Running, 1);
        let running = ok(&serde_json::to_string(&services(old, old)).unwrap());
        let starting = ok(&serde_json::to_string(&services(old, (ServiceState::Starting, 1))).unwrap());
        let answers = [vec![starting], vec![running; 3]].concat();
        let supervisor = serve(&dir.path().join(paths::SUPERVISOR_SOCKET), answers);
        let unavailable = "HTTP/1.0 503 Service Unavailable\r\n\r\n{}".to_owned();
        let answers = vec![unavailable, ok(&status("data", 0)), ok(&status("data", 1))];
        let console = serve(&dir.path().join(paths::WEB_SOCKET), answers);
        assert!(!look(dir.path()).unwrap());
        assert!(look(dir.path()).unwrap_err().to_string().contains("503"));
        assert!(look(dir.path()).unwrap_err().to_string().contains("no disk"));
        assert!(look(dir.path()).unwrap());
        supervisor.join().unwrap();
        console.join().unwrap();
    }
}
