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
//! - An order to end the machine that has arrived is carried out, whatever fails while it is answered.
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
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Wait for the next order when there was none.
const POLL: Duration = Duration::from_secs(1);
/// How often the host is told about the guest, while its state stays the same.
const REFRESH: Duration = Duration::from_secs(30);
/// First and longest wait before a channel that failed is opened anew.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What the machine is about, for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    NoSettings,
    Running,
    Stopping,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::NoSettings => "waiting for settings",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

static STATE: Mutex<State> = Mutex::new(State::Starting);
static CHANGED: Condvar = Condvar::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on the host is told this, beginning at once: whoever goes down may say so before it ends anything.
pub(crate) fn tell(new: State) {
    *state() = new;
    CHANGED.notify_all();
}

/// Until the state is another one than `told`, at most for `time`.
fn pause(told: State, time: Duration) {
    let is_told = |state: &mut State| *state == told;
    drop(CHANGED.wait_timeout_while(state(), time, is_told));
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
        let ended = backdoor::open().and_then(|mut door| converse(&mut door, &mut signal_self, &mut pause));
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
    pause: &mut dyn FnMut(State, Duration),
) -> anyhow::Result<()> {
    let orders_from = Channel::open(door, message::ORDERS)?;
    let ended = obey(door, &orders_from, end, pause);
    // It failed already: whether the host hears of its end does not matter.
    let _ = orders_from.close(door);
    ended
}

fn obey(
    door: &mut dyn Door,
    channel: &Channel,
    end: &mut dyn FnMut(Power),
    pause: &mut dyn FnMut(State, Duration),
) -> anyhow::Result<()> {
    let mut orders = Orders::default();
    let mut answer = Vec::new();
    let mut told: Option<(State, Instant)> = None;
    loop {
        // Each look begins with the answer to the order before; an empty one says that the guest is there.
        channel.send(door, &answer)?;
        answer.clear();
        if let Some(order) = channel.receive(door)? {
            for output in orders.handle(&order, &facts()) {
                match output {
                    Output::Answer(text) => answer = text.to_vec(),
                    // It concerns nobody but the host; what else the order wants is done.
                    Output::Tell(request) => {
                        if let Err(error) = request_once(door, &request) {
                            let request = String::from_utf8_lossy(&request);
                            tracing::warn!("the host can't be told {request:?}: {error:#}");
                        }
                    }
                    Output::End(power) => {
                        // Answered before everything goes down.
                        let answered = channel.send(door, &answer);
                        answer.clear();
                        end(power);
                        answered?;
                    }
                }
            }
            told = if orders.wants_news() { None } else { told };
            continue;
        }
        let now = *state();
        let is_old = |(state, at): (State, Instant)| state != now || at.elapsed() >= REFRESH;
        if orders.is_registered() && told.is_none_or(is_old) {
            for request in orders::news(&facts()) {
                request_once(door, &request)?;
            }
            told = Some((now, Instant::now()));
        }
        pause(now, POLL);
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
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    Facts {
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        uptime: Duration::from_secs(uptime.unsigned_abs()),
        state: state().words(),
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
