//! What the host orders, and what it is answered. Pure.
//!
//! | order | answer | besides |
//! |---|---|---|
//! | `reset` | `OK ATR toolbox` | the host has lost sight of the guest: it registers again |
//! | `Capabilities_Register` | `OK ` | what this guest can do, and its version, which the host is not to manage |
//! | `ping`, `Set_Option …` | `OK ` | – |
//! | `Set_Option broadcastIP 1` | `OK ` | the first address |
//! | `OS_Halt`, `OS_Reboot` | `OK ` | done; the ordered path begins |
//! | `OS_PowerOn`, `OS_Resume`, `OS_Suspend` | `OK ` | done: there is nothing to prepare |
//! | anything else | `ERROR Unknown command` | – |

use super::nics::{self, Nic};
use std::net::IpAddr;
use std::time::Duration;

const OK: &[u8] = b"OK ";
const RESET: &[u8] = b"OK ATR toolbox";
const UNKNOWN: &[u8] = b"ERROR Unknown command";

/// Tools that the host is not to update.
const UNMANAGED: u32 = i32::MAX.unsigned_abs();
/// The guest's operating system in the words of VMware, that of the descriptor.
const OS_NAME: &str = "other3xlinux-64";

/// Keys of `SetGuestInfo`.
mod key {
    pub(super) const DNS_NAME: u8 = 1;
    pub(super) const OS_NAME_FULL: u8 = 5;
    pub(super) const OS_NAME: u8 = 6;
    /// In hundredths of a second.
    pub(super) const UPTIME: u8 = 7;
    pub(super) const NICS: u8 = 10;
}

/// How the machine is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    Off,
    Restart,
}

/// What is to be done for an order, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// A request to the host.
    Tell(Vec<u8>),
    /// The order's answer.
    Answer(&'static [u8]),
    /// End the machine in order, once the answer has been sent.
    End(Power),
}

/// What is so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) hostname: String,
    pub(super) uptime: Duration,
    pub(super) state: &'static str,
    pub(super) nics: Vec<Nic>,
}

/// Changes of the machine's state, by the numbers that the host has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StateChange {
    Halt = 1,
    Reboot = 2,
    PowerOn = 3,
    Resume = 4,
    Suspend = 5,
}

type Handler = fn(&mut Orders, &Facts) -> Vec<Output>;

/// By the whole order; the first that fits. One that ends with `*` fits all that begin so.
const ORDERS: &[(&str, Handler)] = &[
    ("ping", |_, _| vec![Output::Answer(OK)]),
    ("reset", Orders::reset),
    ("Capabilities_Register", Orders::register),
    ("Set_Option broadcastIP 1", broadcast),
    ("Set_Option *", |_, _| vec![Output::Answer(OK)]),
    ("OS_Halt", |_, _| changed(StateChange::Halt, Some(Power::Off))),
    ("OS_Reboot", |_, _| changed(StateChange::Reboot, Some(Power::Restart))),
    ("OS_PowerOn", |_, _| changed(StateChange::PowerOn, None)),
    ("OS_Resume", Orders::resume),
    ("OS_Suspend", |_, _| changed(StateChange::Suspend, None)),
    ("*", |_, _| vec![Output::Answer(UNKNOWN)]),
];

/// What the host has asked for so far.
#[derive(Debug, Default)]
pub(super) struct Orders {
    registered: bool,
    news_wanted: bool,
}

impl Orders {
    /// The host knows what this guest can do.
    pub(super) fn is_registered(&self) -> bool {
        self.registered
    }

    /// The host is to be told everything at once; asked once.
    pub(super) fn wants_news(&mut self) -> bool {
        std::mem::take(&mut self.news_wanted)
    }

    /// An order came in.
    pub(super) fn handle(&mut self, order: &[u8], facts: &Facts) -> Vec<Output> {
        let order = order.trim_ascii_end();
        let order = order.strip_suffix(b"\0").unwrap_or(order);
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => order.starts_with(start.as_bytes()),
            None => order == pattern.as_bytes(),
        };
        match ORDERS.iter().find(|(pattern, _)| fits(pattern)) {
            Some((_, handler)) => handler(self, facts),
            None => vec![Output::Answer(UNKNOWN)],
        }
    }

    fn reset(&mut self, _: &Facts) -> Vec<Output> {
        self.registered = false;
        vec![Output::Answer(RESET)]
    }

    fn register(&mut self, _: &Facts) -> Vec<Output> {
        (self.registered, self.news_wanted) = (true, true);
        let version = format!("tools.set.version {UNMANAGED}");
        // Those without a value end with a space.
        let told = ["vmx.capability.unified_loop toolbox", "tools.capability.statechange ", &version];
        let told = told.map(|request| Output::Tell(request.into()));
        told.into_iter().chain([Output::Answer(OK)]).collect()
    }

    fn resume(&mut self, _: &Facts) -> Vec<Output> {
        self.news_wanted = true;
        changed(StateChange::Resume, None)
    }
}

fn changed(change: StateChange, end: Option<Power>) -> Vec<Output> {
    let done = format!("tools.os.statechange.status 1 {}", change as u8);
    let outputs = [Output::Tell(done.into_bytes()), Output::Answer(OK)];
    outputs.into_iter().chain(end.map(Output::End)).collect()
}

fn broadcast(_: &mut Orders, facts: &Facts) -> Vec<Output> {
    let mut addresses = facts.nics.iter().flat_map(|nic| &nic.addresses).map(|(address, _)| address);
    let told = addresses.find(|address| matches!(address, IpAddr::V4(_)));
    let told = told.map(|address| Output::Tell(format!("info-set guestinfo.ip {address}").into_bytes()));
    told.into_iter().chain([Output::Answer(OK)]).collect()
}

/// Everything that the host is told about this guest.
pub(super) fn news(facts: &Facts) -> Vec<Vec<u8>> {
    let version = env!("CARGO_PKG_VERSION");
    let info = |key: u8, value: &[u8]| [format!("SetGuestInfo  {key} ").as_bytes(), value].concat();
    let hundredths = facts.uptime.as_secs().saturating_mul(100).to_string();
    vec![
        info(key::DNS_NAME, facts.hostname.as_bytes()),
        info(key::OS_NAME_FULL, format!("Futago {version}").as_bytes()),
        info(key::OS_NAME, OS_NAME.as_bytes()),
        info(key::UPTIME, hundredths.as_bytes()),
        info(key::NICS, &nics::encode(&facts.nics)),
        format!("info-set guestinfo.futago.version {version}").into_bytes(),
        format!("info-set guestinfo.futago.state {}", facts.state).into_bytes(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            hostname: "a".into(),
            uptime: Duration::from_secs(12),
            state: "running",
            nics: vec![Nic {
                hardware_address: [0, 0x50, 0x56, 1, 2, 3],
                addresses: vec![("2001:db8::1".parse().unwrap(), 64), ("192.0.2.11".parse().unwrap(), 24)],
            }],
        }
    }

    fn tell(request: &str) -> Output {
        Output::Tell(request.into())
    }

    #[test]
    fn each_order_has_its_answer() {
        let status = |number: u8| tell(&format!("tools.os.statechange.status 1 {number}"));
        let cases: &[(&str, Vec<Output>)] = &[
            ("ping", vec![Output::Answer(OK)]),
            ("reset", vec![Output::Answer(RESET)]),
            ("Set_Option synctime 0", vec![Output::Answer(OK)]),
            ("Set_Option broadcastIP 1", vec![tell("info-set guestinfo.ip 192.0.2.11"), Output::Answer(OK)]),
            ("OS_Halt", vec![status(1), Output::Answer(OK), Output::End(Power::Off)]),
            ("OS_Reboot\0", vec![status(2), Output::Answer(OK), Output::End(Power::Restart)]),
            ("OS_PowerOn", vec![status(3), Output::Answer(OK)]),
            ("OS_Resume", vec![status(4), Output::Answer(OK)]),
            ("OS_Suspend", vec![status(5), Output::Answer(OK)]),
            ("OS_Haltx", vec![Output::Answer(UNKNOWN)]),
            ("vmbackup.start 1", vec![Output::Answer(UNKNOWN)]),
            ("", vec![Output::Answer(UNKNOWN)]),
            ("\u{fffd}", vec![Output::Answer(UNKNOWN)]),
        ];
        for (order, outputs) in cases {
            assert_eq!(Orders::default().handle(order.as_bytes(), &facts()), *outputs, "{order:?}");
        }
    }

    #[test]
    fn a_host_is_told_about_the_guest_from_its_registration_to_a_reset() {
        let mut orders = Orders::default();
        assert!(!orders.is_registered() && !orders.wants_news());
        let outputs = orders.handle(b"Capabilities_Register", &facts());
        assert_eq!(outputs.last(), Some(&Output::Answer(OK)));
        assert!(outputs.contains(&tell("tools.capability.statechange ")));
        assert!(outputs.contains(&tell("tools.set.version 2147483647")));
        assert!(orders.is_registered() && orders.wants_news() && !orders.wants_news());
        orders.handle(b"OS_Resume", &facts());
        assert!(orders.wants_news());
        orders.handle(b"reset", &facts());
        assert!(!orders.is_registered());
    }

    #[test]
    fn the_news_are_complete() {
        let news = news(&facts());
        let text: Vec<_> = news.iter().map(|line| String::from_utf8_lossy(line)).collect();
        for line in ["SetGuestInfo  1 a", "SetGuestInfo  7 1200", "info-set guestinfo.futago.state running"] {
            assert!(text.iter().any(|told| told == line), "{text:?}");
        }
        assert!(text.iter().any(|told| told.starts_with("SetGuestInfo  10 ")));
    }

    #[test]
    fn the_operating_system_is_the_descriptors() {
        let hardware = include_str!("../../../../../firmware-config/virtual-hardware.toml");
        let line = hardware.lines().find(|line| line.starts_with("guest_os")).unwrap();
        // `other3xLinux64Guest` of the API is `other3xlinux-64` of a guest.
        let wanted = OS_NAME.replace('-', "").to_ascii_lowercase();
        assert!(line.to_ascii_lowercase().contains(&format!("\"{wanted}guest\"")), "{line}");
    }
}
