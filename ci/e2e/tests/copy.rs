//! EXTENDED COPY between two LUNs of the mirrored pair: what was copied is on both nodes, and a reset of the destination
//! ends a copy for good, whichever LUN was told to copy (S16, S18).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use futago_e2e::checker::reconnect;
use futago_e2e::demo::Demo;
use futago_e2e::initiator::{Answer, BLOCK, Session};
use futago_e2e::tools::{pattern, wait_for, work_dir};

const HEALTHY: Duration = Duration::from_secs(90);
const MIB: usize = 1 << 20;
const BLOCKS_OF_MIB: u64 = (MIB / BLOCK) as u64;
const LOGICAL_UNIT_RESET: u8 = 5;
/// Most that one segment says.
const LONGEST: u16 = u16::MAX;

/// First block of LUN 0, first block of LUN 1, how many.
type Segment = (u64, u64, u16);
/// 24 MiB; some blocks that begin and end anywhere; one block.
const SEGMENTS: [Segment; 3] =
    [(0, 8 * BLOCKS_OF_MIB, 24 * 2048), (25 * BLOCKS_OF_MIB + 3, 777, 1001), (5, 40 * BLOCKS_OF_MIB + 1, 1)];

fn session(demo: &Demo, qualifier: u16) -> Session {
    let mut session =
        reconnect(demo.portal(), &demo.iqn(), "iqn.2026-11.local.futago:copy", qualifier, HEALTHY).unwrap();
    ready_at(&mut session, 1);
    session.lun = 0;
    session
}

/// No unit attention is left at `lun`, which is served.
fn ready_at(session: &mut Session, lun: u16) {
    session.lun = lun;
    wait_for("a ready unit", HEALTHY, || (session.command(&[0; 6], &[], 0).ok()?.status == 0).then_some(()))
        .unwrap();
}

/// The NAA name in VPD page 83h, the first designator.
fn naa(session: &mut Session, lun: u16) -> Vec<u8> {
    session.lun = lun;
    let page = session.command(&[0x12, 1, 0x83, 0, 255, 0], &[], 255).unwrap().data;
    assert_eq!(page[4..8], [1, 3, 0, 8]);
    page[8..16].to_vec()
}

/// CDB and parameter list of a copy from LUN 0 to LUN 1.
fn copy(session: &mut Session, segments: &[Segment]) -> ([u8; 16], Vec<u8>) {
    let segment_bytes = u8::try_from(segments.len() * 28).unwrap();
    let mut list = vec![0; 16];
    (list[0], list[3], list[11]) = (1, 64, segment_bytes);
    for lun in [0, 1] {
        list.extend([0xe4, 0, 0, 0, 1, 3, 0, 8]);
        list.extend(naa(session, lun));
        list.extend([0; 14]);
        list.extend([2, 0]); // blocks of 512 bytes
    }
    for (from, to, blocks) in segments {
        list.extend([2, 0, 0, 0x18, 0, 0, 0, 1, 0, 0]);
        list.extend(blocks.to_be_bytes());
        list.extend(from.to_be_bytes());
        list.extend(to.to_be_bytes());
    }
    session.lun = 0;
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (0x83, u8::try_from(list.len()).unwrap());
    (cdb, list)
}

/// LUN 0 holds `mib` MiB, each of its own pattern.
fn fill(session: &mut Session, mib: u64) {
    session.lun = 0;
    for at in 0..mib {
        session.write(at * BLOCKS_OF_MIB, &pattern(at, MIB)).unwrap();
    }
}

fn run(session: &mut Session, segments: &[Segment]) {
    let (cdb, list) = copy(session, segments);
    let answer = session.command(&cdb, &list, 0).unwrap();
    assert_eq!(answer.status, 0, "{answer:?}");
}

/// Every segment is at its destination; the blocks beside it are not.
fn check(demo: &Demo, segments: &[Segment], when: &str) {
    let mut session = session(demo, 2);
    let mut read = |lun: u16, lba: u64, blocks: u64| {
        session.lun = lun;
        session.read(lba, usize::try_from(blocks).unwrap() * BLOCK).unwrap()
    };
    for &(from, to, blocks) in segments {
        for done in (0..u64::from(blocks)).step_by(MIB / BLOCK) {
            let count = BLOCKS_OF_MIB.min(u64::from(blocks) - done);
            let (source, copied) = (read(0, from + done, count), read(1, to + done, count));
            assert!(source.iter().any(|&byte| byte != 0));
            assert!(source == copied, "{when}: block {to} of LUN 1, {done} blocks on");
        }
        for beside in [to - 1, to + u64::from(blocks)] {
            assert_eq!(read(1, beside, 1), [0; BLOCK], "{when}: block {beside} of LUN 1");
        }
    }
    println!("copy: {} segments right {when}, served by {}", segments.len(), demo.primary().unwrap());
}

fn two_luns(name: &str) -> (std::path::PathBuf, Demo) {
    let dir = work_dir(name);
    let demo = Demo::start(&dir, "64MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    demo.ctl("a", &["volume", "create", "clone", "64MiB"]).unwrap();
    demo.ctl("a", &["target", "map", &demo.iqn(), "1", "clone"]).unwrap();
    together(&demo, "healthy");
    (dir, demo)
}

/// The node that serves both volumes, once one does and both are in `state`.
fn together(demo: &Demo, state: &str) -> String {
    wait_for("both volumes on one node", HEALTHY, || {
        let status = demo.status()?;
        let volumes = status["volumes"].as_array()?;
        let first = volumes.first()?["primary"].as_str()?.to_owned();
        let all = volumes.len() == 2
            && volumes.iter().all(|volume| volume["primary"] == *first && volume["state"] == state);
        all.then_some(first)
    })
    .unwrap()
}

#[test]
fn a_copy_between_luns_is_on_both_nodes() {
    let (dir, mut demo) = two_luns("copy");
    let mut copier = session(&demo, 1);
    fill(&mut copier, 26);
    run(&mut copier, &SEGMENTS[..2]);
    check(&demo, &SEGMENTS[..2], "on the pair");

    let victim = together(&demo, "healthy");
    demo.kill(&victim).unwrap();
    check(&demo, &SEGMENTS[..2], "after kill -9 of who had copied");
    let mut alone = session(&demo, 1);
    run(&mut alone, &SEGMENTS[2..]);
    check(&demo, &SEGMENTS, "with what the survivor copied alone");

    demo.start_node(&victim).unwrap();
    together(&demo, "healthy");
    demo.kill(Demo::other(&victim)).unwrap();
    check(&demo, &SEGMENTS, "on the copy that was away");
    demo.start_node(Demo::other(&victim)).unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    demo.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

/// A copy by a command to LUN 0 is on its way when LUN 1 is reset. What is written after the reset was answered stays.
fn reset_while_it_copies(copier: &mut Session, owner: &mut Session, round: u8) -> Answer {
    let (cdb, list) = copy(copier, &[(0, 0, LONGEST)]);
    let tag = copier.begin(&cdb, &list, 0).unwrap();
    std::thread::sleep(Duration::from_millis(40));
    owner.lun = 1;
    let management = owner.manage(LOGICAL_UNIT_RESET, 0).unwrap();
    let answer = owner.receive().unwrap();
    assert_eq!((answer.opcode(), answer.word(16), answer.header[2]), (0x22, management, 0));
    ready_at(owner, 1);
    // From the end on: that is where the copy would be next.
    for at in (0..32).rev() {
        owner.write(at * BLOCKS_OF_MIB, &vec![round; MIB]).unwrap();
    }
    copier.finish(tag, &list).unwrap()
}

#[test]
fn a_reset_of_the_destination_ends_a_copy_before_any_later_write() {
    let (dir, mut demo) = two_luns("copy-reset");
    let mut copier = session(&demo, 1);
    let mut owner = session(&demo, 3);
    fill(&mut copier, 32);
    let mut ended = 0;
    for round in 1..=8 {
        let answer = reset_while_it_copies(&mut copier, &mut owner, round);
        if answer.status != 0 {
            assert_eq!(answer.sense_code(), Some((0x0a, 0x0d, 1)), "COPY ABORTED");
            ended += 1;
        }
        for at in 0..32 {
            let found = owner.read(at * BLOCKS_OF_MIB, MIB).unwrap();
            let foreign = found.iter().position(|&byte| byte != round);
            assert_eq!(foreign, None, "round {round}: MiB {at} has bytes of the copy");
        }
        ready_at(&mut copier, 1);
        if ended == 3 {
            break;
        }
    }
    println!("copy: {ended} copies were ended by a reset of their destination");
    assert!(ended > 0, "every copy was done before the reset came");
    demo.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}
