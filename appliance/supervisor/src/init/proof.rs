//! When a release that is on trial has proved itself: its services have run for a while without a restart, its console
//! answers, and a data node in a cluster has its disks open.
//!
//! Invariant: a service that ends in that time starts the count again, as [`ServiceStatus::since`] does.

use crate::plan::PLAN;
use ::control::api::Status;
use ::control::paths;
use ::control::service::{ServiceState, ServiceStatus};
use ::control::settings::Role;
use anyhow::{Context, ensure};
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
            Ok(None) => return,
            Ok(Some(missing)) => told = tell(told, missing),
            Err(error) => told = tell(told, format!("{error:#}")),
        }
    }
}

/// Each once: it may last.
fn tell(told: String, missing: String) -> String {
    if told != missing {
        tracing::info!("the release has not proved itself yet: {missing}");
    }
    missing
}

/// What is missing.
fn look(dir: &Path) -> anyhow::Result<Option<String>> {
    let services = ask(&dir.join(paths::SUPERVISOR_SOCKET), "/services")?;
    let services: Vec<ServiceStatus> = serde_json::from_str(&services).context("services")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if let Some(missing) = missing_run(&services, now) {
        return Ok(Some(missing));
    }
    // The console, where there is one, asks the cluster manager.
    let has_console = services.iter().any(|service| service.name == "web");
    let (socket, path) =
        if has_console { (paths::WEB_SOCKET, "/api/v1/status") } else { (paths::CLUSTER_SOCKET, "/status") };
    let status = ask(&dir.join(socket), path)?;
    Ok(missing_disks(&serde_json::from_str(&status).context("status")?))
}

/// A menu is no part of what a node promises.
fn missing_run(services: &[ServiceStatus], now: u64) -> Option<String> {
    let promised = |service: &&ServiceStatus| PLAN.iter().any(|plan| plan.name == service.name);
    let ready = |service: &ServiceStatus| {
        service.state == ServiceState::Running && now.saturating_sub(service.since) >= RUN_S
    };
    let missing = services.iter().filter(promised).find(|service| !ready(service))?;
    Some(format!("{} has not run for {RUN_S} seconds", missing.name))
}

/// A node in no cluster owns no disk yet.
fn missing_disks(status: &Status) -> Option<String> {
    let mut members = status.cluster.iter().flat_map(|cluster| &cluster.members);
    let own = members.find(|member| member.name == status.node)?;
    (own.role == Role::Data && own.capacity.0 == 0).then(|| "storage has no disk open".to_owned())
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
        for (cluster, web, missing) in [
            ((Running, 100), (Running, 101), None),
            ((Running, 100), (Running, 102), Some("web")),
            ((Running, 130), (Running, 100), Some("cluster")),
            ((Running, 200), (Running, 100), Some("cluster")),
            ((BackingOff, 100), (Running, 100), Some("cluster")),
            ((Running, 100), (Starting, 100), Some("web")),
        ] {
            let found = missing_run(&services(cluster, web), 131);
            assert_eq!(found, missing.map(|name| format!("{name} has not run for 30 seconds")));
        }
    }

    #[test]
    fn a_data_node_in_a_cluster_has_its_disks_open() {
        let found = |text: &str| missing_disks(&serde_json::from_str(text).unwrap());
        assert_eq!(found(&status("data", 4096)), None);
        assert_eq!(found(&status("witness", 0)), None);
        assert_eq!(found(&status("data", 0)), Some("storage has no disk open".into()));
        assert_eq!(found(r#"{"node":"a","cluster":null,"volumes":[],"targets":[]}"#), None);
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
        let supervisor = serve(&dir.path().join(paths::SUPERVISOR_SOCKET), vec![running; 3]);
        let unavailable = "HTTP/1.0 503 Service Unavailable\r\n\r\n{}".to_owned();
        let answers = vec![unavailable, ok(&status("data", 0)), ok(&status("data", 1))];
        let console = serve(&dir.path().join(paths::WEB_SOCKET), answers);
        assert!(look(dir.path()).unwrap_err().to_string().contains("503"));
        assert!(look(dir.path()).unwrap().unwrap().contains("no disk"));
        assert_eq!(look(dir.path()).unwrap(), None);
        supervisor.join().unwrap();
        console.join().unwrap();
    }
}
