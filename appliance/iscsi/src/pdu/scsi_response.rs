//! SCSI Response (RFC 7143 §11.4).

use super::field::{Bit, Bits, U32, pdu};

pdu! {
    /// End of a SCSI command; sense data, led by its two-byte length, stands in the data segment.
    ScsiResponse = 0x21 {
        /// Always set.
        last: Bit<1, 0x80>,
        /// `residual_bytes` were not moved as the initiator expected too few.
        overflow: Bit<1, 0x04>,
        /// `residual_bytes` were not moved as the command needed fewer.
        underflow: Bit<1, 0x02>,
        /// 0: completed at the target; 1: target failure.
        response: Bits<2, 0xff>,
        /// SCSI status.
        status: Bits<3, 0xff>,
        /// Tag of the command.
        initiator_task_tag: U32<16>,
        /// Status sequence number.
        stat_sn: U32<24>,
        /// Next command sequence number that the target expects.
        exp_cmd_sn: U32<28>,
        /// Last command sequence number that the target accepts.
        max_cmd_sn: U32<32>,
        /// Data-In and R2T PDUs sent for the command.
        exp_data_sn: U32<36>,
        /// See `overflow` and `underflow`.
        residual_bytes: U32<44>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_rfc_says() {
        let response = ScsiResponse {
            last: true,
            underflow: true,
            status: 2,
            exp_data_sn: 4,
            residual_bytes: 9,
            ..ScsiResponse::default()
        };
        let bhs = response.encode();
        assert_eq!((bhs[0], bhs[1], bhs[2], bhs[3], bhs[39], bhs[47]), (0x21, 0x82, 0, 2, 4, 9));
        assert_eq!(ScsiResponse::decode(&bhs), response);
    }
}
