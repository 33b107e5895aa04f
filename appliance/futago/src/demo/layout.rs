//! The demo's nodes, addresses and files (docs/demo.md keeps the contract that outside programs rely on).

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base::ByteCount;
use control::settings::{Ports, Role, Settings};

/// One node of the demo.
#[derive(Clone, Copy, Debug)]
pub(super) struct DemoNode {
    pub(super) name: &'static str,
    pub(super) address: Ipv4Addr,
    pub(super) role: Role,
}

/// The nodes; the first one creates the cluster.
pub(super) const NODES: [DemoNode; 3] = [
    DemoNode { name: "a", address: Ipv4Addr::new(127, 0, 0, 11), role: Role::Data },
    DemoNode { name: "b", address: Ipv4Addr::new(127, 0, 0, 12), role: Role::Data },
    DemoNode { name: "witness", address: Ipv4Addr::new(127, 0, 0, 13), role: Role::Witness },
];

/// Where initiators connect.
pub(super) const PORTAL: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 50), 3260);
/// The target.
pub(super) const IQN: &str = "iqn.2026-11.local.futago:demo";
/// The volume behind LUN 0.
pub(super) const VOLUME: &str = "demo";
/// The console's user.
pub(super) const USER: &str = "admin";

const PORTS: Ports = Ports { cluster: 7780, replication: 7788, web: 8443 };
/// Space on each disk beside the volume: labels, activity log, bitmap, allocation slack.
const DISK_OVERHEAD: ByteCount = ByteCount::mib(192);

impl DemoNode {
    /// The node with this name.
    pub(super) fn named(name: &str) -> anyhow::Result<Self> {
        NODES
            .into_iter()
            .find(|node| node.name == name)
            .with_context(|| format!("{name:?} is no node of the demo: a, b or witness"))
    }

    /// Its directory below the demo's.
    pub(super) fn dir(&self, demo: &Path) -> PathBuf {
        demo.join(self.name)
    }

    /// Its console, if it has one.
    pub(super) fn web(&self) -> Option<String> {
        (self.role == Role::Data).then(|| format!("https://{}:{}", self.address, PORTS.web))
    }

    /// Where its peers reach its cluster manager.
    pub(super) fn cluster_address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), PORTS.cluster)
    }

    fn settings(&self, dir: &Path) -> Settings {
        let disks = match self.role {
            Role::Data => vec![dir.join("disk0.img").to_string_lossy().into_owned()],
            Role::Witness => Vec::new(),
        };
        Settings {
            version: 1,
            name: self.name.into(),
            role: self.role,
            address: IpAddr::V4(self.address),
            ports: PORTS,
            portal_interface: None,
            portal_prefix_len: 32,
            gateway: None,
            mirror: None,
            dns: Vec::new(),
            ntp: Vec::new(),
            disks,
            time_scale_percent: 100,
            web: self.role == Role::Data,
        }
    }

    /// Makes the node's directory, settings and disk. Left as they are where they exist.
    pub(super) fn create(&self, demo: &Path, volume: ByteCount) -> anyhow::Result<()> {
        let dir = self.dir(demo);
        if dir.join(control::paths::SETTINGS).exists() {
            return Ok(());
        }
        // The disk is in it: for its owner only.
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.with_context(|| format!("{}: can't be created", dir.display()))?;
        let dir = dir.canonicalize()?;
        if self.role == Role::Data {
            let path = dir.join("disk0.img");
            reserve(&path, volume.0.saturating_add(DISK_OVERHEAD.0))
                .with_context(|| format!("{}: no room for a disk of {volume}", path.display()))?;
        }
        // Last: its presence says that the rest is complete.
        write_private(&dir.join(control::paths::SETTINGS), &serde_json::to_vec_pretty(&self.settings(&dir))?)
    }

    /// Whether the node's directory is one that [`Self::create`] made or began to make, or is still to be made.
    pub(super) fn is_ours(&self, demo: &Path) -> bool {
        let dir = self.dir(demo);
        let begun =
            |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() == "disk0.img");
        dir.join(control::paths::SETTINGS).exists()
            || !dir.exists()
            || fs::read_dir(&dir).is_ok_and(|mut entries| entries.all(begun))
    }

    fn listeners(&self) -> Vec<SocketAddr> {
        let address = IpAddr::V4(self.address);
        match self.role {
            Role::Data => [PORTS.cluster, PORTS.replication, PORTS.web]
                .into_iter()
                .map(|port| SocketAddr::new(address, port))
                .collect(),
            Role::Witness => vec![SocketAddr::new(address, PORTS.cluster)],
        }
    }

    /// Fails with the address's name if one of the node's addresses can't be bound.
    pub(super) fn check_addresses(&self) -> anyhow::Result<()> {
        self.listeners().into_iter().try_for_each(check_address)
    }
}

/// Fails with the address's name if it can't be bound.
pub(super) fn check_address(address: SocketAddr) -> anyhow::Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) => bail!("{address}: {error}"),
    }
}

/// The portal's address.
pub(super) fn portal() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(PORTAL.0), PORTAL.1)
}

/// A file of `len_bytes` whose space is really there; nothing is left behind on failure.
fn reserve(path: &Path, len_bytes: u64) -> anyhow::Result<()> {
    // Asked first: an allocation that fails halfway fills the disk for everybody for a moment.
    let room = rustix::fs::statvfs(path.parent().unwrap_or(path))?;
    let free_bytes = room.f_bavail.saturating_mul(room.f_frsize);
    if free_bytes < len_bytes {
        bail!("no space left: {} free, {} needed", ByteCount(free_bytes), ByteCount(len_bytes));
    }
    let file = fs::File::create_new(path)?;
    let reserved = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len_bytes);
    if reserved.is_err() {
        let _ = fs::remove_file(path);
    }
    Ok(reserved?)
}

/// Replaces `path` as a whole, readable by its owner only: readers see the old or the new content.
pub(super) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().with_context(|| format!("{}: can't be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_s_directory_is_ours() {
        let demo = std::env::temp_dir().join(format!("futago-layout-{}", std::process::id()));
        let [node, ..] = NODES;
        let dir = node.dir(&demo);
        assert!(node.is_ours(&demo), "still to be made");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("disk0.img"), "").unwrap();
        assert!(node.is_ours(&demo), "cut short");
        fs::write(dir.join("letter"), "dear").unwrap();
        assert!(!node.is_ours(&demo), "somebody else's");
        fs::write(dir.join(control::paths::SETTINGS), "{}").unwrap();
        assert!(node.is_ours(&demo));
        fs::remove_dir_all(&demo).unwrap();
    }
}
