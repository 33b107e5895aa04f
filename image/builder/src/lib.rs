//! From a raw disk to an OVA that ESXi takes, and from kernel and initramfs to a signed update.
//!
//! # What it owns
//!
//! The streamOptimized VMDK ([`vmdk`]), the OVF descriptor ([`ovf`], rendered from `image/ova/appliance.ovf` with the
//! numbers of `firmware-config/virtual-hardware.toml`, [`hardware`]), the manifest and the archive ([`ova`]); making
//! and signing of updates ([`mod@update`]).
//!
//! # Invariants
//!
//! - The same disk, version and sources give the same bytes: no clock, no random number, no machine's name gets in.
//! - Memory does not grow with the disk, but for four bytes per 32 MiB of its size.
//! - The archive appears under its name only when it is whole.
//!
//! # Flow
//!
//! raw disk → VMDK in an unnamed temporary file → its size and digest → OVF → manifest → archive: OVF, manifest, VMDK.
//! kernel, initramfs → their sizes and digests → header → signature → update: header, kernel, initramfs.

pub mod hardware;
pub mod ova;
pub mod ovf;
pub mod update;
pub mod vmdk;
