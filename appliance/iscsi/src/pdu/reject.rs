//! Reject (RFC 7143 §11.17).

use super::field::{Bit, Bits, U32, code, pdu};

pdu! {
    /// A PDU was not accepted; its header stands in the data segment.
    Reject = 0x3f {
        /// Always set.
        last: Bit<1, 0x80>,
        /// A [`RejectReason`].
        reason: Bits<2, 0xff>,
        /// Always [`super::NO_TAG`].
        initiator_task_tag: U32<16>,
        /// Status sequence number.
        stat_sn: U32<24>,
        /// Next command sequence number that the target expects.
        exp_cmd_sn: U32<28>,
        /// Last command sequence number that the target accepts.
        max_cmd_sn: U32<32>,
        /// Used with a data digest error only.
        data_sn: U32<36>,
    }
}

code! {
    /// Why.
    RejectReason {
        /// The data digest does not match; the initiator may send again.
        DataDigest = 0x02,
        /// Retransmission is not supported.
        Snack = 0x03,
        /// The initiator broke the protocol.
        Protocol = 0x04,
        /// The command is not supported.
        NotSupported = 0x05,
        /// Too many immediate commands at once.
        TooManyImmediate = 0x06,
        /// The task is in progress.
        TaskInProgress = 0x07,
        /// The data acknowledgement fits nothing.
        InvalidDataAck = 0x08,
        /// A field of the PDU is not valid.
        InvalidField = 0x09,
        /// A limit of the target is reached.
        LongOperation = 0x0a,
        /// Negotiation must begin anew.
        NegotiationReset = 0x0b,
        /// The target waits for a logout.
        WaitingForLogout = 0x0c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_rfc_says() {
        let reject =
            Reject { last: true, reason: RejectReason::Protocol.code(), stat_sn: 1, ..Reject::default() };
        let bhs = reject.encode();
        assert_eq!((bhs[0], bhs[1], bhs[2], bhs[27]), (0x3f, 0x80, 4, 1));
        assert_eq!(Reject::decode(&bhs), reject);
        assert_eq!(RejectReason::from_code(1), None);
    }
}
