//! What a test of the network tries, and how its findings read. Pure.

use crate::model::{Model, Snapshot};
use control::settings::Role;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

/// How something is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Whether it takes connections; they are closed at once.
    Tcp(SocketAddr),
    /// Whether it answers an echo request (ICMP).
    Echo(IpAddr),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Echo(address) => write!(f, "{address}"),
        }
    }
}

/// One thing to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it is, for people.
    pub what: String,
    /// How it is reached.
    pub way: Way,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was tried.
    pub check: Check,
    /// How long it took, or why it failed.
    pub outcome: Result<Duration, String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Check { what, way } = &self.check;
        write!(f, "{what:<24} {:<22} ", way.to_string())?;
        match &self.outcome {
            Ok(time) => write!(f, "{}.{} ms", time.as_millis(), time.subsec_micros() / 100 % 10),
            Err(reason) => write!(f, "FAILED: {reason}"),
        }
    }
}

/// Everything that this node has to reach, as far as it is known.
#[must_use]
pub fn all(model: &Model) -> Vec<Check> {
    let gateway = model.place.settings.gateway;
    let mut checks: Vec<Check> = gateway
        .map(|gateway| Check { what: "gateway".into(), way: Way::Echo(gateway) })
        .into_iter()
        .collect();
    if let Some(Ok(known)) = &model.known {
        checks.extend(of_cluster(&model.place.name, known));
    }
    checks
}

fn of_cluster(own_name: &str, known: &Snapshot) -> Vec<Check> {
    let Some(cluster) = &known.status.cluster else { return Vec::new() };
    let tcp = |what: String, address, port| Check { what, way: Way::Tcp(SocketAddr::new(address, port)) };
    let mut checks = Vec::new();
    for member in cluster.members.iter().filter(|member| member.name != own_name) {
        checks.push(tcp(format!("{}, cluster", member.name), member.address, member.ports.cluster));
        if member.role == Role::Data {
            let what = format!("{}, replication", member.name);
            checks.push(tcp(what, member.address, member.ports.replication));
        }
    }
    checks.extend(cluster.portal.map(|portal| tcp("portal".into(), portal.ip(), portal.port())));
    checks
}

/// What was typed: `ADDRESS` is sent an echo request, `ADDRESS:PORT` is connected to.
///
/// # Errors
/// It is neither.
pub fn typed(text: &str) -> Result<Check, String> {
    let text = text.trim();
    let way = match (text.parse(), text.parse()) {
        (Ok(address), _) => Way::Echo(address),
        (_, Ok(address)) => Way::Tcp(address),
        _ => return Err(format!("{text:?} is neither an IP address nor one with a port, as 192.0.2.1:443")),
    };
    Ok(Check { what: "as typed".into(), way })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_echoed_ports_connected_to() {
        assert_eq!(typed(" 192.0.2.1 ").unwrap().way, Way::Echo("192.0.2.1".parse().unwrap()));
        assert_eq!(typed("2001:db8::1").unwrap().way, Way::Echo("2001:db8::1".parse().unwrap()));
        assert_eq!(typed("192.0.2.1:443").unwrap().way, Way::Tcp("192.0.2.1:443".parse().unwrap()));
        assert_eq!(typed("[2001:db8::1]:80").unwrap().way, Way::Tcp("[2001:db8::1]:80".parse().unwrap()));
        for wrong in ["", "host", "192.0.2.1:", "192.0.2.1:99999", "192.0.2"] {
            assert!(typed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn findings_read_well() {
        let finding = |outcome| Finding { check: typed("192.0.2.1:443").unwrap(), outcome }.to_string();
        assert!(finding(Ok(Duration::from_micros(12_345))).ends_with("192.0.2.1:443          12.3 ms"));
        assert!(finding(Ok(Duration::from_micros(45))).ends_with(" 0.0 ms"));
        assert!(finding(Err("refused".into())).ends_with(" FAILED: refused"));
    }
}
