//! Tries what [`crate::checks`] names, all at the same time.

use crate::checks::{Check, Finding, Way};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// After this long there is no answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The findings, in the order of `checks`.
pub(crate) async fn run(checks: Vec<Check>) -> Vec<Finding> {
    let running: Vec<_> = checks.iter().map(|check| tokio::spawn(probe(check.way))).collect();
    let mut findings = Vec::new();
    for (check, task) in checks.into_iter().zip(running) {
        let outcome = task.await.unwrap_or_else(|error| Err(error.to_string()));
        findings.push(Finding { check, outcome });
    }
    findings
}

async fn probe(way: Way) -> Result<Duration, String> {
    let start = Instant::now();
    match way {
        Way::Tcp(address) => match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Ok(start.elapsed()),
            Ok(Err(error)) => Err(reason(&error)),
            Err(_) => Err(no_answer()),
        },
        Way::Echo(address) => {
            tokio::task::spawn_blocking(move || echo(address)).await.map_err(|error| error.to_string())?
        }
    }
}

fn echo(address: IpAddr) -> Result<Duration, String> {
    match ping::ping(address, PATIENCE) {
        Ok(reply) => Ok(reply.rtt),
        Err(ping::Error::Timeout) => Err(no_answer()),
        Err(ping::Error::IoError { error }) => Err(reason(&error)),
        Err(error) => Err(error.to_string()),
    }
}

fn no_answer() -> String {
    format!("no answer in {} s", PATIENCE.as_secs())
}

/// In a few words: it has to fit at the end of a line.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".into(),
        ErrorKind::NetworkUnreachable => "no route".into(),
        ErrorKind::HostUnreachable => "host not found".into(),
        ErrorKind::PermissionDenied => "not permitted".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::typed;

    #[tokio::test]
    async fn what_listens_is_reached_what_does_not_is_said() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let open = open.local_addr().unwrap();
        let checks = [open.to_string(), closed.to_string()].map(|text| typed(&text).unwrap()).to_vec();
        let findings = run(checks.clone()).await;
        assert_eq!(findings.iter().map(|finding| finding.check.clone()).collect::<Vec<_>>(), checks);
        assert!(findings[0].outcome.as_ref().unwrap() < &PATIENCE);
        assert_eq!(findings[1].outcome, Err("refused".into()));
    }

    #[test]
    fn the_loopback_answers_where_that_may_be_asked() {
        match echo("127.0.0.1".parse().unwrap()) {
            Ok(time) => assert!(time < PATIENCE),
            Err(reason) => assert_eq!(reason, "not permitted"),
        }
    }
}
