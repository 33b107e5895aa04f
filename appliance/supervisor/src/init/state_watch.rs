//! Watches the state disk while the services run: they go on without it, as everything that they call is in memory, but
//! somebody has to be told.
//!
//! # Invariants
//!
//! - A disk that hangs holds up only the thread that reads from it.
//! - What is wrong is told where the disk is not needed: on the console, and in [`paths::MACHINE_PROBLEMS`], which
//!   is in memory; the cluster manager passes it on.

use super::console::show;
use ::control::paths;
use anyhow::Context;
use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// How often the disk is read from.
const INTERVAL: Duration = Duration::from_secs(2);
/// A read that takes longer is told.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is read, past all caches; also its alignment in memory.
const BLOCK_BYTES: usize = 4096;
/// These threads call little.
const STACK_BYTES: usize = 128 << 10;

/// How the disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Good,
    /// A read failed, or the file system takes no more writes.
    Lost(String),
    /// A read has not come back.
    Silent,
}

impl Condition {
    /// One sentence or two for people; `None`: nothing is wrong.
    fn problem(&self) -> Option<String> {
        let what = match self {
            Self::Good => return None,
            Self::Lost(error) => format!("The disk with this node's state is lost ({error})."),
            Self::Silent => {
                format!(
                    "The disk with this node's state has not answered for {} seconds.",
                    PATIENCE.as_secs()
                )
            }
        };
        Some(format!(
            "{what} The node works on from memory, but can't keep what the cluster decides: bring the disk back, then \
             restart the node."
        ))
    }
}

/// Watches the file system that is mounted from `device` at `dir`, for ever.
pub(super) fn start(device: &Path, dir: &Path) -> anyhow::Result<()> {
    let disk = Disk::open(device, dir).with_context(|| device.display().to_string())?;
    let problems = dir.join(paths::MACHINE_PROBLEMS);
    let (sender, receiver) = sync_channel(0);
    let thread = |name: &str| std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES);
    thread("read-state-disk").spawn(move || {
        let mut disk = disk;
        while sender.send(disk.look()).is_ok() {
            std::thread::sleep(INTERVAL);
        }
    })?;
    thread("watch-state-disk").spawn(move || watch(&receiver, &problems, &mut |text| show(text)))?;
    Ok(())
}

/// Tells each change of the condition, until nobody looks at the disk any more.
fn watch(looks: &Receiver<Condition>, problems: &Path, tell: &mut dyn FnMut(&str)) {
    let mut last = Condition::Good;
    loop {
        let now = match looks.recv_timeout(PATIENCE) {
            Ok(condition) => condition,
            Err(RecvTimeoutError::Timeout) => Condition::Silent,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let text = now.problem().unwrap_or_default();
        if now != last {
            tell(if text.is_empty() { "The disk with this node's state answers again." } else { &text });
        } else if text.is_empty() {
            continue;
        }
        // Again and again: services that start anew begin with an empty folder.
        if let Err(error) = std::fs::write(problems, text)
            && now != last
        {
            tell(&format!("futago: {}: {error}", problems.display()));
        }
        last = now;
    }
}

/// The device, and the file system on it.
struct Disk {
    device: File,
    mounted_at: PathBuf,
    memory: Vec<u8>,
}

impl Disk {
    fn open(device: &Path, mounted_at: &Path) -> io::Result<Self> {
        let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or(0);
        let device = OpenOptions::new().read(true).custom_flags(direct).open(device)?;
        Ok(Self { device, mounted_at: mounted_at.to_owned(), memory: vec![0; 2 * BLOCK_BYTES] })
    }

    fn look(&mut self) -> Condition {
        let aligned = self.memory.as_ptr().align_offset(BLOCK_BYTES);
        let block = self.memory.get_mut(aligned..).and_then(|memory| memory.get_mut(..BLOCK_BYTES));
        // A disk that was removed has no blocks any more: that reads as its end.
        if let Err(error) = self.device.read_exact_at(block.unwrap_or_default(), 0) {
            let no_device = [Errno::NODEV, Errno::NXIO].map(Errno::raw_os_error);
            let gone = error.kind() == io::ErrorKind::UnexpectedEof
                || error.raw_os_error().is_some_and(|number| no_device.contains(&number));
            return Condition::Lost(if gone { "it is gone".into() } else { error.to_string() });
        }
        // After a failed write, the kernel takes no more of them.
        match rustix::fs::statvfs(&self.mounted_at) {
            Ok(status) if status.f_flag.contains(StatVfsMountFlags::RDONLY) => {
                Condition::Lost("it can't be written any more".into())
            }
            Ok(_) | Err(_) => Condition::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn a_disk_that_ends_is_gone() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        let mut disk = Disk::open(&path, dir.path()).unwrap();
        assert_eq!(disk.look(), Condition::Good);
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert_eq!(disk.look(), Condition::Lost("it is gone".into()));
    }

    #[test]
    fn each_change_is_told_once_and_left_for_the_cluster_manager() {
        let dir = tempfile::tempdir().unwrap();
        let problems = dir.path().join("problems");
        let (sender, receiver) = sync_channel(8);
        let lost = Condition::Lost("it is gone".into());
        for condition in [Condition::Good, lost.clone(), lost, Condition::Good] {
            sender.send(condition).unwrap();
        }
        drop(sender);
        let (mut told, mut left) = (Vec::new(), Vec::new());
        watch(&receiver, &problems, &mut |text| {
            left.push(std::fs::read_to_string(&problems).unwrap_or_default());
            told.push(text.to_owned());
        });
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("is lost (it is gone)") && told[1].ends_with("answers again."), "{told:?}");
        assert_eq!(left, ["", &told[0]]);
        assert_eq!(std::fs::read_to_string(&problems).unwrap(), "");
        assert!(Condition::Silent.problem().unwrap().contains("10 seconds"));
    }
}
