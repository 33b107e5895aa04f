//! iSCSI TransportIDs (SPC-4 §7.6.4.6): how parameter lists name initiator ports.

use crate::identity::InitiatorPort;
use alloc::vec::Vec;
use base::{MAX_ISCSI_NAME_BYTES, Writer};

/// FORMAT CODE 01b with PROTOCOL IDENTIFIER 5: the initiator port's name.
const PORT: u8 = 0x45;
/// FORMAT CODE 00b: the initiator device's name alone.
const DEVICE: u8 = 0x05;
const HEADER_BYTES: usize = 4;
/// Shortest ADDITIONAL LENGTH that the standard allows.
const MIN_NAME_BYTES: usize = 20;

/// Whom a TransportID names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// One port.
    Port(InitiatorPort),
    /// Every port of the initiator of that name.
    Device(alloc::string::String),
}

/// The TransportID of a port: its name ends with a zero byte, padded to a multiple of 4.
pub(crate) fn encode(port: &InitiatorPort) -> Vec<u8> {
    let name = port.port_name().into_bytes();
    let padded = ((name.len() / 4 + 1) * 4).max(MIN_NAME_BYTES);
    let mut out = Writer::with_capacity(HEADER_BYTES + padded);
    out.u8(PORT).u8(0).u16_be(u16::try_from(padded).unwrap_or(0)).bytes(&name).pad_to(HEADER_BYTES + padded);
    out.into_vec()
}

/// The TransportID that `bytes` begin with, and what follows it; `None` if there is none that is well formed.
pub(crate) fn decode(bytes: &[u8]) -> Option<(Named, &[u8])> {
    let (&[format, _, high, low], rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len < MIN_NAME_BYTES || !len.is_multiple_of(4) {
        return None;
    }
    let (field, rest) = rest.split_at_checked(len)?;
    let end = field.iter().position(|&byte| byte == 0)?;
    if field.iter().skip(end).any(|&byte| byte != 0) {
        return None;
    }
    let text = core::str::from_utf8(field.get(..end)?).ok()?;
    let named = match format {
        PORT => {
            let (name, isid) = text.split_once(",i,0x")?;
            Named::Port(InitiatorPort { name: checked(name)?.into(), isid: hex(isid)? })
        }
        DEVICE => Named::Device(checked(text)?.into()),
        _ => return None,
    };
    Some((named, rest))
}

fn checked(name: &str) -> Option<&str> {
    (!name.is_empty() && name.len() <= MAX_ISCSI_NAME_BYTES && !name.contains(',')).then_some(name)
}

fn hex(digits: &str) -> Option<[u8; 6]> {
    if digits.len() != 12 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let [_, _, isid @ ..] = u64::from_str_radix(digits, 16).ok()?.to_be_bytes();
    Some(isid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> InitiatorPort {
        InitiatorPort { name: "iqn.2026-01.test:a".into(), isid: [0x80, 0xab, 0, 0, 0, 1] }
    }

    #[test]
    fn a_port_is_read_as_it_is_written() {
        let bytes = encode(&port());
        assert_eq!(bytes[..4], [0x45, 0, 0, 36]);
        assert_eq!(&bytes[4..], b"iqn.2026-01.test:a,i,0x80ab00000001\0");
        let list = [&bytes[..], b"rest"].concat();
        assert_eq!(decode(&list), Some((Named::Port(port()), &b"rest"[..])));
    }

    #[test]
    fn a_device_has_no_port() {
        let bytes = [&[0x05, 0, 0, 20][..], b"iqn.2026-01.test:a\0\0"].concat();
        assert_eq!(decode(&bytes), Some((Named::Device("iqn.2026-01.test:a".into()), &[][..])));
    }

    #[test]
    fn malformed_ones_are_refused() {
        let good = encode(&port());
        type Spoil = fn(&mut Vec<u8>);
        let spoils: [Spoil; 9] = [
            |id| id.truncate(3),
            |id| id.truncate(39),
            |id| id[0] = 0x06,
            |id| id[0] = 0xc5,
            |id| id[3] = 35,
            |id| id[3] = 16,
            |id| id[39] = b'0',
            |id| id[22] = b';',
            |id| id[30] = b'g',
        ];
        assert!(decode(&good).is_some());
        for (number, spoil) in spoils.into_iter().enumerate() {
            let mut bytes = good.clone();
            spoil(&mut bytes);
            assert_eq!(decode(&bytes), None, "{number}");
        }
    }
}
