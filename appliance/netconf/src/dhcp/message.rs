//! The messages (RFC 2131 §2, RFC 2132), by smoltcp's decoder and encoder.

use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress,
};
use std::net::Ipv4Addr;
use std::time::Duration;

pub(super) const SERVER_PORT: u16 = DHCP_SERVER_PORT;
pub(super) const CLIENT_PORT: u16 = DHCP_CLIENT_PORT;

/// Relays and servers may drop less (RFC 1542 §2.1).
const LEAST_BYTES: usize = 300;
/// Largest answer that is taken: what fits an Ethernet frame.
const MOST_BYTES: u16 = 1472;
/// The option that lists routers (RFC 2132 §3.5).
const ROUTERS: u8 = 3;
/// What a server is to tell: subnet mask, routers.
const WANTED: &[u8] = &[1, ROUTERS];
/// Lease time of an address that is given for good (RFC 2131 §3.3).
const FOR_GOOD: u32 = u32::MAX;

/// What the client sends.
pub(super) struct Request {
    kind: DhcpMessageType,
    own: Ipv4Addr,
    wanted: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

impl Request {
    /// Who has an address?
    pub(super) fn discover() -> Self {
        Self { kind: DhcpMessageType::Discover, own: Ipv4Addr::UNSPECIFIED, wanted: None, server: None }
    }

    /// The one that `server` has offered, please.
    pub(super) fn select(offered: Ipv4Addr, server: Ipv4Addr) -> Self {
        let (wanted, server) = (Some(offered), Some(server));
        Self { kind: DhcpMessageType::Request, own: Ipv4Addr::UNSPECIFIED, wanted, server }
    }

    /// This one for longer. The table of RFC 2131 §4.3.6 wants neither option then.
    pub(super) fn prolong(own: Ipv4Addr) -> Self {
        Self { kind: DhcpMessageType::Request, own, wanted: None, server: None }
    }

    pub(super) fn encode(&self, hardware_address: [u8; 6], transaction: u32, secs: u16) -> Vec<u8> {
        let hardware_address = EthernetAddress(hardware_address);
        let message = DhcpRepr {
            message_type: self.kind,
            transaction_id: transaction,
            secs,
            client_hardware_address: hardware_address,
            client_ip: self.own,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            // A kernel without an address takes no packets for one.
            broadcast: self.own.is_unspecified(),
            requested_ip: self.wanted,
            client_identifier: Some(hardware_address),
            server_identifier: self.server,
            parameter_request_list: Some(WANTED),
            dns_servers: None,
            max_size: Some(MOST_BYTES),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; message.buffer_len().max(LEAST_BYTES)];
        // It fails only where the buffer is too small, and an empty datagram is no message to anyone.
        match message.emit(&mut DhcpPacket::new_unchecked(bytes.as_mut_slice())) {
            Ok(()) => bytes,
            Err(_) => Vec::new(),
        }
    }
}

/// What kind of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Offer,
    Ack,
    Nak,
}

/// What a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) kind: Kind,
    pub(super) server: Ipv4Addr,
    /// `None` if they can't be used.
    pub(super) terms: Option<Terms>,
}

/// An address and for how long it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) address: Ipv4Addr,
    pub(super) prefix_len: u8,
    pub(super) gateway: Option<Ipv4Addr>,
    /// From then on its server is asked for longer.
    pub(super) renew_after: Duration,
    /// From then on any server is.
    pub(super) rebind_after: Duration,
    pub(super) lasts: Duration,
}

impl Answer {
    /// The answer in `datagram`, if it is one to this client and exchange and says which server it is from.
    pub(super) fn decode(datagram: &[u8], hardware_address: [u8; 6], transaction: u32) -> Option<Self> {
        let packet = DhcpPacket::new_checked(datagram).ok()?;
        let message = DhcpRepr::parse(&packet).ok()?;
        let kind = match message.message_type {
            DhcpMessageType::Offer => Kind::Offer,
            DhcpMessageType::Ack => Kind::Ack,
            DhcpMessageType::Nak => Kind::Nak,
            _ => return None,
        };
        let ours = message.client_hardware_address == EthernetAddress(hardware_address)
            && message.transaction_id == transaction;
        let server = message.server_identifier.filter(|_| ours)?;
        // Servers may list several; smoltcp reads the option only where there is just one.
        let routers = packet.options().find(|option| option.kind == ROUTERS);
        let gateway =
            routers.and_then(|option| option.data.first_chunk::<4>()).map(|octets| Ipv4Addr::from(*octets));
        Some(Self { kind, server, terms: terms(&message, gateway) })
    }
}

fn terms(message: &DhcpRepr<'_>, gateway: Option<Ipv4Addr>) -> Option<Terms> {
    let address = message.your_ip;
    let mask = u32::from(message.subnet_mask?);
    let prefix_len = mask.leading_ones();
    let usable = !(address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_loopback());
    if !usable || prefix_len == 0 || mask.count_ones() != prefix_len {
        return None;
    }
    let given = message.lease_duration.filter(|&seconds| seconds > 0)?;
    let lasts = if given == FOR_GOOD { Duration::MAX } else { Duration::from_secs(given.into()) };
    let within = |seconds: Option<u32>, otherwise: Duration, longest: Duration| {
        seconds.map_or(otherwise, |seconds| Duration::from_secs(seconds.into())).min(longest)
    };
    // The defaults of RFC 2131 §4.4.5.
    let rebind_after = within(message.rebind_duration, lasts / 8 * 7, lasts);
    let renew_after = within(message.renew_duration, lasts / 2, rebind_after);
    let prefix_len = u8::try_from(prefix_len).ok()?;
    Some(Terms {
        address,
        prefix_len,
        gateway: gateway.filter(|gateway| !gateway.is_unspecified()),
        renew_after,
        rebind_after,
        lasts,
    })
}
