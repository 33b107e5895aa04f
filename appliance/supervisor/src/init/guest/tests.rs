//! The conversation with a host of our own that speaks in registers, as VMware's does.

use super::message::{Door, ORDERS, PORT, REQUESTS, Registers};
use super::orders::Power;
use super::*;
use std::collections::{BTreeMap, VecDeque};

const SUCCESS: u32 = 1;
const WAITS: u32 = 2;
const CHECKPOINT: u32 = 0x10;
const COOKIE: [u32; 2] = [0xabcd, 0x1234];

/// One end of a channel at the host.
#[derive(Default)]
struct HostChannel {
    protocol: u32,
    expected: usize,
    coming: Vec<u8>,
    going: VecDeque<Vec<u8>>,
    sent: usize,
}

#[derive(Default)]
struct Host {
    channels: BTreeMap<u32, HostChannel>,
    next: u32,
    orders: VecDeque<Vec<u8>>,
    answers: Vec<Vec<u8>>,
    requests: Vec<Vec<u8>>,
    calls: usize,
    /// This call is cut by a checkpoint.
    cut: Option<usize>,
    /// From this call on nothing succeeds.
    dead: Option<usize>,
    /// Takes no requests.
    is_deaf: bool,
}

impl Host {
    fn complete(&mut self, id: u32) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.coming.len() < channel.expected {
            return;
        }
        let message = std::mem::take(&mut channel.coming);
        if channel.protocol == REQUESTS {
            let refused = message.starts_with(b"vmx.");
            channel.going.push_back(if refused { b"0 no".to_vec() } else { b"1 ".to_vec() });
            self.requests.push(message);
        } else {
            self.answers.push(message);
            channel.going.extend(self.orders.pop_front());
        }
    }
}

impl Door for Host {
    fn call(&mut self, before: Registers) -> Registers {
        self.calls += 1;
        assert_eq!((before.edx & 0xffff, before.ecx & 0xffff), (PORT, 0x1e));
        let (id, kind) = (before.edx >> 16, before.ecx >> 16);
        let mut after = before;
        let status = |after: &mut Registers, status: u32| after.ecx = status << 16 | 0x1e;
        status(&mut after, SUCCESS);
        if self.dead.is_some_and(|dead| self.calls >= dead) {
            status(&mut after, 0);
            return after;
        }
        if self.cut == Some(self.calls) {
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.coming.clear();
                channel.sent = 0;
            }
            status(&mut after, CHECKPOINT);
            return after;
        }
        if kind == 0 {
            let protocol = before.ebx & 0x7fff_ffff;
            if self.is_deaf && protocol == REQUESTS {
                status(&mut after, 0);
                return after;
            }
            self.next += 1;
            assert!(before.ebx >> 31 == 1 && [ORDERS, REQUESTS].contains(&protocol));
            self.channels.insert(self.next, HostChannel { protocol, ..HostChannel::default() });
            return Registers { edx: self.next << 16, esi: COOKIE[0], edi: COOKIE[1], ..after };
        }
        assert_eq!([before.esi, before.edi], COOKIE);
        let channel = self.channels.get_mut(&id).expect("an open channel");
        match kind {
            1 => {
                channel.expected = before.ebx as usize;
                channel.coming.clear();
                self.complete(id);
            }
            2 => {
                let left = channel.expected - channel.coming.len();
                channel.coming.extend(before.ebx.to_le_bytes().iter().take(left));
                self.complete(id);
            }
            3 => match channel.going.front() {
                Some(message) => {
                    channel.sent = 0;
                    status(&mut after, SUCCESS | WAITS);
                    after.edx = 1 << 16;
                    after.ebx = u32::try_from(message.len()).unwrap();
                }
                None => after.edx = 0,
            },
            4 => {
                let message = channel.going.front().expect("a message");
                let mut word = [0; 4];
                let piece = message[channel.sent..].iter().take(4);
                word.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
                channel.sent += 4;
                after.edx = 2 << 16;
                after.ebx = u32::from_le_bytes(word);
            }
            5 => drop(channel.going.pop_front()),
            6 => drop(self.channels.remove(&id)),
            other => panic!("call {other}"),
        }
        after
    }
}

/// Until the host is dead: what the guest was told to do.
fn talk_with(host: &mut Host) -> (Vec<Power>, anyhow::Error) {
    talk_and(host, &mut |_| {})
}

/// Likewise; `pause` is told the number of each pause.
fn talk_and(host: &mut Host, pause: &mut dyn FnMut(u32)) -> (Vec<Power>, anyhow::Error) {
    let (mut ended, mut looks) = (Vec::new(), 0);
    let error = {
        // A host that has nothing more to say dies after a few looks.
        struct Mortal<'a>(&'a mut Host, &'a std::cell::Cell<bool>);
        impl Door for Mortal<'_> {
            fn call(&mut self, registers: Registers) -> Registers {
                if self.1.get() {
                    self.0.dead.get_or_insert(0);
                }
                self.0.call(registers)
            }
        }
        let over = std::cell::Cell::new(false);
        let mut pause = |_, _| {
            looks += 1;
            pause(looks);
            over.set(looks >= 3);
        };
        converse(&mut Mortal(host, &over), &mut |power| ended.push(power), &mut pause).unwrap_err()
    };
    (ended, error)
}

fn host(orders: &[&str]) -> Host {
    Host { orders: orders.iter().map(|order| order.as_bytes().to_vec()).collect(), ..Host::default() }
}

#[test]
fn a_host_sees_the_guest_and_shuts_it_down() {
    let mut host = host(&["reset", "Capabilities_Register", "ping", "nonsense", "OS_Halt"]);
    let (ended, error) = talk_with(&mut host);
    assert_eq!(ended, [Power::Off]);
    assert!(error.to_string().contains("status 0x0"), "{error}");
    let said: Vec<&[u8]> =
        host.answers.iter().map(Vec::as_slice).filter(|answer| !answer.is_empty()).collect();
    assert_eq!(said, [&b"OK ATR toolbox"[..], b"OK ", b"OK ", b"ERROR Unknown command", b"OK "]);
    let requests: Vec<_> = host.requests.iter().map(|request| String::from_utf8_lossy(request)).collect();
    for wanted in [
        "tools.set.version",
        "SetGuestInfo  10 ",
        "tools.os.statechange.status 1 1",
        "info-set guestinfo.futago.state",
    ] {
        assert!(requests.iter().any(|request| request.starts_with(wanted)), "{wanted}: {requests:?}");
    }
    // Each request had a channel of its own, and closed it.
    assert_eq!(host.channels.len(), 1, "that of the orders, which the host had let die");
}

#[test]
fn a_machine_that_goes_down_says_so_at_once() {
    let mut host = host(&["reset", "Capabilities_Register"]);
    tell(State::Running);
    talk_and(&mut host, &mut |pause| {
        if pause == 1 {
            tell(State::Stopping);
        }
    });
    let requests = host.requests.iter().map(|request| String::from_utf8_lossy(request).into_owned());
    let told: Vec<String> =
        requests.filter_map(|request| Some(request.split_once("futago.state ")?.1.to_owned())).collect();
    assert_eq!(told, ["running", "stopping"], "long before the next refresh, and once");
    let begun = Instant::now();
    pause(State::Running, POLL * 30);
    assert!(begun.elapsed() < POLL, "a change ends the wait, also one that came before it");
}

#[test]
fn a_checkpoint_at_any_call_costs_nothing() {
    let orders = ["reset", "Capabilities_Register", "OS_Reboot"];
    let mut whole = host(&orders);
    talk_with(&mut whole);
    for cut in 2..whole.calls {
        let mut host = host(&orders);
        host.cut = Some(cut);
        let (ended, error) = talk_with(&mut host);
        // A channel that could not be opened is opened anew with the conversation.
        if !error.to_string().contains("could not be opened") {
            assert_eq!(ended, [Power::Restart], "call {cut}: {error}");
            let said = |host: &Host| host.answers.iter().filter(|answer| !answer.is_empty()).count();
            assert_eq!(said(&host), said(&whole), "call {cut}");
        }
    }
}

#[test]
fn a_host_that_dies_at_any_call_ends_the_conversation() {
    let orders = ["reset", "Capabilities_Register", "ping"];
    let mut whole = host(&orders);
    talk_with(&mut whole);
    for dead in 1..whole.calls {
        let mut host = host(&orders);
        host.dead = Some(dead);
        let (ended, error) = talk_with(&mut host);
        assert!(ended.is_empty() && error.to_string().contains("status"), "call {dead}: {error}");
    }
}

#[test]
fn an_order_to_end_is_carried_out_whatever_becomes_of_its_answer() {
    for (order, power) in [("OS_Halt", Power::Off), ("OS_Reboot", Power::Restart)] {
        let mut deaf = Host { is_deaf: true, ..host(&[order]) };
        let (ended, _) = talk_with(&mut deaf);
        assert_eq!((ended, deaf.requests.len()), (vec![power], 0));
        assert!(deaf.answers.contains(&b"OK ".to_vec()), "{:?}", deaf.answers);

        let mut whole = host(&[order]);
        talk_with(&mut whole);
        let ended: Vec<bool> = (1..whole.calls)
            .map(|dead| {
                let mut host = Host { dead: Some(dead), ..host(&[order]) };
                let (ended, _) = talk_with(&mut host);
                assert!(ended.is_empty() || ended == [power], "call {dead}: {ended:?}");
                !ended.is_empty()
            })
            .collect();
        // From the call on with which the order is there.
        assert!(ended.is_sorted() && ended.first() == Some(&false), "{ended:?}");
        assert!(ended.iter().filter(|ended| **ended).count() > 10, "{ended:?}");
    }
}

/// Without such a host there is nothing to talk with, and nothing runs.
#[test]
fn no_thread_runs_on_other_machines() {
    if !vmw_backdoor::is_vmware_cpu() {
        start().unwrap();
        let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = threads.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        assert!(names.into_iter().all(|name| name.trim() != "vmware-guest"));
    }
}
