//! Releases of the appliance that differ in their version alone, and updates that bring them, signed by a key of the test's.

use std::path::{Path, PathBuf};

use anyhow::Result;
use futago_image::update::{Request, build, make_key};
use update::{Formats, Version};

use crate::system_disk::{Release, release};
use crate::tools::futago;

/// A maker of releases.
#[derive(Debug)]
pub struct Maker {
    dir: PathBuf,
    key: PathBuf,
    public_key: PathBuf,
}

impl Maker {
    /// With a fresh key, below `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        let (key, public_key) = (dir.join("update.key"), dir.join("update.pub"));
        std::fs::write(&public_key, make_key(&key)?.to_string() + "\n")?;
        Ok(Self { dir: dir.to_owned(), key, public_key })
    }

    /// A release of the binary under test that takes this maker's updates.
    pub fn release(&self, version: &str) -> Result<Release> {
        self.release_of(version, &futago())
    }

    /// One of another binary.
    pub fn release_of(&self, version: &str, futago: &Path) -> Result<Release> {
        let dir = self.dir.join(format!("release-{version}"));
        std::fs::create_dir_all(&dir)?;
        let file = dir.join("release");
        std::fs::write(&file, version)?;
        let more = [
            format!("/etc/futago/release={}", file.display()),
            format!("/etc/futago/update.pub={}", self.public_key.display()),
        ];
        release(&dir, futago, &more)
    }

    /// The update with a release.
    pub fn update(&self, version: &str, release: &Release) -> Result<PathBuf> {
        self.update_with(version, release, Formats::CURRENT)
    }

    /// The update with a release that says it understands `formats`.
    pub fn update_with(&self, version: &str, release: &Release, formats: Formats) -> Result<PathBuf> {
        let out = self.dir.join(format!("futago-{version}.update"));
        let version: Version = version.parse()?;
        build(&Request {
            kernel: &release.kernel,
            initramfs: &release.initramfs,
            key: &self.key,
            version: &version,
            replaces_from: &Version::new(0, 0, 1),
            formats,
            out: &out,
        })?;
        Ok(out)
    }
}
