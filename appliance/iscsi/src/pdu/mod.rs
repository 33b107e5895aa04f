//! The 48-byte basic header segments of RFC 7143 §11, a file per PDU.
//!
//! Each PDU is a table of fields with their place in the header; decoding and encoding are generated from it, so
//! both are total: every 48 bytes decode, and reserved bits are ignored on receipt and sent as zero (RFC 7143 §11).
//! Whether the *values* make sense is judged by the connection machine.

mod async_message;
mod data_in;
mod data_out;
mod field;
mod login;
mod logout;
mod nop;
mod r2t;
mod reject;
mod scsi_command;
mod scsi_response;
mod snack;
mod task_management;
mod text;

pub use async_message::{AsyncEvent, AsyncMessage};
pub use data_in::DataIn;
pub use data_out::DataOut;
pub use login::{LoginRequest, LoginResponse, LoginStatus, Stage};
pub use logout::{LogoutReason, LogoutRequest, LogoutResponse, LogoutResult};
pub use nop::{NopIn, NopOut};
pub use r2t::R2t;
pub use reject::{Reject, RejectReason};
pub use scsi_command::ScsiCommand;
pub use scsi_response::ScsiResponse;
pub use snack::Snack;
pub use task_management::{TaskFunction, TaskManagementRequest, TaskManagementResponse, TaskResult};
pub use text::{TextRequest, TextResponse};

/// Length of a basic header segment, bytes.
pub const BHS_BYTES: usize = 48;

/// A basic header segment.
pub type Bhs = [u8; BHS_BYTES];

/// "No tag": reserved value of initiator task tags and target transfer tags.
pub const NO_TAG: u32 = 0xffff_ffff;

/// Length of the additional header segments, bytes (a multiple of 4, at most 1020).
#[must_use]
pub fn ahs_len(bhs: &Bhs) -> usize {
    usize::from(bhs[4]) * 4
}

/// Length of the data segment without its padding, bytes (below 2^24).
#[must_use]
pub fn data_len(bhs: &Bhs) -> usize {
    usize::from(bhs[5]) << 16 | usize::from(bhs[6]) << 8 | usize::from(bhs[7])
}

/// Sets the length of the data segment; `len` below 2^24 (higher bits are cut: callers split by the peer's
/// MaxRecvDataSegmentLength, which is below that).
pub fn set_data_len(bhs: &mut Bhs, len: usize) {
    let bytes = u32::try_from(len).unwrap_or(0).to_be_bytes();
    bhs[5] = bytes[1];
    bhs[6] = bytes[2];
    bhs[7] = bytes[3];
}

/// Bytes of zero padding after a data segment of `len` bytes (RFC 7143 §11.7.1: segments are multiples of 4).
#[must_use]
pub fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// A PDU that an initiator sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Ping, or the answer to one.
    NopOut(NopOut),
    /// A SCSI command.
    ScsiCommand(ScsiCommand),
    /// Task management.
    TaskManagement(TaskManagementRequest),
    /// Login.
    Login(LoginRequest),
    /// Text negotiation.
    Text(TextRequest),
    /// Data of a write.
    DataOut(DataOut),
    /// Logout.
    Logout(LogoutRequest),
    /// Request for retransmission; not served at error recovery level 0.
    Snack(Snack),
}

impl Request {
    /// Decodes by the opcode; `None` for an opcode that no initiator may send.
    #[must_use]
    pub fn decode(bhs: &Bhs) -> Option<Self> {
        Some(match bhs[0] & 0x3f {
            NopOut::OPCODE => Self::NopOut(NopOut::decode(bhs)),
            ScsiCommand::OPCODE => Self::ScsiCommand(ScsiCommand::decode(bhs)),
            TaskManagementRequest::OPCODE => Self::TaskManagement(TaskManagementRequest::decode(bhs)),
            LoginRequest::OPCODE => Self::Login(LoginRequest::decode(bhs)),
            TextRequest::OPCODE => Self::Text(TextRequest::decode(bhs)),
            DataOut::OPCODE => Self::DataOut(DataOut::decode(bhs)),
            LogoutRequest::OPCODE => Self::Logout(LogoutRequest::decode(bhs)),
            Snack::OPCODE => Self::Snack(Snack::decode(bhs)),
            _ => return None,
        })
    }
}

/// A PDU that a target sends. The target itself only encodes; decoding serves initiators, such as tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Ping, or the answer to one.
    NopIn(NopIn),
    /// End of a SCSI command.
    ScsiResponse(ScsiResponse),
    /// End of a task management function.
    TaskManagement(TaskManagementResponse),
    /// Login.
    Login(LoginResponse),
    /// Text negotiation.
    Text(TextResponse),
    /// Data of a read.
    DataIn(DataIn),
    /// Logout.
    Logout(LogoutResponse),
    /// The target is ready for data of a write.
    R2t(R2t),
    /// Something happened.
    Async(AsyncMessage),
    /// A PDU was not accepted.
    Reject(Reject),
}

impl Reply {
    /// Decodes by the opcode; `None` for an opcode that no target may send.
    #[must_use]
    pub fn decode(bhs: &Bhs) -> Option<Self> {
        Some(match bhs[0] & 0x3f {
            NopIn::OPCODE => Self::NopIn(NopIn::decode(bhs)),
            ScsiResponse::OPCODE => Self::ScsiResponse(ScsiResponse::decode(bhs)),
            TaskManagementResponse::OPCODE => Self::TaskManagement(TaskManagementResponse::decode(bhs)),
            LoginResponse::OPCODE => Self::Login(LoginResponse::decode(bhs)),
            TextResponse::OPCODE => Self::Text(TextResponse::decode(bhs)),
            DataIn::OPCODE => Self::DataIn(DataIn::decode(bhs)),
            LogoutResponse::OPCODE => Self::Logout(LogoutResponse::decode(bhs)),
            R2t::OPCODE => Self::R2t(R2t::decode(bhs)),
            AsyncMessage::OPCODE => Self::Async(AsyncMessage::decode(bhs)),
            Reject::OPCODE => Self::Reject(Reject::decode(bhs)),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_24_bit_and_padded_to_words() {
        let mut bhs = [0; BHS_BYTES];
        bhs[4] = 3;
        set_data_len(&mut bhs, 0x01_2345);
        assert_eq!((ahs_len(&bhs), data_len(&bhs)), (12, 0x01_2345));
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
    }

    #[test]
    fn every_opcode_is_either_decoded_or_refused() {
        let mut requests = 0;
        let mut replies = 0;
        for opcode in 0..=0xff {
            let mut bhs = [0xff; BHS_BYTES];
            bhs[0] = opcode;
            requests += usize::from(Request::decode(&bhs).is_some());
            replies += usize::from(Reply::decode(&bhs).is_some());
        }
        // Eight initiator and ten target opcodes, each with four values of the two high bits.
        assert_eq!((requests, replies), (32, 40));
    }
}
