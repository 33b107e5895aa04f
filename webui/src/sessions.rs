//! Signed-in browsers. In memory only: a restart of this process signs everyone out.
//!
//! Invariants
//! - A session is found by the SHA-256 of its token, so that neither memory nor time tells a valid token.
//! - It ends at sign-out, an hour after the last sign of life, or 12 hours after sign-in.

use crate::errors::ApiError;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const IDLE: Duration = Duration::from_secs(3600);
const LONGEST: Duration = Duration::from_secs(12 * 3600);
const CAPACITY: usize = 64;

/// Names a session inside this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionId([u8; 32]);

/// What came of the last form, shown once on the next page.
#[derive(Clone, Debug)]
pub(crate) struct Notice {
    /// It was not done.
    pub(crate) failed: bool,
    /// A sentence.
    pub(crate) text: String,
    /// To be corrected.
    pub(crate) typed: Option<Typed>,
}

/// What stood in a form that was refused, but for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Typed {
    /// Where the form is.
    pub(crate) page: String,
    /// Tells it from others on that page.
    pub(crate) form: String,
    /// Names and contents; a box that was not ticked is missing.
    pub(crate) fields: Vec<(&'static str, String)>,
}

struct Session {
    csrf: String,
    started: Instant,
    seen: Instant,
    notice: Option<Notice>,
}

/// All sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    table: Mutex<HashMap<SessionId, Session>>,
}

/// A fresh session's secrets.
pub(crate) struct Opened {
    /// For the cookie.
    pub(crate) token: String,
    /// For forms and the `x-csrf-token` header.
    pub(crate) csrf: String,
}

/// 256 random bits as hex.
fn secret() -> Result<String, ApiError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| ApiError::internal("random numbers", &e))?;
    Ok(hex::encode(bytes))
}

fn id_of(token: &str) -> SessionId {
    SessionId(Sha256::digest(token.as_bytes()).into())
}

impl Sessions {
    /// Opens a session.
    pub(crate) fn open(&self, now: Instant) -> Result<Opened, ApiError> {
        let opened = Opened { token: secret()?, csrf: secret()? };
        let mut table = self.live(now);
        if table.len() >= CAPACITY {
            let oldest = table.iter().min_by_key(|(_, s)| s.seen).map(|(id, _)| *id);
            oldest.and_then(|id| table.remove(&id));
        }
        let session = Session { csrf: opened.csrf.clone(), started: now, seen: now, notice: None };
        table.insert(id_of(&opened.token), session);
        Ok(opened)
    }

    /// The session of a cookie's token, with its CSRF token; a sign of life.
    pub(crate) fn find(&self, token: &str, now: Instant) -> Option<(SessionId, String)> {
        let id = id_of(token);
        self.touch(id, now).map(|csrf| (id, csrf))
    }

    /// A sign of life of `id`: its CSRF token, or `None` once it has ended.
    pub(crate) fn touch(&self, id: SessionId, now: Instant) -> Option<String> {
        let mut table = self.live(now);
        let session = table.get_mut(&id)?;
        session.seen = now;
        Some(session.csrf.clone())
    }

    /// Signs out.
    pub(crate) fn close(&self, id: SessionId) {
        self.lock().remove(&id);
    }

    /// Signs everyone out.
    pub(crate) fn close_all(&self) {
        self.lock().clear();
    }

    /// Keeps `notice` for the next page.
    pub(crate) fn leave_notice(&self, id: SessionId, notice: Notice) {
        if let Some(session) = self.lock().get_mut(&id) {
            session.notice = Some(notice);
        }
    }

    /// Takes what was left.
    pub(crate) fn take_notice(&self, id: SessionId) -> Option<Notice> {
        self.lock().get_mut(&id).and_then(|s| s.notice.take())
    }

    /// Sessions that live.
    pub(crate) fn count(&self, now: Instant) -> usize {
        self.live(now).len()
    }

    fn live(&self, now: Instant) -> MutexGuard<'_, HashMap<SessionId, Session>> {
        let mut table = self.lock();
        table.retain(|_, s| {
            now.saturating_duration_since(s.seen) < IDLE && now.saturating_duration_since(s.started) < LONGEST
        });
        table
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Session>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_by_itself_and_by_sign_out() {
        let sessions = Sessions::default();
        let start = Instant::now();
        let one = sessions.open(start).unwrap();
        let (id, csrf) = sessions.find(&one.token, start).unwrap();
        assert_eq!(csrf, one.csrf);
        assert!(sessions.find("00", start).is_none());
        assert!(sessions.touch(id, start + IDLE - Duration::from_secs(1)).is_some());
        assert!(sessions.touch(id, start + IDLE * 2).is_none(), "idle");

        let two = sessions.open(start).unwrap();
        let (id, _) = sessions.find(&two.token, start).unwrap();
        let mut now = start;
        while now < start + LONGEST {
            assert!(sessions.touch(id, now).is_some());
            now += IDLE / 2;
        }
        assert!(sessions.touch(id, now).is_none(), "too long");

        let three = sessions.open(now).unwrap();
        let (id, _) = sessions.find(&three.token, now).unwrap();
        sessions.leave_notice(id, Notice { failed: false, text: "done".into(), typed: None });
        assert_eq!(sessions.take_notice(id).unwrap().text, "done");
        assert!(sessions.take_notice(id).is_none());
        sessions.close(id);
        assert_eq!(sessions.count(now), 0);
        let (four, five) = (sessions.open(now).unwrap(), sessions.open(now).unwrap());
        sessions.close_all();
        assert!([four, five].iter().all(|opened| sessions.find(&opened.token, now).is_none()));
    }
}
