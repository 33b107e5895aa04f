//! Command order and the command window.

use super::bench::*;
use crate::connection::CloseReason;
use crate::pdu::*;

#[test]
fn commands_outside_of_the_window_are_ignored() {
    let mut bench = Bench::logged_in("");
    for cmd_sn in [99, 104, 100 + 0x8000_0000] {
        bench.send(ScsiCommand { cmd_sn, ..read10(1, 1, 512) }.encode(), b"");
    }
    assert!(bench.host.seen.is_empty() && bench.replies().is_empty());
    bench.command(read10(1, 1, 512), b"");
    assert_eq!(bench.host.seen.len(), 1);
    bench.send(ScsiCommand { cmd_sn: 103, ..read10(2, 1, 512) }.encode(), b"");
    assert_eq!(bench.machine.close_reason(), Some(CloseReason::Protocol("a gap in CmdSN")));
}

#[test]
fn the_window_is_as_wide_as_the_free_places() {
    let mut bench = Bench::logged_in("");
    for tag in 0..4 {
        bench.command(read10(tag, 1, 512), b"");
    }
    // The window is closed: a fifth is ignored.
    bench.send(ScsiCommand { cmd_sn: bench.cmd_sn, ..read10(4, 1, 512) }.encode(), b"");
    assert_eq!(bench.host.seen.len(), 4);
    bench.finish();
    let replies = bench.replies();
    let (Reply::ScsiResponse(response), _) = &replies[0] else { panic!("{replies:?}") };
    assert_eq!((response.exp_cmd_sn, response.max_cmd_sn), (104, 104));
    bench.command(read10(5, 1, 512), b"");
    assert_eq!(bench.host.seen.len(), 4);
}

#[test]
fn immediate_commands_have_places_of_their_own() {
    let mut bench = Bench::logged_in("");
    for tag in 0..4 {
        bench.command(read10(tag, 1, 512), b"");
    }
    for tag in 4..7 {
        let command = ScsiCommand { immediate: true, cmd_sn: bench.cmd_sn, ..read10(tag, 1, 512) };
        bench.send(command.encode(), b"");
    }
    assert_eq!(bench.host.seen.len(), 6);
    let replies = bench.replies();
    let expected = RejectReason::TooManyImmediate.code();
    assert!(matches!(&replies[..], [(Reply::Reject(r), _)] if r.reason == expected), "{replies:?}");
}

#[test]
fn immediate_commands_take_no_place_of_the_window() {
    let mut bench = Bench::logged_in("");
    for tag in 4..7 {
        let command = ScsiCommand { immediate: true, cmd_sn: bench.cmd_sn, ..read10(tag, 1, 512) };
        bench.send(command.encode(), b"");
    }
    assert!(matches!(&bench.replies()[..], [(Reply::Reject(_), _)]));
    for tag in 0..4 {
        bench.command(read10(tag, 1, 512), b"");
    }
    assert_eq!((bench.host.seen.len(), bench.replies().len()), (6, 0));
}

#[test]
fn an_aborted_task_keeps_its_place_until_it_settles() {
    let mut bench = Bench::logged_in("");
    for tag in 0..4 {
        bench.command(read10(tag, 1, 512), b"");
    }
    let abort = TaskManagementRequest {
        immediate: true,
        last: true,
        function: TaskFunction::AbortTaskSet.code(),
        initiator_task_tag: 9,
        ..TaskManagementRequest::default()
    };
    bench.send(abort.encode(), b"");
    assert!(bench.replies().is_empty());
    for _ in 0..4 {
        bench.finish();
    }
    let replies = bench.replies();
    let (Reply::TaskManagement(response), _) = &replies[0] else { panic!("{replies:?}") };
    assert_eq!((response.exp_cmd_sn, response.max_cmd_sn), (104, 107));
}

#[test]
fn stat_sn_counts_responses_only() {
    let mut bench = Bench::logged_in("ImmediateData=No\0");
    bench.command(write10(1, 1, 512), b"");
    bench.command(read10(2, 1, 512), b"");
    bench.finish();
    let replies = bench.replies();
    let (Reply::R2t(r2t), _) = &replies[0] else { panic!("{replies:?}") };
    let (Reply::ScsiResponse(response), _) = &replies[1] else { panic!("{replies:?}") };
    // The login's response was 1; the R2T shows what comes next and takes nothing.
    assert_eq!((r2t.stat_sn, response.stat_sn), (2, 2));
}
