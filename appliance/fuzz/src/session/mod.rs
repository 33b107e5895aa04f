//! The connection machine against an initiator that keeps the rules, breaks them, or sends noise, while completions come in
//! any order, tasks are aborted from both sides, and memory is short.
//!
//! The input is a script of [`Move`]s. At the end, if the connection still stands, the initiator does all that it owes and
//! the backend completes everything; then each command that the window allowed has exactly one response, unless it
//! was aborted: then at most one.
//!
//! - [`host`]: the backend's side, which counts memory and checks each write's bytes.
//! - [`initiator`]: the other end of the wire: what was sent, what is owed.
//! - [`check`]: what every PDU of the target must be.

mod check;
mod host;
mod initiator;

use arbitrary::{Arbitrary, Unstructured};
use base::Monotonic;
use host::{How, LIMITS};
use initiator::{Initiator, Kind};
use iscsi::pdu::TaskFunction;
use iscsi::{CloseReason, Scope};

/// What an initiator says at its login.
#[derive(Arbitrary, Debug)]
struct Offer {
    header_digest: bool,
    data_digest: bool,
    no_initial_r2t: bool,
    no_immediate: bool,
    segment: u16,
    first_burst: u16,
    burst: u16,
    r2ts: u8,
    discovery: u8,
}

/// A task management function that aborts.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Function {
    AbortTaskSet,
    ClearTaskSet,
    LogicalUnitReset,
    WarmReset,
    ColdReset,
    Other(u8),
}

impl Function {
    fn code(self) -> u8 {
        match self {
            Self::AbortTaskSet => TaskFunction::AbortTaskSet.code(),
            Self::ClearTaskSet => TaskFunction::ClearTaskSet.code(),
            Self::LogicalUnitReset => TaskFunction::LogicalUnitReset.code(),
            Self::WarmReset => TaskFunction::TargetWarmReset.code(),
            Self::ColdReset => TaskFunction::TargetColdReset.code(),
            Self::Other(code) => code,
        }
    }
}

/// One step.
#[derive(Arbitrary, Debug)]
enum Move {
    /// A command; what is wrong with it is up to its numbers.
    Command {
        kind: Kind,
        immediate: bool,
        lun: bool,
        blocks: u16,
        expected: i16,
        piece: u16,
        more: bool,
    },
    /// The next Data-Out of an unsolicited burst.
    Unsolicited {
        which: u8,
        piece: u16,
        spoil: bool,
    },
    /// A piece of what an R2T asked for.
    Solicited {
        which: u8,
        piece: u16,
        spoil: bool,
    },
    AbortTask {
        which: u8,
    },
    Manage {
        function: Function,
        lun: bool,
    },
    Ping {
        len: u16,
        immediate: bool,
    },
    Text {
        text: Vec<u8>,
        all: bool,
        go_on: bool,
        more: bool,
    },
    Logout {
        reason: u8,
    },
    /// A header with any fields.
    Pdu {
        opcode: u8,
        fields: [u8; 46],
        data: Vec<u8>,
        ahs: u8,
    },
    /// A header that announces more data than may be.
    Oversize {
        opcode: u8,
        len: u32,
    },
    /// Any bytes: from here on the stream is noise.
    Noise(Vec<u8>),
    /// So many bytes reach the target.
    Deliver {
        count: u16,
        direct: bool,
    },
    /// So many bytes of the target's are read.
    Read {
        count: u16,
    },
    /// The backend ends a command.
    Complete {
        which: u8,
        how: How,
    },
    /// A task of another session has settled.
    Settle,
    /// Another session's task management.
    AbortedByOthers {
        unit: bool,
    },
    RequestLogout,
    Memory {
        crowded: bool,
        none: bool,
    },
    Others {
        count: u8,
    },
    Tick {
        seconds: u8,
    },
    AtOnce(bool),
}

/// One connection from its login to its end.
pub fn target(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(offer) = input.arbitrary::<Offer>() else { return };
    let mut initiator = Initiator::log_in(&login_text(&offer), offer.discovery == 7);
    let mut now = 0_u64;
    while !input.is_empty() {
        let Ok(step) = input.arbitrary::<Move>() else { break };
        if let Move::Tick { seconds } = step {
            now += u64::from(seconds % 32);
            initiator.machine.handle_tick(Monotonic(now * 1_000_000_000));
        } else {
            play(&mut initiator, step);
        }
        initiator.check_state();
        if initiator.machine.is_finished() {
            break;
        }
    }
    initiator.finish();
}

fn login_text(offer: &Offer) -> String {
    use std::fmt::Write;
    let mut text = String::from("InitiatorName=iqn.2026-11.x:i\0");
    let mut key = |name: &str, value: &dyn std::fmt::Display| {
        write!(text, "{name}={value}\0").unwrap();
    };
    let digest = |wanted| if wanted { "CRC32C" } else { "None" };
    let yes = |wanted| if wanted { "Yes" } else { "No" };
    match offer.discovery == 7 {
        true => key("SessionType", &"Discovery"),
        false => key("TargetName", &"iqn.2026-11.x:0000"),
    }
    key("HeaderDigest", &digest(offer.header_digest));
    key("DataDigest", &digest(offer.data_digest));
    key("InitialR2T", &yes(!offer.no_initial_r2t));
    key("ImmediateData", &yes(!offer.no_immediate));
    key("MaxRecvDataSegmentLength", &u32::from(offer.segment).max(512));
    key("FirstBurstLength", &u32::from(offer.first_burst).max(512));
    key("MaxBurstLength", &u32::from(offer.burst).max(512));
    key("MaxOutstandingR2T", &offer.r2ts.max(1));
    text
}

fn play(initiator: &mut Initiator, step: Move) {
    match step {
        Move::Command { kind, immediate, lun, blocks, expected, piece, more } => {
            initiator.command(kind, immediate, u64::from(lun), blocks, i32::from(expected), piece, more);
        }
        Move::Unsolicited { which, piece, spoil } => {
            initiator.unsolicited(usize::from(which), usize::from(piece), spoil);
        }
        Move::Solicited { which, piece, spoil } => {
            initiator.solicited(usize::from(which), usize::from(piece), spoil)
        }
        Move::AbortTask { which } => initiator.abort_task(usize::from(which)),
        Move::Manage { function, lun } => initiator.manage(function.code(), u64::from(lun)),
        Move::Ping { len, immediate } => initiator.ping(usize::from(len % 20_000), immediate),
        Move::Text { text, all, go_on, more } => initiator.text(&text, all, go_on, more),
        Move::Logout { reason } => initiator.logout(reason),
        Move::Pdu { opcode, fields, data, ahs } => initiator.any_pdu(opcode, &fields, &data, ahs),
        Move::Oversize { opcode, len } => initiator.oversize(opcode, len),
        Move::Noise(bytes) => initiator.noise(&bytes),
        Move::Deliver { count, direct } => initiator.deliver(usize::from(count), direct),
        Move::Read { count } => initiator.read(usize::from(count)),
        Move::Complete { which, how } => initiator.complete(usize::from(which), how),
        Move::Settle => initiator.settle(),
        Move::AbortedByOthers { unit } => {
            initiator.aborted_by_others(if unit { Scope::Unit([0; 8]) } else { Scope::All });
        }
        Move::RequestLogout => initiator.machine.request_logout(10),
        Move::Memory { crowded, none } => {
            (initiator.host.crowded, initiator.host.no_memory) = (crowded, none);
            initiator.machine.handle_room(&mut initiator.host);
        }
        Move::Others { count } => initiator.host.others = usize::from(count % 4),
        Move::AtOnce(at_once) => initiator.host.at_once = at_once,
        Move::Tick { .. } => {}
    }
}

impl Initiator {
    /// What holds at any time.
    fn check_state(&self) {
        let bound = host::memory_bound();
        assert!(self.host.live.get() <= bound, "{} bytes of buffers, at most {bound}", self.host.live.get());
        assert_eq!(self.machine.executing(), self.host.seen.len(), "tasks with the backend");
    }

    /// Both sides do what they owe; then everything is answered and given back.
    fn finish(mut self) {
        (self.host.crowded, self.host.no_memory) = (false, false);
        self.machine.handle_room(&mut self.host);
        // The smallest bursts of the largest commands, one R2T at a time, take some thousands of rounds.
        for _ in 0..100_000 {
            if !self.go_on() {
                break;
            }
        }
        if self.machine.close_reason().is_none() && !self.noisy {
            self.check_answers();
        }
        self.machine.handle_closed(&mut self.host);
        assert!(matches!(self.machine.close_reason(), Some(reason) if reason != CloseReason::NotServed));
        while !self.host.seen.is_empty() {
            self.complete(0, How::Good);
        }
        assert_eq!(self.machine.executing(), 0);
        assert_eq!(self.host.settled, self.expect_settled, "aborts for others that were not reported");
        let Self { machine, host, .. } = self;
        drop(machine);
        assert_eq!(host.live.get(), 0, "buffers that outlived the connection");
        assert!(usize::from(LIMITS.tasks) > 0);
    }
}
