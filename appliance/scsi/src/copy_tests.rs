//! EXTENDED COPY and RECEIVE COPY RESULTS: two units at LUN 0 and 1 of the bench, of which B sees the first alone where a
//! test says so.

use crate::testing::{A, B, BLOCKS, Bench, OTHER, VOLUME};
use crate::*;
use alloc::vec;
use alloc::vec::Vec;
use base::{ClusterId, Lba, VolumeId};

const CLUSTER: ClusterId = ClusterId(1);
/// Both units are in the list, in this order.
const MAIN: u16 = 0;
const SECOND: u16 = 1;

fn bench() -> Bench {
    bench_with(|_| true)
}

/// LUN 1 shows the other volume to some.
fn bench_with(shown: fn(&InitiatorPort) -> bool) -> Bench {
    let mut bench = Bench::ready();
    bench.target.map(1, UnitConfig::new(CLUSTER, OTHER, BLOCKS), shown);
    for nexus in [B, A] {
        bench.nexus = nexus;
        let _attention = bench.send(&[0; 6], &[]);
        bench.good(&[0; 6], &[]);
    }
    for (at, byte) in bench.ram.bytes.iter_mut().enumerate() {
        *byte = u8::try_from(at / 512 % 251).unwrap();
    }
    bench
}

fn cscd(volume: VolumeId) -> [u8; 32] {
    let mut out = [0; 32];
    out[0] = 0xe4;
    out[4] = 1;
    out[5] = 3;
    out[7] = 8;
    out[8..16].copy_from_slice(&naa(CLUSTER, volume));
    out[30] = 2;
    out
}

fn segment(source: u16, from: u64, destination: u16, to: u64, blocks: u16) -> [u8; 28] {
    let mut out = [0; 28];
    out[0] = 0x02;
    out[3] = 0x18;
    out[4..6].copy_from_slice(&source.to_be_bytes());
    out[6..8].copy_from_slice(&destination.to_be_bytes());
    out[10..12].copy_from_slice(&blocks.to_be_bytes());
    out[12..20].copy_from_slice(&from.to_be_bytes());
    out[20..28].copy_from_slice(&to.to_be_bytes());
    out
}

/// A list with identifier 5.
fn list_of(cscds: &[[u8; 32]], segments: &[[u8; 28]]) -> Vec<u8> {
    let mut out = vec![0; 16];
    out[0] = 5;
    out[2..4].copy_from_slice(&u16::try_from(cscds.len() * 32).unwrap().to_be_bytes());
    out[8..12].copy_from_slice(&u32::try_from(segments.len() * 28).unwrap().to_be_bytes());
    out.extend(cscds.concat());
    out.extend(segments.concat());
    out
}

fn list(segments: &[[u8; 28]]) -> Vec<u8> {
    list_of(&[cscd(VOLUME), cscd(OTHER)], segments)
}

fn copy(list: &[u8]) -> [u8; 16] {
    let [a, b, c, d] = u32::try_from(list.len()).unwrap().to_be_bytes();
    [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, 0, 0]
}

fn results(action: u8, id: u8) -> [u8; 16] {
    [0x84, action, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0]
}

fn operation(source: VolumeId, from: u64, destination: VolumeId, to: u64, blocks: u64) -> Operation {
    Operation::Copy { source, extent: Extent { lba: Lba(from), blocks }, destination, to: Lba(to) }
}

fn refused(bench: &mut Bench, list: &[u8], key: u8, asc: (u8, u8), byte: Option<u16>) {
    bench.refused_with(&copy(list), list, key, asc, byte.map(|byte| (byte, None)));
    assert_eq!(bench.ram.log, [], "nothing was copied");
}

#[test]
fn segments_are_copied_within_a_unit_and_to_another() {
    let mut bench = bench();
    let source = bench.ram.bytes.clone();
    let list = list(&[
        segment(MAIN, 0, MAIN, 1000, 64),
        segment(MAIN, 3, SECOND, 7, 0),
        segment(MAIN, 1000, SECOND, 2040, 8),
    ]);
    bench.good(&copy(&list), &list);
    assert_eq!(
        bench.ram.log,
        [operation(VOLUME, 0, VOLUME, 1000, 64), operation(VOLUME, 1000, OTHER, 2040, 8)]
    );
    assert_eq!(bench.ram.bytes[1000 * 512..1064 * 512], source[..64 * 512]);
    assert_eq!(bench.ram.other[2040 * 512..], source[..8 * 512]);
    assert!(bench.ram.other[..2040 * 512].iter().all(|&byte| byte == 0));
    bench.good(&copy(&[]), &[]);
}

#[test]
fn cve_2020_28374_a_copy_reaches_only_units_that_exist_for_its_nexus() {
    // CVE-2020-28374: whoever may copy at one unit may not thereby read or write another.
    let mut bench = bench_with(|port| port.name.ends_with(":a"));
    bench.nexus = B;
    let outward = list(&[segment(MAIN, 0, SECOND, 0, 8)]);
    let inward = list(&[segment(SECOND, 0, MAIN, 0, 8)]);
    for list in [&outward, &inward] {
        refused(&mut bench, list, 0xa, (0x0d, 2), None);
    }
    bench.nexus = A;
    bench.good(&copy(&outward), &outward);
    // Not by a designator of a unit elsewhere, by one that is shortened, nor by one of another kind.
    bench.ram.log.clear();
    let forge = |change: fn(&mut [u8; 32])| {
        let mut other = cscd(OTHER);
        change(&mut other);
        list_of(&[cscd(VOLUME), other], &[segment(MAIN, 0, SECOND, 0, 8)])
    };
    for forged in [
        forge(|cscd| cscd[15] ^= 1),
        forge(|cscd| cscd[7] = 7),
        forge(|cscd| cscd[7] = 0),
        forge(|cscd| cscd[5] = 2),
        forge(|cscd| cscd[4] = 2),
        forge(|cscd| cscd[1] = 1),
    ] {
        refused(&mut bench, &forged, 0xa, (0x0d, 2), None);
    }
    // LU ID TYPE is ignored and NUL obsolete (SPC-4).
    let ignored = forge(|cscd| cscd[1] = 0xe0);
    bench.good(&copy(&ignored), &ignored);
}

#[test]
fn a_unit_that_is_masked_during_the_copy_ends_it() {
    let (mut bench, list) = two_pieces();
    let command = command(&list);
    let (operation, continuation) = begun(bench.target.execute(&command));
    assert_eq!(operation, self::operation(VOLUME, 0, OTHER, 0, 8192));
    bench.target.mask(1, |port| port.name.ends_with(":b"));
    let response = done(bench.target.resume(&command, continuation, Outcome::Done));
    assert_eq!(sense(&response), (0xa, 0x0d, 1));
    // The unit that the command was sent to: by another name.
    let (mut bench, _) = two_pieces();
    let (_, continuation) = begun(bench.target.execute(&command));
    bench.target.mask(0, |port| port.name.ends_with(":b"));
    let response = done(bench.target.resume(&command, continuation, Outcome::Done));
    assert_eq!(sense(&response), (0xb, 0x3f, 0x0e));
    assert_eq!(begun_again(&mut bench), "ended");
}

/// The list's identifier is free again.
fn begun_again(bench: &mut Bench) -> &'static str {
    bench.target.mask(0, |_| true);
    for _ in 0..3 {
        let _attentions = bench.send(&[0; 6], &[]);
    }
    match bench.data_in(&results(0, 5))[4] {
        0 => "runs",
        _ => "ended",
    }
}

/// Units long enough for a segment of two pieces, the medium of neither.
fn two_pieces() -> (Bench, Vec<u8>) {
    let mut bench = bench();
    for (lun, volume) in [(0, VOLUME), (1, OTHER)] {
        bench.target.resize(lun, 1 << 20);
        bench.lun[1] = u8::try_from(lun).unwrap();
        let _attention = bench.send(&[0; 6], &[]);
        assert_eq!(bench.target.unit(lun).unwrap().config().volume, volume);
    }
    bench.lun[1] = 0;
    (bench, list(&[segment(MAIN, 0, SECOND, 0, 8200)]))
}

fn command(list: &[u8]) -> Command<'_> {
    const CDB: [u8; 16] = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16 + 64 + 28, 0, 0];
    assert_eq!(list.len(), 16 + 64 + 28);
    Command { nexus: A, lun: [0; 8], cdb: &CDB, offered_len: 108, parameters: list }
}

fn begun(step: Step) -> (Operation, Continuation) {
    match step {
        Step::Backend(operation, continuation) => (operation, continuation),
        Step::Done(response) => panic!("{response:?}"),
    }
}

fn done(step: Step) -> Response {
    match step {
        Step::Done(response) => response,
        Step::Backend(operation, _) => panic!("{operation:?}"),
    }
}

fn sense(response: &Response) -> (u8, u8, u8) {
    let sense = response.sense.unwrap();
    (sense.key as u8, sense.asc.0, sense.asc.1)
}

#[test]
fn long_segments_are_copied_in_pieces() {
    let (mut bench, list) = two_pieces();
    let command = command(&list);
    let (first, continuation) = begun(bench.target.execute(&command));
    assert_eq!(first, operation(VOLUME, 0, OTHER, 0, 8192));
    let (second, continuation) = begun(bench.target.resume(&command, continuation, Outcome::Done));
    assert_eq!(second, operation(VOLUME, 8192, OTHER, 8192, 8));
    assert_eq!(bench.data_in(&results(0, 5)), [0, 0, 0, 8, 0, 0, 0, 0, 0, 0x40, 0, 0], "4 MiB so far");
    let response = done(bench.target.resume(&command, continuation, Outcome::Done));
    assert_eq!(response, Response::good());
    assert_eq!(bench.data_in(&results(0, 5)), [0, 0, 0, 8, 1, 0, 1, 0, 0, 0x40, 0x10, 0]);
}

/// What becomes of a copy whose access is lost between two pieces.
fn after_one_piece(lose: impl FnOnce(&mut Bench)) -> (u8, u8, u8) {
    let (mut bench, list) = two_pieces();
    let command = command(&list);
    let (_, continuation) = begun(bench.target.execute(&command));
    lose(&mut bench);
    let response = done(bench.target.resume(&command, continuation, Outcome::Done));
    bench.nexus = A;
    bench.lun[1] = 0;
    for _ in 0..2 {
        let _attentions = bench.send(&[0; 6], &[]);
    }
    assert_eq!(bench.data_in(&results(0, 5))[4], 2, "ended with an error");
    sense(&response)
}

#[test]
fn a_copy_loses_its_access_in_its_midst() {
    let read_only = |bench: &mut Bench| {
        let config = bench.target.unit(1).unwrap().config().clone();
        bench.target.reconfigure(1, UnitConfig { read_only: true, ..config });
    };
    assert_eq!(after_one_piece(read_only), (0xa, 0x0d, 1));
    assert_eq!(after_one_piece(|bench| bench.target.set_served(1, false)), (0xa, 0x0d, 2));
    assert_eq!(after_one_piece(|bench| bench.target.resize(1, 8192)), (0xa, 0x0d, 1));
    assert_eq!(after_one_piece(|bench| bench.target.unmap(1)), (0xa, 0x0d, 1));
    let reserved = |bench: &mut Bench| {
        (bench.nexus, bench.lun[1]) = (B, 1);
        for _ in 0..4 {
            let _attentions = bench.send(&[0; 6], &[]);
        }
        bench.good(&[0x16, 0, 0, 0, 0, 0], &[]);
    };
    assert_eq!(after_one_piece(reserved), (0xa, 0x0d, 1));
}

#[test]
fn a_piece_that_fails_ends_the_copy() {
    for (fault, asc) in [
        (Fault::Unreadable(Lba(1)), (0x0d, 1)),
        (Fault::Unwritable(Lba(1)), (0x0d, 1)),
        (Fault::OutOfSpace, (0x0d, 1)),
        (Fault::NotServed, (0x0d, 2)),
        (Fault::Internal, (0x0d, 1)),
    ] {
        let mut bench = bench();
        bench.ram.fault = Some(fault);
        let list = list(&[segment(MAIN, 0, SECOND, 0, 8), segment(MAIN, 8, SECOND, 8, 8)]);
        bench.refused_with(&copy(&list), &list, 0xa, asc, None);
        assert_eq!(bench.ram.log.len(), 1);
        assert_eq!(bench.data_in(&results(0, 5)), [0, 0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0]);
        let details = bench.data_in(&results(4, 5));
        assert_eq!((details[..4].to_vec(), details.len()), (vec![0, 0, 0, 56 + 18], 60 + 18));
        assert_eq!(details[56..60], [2, 0, 0, 18]);
        assert_eq!((details[62], (details[72], details[73])), (0xa, asc));
        // Told once.
        bench.refused(&results(4, 5), 0x5, (0x24, 0), Some((2, None)));
    }
}

#[test]
fn a_copy_needs_the_rights_of_read_and_write() {
    let mut bench = bench();
    let (out, back) = (list(&[segment(MAIN, 0, SECOND, 0, 8)]), list(&[segment(SECOND, 0, MAIN, 0, 8)]));
    let config = bench.target.unit(1).unwrap().config().clone();
    bench.target.reconfigure(1, UnitConfig { read_only: true, ..config.clone() });
    refused(&mut bench, &out, 0x7, (0x27, 0), None);
    bench.good(&copy(&back), &back);
    bench.target.reconfigure(1, config);
    bench.ram.log.clear();
    bench.target.set_served(1, false);
    refused(&mut bench, &out, 0x2, (0x04, 0x0a), None);
    refused(&mut bench, &back, 0x2, (0x04, 0x0a), None);
    bench.target.set_served(1, true);
    // B holds a write exclusive reservation of LUN 1, with which others may read it.
    (bench.nexus, bench.lun[1]) = (B, 1);
    for _ in 0..4 {
        let _attentions = bench.send(&[0; 6], &[]);
    }
    let mut parameters = [0; 24];
    parameters[15] = 1;
    bench.good(&[0x5f, 0x06, 0, 0, 0, 0, 0, 0, 24, 0], &parameters);
    parameters.swap(7, 15);
    bench.good(&[0x5f, 0x01, 1, 0, 0, 0, 0, 0, 24, 0], &parameters);
    (bench.nexus, bench.lun[1]) = (A, 0);
    bench.ram.log.clear();
    bench.conflicts(&copy(&out), &out);
    bench.good(&copy(&back), &back);
    assert_eq!(bench.ram.log, [operation(OTHER, 0, VOLUME, 0, 8)]);
    // The holder may do both.
    (bench.nexus, bench.lun[1]) = (B, 1);
    bench.good(&copy(&out), &out);
}

#[test]
fn segments_lie_within_their_units_and_apart() {
    let mut bench = bench();
    let second = |bytes: &[[u8; 28]]| list(&[&[segment(MAIN, 0, SECOND, 0, 8)], bytes].concat());
    let at = 16 + 64 + 28;
    for (wrong, key, asc, byte) in [
        (segment(MAIN, 0, SECOND, BLOCKS - 7, 8), 0xa, (0, 0), at + 20),
        (segment(MAIN, BLOCKS - 7, SECOND, 0, 8), 0xa, (0, 0), at + 12),
        (segment(MAIN, u64::MAX, SECOND, 0, 8), 0xa, (0, 0), at + 12),
        (segment(2, 0, MAIN, 0, 8), 0xa, (0x08, 4), at + 4),
        (segment(MAIN, 0, 2, 0, 8), 0xa, (0x08, 4), at + 6),
        (segment(MAIN, 10, MAIN, 17, 8), 0x5, (0x26, 0), at + 12),
        (segment(MAIN, 17, MAIN, 10, 8), 0x5, (0x26, 0), at + 12),
        (segment(MAIN, 5, MAIN, 5, 1), 0x5, (0x26, 0), at + 12),
    ] {
        refused(&mut bench, &second(&[wrong]), key, asc, Some(byte));
    }
    for apart in
        [segment(MAIN, 10, MAIN, 18, 8), segment(MAIN, 5, SECOND, 5, 8), segment(MAIN, 5, MAIN, 5, 0)]
    {
        let list = second(&[apart]);
        bench.good(&copy(&list), &list);
    }
}

#[test]
fn lists_have_a_form() {
    let mut bench = bench();
    let good = list(&[segment(MAIN, 0, SECOND, 0, 8)]);
    let with = |at: usize, byte: u8| {
        let mut list = good.clone();
        list[at] = byte;
        list
    };
    for (list, asc, byte) in [
        (good[..15].to_vec(), (0x1a, 0), None),
        (good[..16 + 31].to_vec(), (0x1a, 0), None),
        (good[..good.len() - 1].to_vec(), (0x1a, 0), None),
        (with(3, 65), (0x26, 0), Some(2)),
        (with(11, 27), (0x26, 0), Some(8)),
        (with(15, 1), (0x26, 0x0b), None),
        (with(16, 0xe0), (0x26, 7), None),
        (with(80, 0x03), (0x26, 9), None),
        (with(80 + 3, 0x17), (0x26, 0), Some(82)),
        (with(16 + 7, 21), (0x26, 0), Some(23)),
        (with(16 + 30, 0x10), (0x26, 0), Some(45)),
    ] {
        refused(&mut bench, &list, 0x5, asc, byte);
    }
    // LIST ID USAGE: 01b is reserved, 11b goes with identifier 0.
    bench.refused_with(&copy(&good), &with(1, 0x08), 0x5, (0x26, 0), Some((1, Some(4))));
    refused(&mut bench, &with(1, 0x18), 0x5, (0x26, 0), Some(0));
    // Less data than the CDB tells.
    bench.refused_with(&copy(&good), &good[..40], 0x5, (0x1a, 0), None);
}

#[test]
fn lists_are_bounded() {
    let mut bench = bench();
    let one = segment(MAIN, 0, SECOND, 0, 1);
    refused(&mut bench, &list_of(&[cscd(VOLUME); 17], &[one]), 0x5, (0x26, 6), None);
    refused(&mut bench, &list(&[one; 65]), 0x5, (0x26, 8), None);
    refused(&mut bench, &list_of(&[cscd(VOLUME); 17], &[one; 65]), 0x5, (0x1a, 0), None);
    let mut cscds = [cscd(VOLUME); 16];
    cscds[1] = cscd(OTHER);
    let most = list_of(&cscds, &[one; 64]);
    bench.good(&copy(&most), &most);
    assert_eq!(bench.ram.log.len(), 64);
    let tells = bench.data_in(&results(3, 0));
    assert_eq!(tells.len(), 47);
    assert_eq!(tells[..16], [0, 0, 0, 43, 1, 0, 0, 0, 0, 16, 0, 64, 0, 0, 0x09, 0x00]);
    assert_eq!(tells[16..20], (65_535_u32 * 512).to_be_bytes());
    assert_eq!(tells[34..], [0, 32, 32, 9, 0, 0, 0, 0, 0, 3, 0x02, 0x0a, 0xe4]);
}

/// Block device to block device with offset: `bytes` of it, at byte offsets into the first blocks.
fn by_bytes((from, to): (u64, u64), bytes: u32, offsets: [u8; 4]) -> Vec<u8> {
    let mut out = segment(MAIN, from, SECOND, to, 0).to_vec();
    (out[0], out[3]) = (0x0a, 0x1c);
    out[8..12].copy_from_slice(&bytes.to_be_bytes());
    out.extend(offsets);
    out
}

/// A list of these segments, of whatever lengths.
fn list_of_any(segments: &[&[u8]]) -> Vec<u8> {
    let mut out = list(&[]);
    let segments = segments.concat();
    out[8..12].copy_from_slice(&u32::try_from(segments.len()).unwrap().to_be_bytes());
    out.extend(segments);
    out
}

#[test]
fn a_segment_may_count_bytes() {
    let mut bench = bench();
    let source = bench.ram.bytes.clone();
    let list = list_of_any(&[
        &by_bytes((3, 7), 1024, [0; 4]),
        &segment(MAIN, 0, SECOND, 100, 1),
        &by_bytes((1, 1), 0, [0; 4]),
    ]);
    bench.good(&copy(&list), &list);
    assert_eq!(bench.ram.log, [operation(VOLUME, 3, OTHER, 7, 2), operation(VOLUME, 0, OTHER, 100, 1)]);
    assert_eq!(bench.ram.other[7 * 512..9 * 512], source[3 * 512..5 * 512]);
    assert_eq!(bench.data_in(&results(0, 5)), [0, 0, 0, 8, 1, 0, 3, 0, 0, 0, 6, 0]);
}

#[test]
fn a_segment_that_counts_bytes_is_checked() {
    let mut bench = bench();
    let first = segment(MAIN, 0, SECOND, 0, 1);
    let second_of = |second: &[u8]| list_of_any(&[&first, second]);
    // The first segment stands at byte 80, the second at 108.
    refused(&mut bench, &second_of(&by_bytes((0, 0), 513, [0; 4])), 0x5, (0x26, 0), Some(116));
    refused(&mut bench, &second_of(&by_bytes((0, 0), 65_536 * 512, [0; 4])), 0x5, (0x26, 0), Some(116));
    refused(&mut bench, &second_of(&by_bytes((0, 0), 512, [0, 1, 0, 0])), 0x5, (0x26, 0), Some(136));
    refused(&mut bench, &second_of(&by_bytes((0, 0), 512, [0, 0, 2, 0])), 0x5, (0x26, 0), Some(136));
    refused(&mut bench, &second_of(&by_bytes((BLOCKS, 0), 512, [0; 4])), 0xa, (0, 0), Some(120));
    refused(&mut bench, &second_of(&by_bytes((0, BLOCKS - 1), 1024, [0; 4])), 0xa, (0, 0), Some(128));
    refused(&mut bench, &second_of(&by_bytes((0, 0), 512, [0; 4])[..28]), 0x5, (0x26, 0), Some(8));
    let mut short = by_bytes((0, 0), 512, [0; 4]);
    short[3] = 0x18;
    refused(&mut bench, &second_of(&short), 0x5, (0x26, 0), Some(110));
}

#[test]
fn results_are_kept_by_nexus_and_identifier() {
    let mut bench = bench();
    bench.refused(&results(0, 5), 0x5, (0x24, 0), Some((2, None)));
    let mut list = list(&[segment(MAIN, 0, SECOND, 0, 8)]);
    bench.good(&copy(&list), &list);
    bench.nexus = B;
    bench.refused(&results(0, 5), 0x5, (0x24, 0), Some((2, None)));
    bench.nexus = A;
    bench.refused(&results(0, 6), 0x5, (0x24, 0), Some((2, None)));
    assert_eq!(bench.data_in(&results(4, 5)), [0; 4], "no segment has failed");
    assert_eq!(bench.data_in(&results(0, 5)), [0, 0, 0, 8, 1, 0, 1, 0, 0, 0, 16, 0]);
    bench.refused(&results(0, 5), 0x5, (0x24, 0), Some((2, None)));
    // Without an identifier nothing is kept.
    (list[0], list[1]) = (0, 0x18);
    bench.good(&copy(&list), &list);
    bench.refused(&results(0, 0), 0x5, (0x24, 0), Some((2, None)));
    // The session's end ends them.
    (list[0], list[1]) = (5, 0);
    bench.good(&copy(&list), &list);
    bench.target.detach(A);
    bench.target.attach(A, InitiatorPort { name: "iqn.2026-01.test:a".into(), isid: [0; 6] }, |_| true);
    let _attention = bench.send(&[0; 6], &[]);
    bench.refused(&results(0, 5), 0x5, (0x24, 0), Some((2, None)));
}

#[test]
fn copies_at_a_time_are_bounded() {
    let (mut bench, list) = two_pieces();
    let mut unnamed = list.clone();
    (unnamed[0], unnamed[1]) = (0, 0x18);
    let named = command(&list);
    let (_, first) = begun(bench.target.execute(&named));
    bench.refused_with(&copy(&list), &list, 0x5, (0x00, 0x16), None);
    let running: Vec<_> = (1..32).map(|_| begun(bench.target.execute(&command(&unnamed))).1).collect();
    assert_eq!(bench.send(&copy(&unnamed), &unnamed).status, Status::Busy);
    let failed = Outcome::Failed(Fault::Internal);
    let ended = done(bench.target.resume(&command(&unnamed), running[0], failed));
    assert_eq!(sense(&ended), (0xa, 0x0d, 1));
    let (_, again) = begun(bench.target.execute(&command(&unnamed)));
    // A nexus that goes leaves room, whatever becomes of its copies.
    bench.target.detach(A);
    for continuation in running.into_iter().skip(1).chain([again]) {
        assert!(done(bench.target.resume(&command(&unnamed), continuation, failed)).sense.is_some());
    }
    assert!(done(bench.target.resume(&named, first, Outcome::Done)).sense.is_some());
    bench.nexus = B;
    for _ in 0..2 {
        let _attention = bench.send(&[0; 6], &[]);
    }
    let list = self::list(&[segment(MAIN, 0, SECOND, 0, 8)]);
    bench.good(&copy(&list), &list);
}
