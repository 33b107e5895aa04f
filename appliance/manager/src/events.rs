//! The last things that happened, for the event list; kept over restarts in `events.jsonl`.
//!
//! Invariants
//! - Numbers go on: from the file; without one, from the log's last index: fewer entries have an event than have none.
//! - The lines of one log entry are appended by one call, and what replaces the file is renamed into its place: a crash leaves
//!   it readable up to the last line at most, which is dropped.
//! - It is on the disk before a snapshot lets the log go: what a power loss takes is told anew from the log, as `late`.
//! - Nothing about the file stops the manager: events that could not be written are written with the next ones. A disk that
//!   hangs is waited for by threads of their own: nobody waits for the list while the file is written.

use base::Monotonic;
use cluster::{Note, Severity};
use control::api::Event;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Events kept.
const KEEP: usize = 1000;
/// Lines of a file that is written anew, with the last [`KEEP`].
const LONG: usize = 2 * KEEP;
/// What is read of a file at most: its end.
const READ_BYTES: u64 = 4 << 20;

/// This node's events.
#[derive(Default)]
pub(crate) struct Events {
    list: Mutex<List>,
    /// Locked before the list, by those who may wait for a disk.
    file: Mutex<Option<EventFile>>,
    /// Something was added.
    news: Notify,
}

#[derive(Default)]
struct List {
    /// Number of the last event.
    last: u64,
    lines: VecDeque<Line>,
    /// The last entry that had events.
    told: Option<u64>,
    /// Entries up to this one happened before this node could hear of them.
    missed: u64,
    heard: Option<Monotonic>,
}

/// A line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    event: Event,
    /// Index of the log entry that it comes from; none if only this node knows of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<u64>,
}

struct EventFile {
    path: PathBuf,
    /// Absent if it could not be opened.
    out: Option<File>,
    /// Lines in it.
    length: usize,
    /// Number of the last event in it.
    written: u64,
    /// The last write failed, and may have left a part of a line.
    failed: bool,
}

impl Events {
    /// The events of the file at `path`, as far as it can be read. `known` is the index of the log's last entry.
    pub(crate) fn open(path: &Path, known: u64) -> Self {
        let mut found = read(path).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "earlier events can't be read");
            Found { damaged: true, ..Found::default() }
        });
        let newest = found.list.lines.back().map_or(0, |line| line.event.number);
        let lost = found.damaged || found.list.lines.is_empty();
        let mut file =
            EventFile { path: path.into(), out: None, length: found.length, written: newest, failed: false };
        if found.damaged || found.length > LONG {
            file.replace(found.list.lines.make_contiguous());
        } else {
            file.append(&[]);
        }
        let last = if lost { newest.max(known) } else { newest };
        let List { lines, told, .. } = found.list;
        let list = List { last, lines, told, missed: known, heard: None };
        Self { list: Mutex::new(list), file: Mutex::new(Some(file)), news: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that only this node knows of, now.
    pub(crate) fn tell(&self, severity: Severity, text: String) {
        self.push(None, &[Note { severity, text }]);
    }

    /// What log entry number `entry` brought about, now or, if this node was away, earlier.
    pub(crate) fn add(&self, entry: u64, notes: &[Note]) {
        self.push(Some(entry), notes);
    }

    fn push(&self, entry: Option<u64>, notes: &[Note]) {
        if notes.is_empty() {
            return;
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut list = self.lock();
        list.told = entry.or(list.told);
        for note in notes {
            list.last = list.last.saturating_add(1);
            let late = entry.is_some_and(|entry| entry <= list.missed);
            let severity = note.severity.word().into();
            let event = Event { number: list.last, at, late, severity, text: note.text.clone() };
            if list.lines.len() >= KEEP {
                list.lines.pop_front();
            }
            list.lines.push_back(Line { event, entry });
        }
        drop(list);
        self.news.notify_one();
    }

    /// Whether the events of an entry that is applied again are in the list, or were.
    pub(crate) fn has(&self, entry: u64) -> bool {
        self.lock().told.is_some_and(|told| entry <= told)
    }

    /// The leader says at `now` that entries up to `committed` are committed: after a silence of `silence` or more, those had
    /// been before.
    pub(crate) fn heard(&self, committed: u64, now: Monotonic, silence: Duration) {
        let mut list = self.lock();
        if list.heard.replace(now).is_none_or(|before| now.since(before) >= silence) {
            list.missed = list.missed.max(committed);
        }
    }

    /// The events after number `after` that are still kept.
    pub(crate) fn after(&self, after: u64) -> Vec<Event> {
        let list = self.lock();
        list.lines.iter().map(|line| &line.event).filter(|event| event.number > after).cloned().collect()
    }

    /// Writes down what was added, whenever something was; never ends.
    pub(crate) async fn keep(self: Arc<Self>) {
        loop {
            self.news.notified().await;
            let events = self.clone();
            // It ends when it has been written, or can't be.
            let _written = tokio::task::spawn_blocking(move || events.write()).await;
        }
    }

    fn lines_after(&self, number: u64) -> Vec<Line> {
        self.lock().lines.iter().filter(|line| line.event.number > number).cloned().collect()
    }

    /// Writes down what was added. It may wait for the disk.
    fn write(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &mut *file {
            file.append(&self.lines_after(file.written));
        }
    }

    /// Makes what was added durable, and the file short. It waits for the disk.
    pub(crate) fn sync(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &mut *file else { return };
        if file.length > LONG {
            return file.replace(&self.lines_after(0));
        }
        file.append(&self.lines_after(file.written));
        if let Some(Err(error)) = file.out.as_ref().map(File::sync_data) {
            tracing::warn!(path = %file.path.display(), %error, "events are not on the disk");
        }
    }
}

impl EventFile {
    /// Appends `lines`, none of which is in it yet.
    fn append(&mut self, lines: &[Line]) {
        match self.try_append(lines) {
            Ok(()) => {
                self.length = self.length.saturating_add(lines.len());
                self.written = lines.last().map_or(self.written, |line| line.event.number);
                self.failed = false;
            }
            Err(error) => {
                if !self.failed {
                    tracing::warn!(path = %self.path.display(), %error, "events are not kept for the next start");
                }
                self.failed = true;
            }
        }
    }

    fn try_append(&mut self, lines: &[Line]) -> io::Result<()> {
        // What a failed write left is a line of its own, and skipped.
        let mut bytes = if self.failed { vec![b'\n'] } else { Vec::new() };
        bytes.extend(text(lines)?);
        let out = match &mut self.out {
            Some(out) => out,
            closed => closed.insert(options().append(true).open(&self.path)?),
        };
        out.write_all(&bytes)
    }

    /// Begins anew with `lines`.
    fn replace(&mut self, lines: &[Line]) {
        let replaced = write_beside(&self.path, lines).and_then(|out| {
            fs::rename(beside(&self.path), &self.path)?;
            sync_directory(&self.path)?;
            Ok(out)
        });
        match replaced {
            Ok(out) => {
                let written = lines.last().map_or(self.written, |line| line.event.number);
                (self.out, self.length, self.written, self.failed) = (Some(out), lines.len(), written, false);
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the file of events can't be written anew");
                self.failed = true;
            }
        }
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// A file beside that at `path`, on the disk; what is written to it goes to its end.
fn write_beside(path: &Path, lines: &[Line]) -> io::Result<File> {
    let new = beside(path);
    if let Err(error) = fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut out = options().append(true).open(&new)?;
    out.write_all(&text(lines)?)?;
    out.sync_all()?;
    Ok(out)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn text(lines: &[Line]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, line)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// What a file holds.
#[derive(Default)]
struct Found {
    list: List,
    /// Lines of any kind.
    length: usize,
    damaged: bool,
}

fn read(path: &Path) -> io::Result<Found> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        file => file?,
    };
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(end.saturating_sub(READ_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(READ_BYTES).read_to_end(&mut bytes)?;
    let mut found = Found::default();
    let mut bad = 0_usize;
    for text in bytes.split_inclusive(|byte| *byte == b'\n') {
        found.length = found.length.saturating_add(1);
        let newest = found.list.lines.back().map_or(0, |line| line.event.number);
        match serde_json::from_slice::<Line>(text) {
            Ok(line) if text.ends_with(b"\n") && line.event.number > newest => {
                if found.list.lines.len() >= KEEP {
                    found.list.lines.pop_front();
                }
                found.list.told = line.entry.or(found.list.told);
                found.list.lines.push_back(line);
            }
            _ => bad = bad.saturating_add(1),
        }
    }
    if bad > 0 {
        found.damaged = true;
        let (path, kept) = (path.display(), found.list.lines.len());
        tracing::warn!(%path, bad, kept, "lines of earlier events can't be read, a last one if the node went down at it");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(texts: &[&str]) -> Vec<Note> {
        texts.iter().map(|text| Note { severity: Severity::Info, text: (*text).into() }).collect()
    }

    fn told(events: &Events) -> Vec<(u64, String, bool)> {
        events.after(0).into_iter().map(|event| (event.number, event.text, event.late)).collect()
    }

    fn path() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("events.jsonl");
        (home, path)
    }

    #[test]
    fn the_oldest_go_first() {
        let events = Events::default();
        for number in 1..=1005 {
            events.add(number, &notes(&[&number.to_string()]));
        }
        let list = events.after(0);
        assert_eq!((list.len(), list[0].number, list[0].text.as_str()), (1000, 6, "6"));
        assert_eq!(events.after(1004).len(), 1);
    }

    #[test]
    fn numbers_and_events_go_on_after_a_restart() {
        let (_home, path) = path();
        let events = Events::open(&path, 0);
        events.add(4, &notes(&["a", "b"]));
        events.add(9, &notes(&["c"]));
        events.tell(Severity::Warning, "own".into());
        events.write();
        let events = Events::open(&path, 12);
        assert!(events.has(9) && !events.has(10));
        events.add(11, &notes(&["lost"]));
        events.add(13, &notes(&["new"]));
        let all = [(1, "a", false), (2, "b", false), (3, "c", false), (4, "own", false)];
        let all = all.into_iter().chain([(5, "lost", true), (6, "new", false)]);
        let all: Vec<(u64, String, bool)> =
            all.map(|(number, text, late)| (number, text.to_owned(), late)).collect();
        assert_eq!(told(&events), all);
        events.write();
        let again = Events::open(&path, 13);
        assert_eq!(told(&again), told(&events));
    }

    #[test]
    fn a_file_cut_anywhere_is_read_up_to_there() {
        let (_home, path) = path();
        let events = Events::open(&path, 0);
        for entry in 1..=4 {
            events.add(entry, &notes(&["something happened"]));
        }
        events.write();
        let whole = fs::read(&path).unwrap();
        let ends: Vec<usize> =
            whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let events = Events::open(&path, 0);
            let intact = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(events.after(0).len(), intact, "cut at {cut}");
            events.add(9, &notes(&["more"]));
            events.write();
            let again = Events::open(&path, 0);
            assert_eq!(told(&again), told(&events), "cut at {cut}");
            assert_eq!(again.after(0).last().unwrap().number, intact as u64 + 1);
        }
    }

    #[test]
    fn damage_stops_nothing_and_takes_no_number_back() {
        let (_home, path) = path();
        let events = Events::open(&path, 0);
        for entry in 1..=3 {
            events.add(entry, &notes(&["x"]));
        }
        events.write();
        let mut bytes = fs::read(&path).unwrap();
        bytes[3] = 0xff;
        bytes.extend_from_slice(b"[]\n{\"number\":2}\n");
        fs::write(&path, bytes).unwrap();
        let events = Events::open(&path, 70);
        assert_eq!(events.after(0).iter().map(|event| event.number).collect::<Vec<_>>(), [2, 3]);
        events.add(80, &notes(&["y"]));
        assert_eq!(events.after(3)[0].number, 71);
        fs::remove_file(&path).unwrap();
        let events = Events::open(&path, 95);
        events.add(96, &notes(&["z"]));
        assert_eq!(told(&events), [(96, "z".to_owned(), false)]);
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let (home, path) = path();
        fs::create_dir(&path).unwrap();
        let events = Events::open(&path, 0);
        events.add(1, &notes(&["a"]));
        events.write();
        fs::remove_dir(&path).unwrap();
        events.add(2, &notes(&["b"]));
        events.write();
        assert_eq!(told(&Events::open(&path, 0)), told(&events));
        assert_eq!(events.after(0).len(), 2);
        drop(home);
    }

    #[test]
    fn the_file_stays_short() {
        let (_home, path) = path();
        let events = Events::open(&path, 0);
        for entry in 1..=10_000 {
            events.add(entry, &notes(&["x"]));
            events.write();
            if entry % 1000 == 0 {
                events.sync();
            }
        }
        let lines = fs::read(&path).unwrap().iter().filter(|byte| **byte == b'\n').count();
        assert!((KEEP..=LONG + KEEP).contains(&lines), "{lines}");
        assert!(!beside(&path).exists());
        let again = Events::open(&path, 0);
        assert_eq!(told(&again), told(&events));
        assert_eq!(again.after(0).last().unwrap().number, 10_000);
    }

    #[test]
    fn what_was_committed_before_the_leader_was_heard_is_late() {
        let events = Events::default();
        let (silence, at) = (Duration::from_secs(3), |seconds: u64| Monotonic(seconds * 1_000_000_000));
        events.heard(5, at(0), silence);
        events.add(5, &notes(&["before"]));
        events.heard(8, at(2), silence);
        events.add(8, &notes(&["as it happens"]));
        events.heard(20, at(60), silence);
        events.add(19, &notes(&["while away"]));
        events.heard(21, at(61), silence);
        events.add(21, &notes(&["back"]));
        let late: Vec<bool> = events.after(0).iter().map(|event| event.late).collect();
        assert_eq!(late, [true, false, true, false]);
    }
}
