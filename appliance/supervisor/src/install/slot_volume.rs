//! What is in a slot: a FAT file system of its own making, with kernel and initramfs, as `image/board/assemble` makes it.
//!
//! Invariant: until [`name`] the volume holds no file that GRUB looks for.

use super::bundle::{Bundle, CHUNK_BYTES, Content};
use anyhow::{Context, bail};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use update::slots::{INITRAMFS, KERNEL, SLOT_BYTES};
use update::{Header, Part};

/// More than boot sector, both tables and the root folder take.
const TABLES_BYTES: usize = 1 << 20;
/// With it, 64 MiB are FAT16, as GRUB and firmware know it best.
const CLUSTER_BYTES: u32 = 8 << 10;
/// As the image's: `image/board/assemble`.
const LABEL: [u8; 11] = *b"FUTAGO     ";
const VOLUME_ID: u32 = 0x4654_0002;

/// Names while they are not whole, and afterwards. The kernel gets its name last: without it nothing is started.
const FILES: [(&str, &str); 2] = [("initramfs.new", INITRAMFS), ("kernel.new", KERNEL)];

/// A slot's bytes.
pub(super) trait Storage: Read + Write + Seek {
    /// Returns when everything written is on the medium.
    fn sync(&mut self) -> io::Result<()>;
}

/// Wipes the slot and fills it, under names that GRUB does not know.
pub(super) fn write<S: Storage>(
    storage: &mut S,
    bundle: &Bundle,
    advance: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    // From here on nothing that was there is found any more, even if the power fails while the new tables are written.
    storage.seek(SeekFrom::Start(0))?;
    storage.write_all(&vec![0; TABLES_BYTES])?;
    storage.sync()?;
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat16)
        .bytes_per_cluster(CLUSTER_BYTES)
        .total_sectors(u32::try_from(SLOT_BYTES / 512).unwrap_or(u32::MAX))
        .volume_label(LABEL)
        .volume_id(VOLUME_ID);
    storage.seek(SeekFrom::Start(0))?;
    fatfs::format_volume(&mut *storage, options).context("new file system")?;
    let volume = open(storage)?;
    for ((name, _), content) in FILES.iter().zip([bundle.initramfs(), bundle.kernel()]) {
        copy(&volume, name, &content, advance).with_context(|| (*name).to_owned())?;
    }
    volume.unmount().context("file system")?;
    Ok(storage.sync()?)
}

fn copy<S: Storage>(
    volume: &FileSystem<&mut S>,
    name: &str,
    content: &Content<'_>,
    advance: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let mut file = volume.root_dir().create_file(name)?;
    content.each_chunk(|chunk| {
        file.write_all(chunk)?;
        advance(chunk.len() as u64);
        Ok(())
    })?;
    Ok(file.flush()?)
}

/// Reads the slot and compares what is in its files with what was signed.
pub(super) fn check<S: Storage>(
    medium: &mut S,
    header: &Header,
    advance: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let volume = open(medium)?;
    for ((name, _), part) in FILES.iter().zip([header.initramfs, header.kernel]) {
        compare(&volume, name, &part, advance).with_context(|| (*name).to_owned())?;
    }
    Ok(())
}

fn compare<S: Storage>(
    volume: &FileSystem<&mut S>,
    name: &str,
    part: &Part,
    advance: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let mut file = volume.root_dir().open_file(name)?;
    let found = Part::measure(&mut vec![0; CHUNK_BYTES], |memory| {
        let len_bytes = file.read(memory)?;
        advance(len_bytes as u64);
        Ok::<_, io::Error>(len_bytes)
    })?;
    if found != *part {
        bail!("other bytes came back");
    }
    Ok(())
}

/// Gives the files their names.
pub(super) fn name<S: Storage>(storage: &mut S) -> anyhow::Result<()> {
    for (from, to) in FILES {
        let volume = open(storage)?;
        volume.root_dir().rename(from, &volume.root_dir(), to).with_context(|| to.to_owned())?;
        volume.unmount().context("file system")?;
        storage.sync()?;
    }
    Ok(())
}

fn open<S: Storage>(storage: &mut S) -> anyhow::Result<FileSystem<&mut S>> {
    storage.seek(SeekFrom::Start(0))?;
    FileSystem::new(storage, FsOptions::new()).context("file system")
}
