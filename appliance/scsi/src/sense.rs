//! Sense data (SPC-4 §4.5): what went wrong, as fixed or descriptor format bytes.

/// Sense key (SPC-4 table 48).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense = 0x0,
    /// Not ready.
    NotReady = 0x2,
    /// Medium error.
    MediumError = 0x3,
    /// Hardware error.
    HardwareError = 0x4,
    /// The command is wrong.
    IllegalRequest = 0x5,
    /// Something changed for this nexus.
    UnitAttention = 0x6,
    /// Protected.
    DataProtect = 0x7,
    /// Ended by the device server.
    AbortedCommand = 0xb,
    /// The comparison failed.
    Miscompare = 0xe,
}

/// Additional sense code and qualifier (SPC-4 annex F).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asc(pub u8, pub u8);

impl Asc {
    /// NO ADDITIONAL SENSE INFORMATION.
    pub const NONE: Self = Self(0x00, 0x00);
    /// LOGICAL UNIT NOT READY, ASYMMETRIC ACCESS STATE TRANSITION.
    pub const ACCESS_STATE_TRANSITION: Self = Self(0x04, 0x0a);
    /// WRITE ERROR.
    pub const WRITE_ERROR: Self = Self(0x0c, 0x00);
    /// INVALID FIELD IN COMMAND INFORMATION UNIT.
    pub const INVALID_FIELD_IN_INFORMATION_UNIT: Self = Self(0x0e, 0x03);
    /// UNRECOVERED READ ERROR.
    pub const UNRECOVERED_READ_ERROR: Self = Self(0x11, 0x00);
    /// PARAMETER LIST LENGTH ERROR.
    pub const PARAMETER_LIST_LENGTH: Self = Self(0x1a, 0x00);
    /// MISCOMPARE DURING VERIFY OPERATION.
    pub const MISCOMPARE: Self = Self(0x1d, 0x00);
    /// INVALID COMMAND OPERATION CODE.
    pub const INVALID_OPCODE: Self = Self(0x20, 0x00);
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    pub const LBA_OUT_OF_RANGE: Self = Self(0x21, 0x00);
    /// INVALID FIELD IN CDB.
    pub const INVALID_FIELD_IN_CDB: Self = Self(0x24, 0x00);
    /// LOGICAL UNIT NOT SUPPORTED.
    pub const UNIT_NOT_SUPPORTED: Self = Self(0x25, 0x00);
    /// INVALID FIELD IN PARAMETER LIST.
    pub const INVALID_FIELD_IN_PARAMETERS: Self = Self(0x26, 0x00);
    /// INVALID RELEASE OF PERSISTENT RESERVATION.
    pub const INVALID_RELEASE: Self = Self(0x26, 0x04);
    /// WRITE PROTECTED.
    pub const WRITE_PROTECTED: Self = Self(0x27, 0x00);
    /// SPACE ALLOCATION FAILED WRITE PROTECT.
    pub const SPACE_ALLOCATION_FAILED: Self = Self(0x27, 0x07);
    /// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED.
    pub const POWER_ON_OR_RESET: Self = Self(0x29, 0x00);
    /// BUS DEVICE RESET FUNCTION OCCURRED.
    pub const DEVICE_RESET: Self = Self(0x29, 0x03);
    /// MODE PARAMETERS CHANGED.
    pub const MODE_PARAMETERS_CHANGED: Self = Self(0x2a, 0x01);
    /// RESERVATIONS PREEMPTED.
    pub const RESERVATIONS_PREEMPTED: Self = Self(0x2a, 0x03);
    /// RESERVATIONS RELEASED.
    pub const RESERVATIONS_RELEASED: Self = Self(0x2a, 0x04);
    /// REGISTRATIONS PREEMPTED.
    pub const REGISTRATIONS_PREEMPTED: Self = Self(0x2a, 0x05);
    /// ASYMMETRIC ACCESS STATE CHANGED.
    pub const ACCESS_STATE_CHANGED: Self = Self(0x2a, 0x06);
    /// CAPACITY DATA HAS CHANGED.
    pub const CAPACITY_CHANGED: Self = Self(0x2a, 0x09);
    /// COMMANDS CLEARED BY ANOTHER INITIATOR.
    pub const COMMANDS_CLEARED: Self = Self(0x2f, 0x00);
    /// SAVING PARAMETERS NOT SUPPORTED.
    pub const SAVING_NOT_SUPPORTED: Self = Self(0x39, 0x00);
    /// INQUIRY DATA HAS CHANGED.
    pub const INQUIRY_DATA_CHANGED: Self = Self(0x3f, 0x03);
    /// REPORTED LUNS DATA HAS CHANGED.
    pub const REPORTED_LUNS_CHANGED: Self = Self(0x3f, 0x0e);
    /// INTERNAL TARGET FAILURE.
    pub const INTERNAL_FAILURE: Self = Self(0x44, 0x00);
    /// INSUFFICIENT REGISTRATION RESOURCES.
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: Self = Self(0x55, 0x04);
}

/// Where in the CDB or parameter list the fault is (SPC-4 §4.5.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldPointer {
    /// In the CDB; otherwise in the parameter list.
    pub in_cdb: bool,
    /// Byte where the field begins.
    pub byte: u16,
    /// Its leftmost bit, where the field is less than a byte.
    pub bit: Option<u8>,
}

/// Longest sense data made here, in bytes.
pub const MAX_SENSE_BYTES: usize = 32;

/// Sense data in an abstract form; [`Sense::encode`] makes the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: SenseKey,
    /// Additional sense code and qualifier.
    pub asc: Asc,
    /// INFORMATION field (an LBA or a miscompare offset).
    pub information: Option<u64>,
    /// Which field is wrong.
    pub field: Option<FieldPointer>,
    /// Descriptor format (D_SENSE of the control mode page) instead of fixed format.
    pub descriptor_format: bool,
}

impl Sense {
    /// Key and code, nothing more.
    #[must_use]
    pub const fn new(key: SenseKey, asc: Asc) -> Self {
        Self { key, asc, information: None, field: None, descriptor_format: false }
    }

    /// 5/asc.
    #[must_use]
    pub const fn illegal(asc: Asc) -> Self {
        Self::new(SenseKey::IllegalRequest, asc)
    }

    /// 5/24/00 pointing at a whole CDB byte.
    #[must_use]
    pub const fn invalid_cdb_byte(byte: u16) -> Self {
        Self::illegal(Asc::INVALID_FIELD_IN_CDB).at(FieldPointer { in_cdb: true, byte, bit: None })
    }

    /// 5/24/00 pointing at a CDB field whose leftmost bit is `bit` of `byte`.
    #[must_use]
    pub const fn invalid_cdb_bit(byte: u16, bit: u8) -> Self {
        Self::illegal(Asc::INVALID_FIELD_IN_CDB).at(FieldPointer { in_cdb: true, byte, bit: Some(bit) })
    }

    /// 5/26/00 pointing at a byte of the parameter list.
    #[must_use]
    pub const fn invalid_parameter_byte(byte: u16) -> Self {
        Self::illegal(Asc::INVALID_FIELD_IN_PARAMETERS).at(FieldPointer { in_cdb: false, byte, bit: None })
    }

    /// 5/26/00 pointing at a field of the parameter list whose leftmost bit is `bit` of `byte`.
    #[must_use]
    pub const fn invalid_parameter_bit(byte: u16, bit: u8) -> Self {
        Self::illegal(Asc::INVALID_FIELD_IN_PARAMETERS).at(FieldPointer {
            in_cdb: false,
            byte,
            bit: Some(bit),
        })
    }

    /// 6/asc.
    #[must_use]
    pub const fn unit_attention(asc: Asc) -> Self {
        Self::new(SenseKey::UnitAttention, asc)
    }

    /// With a field pointer.
    #[must_use]
    pub const fn at(mut self, field: FieldPointer) -> Self {
        self.field = Some(field);
        self
    }

    /// With an INFORMATION field.
    #[must_use]
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// The bytes, current error, in the format that the unit's D_SENSE bit chooses.
    #[must_use]
    pub fn encode(&self) -> SenseBytes {
        let mut out = SenseBytes { bytes: [0; MAX_SENSE_BYTES], len: 0 };
        if self.descriptor_format {
            self.encode_descriptor(&mut out)
        } else {
            self.encode_fixed(&mut out)
        }
        out
    }

    /// Sense-key specific bytes 15..18 of SPC-4 §4.5.2.4.2: SKSV, C/D, BPV, bit pointer, field pointer.
    fn key_specific(&self) -> [u8; 3] {
        let Some(field) = self.field else { return [0; 3] };
        let flags = 0x80 | if field.in_cdb { 0x40 } else { 0 } | field.bit.map_or(0, |bit| 0x08 | (bit & 7));
        let [high, low] = field.byte.to_be_bytes();
        [flags, high, low]
    }

    /// SPC-4 table 53, 18 bytes. An INFORMATION that does not fit into 32 bits is left out (VALID = 0).
    fn encode_fixed(&self, out: &mut SenseBytes) {
        let information = self.information.and_then(|value| u32::try_from(value).ok());
        out.push(if information.is_some() { 0xf0 } else { 0x70 });
        out.push(0);
        out.push(self.key as u8);
        out.extend(&information.unwrap_or(0).to_be_bytes());
        out.push(10);
        out.extend(&[0; 4]);
        out.extend(&[self.asc.0, self.asc.1, 0]);
        out.extend(&self.key_specific());
    }

    /// SPC-4 §4.5.2.
    fn encode_descriptor(&self, out: &mut SenseBytes) {
        let additional = self.information.map_or(0, |_| 12) + self.field.map_or(0, |_| 8);
        out.extend(&[0x72, self.key as u8, self.asc.0, self.asc.1, 0, 0, 0, additional]);
        if let Some(information) = self.information {
            out.extend(&[0x00, 0x0a, 0x80, 0]);
            out.extend(&information.to_be_bytes());
        }
        if self.field.is_some() {
            out.extend(&[0x02, 0x06, 0, 0]);
            out.extend(&self.key_specific());
            out.push(0);
        }
    }
}

/// Encoded sense data, without allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenseBytes {
    bytes: [u8; MAX_SENSE_BYTES],
    len: usize,
}

impl SenseBytes {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.push(byte));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_format_points_at_the_field() {
        let sense = Sense::invalid_cdb_bit(1, 4);
        assert_eq!(
            sense.encode().as_slice(),
            [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcc, 0, 1]
        );
    }

    #[test]
    fn fixed_format_holds_the_miscompare_offset() {
        let sense = Sense::new(SenseKey::Miscompare, Asc::MISCOMPARE).with_information(0x0102);
        assert_eq!(
            sense.encode().as_slice(),
            [0xf0, 0, 0xe, 0, 0, 1, 2, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0]
        );
        let wide = sense.with_information(1 << 32).encode();
        assert_eq!(wide.as_slice().first(), Some(&0x70), "not VALID where it does not fit");
    }

    #[test]
    fn descriptor_format_holds_64_bits_of_information_and_the_field() {
        let mut sense = Sense::invalid_parameter_byte(0x0203).with_information(1 << 40);
        sense.descriptor_format = true;
        assert_eq!(
            sense.encode().as_slice(),
            [
                0x72, 5, 0x26, 0, 0, 0, 0, 20, // header
                0, 0x0a, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0, // information
                2, 6, 0, 0, 0x80, 2, 3, 0, // field pointer
            ]
        );
    }
}
