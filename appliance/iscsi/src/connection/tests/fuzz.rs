//! Any bytes, and any sequence of valid, broken and misplaced PDUs: nothing panics, memory stays bounded.

use super::bench::*;
use crate::connection::Scope;
use crate::pdu::*;
use alloc::vec::Vec;
use proptest::prelude::*;

/// Buffers of admitted tasks, one command above the budget, and first bursts of all tasks.
const MEMORY_BOUND: usize = (64 << 10) + (1 << 20) + 6 * (256 << 10);

#[derive(Clone, Debug)]
enum Move {
    Bytes(Vec<u8>),
    Pdu { opcode: u8, fields: Vec<u8>, data: Vec<u8>, in_order: bool },
    Command { write: bool, last: bool, tag: u32, blocks: u8, offered: u32, data_len: usize },
    AnswerR2t { short: bool },
    Finish,
    Abort,
    Send(usize),
    Tick(u64),
}

fn moves() -> impl Strategy<Value = Move> {
    let opcodes = prop::sample::select(&[0_u8, 1, 2, 4, 5, 6, 0x10, 0x1c, 0x40, 0x41, 0x42, 0x44, 0x46][..]);
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Move::Bytes),
        6 => (opcodes, prop::collection::vec(any::<u8>(), 47), prop::collection::vec(any::<u8>(), 0..600), any::<bool>())
            .prop_map(|(opcode, fields, data, in_order)| Move::Pdu { opcode, fields, data, in_order }),
        12 => (any::<bool>(), any::<bool>(), 0..8_u32, any::<u8>(), 0..200_000_u32, 0..4096_usize)
            .prop_map(|(write, last, tag, blocks, offered, data_len)| Move::Command { write, last, tag, blocks, offered, data_len }),
        8 => any::<bool>().prop_map(|short| Move::AnswerR2t { short }),
        8 => Just(Move::Finish),
        1 => Just(Move::Abort),
        4 => (0..100_000_usize).prop_map(Move::Send),
        1 => (0..30_u64).prop_map(Move::Tick),
    ]
}

/// Reads what is sent, remembering the R2Ts.
fn drain(bench: &mut Bench, r2ts: &mut Vec<R2t>) {
    for (reply, _) in bench.replies() {
        if let Reply::R2t(r2t) = reply {
            r2ts.push(r2t);
        }
    }
}

fn play(bench: &mut Bench, step: Move, r2ts: &mut Vec<R2t>) {
    match step {
        Move::Bytes(bytes) => {
            bench.machine.receive(&bytes, &mut bench.host);
        }
        Move::Pdu { opcode, fields, data, in_order } => {
            let mut bhs: Bhs = [0; BHS_BYTES];
            bhs[1..].copy_from_slice(&fields);
            bhs[0] = opcode;
            bhs[4] &= 3;
            if in_order {
                bhs[24..28].copy_from_slice(&bench.machine.window.exp_cmd_sn().to_be_bytes());
            }
            let mut bytes = bench.frame(bhs, &data);
            let ahs = ahs_len(&bhs);
            bytes.splice(48..48, core::iter::repeat_n(0, ahs));
            bench.machine.receive(&bytes, &mut bench.host);
        }
        Move::Command { write, last, tag, blocks, offered, data_len } => {
            let command = if write { write10(tag, blocks, offered) } else { read10(tag, blocks, offered) };
            let data_len = if write { data_len.min(offered as usize) } else { 0 };
            let cmd_sn = bench.machine.window.exp_cmd_sn();
            let bytes = bench.frame(ScsiCommand { last, cmd_sn, ..command }.encode(), &pattern(data_len));
            bench.machine.receive(&bytes, &mut bench.host);
        }
        Move::AnswerR2t { short } => {
            drain(bench, r2ts);
            let Some(r2t) = r2ts.pop() else { return };
            let len = (r2t.desired_len_bytes as usize).min(8192) - usize::from(short);
            let pdu = DataOut {
                last: len == r2t.desired_len_bytes as usize,
                initiator_task_tag: r2t.initiator_task_tag,
                target_transfer_tag: r2t.target_transfer_tag,
                buffer_offset: r2t.buffer_offset,
                ..DataOut::default()
            };
            let bytes = bench.frame(pdu.encode(), &pattern(len));
            bench.machine.receive(&bytes, &mut bench.host);
        }
        Move::Finish => {
            if !bench.host.seen.is_empty() {
                let seen = bench.host.seen.remove(0);
                let read = seen.view.cdb[0] == 0x28;
                let len = if read { usize::from(seen.view.cdb[8]) * 512 } else { 0 };
                bench.complete(
                    seen.task,
                    if read { medium(&pattern(len)) } else { scsi::Response::good().into() },
                );
            }
        }
        Move::Abort => {
            bench.machine.abort(Scope::All, 1, &mut bench.host);
            bench.machine.handle_room(&mut bench.host);
        }
        Move::Send(count) => {
            let mut slices = [&[][..]; 8];
            let filled = bench.machine.output(&mut slices);
            let there: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
            // A partial send in the middle of a PDU; what was cut is not decoded.
            if count < there {
                bench.machine.handle_sent(count, &mut bench.host);
                let mut rest = [&[][..]; 64];
                let filled = bench.machine.output(&mut rest);
                let left: usize = rest[..filled].iter().map(|slice| slice.len()).sum();
                bench.machine.handle_sent(left, &mut bench.host);
            }
        }
        Move::Tick(at) => bench.machine.handle_tick(base::Monotonic(at * 1_000_000_000)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_before_the_login(bytes in prop::collection::vec(any::<u8>(), 0..4000), step in 1..500_usize) {
        let mut bench = Bench::new();
        let mut held = Vec::new();
        for piece in bytes.chunks(step) {
            held.extend(piece);
            let taken = bench.machine.receive(&held, &mut bench.host);
            held.drain(..taken);
        }
        prop_assert_eq!(bench.host.live.get(), 0);
    }

    #[test]
    fn any_login_text(bytes in prop::collection::vec(any::<u8>(), 0..600), stages in 0..16_u8, transit: bool) {
        let mut bench = Bench::new();
        let login = LoginRequest { transit, stages, ..LoginRequest::default() };
        bench.send(login.encode(), &bytes);
        bench.replies();
    }

    #[test]
    fn any_sequence_of_pdus(steps in prop::collection::vec(moves(), 0..80), esxi: bool) {
        let mut bench = Bench::logged_in(if esxi { ESXI } else { "ImmediateData=No\0" });
        let mut r2ts = Vec::new();
        for step in steps {
            play(&mut bench, step, &mut r2ts);
            prop_assert!(bench.host.live.get() <= MEMORY_BOUND);
            prop_assert!(bench.machine.transmit.arena_bytes() <= (1 << 20));
            prop_assert!(bench.machine.executing() == bench.host.seen.len());
        }
        // The end: whatever came before, everything is given back.
        bench.machine.handle_closed(&mut bench.host);
        while !bench.host.seen.is_empty() {
            bench.finish();
        }
        prop_assert_eq!(bench.machine.executing(), 0);
        prop_assert_eq!(bench.host.live.get(), 0);
        prop_assert_eq!(bench.machine.tasks.ordered(), 0);
    }
}
