//! Headers of iSCSI PDUs: every 48 bytes decode or are refused by their opcode, and what was decoded survives encoding.

use iscsi::pdu::{
    AsyncMessage, BHS_BYTES, Bhs, DataIn, DataOut, LoginRequest, LoginResponse, LogoutRequest,
    LogoutResponse, NopIn, NopOut, R2t, Reject, Reply, Request, ScsiCommand, ScsiResponse, Snack,
    TaskManagementRequest, TaskManagementResponse, TextRequest, TextResponse, ahs_len, data_len, padding,
    set_data_len,
};

macro_rules! round_trip {
    ($bhs:expr, $($pdu:ident)+) => {$(
        let decoded = $pdu::decode($bhs);
        let encoded = decoded.encode();
        assert_eq!($pdu::decode(&encoded), decoded, stringify!($pdu));
        assert_eq!(encoded[0] & 0x3f, $pdu::OPCODE, stringify!($pdu));
        // The lengths belong to the framing, never to a field.
        assert_eq!(encoded[4..8], [0; 4], stringify!($pdu));
    )+};
}

/// Every PDU type over the first 48 bytes; then the whole input as a stream of requests.
pub fn target(data: &[u8]) {
    let mut bhs: Bhs = [0; BHS_BYTES];
    let known = data.len().min(BHS_BYTES);
    bhs[..known].copy_from_slice(&data[..known]);
    round_trip! { &bhs,
        AsyncMessage DataIn DataOut LoginRequest LoginResponse LogoutRequest LogoutResponse NopIn NopOut R2t Reject
        ScsiCommand ScsiResponse Snack TaskManagementRequest TaskManagementResponse TextRequest TextResponse
    }
    if let Some(request) = Request::decode(&bhs) {
        assert_eq!(Request::decode(&bhs).as_ref(), Some(&request));
        assert!(Reply::decode(&bhs).is_none(), "an opcode of both sides");
    }
    let (len, ahs) = (data_len(&bhs), ahs_len(&bhs));
    assert!(len < 1 << 24 && ahs <= 1020 && (len + padding(len)).is_multiple_of(4));
    let mut again = bhs;
    set_data_len(&mut again, len);
    assert_eq!(again, bhs);
    if let Ok(text) = iscsi::text::parse(data) {
        for (key, value) in text {
            let mut out = Vec::new();
            iscsi::text::push(&mut out, key, value);
            assert_eq!(iscsi::text::parse(&out), Ok(vec![(key, value)]));
            let _number = iscsi::text::number(value);
            assert!(!iscsi::text::is_name(value) || value.len() <= iscsi::text::MAX_NAME_BYTES);
        }
    }
}
