//! The listeners: HTTPS for browsers and programs, and the unix sockets for `futago ctl --dir` and for the cluster manager, who
//! puts other members through.
//!
//! Invariants
//! - A connection that does not finish its TLS handshake or its request head in time is closed.
//! - At most [`CONNECTIONS`] connections are open. On the HTTPS port a new one makes another give way
//!   ([`transport::door`]); on a socket more wait in the kernel's queue.
//! - The sockets never exist with a mode other than 0600.

use crate::app::Shared;
use crate::guard::Peer;
use crate::{rest, views};
use anyhow::{Context, Result};
use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use transport::door::Door;

/// Open connections per listener.
const CONNECTIONS: usize = 256;
/// Time for the TLS handshake, and for the head of each request.
const PATIENCE: Duration = Duration::from_secs(15);

/// Binds a unix socket.
pub(crate) fn listen_unix(path: &Path) -> Result<UnixListener> {
    // Bound under another name, closed to others, then moved into place: no moment with a wider mode.
    let fresh = path.with_extension("new");
    for stale in [&fresh, path] {
        match std::fs::remove_file(stale) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("{}: cannot be replaced", stale.display())),
        }
    }
    let listener =
        UnixListener::bind(&fresh).with_context(|| format!("{}: cannot be bound", fresh.display()))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&fresh, path))
        .with_context(|| format!("{}: cannot be put into place", path.display()))?;
    Ok(listener)
}

/// Binds the HTTPS port.
pub(crate) async fn listen_tcp(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("web console: cannot listen on {address}"))
}

/// What `futago ctl --dir` sees: REST.
pub(crate) fn local_router(app: Shared) -> Router {
    rest::router(&app).with_state(app)
}

/// What other members see.
pub(crate) fn peer_router(app: Shared) -> Router {
    rest::peer_router().with_state(app)
}

/// Serves a unix socket, for ever.
pub(crate) async fn serve_unix(listener: UnixListener, router: Router) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve(stream, router, Peer::Local).await;
                    drop(slot);
                });
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

/// What the network sees: pages and REST.
pub(crate) fn network_router(app: Shared) -> Router {
    let router = views::router(&app).merge(rest::router(&app)).with_state(app);
    router.layer(axum::middleware::from_fn(crate::headers::protect))
}

/// Serves HTTPS, for ever.
pub(crate) async fn serve_tls(listener: TcpListener, tls: Arc<ServerConfig>, router: Router) {
    let acceptor = TlsAcceptor::from(tls);
    let door = Door::new(CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (router, acceptor) = (router.clone(), acceptor.clone());
                let place = door.enter(peer.ip());
                tokio::spawn(async move {
                    if place.hold(greet(stream, peer, acceptor, router)).await.is_none() {
                        tracing::debug!(%peer, "gave way to a newer connection");
                    }
                });
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Out of descriptors, mostly: without a pause the loop would spin.
async fn pause_after(error: &std::io::Error) {
    tracing::warn!(%error, "accept");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

async fn greet(stream: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor, router: Router) {
    let mut first = [0];
    match tokio::time::timeout(PATIENCE, stream.peek(&mut first)).await {
        Ok(Ok(1)) => {}
        _ => return,
    }
    // 22: TLS handshake record. Anything else is a browser told `http://`.
    if first != [22] {
        return explain_https(stream).await;
    }
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, router, Peer::Remote(peer.ip())).await,
        // A browser that does not trust the certificate hangs up here: nothing to report.
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake"),
        Err(_) => tracing::debug!(%peer, "TLS handshake: too slow"),
    }
}

async fn explain_https(mut stream: TcpStream) {
    const TEXT: &str = "This port speaks HTTPS: put https:// before the address.\n";
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{TEXT}",
        TEXT.len()
    );
    let _ = tokio::time::timeout(PATIENCE, stream.write_all(answer.as_bytes())).await;
    // What the browser sent is read, so that the close does not throw our answer away.
    let mut rest = [0; 4096];
    let _ =
        tokio::time::timeout(Duration::from_secs(1), tokio::io::AsyncReadExt::read(&mut stream, &mut rest))
            .await;
    let _ = stream.shutdown().await;
}

async fn serve<S>(stream: S, router: Router, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let inner = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        inner.call(request)
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection");
    }
}
