//! Takes a node's labels off its disks, when the node is to be no more: a node under a new identity refuses disks that are
//! labelled for another one (S12), and blank ones are all that it may take.
//!
//! Invariant: a disk that is not labelled for this very node is not written to.

use std::path::Path;

use anyhow::Context;
use control::paths;
use transport::Identity;

use crate::chain;

/// Forgets every disk of the node at `dir`, none of whose processes runs. A sentence for each disk that keeps what is on it.
///
/// # Errors
/// Settings or identity can't be used.
pub fn forget_disks(dir: &Path) -> anyhow::Result<Vec<String>> {
    let settings = crate::read_settings(dir)?;
    let identity_dir = dir.join(paths::IDENTITY_DIR);
    if !identity_dir.join(transport::identity::FILE).exists() {
        // Nothing was ever labelled for it.
        return Ok(Vec::new());
    }
    let identity = Identity::load(&identity_dir).context("identity")?;
    let kept = settings.disks.iter().filter_map(|path| {
        let forgotten = disk::Disk::open(dir.join(path), &disk::OpenOptions::default())
            .and_then(|disk| disk::forget(&disk, identity.node));
        forgotten.err().map(|error| format!("Disk {path} is left as it is: {}.", chain(&error)))
    });
    Ok(kept.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{ByteCount, ClusterId, NodeId};
    use disk::{Content, Disk, OpenOptions, Pool, Preallocate};

    fn labelled(dir: &Path, name: &str, node: NodeId) {
        let disk = Disk::create_file(dir.join(name), ByteCount(64 << 20), Preallocate::Sparse).unwrap();
        Pool::assemble(vec![disk], disk::Identity { cluster: ClusterId(7), node }).unwrap();
    }

    fn content(dir: &Path, name: &str) -> Content {
        disk::inspect(&Disk::open(dir.join(name), &OpenOptions::default()).unwrap()).unwrap()
    }

    #[test]
    fn only_this_node_s_disks_become_blank() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        let json = r#"{"version":1,"name":"a","role":"data","address":"192.0.2.1","disks":["own","other","foreign","gone"]}"#;
        std::fs::write(dir.join(paths::SETTINGS), json).unwrap();
        assert_eq!(forget_disks(dir).unwrap(), Vec::<String>::new(), "no identity yet");
        let me = Identity::load_or_create(&dir.join(paths::IDENTITY_DIR)).unwrap().node;
        labelled(dir, "own", me);
        labelled(dir, "other", NodeId(me.0 ^ 1));
        std::fs::write(dir.join("foreign"), vec![0x55; 64 << 20]).unwrap();

        let kept = forget_disks(dir).unwrap();
        assert_eq!(kept.len(), 3, "{kept:?}");
        assert!(kept[0].starts_with("Disk other is left") && kept[0].contains("belongs to node"), "{kept:?}");
        assert!(kept[1].starts_with("Disk foreign is left") && kept[2].starts_with("Disk gone is left"));
        assert!(matches!(content(dir, "own"), Content::Blank));
        assert!(matches!(content(dir, "other"), Content::Labelled(_)));
        assert!(std::fs::read(dir.join("foreign")).unwrap().iter().all(|byte| *byte == 0x55));

        // Another node takes it as a new one.
        let disk = Disk::open(dir.join("own"), &OpenOptions::default()).unwrap();
        Pool::assemble(vec![disk], disk::Identity { cluster: ClusterId(8), node: NodeId(9) }).unwrap();
        assert_eq!(forget_disks(dir).unwrap().len(), 4, "it is not this node's any more");
    }
}
