//! The login phase (RFC 7143 §6): one machine per connection, from the first request to the full-feature phase.
//!
//! Invariants
//! - The stage never goes back, and the full-feature phase is entered only with a known initiator, an allowed target
//!   and, where the target asks for it, a finished authentication.
//! - At most [`MAX_TEXT_BYTES`] of text are held.
//! - A refusal is answered with its status, and the connection ends after it. Where a target is configured but not
//!   served now, the connection ends *without* an answer: 0x0203 or 0x0204 would tell ESXi that the device is gone.

use crate::chap::{Chap, Credentials, Nonce, NotAuthentic};
use crate::keys::{Negotiation, Parameters};
use crate::pdu::{LoginRequest, LoginResponse, LoginStatus, Stage};
use crate::text;
use alloc::string::String;
use alloc::vec::Vec;

/// Text of one login exchange, over all its PDUs, bytes.
pub const MAX_TEXT_BYTES: usize = 16_384;
/// Text of one login answer: the initiator takes 8192 bytes until it declares more.
const MAX_ANSWER_BYTES: usize = 8192;
/// Requests of one login; CHAP with the three stages takes five.
const MAX_REQUESTS: u32 = 64;
/// The one target portal group, the same on every node.
pub const PORTAL_GROUP: u16 = 1;

/// Who logs in, to what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// iSCSI name of the initiator.
    pub initiator: String,
    /// iSCSI name of the target; empty in a discovery session.
    pub target: String,
    /// Only SendTargets is served.
    pub discovery: bool,
    /// Initiator's part of the session identifier.
    pub isid: [u8; 6],
    /// The session to join; zero for a new one.
    pub tsih: u16,
    /// Connection identifier.
    pub cid: u16,
}

/// May an initiator log in?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Yes.
    Open,
    /// Once it has proved who it is.
    Chap(Credentials),
    /// Yes; if it insists on CHAP, it must prove to be one of these. For discovery: initiators that are set to CHAP (ESXi's
    /// "use CHAP" of an adapter) insist on it there, too.
    OpenOrChap(Vec<Credentials>),
    /// There is no such target in the configuration.
    Unknown,
    /// The initiator may not use the target.
    Forbidden,
    /// The target is configured, but not served at this moment.
    NotServed,
}

/// Whom the login machine asks.
pub trait Gate {
    /// May `initiator` use `target` (`None`: discover)?
    fn access(&mut self, initiator: &str, target: Option<&str>) -> Access;
    /// Random values for one authentication.
    fn nonce(&mut self) -> Nonce;
    /// The login is complete: makes the session, after ending the one that it replaces (RFC 7143 §6.3.5). Answers
    /// its handle, not zero.
    fn open_session(&mut self, identity: &Identity) -> Result<u16, LoginStatus>;
    /// An initiator that says it is `identity` has not proved it; `reason` follows its name.
    fn not_authentic(&mut self, _identity: &Identity, _reason: &'static str) {}
}

/// What comes after an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The initiator's next request.
    GoOn,
    /// The full-feature phase, after the answer was sent.
    FullFeature(Parameters),
    /// The connection ends after the answer was sent.
    Close,
    /// The connection ends with nothing sent.
    Drop,
}

/// An answer; its sequence numbers are the connection's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Header.
    pub response: LoginResponse,
    /// Data segment.
    pub text: Vec<u8>,
    /// What comes after.
    pub next: Next,
}

#[derive(Debug)]
enum Authentication {
    /// No target is known yet.
    Undecided,
    /// Nothing is asked for.
    Free,
    /// Asked for; the initiator has not agreed on CHAP yet.
    Wanted(Credentials),
    /// Not asked for, but the initiator may insist on it.
    Offered(Vec<Credentials>),
    /// In progress or done.
    Chap(Chap),
}

/// A login in progress.
#[derive(Debug)]
pub struct Login {
    stage: Option<Stage>,
    requests: u32,
    initiator_task_tag: u32,
    identity: Identity,
    text: Vec<u8>,
    negotiation: Negotiation,
    authentication: Authentication,
    method_chosen: bool,
    tag_declared: bool,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            stage: None,
            requests: 0,
            initiator_task_tag: 0,
            identity: Identity::default(),
            text: Vec::new(),
            negotiation: Negotiation::default(),
            authentication: Authentication::Undecided,
            method_chosen: false,
            tag_declared: false,
        }
    }
}

/// Why a request ends the login.
enum Refusal {
    Status(LoginStatus),
    /// By [`LoginStatus::AuthenticationFailure`].
    NotAuthentic(&'static str),
    Silent,
}

impl From<LoginStatus> for Refusal {
    fn from(status: LoginStatus) -> Self {
        Self::Status(status)
    }
}

impl From<NotAuthentic> for Refusal {
    fn from(failure: NotAuthentic) -> Self {
        Self::NotAuthentic(failure.reason())
    }
}

impl Login {
    /// Who logs in; complete once the full-feature phase is entered.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Takes one request with its data segment.
    pub fn handle_request(&mut self, request: &LoginRequest, segment: &[u8], gate: &mut impl Gate) -> Answer {
        let mut response = LoginResponse {
            stages: request.stages,
            isid: request.isid,
            tsih: request.tsih,
            initiator_task_tag: request.initiator_task_tag,
            ..LoginResponse::default()
        };
        let mut text = Vec::new();
        let next = match self.step(request, segment, gate, &mut response, &mut text) {
            Ok(next) => next,
            Err(Refusal::Status(status)) => refuse(&mut response, &mut text, status),
            Err(Refusal::NotAuthentic(reason)) => {
                gate.not_authentic(&self.identity, reason);
                refuse(&mut response, &mut text, LoginStatus::AuthenticationFailure)
            }
            Err(Refusal::Silent) => Next::Drop,
        };
        Answer { response, text, next }
    }

    fn step(
        &mut self,
        request: &LoginRequest,
        segment: &[u8],
        gate: &mut impl Gate,
        response: &mut LoginResponse,
        out: &mut Vec<u8>,
    ) -> Result<Next, Refusal> {
        let (stage, transit_to) = self.check_header(request)?;
        if self.text.len().saturating_add(segment.len()) > MAX_TEXT_BYTES {
            return Err(LoginStatus::InitiatorError.into());
        }
        self.text.extend_from_slice(segment);
        if request.more {
            response.stages = request.stages & 0x0c;
            return Ok(Next::GoOn);
        }
        let held = core::mem::take(&mut self.text);
        let pairs = text::parse(&held).map_err(|_| LoginStatus::InitiatorError)?;
        if matches!(self.authentication, Authentication::Undecided) {
            self.identify(&pairs, gate)?;
        }
        if !self.identity.discovery && !self.tag_declared {
            self.tag_declared = true;
            text::push(out, "TargetPortalGroupTag", PORTAL_GROUP);
        }
        match stage {
            Stage::Security => self.security_keys(&pairs, gate, out)?,
            _ => {
                self.operational_keys(&pairs, out)?;
                self.negotiation.declare(out);
            }
        }
        if out.len() > MAX_ANSWER_BYTES {
            return Err(LoginStatus::InitiatorError.into());
        }
        let Some(to) = transit_to.filter(|_| stage != Stage::Security || self.is_authentic()) else {
            response.stages = request.stages & 0x0c;
            return Ok(Next::GoOn);
        };
        self.transit(to, gate, response)
    }

    /// Checks what must hold of every request. Answers the current stage and the one wanted next.
    fn check_header(&mut self, request: &LoginRequest) -> Result<(Stage, Option<Stage>), Refusal> {
        self.requests = self.requests.saturating_add(1);
        if self.requests > MAX_REQUESTS {
            return Err(LoginStatus::InitiatorError.into());
        }
        if request.version_min > 0 {
            return Err(LoginStatus::UnsupportedVersion.into());
        }
        let current = Stage::from_code(request.stages >> 2).filter(|stage| *stage != Stage::FullFeature);
        let current = current.ok_or(LoginStatus::InvalidDuringLogin)?;
        match self.stage {
            None => {
                self.stage = Some(current);
                self.initiator_task_tag = request.initiator_task_tag;
                self.identity.isid = request.isid;
                self.identity.tsih = request.tsih;
                self.identity.cid = request.cid;
            }
            Some(stage) => {
                let same = stage == current
                    && self.initiator_task_tag == request.initiator_task_tag
                    && self.identity.isid == request.isid
                    && self.identity.tsih == request.tsih
                    && self.identity.cid == request.cid;
                if !same {
                    return Err(LoginStatus::InvalidDuringLogin.into());
                }
            }
        }
        if !request.transit {
            return Ok((current, None));
        }
        let next = Stage::from_code(request.stages & 3).filter(|next| next.code() > current.code());
        match next {
            Some(next) if !request.more => Ok((current, Some(next))),
            _ => Err(LoginStatus::InitiatorError.into()),
        }
    }

    /// The first complete text names both ends (RFC 7143 §6.3).
    fn identify(&mut self, pairs: &[(&str, &str)], gate: &mut impl Gate) -> Result<(), Refusal> {
        let find = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        // Names are the same whatever their case (RFC 7143 §4.2.7.1); from here on they are in lower case.
        let named = |key: &str| find(key).map(str::to_lowercase).ok_or(LoginStatus::MissingParameter);
        let initiator = named("InitiatorName")?;
        self.identity.discovery = match find("SessionType") {
            None | Some("Normal") => false,
            Some("Discovery") => true,
            Some(_) => return Err(LoginStatus::SessionTypeNotSupported.into()),
        };
        let target = if self.identity.discovery { None } else { Some(named("TargetName")?) };
        let is_long = |name: &String| name.len() > text::MAX_NAME_BYTES;
        if !text::is_name(&initiator) || target.as_ref().is_some_and(is_long) {
            return Err(LoginStatus::InitiatorError.into());
        }
        self.authentication = match gate.access(&initiator, target.as_deref()) {
            Access::Open => Authentication::Free,
            Access::Chap(credentials) => Authentication::Wanted(credentials),
            Access::OpenOrChap(candidates) => Authentication::Offered(candidates),
            Access::Unknown => return Err(LoginStatus::NotFound.into()),
            Access::Forbidden => return Err(LoginStatus::AuthorizationFailure.into()),
            Access::NotServed => return Err(Refusal::Silent),
        };
        self.identity.initiator = initiator;
        self.identity.target = target.unwrap_or_default();
        Ok(())
    }

    fn is_authentic(&self) -> bool {
        match &self.authentication {
            Authentication::Free | Authentication::Offered(_) => true,
            Authentication::Chap(chap) => chap.is_done(),
            Authentication::Undecided | Authentication::Wanted(_) => false,
        }
    }

    fn security_keys(
        &mut self,
        pairs: &[(&str, &str)],
        gate: &mut impl Gate,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        for &(key, value) in pairs {
            match key {
                "AuthMethod" => self.choose_method(value, gate, out)?,
                "CHAP_A" | "CHAP_I" | "CHAP_C" | "CHAP_N" | "CHAP_R" => {
                    if !matches!(self.authentication, Authentication::Chap(_)) {
                        return Err(LoginStatus::InitiatorError.into());
                    }
                }
                _ => self.negotiation.offer(key, value, out).map_err(|_| LoginStatus::InitiatorError)?,
            }
        }
        if let Authentication::Chap(chap) = &mut self.authentication {
            chap.keys(pairs, out)?;
        }
        Ok(())
    }

    fn choose_method(
        &mut self,
        offers: &str,
        gate: &mut impl Gate,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if core::mem::replace(&mut self.method_chosen, true) {
            return Err(LoginStatus::InitiatorError.into());
        }
        let offered = |method: &str| offers.split(',').any(|offer| offer == method);
        let candidates = match &self.authentication {
            Authentication::Wanted(credentials) => Some(core::slice::from_ref(credentials)),
            Authentication::Offered(candidates) if !offered("None") && !candidates.is_empty() => {
                Some(candidates.as_slice())
            }
            _ => None,
        };
        let wanted = if candidates.is_some() { "CHAP" } else { "None" };
        if !offered(wanted) {
            return Err(Refusal::NotAuthentic(match candidates {
                Some(_) => "does not offer CHAP, which is set here",
                None => "insists on CHAP, which is not set here",
            }));
        }
        text::push(out, "AuthMethod", wanted);
        if let Some(candidates) = candidates {
            self.authentication = Authentication::Chap(Chap::new(candidates.to_vec(), gate.nonce()));
        }
        Ok(())
    }

    fn operational_keys(&mut self, pairs: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), Refusal> {
        // A login that skips the security stage skips the proof as well.
        if !self.is_authentic() {
            return Err(Refusal::NotAuthentic("leaves out CHAP, which is set here"));
        }
        for &(key, value) in pairs {
            self.negotiation.offer(key, value, out).map_err(|_| LoginStatus::InitiatorError)?;
        }
        Ok(())
    }

    fn transit(
        &mut self,
        to: Stage,
        gate: &mut impl Gate,
        response: &mut LoginResponse,
    ) -> Result<Next, Refusal> {
        response.transit = true;
        self.stage = Some(to);
        if to != Stage::FullFeature {
            return Ok(Next::GoOn);
        }
        self.identity.tsih = gate.open_session(&self.identity)?;
        response.tsih = self.identity.tsih;
        Ok(Next::FullFeature(core::mem::take(&mut self.negotiation).finish()))
    }
}

fn refuse(response: &mut LoginResponse, text: &mut Vec<u8>, status: LoginStatus) -> Next {
    text.clear();
    response.transit = false;
    response.status = status.code();
    Next::Close
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
