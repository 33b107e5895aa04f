//! NOP-Out and NOP-In (RFC 7143 §11.18, §11.19).

use super::field::{Bit, U32, U64, pdu};

pdu! {
    /// A ping of the initiator (`initiator_task_tag` set) or its answer to the target's ping (`target_transfer_tag` set).
    NopOut = 0x00 {
        /// Outside of the command order.
        immediate: Bit<0, 0x40>,
        /// Always set.
        last: Bit<1, 0x80>,
        /// Copied from the ping that this answers.
        lun: U64<8>,
        /// [`super::NO_TAG`]: no answer is wanted.
        initiator_task_tag: U32<16>,
        /// Copied from the ping that this answers, else [`super::NO_TAG`].
        target_transfer_tag: U32<20>,
        /// Command sequence number.
        cmd_sn: U32<24>,
        /// Next status sequence number that the initiator expects.
        exp_stat_sn: U32<28>,
    }
}

pdu! {
    /// A ping of the target (`target_transfer_tag` set), its answer to the initiator's, or a mere window update.
    NopIn = 0x20 {
        /// Always set.
        last: Bit<1, 0x80>,
        /// Any value with a ping; copied into its answer.
        lun: U64<8>,
        /// Tag of the ping that this answers, else [`super::NO_TAG`].
        initiator_task_tag: U32<16>,
        /// [`super::NO_TAG`]: no answer is wanted.
        target_transfer_tag: U32<20>,
        /// Status sequence number; not advanced where `initiator_task_tag` is [`super::NO_TAG`].
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
        let out =
            NopOut { immediate: true, last: true, initiator_task_tag: 0x0102_0304, ..NopOut::default() };
        let bhs = out.encode();
        assert_eq!((bhs[0], bhs[1], &bhs[16..20]), (0x40, 0x80, &[1, 2, 3, 4][..]));
        assert_eq!(NopOut::decode(&bhs), out);
        let reply =
            NopIn { last: true, stat_sn: 7, exp_cmd_sn: 8, max_cmd_sn: 9, lun: 5, ..NopIn::default() };
        let bhs = reply.encode();
        assert_eq!((bhs[0], bhs[15], bhs[27], bhs[31], bhs[35]), (0x20, 5, 7, 8, 9));
        assert_eq!(NopIn::decode(&bhs), reply);
    }
}
