//! The bundle: a header of [`HEADER_BYTES`], the kernel, the initramfs, and nothing else. Numbers are little-endian.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `FtgUpdat` |
//! | 8 | 4 | version of this layout, 2 |
//! | 12 | 4 | zero |
//! | 16 | 32 | for each of [`Format::ALL`](crate::Format::ALL): oldest and newest version that the release understands, u16 each; the rest zero |
//! | 48 | 32 | the release's version: semantic versioning 2.0.0, ASCII, filled up with zeros |
//! | 80 | 32 | the oldest release that it may replace, likewise |
//! | 112 | 8 | length of the kernel in bytes |
//! | 120 | 8 | length of the initramfs in bytes |
//! | 128 | 32 | SHA-256 of the kernel |
//! | 160 | 32 | SHA-256 of the initramfs |
//! | 192 | 64 | Ed25519 signature (RFC 8032) over bytes 0 to 191 |
//!
//! Invariant: a header has one encoding; what decodes encodes to the same bytes.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use base::{DecodeError, Format, Formats, Reader, Versions, Writer};
use core::fmt;
use ring::digest;
use ring::signature::{ED25519, UnparsedPublicKey};
use semver::Version;

/// Length of the header.
pub const HEADER_BYTES: usize = 256;
/// Its part that is signed.
pub const SIGNED_BYTES: usize = 192;
/// Length of the signature.
pub const SIGNATURE_BYTES: usize = 64;
/// The longest version text.
pub const VERSION_TEXT_BYTES: usize = 32;
/// The largest bundle: kernel and initramfs fit into a slot with room for its tables.
pub const MOST_BYTES: u64 = crate::slots::MOST_BYTES + HEADER_BYTES as u64;

/// Where the formats' room ends and the release's version begins.
const VERSION_TEXT_AT: usize = 48;
const SPARE_BYTES: usize = 12;
const _: () = assert!(16 + 4 * Format::ALL.len() + SPARE_BYTES == VERSION_TEXT_AT);
/// Version of the layout of a bundle.
const BUNDLE_VERSION: u32 = 2;
const MAGIC: [u8; 8] = *b"FtgUpdat";
const SHA256_BYTES: usize = 32;
const KEY_BYTES: usize = 32;

/// Why a file is no bundle that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// It does not begin as one.
    NotABundle,
    /// Its layout is of another version.
    Layout(u32),
    /// A field is out of range.
    Field(DecodeError),
    /// A version text is none.
    Version(&'static str),
    /// Kernel and initramfs are larger than a slot takes, or empty.
    Size,
    /// None of the keys has signed it.
    Signature,
    /// The key file holds no key, or something else.
    Key,
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotABundle => f.write_str("the file is no update"),
            Self::Layout(version) => {
                write!(f, "the update has layout {version}, and this release reads {BUNDLE_VERSION}")
            }
            Self::Field(error) => write!(f, "the update is damaged: {error}"),
            Self::Version(what) => write!(f, "the update is damaged: {what} is no version"),
            Self::Size => f.write_str("the update is damaged: its parts can't be of that size"),
            Self::Signature => {
                f.write_str("the update is not signed by this appliance's maker, or was changed since")
            }
            Self::Key => f.write_str("a public key is 64 hexadecimal digits on a line"),
        }
    }
}

impl core::error::Error for BundleError {}

impl From<DecodeError> for BundleError {
    fn from(error: DecodeError) -> Self {
        Self::Field(error)
    }
}

/// Kernel or initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its length.
    pub len_bytes: u64,
    /// Of its bytes.
    pub sha256: [u8; SHA256_BYTES],
}

impl Part {
    /// Measures what `read` gives: it fills the memory that it gets from the front and says with how many bytes, none at the
    /// end. `memory` must not be empty.
    ///
    /// # Errors
    /// What `read` answers.
    pub fn measure<E>(
        memory: &mut [u8],
        mut read: impl FnMut(&mut [u8]) -> Result<usize, E>,
    ) -> Result<Self, E> {
        let mut sha256 = Sha256::new();
        let mut len_bytes: u64 = 0;
        loop {
            let read_bytes = read(memory)?;
            let Some(chunk) = memory.get(..read_bytes).filter(|chunk| !chunk.is_empty()) else { break };
            sha256.update(chunk);
            len_bytes = len_bytes.saturating_add(read_bytes as u64);
        }
        Ok(Self { len_bytes, sha256: sha256.finish() })
    }
}

/// What a bundle says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The release.
    pub version: Version,
    /// The oldest release that it may replace.
    pub replaces_from: Version,
    /// What it understands.
    pub formats: Formats,
    /// The first part.
    pub kernel: Part,
    /// The second.
    pub initramfs: Part,
}

impl Header {
    /// The bytes that are signed. An error: a version that is too long, or parts that no slot takes.
    pub fn signed_part(&self) -> Result<[u8; SIGNED_BYTES], BundleError> {
        let mut w = Writer::with_capacity(SIGNED_BYTES);
        w.bytes(&MAGIC).u32(BUNDLE_VERSION).u32(0);
        for (_, versions) in self.formats.each() {
            w.u16(versions.oldest).u16(versions.newest);
        }
        w.pad_to(VERSION_TEXT_AT);
        w.bytes(&text_field(&self.version, "the release")?);
        w.bytes(&text_field(&self.replaces_from, "the oldest release that it replaces")?);
        w.u64(self.kernel.len_bytes).u64(self.initramfs.len_bytes);
        w.bytes(&self.kernel.sha256).bytes(&self.initramfs.sha256);
        let bytes: [u8; SIGNED_BYTES] = w.into_vec().try_into().map_err(|_| BundleError::Size)?;
        // What is made here can be read again.
        decode(&bytes).map(|_| bytes)
    }

    /// Length of the whole file.
    #[must_use]
    pub fn bundle_bytes(&self) -> u64 {
        // Both lengths were checked against the slot's.
        HEADER_BYTES as u64 + self.kernel.len_bytes.saturating_add(self.initramfs.len_bytes)
    }
}

/// A header whose signature nobody has looked at: good for showing what a file claims to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// What it says.
    pub header: Header,
    signature: [u8; SIGNATURE_BYTES],
}

impl Claimed {
    /// From the first [`HEADER_BYTES`] of a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(BundleError::NotABundle);
        }
        let mut r = Reader::new("its header", bytes);
        let signed = r.array()?;
        let signature = r.array()?;
        r.finish()?;
        Ok(Self { header: decode(&signed)?, signature })
    }
}

/// The header of a bundle that one of `keys` has signed.
pub fn verify(bytes: &[u8], keys: &[PublicKey]) -> Result<Header, BundleError> {
    let Claimed { header, signature } = Claimed::decode(bytes)?;
    let signed = bytes.get(..SIGNED_BYTES).ok_or(BundleError::NotABundle)?;
    let by = |key: &PublicKey| UnparsedPublicKey::new(&ED25519, &key.0).verify(signed, &signature).is_ok();
    if keys.iter().any(by) { Ok(header) } else { Err(BundleError::Signature) }
}

fn decode(signed: &[u8; SIGNED_BYTES]) -> Result<Header, BundleError> {
    let mut r = Reader::new("its header", signed);
    if r.array()? != MAGIC {
        return Err(BundleError::NotABundle);
    }
    match r.u32()? {
        BUNDLE_VERSION => {}
        other => return Err(BundleError::Layout(other)),
    }
    if r.u32()? != 0 {
        return Err(BundleError::Field(DecodeError::Value("reserved bytes")));
    }
    let mut formats = Formats::CURRENT;
    for format in Format::ALL {
        *formats.of_mut(format) = Versions { oldest: r.u16()?, newest: r.u16()? };
    }
    if !formats.are_sound() {
        return Err(BundleError::Field(DecodeError::Value("a format's versions")));
    }
    if r.array()? != [0; SPARE_BYTES] {
        return Err(BundleError::Field(DecodeError::Value("reserved bytes")));
    }
    let version = version_of(&r.array()?, "the release")?;
    let replaces_from = version_of(&r.array()?, "the oldest release that it replaces")?;
    let (kernel_bytes, initramfs_bytes) = (r.u64()?, r.u64()?);
    let total = kernel_bytes.checked_add(initramfs_bytes).ok_or(BundleError::Size)?;
    if kernel_bytes == 0 || initramfs_bytes == 0 || total > crate::slots::MOST_BYTES {
        return Err(BundleError::Size);
    }
    let kernel = Part { len_bytes: kernel_bytes, sha256: r.array()? };
    let initramfs = Part { len_bytes: initramfs_bytes, sha256: r.array()? };
    r.finish()?;
    Ok(Header { version, replaces_from, formats, kernel, initramfs })
}

fn version_of(field: &[u8; VERSION_TEXT_BYTES], what: &'static str) -> Result<Version, BundleError> {
    let fault = || BundleError::Version(what);
    let len = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let (text, rest) = field.split_at_checked(len).ok_or_else(fault)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(fault());
    }
    core::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(fault)
}

fn text_field(version: &Version, what: &'static str) -> Result<[u8; VERSION_TEXT_BYTES], BundleError> {
    let text: String = version.to_string();
    let mut field = [0; VERSION_TEXT_BYTES];
    field.get_mut(..text.len()).ok_or(BundleError::Version(what))?.copy_from_slice(text.as_bytes());
    Ok(field)
}

/// Whoever signs updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// From an Ed25519 public key (RFC 8032 §5.1.5).
    pub fn new(bytes: &[u8]) -> Result<Self, BundleError> {
        bytes.try_into().map(Self).map_err(|_| BundleError::Key)
    }

    /// A key a line, hexadecimal; empty lines and those that begin with `#` are skipped. At least one: a new key comes
    /// with a release that the old one has signed.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, BundleError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<Self> = lines
            .map(|line| hex::decode(line).map_err(|_| BundleError::Key).and_then(|bytes| Self::new(&bytes)))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(BundleError::Key) } else { Ok(keys) }
    }
}

impl fmt::Display for PublicKey {
    /// As [`PublicKey::parse_file`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// SHA-256 of bytes that come in pieces.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all that was taken.
    #[must_use]
    pub fn finish(self) -> [u8; SHA256_BYTES] {
        let mut out = [0; SHA256_BYTES];
        for (to, from) in out.iter_mut().zip(self.0.finish().as_ref()) {
            *to = *from;
        }
        out
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256")
    }
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
