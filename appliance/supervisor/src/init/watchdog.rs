//! The hardware watchdog: a device that restarts the machine unless it is fed in time.
//!
//! # Invariants
//!
//! - It is fed by the loop that supervises the services, never by a thread: what it proves is that this loop turns.
//! - A machine without one, or one whose watchdog fails, works as before; only the log knows.
//!
//! # Phases
//!
//! | phase | time-out | fed |
//! |---|---|---|
//! | boot, until there are settings | [`BOOT`]: a file system check may take its time | between steps, and by the loop that waits |
//! | the services run | [`RUNNING`] | by their loop |
//! | the way down | [`SHUTDOWN`]: the services' grace, and disks that are slow to flush | no more |
//!
//! It stays armed on the way down: a machine that hangs there serves nobody and can't be asked anything, so a restart, after
//! which somebody may press the button again, is the lesser evil. The kernel stops the device itself in its last step. It is disarmed
//! only where the kernel has refused to power off: then a restart is not what was asked for.
//!
//! A suspended machine's devices stand still with it. The firmware may have armed the device before: until it is opened,
//! the kernel feeds it (`CONFIG_WATCHDOG_HANDLE_BOOT_ENABLED`).
//!
//! Source: the kernel's documentation, `watchdog/watchdog-api.rst`.

use anyhow::Context;
use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The first watchdog that the kernel knows.
const DEVICE: &str = "/dev/watchdog";
/// Time-out while the machine is prepared.
const BOOT: Duration = Duration::from_secs(600);
/// Time-out while the services run.
const RUNNING: Duration = Duration::from_secs(30);
/// Time for the whole way down.
const SHUTDOWN: Duration = Duration::from_secs(300);
/// So often within a time-out it is fed.
const MEALS: u32 = 4;

/// `WDIOC_SETTIMEOUT`: takes seconds, gives back what the device has made of them.
const SET_TIMEOUT: rustix::ioctl::Opcode = opcode::read_write::<i32>(b'W', 6);
/// Anything but [`DISARM`] feeds it.
const FEED: &[u8] = b"\0";
/// The last byte before the device is closed, for it to stop: the "magic close".
const DISARM: &[u8] = b"V";

/// The device, once it is armed; by default there is none.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    armed: Option<Armed>,
}

#[derive(Debug)]
struct Armed {
    device: File,
    timeout: Duration,
    /// When it is to be fed; `None`: no more.
    due: Option<Instant>,
    /// A failure to feed it has been told.
    told: bool,
}

impl Watchdog {
    /// Arms the machine's watchdog, if it has one, for [`BOOT`].
    pub(crate) fn open() -> anyhow::Result<Self> {
        Self::open_at(Path::new(DEVICE))
    }

    fn open_at(path: &Path) -> anyhow::Result<Self> {
        let device = match OpenOptions::new().write(true).open(path) {
            // A device without hardware below it counts as none.
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    || [Errno::NODEV, Errno::NXIO]
                        .iter()
                        .any(|none| error.raw_os_error() == Some(none.raw_os_error())) =>
            {
                return Ok(Self::default());
            }
            opened => opened.with_context(|| path.display().to_string())?,
        };
        let mut armed = Armed { device, timeout: RUNNING, due: None, told: false };
        armed.set(BOOT);
        armed.feed();
        Ok(Self { armed: Some(armed) })
    }

    /// The services are about to run.
    pub(crate) fn begin_service(&mut self) {
        match &mut self.armed {
            Some(armed) => {
                armed.set(RUNNING);
                armed.feed();
                tracing::info!("hardware watchdog: armed for {} s", armed.timeout.as_secs());
            }
            None => tracing::info!("no hardware watchdog"),
        }
    }

    /// The way down begins, or goes on to its next part: it has [`SHUTDOWN`] from now.
    pub(crate) fn begin_shutdown(&mut self) {
        if let Some(armed) = &mut self.armed {
            armed.set(SHUTDOWN);
            armed.feed();
            armed.due = None;
        }
    }

    /// Until it wants to be fed; for ever without one.
    pub(crate) async fn due(&self) {
        match self.armed.as_ref().and_then(|armed| armed.due) {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Feeds it.
    pub(crate) fn feed(&mut self) {
        if let Some(armed) = &mut self.armed {
            armed.feed();
        }
    }

    /// Stops it. A driver that can't be stopped (`nowayout`) says so in the kernel's log.
    pub(crate) fn disarm(&mut self) {
        if let Some(mut armed) = self.armed.take()
            && let Err(error) = armed.device.write_all(DISARM)
        {
            tracing::warn!("hardware watchdog: could not stop it: {error}");
        }
    }
}

impl Armed {
    fn set(&mut self, wanted: Duration) {
        match longest(wanted, |seconds| set_timeout(&self.device, seconds)) {
            Ok(timeout) => self.timeout = timeout,
            // It keeps the one that it has, which for the drivers of virtual machines is as long as that.
            Err(error) => {
                self.timeout = self.timeout.min(RUNNING);
                tracing::warn!("hardware watchdog: its time-out stays as it is: {error}");
            }
        }
    }

    fn feed(&mut self) {
        match self.device.write_all(FEED) {
            Ok(()) => self.told = false,
            Err(error) if self.told => tracing::debug!("hardware watchdog: {error}"),
            Err(error) => {
                tracing::warn!("hardware watchdog: could not feed it: {error}");
                self.told = true;
            }
        }
        self.due = Some(Instant::now() + self.timeout / MEALS);
    }
}

/// The longest time-out up to `wanted`, by halves, that `set` takes; answers the one that the device has made of it.
fn longest(wanted: Duration, mut set: impl FnMut(i32) -> Result<i32, Errno>) -> Result<Duration, Errno> {
    let mut seconds = i32::try_from(wanted.as_secs()).unwrap_or(i32::MAX);
    loop {
        match set(seconds) {
            Err(Errno::INVAL) if seconds > 1 => seconds /= 2,
            set => return Ok(Duration::from_secs(set?.max(1).unsigned_abs().into())),
        }
    }
}

fn set_timeout(device: &File, mut seconds: i32) -> Result<i32, Errno> {
    // SAFETY: the kernel reads and writes one `int` for this request, on any file that knows it; others refuse it.
    unsafe { ioctl(device, Updater::<SET_TIMEOUT, i32>::new(&mut seconds)) }?;
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_gets_the_longest_time_out_that_it_takes() {
        let device =
            |most: i32| move |seconds: i32| if seconds > most { Err(Errno::INVAL) } else { Ok(seconds) };
        assert_eq!(longest(BOOT, device(2046)).unwrap(), BOOT);
        assert_eq!(longest(BOOT, device(200)).unwrap(), BOOT / 4);
        assert_eq!(longest(BOOT, device(0)), Err(Errno::INVAL));
        assert_eq!(longest(BOOT, |_| Err(Errno::NOTTY)), Err(Errno::NOTTY));
        assert_eq!(longest(RUNNING, |seconds| Ok(seconds - 3)).unwrap(), RUNNING - Duration::from_secs(3));
    }

    #[tokio::test]
    async fn it_is_fed_in_time_until_the_way_down_and_stopped_by_a_v() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        assert!(Watchdog::open_at(&path).unwrap().armed.is_none(), "none is no error");
        std::fs::write(&path, "").unwrap();
        let written = || std::fs::read(&path).unwrap();
        let mut watchdog = Watchdog::open_at(&path).unwrap();
        watchdog.begin_service();
        let fed = written();
        assert!(!fed.is_empty() && !fed.contains(&b'V'));
        // A file takes no time-out: it is taken for the least that drivers have.
        let due = watchdog.armed.as_ref().unwrap().due.unwrap();
        assert!(due <= Instant::now() + RUNNING / MEALS);
        assert!(tokio::time::timeout(Duration::from_millis(20), watchdog.due()).await.is_err(), "not yet");
        watchdog.armed.as_mut().unwrap().due = Some(Instant::now());
        watchdog.due().await;
        watchdog.feed();
        assert!(written().len() > fed.len());
        watchdog.begin_shutdown();
        assert_eq!(watchdog.armed.as_ref().unwrap().due, None, "not fed on the way down");
        watchdog.disarm();
        assert_eq!(written().last(), Some(&b'V'));
    }
}
