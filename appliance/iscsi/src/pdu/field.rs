//! Fields of a basic header segment, as types that know their place.

use super::Bhs;

/// A field: reads itself from a header and writes itself into one.
pub trait Field {
    /// What the field holds.
    type Value;
    /// Reads it.
    fn get(bhs: &Bhs) -> Self::Value;
    /// Writes it; the place is zero before.
    fn put(bhs: &mut Bhs, value: Self::Value);
}

/// One bit: byte, mask.
pub struct Bit<const BYTE: usize, const MASK: u8>;
/// A byte under a mask that starts at bit 0.
pub struct Bits<const BYTE: usize, const MASK: u8>;
/// Big-endian number.
pub struct U16<const AT: usize>;
/// Big-endian number.
pub struct U32<const AT: usize>;
/// Big-endian number.
pub struct U64<const AT: usize>;
/// Raw bytes.
pub struct Raw<const AT: usize, const LEN: usize>;

fn array<const LEN: usize>(bhs: &Bhs, at: usize) -> [u8; LEN] {
    bhs.get(at..).and_then(|rest| rest.first_chunk::<LEN>()).copied().unwrap_or([0; LEN])
}

fn set<const LEN: usize>(bhs: &mut Bhs, at: usize, value: [u8; LEN]) {
    if let Some(place) = bhs.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<LEN>()) {
        *place = value;
    }
}

fn or(bhs: &mut Bhs, byte: usize, value: u8) {
    if let Some(place) = bhs.get_mut(byte) {
        *place |= value;
    }
}

impl<const BYTE: usize, const MASK: u8> Field for Bit<BYTE, MASK> {
    type Value = bool;
    fn get(bhs: &Bhs) -> bool {
        bhs.get(BYTE).is_some_and(|byte| byte & MASK != 0)
    }
    fn put(bhs: &mut Bhs, value: bool) {
        or(bhs, BYTE, if value { MASK } else { 0 });
    }
}

impl<const BYTE: usize, const MASK: u8> Field for Bits<BYTE, MASK> {
    type Value = u8;
    fn get(bhs: &Bhs) -> u8 {
        bhs.get(BYTE).map_or(0, |byte| byte & MASK)
    }
    fn put(bhs: &mut Bhs, value: u8) {
        or(bhs, BYTE, value & MASK);
    }
}

impl<const AT: usize> Field for U16<AT> {
    type Value = u16;
    fn get(bhs: &Bhs) -> u16 {
        u16::from_be_bytes(array(bhs, AT))
    }
    fn put(bhs: &mut Bhs, value: u16) {
        set(bhs, AT, value.to_be_bytes());
    }
}

impl<const AT: usize> Field for U32<AT> {
    type Value = u32;
    fn get(bhs: &Bhs) -> u32 {
        u32::from_be_bytes(array(bhs, AT))
    }
    fn put(bhs: &mut Bhs, value: u32) {
        set(bhs, AT, value.to_be_bytes());
    }
}

impl<const AT: usize> Field for U64<AT> {
    type Value = u64;
    fn get(bhs: &Bhs) -> u64 {
        u64::from_be_bytes(array(bhs, AT))
    }
    fn put(bhs: &mut Bhs, value: u64) {
        set(bhs, AT, value.to_be_bytes());
    }
}

impl<const AT: usize, const LEN: usize> Field for Raw<AT, LEN> {
    type Value = [u8; LEN];
    fn get(bhs: &Bhs) -> [u8; LEN] {
        array(bhs, AT)
    }
    fn put(bhs: &mut Bhs, value: [u8; LEN]) {
        set(bhs, AT, value);
    }
}

/// Declares a PDU: its opcode and the table of its fields.
macro_rules! pdu {
    ($(#[$doc:meta])* $name:ident = $opcode:literal { $($(#[$field_doc:meta])* $field:ident: $place:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: <$place as $crate::pdu::field::Field>::Value,)+
        }

        impl $name {
            /// Its opcode.
            pub const OPCODE: u8 = $opcode;

            /// Reads the fields; the opcode is not looked at.
            #[must_use]
            pub fn decode(bhs: &$crate::pdu::Bhs) -> Self {
                Self { $($field: <$place as $crate::pdu::field::Field>::get(bhs),)+ }
            }

            /// The header with no additional header segment and no data segment.
            #[must_use]
            pub fn encode(&self) -> $crate::pdu::Bhs {
                let mut bhs = [0; $crate::pdu::BHS_BYTES];
                bhs[0] = Self::OPCODE;
                $(<$place as $crate::pdu::field::Field>::put(&mut bhs, self.$field);)+
                bhs
            }
        }
    };
}
pub(super) use pdu;

/// Declares the values of a one-byte code.
macro_rules! code {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$value_doc])* $variant = $value,)+
        }

        impl $name {
            /// The code's meaning; `None` for a value that the RFC does not name.
            #[must_use]
            pub fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($value => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The value on the wire.
            #[must_use]
            pub fn code(self) -> u8 {
                match self {
                    $(Self::$variant => $value,)+
                }
            }
        }
    };
}
pub(super) use code;
