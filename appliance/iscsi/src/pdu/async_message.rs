//! Asynchronous Message (RFC 7143 §11.9).

use super::field::{Bit, Bits, U16, U32, U64, code, pdu};

pdu! {
    /// The target tells of an event.
    AsyncMessage = 0x32 {
        /// Always set.
        last: Bit<1, 0x80>,
        /// Logical unit number, for SCSI events.
        lun: U64<8>,
        /// Always [`super::NO_TAG`].
        initiator_task_tag: U32<16>,
        /// Status sequence number.
        stat_sn: U32<24>,
        /// Next command sequence number that the target expects.
        exp_cmd_sn: U32<28>,
        /// Last command sequence number that the target accepts.
        max_cmd_sn: U32<32>,
        /// An [`AsyncEvent`].
        event: Bits<36, 0xff>,
        /// Vendor's code.
        vendor_code: Bits<37, 0xff>,
        /// With a logout request: none. With a drop: the connection.
        parameter1: U16<38>,
        /// With a drop: seconds to wait before a new login.
        parameter2: U16<40>,
        /// With a logout request: seconds until the target closes by itself. With a drop: seconds that tasks live.
        parameter3: U16<42>,
    }
}

code! {
    /// What happened.
    AsyncEvent {
        /// A SCSI event; sense data stands in the data segment.
        Scsi = 0,
        /// The initiator must log out within `parameter3` seconds.
        RequestLogout = 1,
        /// The target drops the connection.
        DropConnection = 2,
        /// The target drops every connection of the session.
        DropSession = 3,
        /// The target wants to negotiate parameters.
        RequestNegotiation = 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_rfc_says() {
        let message = AsyncMessage { last: true, event: 1, parameter3: 10, ..AsyncMessage::default() };
        let bhs = message.encode();
        assert_eq!((bhs[0], bhs[36], bhs[43]), (0x32, 1, 10));
        assert_eq!(AsyncMessage::decode(&bhs), message);
        assert_eq!(AsyncEvent::from_code(1), Some(AsyncEvent::RequestLogout));
    }
}
