//! Messages of rtnetlink(7), encoded and decoded. Pure.
//!
//! Numbers are in the machine's byte order, except addresses; every attribute is padded to four bytes. Decoders skip
//! attributes and message types that they do not know, as the interface asks for.

use std::net::IpAddr;

const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DEL_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;

const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACK: u16 = 0x4;
const FLAG_DUMP: u16 = 0x300;
const FLAG_REPLACE: u16 = 0x100;
const FLAG_EXCLUSIVE: u16 = 0x200;
const FLAG_CREATE: u16 = 0x400;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_GATEWAY: u16 = 5;

/// The link is up (`IFF_UP`).
pub(crate) const LINK_UP: u32 = 0x1;
/// The link is the loopback (`IFF_LOOPBACK`).
pub(crate) const LINK_LOOPBACK: u32 = 0x8;

/// No duplicate address detection: it would keep a floating IPv6 address from being bound for a second, and its former
/// holder may be alive but fenced.
const ADDRESS_NO_DAD: u8 = 0x2;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_UNICAST: u8 = 1;

/// What is asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// All links.
    Links,
    /// All addresses.
    Addresses,
    /// Set a link up.
    LinkUp { index: u32 },
    /// Add an address; refused with EEXIST if it is there.
    AddAddress { index: u32, address: IpAddr, prefix_len: u8 },
    /// Remove an address; refused with EADDRNOTAVAIL if it is not there.
    RemoveAddress { index: u32, address: IpAddr, prefix_len: u8 },
    /// Set the default route.
    DefaultRoute { gateway: IpAddr },
}

/// One message of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done, or refused with this error number.
    Ack { errno: i32 },
    /// The list is complete.
    End,
    /// One link.
    Link(LinkMessage),
    /// One address.
    Address(AddressMessage),
    /// Something that was not asked for.
    Other,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkMessage {
    pub(crate) index: u32,
    pub(crate) flags: u32,
    pub(crate) name: String,
    /// The hardware address if it is an Ethernet one.
    pub(crate) hardware_address: Option<[u8; 6]>,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressMessage {
    pub(crate) index: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix_len: u8,
}

impl Request {
    /// The message, numbered `sequence`.
    pub(crate) fn encode(&self, sequence: u32) -> Vec<u8> {
        let (kind, flags, body) = match *self {
            Self::Links => (GET_LINK, FLAG_DUMP, link_body(0, 0, 0)),
            Self::Addresses => (GET_ADDRESS, FLAG_DUMP, vec![0; 8]),
            Self::LinkUp { index } => (NEW_LINK, FLAG_ACK, link_body(index, LINK_UP, LINK_UP)),
            Self::AddAddress { index, address, prefix_len } => {
                let flags = FLAG_ACK | FLAG_CREATE | FLAG_EXCLUSIVE;
                (NEW_ADDRESS, flags, address_body(index, address, prefix_len))
            }
            Self::RemoveAddress { index, address, prefix_len } => {
                (DEL_ADDRESS, FLAG_ACK, address_body(index, address, prefix_len))
            }
            Self::DefaultRoute { gateway } => {
                (NEW_ROUTE, FLAG_ACK | FLAG_CREATE | FLAG_REPLACE, route_body(gateway))
            }
        };
        // At most some sixty bytes.
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(flags | FLAG_REQUEST).to_ne_bytes());
        message.extend_from_slice(&sequence.to_ne_bytes());
        message.extend_from_slice(&0_u32.to_ne_bytes());
        message.extend_from_slice(&body);
        message
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// `struct ifinfomsg`
fn link_body(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [index, flags, change] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    body
}

/// `struct ifaddrmsg` and the address. Scope 0 is global; the kernel gives loopback addresses no other meaning.
fn address_body(index: u32, address: IpAddr, prefix_len: u8) -> Vec<u8> {
    let flags = if address.is_ipv6() { ADDRESS_NO_DAD } else { 0 };
    let mut body = vec![family(address), prefix_len, flags, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    put_attribute(&mut body, IFA_LOCAL, &octets(address));
    put_attribute(&mut body, IFA_ADDRESS, &octets(address));
    body
}

/// `struct rtmsg` and the gateway.
fn route_body(gateway: IpAddr) -> Vec<u8> {
    let mut body = vec![family(gateway), 0, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, 0, TYPE_UNICAST, 0, 0, 0, 0];
    put_attribute(&mut body, RTA_GATEWAY, &octets(gateway));
    body
}

fn put_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The messages of one datagram that answer request `sequence`. A cut message ends the list: the kernel sends none.
pub(crate) fn decode(datagram: &[u8], sequence: u32) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut rest = datagram;
    while let Some((kind, number, body, next)) = next_message(rest) {
        if number == sequence {
            answers.push(decode_body(kind, body));
        }
        rest = next;
    }
    answers
}

/// Type, sequence number, body, and what follows.
fn next_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let kind = u16_at(bytes, 4)?;
    let number = u32_at(bytes, 8)?;
    let body = bytes.get(HEADER_BYTES..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, number, body, next))
}

fn decode_body(kind: u16, body: &[u8]) -> Answer {
    let decoded = match kind {
        NLMSG_ERROR => u32_at(body, 0).map(|code| Answer::Ack { errno: code.cast_signed().saturating_neg() }),
        NLMSG_DONE => Some(Answer::End),
        NEW_LINK => decode_link(body).map(Answer::Link),
        NEW_ADDRESS => decode_address(body).map(Answer::Address),
        _ => None,
    };
    decoded.unwrap_or(Answer::Other)
}

fn decode_link(body: &[u8]) -> Option<LinkMessage> {
    let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
    let attributes = body.get(16..)?;
    let name = attribute(attributes, IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    let hardware_address = attribute(attributes, IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok());
    Some(LinkMessage { index, flags, name, hardware_address })
}

fn decode_address(body: &[u8]) -> Option<AddressMessage> {
    let prefix_len = *body.get(1)?;
    let index = u32_at(body, 4)?;
    let attributes = body.get(8..)?;
    // Point-to-point links have the peer in IFA_ADDRESS; IPv6 has no IFA_LOCAL otherwise.
    let bytes = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()?;
    Some(AddressMessage { index, address, prefix_len })
}

/// The value of the first attribute of type `wanted`.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let kind = u16_at(attributes, 2)?;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_layout() {
        let address: IpAddr = "192.0.2.50".parse().unwrap();
        let message = Request::AddAddress { index: 7, address, prefix_len: 24 }.encode(9);
        assert_eq!(message.len(), 16 + 8 + 8 + 8);
        assert_eq!(u32_at(&message, 0), Some(40));
        assert_eq!(u16_at(&message, 4), Some(NEW_ADDRESS));
        assert_eq!(u16_at(&message, 6), Some(0x605));
        assert_eq!(u32_at(&message, 8), Some(9));
        assert_eq!(&message[16..20], [2, 24, 0, 0]);
        assert_eq!(
            decode_address(&message[16..]),
            Some(AddressMessage { index: 7, address, prefix_len: 24 })
        );

        let route = Request::DefaultRoute { gateway: "2001:db8::1".parse().unwrap() }.encode(1);
        assert_eq!(route.len(), 16 + 12 + 20);
        assert_eq!(route[16], 10);
    }

    #[test]
    fn answers_are_told_apart_and_others_skipped() {
        let mut link = link_body(3, LINK_UP, 0);
        put_attribute(&mut link, 99, &[1, 2, 3]);
        put_attribute(&mut link, IFLA_IFNAME, b"eth0\0");
        put_attribute(&mut link, IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]);
        let message = |kind: u16, sequence: u32, body: &[u8]| {
            let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&[0, 0]);
            bytes.extend_from_slice(&sequence.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(body);
            bytes
        };
        let mut datagram = message(NEW_LINK, 5, &link);
        datagram.extend(message(NEW_LINK, 4, &link));
        datagram.extend(message(NLMSG_ERROR, 5, &(-17_i32).to_ne_bytes()));
        datagram.extend(message(NLMSG_DONE, 5, &[0; 4]));
        let answers = decode(&datagram, 5);
        let expected = LinkMessage {
            index: 3,
            flags: LINK_UP,
            name: "eth0".into(),
            hardware_address: Some([2, 0, 0, 0, 0, 1]),
        };
        assert_eq!(answers, [Answer::Link(expected), Answer::Ack { errno: 17 }, Answer::End]);
    }

    #[test]
    fn damaged_datagrams_end_the_list() {
        let message = Request::LinkUp { index: 1 }.encode(1);
        for length in 0..message.len() {
            assert_eq!(decode(&message[..length], 1), []);
        }
        let mut endless = vec![0; 64];
        assert_eq!(decode(&endless, 0), [], "a message of no length must not loop");
        endless[0..4].copy_from_slice(&64_u32.to_ne_bytes());
        endless[4..6].copy_from_slice(&NEW_LINK.to_ne_bytes());
        assert_eq!(decode(&endless, 0), [Answer::Other], "an attribute of no length must not loop");
    }
}
