//! Framing: header, additional header, header digest, data segment, padding, data digest (RFC 7143 §11.2).
//!
//! Headers and trailers are taken only when they are complete in the driver's scratch; data segments are taken in any
//! pieces and go to their place at once, so no byte is copied twice and nothing is buffered here.

use super::task::TaskId;
use super::{CloseReason, Connection, Host, Phase};
use crate::keys::MAX_RECEIVE_BYTES;
use crate::login::MAX_TEXT_BYTES;
use crate::pdu::{self, BHS_BYTES, Bhs, RejectReason, Request};
use alloc::vec::Vec;

const DIGEST_BYTES: usize = 4;

/// Where a data segment goes.
#[derive(Debug)]
pub(super) enum Place {
    /// The first `keep` bytes into the task's data-out buffer, the rest nowhere.
    Task { task: TaskId, offset: usize, keep: usize },
    /// Text and ping data: kept up to [`MAX_TEXT_BYTES`].
    Held(Vec<u8>),
    /// Nowhere.
    Discard,
}

/// A PDU whose data segment is being received.
#[derive(Debug)]
struct Segment {
    bhs: Bhs,
    request: Request,
    /// The command that the PDU began or belongs to.
    task: Option<TaskId>,
    place: Place,
    len: usize,
    filled: usize,
    crc: u32,
}

/// The receive side of a connection.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    segment: Option<Segment>,
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
}

impl<H: Host> Connection<H> {
    /// Takes received bytes; answers how many were taken. The driver keeps the rest and hands it in again, with more
    /// bytes behind it; a scratch of 4096 bytes always suffices to get on.
    pub fn receive(&mut self, bytes: &[u8], host: &mut H) -> usize {
        let mut taken = 0_usize;
        if !bytes.is_empty() {
            self.heard = true;
        }
        while self.wants_input() {
            let rest = bytes.get(taken..).unwrap_or(&[]);
            let step = match self.receiver.segment.take() {
                None => self.take_header(rest, host),
                Some(segment) => self.take_segment(segment, rest, host),
            };
            match step {
                Some(count) => taken = taken.saturating_add(count),
                None => break,
            }
            // A segment that came in part has taken all there is.
            if taken >= bytes.len() && self.receiver.segment.as_ref().is_none_or(|s| s.filled < s.len) {
                break;
            }
        }
        taken
    }

    /// Where the next bytes of the stream go, if they belong into a command's data buffer: the driver may receive
    /// straight into it, then calls [`Connection::handle_direct`]. Only when all bytes received before were taken.
    pub fn direct(&mut self) -> Option<&mut [u8]> {
        if self.closing.is_some() {
            return None;
        }
        let segment = self.receiver.segment.as_ref()?;
        let Place::Task { task, offset, keep } = segment.place else { return None };
        let begin = offset.checked_add(segment.filled)?;
        let end = offset.checked_add(keep)?;
        let buffer = self.tasks.get_mut(task)?.data_out.as_mut()?;
        buffer.as_mut().get_mut(begin..end).filter(|window| !window.is_empty())
    }

    /// The first `count` bytes of [`Connection::direct`] were filled. Call [`Connection::receive`] next, be it with
    /// nothing.
    pub fn handle_direct(&mut self, count: usize) {
        self.heard = true;
        let digest = self.receiver.data_digest;
        let Some(segment) = self.receiver.segment.as_mut() else { return };
        let count = count.min(segment.len.saturating_sub(segment.filled));
        if digest
            && let Place::Task { task, offset, .. } = segment.place
            && let Some(buffer) = self.tasks.get(task).and_then(|task| task.data_out.as_ref())
        {
            let begin = offset.saturating_add(segment.filled);
            let window = buffer.as_ref().get(begin..begin.saturating_add(count)).unwrap_or(&[]);
            segment.crc = crc32c::crc32c_append(segment.crc, window);
        }
        segment.filled = segment.filled.saturating_add(count);
    }

    /// Takes a header if it is complete; `None`: more bytes are needed.
    fn take_header(&mut self, bytes: &[u8], host: &mut H) -> Option<usize> {
        let bhs = bytes.first_chunk::<BHS_BYTES>()?;
        let covered = BHS_BYTES.saturating_add(pdu::ahs_len(bhs));
        let digest = if self.receiver.header_digest { DIGEST_BYTES } else { 0 };
        let total = covered.saturating_add(digest);
        let header = bytes.get(..covered)?;
        let trailer = bytes.get(covered..total)?;
        if digest > 0 && trailer != crc32c::crc32c(header).to_le_bytes() {
            self.drop_now(CloseReason::Digest);
            return Some(total);
        }
        let len = pdu::data_len(bhs);
        let Some(request) = Request::decode(bhs) else {
            self.begin_unknown(*bhs, len);
            return Some(total);
        };
        if let Some(problem) = self.check_phase(&request, len) {
            self.drop_now(CloseReason::Protocol(problem));
            return Some(total);
        }
        let (place, task) = match &request {
            Request::ScsiCommand(command) => self.begin_command(command, bhs, len, host),
            Request::DataOut(data) => self.begin_data_out(data, len, host),
            Request::Login(_) | Request::Text(_) | Request::NopOut(_) => (Place::Held(Vec::new()), None),
            Request::TaskManagement(_) | Request::Logout(_) | Request::Snack(_) => (Place::Discard, None),
        };
        let segment = Segment { bhs: *bhs, request, task, place, len, filled: 0, crc: 0 };
        if len == 0 {
            self.finish(segment, host);
        } else {
            self.receiver.segment = Some(segment);
        }
        Some(total)
    }

    /// What makes a PDU unacceptable before its data is looked at.
    fn check_phase(&self, request: &Request, len: usize) -> Option<&'static str> {
        let is_login = matches!(request, Request::Login(_));
        let is_text = is_login || matches!(request, Request::Text(_));
        match self.phase {
            Phase::Login(_) if !is_login => Some("a PDU other than a login request before the login's end"),
            Phase::FullFeature if is_login => Some("a login request in the full-feature phase"),
            _ if is_text && len > MAX_TEXT_BYTES => Some("a text segment above 16 KiB"),
            _ if u32::try_from(len).is_ok_and(|len| len <= MAX_RECEIVE_BYTES) => None,
            _ => Some("a data segment above MaxRecvDataSegmentLength"),
        }
    }

    /// An opcode that no initiator may send: rejected, its data skipped.
    fn begin_unknown(&mut self, bhs: Bhs, len: usize) {
        if matches!(self.phase, Phase::Login(_)) {
            self.drop_now(CloseReason::Protocol("an unknown opcode before the login's end"));
            return;
        }
        self.reject(&bhs, RejectReason::NotSupported);
        if len > 0 {
            let request = Request::Snack(pdu::Snack::default());
            let place = Place::Discard;
            self.receiver.segment = Some(Segment { bhs, request, task: None, place, len, filled: 0, crc: 0 });
        }
    }

    /// Takes what is there of a data segment; `None`: more bytes are needed.
    fn take_segment(&mut self, mut segment: Segment, bytes: &[u8], host: &mut H) -> Option<usize> {
        let now = segment.len.saturating_sub(segment.filled).min(bytes.len());
        let (piece, rest) = bytes.split_at_checked(now).unwrap_or((&[], bytes));
        if self.receiver.data_digest {
            segment.crc = crc32c::crc32c_append(segment.crc, piece);
        }
        self.store(&mut segment, piece);
        segment.filled = segment.filled.saturating_add(now);
        let padding = pdu::padding(segment.len);
        let digest = if self.receiver.data_digest { DIGEST_BYTES } else { 0 };
        let trailer = rest.get(..padding.saturating_add(digest)).filter(|_| segment.filled == segment.len);
        let Some((padding, digest)) = trailer.and_then(|trailer| trailer.split_at_checked(padding)) else {
            self.receiver.segment = Some(segment);
            return if now > 0 { Some(now) } else { None };
        };
        let taken = now.saturating_add(padding.len()).saturating_add(digest.len());
        if !digest.is_empty() && digest != crc32c::crc32c_append(segment.crc, padding).to_le_bytes() {
            self.reject(&segment.bhs, RejectReason::DataDigest);
            self.close(CloseReason::Digest);
            return Some(taken);
        }
        self.finish(segment, host);
        Some(taken)
    }

    fn store(&mut self, segment: &mut Segment, piece: &[u8]) {
        match &mut segment.place {
            Place::Task { task, offset, keep } => {
                let kept = keep.saturating_sub(segment.filled).min(piece.len());
                let begin = offset.saturating_add(segment.filled);
                let buffer = self.tasks.get_mut(*task).and_then(|task| task.data_out.as_mut());
                let window =
                    buffer.and_then(|buffer| buffer.as_mut().get_mut(begin..begin.saturating_add(kept)));
                if let (Some(window), Some(piece)) = (window, piece.get(..kept)) {
                    window.copy_from_slice(piece);
                }
            }
            Place::Held(held) => {
                let room = MAX_TEXT_BYTES.saturating_sub(held.len()).min(piece.len());
                held.extend_from_slice(piece.get(..room).unwrap_or(&[]));
            }
            Place::Discard => {}
        }
    }

    /// The PDU is complete.
    fn finish(&mut self, segment: Segment, host: &mut H) {
        let held = match segment.place {
            Place::Held(held) => held,
            Place::Task { .. } | Place::Discard => Vec::new(),
        };
        match segment.request {
            Request::ScsiCommand(_) => {
                if let Some(task) = segment.task {
                    self.advance(task, host);
                }
            }
            Request::DataOut(data) => {
                if let Some(task) = segment.task {
                    self.finish_data_out(task, &data, segment.len, host);
                }
            }
            Request::Login(request) => self.login(&request, &held, host),
            Request::Text(request) => self.text(&request, &segment.bhs, &held, host),
            Request::NopOut(request) => self.nop_out(&request, &held),
            Request::TaskManagement(request) => self.task_management(&request, host),
            Request::Logout(request) => self.logout(&request, host),
            Request::Snack(snack) => {
                if segment.bhs[0] & 0x3f == pdu::Snack::OPCODE && snack.last {
                    self.reject(&segment.bhs, RejectReason::Snack);
                }
            }
        }
    }
}
