//! The update: kernel and initramfs behind a signed header (docs/update.md), and the keys that sign it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use update::{BundleError, Formats, Header, Part, PublicKey, Version};

/// The update is readable by all, the key by its owner.
const MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;
/// Base64 in a PEM file (RFC 7468 §2).
const PEM_LINE: usize = 64;

/// What goes into an update.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initramfs: &'a Path,
    /// The private key.
    pub key: &'a Path,
    /// The release.
    pub version: &'a Version,
    /// The oldest release that it may replace.
    pub replaces_from: &'a Version,
    /// What it understands.
    pub formats: Formats,
    /// The file to write.
    pub out: &'a Path,
}

/// What could not be made. Nothing stands under its name then, or what stood there before.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// A part could not be read.
    #[error("{path}", path = .path.display())]
    Part {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key file could not be read or made.
    #[error("key {path}", path = .path.display())]
    KeyFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds no Ed25519 key.
    #[error("key {path}: no Ed25519 private key (PKCS#8, PEM)", path = .0.display())]
    Key(PathBuf),
    /// There was no random number.
    #[error("no random numbers")]
    Random,
    /// The header can't say that.
    #[error("the update can't be made")]
    Header(#[from] BundleError),
    /// The update could not be written.
    #[error("update {path}", path = .path.display())]
    Out {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes a key pair; the private one goes to the new file `out`.
///
/// # Errors
/// See [`UpdateError`]; also if there is such a file.
pub fn make_key(out: &Path) -> Result<PublicKey, UpdateError> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| UpdateError::Random)?;
    let base64 = STANDARD.encode(pkcs8.as_ref());
    let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(PEM_LINE.min(rest.len()));
        pem.push_str(line);
        pem.push('\n');
        rest = next;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    let failed = |source| UpdateError::KeyFile { path: out.to_owned(), source };
    let made = OpenOptions::new().write(true).create_new(true).mode(KEY_MODE).open(out);
    made.and_then(|mut file| file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(failed)?;
    public_key(out)
}

/// The public key of the private one at `key`.
///
/// # Errors
/// See [`UpdateError`].
pub fn public_key(key: &Path) -> Result<PublicKey, UpdateError> {
    Ok(PublicKey::new(pair(key)?.public_key().as_ref())?)
}

fn pair(key: &Path) -> Result<Ed25519KeyPair, UpdateError> {
    let pem = std::fs::read(key).map_err(|source| UpdateError::KeyFile { path: key.to_owned(), source })?;
    let none = || UpdateError::Key(key.to_owned());
    let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| none())?;
    // OpenSSL leaves the public key out.
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8.secret_pkcs8_der()).map_err(|_| none())
}

/// Makes an update; what it says of itself.
///
/// # Errors
/// See [`UpdateError`].
pub fn build(request: &Request<'_>) -> Result<Header, UpdateError> {
    let pair = pair(request.key)?;
    let (mut kernel, kernel_part) = open(request.kernel)?;
    let (mut initramfs, initramfs_part) = open(request.initramfs)?;
    let header = Header {
        version: request.version.clone(),
        replaces_from: request.replaces_from.clone(),
        formats: request.formats,
        kernel: kernel_part,
        initramfs: initramfs_part,
    };
    let signed = header.signed_part()?;
    let failed = |source| UpdateError::Out { path: request.out.to_owned(), source };
    let folder = request.out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    let mut write = || {
        file.write_all(&signed)?;
        file.write_all(pair.sign(&signed).as_ref())?;
        io::copy(&mut kernel, &mut file)?;
        io::copy(&mut initramfs, &mut file)?;
        file.as_file().set_permissions(Permissions::from_mode(MODE))?;
        file.as_file().sync_all()
    };
    write().map_err(failed)?;
    file.persist(request.out).map_err(|error| failed(error.error))?;
    Ok(header)
}

/// Opens a part and measures it.
fn open(path: &Path) -> Result<(File, Part), UpdateError> {
    let measure = || {
        let mut file = File::open(path)?;
        let part = Part::measure(&mut vec![0; 1 << 20], |memory| file.read(memory))?;
        file.seek(SeekFrom::Start(0))?;
        Ok((file, part))
    };
    measure().map_err(|source| UpdateError::Part { path: path.to_owned(), source })
}
