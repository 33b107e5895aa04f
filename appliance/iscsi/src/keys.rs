//! The table of operational keys (RFC 7143 §13): what each is, how it is negotiated, and what this target wants.
//!
//! Invariant: after any sequence of offers the [`Parameters`] are within the ranges of the RFC, and each key was
//! answered at most once per login.

use crate::text::{self, number};
use alloc::vec::Vec;

/// What a session works with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// CRC32C after every header.
    pub header_digest: bool,
    /// CRC32C after every data segment.
    pub data_digest: bool,
    /// Data segments that the initiator takes, bytes.
    pub max_send_bytes: u32,
    /// One burst of solicited data or of Data-In, bytes.
    pub max_burst_bytes: u32,
    /// Immediate plus unsolicited data of one command, bytes.
    pub first_burst_bytes: u32,
    /// Unsolicited Data-Out PDUs are not allowed.
    pub initial_r2t: bool,
    /// Immediate data is allowed.
    pub immediate_data: bool,
    /// R2Ts open at once per command.
    pub max_outstanding_r2t: u32,
    /// Seconds.
    pub time2wait: u32,
    /// Seconds.
    pub time2retain: u32,
}

impl Default for Parameters {
    /// The RFC's defaults.
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            max_send_bytes: 8192,
            max_burst_bytes: 262_144,
            first_burst_bytes: 65_536,
            initial_r2t: true,
            immediate_data: true,
            max_outstanding_r2t: 1,
            time2wait: 2,
            time2retain: 20,
        }
    }
}

/// Data segments that this target takes in the full-feature phase, bytes.
pub const MAX_RECEIVE_BYTES: u32 = 262_144;

/// How the answer to a key follows from the offer and from what this target wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The first value of the initiator's list that stands here too.
    List(&'static [&'static str]),
    /// Yes only if both say Yes.
    And(bool),
    /// Yes if either says Yes.
    Or(bool),
    /// The smaller number; range and own wish.
    Minimum(u32, u32, u32),
    /// The larger number; range and own wish.
    Maximum(u32, u32, u32),
    /// The initiator declares a number in a range; no answer.
    Number(u32, u32),
    /// The initiator declares text; no answer.
    Text,
    /// Only this answer, whatever was offered.
    Fixed(&'static str),
    /// Only an initiator may ask, and only in the full-feature phase.
    FullFeatureOnly,
    /// A target's declaration: an initiator must not send it.
    TargetOnly,
}

/// Position in [`KEYS`].
type Index = usize;

/// The table. Keys of the security stage stand in `login`.
const KEYS: [(&str, Rule); 28] = [
    ("HeaderDigest", Rule::List(&["CRC32C", "None"])),
    ("DataDigest", Rule::List(&["CRC32C", "None"])),
    ("MaxRecvDataSegmentLength", Rule::Number(512, 0xff_ffff)),
    ("MaxBurstLength", Rule::Minimum(512, 0xff_ffff, 1_048_576)),
    ("FirstBurstLength", Rule::Minimum(512, 0xff_ffff, 262_144)),
    ("InitialR2T", Rule::Or(false)),
    ("ImmediateData", Rule::And(true)),
    ("MaxOutstandingR2T", Rule::Minimum(1, 65_535, 8)),
    ("DefaultTime2Wait", Rule::Maximum(0, 3600, 0)),
    ("DefaultTime2Retain", Rule::Minimum(0, 3600, 0)),
    ("MaxConnections", Rule::Minimum(1, 65_535, 1)),
    ("ErrorRecoveryLevel", Rule::Minimum(0, 2, 0)),
    ("DataPDUInOrder", Rule::Or(true)),
    ("DataSequenceInOrder", Rule::Or(true)),
    ("TaskReporting", Rule::List(&["RFC3720"])),
    ("iSCSIProtocolLevel", Rule::Minimum(0, 31, 1)),
    ("OFMarker", Rule::Fixed("No")),
    ("IFMarker", Rule::Fixed("No")),
    ("OFMarkInt", Rule::Fixed("Reject")),
    ("IFMarkInt", Rule::Fixed("Reject")),
    ("InitiatorName", Rule::Text),
    ("InitiatorAlias", Rule::Text),
    ("TargetName", Rule::Text),
    ("SessionType", Rule::Text),
    ("SendTargets", Rule::FullFeatureOnly),
    ("TargetAlias", Rule::TargetOnly),
    ("TargetAddress", Rule::TargetOnly),
    ("TargetPortalGroupTag", Rule::TargetOnly),
];

const HEADER_DIGEST: Index = 0;
const DATA_DIGEST: Index = 1;
const MAX_RECV: Index = 2;
const MAX_BURST: Index = 3;
const FIRST_BURST: Index = 4;
const INITIAL_R2T: Index = 5;
const IMMEDIATE_DATA: Index = 6;
const MAX_R2T: Index = 7;
const TIME2WAIT: Index = 8;
const TIME2RETAIN: Index = 9;

/// An offer that ends the login: it breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOffer;

/// One login's negotiation of operational keys.
#[derive(Clone, Debug, Default)]
pub struct Negotiation {
    parameters: Parameters,
    /// Bit per entry of [`KEYS`]: it was offered already.
    seen: u32,
    declared: bool,
}

impl Negotiation {
    /// What has been agreed on so far.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The session's parameters. FirstBurstLength never exceeds MaxBurstLength (RFC 7143 §13.14).
    #[must_use]
    pub fn finish(mut self) -> Parameters {
        self.parameters.first_burst_bytes =
            self.parameters.first_burst_bytes.min(self.parameters.max_burst_bytes);
        self.parameters
    }

    /// Declares what this target takes, once, in the operational stage.
    pub fn declare(&mut self, out: &mut Vec<u8>) {
        if !self.declared {
            self.declared = true;
            text::push(out, "MaxRecvDataSegmentLength", MAX_RECEIVE_BYTES);
        }
    }

    /// Takes one key of the initiator in the operational stage and appends the answer to `out`.
    pub fn offer(&mut self, key: &str, value: &str, out: &mut Vec<u8>) -> Result<(), BadOffer> {
        let Some((index, rule)) = KEYS.iter().enumerate().find(|(_, (name, _))| *name == key) else {
            text::push(out, key, "NotUnderstood");
            return Ok(());
        };
        let bit = 1_u32.checked_shl(u32::try_from(index).unwrap_or(0)).unwrap_or(0);
        // Names are declared, not negotiated: some initiators tell them in both stages.
        if self.seen & bit != 0 && rule.1 != Rule::Text {
            return Err(BadOffer);
        }
        self.seen |= bit;
        self.answer(index, rule.1, key, value, out)
    }

    fn answer(
        &mut self,
        index: Index,
        rule: Rule,
        key: &str,
        value: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), BadOffer> {
        match rule {
            Rule::List(ours) => match value.split(',').find(|offer| ours.contains(offer)) {
                Some(chosen) => {
                    self.set_list(index, chosen);
                    text::push(out, key, chosen);
                }
                None => text::push(out, key, "Reject"),
            },
            Rule::And(wish) => match boolean(value) {
                Some(offer) => self.set_boolean(index, offer && wish, key, out),
                None => text::push(out, key, "Reject"),
            },
            Rule::Or(wish) => match boolean(value) {
                Some(offer) => self.set_boolean(index, offer || wish, key, out),
                None => text::push(out, key, "Reject"),
            },
            Rule::Minimum(low, high, wish) => match in_range(value, low, high) {
                Some(offer) => self.set_number(index, offer.min(wish), key, out),
                None => text::push(out, key, "Reject"),
            },
            Rule::Maximum(low, high, wish) => match in_range(value, low, high) {
                Some(offer) => self.set_number(index, offer.max(wish), key, out),
                None => text::push(out, key, "Reject"),
            },
            Rule::Number(low, high) => {
                let declared = in_range(value, low, high).ok_or(BadOffer)?;
                if index == MAX_RECV {
                    self.parameters.max_send_bytes = declared;
                }
            }
            Rule::Text => {}
            Rule::Fixed(answer) => text::push(out, key, answer),
            Rule::FullFeatureOnly | Rule::TargetOnly => return Err(BadOffer),
        }
        Ok(())
    }

    fn set_list(&mut self, index: Index, chosen: &str) {
        match index {
            HEADER_DIGEST => self.parameters.header_digest = chosen == "CRC32C",
            DATA_DIGEST => self.parameters.data_digest = chosen == "CRC32C",
            _ => {}
        }
    }

    fn set_boolean(&mut self, index: Index, value: bool, key: &str, out: &mut Vec<u8>) {
        match index {
            INITIAL_R2T => self.parameters.initial_r2t = value,
            IMMEDIATE_DATA => self.parameters.immediate_data = value,
            // The data order keys: always in order here.
            _ => {}
        }
        text::push(out, key, if value { "Yes" } else { "No" });
    }

    fn set_number(&mut self, index: Index, value: u32, key: &str, out: &mut Vec<u8>) {
        match index {
            MAX_BURST => self.parameters.max_burst_bytes = value,
            FIRST_BURST => self.parameters.first_burst_bytes = value,
            MAX_R2T => self.parameters.max_outstanding_r2t = value,
            TIME2WAIT => self.parameters.time2wait = value,
            TIME2RETAIN => self.parameters.time2retain = value,
            // Connections, recovery level and protocol level: what is answered is all that is served.
            _ => {}
        }
        text::push(out, key, value);
    }
}

/// Answers a key of a text request in the full-feature phase: only MaxRecvDataSegmentLength may still change.
pub fn renegotiate(parameters: &mut Parameters, key: &str, value: &str, out: &mut Vec<u8>) {
    if key == "MaxRecvDataSegmentLength"
        && let Some(declared) = in_range(value, 512, 0xff_ffff)
    {
        parameters.max_send_bytes = declared;
        text::push(out, key, MAX_RECEIVE_BYTES);
    } else if KEYS.iter().any(|(name, _)| *name == key) {
        text::push(out, key, "Reject");
    } else {
        text::push(out, key, "NotUnderstood");
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn in_range(value: &str, low: u32, high: u32) -> Option<u32> {
    number(value).filter(|number| (low..=high).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn answer(key: &str, value: &str) -> (Result<(), BadOffer>, String, Parameters) {
        let mut negotiation = Negotiation::default();
        let mut out = Vec::new();
        let result = negotiation.offer(key, value, &mut out);
        (result, String::from_utf8(out).unwrap(), negotiation.finish())
    }

    #[test]
    fn every_key_is_answered_as_its_rule_says() {
        for (key, offer, expected) in [
            ("HeaderDigest", "CRC32C,None", "HeaderDigest=CRC32C\0"),
            ("HeaderDigest", "None,CRC32C", "HeaderDigest=None\0"),
            ("DataDigest", "X-other,CRC32C", "DataDigest=CRC32C\0"),
            ("DataDigest", "X-other", "DataDigest=Reject\0"),
            ("MaxRecvDataSegmentLength", "131072", ""),
            ("MaxBurstLength", "262144", "MaxBurstLength=262144\0"),
            ("MaxBurstLength", "16776192", "MaxBurstLength=1048576\0"),
            ("MaxBurstLength", "0x40000", "MaxBurstLength=262144\0"),
            ("MaxBurstLength", "511", "MaxBurstLength=Reject\0"),
            ("FirstBurstLength", "262144", "FirstBurstLength=262144\0"),
            ("InitialR2T", "No", "InitialR2T=No\0"),
            ("InitialR2T", "Yes", "InitialR2T=Yes\0"),
            ("InitialR2T", "maybe", "InitialR2T=Reject\0"),
            ("ImmediateData", "Yes", "ImmediateData=Yes\0"),
            ("ImmediateData", "No", "ImmediateData=No\0"),
            ("MaxOutstandingR2T", "16", "MaxOutstandingR2T=8\0"),
            ("DefaultTime2Wait", "2", "DefaultTime2Wait=2\0"),
            ("DefaultTime2Retain", "20", "DefaultTime2Retain=0\0"),
            ("MaxConnections", "4", "MaxConnections=1\0"),
            ("ErrorRecoveryLevel", "2", "ErrorRecoveryLevel=0\0"),
            ("DataPDUInOrder", "No", "DataPDUInOrder=Yes\0"),
            ("DataSequenceInOrder", "No", "DataSequenceInOrder=Yes\0"),
            ("TaskReporting", "FastAbort,RFC3720", "TaskReporting=RFC3720\0"),
            ("iSCSIProtocolLevel", "2", "iSCSIProtocolLevel=1\0"),
            ("OFMarker", "Yes", "OFMarker=No\0"),
            ("IFMarker", "No", "IFMarker=No\0"),
            ("OFMarkInt", "2048", "OFMarkInt=Reject\0"),
            ("IFMarkInt", "2048", "IFMarkInt=Reject\0"),
            ("InitiatorAlias", "x", ""),
            ("X-com.example.key", "1", "X-com.example.key=NotUnderstood\0"),
        ] {
            let (result, text, _) = answer(key, offer);
            assert_eq!((result, text.as_str()), (Ok(()), expected), "{key}={offer}");
        }
    }

    #[test]
    fn what_was_agreed_is_used() {
        let offers = [
            ("HeaderDigest", "CRC32C"),
            ("DataDigest", "CRC32C"),
            ("MaxRecvDataSegmentLength", "131072"),
            ("MaxBurstLength", "65536"),
            ("FirstBurstLength", "131072"),
            ("InitialR2T", "No"),
            ("ImmediateData", "No"),
            ("MaxOutstandingR2T", "4"),
        ];
        let mut negotiation = Negotiation::default();
        for (key, value) in offers {
            negotiation.offer(key, value, &mut Vec::new()).unwrap();
        }
        let parameters = negotiation.finish();
        assert!(parameters.header_digest && parameters.data_digest && !parameters.initial_r2t);
        assert!(!parameters.immediate_data);
        assert_eq!((parameters.max_send_bytes, parameters.max_outstanding_r2t), (131_072, 4));
        assert_eq!((parameters.max_burst_bytes, parameters.first_burst_bytes), (65_536, 65_536));
    }

    #[test]
    fn a_key_offered_twice_or_by_the_wrong_side_ends_the_login() {
        let mut negotiation = Negotiation::default();
        let mut out = Vec::new();
        assert_eq!(negotiation.offer("InitialR2T", "No", &mut out), Ok(()));
        assert_eq!(negotiation.offer("InitialR2T", "No", &mut out), Err(BadOffer));
        assert_eq!(negotiation.offer("InitiatorName", "iqn.x", &mut out), Ok(()));
        assert_eq!(negotiation.offer("InitiatorName", "iqn.x", &mut out), Ok(()));
        for (key, value) in
            [("TargetPortalGroupTag", "1"), ("SendTargets", "All"), ("MaxRecvDataSegmentLength", "1")]
        {
            assert_eq!(answer(key, value).0, Err(BadOffer), "{key}");
        }
    }

    #[test]
    fn only_the_segment_length_may_change_later() {
        let mut parameters = Parameters::default();
        let mut out = Vec::new();
        renegotiate(&mut parameters, "MaxRecvDataSegmentLength", "65536", &mut out);
        renegotiate(&mut parameters, "MaxBurstLength", "512", &mut out);
        renegotiate(&mut parameters, "X-y", "1", &mut out);
        assert_eq!(out, b"MaxRecvDataSegmentLength=262144\0MaxBurstLength=Reject\0X-y=NotUnderstood\0");
        assert_eq!(parameters.max_send_bytes, 65_536);
    }
}
