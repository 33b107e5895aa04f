//! The console's certificate: made at first start, self-signed, kept in `DIR/web`. Browsers warn about it once;
//! programs pin its SHA-256.

use crate::store;
use anyhow::{Context, Result};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// What TLS needs, and what people compare.
pub(crate) struct Certificate {
    /// TLS 1.2 and 1.3.
    pub(crate) tls: Arc<ServerConfig>,
    /// SHA-256 of the DER form, as `AB:CD:…`.
    pub(crate) fingerprint: String,
}

/// Loads the certificate of `web_dir`, or makes one for `name` and `address`.
pub(crate) fn load_or_make(web_dir: &Path, name: &str, address: IpAddr) -> Result<Certificate> {
    let path = web_dir.join("certificate.pem");
    let stored = store::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let pem = match stored {
        Some(pem) => pem,
        None => {
            let pem = make(name, address)?;
            store::replace(&path, &pem).with_context(|| format!("{}: cannot be written", path.display()))?;
            pem
        }
    };
    parse(&pem).with_context(|| {
        format!("{}: holds no usable certificate and key; remove it and a new one is made", path.display())
    })
}

/// Certificate and key in one file, so that they change together.
fn make(name: &str, address: IpAddr) -> Result<Vec<u8>> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned(), address.to_string()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("Futago {name}"));
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()).into_bytes())
}

fn parse(pem: &[u8]) -> Result<Certificate> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    let first = chain.first().context("no certificate")?;
    let fingerprint = fingerprint(first);
    let key = PrivateKeyDer::from_pem_slice(pem)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Certificate { tls: Arc::new(tls), fingerprint })
}

/// SHA-256 of a certificate, as `AB:CD:…`.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = Sha256::digest(certificate.as_ref());
    let pairs: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let make = || load_or_make(dir.path(), "a", "127.0.0.11".parse().unwrap());
        let first = make().unwrap().fingerprint;
        assert_eq!(first.len(), 32 * 3 - 1);
        assert_eq!(make().unwrap().fingerprint, first);
        std::fs::write(dir.path().join("certificate.pem"), "damaged").unwrap();
        let error = make().map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("certificate.pem"), "{error:#}");
    }
}
