//! SNACK Request (RFC 7143 §11.16). Decoded to be refused: error recovery level 0 retransmits nothing.

use super::field::{Bit, Bits, U32, U64, pdu};

pdu! {
    /// A request for retransmission or a data acknowledgement.
    Snack = 0x10 {
        /// Always set.
        last: Bit<1, 0x80>,
        /// 0 data or R2T, 1 status, 2 data acknowledgement, 3 data again with another length.
        kind: Bits<1, 0x0f>,
        /// Logical unit number.
        lun: U64<8>,
        /// Tag of the command.
        initiator_task_tag: U32<16>,
        /// Tag of the Data-In that is acknowledged.
        target_transfer_tag: U32<20>,
        /// Next status sequence number that the initiator expects.
        exp_stat_sn: U32<28>,
        /// First PDU wanted.
        begin_run: U32<40>,
        /// Number of PDUs wanted.
        run_len: U32<44>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_rfc_says() {
        let snack = Snack { last: true, kind: 2, begin_run: 1, run_len: 2, ..Snack::default() };
        let bhs = snack.encode();
        assert_eq!((bhs[0], bhs[1], bhs[43], bhs[47]), (0x10, 0x82, 1, 2));
        assert_eq!(Snack::decode(&bhs), snack);
    }
}
