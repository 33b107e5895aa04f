//! Pings, text, logout, rejects, time.

use super::bench::*;
use crate::connection::CloseReason;
use crate::pdu::*;
use alloc::string::String;
use base::Monotonic;
use core::time::Duration;

fn seconds(count: u64) -> Monotonic {
    Monotonic(0) + Duration::from_secs(count)
}

#[test]
fn pings_are_echoed() {
    let mut bench = Bench::logged_in("");
    let ping = NopOut {
        immediate: true,
        last: true,
        initiator_task_tag: 5,
        target_transfer_tag: NO_TAG,
        ..NopOut::default()
    };
    bench.send(ping.encode(), b"hello");
    let replies = bench.replies();
    assert!(
        matches!(&replies[..], [(Reply::NopIn(n), data)] if n.initiator_task_tag == 5 && data == b"hello")
    );
    bench.send(NopOut { initiator_task_tag: NO_TAG, ..ping }.encode(), b"");
    assert!(bench.replies().is_empty());
}

#[test]
fn a_silent_initiator_is_pinged_then_dropped() {
    let mut bench = Bench::logged_in("");
    bench.machine.handle_tick(seconds(1));
    bench.machine.handle_tick(seconds(11));
    let replies = bench.replies();
    let (Reply::NopIn(ping), _) = &replies[0] else { panic!("{replies:?}") };
    let answer = NopOut {
        immediate: true,
        last: true,
        initiator_task_tag: NO_TAG,
        target_transfer_tag: ping.target_transfer_tag,
        ..NopOut::default()
    };
    bench.send(answer.encode(), b"");
    bench.machine.handle_tick(seconds(15));
    assert_eq!(bench.machine.close_reason(), None);
    bench.machine.handle_tick(seconds(25));
    assert_eq!(bench.replies().len(), 1);
    bench.machine.handle_tick(seconds(28));
    assert_eq!(bench.machine.close_reason(), Some(CloseReason::Silent));
}

#[test]
fn a_login_has_its_time() {
    let mut bench = Bench::new();
    bench.machine.handle_tick(seconds(4));
    assert!(!bench.machine.is_finished());
    bench.machine.handle_tick(seconds(5));
    assert_eq!(bench.machine.close_reason(), Some(CloseReason::LoginTimeout));
}

#[test]
fn only_a_login_may_come_first_and_never_again() {
    let mut bench = Bench::new();
    bench.send(read10(1, 1, 512).encode(), b"");
    assert!(matches!(bench.machine.close_reason(), Some(CloseReason::Protocol(_))));
    let mut bench = Bench::logged_in("");
    bench.send(LoginRequest::default().encode(), b"");
    assert!(matches!(bench.machine.close_reason(), Some(CloseReason::Protocol(_))));
}

fn text(bench: &mut Bench, keys: &[u8], tag: u32) -> (TextResponse, String) {
    let request = TextRequest {
        immediate: true,
        last: true,
        initiator_task_tag: 4,
        target_transfer_tag: tag,
        ..TextRequest::default()
    };
    bench.send(request.encode(), keys);
    let mut replies = bench.replies();
    let (Reply::Text(response), data) = replies.remove(0) else { panic!("{replies:?}") };
    (response, String::from_utf8(data).unwrap())
}

#[test]
fn targets_are_told_in_both_kinds_of_session() {
    const FIRST: &str = "TargetName=iqn.2026-11.x:0000\0TargetAddress=10.0.0.1:3260,1\0";
    const SECOND: &str = "TargetName=iqn.2026-11.x:0001\0TargetAddress=10.0.0.1:3260,1\0";
    let both = [FIRST, SECOND].concat();
    let mut discovery = Bench::discovery();
    assert_eq!(text(&mut discovery, b"SendTargets=All\0", NO_TAG).1, both);
    assert_eq!(text(&mut discovery, b"SendTargets=iqn.2026-11.x:0001\0", NO_TAG).1, SECOND);
    assert_eq!(text(&mut discovery, b"SendTargets=iqn.2026-11.x:none\0", NO_TAG).1, "");
    assert_eq!(text(&mut discovery, b"SendTargets=\0", NO_TAG).1, "");
    let mut normal = Bench::logged_in("");
    assert_eq!(text(&mut normal, b"SendTargets=\0", NO_TAG).1, FIRST);
    assert_eq!(text(&mut normal, b"SendTargets=All\0", NO_TAG).1, "", "not in an operational session");
    assert_eq!(text(&mut normal, b"MaxBurstLength=512\0", NO_TAG).1, "MaxBurstLength=Reject\0");
}

/// RFC 7143 Appendix C: `All`, a name, or nothing. §6.2: a key that is not understood is answered, not refused.
#[test]
fn what_is_no_target_name_is_refused_and_the_session_goes_on() {
    for mut bench in [Bench::discovery(), Bench::logged_in("")] {
        for keys in ["SendTargets=Alle\0", "SendTargets=all\0", "SendTargets=A\0", "SendTargets=iqn.a b\0"] {
            let request = TextRequest {
                immediate: true,
                last: true,
                initiator_task_tag: 9,
                target_transfer_tag: NO_TAG,
                ..TextRequest::default()
            };
            bench.send(request.encode(), keys.as_bytes());
            let replies = bench.replies();
            let [(Reply::Reject(reject), header)] = &replies[..] else { panic!("{keys}: {replies:?}") };
            assert_eq!(reject.reason, RejectReason::Protocol.code(), "{keys}");
            assert_eq!((header.len(), &header[16..20]), (48, &[0, 0, 0, 9][..]), "{keys}");
        }
        for (asked, answer) in [
            ("SendTargetsPlease=All\0", "SendTargetsPlease=NotUnderstood\0"),
            ("sENDtARGETS=aLL\0", "sENDtARGETS=NotUnderstood\0"),
            (
                "SendTargets=IQN.2026-11.X:0000\0",
                "TargetName=iqn.2026-11.x:0000\0TargetAddress=10.0.0.1:3260,1\0",
            ),
        ] {
            assert_eq!(text(&mut bench, asked.as_bytes(), NO_TAG).1, answer);
        }
    }
}

#[test]
fn a_long_answer_comes_in_pieces() {
    let mut bench = Bench::discovery();
    bench.host.targets = 300;
    let (mut response, mut whole) = text(&mut bench, b"SendTargets=All\0", NO_TAG);
    let mut pieces = 1;
    while !response.last {
        assert!(response.more && response.target_transfer_tag != NO_TAG);
        let (next, piece) = text(&mut bench, b"", response.target_transfer_tag);
        response = next;
        whole.push_str(&piece);
        pieces += 1;
    }
    assert_eq!((pieces, whole.matches("TargetName=").count()), (3, 300));
}

#[test]
fn scsi_is_not_served_in_a_discovery_session() {
    let mut bench = Bench::discovery();
    bench.command(read10(1, 1, 512), b"");
    let replies = bench.replies();
    assert!(matches!(&replies[..], [(Reply::Reject(_), header)] if header.len() == 48), "{replies:?}");
}

#[test]
fn logout_is_answered_then_the_connection_ends() {
    let logout =
        |reason, cid| LogoutRequest { immediate: true, last: true, reason, cid, ..LogoutRequest::default() };
    for (request, result, ends) in [
        (logout(0, 0), LogoutResult::Closed, true),
        (logout(1, 0), LogoutResult::Closed, true),
        (logout(1, 5), LogoutResult::CidNotFound, false),
        (logout(2, 0), LogoutResult::NoRecovery, false),
        (logout(9, 0), LogoutResult::CleanupFailed, false),
    ] {
        let mut bench = Bench::logged_in("");
        bench.send(request.encode(), b"");
        assert!(!bench.machine.is_finished());
        let replies = bench.replies();
        assert!(
            matches!(&replies[..], [(Reply::Logout(r), _)] if r.response == result.code()),
            "{request:?}"
        );
        assert_eq!(bench.machine.is_finished(), ends);
    }
}

#[test]
fn an_end_whose_last_words_nobody_reads_comes_all_the_same() {
    let mut bench = Bench::logged_in("");
    bench.send(LogoutRequest { immediate: true, ..LogoutRequest::default() }.encode(), b"");
    bench.machine.handle_tick(seconds(1));
    assert!(!bench.machine.is_finished());
    bench.machine.handle_tick(seconds(4));
    assert!(bench.machine.is_finished());
}

#[test]
fn what_is_not_supported_is_rejected() {
    let mut bench = Bench::logged_in("");
    let snack = Snack { last: true, ..Snack::default() };
    bench.send(snack.encode(), b"");
    let mut unknown = [0; BHS_BYTES];
    unknown[0] = 0x1c;
    bench.send(unknown, b"some data");
    bench.command(read10(1, 1, 512), b"");
    bench.command(read10(1, 1, 512), b"");
    let reasons: alloc::vec::Vec<_> = bench
        .replies()
        .iter()
        .map(|(reply, _)| match reply {
            Reply::Reject(reject) => RejectReason::from_code(reject.reason).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(reasons, [RejectReason::Snack, RejectReason::NotSupported, RejectReason::TaskInProgress]);
    assert_eq!(bench.host.seen.len(), 1);
}

#[test]
fn a_logout_can_be_asked_for() {
    let mut bench = Bench::logged_in("");
    bench.machine.request_logout(10);
    let replies = bench.replies();
    assert!(matches!(&replies[..], [(Reply::Async(m), _)] if m.event == 1 && m.parameter3 == 10));
}

#[test]
fn a_client_that_does_not_read_is_not_read_either() {
    let mut bench = Bench::logged_in("");
    let ping = NopOut {
        immediate: true,
        last: true,
        initiator_task_tag: 5,
        target_transfer_tag: NO_TAG,
        ..NopOut::default()
    };
    let frame = bench.frame(ping.encode(), &pattern(4096));
    let mut taken = 0;
    for _ in 0..100 {
        taken += bench.machine.receive(&frame, &mut bench.host);
    }
    assert!(!bench.machine.wants_input() && taken < 20 * frame.len(), "{taken}");
    bench.replies();
    assert!(bench.machine.wants_input());
}
