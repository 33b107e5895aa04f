//! Aborts and resets.

use super::bench::*;
use crate::connection::Scope;
use crate::pdu::*;

fn management(function: TaskFunction, tag: u32, referenced: u32) -> Bhs {
    TaskManagementRequest {
        immediate: true,
        last: true,
        function: function.code(),
        initiator_task_tag: tag,
        referenced_task_tag: referenced,
        ..TaskManagementRequest::default()
    }
    .encode()
}

fn result(bench: &mut Bench) -> Option<TaskResult> {
    let replies = bench.replies();
    match &replies[..] {
        [] => None,
        [(Reply::TaskManagement(response), _)] => TaskResult::from_code(response.response),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_abort_is_answered_when_the_write_has_settled() {
    let mut bench = Bench::logged_in("");
    bench.command(write10(1, 1, 512), &pattern(512));
    let task = bench.host.seen[0].task;
    bench.send(management(TaskFunction::AbortTask, 9, 1), b"");
    assert_eq!(result(&mut bench), None);
    assert_eq!(bench.host.cancelled, [task]);
    // The write gets no response; the abort gets its own.
    bench.finish();
    assert_eq!(result(&mut bench), Some(TaskResult::Complete));
    assert_eq!(bench.machine.executing(), 0);
}

#[test]
fn an_abort_before_the_data_came_is_answered_at_once() {
    let mut bench = Bench::logged_in("ImmediateData=No\0");
    bench.command(write10(1, 1, 512), b"");
    let replies = bench.replies();
    let (Reply::R2t(r2t), _) = &replies[0] else { panic!("{replies:?}") };
    bench.send(management(TaskFunction::AbortTask, 9, 1), b"");
    assert_eq!(result(&mut bench), Some(TaskResult::Complete));
    let late = DataOut {
        last: true,
        initiator_task_tag: 1,
        target_transfer_tag: r2t.target_transfer_tag,
        ..DataOut::default()
    };
    bench.send(late.encode(), &pattern(512));
    assert!(bench.host.seen.is_empty() && bench.host.live.get() == 0);
    // A tag that is done already is no error of the session.
    bench.send(management(TaskFunction::AbortTask, 9, 1), b"");
    assert_eq!(result(&mut bench), Some(TaskResult::NoTask));
}

#[test]
fn resets_wait_for_every_session() {
    let mut bench = Bench::logged_in("");
    bench.host.others = 1;
    bench.command(read10(1, 1, 512), b"");
    bench.send(management(TaskFunction::LogicalUnitReset, 9, NO_TAG), b"");
    bench.finish();
    assert_eq!((result(&mut bench), bench.host.resets.len()), (None, 0));
    bench.machine.other_settled(0, &mut bench.host);
    assert_eq!(result(&mut bench), Some(TaskResult::Complete));
    assert_eq!(bench.host.resets, [TaskFunction::LogicalUnitReset]);
}

#[test]
fn each_function_has_its_answer() {
    for (function, lun, expected) in [
        (TaskFunction::AbortTaskSet, 0, TaskResult::Complete),
        (TaskFunction::ClearTaskSet, 0, TaskResult::Complete),
        (TaskFunction::ClearAca, 0, TaskResult::Unsupported),
        (TaskFunction::LogicalUnitReset, 1, TaskResult::NoLun),
        (TaskFunction::TargetWarmReset, 0, TaskResult::Complete),
        (TaskFunction::TargetColdReset, 0, TaskResult::Complete),
        (TaskFunction::TaskReassign, 0, TaskResult::NoReassign),
    ] {
        let mut bench = Bench::logged_in("");
        let mut bhs = management(function, 9, NO_TAG);
        bhs[9] = lun;
        bench.send(bhs, b"");
        assert_eq!(result(&mut bench), Some(expected), "{function:?}");
        let cold = function == TaskFunction::TargetColdReset;
        assert_eq!(bench.machine.close_reason().is_some(), cold);
    }
}

#[test]
fn aborts_for_others_are_reported_to_them() {
    let mut bench = Bench::logged_in("ImmediateData=No\0");
    bench.command(read10(1, 1, 512), b"");
    bench.command(write10(2, 1, 512), b"");
    bench.replies();
    assert_eq!(bench.machine.abort(Scope::Unit([0; 8]), 77, &mut bench.host), 1);
    assert!(bench.host.settled.is_empty());
    bench.finish();
    assert_eq!(bench.host.settled, [77]);
    assert!(bench.replies().is_empty());
}

#[test]
fn a_closed_connection_is_kept_until_its_tasks_settle() {
    let mut bench = Bench::logged_in("");
    bench.command(read10(1, 1, 512), b"");
    bench.machine.handle_closed(&mut bench.host);
    assert_eq!((bench.machine.executing(), bench.machine.is_finished()), (1, true));
    bench.finish();
    assert_eq!(bench.machine.executing(), 0);
    assert!(!bench.machine.has_output());
}
