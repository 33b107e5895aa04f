//! `futago-image`: builds the appliance's OVA.

use anyhow::Context;
use clap::{Parser, Subcommand};
use futago_image::hardware::Hardware;
use futago_image::ova::{self, Request};
use std::path::PathBuf;

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
}

fn main() -> anyhow::Result<()> {
    let Command::Ova { disk, version, out } = Arguments::parse().command;
    let hardware = Hardware::of_the_appliance().context("firmware-config/virtual-hardware.toml")?;
    let summary = ova::build(&Request { disk: &disk, version: &version, out: &out }, &hardware)?;
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
