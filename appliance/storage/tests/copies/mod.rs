//! EXTENDED COPY over the wire: data, aborts, and what becomes of a copy whose units are lost to it.

use super::*;
use futago_storage::target::BackendOp;

const OTHER: VolumeId = VolumeId(8);
/// 16 MiB: four pieces of the device server, each of eight parts.
const BLOCKS: u16 = 32 << 10;

/// A second unit, at LUN 1.
fn two_units(world: &World) {
    world.backend.add(OTHER, MIB << 20);
    let mut both = config(None, MIB << 11);
    both.luns.insert(1, UnitConfig::new(ClusterId(1), OTHER, MIB << 11).into());
    world.service.set_targets(&[both]);
}

/// Logged in, without unit attentions.
async fn ready(world: &World, isid: u8) -> Initiator {
    let mut initiator = Initiator::login(world.address, isid).await.ready().await;
    assert_eq!(initiator.run_at(1, [0; 16], b"").await.sense, [6, 0x29, 0]);
    initiator
}

/// CDB and parameter list: from LUN 0's start to that of LUN 1.
fn copy() -> ([u8; 16], Vec<u8>) {
    let mut list = vec![0; 16 + 64 + 28];
    (list[0], list[3], list[11]) = (1, 64, 28);
    for (at, volume) in [(16, VOLUME), (48, OTHER)] {
        list[at..at + 8].copy_from_slice(&[0xe4, 0, 0, 0, 1, 3, 0, 8]);
        list[at + 8..at + 16].copy_from_slice(&scsi::naa(ClusterId(1), volume));
        list[at + 30] = 2;
    }
    list[80..88].copy_from_slice(&[2, 0, 0, 0x18, 0, 0, 0, 1]);
    list[90..92].copy_from_slice(&BLOCKS.to_be_bytes());
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (0x83, 108);
    (cdb, list)
}

fn is_read(op: &BackendOp) -> bool {
    matches!(op, BackendOp::Read { .. })
}

/// LUN 0 holds a pattern; answers it.
async fn fill(initiator: &mut Initiator) -> Vec<u8> {
    let data = pattern(usize::from(BLOCKS) * 512, 3);
    assert_eq!(initiator.run(write16(0, BLOCKS.into()), 0, &data).await.status, 0);
    data
}

#[test]
fn a_copy_moves_data_between_units() {
    test(|world| async move {
        two_units(&world);
        let mut initiator = ready(&world, 1).await;
        let data = fill(&mut initiator).await;
        let (cdb, list) = copy();
        assert_eq!(initiator.run(cdb, 0, &list).await.status, 0);
        assert!(world.backend.bytes(OTHER, 0, data.len()) == data);
        assert_eq!(world.backend.bytes(OTHER, data.len(), 512), [0; 512]);
        // The unit that the command goes to need be neither source nor destination.
        assert_eq!(initiator.run_at(1, cdb, &list).await.status, 0);
    });
}

#[test]
fn an_aborted_copy_has_settled_once_what_is_out_is_answered() {
    test(|world| async move {
        two_units(&world);
        let mut initiator = ready(&world, 1).await;
        let mut resetter = ready(&world, 2).await;
        fill(&mut initiator).await;
        world.backend.hold(true);
        let (cdb, list) = copy();
        initiator.start(cdb, 0, 0, &list).await;
        settle().await;
        // One part is read, and its write is out when the reset comes.
        assert_eq!(world.backend.held(), 4);
        assert_eq!(world.backend.release(|op| matches!(op, BackendOp::Read { lba, .. } if lba.0 == 0)), 1);
        settle().await;
        resetter.manage(TaskFunction::LogicalUnitReset, NO_TAG).await;
        settle().await;
        assert_eq!(world.backend.release(is_read), 3);
        let early = tokio::time::timeout(Duration::from_millis(200), resetter.receive()).await;
        assert!(early.is_err(), "answered before the write had settled: {early:?}");
        assert_eq!(world.backend.held(), 1, "the write that was out, no other");
        world.backend.hold(false);
        let (Reply::TaskManagement(response), _) = resetter.receive().await.unwrap() else { panic!() };
        assert_eq!(response.response, TaskResult::Complete.code());
        let written = world.backend.bytes(OTHER, 0, usize::from(BLOCKS) * 512);
        assert_eq!(written[..1024 * 512], pattern(1024 * 512, 3));
        assert!(written[1024 * 512..].iter().all(|&byte| byte == 0));
        assert_eq!(initiator.run([0; 16], 0, b"").await.sense[..2], [6, 0x29]);
        // The identifier is free again.
        assert_eq!(initiator.run(cdb, 0, &list).await.status, 0);
    });
}

/// A copy by a command to LUN 0, one of whose writes to LUN 1 is out, and three reads; answers its tag.
async fn copy_half_way(world: &World, copier: &mut Initiator) -> u32 {
    fill(copier).await;
    world.backend.hold(true);
    let (cdb, list) = copy();
    let tag = copier.start(cdb, 0, 0, &list).await;
    settle().await;
    assert_eq!(world.backend.release(|op| matches!(op, BackendOp::Read { lba, .. } if lba.0 == 0)), 1);
    settle().await;
    tag
}

#[test]
fn a_reset_of_the_destination_ends_copies_by_commands_to_another_unit() {
    test(|world| async move {
        two_units(&world);
        let mut copier = ready(&world, 1).await;
        let mut resetter = ready(&world, 2).await;
        let copying = copy_half_way(&world, &mut copier).await;
        resetter.manage_at(1, TaskFunction::LogicalUnitReset, NO_TAG).await;
        settle().await;
        assert_eq!(world.backend.release(is_read), 3);
        let early = tokio::time::timeout(Duration::from_millis(200), resetter.receive()).await;
        assert!(early.is_err(), "answered before the write had settled: {early:?}");
        assert_eq!(world.backend.held(), 1, "the write that was out, no other");
        world.backend.hold(false);
        let (Reply::TaskManagement(response), _) = resetter.receive().await.unwrap() else { panic!() };
        assert_eq!(response.response, TaskResult::Complete.code());
        // The command was not aborted, as it went to LUN 0: it is answered.
        assert_eq!(copier.finish(copying, b"").await.unwrap().sense, [0xa, 0x0d, 1]);
        assert!(world.backend.bytes(OTHER, 1024 * 512, 1 << 20).iter().all(|&byte| byte == 0));
        for (lun, sense) in [(0, [0; 3]), (1, [6, 0x29, 3])] {
            assert_eq!(copier.run_at(lun, [0; 16], b"").await.sense, sense);
        }
    });
}

#[test]
fn so_does_a_reset_by_the_session_that_copies() {
    test(|world| async move {
        two_units(&world);
        let mut copier = ready(&world, 1).await;
        let copying = copy_half_way(&world, &mut copier).await;
        copier.manage_at(1, TaskFunction::LogicalUnitReset, NO_TAG).await;
        settle().await;
        assert_eq!(world.backend.release(is_read), 3);
        settle().await;
        assert_eq!(world.backend.held(), 1, "the write that was out, no other");
        world.backend.hold(false);
        // Two answers, in any order.
        let mut ends = [copier.receive().await.unwrap().0, copier.receive().await.unwrap().0];
        ends.sort_by_key(|end| matches!(end, Reply::ScsiResponse(_)));
        let [Reply::TaskManagement(reset), Reply::ScsiResponse(copy)] = ends else { panic!("{ends:?}") };
        assert_eq!((reset.response, copy.status), (TaskResult::Complete.code(), 2));
        assert_eq!(copy.initiator_task_tag, copying);
        assert!(world.backend.bytes(OTHER, 1024 * 512, 1 << 20).iter().all(|&byte| byte == 0));
    });
}

#[test]
fn a_reset_of_another_unit_than_the_destination_leaves_a_copy_alone() {
    test(|world| async move {
        two_units(&world);
        world.backend.add(VolumeId(9), MIB << 20);
        let mut three = config(None, MIB << 11);
        for (lun, volume) in [(1, OTHER), (2, VolumeId(9))] {
            three.luns.insert(lun, UnitConfig::new(ClusterId(1), volume, MIB << 11).into());
        }
        world.service.set_targets(&[three]);
        let mut copier = Initiator::login(world.address, 1).await.ready().await;
        let mut resetter = Initiator::login(world.address, 2).await.ready().await;
        let copying = copy_half_way(&world, &mut copier).await;
        resetter.manage_at(2, TaskFunction::LogicalUnitReset, NO_TAG).await;
        let (Reply::TaskManagement(response), _) = resetter.receive().await.unwrap() else { panic!() };
        assert_eq!(response.response, TaskResult::Complete.code());
        world.backend.hold(false);
        assert_eq!(copier.finish(copying, b"").await.unwrap().status, 0);
        let len = usize::from(BLOCKS) * 512;
        assert!(world.backend.bytes(OTHER, 0, len) == pattern(len, 3));
    });
}

#[test]
fn preempt_and_abort_waits_for_copies_to_the_unit_by_commands_to_another() {
    let reserve = |action: u8, kind: u8, key: u8, new: u8| {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5f, action, kind, 24);
        let mut list = vec![0; 24];
        (list[7], list[15]) = (key, new);
        (cdb, list)
    };
    test(|world| async move {
        two_units(&world);
        let mut owner = ready(&world, 1).await;
        let mut copier = ready(&world, 2).await;
        fill(&mut copier).await;
        for (initiator, key) in [(&mut owner, 10), (&mut copier, 11)] {
            let (cdb, list) = reserve(0, 0, 0, key);
            assert_eq!(initiator.run_at(1, cdb, &list).await.status, 0);
        }
        let (cdb, list) = reserve(1, 5, 10, 0);
        assert_eq!(owner.run_at(1, cdb, &list).await.status, 0);
        world.backend.hold(true);
        let (cdb, list) = copy();
        let copying = copier.start(cdb, 0, 0, &list).await;
        settle().await;
        assert_eq!(world.backend.release(|op| matches!(op, BackendOp::Read { lba, .. } if lba.0 == 0)), 1);
        settle().await;
        let (cdb, list) = reserve(5, 5, 10, 11);
        let preempting = owner.start(cdb, 1, 0, &list).await;
        settle().await;
        assert_eq!(world.backend.release(|op| matches!(op, BackendOp::Reserve(_))), 1);
        settle().await;
        assert_eq!(world.backend.release(is_read), 3);
        let early = tokio::time::timeout(Duration::from_millis(200), owner.receive()).await;
        assert!(early.is_err(), "answered before the write had settled: {early:?}");
        assert_eq!(world.backend.held(), 1, "the write that was out, no other");
        world.backend.hold(false);
        assert_eq!(owner.finish(preempting, b"").await.unwrap().status, 0);
        assert_eq!(copier.finish(copying, b"").await.unwrap().sense, [0xa, 0x0d, 1]);
        let written = world.backend.bytes(OTHER, 1024 * 512, 512);
        assert_eq!(written, [0; 512]);
    });
}

#[test]
fn a_copy_of_an_unserved_volume_drops_the_connection() {
    test(|world| async move {
        two_units(&world);
        let mut initiator = ready(&world, 1).await;
        world.backend.hold(true);
        let (cdb, list) = copy();
        initiator.start(cdb, 0, 0, &list).await;
        settle().await;
        world.backend.refuse();
        world.backend.hold(false);
        initiator.assert_gone().await;
        assert!(world.backend.bytes(OTHER, 0, 1 << 20).iter().all(|&byte| byte == 0));
    });
}
