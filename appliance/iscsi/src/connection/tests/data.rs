//! Reads and writes: how data moves.

use super::bench::*;
use crate::connection::CloseReason;
use crate::pdu::*;
use alloc::vec::Vec;

/// Status and sense code of a SCSI Response.
fn status(reply: &(Reply, Vec<u8>)) -> (u8, [u8; 2]) {
    let (Reply::ScsiResponse(response), data) = reply else { panic!("{reply:?}") };
    (response.status, if data.len() > 15 { [data[14], data[15]] } else { [0; 2] })
}

#[test]
fn a_read_ends_with_its_last_data() {
    let mut bench = Bench::logged_in("MaxRecvDataSegmentLength=4096\0MaxBurstLength=8192\0");
    bench.command(read10(7, 24, 12_288), b"");
    let data = pattern(12_288);
    let task = bench.host.seen[0].task;
    bench.complete(task, medium(&data));
    let replies = bench.replies();
    let parts: Vec<_> = replies
        .iter()
        .map(|(reply, bytes)| match reply {
            Reply::DataIn(d) => (d.buffer_offset, bytes.len(), d.data_sn, d.last, d.has_status),
            other => panic!("{other:?}"),
        })
        .collect();
    // The first sequence ends at MaxBurstLength; the status comes with the very last PDU.
    let expected = [(0, 4096, 0, false, false), (4096, 4096, 1, true, false), (8192, 4096, 2, true, true)];
    assert_eq!(parts, expected);
    assert_eq!(replies.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>(), data);
}

#[test]
fn residuals_of_reads() {
    for (expected, underflow, overflow, residual) in
        [(512, false, false, 0), (1000, true, false, 488), (100, false, true, 412)]
    {
        let mut bench = Bench::logged_in("");
        bench.command(read10(1, 1, expected), b"");
        let task = bench.host.seen[0].task;
        bench.complete(task, medium(&pattern(512)));
        let replies = bench.replies();
        let (Reply::DataIn(data), bytes) = &replies[0] else { panic!("{replies:?}") };
        assert_eq!((data.underflow, data.overflow, data.residual_bytes), (underflow, overflow, residual));
        assert_eq!(bytes.len(), expected.min(512) as usize);
    }
}

#[test]
fn residuals_of_writes() {
    // 17 KB in all, 8 KB of it immediate: nothing is left over (a known fault of another target).
    let mut bench = Bench::logged_in("MaxBurstLength=262144\0");
    let data = pattern(17_408);
    bench.command(write10(1, 34, 17_408), &data[..8192]);
    let replies = bench.replies();
    let (Reply::R2t(r2t), _) = &replies[0] else { panic!("{replies:?}") };
    assert_eq!((r2t.buffer_offset, r2t.desired_len_bytes), (8192, 9216));
    send_burst(&mut bench, r2t, &data, 9216);
    assert_eq!(bench.finish().data.unwrap(), data);
    let replies = bench.replies();
    let (Reply::ScsiResponse(r), _) = &replies[0] else { panic!("{replies:?}") };
    assert_eq!((r.residual_bytes, r.underflow, r.overflow, r.exp_data_sn), (0, false, false, 1));

    for (offered, underflow, overflow, residual) in [(1024, true, false, 512), (100, false, true, 412)] {
        let mut bench = Bench::logged_in("");
        bench.command(write10(1, 1, offered), &pattern(offered as usize));
        assert_eq!(bench.finish().data.unwrap().len(), offered.min(512) as usize);
        let replies = bench.replies();
        let (Reply::ScsiResponse(r), _) = &replies[0] else { panic!("{replies:?}") };
        assert_eq!((r.underflow, r.overflow, r.residual_bytes), (underflow, overflow, residual));
    }
}

/// Answers an R2T in PDUs of at most `most` bytes.
fn send_burst(bench: &mut Bench, r2t: &R2t, data: &[u8], most: usize) {
    let begin = r2t.buffer_offset as usize;
    let end = begin + r2t.desired_len_bytes as usize;
    let mut at = begin;
    let mut data_sn = 0;
    while at < end {
        let now = most.min(end - at);
        let pdu = DataOut {
            last: at + now == end,
            initiator_task_tag: r2t.initiator_task_tag,
            target_transfer_tag: r2t.target_transfer_tag,
            data_sn,
            buffer_offset: u32::try_from(at).unwrap(),
            ..DataOut::default()
        };
        bench.send(pdu.encode(), &data[at..at + now]);
        at += now;
        data_sn += 1;
    }
}

#[test]
fn immediate_then_unsolicited_then_solicited_data() {
    let keys = "InitialR2T=No\0FirstBurstLength=4096\0MaxBurstLength=4096\0MaxOutstandingR2T=2\0";
    let mut bench = Bench::logged_in(keys);
    let data = pattern(16_384);
    bench.command(ScsiCommand { last: false, ..write10(3, 32, 16_384) }, &data[..1000]);
    assert!(bench.replies().is_empty());
    let rest = DataOut {
        last: true,
        initiator_task_tag: 3,
        target_transfer_tag: NO_TAG,
        buffer_offset: 1000,
        ..DataOut::default()
    };
    bench.send(rest.encode(), &data[1000..4096]);
    let mut rounds = 0;
    loop {
        let r2ts: Vec<R2t> = bench
            .replies()
            .into_iter()
            .map(|(reply, _)| match reply {
                Reply::R2t(r2t) => r2t,
                other => panic!("{other:?}"),
            })
            .collect();
        if r2ts.is_empty() {
            break;
        }
        assert!(r2ts.len() <= 2);
        // In any order of the requests.
        for r2t in r2ts.iter().rev() {
            assert_eq!((r2t.desired_len_bytes, r2t.r2t_sn * 4096 + 4096), (4096, r2t.buffer_offset));
            send_burst(&mut bench, r2t, &data, 1024);
        }
        rounds += 1;
    }
    assert_eq!(rounds, 2);
    assert_eq!(bench.finish().data.unwrap(), data);
}

#[test]
fn every_wrong_data_out_fails_its_command_only() {
    let good = DataOut { last: true, initiator_task_tag: 1, buffer_offset: 0, ..DataOut::default() };
    let half = [0_u8; 256];
    let whole = [0_u8; 512];
    let long = [0_u8; 516];
    for (pdu, data, sense) in [
        (DataOut { data_sn: 1, ..good.clone() }, &whole[..], [0x4b, 0]),
        (DataOut { buffer_offset: 4, ..good.clone() }, &whole[..], [0x4b, 0]),
        (good.clone(), &half[..], [0x0c, 0x0d]),
        (DataOut { last: false, ..good.clone() }, &whole[..], [0x0c, 0x0d]),
        (good.clone(), &long[..], [0x0c, 0x0d]),
    ] {
        let mut bench = Bench::logged_in("ImmediateData=No\0");
        bench.command(write10(1, 1, 512), b"");
        let replies = bench.replies();
        let (Reply::R2t(r2t), _) = &replies[0] else { panic!("{replies:?}") };
        let pdu = DataOut { target_transfer_tag: r2t.target_transfer_tag, ..pdu };
        bench.send(pdu.encode(), data);
        let replies = bench.replies();
        assert_eq!(status(&replies[0]), (2, sense), "{pdu:?}");
        // What comes late is skipped, and the session goes on.
        bench.send(pdu.encode(), data);
        assert!(bench.replies().is_empty() && bench.host.seen.is_empty());
        bench.command(read10(2, 1, 512), b"");
        assert_eq!(bench.host.seen.len(), 1);
    }
}

#[test]
fn unsolicited_data_beyond_what_was_agreed_fails_the_command() {
    let two_kib = pattern(2048);
    for (keys, command, data, asc) in [
        ("ImmediateData=No\0", write10(1, 4, 2048), &two_kib[..], [0x0c, 0x0c]),
        ("FirstBurstLength=1024\0", write10(1, 4, 2048), &two_kib[..], [0x0c, 0x0c]),
        ("", ScsiCommand { last: false, ..write10(1, 4, 2048) }, &[][..], [0x0c, 0x0c]),
        ("", write10(1, 1, 100), &two_kib[..], [0x0c, 0x0c]),
        ("", read10(1, 1, 512), &two_kib[..], [0x0c, 0x0c]),
    ] {
        let mut bench = Bench::logged_in(keys);
        bench.command(command, data);
        assert_eq!(status(&bench.replies()[0]), (2, asc), "{keys}");
        assert_eq!(bench.host.live.get(), 0);
    }
}

#[test]
fn large_segments_go_straight_to_their_buffer() {
    let mut bench = Bench::logged_in(ESXI);
    let data = pattern(32_768);
    let command = ScsiCommand { cmd_sn: bench.cmd_sn, ..write10(1, 64, 32_768) };
    let bytes = bench.frame(command.encode(), &data);
    assert_eq!(bench.machine.receive(&bytes[..50], &mut bench.host), 50);
    let window = bench.machine.direct().unwrap();
    assert_eq!(window.len(), 32_766);
    window[..1000].copy_from_slice(&data[2..1002]);
    bench.machine.handle_direct(1000);
    assert_eq!(bench.machine.receive(&bytes[1050..2000], &mut bench.host), 950);
    let window = bench.machine.direct().unwrap();
    window.copy_from_slice(&data[1952..]);
    bench.machine.handle_direct(32_768 - 1952);
    assert_eq!(bench.machine.receive(&[], &mut bench.host), 0);
    assert_eq!(bench.host.seen[0].data.as_ref().unwrap(), &data);
    assert!(bench.machine.direct().is_none());
}

#[test]
fn digests_are_sent_and_checked() {
    for step in [1, 7, 4096] {
        let mut bench = Bench::logged_in("HeaderDigest=CRC32C\0DataDigest=CRC32C\0");
        let data = pattern(510);
        let command = ScsiCommand { cmd_sn: 100, ..write10(1, 1, 510) };
        let mut stream = bench.frame(command.encode(), &data);
        let mut held = Vec::new();
        for piece in stream.chunks(step) {
            held.extend(piece);
            let taken = bench.machine.receive(&held, &mut bench.host);
            held.drain(..taken);
        }
        assert_eq!(bench.finish().data.unwrap(), data);
        assert_eq!(bench.replies().len(), 1);

        let last = stream.len() - 1;
        stream[last] ^= 1;
        stream[27] = 101;
        let digest = crc32c::crc32c(&stream[..48]).to_le_bytes();
        stream[48..52].copy_from_slice(&digest);
        bench.machine.receive(&stream, &mut bench.host);
        assert_eq!(bench.machine.close_reason(), Some(CloseReason::Digest));
        assert!(
            matches!(&bench.replies()[0].0, Reply::Reject(r) if r.reason == RejectReason::DataDigest.code())
        );
        assert!(bench.host.seen.is_empty());
    }
    let mut bench = Bench::logged_in("HeaderDigest=CRC32C\0");
    let mut bytes = bench.frame(read10(1, 1, 512).encode(), b"");
    bytes[20] ^= 1;
    bench.machine.receive(&bytes, &mut bench.host);
    assert!(bench.machine.is_finished() && bench.host.seen.is_empty());
}

#[test]
fn commands_wait_for_memory_and_go_on_in_order() {
    let mut bench = Bench::logged_in("ImmediateData=No\0");
    bench.command(write10(1, 100, 51_200), b"");
    bench.command(write10(2, 100, 51_200), b"");
    bench.command(read10(3, 1, 512), b"");
    let replies = bench.replies();
    assert!(matches!(&replies[..], [(Reply::R2t(r), _)] if r.initiator_task_tag == 1), "{replies:?}");
    let (Reply::R2t(r2t), _) = &replies[0] else { unreachable!() };
    assert_eq!(bench.host.live.get(), 51_200);
    send_burst(&mut bench, r2t, &pattern(51_200), 8192);
    bench.finish();
    let replies = bench.replies();
    assert!(
        matches!(&replies[..], [(Reply::ScsiResponse(_), _), (Reply::R2t(r), _)] if r.initiator_task_tag == 2)
    );
    // The read fits beside the second write.
    assert_eq!(bench.host.seen.len(), 1);
}

#[test]
fn unsolicited_data_is_taken_even_while_memory_lacks() {
    let mut bench = Bench::logged_in(ESXI);
    bench.command(write10(1, 100, 51_200), &pattern(51_200));
    let data = pattern(40_960);
    bench.command(write10(2, 80, 40_960), &data[..30_000]);
    assert_eq!(bench.host.seen.len(), 1);
    bench.finish();
    let replies = bench.replies();
    let Some((Reply::R2t(r2t), _)) = replies.get(1) else { panic!("{replies:?}") };
    assert_eq!(r2t.buffer_offset, 30_000);
    send_burst(&mut bench, r2t, &data, 8192);
    assert_eq!(bench.finish().data.unwrap(), data);
    assert_eq!(bench.host.live.get(), 0);
}

#[test]
fn a_command_above_every_limit_is_refused_without_its_data() {
    let mut bench = Bench::logged_in("");
    let mut command = write10(1, 0, 4 << 20);
    command.cdb[7] = 0x20;
    bench.command(command, b"");
    assert_eq!(status(&bench.replies()[0]), (2, [0x24, 0]));
    assert_eq!(bench.host.live.get(), 0);
}

#[test]
fn a_refused_command_takes_none_that_waits_behind_it_along() {
    let mut bench = Bench::logged_in("");
    bench.command(read10(1, 200, 102_400), b"");
    let mut vast = write10(2, 0, 4 << 20);
    vast.cdb[7] = 0x20;
    bench.command(vast, b"");
    bench.command(read10(3, 1, 512), b"");
    assert_eq!(bench.host.seen.len(), 1);
    bench.finish();
    assert_eq!(status(&bench.replies()[1]), (2, [0x24, 0]));
    assert_eq!(bench.host.seen.len(), 1, "the read behind it");
    bench.finish();
    assert_eq!(bench.replies().len(), 1);
}

#[test]
fn where_others_use_the_memory_one_command_at_a_time_goes_on() {
    let mut bench = Bench::logged_in("");
    bench.host.crowded = true;
    bench.command(read10(1, 1, 512), b"");
    bench.command(read10(2, 1, 512), b"");
    assert_eq!(bench.host.seen.len(), 1);
    bench.finish();
    assert_eq!(bench.host.seen.len(), 1);
    bench.finish();
    assert_eq!(bench.replies().len(), 2);
}
