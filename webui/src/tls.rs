//! How the client decides that it talks to the right console.

use crate::certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// Which certificate is accepted. There is no third way: a console's certificate is self-signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The one with this SHA-256 (of its DER form): 64 hex digits, colons and case do not matter.
    Fingerprint(String),
    /// Any: the connection is encrypted, but to whom is not known.
    Anyone,
}

#[derive(Debug)]
struct Pinned {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

/// Only what counts in a fingerprint.
fn digits(fingerprint: &str) -> String {
    fingerprint.chars().filter(char::is_ascii_hexdigit).map(|c| c.to_ascii_uppercase()).collect()
}

/// TLS for connections under `trust`.
pub(crate) fn client_config(trust: Trust) -> Result<Arc<ClientConfig>, String> {
    if let Trust::Fingerprint(text) = &trust
        && (digits(text).len() != 64 || text.chars().any(|c| !c.is_ascii_hexdigit() && c != ':'))
    {
        return Err(format!("{text:?} is no SHA-256 fingerprint (64 hex digits)"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { trust, provider }))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = certificate::fingerprint(end_entity);
        match &self.trust {
            Trust::Anyone => Ok(ServerCertVerified::assertion()),
            Trust::Fingerprint(expected) if digits(expected) == digits(&shown) => {
                Ok(ServerCertVerified::assertion())
            }
            Trust::Fingerprint(_) => {
                Err(Error::General(format!("the console shows another certificate: SHA-256 {shown}")))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
