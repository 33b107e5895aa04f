//! SCSI Data-In (RFC 7143 §11.7).

use super::field::{Bit, Bits, U32, U64, pdu};

pdu! {
    /// Data of a read; the last one may carry the status.
    DataIn = 0x25 {
        /// Last PDU of its sequence.
        last: Bit<1, 0x80>,
        /// As in the SCSI response; only with `has_status`.
        overflow: Bit<1, 0x04>,
        /// As in the SCSI response; only with `has_status`.
        underflow: Bit<1, 0x02>,
        /// `status`, `stat_sn` and the residual hold.
        has_status: Bit<1, 0x01>,
        /// SCSI status.
        status: Bits<3, 0xff>,
        /// Logical unit number, where `target_transfer_tag` is given.
        lun: U64<8>,
        /// Tag of the command.
        initiator_task_tag: U32<16>,
        /// [`super::NO_TAG`]: no acknowledgement is asked for.
        target_transfer_tag: U32<20>,
        /// Status sequence number, with `has_status`.
        stat_sn: U32<24>,
        /// Next command sequence number that the target expects.
        exp_cmd_sn: U32<28>,
        /// Last command sequence number that the target accepts.
        max_cmd_sn: U32<32>,
        /// Counts the Data-In PDUs of the command from 0.
        data_sn: U32<36>,
        /// Where the data stands in the command's data.
        buffer_offset: U32<40>,
        /// As in the SCSI response; only with `has_status`.
        residual_bytes: U32<44>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_rfc_says() {
        let data = DataIn {
            last: true,
            has_status: true,
            underflow: true,
            data_sn: 1,
            buffer_offset: 512,
            residual_bytes: 3,
            ..DataIn::default()
        };
        let bhs = data.encode();
        assert_eq!((bhs[0], bhs[1], bhs[39], bhs[42], bhs[47]), (0x25, 0x83, 1, 2, 3));
        assert_eq!(DataIn::decode(&bhs), data);
    }
}
