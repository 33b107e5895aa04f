//! The DHCP client and answers of DNS servers: any bytes, and messages that answer what was asked with any content.
//!
//! Input: steps of one byte that says what, one for a length, and so many bytes.
//!
//! Checked: a lease is an address for one machine, with a prefix; the client always has something to do later, and never
//! twice at once; an address by name is of the kind that was asked for.

use netconf::dhcp::Client;
use netconf::dns::Question;
use std::time::Duration;

const OWN: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
/// Where the fields of a BOOTP message begin (RFC 2131 §2).
const YIADDR: usize = 16;
const OPTIONS: usize = 240;

/// Runs the steps.
pub fn target(data: &[u8]) {
    let (mut now, mut rest) = (Duration::ZERO, data);
    let mut client = Client::new(OWN, 1, now);
    let mut asked = Vec::new();
    while let Some((&[step, len], behind)) = rest.split_first_chunk::<2>() {
        let (content, behind) = behind.split_at(usize::from(len).min(behind.len()));
        rest = behind;
        match step % 5 {
            0 => now = now.max(client.deadline().min(now + Duration::from_secs(86_400))),
            1 => now += Duration::from_secs(u64::from(len)),
            2 => client.handle(now, content),
            3 => client.handle(now, &answer(&asked, content)),
            _ => look_up(content),
        }
        if let Some(datagram) = client.poll(now) {
            assert!(datagram.bytes.len() >= 300, "{}", datagram.bytes.len());
            asked = datagram.bytes;
        }
        assert!(client.poll(now).is_none(), "two datagrams at once");
        assert!(client.deadline() > now, "{:?} at {now:?}", client.deadline());
        if let Some(lease) = client.lease(now) {
            assert!((1..=32).contains(&lease.prefix_len), "{lease:?}");
            let unusable = lease.address.is_unspecified() || lease.address.is_multicast();
            assert!(!unusable && !lease.address.is_broadcast() && !lease.address.is_loopback(), "{lease:?}");
        }
    }
}

/// A server's message to whoever has `asked`: an address, and these options.
fn answer(asked: &[u8], content: &[u8]) -> Vec<u8> {
    let mut bytes = asked.get(..OPTIONS).map(<[u8]>::to_vec).unwrap_or_default();
    if let (Some((address, options)), false) = (content.split_first_chunk::<4>(), bytes.is_empty()) {
        bytes[0] = 2;
        bytes[YIADDR..YIADDR + 4].copy_from_slice(address);
        bytes.extend_from_slice(options);
    }
    bytes
}

fn look_up(content: &[u8]) {
    for is_ipv4 in [true, false] {
        let question = Question::new("time.example.org", is_ipv4, 7).unwrap();
        let mut whole = question.encode();
        let _ = question.decode(content);
        if let Some((count, records)) = content.split_first() {
            whole[2] = 0x81;
            whole[7] = *count;
            whole.extend_from_slice(records);
        }
        if let Ok(address) = question.decode(&whole) {
            assert_eq!(address.is_ipv4(), is_ipv4);
        }
    }
}
