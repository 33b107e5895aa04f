//! The system disk that the machine was started from.

use super::direct::Direct;
use super::installation::Boot;
use super::slot_volume::Storage;
use crate::init::{slots, system_disk};
use anyhow::Context;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use update::slots::Slot;

/// Its slots and the boot loader's variables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemDisk {
    /// The slot that runs.
    pub(crate) running: Slot,
    /// It was started by hand, for once.
    pub(crate) manual: bool,
}

/// A slot, opened one way or the other.
#[derive(Debug)]
pub(super) enum Device {
    Written(File),
    Medium(Direct),
}

impl Boot for SystemDisk {
    type Slot = Device;

    fn running(&self) -> Slot {
        self.running
    }

    fn is_manual(&self) -> bool {
        self.manual
    }

    fn variables(&self) -> anyhow::Result<BTreeMap<String, String>> {
        slots::variables()
    }

    fn set(&self, variables: &[(&str, &str)]) -> anyhow::Result<()> {
        slots::change(variables)
    }

    fn open(&self, slot: Slot) -> anyhow::Result<Device> {
        let path = device(slot)?;
        let file = OpenOptions::new().read(true).write(true).open(&path);
        file.map(Device::Written).with_context(|| path.display().to_string())
    }

    fn open_medium(&self, slot: Slot) -> anyhow::Result<Device> {
        let path = device(slot)?;
        Direct::open(&path).map(Device::Medium).with_context(|| path.display().to_string())
    }
}

fn device(slot: Slot) -> anyhow::Result<PathBuf> {
    system_disk::partition(slot.partition()).context("the system disk is gone")
}

impl Storage for Device {
    fn sync(&mut self) -> io::Result<()> {
        match self {
            Self::Written(file) => file.sync_all(),
            Self::Medium(_) => Ok(()),
        }
    }
}

impl Read for Device {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Written(file) => file.read(out),
            Self::Medium(direct) => direct.read(out),
        }
    }
}

impl Seek for Device {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Written(file) => file.seek(to),
            Self::Medium(direct) => direct.seek(to),
        }
    }
}

impl Write for Device {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Written(file) => file.write(bytes),
            Self::Medium(direct) => direct.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Written(file) => file.flush(),
            Self::Medium(direct) => direct.flush(),
        }
    }
}
