//! SCSI Command (RFC 7143 §11.3).

use super::field::{Bit, Bits, Raw, U32, U64, pdu};

pdu! {
    /// A SCSI command; immediate data may follow in the data segment.
    ScsiCommand = 0x01 {
        /// Outside of the command order.
        immediate: Bit<0, 0x40>,
        /// No unsolicited Data-Out PDUs follow.
        last: Bit<1, 0x80>,
        /// Data goes to the initiator.
        read: Bit<1, 0x40>,
        /// Data comes from the initiator.
        write: Bit<1, 0x20>,
        /// Task attribute: 0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA.
        attribute: Bits<1, 0x07>,
        /// Logical unit number.
        lun: U64<8>,
        /// Names the task on this session until its end.
        initiator_task_tag: U32<16>,
        /// Bytes that the initiator expects to move (of a bidirectional command: out).
        expected_len_bytes: U32<20>,
        /// Command sequence number.
        cmd_sn: U32<24>,
        /// Next status sequence number that the initiator expects.
        exp_stat_sn: U32<28>,
        /// The first 16 bytes of the command descriptor block; more stand in an additional header segment.
        cdb: Raw<32, 16>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_rfc_says() {
        let command = ScsiCommand {
            immediate: false,
            last: true,
            read: true,
            write: false,
            attribute: 1,
            lun: 1 << 48,
            initiator_task_tag: 0xaabb_ccdd,
            expected_len_bytes: 4096,
            cmd_sn: 2,
            exp_stat_sn: 3,
            cdb: [0x28; 16],
        };
        let bhs = command.encode();
        assert_eq!((bhs[0], bhs[1], bhs[9], bhs[22], bhs[27], bhs[31]), (1, 0xc1, 1, 0x10, 2, 3));
        assert_eq!(bhs[32..], [0x28; 16]);
        assert_eq!(ScsiCommand::decode(&bhs), command);
    }
}
