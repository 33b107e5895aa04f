//! What a service writes to its standard output and error: the last lines in memory, all of it in a file of limited
//! size.
//!
//! Invariants:
//! - A service is never held up by its log: lines for the file go through a bounded queue to a thread of their own, and
//!   are dropped (and counted) when that thread is stuck on a sick disk.
//! - Memory is bounded: [`RING_LINES`] lines of at most [`LINE_BYTES`] each, and the queue.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Lines kept in memory per service.
pub(crate) const RING_LINES: usize = 1000;
/// A longer line is cut into pieces.
pub(crate) const LINE_BYTES: usize = 8 << 10;
/// A log file that has reached this size becomes `NAME.log.1`, in place of the older one.
pub(crate) const FILE_BYTES: u64 = 4 << 20;
const QUEUE_LINES: usize = 4096;

/// The log of one service.
pub(crate) struct ServiceLog {
    ring: Mutex<VecDeque<String>>,
    queue: Mutex<Option<SyncSender<String>>>,
    dropped: AtomicU64,
    /// Lines are also written here, after the service's name (the machine's console, when asked for).
    echo: Option<(&'static str, Mutex<File>)>,
    done: Mutex<Receiver<()>>,
}

impl ServiceLog {
    /// A log whose file is `path`. The file is opened by the writer thread: a disk that is not there is no reason not to
    /// start.
    pub(crate) fn open(name: &'static str, path: PathBuf, echo: Option<File>) -> io::Result<Arc<Self>> {
        let (sender, lines) = sync_channel(QUEUE_LINES);
        let (finished, done) = sync_channel(1);
        std::thread::Builder::new().name(format!("log-{name}")).spawn(move || {
            write_lines(&lines, path);
            // Nobody waits if the log was dropped; then nothing is to be told.
            let _ = finished.try_send(());
        })?;
        Ok(Arc::new(Self {
            ring: Mutex::default(),
            queue: Mutex::new(Some(sender)),
            dropped: AtomicU64::new(0),
            echo: echo.map(|file| (name, Mutex::new(file))),
            done: Mutex::new(done),
        }))
    }

    /// The lines in memory, oldest first.
    pub(crate) fn text(&self) -> String {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().fold(String::new(), |text, line| text + line + "\n")
    }

    /// The newest line that is not blank.
    pub(crate) fn last_line(&self) -> Option<String> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rev().find(|line| !line.trim().is_empty()).cloned()
    }

    /// Waits at most `patience` until the file has every line; later lines go to memory only.
    pub(crate) fn close(&self, patience: Duration) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Either way the process goes on to end.
        let _ = self.done.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(patience);
    }

    fn push(&self, line: String) {
        if let Some((name, file)) = &self.echo {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // A console that can't be written to has nobody in front of it.
            let _ = file.write_all(format!("{name}: {line}\n").as_bytes());
        }
        if let Some(queue) = self.queue.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            self.enqueue(queue, &line);
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= RING_LINES {
            ring.pop_front();
        }
        ring.push_back(line);
    }

    fn enqueue(&self, queue: &SyncSender<String>, line: &str) {
        let lost = self.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 && queue.try_send(format!("[{lost} lines were dropped: the disk was too slow]")).is_err()
        {
            self.dropped.fetch_add(lost, Ordering::Relaxed);
        }
        match queue.try_send(line.to_owned()) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Takes everything from `source` until it ends.
pub(crate) async fn capture(mut source: impl AsyncRead + Unpin, log: Arc<ServiceLog>) {
    let mut lines = LineSplitter::default();
    let mut chunk = vec![0; LINE_BYTES];
    loop {
        match source.read(&mut chunk).await {
            Ok(0) => break,
            Ok(count) => {
                for line in lines.feed(chunk.get(..count).unwrap_or_default()) {
                    log.push(line);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if let Some(line) = lines.finish() {
        log.push(line);
    }
}

/// Cuts bytes into lines of at most [`LINE_BYTES`].
#[derive(Default)]
struct LineSplitter {
    partial: Vec<u8>,
}

impl LineSplitter {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                lines.push(self.take());
            } else {
                self.partial.push(*byte);
                if self.partial.len() == LINE_BYTES {
                    lines.push(self.take());
                }
            }
        }
        lines
    }

    fn finish(&mut self) -> Option<String> {
        (!self.partial.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let line = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        line
    }
}

/// The writer thread: until the queue is closed.
fn write_lines(lines: &Receiver<String>, path: PathBuf) {
    let mut file = LogFile { path, open: None, told: false };
    while let Ok(line) = lines.recv() {
        match file.append(&line) {
            Ok(()) => file.told = false,
            Err(error) => {
                // Tried again with the next line (a full disk may have room then), told once.
                file.open = None;
                if !file.told {
                    tracing::warn!("log file {}: {error}", file.path.display());
                    file.told = true;
                }
            }
        }
    }
}

struct LogFile {
    path: PathBuf,
    open: Option<(File, u64)>,
    told: bool,
}

impl LogFile {
    fn append(&mut self, line: &str) -> io::Result<()> {
        if let Some((_, size)) = &self.open
            && *size >= FILE_BYTES
        {
            self.open = None;
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
        }
        let (file, size) = match &mut self.open {
            Some(open) => open,
            none => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
                let size = file.metadata()?.len();
                none.insert((file, size))
            }
        };
        let bytes = format!("{line}\n").into_bytes();
        file.write_all(&bytes)?;
        *size = size.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_reach_memory_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.log");
        let log = ServiceLog::open("web", path.clone(), None).unwrap();
        capture(&b"one\ntwo\n\nlast without newline"[..], Arc::clone(&log)).await;
        capture(&b"\xff\n"[..], Arc::clone(&log)).await;
        log.close(Duration::from_secs(10));
        let expected = "one\ntwo\n\nlast without newline\n\u{fffd}\n";
        assert_eq!(log.text(), expected);
        assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
    }

    #[tokio::test]
    async fn memory_and_file_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.log");
        let log = ServiceLog::open("web", path.clone(), None).unwrap();
        capture(tokio::io::repeat(b'x').take(2 * FILE_BYTES + 100), Arc::clone(&log)).await;
        log.close(Duration::from_secs(60));
        assert!(log.text().len() <= RING_LINES * (LINE_BYTES + 1));
        let dropped = log.dropped.load(Ordering::Relaxed);
        for file in [&path, &path.with_extension("log.1")] {
            let size = std::fs::metadata(file).map_or(0, |m| m.len());
            assert!(size <= FILE_BYTES + 1 + u64::try_from(LINE_BYTES).unwrap());
            assert!(size > 0 || dropped > 0);
        }
    }

    #[tokio::test]
    async fn a_disk_that_is_not_there_loses_the_file_only() {
        let log = ServiceLog::open("web", "/nonexistent/web.log".into(), None).unwrap();
        capture(&b"error: something\n  \n"[..], Arc::clone(&log)).await;
        log.close(Duration::from_secs(10));
        assert_eq!(log.last_line().unwrap(), "error: something");
    }
}
