//! The archive: OVF, manifest and VMDK in a ustar file.
//!
//! The OVF comes first, as importers ask for; names, owner, mode and time of the members are fixed.

use crate::hardware::Hardware;
use crate::ovf;
use crate::vmdk::{self, Encoded, VmdkError};
use sha2::{Digest, Sha256};
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The members' time, 2000-01-01 UTC: the content says what an archive is, not when it was built.
const MEMBER_TIME_S: u64 = 946_684_800;

/// Members and the archive itself are readable by all.
const MODE: u32 = 0o644;

/// What a ustar header can say in its eleven octal digits; importers do not know the ways round that.
const MEMBER_LIMIT_BYTES: u64 = 8 << 30;

/// vSphere's clients size disks in MiB: a disk of a part of one would not be imported as what it is.
const MIB: u64 = 1 << 20;

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The raw system disk.
    pub disk: &'a Path,
    /// The product's version.
    pub version: &'a str,
    /// The archive to write.
    pub out: &'a Path,
}

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The disk.
    pub disk: Encoded,
    /// The archive's size.
    pub archive_bytes: u64,
    /// The archive's digest, hexadecimal.
    pub archive_sha256: String,
}

/// An archive that could not be built. Nothing stands under its name then, or what stood there before.
#[derive(Debug, thiserror::Error)]
pub enum OvaError {
    /// Not a version.
    #[error("version {0:?}: 1 to 64 of letters, digits, `.`, `+`, `-`, the first a letter or digit")]
    Version(String),
    /// The disk could not be opened or measured.
    #[error("disk {path}", path = .path.display())]
    Disk {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk is no whole number of MiB.
    #[error("disk {path} has {bytes} bytes, which is no whole number of MiB", path = .path.display())]
    DiskSize {
        /// Which.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The disk could not be encoded.
    #[error("disk {path} as a VMDK", path = .path.display())]
    Vmdk {
        /// Which.
        path: PathBuf,
        /// Why.
        source: VmdkError,
    },
    /// The VMDK is larger than an archive's header can say.
    #[error("the VMDK has {0} bytes; an OVA's member has less than 8 GiB")]
    TooLarge(u64),
    /// The descriptor could not be rendered.
    #[error("the OVF descriptor")]
    Template(#[from] askama::Error),
    /// The archive, or the temporary files beside it, could not be written.
    #[error("archive {path}", path = .path.display())]
    Out {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Builds an archive.
///
/// # Errors
/// See [`OvaError`].
pub fn build(request: &Request<'_>, hardware: &Hardware) -> Result<Summary, OvaError> {
    let Request { disk, version, out } = *request;
    check_version(version)?;
    let failed = |source| OvaError::Out { path: out.to_owned(), source };
    let name = format!("futago-{version}");
    let vmdk_name = format!("{name}-disk1.vmdk");
    let (mut raw, capacity_bytes) = open_disk(disk)?;

    let mut vmdk = tempfile::tempfile_in(folder(out)).map_err(failed)?;
    let encoded = vmdk::encode(&mut raw, capacity_bytes, &vmdk_name, &mut BufWriter::new(&mut vmdk))
        .map_err(|source| OvaError::Vmdk { path: disk.to_owned(), source })?;
    if encoded.file_bytes >= MEMBER_LIMIT_BYTES {
        return Err(OvaError::TooLarge(encoded.file_bytes));
    }
    let vmdk_sha256 = digest_of(&mut vmdk).map_err(failed)?;
    let descriptor = ovf::render(
        version,
        hardware,
        &ovf::Disk {
            file_name: vmdk_name.clone(),
            file_bytes: encoded.file_bytes,
            capacity_bytes,
            populated_bytes: encoded.populated_bytes(),
        },
    )?;
    let ovf_name = format!("{name}.ovf");
    let manifest = format!(
        "{}{}",
        manifest_line(&ovf_name, &hex::encode(Sha256::digest(&descriptor))),
        manifest_line(&vmdk_name, &vmdk_sha256)
    );
    let members: [(&str, u64, &mut dyn Read); 3] = [
        (&ovf_name, descriptor.len() as u64, &mut descriptor.as_bytes()),
        (&format!("{name}.mf"), manifest.len() as u64, &mut manifest.as_bytes()),
        (&vmdk_name, encoded.file_bytes, &mut vmdk),
    ];
    let (archive_bytes, archive_sha256) = write_archive(out, members).map_err(failed)?;
    Ok(Summary { disk: encoded, archive_bytes, archive_sha256 })
}

/// A version becomes a part of file names: nothing in it may need quoting.
fn check_version(version: &str) -> Result<(), OvaError> {
    let plain = version.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-".contains(&b));
    let first = version.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if plain && first && version.len() <= 64 { Ok(()) } else { Err(OvaError::Version(version.to_owned())) }
}

/// Opens the disk, a file or a block device, and tells its size.
fn open_disk(path: &Path) -> Result<(File, u64), OvaError> {
    let measure = || {
        let mut disk = File::open(path)?;
        let bytes = disk.seek(SeekFrom::End(0))?;
        disk.rewind()?;
        Ok((disk, bytes))
    };
    let (disk, bytes) = measure().map_err(|source| OvaError::Disk { path: path.to_owned(), source })?;
    if bytes.is_multiple_of(MIB) {
        Ok((disk, bytes))
    } else {
        Err(OvaError::DiskSize { path: path.to_owned(), bytes })
    }
}

/// Where the temporary files go: beside the archive, which has about their size.
fn folder(out: &Path) -> &Path {
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// SHA-256 of the whole file, hexadecimal; the file stands at its start afterwards.
fn digest_of(file: &mut File) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    file.rewind()?;
    loop {
        let read = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        digest.update(bytes);
    }
    file.rewind()?;
    Ok(hex::encode(digest.finalize()))
}

/// One line of the manifest, in the one form that every importer reads.
fn manifest_line(name: &str, sha256: &str) -> String {
    format!("SHA256({name})= {sha256}\n")
}

/// Writes the archive beside its place and moves it there; returns its size and digest.
fn write_archive(out: &Path, members: [(&str, u64, &mut dyn Read); 3]) -> io::Result<(u64, String)> {
    let mut file = NamedTempFile::new_in(folder(out))?;
    let mut archive = tar::Builder::new(BufWriter::new(file.as_file_mut()));
    for (name, bytes, content) in members {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(MODE);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(MEMBER_TIME_S);
        header.set_size(bytes);
        archive.append_data(&mut header, name, content)?;
    }
    archive.into_inner()?.flush()?;
    let bytes = file.as_file().metadata()?.len();
    let sha256 = digest_of(file.as_file_mut())?;
    file.as_file().set_permissions(Permissions::from_mode(MODE))?;
    file.as_file().sync_all()?;
    file.persist(out)?;
    Ok((bytes, sha256))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A disk of `mib` MiB with some data at its start, in its middle and at its end.
    fn disk(folder: &Path, mib: u64) -> PathBuf {
        let path = folder.join("disk.img");
        let mut file = File::create(&path).unwrap();
        file.set_len(mib << 20).unwrap();
        for offset in [0, (mib << 20) / 2, (mib << 20) - 512] {
            file.seek(SeekFrom::Start(offset)).unwrap();
            file.write_all(&[0xa5; 512]).unwrap();
        }
        path
    }

    fn build_at(disk: &Path, version: &str, out: &Path) -> Result<Summary, OvaError> {
        build(&Request { disk, version, out }, &Hardware::of_the_appliance().unwrap())
    }

    #[test]
    fn members_come_in_order_with_fixed_owner_mode_and_time_and_match_the_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("x.ova");
        let summary = build_at(&disk(folder.path(), 5), "1.2.3-rc.1", &out).unwrap();
        assert_eq!(summary.disk.grains, 80);
        assert_eq!(summary.disk.stored_grains, 3);
        assert_eq!(summary.archive_bytes, fs::metadata(&out).unwrap().len());
        assert_eq!(summary.archive_sha256, hex::encode(Sha256::digest(fs::read(&out).unwrap())));
        assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, MODE);

        let mut members = Vec::new();
        for entry in tar::Archive::new(File::open(&out).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            assert!(header.as_ustar().is_some());
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert_eq!((header.mode().unwrap(), header.mtime().unwrap()), (MODE, MEMBER_TIME_S));
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            members.push((entry.path().unwrap().to_str().unwrap().to_owned(), bytes));
        }
        let [(ovf, descriptor), (mf, manifest), (vmdk, data)] = &members[..] else { panic!("{members:?}") };
        assert_eq!(
            (ovf.as_str(), mf.as_str(), vmdk.as_str()),
            ("futago-1.2.3-rc.1.ovf", "futago-1.2.3-rc.1.mf", "futago-1.2.3-rc.1-disk1.vmdk")
        );
        let wanted = format!(
            "SHA256({ovf})= {}\nSHA256({vmdk})= {}\n",
            hex::encode(Sha256::digest(descriptor)),
            hex::encode(Sha256::digest(data))
        );
        assert_eq!(String::from_utf8_lossy(manifest), wanted);
        let descriptor = String::from_utf8_lossy(descriptor);
        assert!(descriptor.contains(&format!("ovf:size=\"{}\"", data.len())));
        assert!(descriptor.contains("ovf:capacity=\"5242880\""));
    }

    #[test]
    fn the_same_disk_gives_the_same_archive() {
        let folder = tempfile::tempdir().unwrap();
        let raw = disk(folder.path(), 3);
        let first = build_at(&raw, "1", &folder.path().join("first.ova")).unwrap();
        let copy = folder.path().join("elsewhere.raw");
        fs::copy(&raw, &copy).unwrap();
        let second = build_at(&copy, "1", &folder.path().join("second.ova")).unwrap();
        assert_eq!(first, second);
        let other = build_at(&raw, "2", &folder.path().join("other.ova")).unwrap();
        assert_ne!(first.archive_sha256, other.archive_sha256);
    }

    #[test]
    fn errors_say_what_and_why_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("x.ova");
        let good = disk(folder.path(), 1);
        for version in ["", "1/2", "-1", "1 2", "ä", &"1".repeat(65)] {
            assert!(matches!(build_at(&good, version, &out), Err(OvaError::Version(v)) if v == version));
        }
        let missing = build_at(&folder.path().join("none"), "1", &out).unwrap_err();
        assert!(missing.to_string().ends_with("none"), "{missing}");
        assert!(matches!(missing, OvaError::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound));

        let odd = folder.path().join("odd");
        fs::write(&odd, vec![0; (1 << 20) + 512]).unwrap();
        let error = build_at(&odd, "1", &out).unwrap_err();
        assert!(error.to_string().contains("1049088 bytes"), "{error}");
        fs::write(&odd, b"").unwrap();
        let error = build_at(&odd, "1", &out).unwrap_err();
        assert!(matches!(error, OvaError::Vmdk { source: VmdkError::Empty, .. }), "{error}");

        let error = build_at(&good, "1", &folder.path().join("no/such/x.ova")).unwrap_err();
        assert!(matches!(error, OvaError::Out { .. }), "{error}");
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["disk.img", "odd"]);
    }

    #[test]
    fn a_failed_build_keeps_the_archive_that_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("x.ova");
        fs::write(&out, b"before").unwrap();
        build_at(&folder.path().join("none"), "1", &out).unwrap_err();
        assert_eq!(fs::read(&out).unwrap(), b"before");
        build_at(&disk(folder.path(), 1), "1", &out).unwrap();
        assert!(fs::metadata(&out).unwrap().len() > 1024);
    }
}
