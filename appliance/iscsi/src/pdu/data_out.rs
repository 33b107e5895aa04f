//! SCSI Data-Out (RFC 7143 §11.7).

use super::field::{Bit, U32, U64, pdu};

pdu! {
    /// Data of a write, unsolicited or asked for by an R2T.
    DataOut = 0x05 {
        /// Last PDU of its sequence.
        last: Bit<1, 0x80>,
        /// Logical unit number, where `target_transfer_tag` is given.
        lun: U64<8>,
        /// Tag of the command.
        initiator_task_tag: U32<16>,
        /// Tag of the R2T that is answered; [`super::NO_TAG`] for unsolicited data.
        target_transfer_tag: U32<20>,
        /// Next status sequence number that the initiator expects.
        exp_stat_sn: U32<28>,
        /// Counts the PDUs of the sequence from 0.
        data_sn: U32<36>,
        /// Where the data stands in the command's data.
        buffer_offset: U32<40>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_rfc_says() {
        let data = DataOut {
            last: true,
            data_sn: 1,
            buffer_offset: 512,
            target_transfer_tag: 6,
            ..DataOut::default()
        };
        let bhs = data.encode();
        assert_eq!((bhs[0], bhs[1], bhs[23], bhs[39], bhs[42]), (5, 0x80, 6, 1, 2));
        assert_eq!(DataOut::decode(&bhs), data);
    }
}
