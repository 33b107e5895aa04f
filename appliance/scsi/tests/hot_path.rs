//! READ and WRITE allocate nothing in steady state (ARCHITECTURE: the data path).

use base::{ClusterId, VolumeId};
use futago_scsi as scsi;
use scsi::{Command, InitiatorPort, NexusId, Outcome, Status, Step, Target, TargetPort, UnitConfig};

const NEXUS: NexusId = NexusId(7);

fn run(target: &mut Target, cdb: &[u8], offered_len: u64) -> Status {
    let transfer = scsi::expected_transfer(cdb);
    assert!(!transfer.inspected && transfer.len_bytes == 4096);
    let command = Command { nexus: NEXUS, lun: [0; 8], cdb, offered_len, parameters: &[] };
    let mut step = target.execute(&command);
    loop {
        match step {
            Step::Done(response) => return response.status,
            Step::Backend(_, continuation) => step = target.resume(&command, continuation, Outcome::Done),
        }
    }
}

#[test]
fn reads_and_writes_allocate_nothing() {
    let mut target = Target::new(TargetPort { iqn: "iqn.2026-01.test:t".into() });
    target.map(0, UnitConfig::new(ClusterId(1), VolumeId(2), 1 << 20), |_| true);
    target.attach(NEXUS, InitiatorPort { name: "iqn.2026-01.test:i".into(), isid: [0x80; 6] }, |_| true);
    let read = [0x28, 0, 0, 0, 0, 8, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
    let write = [0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0];
    assert_eq!(run(&mut target, &read, 0), Status::CheckCondition, "power on");
    let commands = allocation_counter::measure(|| {
        for _ in 0..1000 {
            assert_eq!(run(&mut target, &read, 0), Status::Good);
            assert_eq!(run(&mut target, &write, 4096), Status::Good);
        }
    });
    assert_eq!(commands.count_total, 0);
}
