//! Ready To Transfer (RFC 7143 §11.8).

use super::field::{Bit, U32, U64, pdu};

pdu! {
    /// The target asks for a part of a write's data.
    R2t = 0x31 {
        /// Always set.
        last: Bit<1, 0x80>,
        /// Logical unit number.
        lun: U64<8>,
        /// Tag of the command.
        initiator_task_tag: U32<16>,
        /// Names this request; the Data-Out PDUs that answer carry it.
        target_transfer_tag: U32<20>,
        /// Next status sequence number; not advanced by this PDU.
        stat_sn: U32<24>,
        /// Next command sequence number that the target expects.
        exp_cmd_sn: U32<28>,
        /// Last command sequence number that the target accepts.
        max_cmd_sn: U32<32>,
        /// Counts the R2Ts of the command from 0.
        r2t_sn: U32<36>,
        /// Where the wanted data stands in the command's data.
        buffer_offset: U32<40>,
        /// Bytes wanted, at most MaxBurstLength.
        desired_len_bytes: U32<44>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_rfc_says() {
        let r2t = R2t { last: true, r2t_sn: 1, buffer_offset: 2, desired_len_bytes: 3, ..R2t::default() };
        let bhs = r2t.encode();
        assert_eq!((bhs[0], bhs[1], bhs[39], bhs[43], bhs[47]), (0x31, 0x80, 1, 2, 3));
        assert_eq!(R2t::decode(&bhs), r2t);
    }
}
