//! Mutual TLS 1.3 with pinned certificates. docs/wire.md, "TLS and framing".
//!
//! Invariants
//! - TLS 1.3 alone; both sides present a certificate and prove that they hold its key.
//! - A peer is the node whose pin its certificate has, and nobody else: [`Endpoint::connect`] expects one node,
//!   [`Endpoint::accept`] takes any whose pin is in the present set. No chain, name or date is looked at.
//! - No session is resumed, as a resumed one would skip the look at the pins.
//! - The protocol and its version are agreed by ALPN: a stream is never read as something else than its sender meant. The
//!   version is the newest that both sides speak.
//!
//! In TLS 1.3 the dialling side is done before the accepting side has judged its certificate: a refusal shows up there
//! as an error of the first read.

use crate::identity::{Identity, Pin};
use base::{NodeId, Versions};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    Error as RustlsError, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A TLS connection, whichever side opened it.
pub type TlsStream = tokio_rustls::TlsStream<TcpStream>;

/// What is spoken on a connection: the first part of its ALPN name, before the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Cluster messages.
    Cluster,
    /// Replication.
    Replication,
    /// What the nodes' consoles say to each other.
    Console,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Cluster, Self::Replication, Self::Console];

    fn name(self) -> &'static str {
        match self {
            Self::Cluster => "futago-cluster",
            Self::Replication => "futago-replication",
            Self::Console => "futago-console",
        }
    }

    /// ALPN names, the one that is liked best first.
    fn alpn(self, versions: Versions) -> Vec<Vec<u8>> {
        versions.descending().map(|version| format!("{}/{version}", self.name()).into_bytes()).collect()
    }
}

/// The version of its protocol that a connection of an [`Endpoint`] has: the newest that both sides speak.
#[must_use]
pub fn version_of(stream: &TlsStream) -> Option<u16> {
    agreed(stream)?.1.parse().ok()
}

/// What a connection of an [`Endpoint`] is for.
#[must_use]
pub fn protocol_of(stream: &TlsStream) -> Option<Protocol> {
    let (name, _) = agreed(stream)?;
    Protocol::ALL.into_iter().find(|protocol| protocol.name() == name)
}

/// Name and version by ALPN.
fn agreed(stream: &TlsStream) -> Option<(&str, &str)> {
    std::str::from_utf8(stream.get_ref().1.alpn_protocol()?).ok()?.split_once('/')
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No TCP connection, or it broke during the handshake.
    #[error("connection with {peer}")]
    Io {
        /// The other end.
        peer: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// Not done in time.
    #[error("connection with {peer}: no answer for {} ms", after.as_millis())]
    TimedOut {
        /// The other end.
        peer: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// The other end's certificate is not one that is pinned, or the other end does not accept ours.
    #[error("connection with {peer}: {reason}")]
    Refused {
        /// The other end.
        peer: SocketAddr,
        /// Who refused what.
        reason: &'static str,
    },
    /// The configuration can't be built (a fault of the TLS library's set-up).
    #[error("TLS set-up: {0}")]
    SetUp(#[source] RustlsError),
}

/// Judges a peer's certificate by its pin alone, and its handshake signature properly.
#[derive(Debug)]
struct PinVerifier {
    pins: Pins,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Pins {
    One(Pin),
    AnyOf(PeerSet),
}

type PeerSet = Arc<RwLock<BTreeMap<Pin, NodeId>>>;

impl PinVerifier {
    fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), RustlsError> {
        let pin = Pin::of(certificate);
        let known = match &self.pins {
            Pins::One(expected) => *expected == pin,
            Pins::AnyOf(peers) => peers.read().unwrap_or_else(PoisonError::into_inner).contains_key(&pin),
        };
        if known && others.is_empty() {
            Ok(())
        } else {
            Err(RustlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

fn no_tls12() -> RustlsError {
    RustlsError::General("TLS 1.2 is not spoken here".into())
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        self.judge(certificate, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PinVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, RustlsError> {
        self.judge(certificate, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// One node's end of all connections of one protocol, or of those that share a port: its identity and whom it lets in. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    identity: Identity,
    protocol: Protocol,
    versions: Versions,
    provider: Arc<CryptoProvider>,
    peers: PeerSet,
    acceptor: TlsAcceptor,
    time_out: Duration,
}

impl Endpoint {
    /// An end that lets nobody in yet. A handshake, dialling included, may take `time_out`; so long may the peer also
    /// leave sent bytes unconfirmed before the connection breaks (TCP_USER_TIMEOUT).
    ///
    /// # Errors
    /// [`TlsError::SetUp`].
    pub fn new(
        identity: Identity,
        protocol: Protocol,
        versions: Versions,
        time_out: Duration,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let peers = PeerSet::default();
        let verifier = PinVerifier {
            pins: Pins::AnyOf(peers.clone()),
            algorithms: provider.signature_verification_algorithms,
        };
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::SetUp)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key.clone())));
        server.alpn_protocols = protocol.alpn(versions);
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        let acceptor = TlsAcceptor::from(Arc::new(server));
        Ok(Self { identity, protocol, versions, provider, peers, acceptor, time_out })
    }

    /// The same end, which also lets its peers in for another protocol: [`protocol_of`] tells what a connection is for.
    #[must_use]
    pub fn and(mut self, protocol: Protocol, versions: Versions) -> Self {
        let mut server = ServerConfig::clone(self.acceptor.config());
        server.alpn_protocols.extend(protocol.alpn(versions));
        self.acceptor = TlsAcceptor::from(Arc::new(server));
        self
    }

    /// The other end of such a connection: what it dials is for `protocol`, and may take `time_out`.
    #[must_use]
    pub fn speaking(&self, protocol: Protocol, versions: Versions, time_out: Duration) -> Self {
        Self { protocol, versions, time_out, ..self.clone() }
    }

    /// Whose end this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How long a handshake may take.
    #[must_use]
    pub fn time_out(&self) -> Duration {
        self.time_out
    }

    /// Lets in these nodes and no other from now on. Connections that are open stay open.
    pub fn set_peers(&self, peers: BTreeMap<Pin, NodeId>) {
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    /// Dials `address` and goes on only if the node there has the certificate `pin`.
    ///
    /// # Errors
    /// [`TlsError`]; names the address.
    pub async fn connect(&self, address: SocketAddr, pin: Pin) -> Result<TlsStream, TlsError> {
        let connector = self.connector(pin)?;
        let dial = async {
            let stream = TcpStream::connect(address).await?;
            tune(&stream, self.time_out)?;
            // The name is not looked at (pins are), but the library wants one.
            connector.connect(ServerName::IpAddress(address.ip().into()), stream).await
        };
        match timeout(self.time_out, dial).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol().is_some() => Ok(stream.into()),
            Ok(Ok(_)) => Err(TlsError::Refused { peer: address, reason: "it speaks another protocol" }),
            Ok(Err(error)) => Err(classify(address, error)),
            Err(_) => Err(TlsError::TimedOut { peer: address, after: self.time_out }),
        }
    }

    /// Does the accepting half of the handshake; answers who dialled.
    ///
    /// # Errors
    /// [`TlsError`]; names the address. The stream is closed.
    pub async fn accept(&self, stream: TcpStream) -> Result<(TlsStream, NodeId), TlsError> {
        let io_error = |source| TlsError::Io { peer: SocketAddr::from(([0, 0, 0, 0], 0)), source };
        let peer = stream.peer_addr().map_err(io_error)?;
        tune(&stream, self.time_out).map_err(|source| TlsError::Io { peer, source })?;
        let stream = match timeout(self.time_out, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(classify(peer, error)),
            Err(_) => return Err(TlsError::TimedOut { peer, after: self.time_out }),
        };
        let session = stream.get_ref().1;
        if session.alpn_protocol().is_none() {
            return Err(TlsError::Refused { peer, reason: "it speaks another protocol" });
        }
        let pin = session.peer_certificates().and_then(<[_]>::first).map(Pin::of);
        // Looked up anew: the node may have been removed while the handshake ran.
        let node =
            pin.and_then(|pin| self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&pin).copied());
        match node {
            Some(node) => Ok((stream.into(), node)),
            None => Err(TlsError::Refused { peer, reason: "its certificate is not that of a member" }),
        }
    }

    fn connector(&self, pin: Pin) -> Result<TlsConnector, TlsError> {
        let verifier =
            PinVerifier { pins: Pins::One(pin), algorithms: self.provider.signature_verification_algorithms };
        let mut client = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::SetUp)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.identity.certified_key.clone())));
        client.alpn_protocols = self.protocol.alpn(self.versions);
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_sni = false;
        Ok(TlsConnector::from(Arc::new(client)))
    }
}

/// No delay, keepalive, and an end to silence on unconfirmed bytes.
fn tune(stream: &TcpStream, time_out: Duration) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    // Keepalive counts in whole seconds.
    let idle = Duration::from_secs(time_out.as_secs().max(1));
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, idle)?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(time_out.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// Tells a refusal of a certificate from a broken connection.
fn classify(peer: SocketAddr, error: io::Error) -> TlsError {
    let refused = |reason| TlsError::Refused { peer, reason };
    match error.get_ref().and_then(|inner| inner.downcast_ref::<RustlsError>()) {
        Some(RustlsError::InvalidCertificate(_)) => refused("its certificate is not the one that is pinned"),
        Some(RustlsError::NoCertificatesPresented) => refused("it presents no certificate"),
        Some(RustlsError::AlertReceived(AlertDescription::NoApplicationProtocol))
        | Some(RustlsError::NoApplicationProtocol) => refused("it speaks another protocol"),
        Some(RustlsError::AlertReceived(
            AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        )) => refused("it does not accept our certificate"),
        Some(_) | None => TlsError::Io { peer, source: error },
    }
}

/// Whether a read failed because the peer does not accept our certificate (see the module's note on TLS 1.3).
#[must_use]
pub fn is_refusal(peer: SocketAddr, error: io::Error) -> bool {
    matches!(classify(peer, error), TlsError::Refused { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const ONE: Versions = Versions { oldest: 1, newest: 1 };

    fn endpoint(protocol: Protocol) -> (tempfile::TempDir, Endpoint) {
        speaking(protocol, ONE)
    }

    fn speaking(protocol: Protocol, versions: Versions) -> (tempfile::TempDir, Endpoint) {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        (dir, Endpoint::new(identity, protocol, versions, Duration::from_secs(5)).unwrap())
    }

    fn peers(of: &[&Endpoint]) -> BTreeMap<Pin, NodeId> {
        of.iter().map(|e| (e.identity().pin, e.identity().node)).collect()
    }

    /// Dials `to` from `from`, sends one byte each way; answers both ends' outcomes.
    async fn meet(
        from: &Endpoint,
        to: &Endpoint,
        pin: Pin,
    ) -> (Result<u8, String>, Result<NodeId, TlsError>) {
        let listener = TcpListener::bind("127.1.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = to.clone();
        let accepted = tokio::spawn(async move {
            let (mut stream, node) = to.accept(listener.accept().await.unwrap().0).await?;
            stream.write_all(&[7]).await.unwrap();
            stream.flush().await.unwrap();
            let _end = stream.read(&mut [0; 1]).await;
            Ok(node)
        });
        let dialled = match from.connect(address, pin).await {
            Ok(mut stream) => stream.read_u8().await.map_err(|error| {
                let text = error.to_string();
                if is_refusal(address, error) { "refused".to_owned() } else { text }
            }),
            Err(error) => Err(error.to_string()),
        };
        (dialled, accepted.await.unwrap())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn pinned_nodes_meet_and_know_each_other() {
        let ((_a, a), (_b, b)) = (endpoint(Protocol::Cluster), endpoint(Protocol::Cluster));
        b.set_peers(peers(&[&a]));
        let (dialled, accepted) = meet(&a, &b, b.identity().pin).await;
        assert_eq!((dialled, accepted.unwrap()), (Ok(7), a.identity().node));
    }

    #[tokio::test]
    async fn strangers_are_refused_on_either_side() {
        let ((_a, a), (_b, b)) = (endpoint(Protocol::Cluster), endpoint(Protocol::Cluster));
        let (_c, stranger) = endpoint(Protocol::Cluster);
        b.set_peers(peers(&[&a]));
        let (dialled, accepted) = meet(&stranger, &b, b.identity().pin).await;
        assert_eq!(dialled, Err("refused".into()));
        assert!(matches!(accepted, Err(TlsError::Refused { .. })));
        let (dialled, accepted) = meet(&a, &b, stranger.identity().pin).await;
        assert!(dialled.unwrap_err().contains("not the one that is pinned"));
        assert!(accepted.is_err());
        // The set is live: a removed node is out with the next connection.
        b.set_peers(peers(&[&stranger]));
        assert!(meet(&a, &b, b.identity().pin).await.1.is_err());
        assert!(meet(&stranger, &b, b.identity().pin).await.1.is_ok());
    }

    #[tokio::test]
    async fn protocols_do_not_mix() {
        let ((_a, a), (_b, b)) = (endpoint(Protocol::Cluster), endpoint(Protocol::Replication));
        b.set_peers(peers(&[&a]));
        let (dialled, accepted) = meet(&a, &b, b.identity().pin).await;
        assert!(dialled.unwrap_err().contains("another protocol"));
        assert!(matches!(accepted, Err(TlsError::Refused { .. })));
    }

    #[tokio::test]
    async fn two_protocols_share_a_port() {
        let ((_a, a), (_b, b)) = (endpoint(Protocol::Cluster), endpoint(Protocol::Cluster));
        b.set_peers(peers(&[&a]));
        let pin = b.identity().pin;
        let console = a.speaking(Protocol::Console, ONE, Duration::from_secs(5));
        assert!(
            meet(&console, &b, pin).await.0.unwrap_err().contains("another protocol"),
            "an older release"
        );
        let b = b.and(Protocol::Console, ONE);
        for (end, expected) in [(&a, Protocol::Cluster), (&console, Protocol::Console)] {
            let listener = TcpListener::bind("127.1.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (accepted, dialled) = tokio::join!(
                async { b.accept(listener.accept().await.unwrap().0).await.unwrap().0 },
                async { end.connect(address, pin).await.unwrap() }
            );
            for stream in [&accepted, &dialled] {
                assert_eq!((protocol_of(stream), version_of(stream)), (Some(expected), Some(1)));
            }
        }
    }

    /// Which version each side finds; `None`: no connection.
    async fn agreed(ours: Versions, theirs: Versions) -> Option<(u16, u16)> {
        let ((_a, a), (_b, b)) =
            (speaking(Protocol::Replication, ours), speaking(Protocol::Replication, theirs));
        b.set_peers(peers(&[&a]));
        let listener = TcpListener::bind("127.1.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pin = b.identity().pin;
        let accepted =
            tokio::spawn(async move { b.accept(listener.accept().await.unwrap().0).await.map(|(s, _)| s) });
        let dialled = a.connect(address, pin).await;
        let (dialled, accepted) = (dialled.ok()?, accepted.await.unwrap().ok()?);
        Some((version_of(&dialled)?, version_of(&accepted)?))
    }

    #[tokio::test]
    async fn releases_speak_the_newest_version_that_both_know() {
        let versions = |oldest, newest| Versions { oldest, newest };
        for (ours, theirs, expected) in [
            (versions(2, 2), versions(2, 2), Some(2)),
            (versions(2, 3), versions(2, 2), Some(2)),
            (versions(2, 2), versions(2, 3), Some(2)),
            (versions(1, 3), versions(2, 4), Some(3)),
            (versions(9, 10), versions(9, 10), Some(10)),
            (versions(1, 1), versions(2, 3), None),
            (versions(2, 3), versions(1, 1), None),
        ] {
            let found = agreed(ours, theirs).await;
            assert_eq!(found, expected.map(|version| (version, version)), "{ours:?} {theirs:?}");
        }
    }

    #[tokio::test]
    async fn silence_ends() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let end = Endpoint::new(identity, Protocol::Cluster, ONE, Duration::from_millis(100)).unwrap();
        let listener = TcpListener::bind("127.1.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(matches!(end.connect(address, Pin([0; 32])).await, Err(TlsError::TimedOut { .. })));
        let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        drop(stream);
        let (stream, _) = listener.accept().await.unwrap();
        assert!(matches!(end.accept(stream).await, Err(TlsError::TimedOut { .. })));
    }
}
