//! Login Request and Login Response (RFC 7143 §11.12, §11.13).

use super::field::{Bit, Bits, Raw, U16, U32, code, pdu};

pdu! {
    /// One step of a login; keys stand in the data segment.
    LoginRequest = 0x03 {
        /// The initiator is ready to leave the stage.
        transit: Bit<1, 0x80>,
        /// The keys go on in the next PDU.
        more: Bit<1, 0x40>,
        /// Current and next [`Stage`]: bits 3-2 and 1-0.
        stages: Bits<1, 0x0f>,
        /// Highest version that the initiator speaks.
        version_max: Bits<2, 0xff>,
        /// Lowest version that the initiator speaks.
        version_min: Bits<3, 0xff>,
        /// Initiator's part of the session identifier.
        isid: Raw<8, 6>,
        /// Target's part; zero asks for a new session.
        tsih: U16<14>,
        /// The same through the whole login.
        initiator_task_tag: U32<16>,
        /// Connection identifier.
        cid: U16<20>,
        /// Command sequence number that the first command will have.
        cmd_sn: U32<24>,
        /// Next status sequence number that the initiator expects.
        exp_stat_sn: U32<28>,
    }
}

pdu! {
    /// Answer to one step of a login; keys stand in the data segment.
    LoginResponse = 0x23 {
        /// The target leaves the stage.
        transit: Bit<1, 0x80>,
        /// The keys go on in the next PDU.
        more: Bit<1, 0x40>,
        /// Current and next [`Stage`]: bits 3-2 and 1-0.
        stages: Bits<1, 0x0f>,
        /// Highest version that the target speaks.
        version_max: Bits<2, 0xff>,
        /// The version spoken.
        version_active: Bits<3, 0xff>,
        /// Copied from the request.
        isid: Raw<8, 6>,
        /// The session's handle, in the last response of a login.
        tsih: U16<14>,
        /// Copied from the request.
        initiator_task_tag: U32<16>,
        /// Status sequence number.
        stat_sn: U32<24>,
        /// Next command sequence number that the target expects.
        exp_cmd_sn: U32<28>,
        /// Last command sequence number that the target accepts.
        max_cmd_sn: U32<32>,
        /// Class and detail, a [`LoginStatus`].
        status: U16<36>,
    }
}

code! {
    /// Stages of a login.
    Stage {
        /// Authentication.
        Security = 0,
        /// Parameters.
        Operational = 1,
        /// Commands are served.
        FullFeature = 3,
    }
}

/// Class (high byte) and detail of a login response.
///
/// 0x0203 (not found) and 0x0204 (removed) tell ESXi that the device is gone for good: they are answered only for
/// names that are in no configuration, never for a target that is merely not served at this moment (then the
/// connection is dropped instead).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum LoginStatus {
    /// Goes on, or done.
    Success = 0x0000,
    /// The initiator broke the protocol.
    InitiatorError = 0x0200,
    /// Who the initiator is could not be proved.
    AuthenticationFailure = 0x0201,
    /// The initiator may not use the target.
    AuthorizationFailure = 0x0202,
    /// There is no such target.
    NotFound = 0x0203,
    /// None of the versions is spoken here.
    UnsupportedVersion = 0x0205,
    /// The session takes no further connection.
    TooManyConnections = 0x0206,
    /// A key that must be given is not.
    MissingParameter = 0x0207,
    /// The session type is not known.
    SessionTypeNotSupported = 0x0209,
    /// The session to join does not exist.
    SessionDoesNotExist = 0x020a,
    /// The request does not fit where the login stands.
    InvalidDuringLogin = 0x020b,
    /// A limit of the target is reached; try again.
    OutOfResources = 0x0302,
}

impl LoginStatus {
    /// The value on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        self as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_rfc_says() {
        let request = LoginRequest {
            transit: true,
            stages: 0x7,
            isid: [0x80, 1, 2, 3, 4, 5],
            tsih: 6,
            cid: 7,
            cmd_sn: 8,
            ..LoginRequest::default()
        };
        let bhs = request.encode();
        assert_eq!((bhs[0], bhs[1], bhs[8], bhs[13], bhs[15], bhs[21], bhs[27]), (3, 0x87, 0x80, 5, 6, 7, 8));
        assert_eq!(LoginRequest::decode(&bhs), request);
        let response =
            LoginResponse { status: LoginStatus::NotFound.code(), tsih: 1, ..LoginResponse::default() };
        let bhs = response.encode();
        assert_eq!((bhs[0], bhs[15], bhs[36], bhs[37]), (0x23, 1, 2, 3));
        assert_eq!(LoginResponse::decode(&bhs), response);
        assert_eq!(Stage::from_code(2), None);
    }
}
