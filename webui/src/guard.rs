//! Who may do what. Every route is behind [`admit`] but the few that open the door.
//!
//! Invariants
//! - Before the admin password is set, nothing but set-up answers on the network, and a download link that whoever is
//!   on the node has made ([`crate::links`]).
//! - A change asked for with a session cookie needs [`crate::csrf`]'s two proofs. REST proves the token by header
//!   here, pages by form field in [`crate::views::form::Signed`].
//! - The unix socket is guarded by its file mode: who can open it is the administrator.

use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use crate::sessions::SessionId;
use crate::{cookies, csrf};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine;
use std::net::IpAddr;
use std::time::Instant;

/// The other end of the connection; put into every request by the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// Over the unix socket.
    Local,
    /// Over the network.
    Remote(IpAddr),
}

impl Peer {
    /// Its address; an error on the unix socket.
    pub(crate) fn address(self) -> Result<IpAddr, ApiError> {
        match self {
            Self::Remote(address) => Ok(address),
            Self::Local => Err(ApiError::new(ErrorKind::Invalid, "Not on the local socket.")),
        }
    }
}

/// How a request was let in; put into the request by [`admit`].
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// Over the unix socket, or with the password in the request.
    Direct,
    /// With a session cookie.
    Session(SessionId, String),
}

/// Lets REST requests in that may come in.
pub(crate) async fn admit(
    State(app): State<Shared>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let access = check(&app, &parts).await?;
    if let Access::Session(_, expected) = &access
        && changes_something(&parts.method)
    {
        let given = parts.headers.get(csrf::HEADER).and_then(|v| v.to_str().ok());
        csrf::require_token(given, expected)?;
    }
    parts.extensions.insert(access);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// Who sends a request: an error if it must not be let in.
pub(crate) async fn check(app: &Shared, request: &Parts) -> Result<Access, ApiError> {
    let peer = match request.extensions.get::<Peer>() {
        Some(Peer::Local) => return Ok(Access::Direct),
        Some(Peer::Remote(address)) => *address,
        None => return Err(ApiError::internal("server", &"a request without its connection")),
    };
    if !app.password.is_set() {
        return Err(ApiError::new(
            ErrorKind::SetupNeeded,
            "This node has no admin password yet. Open the console and choose one, or POST it to /api/v1/setup.",
        ));
    }
    if let Some((id, token)) = session(app, request)? {
        return Ok(Access::Session(id, token));
    }
    let headers = &request.headers;
    let Some((user, password)) = basic(headers) else {
        return Err(ApiError::new(ErrorKind::Unauthorized, "Sign in first."));
    };
    if changes_something(&request.method) {
        csrf::refuse_foreign(headers)?;
    }
    sign_in(app, peer, &user, &password).await?;
    Ok(Access::Direct)
}

/// The session of a request's cookie and its CSRF token. An error if another site made the browser send it.
pub(crate) fn session(app: &Shared, request: &Parts) -> Result<Option<(SessionId, String)>, ApiError> {
    let found = cookies::token(&request.headers).and_then(|token| app.sessions.find(token, Instant::now()));
    if found.is_some() && changes_something(&request.method) {
        csrf::require_ours(&request.headers)?;
    }
    Ok(found)
}

/// Checks a password under the limit of its address.
pub(crate) async fn sign_in(app: &Shared, peer: IpAddr, user: &str, password: &str) -> Result<(), ApiError> {
    if let Err(wait) = app.limiter.attempt(peer, Instant::now()) {
        return Err(ApiError::wait("passwords", wait));
    }
    let right = app.password.verify(password).await?;
    if right && user == "admin" {
        app.limiter.forgive(peer);
        return Ok(());
    }
    tracing::warn!(%peer, "wrong password");
    Err(ApiError::new(ErrorKind::Unauthorized, "Wrong password."))
}

/// Stores another admin password and signs everyone out. Whoever has found a signed-in browser does not know the current
/// one; whoever is on the node itself is the administrator.
pub(crate) async fn change_password(
    app: &Shared,
    peer: Peer,
    current: &str,
    password: &str,
) -> Result<(), ApiError> {
    if let Peer::Remote(address) = peer {
        sign_in(app, address, "admin", current).await?;
    }
    app.password.replace(password).await?;
    app.sessions.close_all();
    tracing::info!(?peer, "the admin password was changed");
    Ok(())
}

fn changes_something(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// User and password of an `Authorization: Basic` header.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
