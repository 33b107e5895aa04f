//! Everything but commands: login, pings, text, logout, rejects, asynchronous messages.

use super::window::Window;
use super::{CloseReason, Connection, Host, Phase, Scope};
use crate::keys;
use crate::login::{Answer, MAX_TEXT_BYTES, Next, PORTAL_GROUP};
use crate::pdu::{
    AsyncEvent, AsyncMessage, Bhs, LoginRequest, LogoutReason, LogoutRequest, LogoutResponse, LogoutResult,
    NO_TAG, NopIn, NopOut, Reject, RejectReason, TextRequest, TextResponse,
};
use crate::text;
use alloc::vec::Vec;

/// Target transfer tag of the target's pings and of text exchanges that go on: one of each at a time.
const SERVICE_TAG: u32 = 1;

/// A text exchange in the full-feature phase.
#[derive(Debug, Default)]
pub(super) struct TextExchange {
    /// What came so far.
    incoming: Vec<u8>,
    /// The answer, and how much of it was sent.
    outgoing: Vec<u8>,
    sent: usize,
    open: bool,
}

impl<H: Host> Connection<H> {
    /// ExpCmdSN and MaxCmdSN of a PDU that is sent now: opens the window as far as there is room. While commands wait
    /// for memory it stays as it is (esxi-iscsi: narrow the window rather than answer BUSY).
    pub(super) fn advertise(&mut self) -> (u32, u32) {
        self.window.open(self.free_places());
        (self.window.exp_cmd_sn(), self.window.max_cmd_sn())
    }

    fn free_places(&self) -> u32 {
        if self.tasks.waiting.is_empty() {
            u32::from(self.limits.tasks).saturating_sub(self.tasks.ordered())
        } else {
            0
        }
    }

    /// An initiator that may not send a command would not learn that it may again, if nothing else is sent.
    pub(super) fn tell_open_window(&mut self) {
        let idle = self.is_full_feature() && self.closing.is_none() && self.transmit.is_empty();
        if idle && self.window.is_closed() && self.free_places() > 0 {
            self.send_nop_in(NO_TAG);
        }
    }

    pub(super) fn login(&mut self, request: &LoginRequest, segment: &[u8], host: &mut H) {
        let Phase::Login(login) = &mut self.phase else { return };
        if self.window.exp_cmd_sn() != request.cmd_sn || self.window.peek_stat_sn() == 0 {
            // StatSN begins anywhere; 1 tells a login that has begun from none.
            self.window = Window::new(request.cmd_sn, self.window.peek_stat_sn().max(1));
        }
        let Answer { mut response, text, next } = login.handle_request(request, segment, host);
        let identity = login.identity().clone();
        if next == Next::Drop {
            self.drop_now(CloseReason::NotServed);
            return;
        }
        (response.exp_cmd_sn, response.max_cmd_sn) = self.advertise();
        response.stat_sn = self.window.take_stat_sn();
        self.transmit.push(response.encode(), &text);
        match next {
            Next::GoOn | Next::Drop => {}
            Next::Close => self.close(CloseReason::LoginRefused),
            Next::FullFeature(parameters) => {
                self.receiver.header_digest = parameters.header_digest;
                self.receiver.data_digest = parameters.data_digest;
                self.transmit.set_digests(parameters.header_digest, parameters.data_digest);
                self.parameters = parameters;
                self.identity = identity;
                self.phase = Phase::FullFeature;
            }
        }
    }

    pub(super) fn nop_out(&mut self, request: &NopOut, data: &[u8]) {
        if !self.in_order(request.immediate, request.cmd_sn) {
            return;
        }
        if request.target_transfer_tag != NO_TAG {
            self.pinged = None;
        }
        if request.initiator_task_tag == NO_TAG {
            return;
        }
        let (exp_cmd_sn, max_cmd_sn) = self.advertise();
        let reply = NopIn {
            last: true,
            lun: request.lun,
            initiator_task_tag: request.initiator_task_tag,
            target_transfer_tag: NO_TAG,
            stat_sn: self.window.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        let most = usize::try_from(self.parameters.max_send_bytes).unwrap_or(0);
        let echo = data.get(..data.len().min(most)).unwrap_or(&[]);
        self.transmit.push(reply.encode(), echo);
    }

    pub(super) fn send_ping(&mut self) {
        self.send_nop_in(SERVICE_TAG);
    }

    fn send_nop_in(&mut self, target_transfer_tag: u32) {
        let (exp_cmd_sn, max_cmd_sn) = self.advertise();
        let ping = NopIn {
            last: true,
            lun: 0,
            initiator_task_tag: NO_TAG,
            target_transfer_tag,
            stat_sn: self.window.peek_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        self.transmit.push(ping.encode(), &[]);
    }

    pub(super) fn text(&mut self, request: &TextRequest, bhs: &Bhs, segment: &[u8], host: &mut H) {
        if !self.in_order(request.immediate, request.cmd_sn) {
            return;
        }
        if request.target_transfer_tag == NO_TAG {
            self.text = TextExchange { open: true, ..TextExchange::default() };
        } else if !self.text.open || request.target_transfer_tag != SERVICE_TAG {
            self.reject(bhs, RejectReason::InvalidField);
            return;
        }
        if self.text.incoming.len().saturating_add(segment.len()) > MAX_TEXT_BYTES {
            self.text = TextExchange::default();
            self.reject(bhs, RejectReason::Protocol);
            return;
        }
        self.text.incoming.extend_from_slice(segment);
        if !request.more && !self.text.incoming.is_empty() && !self.answer_text(host) {
            self.text = TextExchange::default();
            self.reject(bhs, RejectReason::Protocol);
            return;
        }
        self.send_text(request);
    }

    /// Answers the keys that came; false: they are malformed, or ask for what can't be.
    fn answer_text(&mut self, host: &mut H) -> bool {
        let incoming = core::mem::take(&mut self.text.incoming);
        let Ok(pairs) = text::parse(&incoming) else { return false };
        let mut out = core::mem::take(&mut self.text.outgoing);
        for (key, value) in pairs {
            match key {
                "SendTargets" => {
                    if !self.send_targets(value, &mut out, host) {
                        return false;
                    }
                }
                _ => keys::renegotiate(&mut self.parameters, key, value, &mut out),
            }
        }
        self.text.outgoing = out;
        true
    }

    /// RFC 7143 Appendix C: `All` in a discovery session only; nothing, for the session's own target, in an operational
    /// one only; or a name. The answer is a list, without a target for a value of the other kind of session; false: the
    /// value is none of these.
    fn send_targets(&self, value: &str, out: &mut Vec<u8>, host: &mut H) -> bool {
        let only = match value {
            "All" if self.identity.discovery => None,
            "" if !self.identity.discovery => Some(self.identity.target.to_lowercase()),
            "All" | "" => return true,
            name => Some(name.to_lowercase()),
        };
        if only.as_deref().is_some_and(|name| !text::is_name(name)) {
            return false;
        }
        let portal = self.portal.as_str();
        host.targets(&self.identity.initiator, &mut |name| {
            if only.as_deref().is_none_or(|only| only == name) {
                text::push(out, "TargetName", name);
                text::push(out, "TargetAddress", format_args!("{portal},{PORTAL_GROUP}"));
            }
        });
        true
    }

    /// Sends the next piece of the answer, as much as the initiator takes in one PDU.
    fn send_text(&mut self, request: &TextRequest) {
        let most = usize::try_from(self.parameters.max_send_bytes).unwrap_or(512);
        let left = self.text.outgoing.len().saturating_sub(self.text.sent);
        let now = left.min(most);
        let more = now < left;
        let last = request.last && !request.more && !more;
        let (exp_cmd_sn, max_cmd_sn) = self.advertise();
        let response = TextResponse {
            last,
            more,
            lun: 0,
            initiator_task_tag: request.initiator_task_tag,
            target_transfer_tag: if last { NO_TAG } else { SERVICE_TAG },
            stat_sn: self.window.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
        };
        let end = self.text.sent.saturating_add(now);
        let piece = self.text.outgoing.get(self.text.sent..end).unwrap_or(&[]);
        self.transmit.push(response.encode(), piece);
        self.text.sent = end;
        if last {
            self.text = TextExchange::default();
        }
    }

    pub(super) fn logout(&mut self, request: &LogoutRequest, host: &mut H) {
        if !self.in_order(request.immediate, request.cmd_sn) {
            return;
        }
        let result = match LogoutReason::from_code(request.reason) {
            Some(LogoutReason::CloseSession) => LogoutResult::Closed,
            Some(LogoutReason::CloseConnection) if request.cid == self.identity.cid => LogoutResult::Closed,
            Some(LogoutReason::CloseConnection) => LogoutResult::CidNotFound,
            Some(LogoutReason::RemoveForRecovery) => LogoutResult::NoRecovery,
            None => LogoutResult::CleanupFailed,
        };
        if result == LogoutResult::Closed {
            self.abort_tasks(Scope::All, None, host);
        }
        let (exp_cmd_sn, max_cmd_sn) = self.advertise();
        let response = LogoutResponse {
            last: true,
            response: result.code(),
            initiator_task_tag: request.initiator_task_tag,
            stat_sn: self.window.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            time2wait: 0,
            time2retain: 0,
        };
        self.transmit.push(response.encode(), &[]);
        if result == LogoutResult::Closed {
            self.close(CloseReason::Logout);
        }
    }

    /// Refuses a PDU: its header goes back.
    pub(super) fn reject(&mut self, bhs: &Bhs, reason: RejectReason) {
        let (exp_cmd_sn, max_cmd_sn) = self.advertise();
        let reject = Reject {
            last: true,
            reason: reason.code(),
            initiator_task_tag: NO_TAG,
            stat_sn: self.window.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            data_sn: 0,
        };
        self.transmit.push(reject.encode(), bhs);
    }

    /// Asks the initiator to log out within `seconds` (a controlled move: its next login lands on the other node).
    pub fn request_logout(&mut self, seconds: u16) {
        if !self.is_full_feature() || self.closing.is_some() {
            return;
        }
        let (exp_cmd_sn, max_cmd_sn) = self.advertise();
        let message = AsyncMessage {
            last: true,
            lun: 0,
            initiator_task_tag: NO_TAG,
            stat_sn: self.window.take_stat_sn(),
            exp_cmd_sn,
            max_cmd_sn,
            event: AsyncEvent::RequestLogout.code(),
            vendor_code: 0,
            parameter1: 0,
            parameter2: 0,
            parameter3: seconds,
        };
        self.transmit.push(message.encode(), &[]);
    }
}
