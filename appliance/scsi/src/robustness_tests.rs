//! Any CDB with any data-out: a valid status, no panic, operations within the medium (the bench checks each).

use crate::table::TABLE;
use crate::testing::{A, B, Bench};
use alloc::vec::Vec;
use proptest::prelude::*;

/// CDBs whose opcode and service action are known, with the other bits of the usage data mostly random.
fn known_cdb() -> impl Strategy<Value = Vec<u8>> {
    (0..TABLE.len(), any::<[u8; 16]>(), any::<[bool; 16]>()).prop_map(|(index, noise, keep)| {
        let usage = TABLE[index].usage;
        let mut cdb: Vec<u8> = usage.iter().zip(noise).map(|(mask, noise)| mask & noise).collect();
        // Small numbers reach deeper than random ones.
        cdb.iter_mut().zip(keep).skip(2).filter(|(_, keep)| !keep).for_each(|(byte, _)| *byte = 0);
        cdb[0] = usage[0];
        if TABLE[index].service_action.is_some() {
            cdb[1] = usage[1];
        }
        if let Some(last) = cdb.last_mut() {
            *last = 0;
        }
        cdb
    })
}

fn any_cdb() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => known_cdb(), 1 => proptest::collection::vec(any::<u8>(), 0..40)]
}

/// Data-out: noise, or mostly zeroes as parameter lists are.
fn data_out() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..1100),
        proptest::collection::vec(prop_oneof![9 => Just(0u8), 1 => any::<u8>()], 0..600),
        Just(alloc::vec![0; 512]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_commands_gets_valid_answers(
        thin in any::<bool>(),
        commands in proptest::collection::vec((any_cdb(), data_out(), any::<bool>(), 0u8..20), 1..12),
    ) {
        let mut bench = Bench::ready_with(|config| config.thin = thin);
        for (cdb, data_out, first, lun) in commands {
            bench.nexus = if first { A } else { B };
            bench.lun = [0, u8::from(lun == 0), 0, 0, 0, 0, 0, 0];
            let reply = bench.send(&cdb, &data_out);
            if let Some(sense) = reply.sense {
                let bytes = sense.encode();
                prop_assert!(bytes.as_slice().len() >= 8);
            }
        }
    }
}
