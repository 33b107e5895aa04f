use super::installation::{Order, run};
use super::slot_volume::Storage;
use super::*;
use ::control::update::{InUse, Promised, Understood};
use anyhow::bail;
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};
use update::Levels;
use update::slots::{INITRAMFS, KERNEL, SLOT_BYTES, Slot};
use update::{Format, Header, Part, PublicKey, Sha256, Versions};

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn part(bytes: &[u8]) -> Part {
    let mut sha256 = Sha256::new();
    sha256.update(bytes);
    Part { len_bytes: bytes.len() as u64, sha256: sha256.finish() }
}

fn noise(len: u32, seed: u32) -> Vec<u8> {
    (0..len).map(|i| (i ^ seed).wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()
}

fn kernel() -> Vec<u8> {
    noise(300_001, 1)
}

fn initramfs() -> Vec<u8> {
    noise(700_000, 2)
}

fn header(version: &str) -> Header {
    Header {
        version: version.parse().unwrap(),
        replaces_from: Version::new(0, 1, 0),
        formats: Formats::CURRENT,
        kernel: part(&kernel()),
        initramfs: part(&initramfs()),
    }
}

/// A file with a release signed by key 1.
fn bundle(header: &Header) -> Vec<u8> {
    let signed = header.signed_part().unwrap();
    [&signed[..], key(1).sign(&signed).as_ref(), &kernel(), &initramfs()].concat()
}

/// What fails, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The write to the slot with this number, and every one after it.
    Write(usize),
    /// The medium holds something else than what was written.
    Medium,
    /// The change of the boot loader's variables with this number.
    Variables(usize),
    /// Opening the slot ends in a panic.
    Panic,
}

#[derive(Clone)]
struct Disk {
    dir: PathBuf,
    manual: bool,
    fault: Fault,
    variables: Arc<Mutex<BTreeMap<String, String>>>,
    writes: Arc<Mutex<usize>>,
    changes: Arc<Mutex<usize>>,
}

impl Disk {
    fn new(dir: &Path) -> Self {
        for slot in [Slot::A, Slot::B] {
            let file = File::create(dir.join(slot.letter())).unwrap();
            file.set_len(SLOT_BYTES).unwrap();
        }
        let disk = Self {
            dir: dir.into(),
            manual: false,
            fault: Fault::None,
            variables: Arc::default(),
            writes: Arc::default(),
            changes: Arc::default(),
        };
        disk.set(&[("slot", "a"), ("tries", ""), ("words", "x")]).unwrap();
        *disk.changes.lock().unwrap() = 0;
        disk
    }

    fn with(&self, fault: Fault) -> Self {
        *self.writes.lock().unwrap() = 0;
        *self.changes.lock().unwrap() = 0;
        Self { fault, ..self.clone() }
    }

    fn variable(&self, name: &str) -> String {
        self.variables.lock().unwrap().get(name).cloned().unwrap_or_default()
    }

    /// What GRUB would load from `slot`; `None`: nothing.
    fn loaded(&self, slot: Slot) -> Option<(Vec<u8>, Vec<u8>)> {
        let file = File::open(self.dir.join(slot.letter())).unwrap();
        let volume = fatfs::FileSystem::new(ReadOnly(file), fatfs::FsOptions::new()).ok()?;
        let read = |name: &str| {
            let mut bytes = Vec::new();
            volume.root_dir().open_file(name).ok()?.read_to_end(&mut bytes).ok()?;
            Some(bytes)
        };
        Some((read(KERNEL)?, read(INITRAMFS)?))
    }
}

struct ReadOnly(File);

impl Read for ReadOnly {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Seek for ReadOnly {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl Write for ReadOnly {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        panic!("written to")
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Device {
    file: File,
    fault: Fault,
    medium: bool,
    writes: Arc<Mutex<usize>>,
}

impl Read for Device {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let at = self.file.stream_position()?;
        let len = self.file.read(out)?;
        // One bit, far behind the tables.
        let bad = 600_000;
        if self.medium && self.fault == Fault::Medium && (at..at + len as u64).contains(&bad) {
            out[usize::try_from(bad - at).unwrap()] ^= 1;
        }
        Ok(len)
    }
}

impl Seek for Device {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Write for Device {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.medium);
        let mut writes = self.writes.lock().unwrap();
        *writes += 1;
        if matches!(self.fault, Fault::Write(number) if *writes > number) {
            return Err(io::Error::other("the medium is broken"));
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Storage for Device {
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Boot for Disk {
    type Slot = Device;

    fn running(&self) -> Slot {
        Slot::A
    }

    fn is_manual(&self) -> bool {
        self.manual
    }

    fn variables(&self) -> anyhow::Result<BTreeMap<String, String>> {
        Ok(self.variables.lock().unwrap().clone())
    }

    fn set(&self, variables: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut changes = self.changes.lock().unwrap();
        *changes += 1;
        if self.fault == Fault::Variables(*changes) {
            bail!("the firmware's partition is broken");
        }
        let mut known = self.variables.lock().unwrap();
        known.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Ok(())
    }

    fn open(&self, slot: Slot) -> anyhow::Result<Device> {
        assert_eq!(slot, Slot::B, "never the slot that runs");
        assert_ne!(self.fault, Fault::Panic, "the test's own");
        let file = File::options().read(true).write(true).open(self.dir.join(slot.letter()))?;
        Ok(Device { file, fault: self.fault, medium: false, writes: Arc::clone(&self.writes) })
    }

    fn open_medium(&self, slot: Slot) -> anyhow::Result<Device> {
        let file = File::open(self.dir.join(slot.letter()))?;
        Ok(Device { file, fault: self.fault, medium: true, writes: Arc::clone(&self.writes) })
    }
}

/// A folder with an update, the keys, and a disk that runs release 0.1.0 from slot a.
struct Machine {
    dir: tempfile::TempDir,
    disk: Disk,
    running: Version,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = PublicKey::new(key(1).public_key().as_ref()).unwrap().to_string();
        std::fs::write(dir.path().join("update.pub"), keys).unwrap();
        let disk = Disk::new(dir.path());
        Self { disk, dir, running: Version::new(0, 1, 0) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// With its thread.
    fn installer(&self, disk: &Disk) -> Installer {
        let installer = Installer::unable(self.dir.path());
        let (sender, requests) = channel();
        let worker = Worker {
            bundle: self.path("bundle"),
            keys: self.path("update.pub"),
            release: Version::new(0, 1, 0),
            disk: disk.clone(),
            status: Arc::clone(&installer.status),
            promise: Arc::clone(&installer.promise),
        };
        std::thread::spawn(move || worker.work(&requests));
        Installer { thread: Some(Mutex::new(sender)), ..installer }
    }

    fn install(&self, disk: &Disk, bundle: &[u8]) -> Result<Version, String> {
        std::fs::write(self.path("bundle"), bundle).unwrap();
        let promise = Promise::new(self.dir.path());
        let order = Order {
            bundle: &self.path("bundle"),
            keys: &self.path("update.pub"),
            running: &self.running,
            promise: &promise,
        };
        let last = Rc::new(RefCell::new(0));
        let done = run(&order, disk, &mut |progress| {
            assert!(progress.percent >= *last.borrow() && progress.percent <= 100);
            *last.borrow_mut() = progress.percent;
        });
        assert!(done.is_err() || *last.borrow() == 100);
        done.map_err(|error| format!("{error:#}"))
    }
}

/// What it says when nothing is under way.
fn settled(installer: &Installer) -> UpdateStatus {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = installer.status();
        if status.slots.is_some() && !status.installation.as_ref().is_some_and(Installation::is_under_way) {
            return status;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_release_goes_into_the_slot_that_does_not_run() {
    let machine = Machine::new();
    let installed = machine.install(&machine.disk, &bundle(&header("0.2.0")));
    assert_eq!(installed, Ok(Version::new(0, 2, 0)));
    assert!(machine.disk.loaded(Slot::B) == Some((kernel(), initramfs())));
    assert_eq!(machine.disk.loaded(Slot::A), None, "empty, and not touched");
    for (name, value) in
        [("slot", "b"), ("tries", "3"), ("release_a", "0.1.0"), ("release_b", "0.2.0"), ("words", "x")]
    {
        assert_eq!(machine.disk.variable(name), value, "{name}");
    }
    // A second one, over the first.
    machine.disk.set(&[("slot", "a"), ("tries", "")]).unwrap();
    machine.install(&machine.disk, &bundle(&header("0.3.0"))).unwrap();
    assert_eq!(machine.disk.variable("release_b"), "0.3.0");
    assert!(machine.disk.loaded(Slot::B) == Some((kernel(), initramfs())));
}

#[test]
fn what_may_not_be_installed_changes_nothing() {
    let machine = Machine::new();
    machine.install(&machine.disk, &bundle(&header("0.1.5"))).unwrap();
    machine.disk.set(&[("slot", "a"), ("tries", "")]).unwrap();
    let good = bundle(&header("0.2.0"));
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        edit(&mut bytes);
        bytes
    };
    let mut formats = Formats::CURRENT;
    for format in Format::ALL {
        *formats.of_mut(format) = Versions { oldest: 0, newest: formats.of(format).newest - 1 };
    }
    let before = machine.disk.variables.lock().unwrap().clone();
    for (bytes, expected) in [
        (Vec::new(), "no update"),
        (b"PK\x03\x04 something else".to_vec(), "no update"),
        (good[..100].to_vec(), "too short"),
        (good[..good.len() - 1].to_vec(), "not whole"),
        (edited(&|bytes| bytes.push(0)), "not whole"),
        (edited(&|bytes| bytes[200] ^= 1), "not signed"),
        (edited(&|bytes| bytes[130] ^= 1), "not signed"),
        (edited(&|bytes| bytes[1000] ^= 1), "its kernel is not the one"),
        (edited(&|bytes| *bytes.last_mut().unwrap() ^= 1), "its initramfs is not the one"),
        (bundle(&Header { formats, ..header("0.0.9") }), "release 0.0.9 is too old"),
        (bundle(&Header { replaces_from: Version::new(0, 1, 1), ..header("0.2.0") }), "from 0.1.1 on"),
    ] {
        let error = machine.install(&machine.disk, &bytes).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let manual = Disk { manual: true, ..machine.disk.clone() };
    assert!(machine.install(&manual, &good).unwrap_err().contains("boot menu"));
    machine.disk.set(&[("tries", "2")]).unwrap();
    assert!(machine.install(&machine.disk, &good).unwrap_err().contains("not proved itself"));
    machine.disk.set(&[("tries", "")]).unwrap();
    for (keys, expected) in [
        (Some(PublicKey::new(key(2).public_key().as_ref()).unwrap().to_string()), "not signed"),
        (Some("nonsense".to_owned()), "64 hexadecimal digits"),
        (None, "holds no key"),
    ] {
        match keys {
            Some(keys) => std::fs::write(machine.path("update.pub"), keys).unwrap(),
            None => std::fs::remove_file(machine.path("update.pub")).unwrap(),
        }
        let error = machine.install(&machine.disk, &good).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(*machine.disk.variables.lock().unwrap(), before);
    assert!(
        machine.disk.loaded(Slot::B) == Some((kernel(), initramfs())),
        "the release before is still there"
    );
}

/// The write with each number is the last that the medium takes. Whatever it holds then, GRUB starts the running slot,
/// and finds no kernel in the other one, or a whole release.
#[test]
fn a_slot_that_is_half_written_is_never_tried() {
    let machine = Machine::new();
    machine.install(&machine.disk, &bundle(&header("0.1.5"))).unwrap();
    let total = *machine.disk.writes.lock().unwrap();
    assert!(total > 100, "{total} writes");
    let new = bundle(&header("0.2.0"));
    let step = (total / 60).max(1);
    let numbers: Vec<usize> =
        (0..12).chain((12..total - 20).step_by(step)).chain(total - 20..total).collect();
    for number in numbers {
        machine.disk.set(&[("slot", "a"), ("tries", ""), ("release_b", "0.1.5")]).unwrap();
        let disk = machine.disk.with(Fault::Write(number));
        let error = machine.install(&disk, &new).unwrap_err();
        assert!(error.contains("slot b can't be written"), "write {number}: {error}");
        assert_eq!((disk.variable("slot"), disk.variable("tries")), ("a".into(), String::new()));
        assert_eq!(disk.variable("release_b"), "", "write {number}");
        let loaded = disk.loaded(Slot::B);
        // The first write wipes what was there.
        assert!(number == 0 || loaded.is_none() || loaded == Some((kernel(), initramfs())), "write {number}");
    }
    assert!(machine.install(&machine.disk.with(Fault::None), &new).is_ok());
}

#[test]
fn a_medium_that_lies_and_variables_that_fail_leave_the_running_slot() {
    let machine = Machine::new();
    let new = bundle(&header("0.2.0"));
    for (fault, expected) in [
        (Fault::Medium, "slot b does not hold what was written"),
        (Fault::Variables(1), "variables can't be set"),
        (Fault::Variables(2), "variables can't be set"),
    ] {
        let disk = machine.disk.with(fault);
        let error = machine.install(&disk, &new).unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert_eq!((disk.variable("slot"), disk.variable("tries")), ("a".into(), String::new()));
        if fault == Fault::Variables(1) {
            assert_eq!(*disk.writes.lock().unwrap(), 0);
        }
    }
}

#[test]
fn the_thread_takes_one_at_a_time_and_tells_what_came_of_it() {
    let machine = Machine::new();
    let none = Installer::without_slots(machine.dir.path());
    assert_eq!(none.begin(), Err(NO_SLOTS));
    assert_eq!(none.status().slots, None);

    let installer = machine.installer(&machine.disk);
    let settled = || settled(&installer);
    let slots = settled().slots.unwrap();
    assert_eq!((&*slots.running, &*slots.next, slots.idle_release.as_deref()), ("a", "a", Some("0.1.0")));
    assert!(!slots.on_trial);

    std::fs::write(machine.path("bundle"), bundle(&header("0.2.0"))).unwrap();
    installer.begin().unwrap();
    assert_eq!(installer.begin(), Err(BUSY));
    let status = settled();
    assert_eq!(status.installation, Some(Installation::Installed { release: "0.2.0".into() }));
    let slots = status.slots.unwrap();
    assert_eq!((&*slots.running, &*slots.next, slots.idle_release.as_deref()), ("a", "b", Some("0.2.0")));
    assert!(slots.on_trial);
    assert!(!machine.path("bundle").exists());

    machine.disk.set(&[("slot", "a"), ("tries", "")]).unwrap();
    installer.look_again();
    let deadline = Instant::now() + Duration::from_secs(20);
    while installer.status().slots.is_some_and(|slots| slots.on_trial) {
        assert!(Instant::now() < deadline, "the slot has proved itself");
        std::thread::sleep(Duration::from_millis(5));
    }
    installer.begin().unwrap();
    let Some(Installation::Failed { reason }) = settled().installation else { panic!() };
    assert!(reason.starts_with("the update can't be read"), "{reason}");
}

#[test]
fn a_panic_ends_an_installation_and_the_next_one_can_be_begun() {
    let machine = Machine::new();
    let installer = machine.installer(&machine.disk.with(Fault::Panic));
    for _ in 0..2 {
        std::fs::write(machine.path("bundle"), bundle(&header("0.2.0"))).unwrap();
        assert_eq!(installer.begin(), Ok(()));
        let Some(Installation::Failed { reason }) = settled(&installer).installation else { panic!() };
        assert!(reason.starts_with("internal error: ") && reason.contains("the test's own"), "{reason}");
        assert!(!machine.path("bundle").exists());
        assert_eq!(machine.disk.variable("slot"), "a");
    }
}

fn understood(machine: &Machine) -> Option<Understood> {
    let text = std::fs::read(machine.path(paths::UNDERSTOOD)).ok()?;
    Some(serde_json::from_slice(&text).unwrap())
}

fn tell(machine: &Machine, in_use: &InUse) {
    std::fs::write(machine.path(paths::FORMATS), serde_json::to_vec(in_use).unwrap()).unwrap();
}

/// The level may rise to what is said: only to what every release understands that may be started.
#[test]
fn nothing_is_said_of_a_release_that_has_not_proved_itself() {
    for (variables, manual, expected) in [
        ([("slot", "a"), ("tries", "")], false, Some(Formats::CURRENT)),
        ([("slot", "a"), ("tries", "2")], false, None),
        ([("slot", "b"), ("tries", "3")], false, None),
        ([("slot", "b"), ("tries", "")], false, None),
        ([("slot", "a"), ("tries", "")], true, None),
    ] {
        let machine = Machine::new();
        std::fs::create_dir(machine.path(paths::RUN_DIR)).unwrap();
        machine.disk.set(&variables).unwrap();
        let installer = machine.installer(&Disk { manual, ..machine.disk.clone() });
        settled(&installer);
        let expected = expected.map(|formats| Understood { formats, above: None });
        assert_eq!(understood(&machine), expected, "{variables:?} {manual}");
        std::fs::remove_dir_all(machine.path(paths::RUN_DIR)).unwrap();
        std::fs::create_dir(machine.path(paths::RUN_DIR)).unwrap();
        installer.repeat_promise();
        assert_eq!(understood(&machine), expected, "after the folder was cleared");
    }
}

/// Of the two orders, promise and raise, either ends well: what was taken back is not raised, and what was raised is not
/// taken back.
#[test]
fn going_back_is_promised_first_or_refused() {
    let machine = Machine::new();
    std::fs::create_dir(machine.path(paths::RUN_DIR)).unwrap();
    let current = Formats::CURRENT;
    let mut older = header("0.0.9");
    older.formats.metadata = Versions { oldest: 0, newest: current.metadata.newest - 1 };
    let running = Version::new(0, 1, 0);
    let mut levels = Levels::NEWEST;
    levels.metadata -= 1;
    let in_use = |levels, number, formats| {
        let promised = Some(Promised { number, formats });
        InUse { levels, promised, members: Vec::new() }
    };
    let both = current.common(&older.formats);

    tell(&machine, &in_use(levels, 7, current));
    let promise = Promise::new(machine.dir.path()).with_patience(Duration::from_millis(200));
    promise.judge(&older, &running).unwrap();
    let error = promise.narrow(&older, &running).unwrap_err().to_string();
    assert!(error.contains("has not confirmed"), "{error}");
    assert_eq!(understood(&machine), Some(Understood { formats: both, above: Some(7) }));

    // The last promise says no more than that; one that says more may be on its way, so it takes another.
    tell(&machine, &in_use(levels, 8, both));
    assert!(promise.narrow(&older, &running).is_err());
    assert_eq!(understood(&machine), Some(Understood { formats: both, above: Some(8) }));
    std::thread::scope(|scope| {
        let narrow = scope.spawn(|| promise.narrow(&older, &running));
        std::thread::sleep(Duration::from_millis(50));
        tell(&machine, &in_use(levels, 9, both));
        narrow.join().unwrap().unwrap();
    });

    // In no cluster nobody has to agree, and a cluster that is entered is told.
    let alone = InUse { levels, promised: None, members: Vec::new() };
    tell(&machine, &alone);
    promise.say(current);
    promise.narrow(&older, &running).unwrap();
    assert_eq!(understood(&machine), Some(Understood { formats: both, above: None }));

    tell(&machine, &in_use(levels, 9, current));
    let promise = Promise::new(machine.dir.path());
    std::thread::scope(|scope| {
        let narrow = scope.spawn(|| promise.narrow(&older, &running));
        std::thread::sleep(Duration::from_millis(50));
        tell(&machine, &in_use(Levels::NEWEST, 9, current));
        let error = narrow.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("too old") && error.contains("replica metadata"), "{error}");
    });
    // A newer release, and one like this, need nothing taken back.
    promise.narrow(&header("0.2.0"), &running).unwrap();
}
