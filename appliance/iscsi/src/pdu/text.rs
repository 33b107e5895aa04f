//! Text Request and Text Response (RFC 7143 §11.10, §11.11).

use super::field::{Bit, U32, U64, pdu};

pdu! {
    /// Keys of the initiator in the full-feature phase.
    TextRequest = 0x04 {
        /// Outside of the command order.
        immediate: Bit<0, 0x40>,
        /// The initiator's part of the exchange ends.
        last: Bit<1, 0x80>,
        /// The keys go on in the next PDU.
        more: Bit<1, 0x40>,
        /// Copied from the response that this answers.
        lun: U64<8>,
        /// Names the exchange.
        initiator_task_tag: U32<16>,
        /// [`super::NO_TAG`] begins an exchange; else copied from the response that this answers.
        target_transfer_tag: U32<20>,
        /// Command sequence number.
        cmd_sn: U32<24>,
        /// Next status sequence number that the initiator expects.
        exp_stat_sn: U32<28>,
    }
}

pdu! {
    /// The target's answer.
    TextResponse = 0x24 {
        /// The exchange ends.
        last: Bit<1, 0x80>,
        /// The keys go on in the next PDU.
        more: Bit<1, 0x40>,
        /// Any value with a `target_transfer_tag`.
        lun: U64<8>,
        /// Copied from the request.
        initiator_task_tag: U32<16>,
        /// [`super::NO_TAG`] with `last`, else the next request carries it.
        target_transfer_tag: U32<20>,
        /// Status sequence number.
        stat_sn: U32<24>,
        /// Next command sequence number that the target expects.
        exp_cmd_sn: U32<28>,
        /// Last command sequence number that the target accepts.
        max_cmd_sn: U32<32>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_rfc_says() {
        let request = TextRequest { last: true, more: true, cmd_sn: 1, ..TextRequest::default() };
        let bhs = request.encode();
        assert_eq!((bhs[0], bhs[1], bhs[27]), (4, 0xc0, 1));
        assert_eq!(TextRequest::decode(&bhs), request);
        let response =
            TextResponse { last: true, target_transfer_tag: super::super::NO_TAG, ..Default::default() };
        let bhs = response.encode();
        assert_eq!((bhs[0], bhs[1], &bhs[20..24]), (0x24, 0x80, &[0xff; 4][..]));
        assert_eq!(TextResponse::decode(&bhs), response);
    }
}
