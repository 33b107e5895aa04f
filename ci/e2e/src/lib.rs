//! End-to-end scenarios: real processes, sockets, disks, initiators, browsers and VMs.
//!
//! - [`browser`]: a headless Chromium, driven by WebDriver.
//! - [`conformance`]: runs libiscsi's suite and judges each test.
//! - [`demo`]: starts `futago demo` in a directory of its own and drives it as an outside program would.
//! - [`checker`]: remembers every acknowledged block and tells a lost one.
//! - [`image`]: a file system image full of real files, and the proof that a copy holds them.
//! - [`initiator`]: a small iSCSI initiator that knows which of its writes were acknowledged.
//! - [`machines`]: two appliances as virtual machines, and a witness.
//! - [`namespace`]: a network of the scenario's own.
//! - [`system_disk`]: the appliance's system disk, as built or put together.
//! - [`tools`]: runs programs and fails with what they said.
//! - [`updates`]: releases of the appliance, and the updates that bring them.
//! - [`vm`]: virtual machines under QEMU.
//!
//! Each scenario stands in a file of its own below `tests/`, and has the computer to itself unless `.config/nextest.toml` says
//! otherwise. Test code only: it may unwrap.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod browser;
pub mod checker;
pub mod conformance;
pub mod demo;
pub mod image;
pub mod initiator;
pub mod machines;
pub mod namespace;
pub mod system_disk;
pub mod tools;
pub mod updates;
pub mod vm;
