//! Vital product data pages (SPC-4 §7.8, SBC-3 §6.6).

use crate::copy::{
    DESCRIPTORS, MAX_COPIES, MAX_CSCDS, MAX_DESCRIPTOR_BYTES, MAX_SEGMENT_BYTES, MAX_SEGMENTS,
    SEGMENT_GRANULARITY,
};
use crate::identity::{self, PORT_GROUP, RELATIVE_PORT, TargetPort};
use crate::inquiry::{DISK, VENDOR};
use crate::limits::{
    MAX_COMPARE_BLOCKS, MAX_TRANSFER_BLOCKS, MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME_BLOCKS,
    OPTIMAL_TRANSFER_BLOCKS, UNMAP_GRANULARITY_BLOCKS,
};
use crate::table::TABLE;
use crate::unit::{LogicalUnit, UnitConfig};
use alloc::vec::Vec;
use base::Writer;

type Builder = fn(&mut Writer, &LogicalUnit, &TargetPort);

/// Page code and what writes its payload, in ascending order of codes.
const PAGES: [(u8, Builder); 8] = [
    (0x00, supported_pages),
    (0x80, unit_serial_number),
    (0x83, device_identification),
    (0x86, extended_inquiry),
    (0x8f, third_party_copy),
    (0xb0, block_limits),
    (0xb1, block_device_characteristics),
    (0xb2, logical_block_provisioning),
];

/// The page `code` with its header, or `None` if there is no such page.
pub(crate) fn page(code: u8, unit: &LogicalUnit, port: &TargetPort) -> Option<Vec<u8>> {
    let (_, build) = PAGES.iter().find(|(known, _)| *known == code)?;
    let mut payload = Writer::with_capacity(64);
    build(&mut payload, unit, port);
    let mut out = Writer::with_capacity(4 + payload.len());
    out.u8(DISK).u8(code).u16_be(len16(payload.as_slice())).bytes(payload.as_slice());
    Some(out.into_vec())
}

fn len16(bytes: &[u8]) -> u16 {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX)
}

fn supported_pages(out: &mut Writer, _: &LogicalUnit, _: &TargetPort) {
    for (code, _) in PAGES {
        out.u8(code);
    }
}

fn serial_of(config: &UnitConfig) -> Vec<u8> {
    identity::serial(config.cluster, config.volume).into_bytes()
}

fn unit_serial_number(out: &mut Writer, unit: &LogicalUnit, _: &TargetPort) {
    out.bytes(&serial_of(&unit.config));
}

/// PIV and association of a designator.
#[derive(Clone, Copy)]
enum Association {
    LogicalUnit,
    TargetPort,
    TargetDevice,
}

impl Association {
    /// Byte 1 of the descriptor but for the designator type; port and device designators name the protocol (PIV).
    fn bits(self) -> u8 {
        match self {
            Self::LogicalUnit => 0x00,
            Self::TargetPort => 0x90,
            Self::TargetDevice => 0xa0,
        }
    }
}

const PROTOCOL_ISCSI: u8 = 0x50;
const BINARY: u8 = 1;
const ASCII: u8 = 2;
const UTF8: u8 = 3;

fn designator(out: &mut Writer, code_set: u8, association: Association, kind: u8, value: &[u8]) {
    let protocol = match association {
        Association::LogicalUnit => 0,
        Association::TargetPort | Association::TargetDevice => PROTOCOL_ISCSI,
    };
    out.u8(protocol | code_set).u8(association.bits() | kind).u8(0);
    out.u8(u8::try_from(value.len()).unwrap_or(u8::MAX)).bytes(value);
}

/// An iSCSI name as a SCSI name string: ends with a zero byte, padded to a multiple of 4 (SPC-4 §7.8.6.11).
fn name_string(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize((bytes.len() / 4 + 1) * 4, 0);
    bytes
}

fn device_identification(out: &mut Writer, unit: &LogicalUnit, port: &TargetPort) {
    let config = &unit.config;
    let naa = identity::naa(config.cluster, config.volume);
    designator(out, BINARY, Association::LogicalUnit, 3, &naa);
    let mut t10 = VENDOR.to_vec();
    t10.extend(serial_of(config));
    designator(out, ASCII, Association::LogicalUnit, 1, &t10);
    let port_number = |number: u16| {
        let [high, low] = number.to_be_bytes();
        [0, 0, high, low]
    };
    designator(out, BINARY, Association::TargetPort, 4, &port_number(RELATIVE_PORT));
    designator(out, BINARY, Association::TargetPort, 5, &port_number(PORT_GROUP));
    designator(out, UTF8, Association::TargetPort, 8, &name_string(&port.port_name()));
    designator(out, UTF8, Association::TargetDevice, 8, &name_string(&port.iqn));
}

fn extended_inquiry(out: &mut Writer, unit: &LogicalUnit, _: &TargetPort) {
    out.u8(0); // no protection information
    out.u8(0x01); // SIMPSUP
    out.u8(u8::from(unit.config.write_back)); // V_SUP
    out.pad_to(60);
}

/// Third-party Copy (SPC-4 §7.8.17): what RECEIVE COPY RESULTS, OPERATING PARAMETERS tells, and the commands. Without ROD
/// token limits, so that nobody offers tokens (Windows' ODX).
fn third_party_copy(out: &mut Writer, _: &LogicalUnit, _: &TargetPort) {
    let count = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
    let mut commands = Writer::with_capacity(8);
    for code in [0x83, 0x84] {
        let actions: Vec<u8> = TABLE
            .iter()
            .filter(|entry| entry.code == code)
            .filter_map(|entry| u8::try_from(entry.service_action?).ok())
            .collect();
        commands.u8(code).u8(count(actions.len())).bytes(&actions);
    }
    let mut payload = Writer::with_capacity(32);
    payload.u8(count(commands.len())).bytes(commands.as_slice());
    copy_descriptor(out, SUPPORTED_COMMANDS, payload);
    let mut payload = Writer::with_capacity(28);
    payload.u32_be(0).u16_be(MAX_CSCDS).u16_be(MAX_SEGMENTS).u32_be(u32::from(MAX_DESCRIPTOR_BYTES));
    payload.pad_to(28); // no inline data
    copy_descriptor(out, PARAMETER_DATA, payload);
    let mut payload = Writer::with_capacity(4);
    payload.u8(count(DESCRIPTORS.len())).bytes(&DESCRIPTORS);
    copy_descriptor(out, SUPPORTED_DESCRIPTORS, payload);
    let mut payload = Writer::with_capacity(4);
    payload.u16_be(0); // CSCDs are named by descriptors alone
    copy_descriptor(out, SUPPORTED_CSCD_IDS, payload);
    let mut payload = Writer::with_capacity(32);
    payload.u32_be(u32::from(MAX_COPIES)).u32_be(u32::from(MAX_COPIES)).u32_be(MAX_SEGMENT_BYTES);
    payload.u8(SEGMENT_GRANULARITY).pad_to(32);
    copy_descriptor(out, GENERAL_COPY_OPERATIONS, payload);
}

const SUPPORTED_COMMANDS: u16 = 0x0001;
const PARAMETER_DATA: u16 = 0x0004;
const SUPPORTED_DESCRIPTORS: u16 = 0x0008;
const SUPPORTED_CSCD_IDS: u16 = 0x000c;
const GENERAL_COPY_OPERATIONS: u16 = 0x8001;

/// A third-party copy descriptor, whose length is a multiple of four.
fn copy_descriptor(out: &mut Writer, kind: u16, mut payload: Writer) {
    payload.pad_to(payload.len().next_multiple_of(4));
    out.u16_be(kind).u16_be(len16(payload.as_slice())).bytes(payload.as_slice());
}

fn block_limits(out: &mut Writer, unit: &LogicalUnit, _: &TargetPort) {
    let config = &unit.config;
    let wide = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let when_thin = |value: u32| if config.thin { value } else { 0 };
    out.u8(0x01); // WSNZ
    out.u8(u8::try_from(MAX_COMPARE_BLOCKS).unwrap_or(u8::MAX));
    out.u16_be(if config.physical_4k { 8 } else { 1 });
    out.u32_be(wide(MAX_TRANSFER_BLOCKS)).u32_be(wide(OPTIMAL_TRANSFER_BLOCKS)).u32_be(0);
    out.u32_be(when_thin(wide(MAX_UNMAP_BLOCKS)));
    out.u32_be(when_thin(u32::try_from(MAX_UNMAP_DESCRIPTORS).unwrap_or(u32::MAX)));
    out.u32_be(when_thin(UNMAP_GRANULARITY_BLOCKS));
    out.u32_be(when_thin(0x8000_0000)); // UGAVALID, alignment 0
    out.u64_be(MAX_WRITE_SAME_BLOCKS);
    out.pad_to(60);
}

/// The medium below may be anything: no rotation rate, no form factor.
fn block_device_characteristics(out: &mut Writer, _: &LogicalUnit, _: &TargetPort) {
    out.pad_to(60);
}

fn logical_block_provisioning(out: &mut Writer, unit: &LogicalUnit, _: &TargetPort) {
    out.u8(0);
    // LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioned.
    out.bytes(if unit.config.thin { &[0xe4, 0x02] } else { &[0, 0] });
    out.u8(0);
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    fn page(bench: &mut Bench, code: u8) -> alloc::vec::Vec<u8> {
        bench.data_in(&[0x12, 1, code, 0xff, 0xff, 0])
    }

    #[test]
    fn listed_pages_exist_and_tell_their_length() {
        let mut bench = Bench::ready();
        let list = page(&mut bench, 0);
        assert_eq!(list, [0, 0, 0, 8, 0, 0x80, 0x83, 0x86, 0x8f, 0xb0, 0xb1, 0xb2]);
        for &code in &list[4..] {
            let data = page(&mut bench, code);
            assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])) + 4, data.len(), "{code:x}");
            assert_eq!(data[1], code);
        }
    }

    #[test]
    fn serial_and_identification_are_frozen() {
        let mut bench = Bench::ready();
        assert_eq!(&page(&mut bench, 0x80)[4..], b"0000000000000001000000000000000a");
        let data = page(&mut bench, 0x83);
        assert_eq!(data[4..8], [0x01, 0x03, 0, 8]);
        assert_eq!(data[8] >> 4, 3, "NAA locally assigned");
        assert_eq!(data[16..20], [0x02, 0x01, 0, 40]);
        assert_eq!(&data[20..60], b"FUTAGO  0000000000000001000000000000000a");
        assert_eq!(data[60..68], [0x51, 0x94, 0, 4, 0, 0, 0, 1]);
        assert_eq!(data[68..76], [0x51, 0x95, 0, 4, 0, 0, 0, 1]);
        assert_eq!(data[76..80], [0x53, 0x98, 0, 28]);
        assert_eq!(&data[80..108], b"iqn.2026-01.test:t,t,0x0001\0");
        assert_eq!(data[108..112], [0x53, 0xa8, 0, 20]);
        assert_eq!(&data[112..], b"iqn.2026-01.test:t\0\0");
    }

    #[test]
    fn third_party_copy_tells_commands_limits_and_descriptors() {
        let mut bench = Bench::ready();
        let data = page(&mut bench, 0x8f);
        let (commands, rest) = data[4..].split_at(16);
        assert_eq!(commands, [0, 1, 0, 12, 8, 0x83, 1, 0, 0x84, 3, 0, 3, 4, 0, 0, 0]);
        let (parameters, rest) = rest.split_at(32);
        assert_eq!(parameters[..16], [0, 4, 0, 28, 0, 0, 0, 0, 0, 16, 0, 64, 0, 0, 0x09, 0]);
        assert_eq!(parameters[16..], [0; 16]);
        let (descriptors, rest) = rest.split_at(16);
        assert_eq!(descriptors, [0, 8, 0, 4, 3, 0x02, 0x0a, 0xe4, 0, 0x0c, 0, 4, 0, 0, 0, 0]);
        assert_eq!(rest[..20], [0x80, 1, 0, 32, 0, 0, 0, 32, 0, 0, 0, 32, 0x01, 0xff, 0xfe, 0, 9, 0, 0, 0]);
        assert_eq!(rest[20..], [0; 16]);
    }

    #[test]
    fn block_limits_of_a_thin_unit() {
        let mut bench = Bench::ready();
        let data = page(&mut bench, 0xb0);
        assert_eq!(data.len(), 64);
        assert_eq!(data[4..8], [1, 128, 0, 8]);
        assert_eq!(data[8..12], [0, 2, 0, 0], "64 MiB");
        assert_eq!(data[20..36], [0, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0x80, 0, 0, 0]);
        assert_eq!(data[36..44], [0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(page(&mut bench, 0xb2), [0, 0xb2, 0, 4, 0, 0xe4, 2, 0]);
    }

    #[test]
    fn a_thick_unit_promises_no_unmap() {
        let mut bench = Bench::ready_with(|config| config.thin = false);
        assert_eq!(page(&mut bench, 0xb0)[20..36], [0; 16]);
        assert_eq!(page(&mut bench, 0xb2), [0, 0xb2, 0, 4, 0, 0, 0, 0]);
    }
}
