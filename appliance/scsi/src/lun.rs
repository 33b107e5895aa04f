//! LUN fields (SAM-5 §4.7): single level, peripheral device or flat space addressing.

/// Highest LUN that flat space addressing can name.
pub const MAX_LUN: u16 = 0x3fff;

/// LUN number of an 8-byte field, or `None` for another addressing method or a second level.
#[must_use]
pub fn decode(field: [u8; 8]) -> Option<u16> {
    let [high, low, rest @ ..] = field;
    let method = high >> 6;
    let number = u16::from_be_bytes([high & 0x3f, low]);
    match method {
        _ if rest != [0; 6] => None,
        // Peripheral device addressing: bus 0 is this target itself.
        0 if number <= 0xff => Some(number),
        1 => Some(number),
        _ => None,
    }
}

/// The 8-byte field of a LUN number: peripheral device addressing up to 255, flat space above.
#[must_use]
pub fn encode(lun: u16) -> [u8; 8] {
    let method = if lun > 0xff { 0x4000 } else { 0 };
    let [high, low] = ((lun & MAX_LUN) | method).to_be_bytes();
    [high, low, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_field() {
        for lun in [0, 1, 255, 256, 16383] {
            assert_eq!(decode(encode(lun)), Some(lun));
        }
        assert_eq!(encode(256), [0x41, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode([0x40, 5, 0, 0, 0, 0, 0, 0]), Some(5));
    }

    #[test]
    fn other_fields_name_no_unit() {
        for field in [[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0], [0xc1, 1, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(decode(field), None);
        }
    }
}
