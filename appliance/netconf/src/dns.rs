//! A host's address by its name, from a recursive DNS server (RFC 1035). Pure: one question out, one answer in; by
//! smoltcp's decoder.
//!
//! Invariant: an answer counts only if it is one to this question.

use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData, DnsRepr,
};
use std::net::{IpAddr, Ipv6Addr};

/// Where servers listen.
pub const SERVER_PORT: u16 = 53;
/// Largest answer over UDP without EDNS (RFC 1035 §2.3.4).
pub const ANSWER_BYTES: usize = 512;
/// Longest label, bytes.
const LABEL_BYTES: usize = 63;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    id: u16,
    /// As it stands in messages: labels, each after its length, and an empty one.
    name: Vec<u8>,
    is_ipv4: bool,
}

/// Why a datagram has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// It is no answer to the question, or damaged.
    #[error("no answer to this question")]
    Stray,
    /// The server knows no such name.
    #[error("the DNS server knows no such name")]
    NoSuchName,
    /// The server does not answer.
    #[error("the DNS server does not know the address")]
    Refused,
}

impl Question {
    /// Asks for the IPv4 or IPv6 address of `name`; `id` tells its answer from those to others. `None` if it is no name.
    #[must_use]
    pub fn new(name: &str, is_ipv4: bool, id: u16) -> Option<Self> {
        let mut encoded = Vec::new();
        for label in name.split('.') {
            let len = u8::try_from(label.len())
                .ok()
                .filter(|len| (1..=LABEL_BYTES).contains(&usize::from(*len)))?;
            encoded.push(len);
            encoded.extend_from_slice(label.as_bytes());
        }
        encoded.push(0);
        (encoded.len() <= 255).then_some(Self { id, name: encoded, is_ipv4 })
    }

    fn kind(&self) -> DnsQueryType {
        if self.is_ipv4 { DnsQueryType::A } else { DnsQueryType::Aaaa }
    }

    /// The datagram for the server.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let message = DnsRepr {
            transaction_id: self.id,
            opcode: DnsOpcode::Query,
            flags: DnsFlags::RECURSION_DESIRED,
            question: DnsQuestion { name: &self.name, type_: self.kind() },
        };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut DnsPacket::new_unchecked(bytes.as_mut_slice()));
        bytes
    }

    /// The address in the server's answer: the first of several.
    ///
    /// # Errors
    ///
    /// After [`DnsError::Stray`] the answer may still come.
    pub fn decode(&self, datagram: &[u8]) -> Result<IpAddr, DnsError> {
        let packet = DnsPacket::new_checked(datagram).map_err(|_| DnsError::Stray)?;
        let answers = packet.transaction_id() == self.id
            && packet.flags().contains(DnsFlags::RESPONSE)
            && packet.opcode() == DnsOpcode::Query
            && packet.question_count() == 1;
        let (mut rest, asked) = DnsQuestion::parse(packet.payload()).map_err(|_| DnsError::Stray)?;
        // Servers may answer in another case than they were asked in.
        if !answers || asked.type_ != self.kind() || !asked.name.eq_ignore_ascii_case(&self.name) {
            return Err(DnsError::Stray);
        }
        match packet.rcode() {
            DnsRcode::NoError => {}
            DnsRcode::NXDomain => return Err(DnsError::NoSuchName),
            _ => return Err(DnsError::Refused),
        }
        // Other names that this one stands for come first.
        for _ in 0..packet.answer_record_count() {
            let (behind, record) = DnsRecord::parse(rest).map_err(|_| DnsError::Refused)?;
            match record.data {
                DnsRecordData::A(address) if self.is_ipv4 => return Ok(address.into()),
                DnsRecordData::Other(DnsQueryType::Aaaa, octets) if !self.is_ipv4 => {
                    let octets: [u8; 16] = octets.try_into().map_err(|_| DnsError::Refused)?;
                    return Ok(Ipv6Addr::from(octets).into());
                }
                _ => rest = behind,
            }
        }
        Err(DnsError::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(is_ipv4: bool) -> Question {
        Question::new("time.example.org", is_ipv4, 0x1234).unwrap()
    }

    /// An answer with these flags and records, each a type and data, to the question's own name.
    fn answer(question: &Question, flags: u16, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = question.encode();
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        bytes[7] = u8::try_from(records.len()).unwrap();
        for (kind, data) in records {
            bytes.extend([0xc0, 12]);
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 60]);
            bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(*data);
        }
        bytes
    }

    #[test]
    fn a_question_has_the_form_of_the_standard() {
        let expected =
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04time\x07example\x03org\x00\x00\x01\x00\x01";
        assert_eq!(question(true).encode(), expected);
        for name in ["", "a..b", ".", &"x".repeat(64), &"x.".repeat(200)] {
            assert_eq!(Question::new(name, true, 1), None, "{name}");
        }
    }

    #[test]
    fn the_address_is_found_behind_other_names() {
        let (a, aaaa, alias) = (1, 28, 5);
        let six = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let records: [(u16, &[u8]); 3] = [(alias, &[0xc0, 12]), (a, &[192, 0, 2, 1]), (aaaa, &six)];
        let four = question(true);
        assert_eq!(four.decode(&answer(&four, 0x8180, &records)), Ok("192.0.2.1".parse().unwrap()));
        let six = question(false);
        assert_eq!(six.decode(&answer(&six, 0x8180, &records)), Ok("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_answer_is_told_from_what_is_a_bad_one() {
        let asked = question(true);
        let records: [(u16, &[u8]); 1] = [(1, &[192, 0, 2, 1])];
        let good = answer(&asked, 0x8180, &records);
        for (flags, error) in
            [(0x0180, DnsError::Stray), (0x8183, DnsError::NoSuchName), (0x8185, DnsError::Refused)]
        {
            assert_eq!(asked.decode(&answer(&asked, flags, &records)), Err(error), "{flags:x}");
        }
        assert_eq!(asked.decode(&answer(&asked, 0x8180, &[])), Err(DnsError::Refused));
        for other in
            [Question::new("time.example.com", true, 0x1234), Question::new("time.example.org", true, 1)]
        {
            assert_eq!(other.unwrap().decode(&good), Err(DnsError::Stray));
        }
        assert_eq!(question(false).decode(&good), Err(DnsError::Stray));
        for len in 0..good.len() {
            assert!(asked.decode(&good[..len]).is_err(), "{len}");
        }
    }
}
