//! Gratuitous ARP (RFC 826, RFC 5227 §3): tells every switch and host on the segment where an IPv4 address is now.

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::net::Ipv4Addr;

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// The ARP packets of one announcement: a request and a reply, each with `address` as sender and target. Some hosts
/// update their tables from the one only, some from the other.
fn packets(hardware_address: [u8; 6], address: Ipv4Addr) -> [Vec<u8>; 2] {
    [REQUEST, REPLY].map(|operation| {
        let mut packet = Vec::with_capacity(28);
        packet.extend_from_slice(&1_u16.to_be_bytes()); // Ethernet
        packet.extend_from_slice(&0x0800_u16.to_be_bytes()); // IPv4
        packet.extend_from_slice(&[6, 4]);
        packet.extend_from_slice(&operation.to_be_bytes());
        packet.extend_from_slice(&hardware_address);
        packet.extend_from_slice(&address.octets());
        packet.extend_from_slice(if operation == REQUEST { &[0; 6] } else { &BROADCAST });
        packet.extend_from_slice(&address.octets());
        packet
    })
}

/// Sends announcements through one link.
pub(crate) struct Announcer {
    socket: OwnedFd,
    link: libc::sockaddr_ll,
    packets: [Vec<u8>; 2],
}

impl Announcer {
    pub(crate) fn open(index: u32, hardware_address: [u8; 6], address: Ipv4Addr) -> Result<Self, Errno> {
        // Protocol 0: the socket only sends, nothing is queued for it.
        let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let [a, b, c, d, e, f] = BROADCAST;
        let link = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).map_err(|_| Errno::AFNOSUPPORT)?,
            sll_protocol: ETHERTYPE_ARP.to_be(),
            sll_ifindex: i32::try_from(index).map_err(|_| Errno::NODEV)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [a, b, c, d, e, f, 0, 0],
        };
        Ok(Self { socket, link, packets: packets(hardware_address, address) })
    }

    pub(crate) fn send(&self) -> Result<(), Errno> {
        let length = u32::try_from(size_of::<libc::sockaddr_ll>()).map_err(|_| Errno::INVAL)?;
        for packet in &self.packets {
            // SAFETY: the packet is readable for its length, and `link` is a whole, initialised `sockaddr_ll`, whose
            // size is passed with it; both live until the call returns.
            let sent = unsafe {
                libc::sendto(
                    self.socket.as_raw_fd(),
                    packet.as_ptr().cast(),
                    packet.len(),
                    0,
                    (&raw const self.link).cast(),
                    length,
                )
            };
            if sent < 0 {
                let error = std::io::Error::last_os_error();
                return Err(Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_names_the_address_twice() {
        let [request, reply] = packets([2, 0, 0, 0, 0, 9], Ipv4Addr::new(192, 0, 2, 50));
        let expected =
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 192, 0, 2, 50, 0, 0, 0, 0, 0, 0, 192, 0, 2, 50];
        assert_eq!(request, expected);
        assert_eq!(reply[7], 2);
        assert_eq!(reply[18..24], BROADCAST);
    }
}
