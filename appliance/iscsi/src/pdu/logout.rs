//! Logout Request and Logout Response (RFC 7143 §11.14, §11.15).

use super::field::{Bit, Bits, U16, U32, code, pdu};

pdu! {
    /// The initiator ends the session or a connection.
    LogoutRequest = 0x06 {
        /// Outside of the command order.
        immediate: Bit<0, 0x40>,
        /// Always set.
        last: Bit<1, 0x80>,
        /// A [`LogoutReason`].
        reason: Bits<1, 0x7f>,
        /// Names the request.
        initiator_task_tag: U32<16>,
        /// The connection to end.
        cid: U16<20>,
        /// Command sequence number.
        cmd_sn: U32<24>,
        /// Next status sequence number that the initiator expects.
        exp_stat_sn: U32<28>,
    }
}

pdu! {
    /// The answer; the connection is closed after it where it succeeded.
    LogoutResponse = 0x26 {
        /// Always set.
        last: Bit<1, 0x80>,
        /// A [`LogoutResult`].
        response: Bits<2, 0xff>,
        /// Copied from the request.
        initiator_task_tag: U32<16>,
        /// Status sequence number.
        stat_sn: U32<24>,
        /// Next command sequence number that the target expects.
        exp_cmd_sn: U32<28>,
        /// Last command sequence number that the target accepts.
        max_cmd_sn: U32<32>,
        /// Seconds to wait before tasks may be reassigned.
        time2wait: U16<40>,
        /// Seconds that tasks may be reassigned in.
        time2retain: U16<42>,
    }
}

code! {
    /// What is to end.
    LogoutReason {
        /// The session.
        CloseSession = 0,
        /// One connection.
        CloseConnection = 1,
        /// One connection, for recovery; needs error recovery level 2.
        RemoveForRecovery = 2,
    }
}

code! {
    /// How it ended.
    LogoutResult {
        /// Closed.
        Closed = 0,
        /// No such connection.
        CidNotFound = 1,
        /// Recovery is not supported.
        NoRecovery = 2,
        /// Could not be done.
        CleanupFailed = 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_rfc_says() {
        let request =
            LogoutRequest { immediate: true, last: true, reason: 1, cid: 5, ..LogoutRequest::default() };
        let bhs = request.encode();
        assert_eq!((bhs[0], bhs[1], bhs[21]), (0x46, 0x81, 5));
        assert_eq!(LogoutRequest::decode(&bhs), request);
        let response =
            LogoutResponse { last: true, response: 2, time2wait: 3, time2retain: 4, ..Default::default() };
        let bhs = response.encode();
        assert_eq!((bhs[0], bhs[2], bhs[41], bhs[43]), (0x26, 2, 3, 4));
        assert_eq!(LogoutResponse::decode(&bhs), response);
        assert_eq!(LogoutReason::from_code(3), None);
        assert_eq!(LogoutResult::from_code(1), Some(LogoutResult::CidNotFound));
    }
}
