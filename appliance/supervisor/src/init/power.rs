//! The ACPI power button: a key of an input device.

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// `struct input_event` of a 64-bit machine: two words of time, type, code, value.
const EVENT_BYTES: usize = 24;
const TYPE_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
const PRESSED: i32 = 1;
/// How often new devices are looked for.
const RESCAN: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Watches every input device, in a thread of its own.
pub(crate) fn watch() -> anyhow::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(4);
    let spawned =
        std::thread::Builder::new().name("power-button".into()).spawn(move || watch_devices(&sender));
    spawned.context("watch the power button")?;
    Ok(receiver)
}

fn watch_devices(pressed: &mpsc::Sender<()>) {
    let mut devices: BTreeMap<PathBuf, File> = BTreeMap::new();
    while !pressed.is_closed() {
        add_new(&mut devices);
        let mut polled: Vec<PollFd<'_>> =
            devices.values().map(|device| PollFd::new(device, PollFlags::IN)).collect();
        // An interrupted or failed wait only means to look again.
        if poll(&mut polled, Some(&RESCAN)).is_err() {
            std::thread::sleep(std::time::Duration::from_secs(1));
            continue;
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        devices.retain(|_, device| {
            if ready.next() != Some(true) {
                return true;
            }
            let mut events = [0; 64 * EVENT_BYTES];
            // A device that can't be read has been removed.
            let Ok(count) = device.read(&mut events) else { return false };
            if events.get(..count).is_some_and(has_power_key) {
                // A full channel means that the button is being handled.
                let _ = pressed.try_send(());
            }
            count > 0
        });
    }
}

fn add_new(devices: &mut BTreeMap<PathBuf, File>) {
    let Ok(entries) = std::fs::read_dir("/dev/input") else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_event = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("event"));
        if is_event
            && !devices.contains_key(&path)
            && let Ok(device) = File::open(&path)
        {
            devices.insert(path, device);
        }
    }
}

/// Whether one of the whole events in `bytes` is the power key going down.
fn has_power_key(bytes: &[u8]) -> bool {
    bytes.chunks_exact(EVENT_BYTES).any(|event| {
        let [.., t0, t1, c0, c1, v0, v1, v2, v3] = event else { return false };
        u16::from_ne_bytes([*t0, *t1]) == TYPE_KEY
            && u16::from_ne_bytes([*c0, *c1]) == KEY_POWER
            && i32::from_ne_bytes([*v0, *v1, *v2, *v3]) == PRESSED
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_press_of_the_power_key_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut bytes = vec![0; 16];
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&code.to_ne_bytes());
            bytes.extend_from_slice(&value.to_ne_bytes());
            bytes
        };
        assert!(has_power_key(&[event(0, 0, 0), event(1, 116, 1)].concat()));
        for other in [event(1, 116, 0), event(1, 30, 1), event(0, 116, 1), event(1, 116, 1)[..23].to_vec()] {
            assert!(!has_power_key(&other));
        }
    }
}
