//! INQUIRY (SPC-4 §6.6): standard data here, vital product data in [`crate::vpd`].
//!
//! Invariant: the bytes depend on the committed identity and configuration alone, never on the node or the build, or
//! VMFS would take the volume for a snapshot after a failover or an upgrade.

use crate::cdb::Cdb;
use crate::command::{Command, Response, Step};
use crate::sense::Sense;
use crate::target::{Target, cut};
use crate::vpd;
use alloc::vec::Vec;
use base::Writer;

/// T10 vendor identification, 8 characters.
pub(crate) const VENDOR: &[u8; 8] = b"FUTAGO  ";
const PRODUCT: &[u8; 16] = b"MIRROR          ";
/// Frozen: initiators see a change as another device.
const REVISION: &[u8; 4] = b"1   ";

/// Direct access block device at a LUN that exists.
pub(crate) const DISK: u8 = 0x00;
/// Qualifier 3, type 1Fh: nothing can be at this LUN.
const NO_UNIT: u8 = 0x7f;

/// INQUIRY. A LUN without a unit gets qualifier 3 and no error.
pub(crate) fn inquiry(target: &mut Target, command: &Command<'_>, cdb: &Cdb) -> Result<Step, Sense> {
    if let Some(bit) = (1..8).rev().find(|&bit| cdb.bit(1, bit)) {
        return Err(Sense::invalid_cdb_bit(1, bit)); // CMDDT and others: obsolete or reserved
    }
    let unit = target.visible(command.nexus, command.lun);
    let (evpd, page) = (cdb.bit(1, 0), cdb.byte(2));
    let bytes = match (unit, evpd, page) {
        (unit, false, 0) => standard(if unit.is_some() { DISK } else { NO_UNIT }),
        (Some(unit), true, page) => vpd::page(page, unit, &target.port).ok_or(Sense::invalid_cdb_byte(2))?,
        (None, true, _) | (_, false, _) => return Err(Sense::invalid_cdb_byte(2)),
    };
    Ok(Step::Done(Response::parameters(cut(bytes, u64::from(cdb.u16(3))))))
}

/// Standard INQUIRY data, 96 bytes.
fn standard(peripheral: u8) -> Vec<u8> {
    let mut out = Writer::with_capacity(96);
    out.u8(peripheral);
    out.u8(0); // RMB: not removable
    out.u8(6); // SPC-4
    out.u8(0x12); // HISUP, response data format 2
    out.u8(91); // additional length
    out.u8(0x10); // TPGS: implicit asymmetric access
    out.u8(0);
    out.u8(0x02); // CMDQUE
    out.bytes(VENDOR).bytes(PRODUCT).bytes(REVISION);
    out.pad_to(58);
    // Version descriptors: SAM-5, iSCSI, SPC-4, SBC-3.
    out.u16_be(0x00a0).u16_be(0x0960).u16_be(0x0460).u16_be(0x04c0);
    out.pad_to(96);
    out.into_vec()
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn standard_data_is_frozen() {
        let mut bench = Bench::ready();
        let data = bench.data_in(&[0x12, 0, 0, 0, 255, 0]);
        assert_eq!(data.len(), 96);
        assert_eq!(data[..8], [0, 0, 6, 0x12, 91, 0x10, 0, 2]);
        assert_eq!(&data[8..36], b"FUTAGO  MIRROR          1   ");
        assert_eq!(data[58..66], [0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]);
    }

    #[test]
    fn allocation_length_cuts() {
        let mut bench = Bench::ready();
        assert_eq!(bench.data_in(&[0x12, 0, 0, 0, 5, 0]), [0, 0, 6, 0x12, 91]);
        assert_eq!(bench.data_in(&[0x12, 0, 0, 0, 0, 0]), []);
    }

    #[test]
    fn no_unit_is_qualifier_3() {
        let mut bench = Bench::ready();
        bench.lun = [0, 9, 0, 0, 0, 0, 0, 0];
        assert_eq!(bench.data_in(&[0x12, 0, 0, 0, 1, 0]), [0x7f]);
        bench.refused(&[0x12, 1, 0x83, 0, 255, 0], 0x5, (0x24, 0), Some((2, None)));
    }

    #[test]
    fn a_page_without_evpd_is_refused_at_byte_2() {
        let mut bench = Bench::ready();
        bench.refused(&[0x12, 0, 1, 0, 255, 0], 0x5, (0x24, 0), Some((2, None)));
        bench.refused(&[0x12, 2, 0, 0, 255, 0], 0x5, (0x24, 0), Some((1, Some(1))));
        bench.refused(&[0x12, 1, 0x77, 0, 255, 0], 0x5, (0x24, 0), Some((2, None)));
    }
}
