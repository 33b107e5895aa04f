//! The appliance's system disk for a test: Buildroot's where `ci/image` has left one, else the distribution's kernel and
//! GRUB with the binary under test, put together by the image's own scripts. `FUTAGO_DISK` names another disk, or says
//! `distribution`.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::tools::{self, repository, run};
use crate::vm;

/// Drivers and file systems that the disk needs, on top of the appliance's.
const MODULES: &str = "ext4 vfat nls_cp437 nls_iso8859-1 nls_ascii nls_utf8";
/// GRUB's environment block (GRUB's `lib/envblk.c`).
const ENVIRONMENT_BYTES: usize = 1024;

/// A raw disk of one test's own.
#[derive(Debug)]
pub struct SystemDisk {
    pub path: PathBuf,
    /// Made by Buildroot: its GRUB has our patches (`image/patches/grub2`).
    pub built: bool,
}

impl SystemDisk {
    /// A fresh disk below `dir`.
    pub fn make(dir: &Path) -> Result<Self> {
        let path = dir.join("system.img");
        let built = built()?;
        if let Some(built) = &built {
            println!("system disk: {}", built.display());
            run("cp", &["--sparse=always", &text(built), &text(&path)])?;
        } else {
            println!("system disk: the distribution's kernel and GRUB");
            assemble(dir, &path, &release(dir, &tools::futago(), &[])?)?;
        }
        Ok(Self { path, built: built.is_some() })
    }

    /// A fresh disk below `dir` that holds `release`, whatever a build has left.
    pub fn of(dir: &Path, release: &Release) -> Result<Self> {
        let path = dir.join("system.img");
        assemble(dir, &path, release)?;
        Ok(Self { path, built: false })
    }

    /// All that a partition holds.
    pub fn content(&self, partition: &str) -> Result<Vec<u8>> {
        let (begin, len) = Self::extent(partition)?;
        let mut content = vec![0; usize::try_from(len)?];
        std::fs::File::open(&self.path)?.read_exact_at(&mut content, begin)?;
        Ok(content)
    }

    /// Another one like it.
    pub fn copy(&self, path: &Path) -> Result<Self> {
        run("cp", &["--sparse=always", &text(&self.path), &text(path)])?;
        Ok(Self { path: path.to_owned(), built: self.built })
    }

    /// Where a partition begins and how long it is, in bytes, by `firmware-config/partitions`.
    fn extent(name: &str) -> Result<(u64, u64)> {
        let table = std::fs::read_to_string(repository().join("firmware-config/partitions"))?;
        let mut begin_mib = 1;
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let [_, label, size, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                bail!("{line}")
            };
            let mib: u64 = size.strip_suffix('M').context("a size in MiB")?.parse()?;
            if label == name {
                return Ok((begin_mib << 20, mib << 20));
            }
            begin_mib += mib;
        }
        bail!("no partition {name}")
    }

    /// mtools' word for a FAT partition.
    fn fat(&self, name: &str) -> Result<String> {
        Ok(format!("{}@@{}", self.path.display(), Self::extent(name)?.0))
    }

    /// Replaces a file of a FAT partition.
    pub fn write_file(&self, partition: &str, file: &str, content: &[u8]) -> Result<()> {
        let source = self.path.with_extension("file");
        std::fs::write(&source, content)?;
        run("mcopy", &["-o", "-i", &self.fat(partition)?, &text(&source), &format!("::{file}")]).map(drop)
    }

    /// Removes a file of a FAT partition.
    pub fn remove_file(&self, partition: &str, file: &str) -> Result<()> {
        run("mdel", &["-i", &self.fat(partition)?, &format!("::{file}")]).map(drop)
    }

    /// Sets GRUB's variables, in place as GRUB itself would.
    pub fn set_environment(&self, lines: &str) -> Result<()> {
        let mut block = format!("# GRUB Environment Block\n{lines}").into_bytes();
        block.resize(ENVIRONMENT_BYTES, b'#');
        self.write_file("futago-esp", "boot/grub/grubenv", &block)
    }

    /// GRUB's variables.
    pub fn environment(&self) -> Result<String> {
        let block = run("mtype", &["-i", &self.fat("futago-esp")?, "::boot/grub/grubenv"])?;
        let lines: Vec<&str> = block.lines().filter(|line| !line.starts_with('#')).collect();
        Ok(lines.join("\n"))
    }

    /// Makes the state partition's file system with these settings on it.
    pub fn set_settings(&self, dir: &Path, settings: &Value) -> Result<()> {
        let (begin, len) = Self::extent("futago-state")?;
        let content = dir.join("state");
        std::fs::create_dir_all(&content)?;
        std::fs::write(content.join("settings.json"), settings.to_string())?;
        let offset = format!("offset={begin}");
        let (from, to, kib) = (text(&content), text(&self.path), (len >> 10).to_string());
        let words = [
            "-q",
            "-F",
            "-t",
            "ext4",
            "-L",
            "futago-state",
            "-E",
            &offset,
            "-d",
            &from,
            &to,
            &format!("{kib}k"),
        ];
        run("mke2fs", &words).map(drop)
    }

    /// Overwrites a stretch of the state partition with nonsense.
    pub fn damage_state(&self, from: u64, len: usize) -> Result<()> {
        let (begin, _) = Self::extent("futago-state")?;
        let disk = OpenOptions::new().write(true).open(&self.path)?;
        Ok(disk.write_all_at(&vec![0xa5; len], begin + from)?)
    }
}

/// The disk that a build has left.
fn built() -> Result<Option<PathBuf>> {
    match std::env::var_os("FUTAGO_DISK").map(PathBuf::from) {
        Some(choice) if choice.as_os_str() == "distribution" => Ok(None),
        Some(disk) if disk.exists() => Ok(Some(disk)),
        Some(missing) => bail!("FUTAGO_DISK: there is no {}", missing.display()),
        None => Ok(Some(repository().join("image/out/disk.img")).filter(|disk| disk.exists())),
    }
}

/// What goes into a slot.
#[derive(Clone, Debug)]
pub struct Release {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

/// The distribution's kernel and a binary, with more files in its initramfs, `DEST=FILE` each.
pub fn release(dir: &Path, futago: &Path, more: &[String]) -> Result<Release> {
    let kernel = vm::kernel()?;
    let plain = vm::system_initramfs_with(dir, &kernel, MODULES, futago, more)?;
    run("gzip", &["-1", "-n", "-f", &text(&plain)])?;
    Ok(Release { kernel: kernel.join("vmlinuz"), initramfs: plain.with_extension("cpio.gz") })
}

fn assemble(dir: &Path, out: &Path, release: &Release) -> Result<()> {
    let board = |name: &str| text(&repository().join("image/board").join(name));
    let grub = dir.join("grub");
    run(&board("grub"), &[&text(&grub)])?;
    let part = |name: &str| text(&grub.join(name));
    let words = [&text(out), &text(&release.kernel), &text(&release.initramfs)];
    let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
    let parts = [part("boot.img"), part("core.img"), part("bootx64.efi")];
    let all: Vec<&str> = words.into_iter().chain(parts.iter().map(String::as_str)).collect();
    tools::run(&board("assemble"), &all).map(drop)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
