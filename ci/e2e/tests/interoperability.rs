//! What broke other targets under the initiators that people use, one test for each: docs/interoperability.md is the list.
//!
//! Here: rules of one session, tried on one demo, one after the other. Those that a dying or moving node could break are in
//! interoperability_failover.rs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futago_e2e::checker::reconnect;
use futago_e2e::demo::Demo;
use futago_e2e::initiator::{Answer, BLOCK, Session, compare_and_write, read_write};
use futago_e2e::tools::{Random, pattern, repository, wait_for, work_dir};

const HEALTHY: Duration = Duration::from_secs(90);
const LIMIT: Duration = Duration::from_secs(10);
const NAME: &str = "iqn.1998-01.com.vmware:host-1";
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn start(name: &str) -> Demo {
    let demo = Demo::start(&work_dir(name), "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    demo
}

fn open(demo: &Demo, qualifier: u16) -> Session {
    reconnect(demo.portal(), &demo.iqn(), NAME, qualifier, HEALTHY).unwrap()
}

fn report_luns(session: &mut Session) -> Vec<[u8; 8]> {
    let answer = session.command(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[], 256).unwrap();
    assert_eq!(answer.status, 0, "{answer:?}");
    answer.data[8..].chunks_exact(8).map(|lun| lun.try_into().unwrap()).collect()
}

/// A rule's name, and what tries it.
type Rule = (&'static str, fn(&Demo));

const RULES: [Rule; 18] = [
    ("spdk_1414_reserve_6_works_without_ats", spdk_1414_reserve_6_works_without_ats),
    ("spdk_2001_abort_of_a_running_task_is_done", spdk_2001_abort_of_a_running_task_is_done),
    ("scst_41_abort_of_a_finished_task_is_answered", scst_41_abort_of_a_finished_task_is_answered),
    ("a_reset_behind_a_write_is_answered", a_reset_behind_a_write_is_answered),
    ("spdk_405_immediate_data_and_data_out_add_up", spdk_405_immediate_data_and_data_out_add_up),
    ("spdk_1781_data_out_in_pieces_of_odd_size", spdk_1781_data_out_in_pieces_of_odd_size),
    ("windows_boots_with_seven_mib_reads", windows_boots_with_seven_mib_reads),
    ("a_miscompare_tells_where_and_changes_nothing", a_miscompare_tells_where_and_changes_nothing),
    ("an_aborted_ats_is_not_applied_later", an_aborted_ats_is_not_applied_later),
    ("inquiry_to_a_bad_lun_is_qualifier_3", inquiry_to_a_bad_lun_is_qualifier_3),
    ("lun_0_lists_the_others_though_it_is_not_mapped", lun_0_lists_the_others_though_it_is_not_mapped),
    ("overload_narrows_the_window_and_is_never_busy", overload_narrows_the_window_and_is_never_busy),
    ("a_login_as_esxi_does_it", a_login_as_esxi_does_it),
    ("send_targets_in_a_normal_session", send_targets_in_a_normal_session),
    ("port_binding_has_a_session_per_port", port_binding_has_a_session_per_port),
    ("a_host_that_comes_back_takes_its_session_over", a_host_that_comes_back_takes_its_session_over),
    ("what_esxi_asks_of_a_disk", what_esxi_asks_of_a_disk),
    ("any_cdb_is_answered_and_the_session_goes_on", any_cdb_is_answered_and_the_session_goes_on),
];

#[test]
fn rules_of_one_session() {
    let mut demo = start("interoperability");
    let mut broken = Vec::new();
    for (name, rule) in RULES {
        let from = Instant::now();
        let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rule(&demo))).is_ok();
        println!(
            "interoperability: {name}: {} ({:.1?})",
            if held { "held" } else { "BROKEN" },
            from.elapsed()
        );
        if !held {
            broken.push(name);
        }
    }
    let services = demo.status().unwrap()["services"].clone();
    assert!(services.as_array().unwrap().iter().all(|service| service["restarts"] == 0), "{services}");
    assert!(broken.is_empty(), "broken: {broken:?}");
    demo.stop().unwrap();
}

/// A VMFS format without ATS reserves the whole unit; one that answers 5/20/00 can't be formatted.
fn spdk_1414_reserve_6_works_without_ats(demo: &Demo) {
    let (mut holder, mut other) = (open(demo, 1), open(demo, 2));
    let (reserve, release) = ([0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]);
    assert_eq!(holder.command(&reserve, &[], 0).unwrap().status, 0);
    assert_eq!(other.command(&reserve, &[], 0).unwrap().status, 0x18);
    assert_eq!(other.command(&read_write(0x88, 0, BLOCK), &[], BLOCK).unwrap().status, 0x18);
    assert_eq!(other.command(&release, &[], 0).unwrap().status, 0, "another's release does nothing");
    assert_eq!(other.command(&reserve, &[], 0).unwrap().status, 0x18);
    holder.write(0, &[1; BLOCK]).unwrap();
    assert_eq!(holder.command(&release, &[], 0).unwrap().status, 0);
    assert_eq!(other.command(&reserve, &[], 0).unwrap().status, 0);
    drop(other);
    // The lost session's reservation goes with it.
    wait_for("the end of the reservation", LIMIT, || {
        (holder.command(&read_write(0x88, 0, BLOCK), &[], BLOCK).unwrap().status == 0).then_some(())
    })
    .unwrap();
}

/// ESXi aborts what takes too long; a target that can't is disconnected after four tries.
fn spdk_2001_abort_of_a_running_task_is_done(demo: &Demo) {
    let mut session = open(demo, 1);
    session.immediate_bytes = 0; // The data never comes: the task starves.
    let tag = session.begin(&read_write(0x8a, 0, 8 * BLOCK), &[1; 8 * BLOCK], 0).unwrap();
    assert_eq!(session.receive().unwrap().opcode(), 0x31, "an R2T");
    let management = session.manage(1, tag).unwrap();
    let answer = session.receive().unwrap();
    assert_eq!((answer.opcode(), answer.word(16), answer.header[2]), (0x22, management, 0));
    session.immediate_bytes = 64 * KIB;
    session.write(0, &[2; BLOCK]).unwrap();
}

/// An abort that comes too late is no reason to reset the device: the answer is "no such task".
fn scst_41_abort_of_a_finished_task_is_answered(demo: &Demo) {
    let mut session = open(demo, 1);
    let tag = session.begin(&read_write(0x88, 0, BLOCK), &[], BLOCK).unwrap();
    assert_eq!(session.finish(tag, &[]).unwrap().status, 0);
    for referenced in [tag, 0x7777_7777] {
        let management = session.manage(1, referenced).unwrap();
        let answer = session.receive().unwrap();
        assert_eq!((answer.opcode(), answer.word(16), answer.header[2]), (0x22, management, 1));
    }
    session.read(0, BLOCK).unwrap();
}

/// A reset that overtakes nothing: a write in front of it has its answer and its effect, or neither; the reset has its own.
fn a_reset_behind_a_write_is_answered(demo: &Demo) {
    let mut session = open(demo, 1);
    for round in 1..=20_u8 {
        session.write(40, &[0; 4096]).unwrap();
        let data = [round; 4096];
        session.begin(&read_write(0x8a, 40, data.len()), &data, 0).unwrap();
        let management = session.manage(5, u32::MAX).unwrap();
        let mut written = false;
        loop {
            let pdu = session.receive().unwrap();
            match pdu.opcode() {
                0x21 => written = pdu.header[3] == 0,
                0x22 => {
                    assert_eq!((pdu.word(16), pdu.header[2]), (management, 0));
                    break;
                }
                other => panic!("PDU {other:#x}"),
            }
        }
        let attention = session.command(&[0; 6], &[], 0).unwrap();
        assert_eq!(attention.sense_code(), Some((6, 0x29, 0x03)), "{attention:?}");
        let found = session.read(40, data.len()).unwrap();
        assert!(found == data || !written && found == [0; 4096], "round {round}: written {written}");
    }
}

/// 17 KiB of which 8 KiB are immediate: what is missing comes by R2T, and nothing is left over.
fn spdk_405_immediate_data_and_data_out_add_up(demo: &Demo) {
    let keys = [("FirstBurstLength", "8192"), ("InitialR2T", "Yes")];
    let mut session = Session::open_with(demo.portal(), &demo.iqn(), NAME, 1, LIMIT, &keys).unwrap();
    session.immediate_bytes = 8 * KIB;
    let data = pattern(405, 17 * KIB);
    let mut answer = session.command(&read_write(0x8a, 64, data.len()), &data, 0).unwrap();
    if answer.sense_code() == Some((6, 0x29, 0)) {
        answer = session.command(&read_write(0x8a, 64, data.len()), &data, 0).unwrap();
    }
    assert_eq!((answer.status, answer.residual), (0, 0), "{answer:?}");
    assert!(session.read(64, data.len()).unwrap() == data);
}

/// Data-Out PDUs end anywhere, only their sum is whole blocks (Emulex adapters under ESXi).
fn spdk_1781_data_out_in_pieces_of_odd_size(demo: &Demo) {
    let mut session = open(demo, 1);
    session.immediate_bytes = 0;
    for piece in [2848, 1, 511, 513] {
        session.data_out_bytes = piece;
        let data = pattern(piece as u64, 9216);
        let answer = session.command(&read_write(0x8a, 128, data.len()), &data, 0).unwrap();
        assert_eq!((answer.status, answer.residual), (0, 0), "pieces of {piece}: {answer:?}");
        assert!(session.read(128, data.len()).unwrap() == data, "pieces of {piece}");
    }
}

/// Windows under UEFI boots with READ(16) of 7 MiB; to refuse it is a blue screen.
fn windows_boots_with_seven_mib_reads(demo: &Demo) {
    let mut session = open(demo, 1);
    for len in [7 * MIB, 32 * MIB] {
        let data = pattern(len as u64, len);
        let answer = session.command(&read_write(0x8a, 4096, len), &data, 0).unwrap();
        assert_eq!((answer.status, answer.residual), (0, 0), "{len}: {:02x?}", answer.sense);
        let answer = session.command(&read_write(0x88, 4096, len), &[], len).unwrap();
        assert_eq!((answer.status, answer.residual), (0, 0), "{len}: {:02x?}", answer.sense);
        assert!(answer.data == data, "{len} bytes differ");
    }
}

/// VMFS tells a lost heartbeat slot from a broken device by the sense data of a miscompare (SBC-3 §5.2).
fn a_miscompare_tells_where_and_changes_nothing(demo: &Demo) {
    let mut session = open(demo, 1);
    let old = pattern(1, BLOCK);
    session.write(77, &old).unwrap();
    for at in [0, 1, 300, 511] {
        let mut expected = old.clone();
        expected[at] ^= 1;
        let (cdb, data) = compare_and_write(77, &expected, &[9; BLOCK]);
        let answer = session.command(&cdb, &data, 0).unwrap();
        assert_eq!((answer.status, answer.sense_code()), (2, Some((0x0e, 0x1d, 0))), "{answer:?}");
        assert_eq!(answer.sense[0] & 0x80, 0x80, "INFORMATION is valid");
        assert_eq!(answer.sense[3..7], u32::try_from(at).unwrap().to_be_bytes(), "{answer:?}");
        assert!(session.read(77, BLOCK).unwrap() == old);
    }
    let (cdb, data) = compare_and_write(77, &old, &[9; BLOCK]);
    assert_eq!(session.command(&cdb, &data, 0).unwrap().status, 0);
    assert_eq!(session.read(77, BLOCK).unwrap(), [9; BLOCK]);
}

/// Once the abort is answered, the command has had its effect or never has one. Large writes over the same block keep it
/// waiting in three rounds of four, so that some aborts come before it is carried out.
fn an_aborted_ats_is_not_applied_later(demo: &Demo) {
    const BURST: usize = 256 * KIB;
    let (mut session, mut witness) = (open(demo, 1), open(demo, 2));
    let (mut applied, mut aborted) = (0, 0);
    for round in 0..60_u64 {
        let filling = pattern(round, BURST);
        let (old, new) = (&filling[..BLOCK], pattern(round + 1000, BLOCK));
        session.write(88, old).unwrap();
        let mut writes = round % 4;
        for _ in 0..writes {
            session.begin(&read_write(0x8a, 88, BURST), &filling, 0).unwrap();
        }
        let (cdb, data) = compare_and_write(88, old, &new);
        let tag = session.begin(&cdb, &data, 0).unwrap();
        session.manage(1, tag).unwrap();
        let (mut answered, mut managed) = (false, false);
        while !managed || writes > 0 {
            let pdu = session.receive().unwrap();
            match pdu.opcode() {
                0x21 if pdu.word(16) == tag => answered = true,
                0x21 => writes -= 1,
                0x22 => {
                    assert!(pdu.header[2] == 0 || answered, "no such task, yet it was not answered");
                    managed = true;
                }
                other => panic!("PDU {other:#x}"),
            }
        }
        let found = witness.read(88, BLOCK).unwrap();
        assert!(found == old || found == new);
        assert!(!answered || found == new, "round {round}: answered, not applied");
        *(if found == new { &mut applied } else { &mut aborted }) += 1;
        if round % 10 == 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(witness.read(88, BLOCK).unwrap() == found, "round {round}: it changed after the abort");
    }
    println!("interoperability: of 60 aborted commands {applied} had been applied, {aborted} never were");
}

/// The scan of a sparse map asks LUNs that are not there; an error would end the scan (SPC-4 §6.6.2).
fn inquiry_to_a_bad_lun_is_qualifier_3(demo: &Demo) {
    let mut session = open(demo, 1);
    for lun in [1, 7, 255] {
        session.lun = lun;
        let answer = session.command(&[0x12, 0, 0, 0, 36, 0], &[], 36).unwrap();
        assert_eq!((answer.status, answer.data[0]), (0, 0x7f), "LUN {lun}: {answer:?}");
        let answer = session.command(&[0; 6], &[], 0).unwrap();
        assert_eq!((answer.status, answer.sense_code()), (2, Some((5, 0x25, 0))), "LUN {lun}: {answer:?}");
    }
}

/// A scan begins at LUN 0 whatever is mapped (SAM-5 §4.7.4).
fn lun_0_lists_the_others_though_it_is_not_mapped(demo: &Demo) {
    let iqn = "iqn.2026-11.local.futago:sparse";
    let node = demo.primary().unwrap();
    demo.ctl(&node, &["volume", "create", "sparse", "16MiB"]).unwrap();
    demo.ctl(&node, &["target", "create", iqn]).unwrap();
    demo.ctl(&node, &["target", "map", iqn, "5", "sparse"]).unwrap();
    let mut session = wait_for("a login at the new target", LIMIT, || {
        Session::open_with(demo.portal(), iqn, NAME, 1, LIMIT, &[]).ok()
    })
    .unwrap();
    wait_for("LUN 5", LIMIT, || (report_luns(&mut session) == [[0, 5, 0, 0, 0, 0, 0, 0]]).then_some(()))
        .unwrap();
    let answer = session.command(&[0x12, 0, 0, 0, 36, 0], &[], 36).unwrap();
    assert_eq!((answer.status, answer.data[0]), (0, 0x7f));
    session.lun = 5;
    assert_eq!(session.command(&[0x12, 0, 0, 0, 36, 0], &[], 36).unwrap().data[0], 0);
    demo.ctl(&node, &["target", "unmap", iqn, "5"]).unwrap();
    demo.ctl(&node, &["target", "delete", iqn]).unwrap();
    demo.ctl(&node, &["volume", "delete", "sparse"]).unwrap();
}

/// BUSY costs ESXi a retry with a pause; a narrower window costs nothing (RFC 7143 §4.2.2.1).
fn overload_narrows_the_window_and_is_never_busy(demo: &Demo) {
    const LEN: usize = 256 * KIB;
    let mut session = open(demo, 1);
    let data = pattern(3, LEN);
    let (mut sent, mut answered, mut narrowest) = (0_u64, 0_u64, u32::MAX);
    while answered < 600 {
        while sent < 600 && session.window() > 0 {
            session.begin(&read_write(0x8a, sent % 500 * (LEN / BLOCK) as u64, LEN), &data, 0).unwrap();
            sent += 1;
        }
        narrowest = narrowest.min(session.window());
        let pdu = session.receive().unwrap();
        match pdu.opcode() {
            0x21 => {
                assert_eq!((pdu.header[2], pdu.header[3]), (0, 0), "status after {answered} commands");
                answered += 1;
            }
            0x20 => {}
            other => panic!("PDU {other:#x}"),
        }
    }
    assert_eq!(narrowest, 0, "the window was never full: the test is too weak");
}

/// The offers of ESXi's software initiator, as seen in public dumps of its logins.
fn a_login_as_esxi_does_it(demo: &Demo) {
    let keys = [
        ("HeaderDigest", "None,CRC32C"),
        ("DataDigest", "None,CRC32C"),
        ("MaxOutstandingR2T", "1"),
        ("InitialR2T", "No"),
        ("MaxRecvDataSegmentLength", "131072"),
        ("DefaultTime2Wait", "0"),
        ("DefaultTime2Retain", "0"),
        ("OFMarker", "No"),
        ("IFMarker", "No"),
    ];
    let session = Session::open_with(demo.portal(), &demo.iqn(), NAME, 1, LIMIT, &keys).unwrap();
    let agreed: BTreeMap<&str, &str> =
        session.agreed.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let expected = [
        ("HeaderDigest", "None"),
        ("DataDigest", "None"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("MaxBurstLength", "262144"),
        ("FirstBurstLength", "262144"),
        ("MaxConnections", "1"),
        ("MaxOutstandingR2T", "1"),
        ("ErrorRecoveryLevel", "0"),
        ("TargetPortalGroupTag", "1"),
    ];
    for (key, value) in expected {
        assert_eq!(agreed.get(key), Some(&value), "{key} in {agreed:?}");
    }
}

/// ESXi asks again in the session that it has (RFC 7143 Appendix C).
fn send_targets_in_a_normal_session(demo: &Demo) {
    let mut session = open(demo, 1);
    let found = session.text("SendTargets", "").unwrap();
    assert_eq!(found[0], ("TargetName".to_owned(), demo.iqn()));
    assert_eq!(found[1], ("TargetAddress".to_owned(), format!("{},1", demo.portal())));
    assert_eq!(session.text("SendTargets", &demo.iqn()).unwrap(), found);
    // "All" must not be served here (Appendix C): a list of nobody. What is not known is told so; the session goes on.
    assert_eq!(session.text("SendTargets", "All").unwrap(), []);
    let answer = [("SendTargetsPlease".to_owned(), "NotUnderstood".to_owned())];
    assert_eq!(session.text("SendTargetsPlease", "All").unwrap(), answer);
    assert_eq!(session.text("SendTargets", "iqn.2026-11.local.futago:nobody").unwrap(), []);
    session.read(0, BLOCK).unwrap();
}

/// One host, a session per network port: different ISIDs, all at once, each with its own attentions.
fn port_binding_has_a_session_per_port(demo: &Demo) {
    let mut sessions: Vec<Session> = (1..=4).map(|port| open(demo, port)).collect();
    for (index, session) in sessions.iter_mut().enumerate() {
        let number = u8::try_from(index).unwrap();
        session.write(200 + index as u64, &[number; BLOCK]).unwrap();
    }
    for session in &mut sessions {
        for number in 0..4_u8 {
            assert_eq!(session.read(200 + u64::from(number), BLOCK).unwrap(), [number; BLOCK]);
        }
    }
}

/// The same name and ISID end the old session, and its RESERVE with it (RFC 7143 §6.3.5).
fn a_host_that_comes_back_takes_its_session_over(demo: &Demo) {
    let mut old = open(demo, 1);
    assert_eq!(old.command(&[0x16, 0, 0, 0, 0, 0], &[], 0).unwrap().status, 0);
    let mut new = open(demo, 1);
    new.write(1, &[5; BLOCK]).unwrap();
    assert!(old.command(&[0; 6], &[], 0).is_err(), "the old connection is still served");
    open(demo, 2).read(1, BLOCK).unwrap();
}

/// Pages, bits and descriptors without which ESXi takes a disk for a lesser one: no FUA, no ATS, no ALUA, 512n.
fn what_esxi_asks_of_a_disk(demo: &Demo) {
    let mut session = open(demo, 1);
    let mut ask = |cdb: &[u8]| {
        let answer = session.command(cdb, &[], 255).unwrap();
        assert_eq!(answer.status, 0, "{cdb:02x?}: {answer:?}");
        answer.data
    };
    let inquiry = ask(&[0x12, 0, 0, 0, 255, 0]);
    assert_eq!((inquiry[0], inquiry[1], inquiry[2]), (0, 0, 6), "a fixed disk that conforms to SPC-4");
    assert_eq!(inquiry[5] >> 4 & 3, 1, "TPGS: implicit");
    assert_eq!(inquiry[7] & 2, 2, "CMDQUE");
    let pages = ask(&[0x12, 1, 0, 0, 255, 0]);
    assert!(pages[4..].is_sorted(), "VPD pages in order (SPC-4 §7.8.16): {pages:02x?}");
    for page in [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2] {
        assert!(pages[4..].contains(&page), "VPD page {page:02x} in {pages:02x?}");
        assert_eq!(ask(&[0x12, 1, page, 0, 255, 0])[1], page);
    }
    for page in [0x08, 0x0a, 0x1c, 0x3f] {
        let sense = ask(&[0x1a, 0, page, 0, 255, 0]);
        assert_eq!(sense[2] & 0x90, 0x10, "page {page:02x}: DPOFUA without write protection");
    }
    let capacity = ask(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]);
    assert_eq!((capacity[10], capacity[13] & 0x0f), (2, 3), "512e");
    let groups = ask(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0]);
    assert_eq!(groups[4] & 0x0f, 0, "active/optimized");
    let ats = ask(&[0xa3, 0x0c, 1, 0x89, 0, 0, 0, 0, 0, 255, 0, 0]);
    assert_eq!(ats[1] & 7, 3, "COMPARE AND WRITE is supported");
}

/// Unknown or malformed commands get 5/20/00, or 5/24/00 with the byte at fault; none hangs, drops or restarts anything.
fn any_cdb_is_answered_and_the_session_goes_on(demo: &Demo) {
    let mut random = Random::seeded("cdbs");
    let mut session = open(demo, 1);
    let mut codes: BTreeMap<(u8, u8, u8), u32> = BTreeMap::new();
    for round in 0..12 {
        for opcode in 0..=255_u8 {
            let mut cdb: Vec<u8> = (0..16).map(|_| random.draw().to_le_bytes()[0]).collect();
            cdb[0] = opcode;
            match round % 3 {
                0 => cdb[2..].fill(0),
                1 => cdb.iter_mut().skip(1).for_each(|byte| *byte &= 0x11),
                _ => {}
            }
            let (data_out, data_in) = if round % 2 == 0 { (vec![0_u8; 0], 4096) } else { (vec![0; 512], 0) };
            let answer = session.command(&cdb, &data_out, data_in).unwrap();
            check_answer(&cdb, &answer);
            if let Some(code) = answer.sense_code() {
                *codes.entry(code).or_default() += 1;
            }
        }
    }
    println!("interoperability: 3072 random commands, sense codes {codes:02x?}");
    // What they may have reserved or protected ends with a reset.
    let management = session.manage(5, u32::MAX).unwrap();
    let answer = session.receive().unwrap();
    assert_eq!((answer.word(16), answer.header[2]), (management, 0));
    drop(session);
    open(demo, 1).write(0, &[0; BLOCK]).unwrap();
}

fn check_answer(cdb: &[u8], answer: &Answer) {
    match (answer.status, answer.sense_code()) {
        (2, Some((5, 0x24, 0))) => {
            assert_eq!(answer.sense[15] & 0xc0, 0xc0, "no field pointer for {cdb:02x?}: {answer:02x?}");
        }
        (2, Some(_)) | (0 | 4 | 0x18, None) => {}
        _ => panic!("{cdb:02x?}: {answer:02x?}"),
    }
}

/// The list names every test here, and only tests that there are.
#[test]
fn the_list_names_tests_that_exist() {
    let list = std::fs::read_to_string(repository().join("docs/interoperability.md")).unwrap();
    let rows: Vec<&str> = list.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() > 25, "{}", rows.len());
    let named: BTreeSet<&str> =
        rows.iter().flat_map(|row| row.split('|').nth(3).unwrap().split('`').skip(1).step_by(2)).collect();
    let mut sources = String::new();
    for folder in ["appliance", "ci/e2e/tests"] {
        collect(&repository().join(folder), &mut sources);
    }
    let missing: Vec<&&str> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "docs/interoperability.md names tests that are not there: {missing:?}");
    let unlisted: Vec<&str> =
        RULES.iter().map(|(name, _)| *name).filter(|name| !named.contains(name)).collect();
    assert!(unlisted.is_empty(), "not in docs/interoperability.md: {unlisted:?}");
}

fn collect(dir: &std::path::Path, sources: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *sources += &std::fs::read_to_string(path).unwrap();
        }
    }
}
