//! `futago-image`: builds the appliance's OVA and its updates.

use anyhow::Context;
use clap::{Parser, Subcommand};
use futago_image::hardware::Hardware;
use futago_image::ova::{self, Request};
use futago_image::update::{self as bundle, Request as BundleRequest};
use std::path::{Path, PathBuf};
use update::rule::REPLACES_FROM;
use update::{Formats, Version};

/// Builds what is deployed from what was built.
#[derive(Parser)]
#[command(name = "futago-image", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Packs a raw disk into an OVA for ESXi.
    Ova {
        /// The raw system disk, a whole number of MiB.
        #[arg(long, value_name = "RAW")]
        disk: PathBuf,
        /// The product's version: letters, digits, `.`, `+`, `-`.
        #[arg(long, value_name = "V")]
        version: String,
        /// The archive to write; an existing one is replaced when the new one is whole.
        #[arg(long, value_name = "X.ova")]
        out: PathBuf,
    },
    /// Makes a key pair that signs updates; prints the public key.
    Key {
        /// The private key's file, which must not exist yet.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Prints the public key, the line for an image's `/etc/futago/update.pub`.
    PublicKey {
        /// The private key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Packs kernel and initramfs into a signed update.
    Bundle {
        /// The kernel.
        #[arg(long)]
        kernel: PathBuf,
        /// The initramfs.
        #[arg(long)]
        initramfs: PathBuf,
        /// The private key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The release's version (semantic versioning).
        #[arg(long, value_name = "V")]
        version: Version,
        /// The oldest release that it may replace.
        #[arg(long, value_name = "V", default_value = REPLACES_FROM)]
        replaces_from: Version,
        /// The file to write [default: futago-V.update]
        #[arg(long, value_name = "X.update")]
        out: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Ova { disk, version, out } => build_ova(&disk, &version, &out),
        Command::Key { out } => {
            println!("{}", bundle::make_key(&out)?);
            Ok(())
        }
        Command::PublicKey { key } => {
            println!("{}", bundle::public_key(&key)?);
            Ok(())
        }
        Command::Bundle { kernel, initramfs, key, version, replaces_from, out } => {
            let out = out.unwrap_or_else(|| format!("futago-{version}.update").into());
            let header = bundle::build(&BundleRequest {
                kernel: &kernel,
                initramfs: &initramfs,
                key: &key,
                version: &version,
                replaces_from: &replaces_from,
                formats: Formats::CURRENT,
                out: &out,
            })?;
            println!("{}: {} bytes; release {version}", out.display(), header.bundle_bytes());
            Ok(())
        }
    }
}

fn build_ova(disk: &Path, version: &str, out: &Path) -> anyhow::Result<()> {
    let hardware = Hardware::of_the_appliance().context("firmware-config/virtual-hardware.toml")?;
    let summary = ova::build(&Request { disk, version, out }, &hardware)?;
    println!(
        "{}: {} bytes; disk of {} MiB, {} of its {} grains hold data; SHA-256 {}",
        out.display(),
        summary.archive_bytes,
        summary.disk.capacity_bytes >> 20,
        summary.disk.stored_grains,
        summary.disk.grains,
        summary.archive_sha256
    );
    Ok(())
}
