//! Who a node is: its id, private key and self-signed certificate, one file below `DIR/identity`.
//!
//! Invariants
//! - Id, key and certificate are made together and written in one atomic step, so they never disagree; a file that
//!   does not hold all three, matching, is refused and left as it is (S20: a node without its identity is a new node,
//!   which is for an administrator to decide).
//! - The file is readable by its owner alone (0600).

use base::NodeId;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, str::FromStr};

/// Name of the file below the identity directory.
pub const FILE: &str = "identity.json";

/// SHA-256 of a certificate's DER: the only name that a certificate has here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// The pin of `certificate`.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

/// The text is no pin: 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a certificate hash has 64 hexadecimal digits")]
pub struct NoPin;

impl FromStr for Pin {
    type Err = NoPin;
    fn from_str(text: &str) -> Result<Self, NoPin> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NoPin)?;
        Ok(Self(bytes))
    }
}

/// A node's own identity.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its id.
    pub node: NodeId,
    /// Hash of its certificate.
    pub pin: Pin,
    pub(crate) certified_key: Arc<CertifiedKey>,
}

/// Why there is no identity; names the file.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read or written.
    #[error("identity file {}: {action}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// The file holds something else than an identity. It is left as it is.
    #[error("identity file {} is damaged: {reason}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Key or certificate could not be made.
    #[error("no identity can be made: {0}")]
    Generate(String),
}

/// The file's content.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    node: String,
    certificate: String,
    private_key: String,
}

impl Identity {
    /// The identity below `dir`, made at the first call.
    ///
    /// # Errors
    /// The file can't be read or written, or is damaged; it is never replaced.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => Self::decode(&bytes).map_err(|reason| IdentityError::Damaged { path, reason }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(dir, path),
            Err(source) => Err(IdentityError::Io { path, action: "can't be read", source }),
        }
    }

    /// The identity below `dir`, which must exist.
    ///
    /// # Errors
    /// The file is missing, can't be read, or is damaged.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => Self::decode(&bytes).map_err(|reason| IdentityError::Damaged { path, reason }),
            Err(source) => Err(IdentityError::Io { path, action: "can't be read", source }),
        }
    }

    fn create(dir: &Path, path: PathBuf) -> Result<Self, IdentityError> {
        let failed = |error: &dyn fmt::Display| IdentityError::Generate(error.to_string());
        let node = NodeId(crate::random_id().map_err(|error| failed(&error))?);
        let key = rcgen::KeyPair::generate().map_err(|error| failed(&error))?;
        let mut params = rcgen::CertificateParams::new(Vec::new()).map_err(|error| failed(&error))?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("futago node {node}"));
        let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
        let stored = Stored {
            version: 1,
            node: node.to_string(),
            certificate: hex::encode(certificate.der()),
            private_key: hex::encode(key.serialized_der()),
        };
        let bytes = serde_json::to_vec_pretty(&stored).map_err(|error| failed(&error))?;
        write_new(dir, &path, &bytes).map_err(|source| IdentityError::Io {
            path: path.clone(),
            action: "can't be written",
            source,
        })?;
        Self::decode(&bytes).map_err(|reason| IdentityError::Damaged { path, reason })
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let stored: Stored = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if stored.version != 1 {
            return Err(format!("version {} is unknown; this build reads 1", stored.version));
        }
        let node = u64::from_str_radix(&stored.node, 16).map_err(|error| format!("node: {error}"))?;
        if node == 0 {
            return Err("node: zero is no id".into());
        }
        let certificate =
            hex::decode(&stored.certificate).map_err(|error| format!("certificate: {error}"))?;
        let key = hex::decode(&stored.private_key).map_err(|error| format!("private_key: {error}"))?;
        let certificate = CertificateDer::from(certificate);
        let key = any_supported_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)))
            .map_err(|error| format!("private_key: {error}"))?;
        let pin = Pin::of(&certificate);
        let certified_key = CertifiedKey::new(vec![certificate], key);
        certified_key.keys_match().map_err(|error| format!("certificate: {error}"))?;
        Ok(Self { node: NodeId(node), pin, certified_key: Arc::new(certified_key) })
    }
}

/// Writes `path` below `dir` so that it exists whole or not at all, also after a power cut.
fn write_new(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // A link does not replace what stands there: of two first starts at once, one identity wins for both.
    fs::hard_link(&temporary, path)?;
    fs::remove_file(&temporary)?;
    File::open(dir)?.sync_all()?;
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Ok(()),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("identity");
        assert!(matches!(Identity::load(&dir), Err(IdentityError::Io { .. })));
        let first = Identity::load_or_create(&dir).unwrap();
        let again = Identity::load_or_create(&dir).unwrap();
        assert_eq!((first.node, first.pin), (again.node, again.pin));
        assert_ne!(first.node, NodeId(0));
        assert_eq!(fs::metadata(dir.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(first.pin.to_string().parse(), Ok(first.pin));
    }

    #[test]
    fn a_damaged_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        let good = fs::read_to_string(&path).unwrap();
        let other = tempfile::tempdir().unwrap();
        Identity::load_or_create(other.path()).unwrap();
        let foreign: Stored = serde_json::from_slice(&fs::read(other.path().join(FILE)).unwrap()).unwrap();
        let mut mixed: Stored = serde_json::from_str(&good).unwrap();
        mixed.private_key = foreign.private_key;
        let spoiled = [
            String::new(),
            good[..good.len() / 2].to_owned(),
            good.replace("\"version\": 1", "\"version\": 9"),
            serde_json::to_string(&mixed).unwrap(),
        ];
        for text in spoiled {
            fs::write(&path, &text).unwrap();
            let error = Identity::load_or_create(dir.path()).unwrap_err();
            assert!(error.to_string().contains("identity.json is damaged"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
