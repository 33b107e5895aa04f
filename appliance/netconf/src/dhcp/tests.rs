//! The client against a server of the test's own, which answers as it is told to.

use super::*;
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};

const OWN: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OFFERED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What a server makes of a request: kind of message, and changes of its text.
fn answer(request: &Datagram, kind: DhcpMessageType, change: impl FnOnce(&mut DhcpRepr<'_>)) -> Vec<u8> {
    let packet = DhcpPacket::new_checked(request.bytes.as_slice()).unwrap();
    let asked = DhcpRepr::parse(&packet).unwrap();
    let renewal = [3600_u32.to_be_bytes(), 6300_u32.to_be_bytes()];
    // Two routers: the first one counts.
    let routers = [192, 0, 2, 254, 192, 0, 2, 253];
    let options = [
        DhcpOption { kind: 58, data: &renewal[0] },
        DhcpOption { kind: 59, data: &renewal[1] },
        DhcpOption { kind: 3, data: &routers },
    ];
    let mut reply = DhcpRepr {
        message_type: kind,
        secs: 0,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: OFFERED,
        subnet_mask: Some(Ipv4Addr::new(255, 255, 255, 0)),
        server_identifier: Some(SERVER),
        lease_duration: Some(7200),
        requested_ip: None,
        parameter_request_list: None,
        max_size: None,
        additional_options: &options,
        ..asked
    };
    change(&mut reply);
    let mut bytes = vec![0; reply.buffer_len()];
    reply.emit(&mut DhcpPacket::new_unchecked(bytes.as_mut_slice())).unwrap();
    bytes
}

fn kind_of(datagram: &Datagram) -> DhcpMessageType {
    let packet = DhcpPacket::new_checked(datagram.bytes.as_slice()).unwrap();
    DhcpRepr::parse(&packet).unwrap().message_type
}

/// A client that has an address since `now`.
fn bound(now: Duration) -> Client {
    let mut client = Client::new(OWN, 7, now);
    let discover = client.poll(now).unwrap();
    client.handle(now, &answer(&discover, DhcpMessageType::Offer, |_| {}));
    let request = client.poll(now).unwrap();
    client.handle(now, &answer(&request, DhcpMessageType::Ack, |_| {}));
    assert!(client.lease(now).is_some());
    client
}

#[test]
fn an_address_is_found_asked_for_and_got() {
    let mut client = Client::new(OWN, 7, at(0));
    let discover = client.poll(at(0)).unwrap();
    assert_eq!((discover.to, kind_of(&discover)), (Ipv4Addr::BROADCAST, DhcpMessageType::Discover));
    assert!(discover.bytes.len() >= 300, "{}", discover.bytes.len());
    assert_eq!(client.poll(at(0)), None);
    client.handle(at(1), &answer(&discover, DhcpMessageType::Offer, |_| {}));
    assert_eq!(client.lease(at(1)), None, "an offer is not a lease");
    let request = client.poll(at(1)).unwrap();
    assert_eq!((request.to, kind_of(&request)), (Ipv4Addr::BROADCAST, DhcpMessageType::Request));
    let packet = DhcpPacket::new_checked(request.bytes.as_slice()).unwrap();
    let asked = DhcpRepr::parse(&packet).unwrap();
    assert!(asked.broadcast && asked.client_ip.is_unspecified());
    assert_eq!((asked.requested_ip, asked.server_identifier), (Some(OFFERED), Some(SERVER)));
    assert_eq!(asked.client_hardware_address, EthernetAddress(OWN));
    client.handle(at(2), &answer(&request, DhcpMessageType::Ack, |_| {}));
    let gateway = Some(Ipv4Addr::new(192, 0, 2, 254));
    let lease = Lease { address: OFFERED, prefix_len: 24, gateway, server: SERVER };
    assert_eq!(client.lease(at(2)), Some(lease));
    assert_eq!(client.deadline(), at(1 + 3600), "counted from the request");
}

#[test]
fn who_does_not_answer_is_asked_more_and_more_seldom() {
    let mut client = Client::new(OWN, 7, at(0));
    let mut waits = Vec::new();
    let mut now = at(0);
    for asked in 1..=8 {
        assert_eq!(kind_of(&client.poll(now).unwrap()), DhcpMessageType::Discover);
        assert_eq!(client.unanswered(), asked);
        waits.push((client.deadline() - now).as_secs_f64());
        now = client.deadline();
    }
    for (wait, middle) in waits.iter().zip([4.0, 8.0, 16.0, 32.0, 64.0, 64.0, 64.0, 64.0]) {
        assert!((wait - middle).abs() <= 1.0, "{waits:?}");
    }
    let other = Client::new(OWN, 8, at(0)).poll(at(0)).unwrap();
    assert_ne!(other, Client::new(OWN, 7, at(0)).poll(at(0)).unwrap(), "by its seed");
}

#[test]
fn an_offer_that_leads_nowhere_is_given_up() {
    let mut client = Client::new(OWN, 7, at(0));
    let discover = client.poll(at(0)).unwrap();
    client.handle(at(0), &answer(&discover, DhcpMessageType::Offer, |_| {}));
    let mut kinds = Vec::new();
    for _ in 0..6 {
        kinds.push(kind_of(&client.poll(client.deadline()).unwrap()));
    }
    let (request, discover) = (DhcpMessageType::Request, DhcpMessageType::Discover);
    assert_eq!(kinds, [request, request, request, request, discover, discover]);
}

#[test]
fn what_is_not_an_answer_changes_nothing() {
    type Spoil = fn(&mut DhcpRepr<'_>);
    let spoils: [(&str, Spoil); 9] = [
        ("another exchange", |reply| reply.transaction_id ^= 1),
        ("another machine", |reply| reply.client_hardware_address = EthernetAddress([2; 6])),
        ("no server", |reply| reply.server_identifier = None),
        ("no mask", |reply| reply.subnet_mask = None),
        ("a mask with holes", |reply| reply.subnet_mask = Some(Ipv4Addr::new(255, 0, 255, 0))),
        ("no lease", |reply| reply.lease_duration = None),
        ("an empty lease", |reply| reply.lease_duration = Some(0)),
        ("no address", |reply| reply.your_ip = Ipv4Addr::UNSPECIFIED),
        ("a group's address", |reply| reply.your_ip = Ipv4Addr::new(224, 0, 0, 1)),
    ];
    for (what, spoil) in spoils {
        let mut client = Client::new(OWN, 7, at(0));
        let discover = client.poll(at(0)).unwrap();
        let before = client.deadline();
        client.handle(at(1), &answer(&discover, DhcpMessageType::Offer, spoil));
        assert_eq!((client.deadline(), client.unanswered()), (before, 1), "{what}");
        client.handle(at(1), &answer(&discover, DhcpMessageType::Offer, |_| {}));
        let request = client.poll(at(1)).unwrap();
        client.handle(at(1), &answer(&request, DhcpMessageType::Ack, spoil));
        assert_eq!(client.lease(at(1)), None, "{what}");
        client.handle(at(1), &answer(&request, DhcpMessageType::Ack, |_| {}));
        assert!(client.lease(at(1)).is_some(), "{what}");
    }
    let mut client = bound(at(0));
    let discover = client.poll(client.deadline()).unwrap();
    let whole = answer(&discover, DhcpMessageType::Nak, |_| {});
    for len in 0..whole.len().min(240) {
        client.handle(at(3600), &whole[..len]);
    }
    assert!(client.lease(at(3600)).is_some());
}

#[test]
fn a_lease_is_prolonged_by_its_server_then_by_any() {
    let mut client = bound(at(0));
    let renew = client.poll(at(3600)).unwrap();
    assert_eq!((renew.to, kind_of(&renew)), (SERVER, DhcpMessageType::Request));
    let packet = DhcpPacket::new_checked(renew.bytes.as_slice()).unwrap();
    let asked = DhcpRepr::parse(&packet).unwrap();
    assert_eq!((asked.client_ip, asked.broadcast), (OFFERED, false));
    assert_eq!((asked.requested_ip, asked.server_identifier), (None, None));
    assert_eq!(client.deadline(), at(3600 + 1350), "half of what is left until any server is asked");
    let mut last = renew;
    while last.to == SERVER {
        last = client.poll(client.deadline()).unwrap();
    }
    assert_eq!(last.to, Ipv4Addr::BROADCAST);
    client.handle(at(6301), &answer(&last, DhcpMessageType::Ack, |_| {}));
    assert_eq!(client.deadline(), at(6300 + 3600));
    assert!(client.lease(at(13000)).is_some());
}

#[test]
fn an_address_is_given_up_when_its_lease_ends_or_its_server_says_so() {
    let mut client = bound(at(0));
    assert!(client.lease(at(7199)).is_some());
    assert_eq!(client.lease(at(7200)), None, "also before the next poll");
    let discover = client.poll(at(7200)).unwrap();
    assert_eq!(kind_of(&discover), DhcpMessageType::Discover);

    let mut client = bound(at(0));
    let stray = answer(&discover, DhcpMessageType::Nak, |_| {});
    client.handle(at(10), &stray);
    assert!(client.lease(at(10)).is_some());
    let renew = client.poll(at(3600)).unwrap();
    client.handle(at(3600), &answer(&renew, DhcpMessageType::Nak, |reply| reply.lease_duration = None));
    assert_eq!(client.lease(at(3600)), None);
    assert_eq!(client.poll(at(3600)), None, "a server that refuses everything is not flooded");
    assert_eq!(kind_of(&client.poll(client.deadline()).unwrap()), DhcpMessageType::Discover);
}

#[test]
fn a_lease_for_good_is_never_prolonged() {
    let mut client = Client::new(OWN, 7, at(0));
    let discover = client.poll(at(0)).unwrap();
    client.handle(at(0), &answer(&discover, DhcpMessageType::Offer, |_| {}));
    let request = client.poll(at(0)).unwrap();
    let ack = answer(&request, DhcpMessageType::Ack, |reply| {
        reply.lease_duration = Some(u32::MAX);
        reply.additional_options = &[];
    });
    client.handle(at(0), &ack);
    let century = at(100 * 365 * 86_400);
    assert!(client.deadline() > century);
    assert!(client.lease(century).is_some_and(|lease| lease.gateway.is_none()));
}
