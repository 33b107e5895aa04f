//! The machine as VMware's tools would show it: its address and that it runs, in vSphere; *Shut Down Guest* and *Restart
//! Guest* end it in order.
//!
//! [`orders`] decides what an order of the host is answered with (pure), [`nics`] writes addresses down (pure), [`message`] moves
//! messages over registers, [`backdoor`] is the instruction that hands them to the host. This file is the loop round
//! them, in a thread of its own.
//!
//! # Invariants
//!
//! - Nothing here holds PID 1 up or ends it: whatever fails on a channel closes it, and it is opened anew, after longer and longer waits.
//! - An order to end the machine is a signal to PID 1, as the menu sends it: the ordered path, and no other.
//!
//! Source: open-vm-tools (`lib/message`, `lib/rpcIn`, `lib/rpcChannel`, `services/plugins`), and OpenBSD's `vmt(4)`.

mod backdoor;
mod message;
mod nics;
mod orders;

use message::{Channel, Door};
use nics::Nic;
use orders::{Facts, Orders, Output, Power};
use rustix::process::Signal;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Wait for the next order when there was none.
const POLL: Duration = Duration::from_secs(1);
/// How often the host is told about the guest.
const REFRESH: Duration = Duration::from_secs(30);
/// First and longest wait before a channel that failed is opened anew.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What the machine is about, for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Starting,
    NoSettings,
    Running,
    Stopping,
}

/// By its number.
const STATES: &[&str] = &["starting", "waiting for settings", "running", "stopping"];

static STATE: AtomicU8 = AtomicU8::new(State::Starting as u8);

/// From now on the host is told this.
pub(crate) fn tell(state: State) {
    STATE.store(state as u8, Ordering::Relaxed);
}

/// Talks with the host for ever, if it is VMware.
pub(crate) fn start() -> std::io::Result<()> {
    if !vmw_backdoor::is_vmware_cpu() {
        return Ok(());
    }
    std::thread::Builder::new().name("vmware-guest".into()).spawn(talk).map(drop)
}

fn talk() {
    let (mut wait, mut told) = (BACK_OFF.0, false);
    loop {
        let began = Instant::now();
        let ended = backdoor::open()
            .and_then(|mut door| converse(&mut door, &mut signal_self, &mut std::thread::sleep));
        if began.elapsed() > BACK_OFF.1 {
            (wait, told) = (BACK_OFF.0, false);
        }
        if let Err(error) = ended
            && !std::mem::replace(&mut told, true)
        {
            tracing::warn!("the host's RPC: {error:#}; it is tried again and again");
        }
        std::thread::sleep(wait);
        wait = (wait * 2).min(BACK_OFF.1);
    }
}

fn signal_self(power: Power) {
    tracing::info!("the host asks for {power:?}");
    let signal = match power {
        Power::Off => Signal::TERM,
        Power::Restart => Signal::INT,
    };
    crate::child::signal(rustix::process::getpid(), signal);
}

/// Carries out the host's orders until its channel fails.
fn converse(
    door: &mut dyn Door,
    end: &mut dyn FnMut(Power),
    sleep: &mut dyn FnMut(Duration),
) -> anyhow::Result<()> {
    let orders_from = Channel::open(door, message::ORDERS)?;
    let ended = obey(door, &orders_from, end, sleep);
    // It failed already: whether the host hears of its end does not matter.
    let _ = orders_from.close(door);
    ended
}

fn obey(
    door: &mut dyn Door,
    channel: &Channel,
    end: &mut dyn FnMut(Power),
    sleep: &mut dyn FnMut(Duration),
) -> anyhow::Result<()> {
    let mut orders = Orders::default();
    let mut answer = Vec::new();
    let mut told: Option<Instant> = None;
    loop {
        // Each look begins with the answer to the order before; an empty one says that the guest is there.
        channel.send(door, &answer)?;
        answer.clear();
        if let Some(order) = channel.receive(door)? {
            for output in orders.handle(&order, &facts()) {
                match output {
                    Output::Answer(text) => answer = text.to_vec(),
                    Output::Tell(request) => request_once(door, &request)?,
                    Output::End(power) => {
                        // Answered before everything goes down.
                        channel.send(door, &answer)?;
                        answer.clear();
                        end(power);
                    }
                }
            }
            told = if orders.wants_news() { None } else { told };
            continue;
        }
        if orders.is_registered() && told.is_none_or(|at| at.elapsed() >= REFRESH) {
            for request in orders::news(&facts()) {
                request_once(door, &request)?;
            }
            told = Some(Instant::now());
        }
        sleep(POLL);
    }
}

/// A request on a channel of its own. One that the host refuses is a matter of its version.
fn request_once(door: &mut dyn Door, request: &[u8]) -> anyhow::Result<()> {
    let channel = Channel::open(door, message::REQUESTS)?;
    let answered = channel.send(door, request).and_then(|()| channel.receive(door));
    let closed = channel.close(door);
    if let Some(answer) = answered?
        && !answer.starts_with(b"1")
    {
        let (request, answer) = (String::from_utf8_lossy(request), String::from_utf8_lossy(&answer));
        tracing::debug!("the host refuses {request:?}: {answer:?}");
    }
    closed
}

/// What is so at this moment; what can't be found out is left out.
fn facts() -> Facts {
    let state = STATES.get(usize::from(STATE.load(Ordering::Relaxed)));
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    Facts {
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        uptime: Duration::from_secs(uptime.unsigned_abs()),
        state: state.copied().unwrap_or_default(),
        nics: nics().unwrap_or_default(),
    }
}

fn nics() -> Option<Vec<Nic>> {
    let mut netlink = netconf::Netlink::open().ok()?;
    let interfaces = netlink.interfaces().ok()?;
    let ethernet = interfaces.into_iter().filter(|interface| !interface.loopback);
    Some(
        ethernet
            .filter_map(|interface| {
                let addresses = netlink.addresses(&interface.name).ok()?;
                Some(Nic { hardware_address: interface.hardware_address?, addresses })
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests;
