//! The machine's network adapters as the host wants them: version 3 of the structure of open-vm-tools' `nicinfo.x`, in XDR
//! (RFC 4506). Pure. All words are big-endian; strings and opaque bytes have their length before them and are filled up to a
//! word; what may be absent is a word, 0.
//!
//! | what | words |
//! |---|---|
//! | version, present, number of adapters | 3, 1, n |
//! | adapter: MAC as text, number of addresses, the addresses | |
//! | address: kind (1 IPv4, 2 IPv6), its bytes, prefix length, origin, status | the last two absent |
//! | after an adapter's: DNS, WINS, DHCP, DHCPv6 | absent |
//! | at the end: number of routes, DNS, WINS, DHCP, DHCPv6 | 0, absent |

use std::net::IpAddr;

const VERSION: u32 = 3;
/// What the host takes.
const MOST_NICS: usize = 16;
const MOST_ADDRESSES: usize = 64;

/// One adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nic {
    pub(super) hardware_address: [u8; 6],
    /// With their prefix lengths.
    pub(super) addresses: Vec<(IpAddr, u8)>,
}

#[derive(Default)]
struct Xdr(Vec<u8>);

impl Xdr {
    fn word(&mut self, word: u32) {
        self.0.extend_from_slice(&word.to_be_bytes());
    }

    fn count(&mut self, count: usize) {
        self.word(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn absent(&mut self, fields: usize) {
        (0..fields).for_each(|_| self.word(0));
    }
}

/// The structure of `nics`; adapters without an address are not in it.
pub(super) fn encode(nics: &[Nic]) -> Vec<u8> {
    let mut xdr = Xdr::default();
    let shown: Vec<&Nic> = nics.iter().filter(|nic| !nic.addresses.is_empty()).take(MOST_NICS).collect();
    xdr.word(VERSION);
    xdr.word(1);
    xdr.count(shown.len());
    for nic in shown {
        let mac: Vec<String> = nic.hardware_address.iter().map(|byte| format!("{byte:02x}")).collect();
        xdr.bytes(mac.join(":").as_bytes());
        xdr.count(nic.addresses.len().min(MOST_ADDRESSES));
        for (address, prefix_len) in nic.addresses.iter().take(MOST_ADDRESSES) {
            match address {
                IpAddr::V4(address) => {
                    xdr.word(1);
                    xdr.bytes(&address.octets());
                }
                IpAddr::V6(address) => {
                    xdr.word(2);
                    xdr.bytes(&address.octets());
                }
            }
            xdr.word(u32::from(*prefix_len));
            xdr.absent(2);
        }
        xdr.absent(4);
    }
    xdr.count(0);
    xdr.absent(4);
    xdr.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_adapter_with_both_kinds_of_addresses() {
        let nic = Nic {
            hardware_address: [0, 0x50, 0x56, 0xab, 0xcd, 0xef],
            addresses: vec![("192.0.2.11".parse().unwrap(), 24), ("2001:db8::1".parse().unwrap(), 64)],
        };
        let idle = Nic { hardware_address: [0; 6], addresses: Vec::new() };
        let expected = [
            &[0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 1][..],
            &[0, 0, 0, 17],
            b"00:50:56:ab:cd:ef\0\0\0",
            &[0, 0, 0, 2],
            &[0, 0, 0, 1, 0, 0, 0, 4, 192, 0, 2, 11, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 2, 0, 0, 0, 16, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 64],
            &[0; 8],
            &[0; 16],
            &[0; 20],
        ]
        .concat();
        assert_eq!(encode(&[nic, idle]), expected);
        assert_eq!(encode(&[]), [&[0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0][..], &[0; 20]].concat());
    }
}
