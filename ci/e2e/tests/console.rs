//! The menu on a real pseudo-terminal: keys in, the screen that a VT100 would show out. Web process and menu are the
//! product's; the cluster manager behind them is one that the test moves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../../webui/tests/fake/mod.rs"]
mod fake;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use control::api::Command;
use fake::Fake;
use futago_e2e::tools::work_dir;
use futago_e2e::vm::{self, Hardware, Machine};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use webui::client::{Client, Trust};

/// An emulated machine boots in it, on a busy host.
const PATIENCE: Duration = Duration::from_secs(120);

/// The user's end of a terminal.
struct Terminal {
    user: File,
    screen: vt100::Parser,
    /// Bytes that the menu has sent.
    sent: usize,
}

impl Terminal {
    /// A terminal, and the path of the menu's end.
    fn new() -> (Self, PathBuf) {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let path = PathBuf::from(ptsname(&user, Vec::new()).unwrap().into_string().unwrap());
        (Self { user: File::from(user), screen: vt100::Parser::new(25, 80, 0), sent: 0 }, path)
    }

    /// A terminal on a serial line.
    fn on(line: impl Into<OwnedFd>) -> Self {
        Self { user: File::from(line.into()), screen: vt100::Parser::new(25, 80, 0), sent: 0 }
    }

    fn press(&mut self, keys: &[u8]) {
        self.user.write_all(keys).unwrap();
    }

    /// Takes what arrives within 100 ms.
    fn listen(&mut self) {
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let ready = poll(&mut [PollFd::new(&self.user, PollFlags::IN)], Some(&tick)).unwrap();
        let mut bytes = [0; 4096];
        // Before the menu has opened its end, a read is an error.
        let count = if ready > 0 { self.user.read(&mut bytes).unwrap_or(0) } else { 0 };
        assert!(bytes[..count].is_ascii());
        self.screen.process(&bytes[..count]);
        self.sent += count;
    }

    /// Until half a second has brought nothing: what led to the text that was waited for is drawn to its end.
    fn wait_drawn(&mut self) {
        let start = Instant::now();
        loop {
            let before = self.sent;
            (0..5).for_each(|_| self.listen());
            if self.sent == before {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "the screen does not come to rest");
        }
    }

    fn wait_for(&mut self, text: &str) {
        let start = Instant::now();
        while !self.screen.screen().contents().contains(text) {
            let screen = self.screen.screen().contents();
            assert!(start.elapsed() < PATIENCE, "no {text:?} on the screen:\n{screen}");
            self.listen();
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn start(dir: &Path) -> Fake {
    let fake = Fake::start(dir, fake::healthy());
    fake::settings(dir);
    let owned = dir.to_owned();
    std::thread::spawn(move || webui::run(&owned).unwrap());
    fake
}

#[test]
fn keys_drive_the_node_and_a_vanished_terminal_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let fake = start(dir.path());
    let settings = std::fs::read(dir.path().join(control::paths::SETTINGS)).unwrap();
    let settings = control::settings::Settings::parse(&settings).unwrap();
    let url = format!("https://{}:{}", settings.address, settings.ports.web);
    let (mut terminal, path) = Terminal::new();
    let tty = dir.path().join("tty");
    symlink(path, &tty).unwrap();
    let (owned, opened) = (dir.path().to_owned(), tty.clone());
    std::thread::spawn(move || console::run(&owned, Some(&opened)).unwrap());

    terminal.wait_for("demo: healthy, served by a");
    block_on(Client::local(dir.path()).setup("the first password")).unwrap();
    terminal.wait_for("3 of 3 nodes online, majority");
    terminal.press(b"p");
    terminal.wait_for("Pairing code 4821-9037, good for 10 minutes.");
    terminal.press(b"\r");
    terminal.wait_for("> P");
    terminal.press(b"\x1b[B\r");
    terminal.wait_for("> demo");
    terminal.press(b"\r");
    terminal.wait_for("Hand demo over to the other node?");
    assert!(!fake.edit(|world| world.commands.contains(&hand_over())), "before a yes");
    terminal.press(b"y");
    terminal.wait_for("demo is handed over.");
    assert!(fake.edit(|world| world.commands.contains(&hand_over())));
    terminal.press(b"\r");
    terminal.wait_for("> H");

    // Who has forgotten the password gets in with a new one.
    terminal.press(b"a");
    terminal.wait_for("Make a new admin password for this node? The current one ends.");
    terminal.press(b"y");
    terminal.wait_for("It is not shown again.");
    let contents = terminal.screen.screen().contents();
    let (_, password) = contents.split_once("New password of admin: ").unwrap();
    let password = password.split('.').next().unwrap();
    assert_eq!(password.len(), 23, "{contents}");
    let signed_in = |password: &str| {
        let client = Client::remote(&url, "admin", password, Trust::Anyone).unwrap();
        block_on(client.status())
    };
    assert_eq!(signed_in("the first password").unwrap_err().kind, "unauthorized");
    signed_in(password).unwrap();
    terminal.press(b"\r");
    terminal.wait_for("> A");

    the_bundle_is_fetched_by_its_link(&mut terminal, &url);

    // The members' services do not run here; the web console does.
    terminal.press(b"t");
    terminal.wait_for("An address to try");
    terminal.press(b"\r");
    terminal.wait_for("Enter: go on");
    let contents = terminal.screen.screen().contents();
    for (what, address) in [("b, replication", "127.0.0.12:7788"), ("witness, cluster", "127.0.0.13:7780")] {
        let row = contents.lines().find(|row| row.contains(what)).expect(&contents);
        assert!(row.contains(address) && row.trim_end().ends_with("FAILED: refused"), "{contents}");
    }
    terminal.press(b"\rt");
    terminal.wait_for("An address to try");
    terminal.press(url.trim_start_matches("https://").as_bytes());
    terminal.press(b"\r");
    terminal.wait_for("Enter: go on");
    let contents = terminal.screen.screen().contents();
    assert!(
        contents.lines().any(|row| row.contains("as typed") && row.trim_end().ends_with(" ms")),
        "{contents}"
    );
    terminal.press(b"\r");
    terminal.wait_for("> T");

    // A screen on which nothing happens costs a serial line nothing.
    terminal.wait_for("demo: healthy, served by b");
    terminal.wait_drawn();
    let before = terminal.sent;
    (0..40).for_each(|_| terminal.listen());
    assert!(terminal.sent == before, "{} bytes for nothing", terminal.sent - before);

    fake.silence();
    terminal.wait_for("THE NODE DOES NOT ANSWER");
    assert!(!terminal.screen.screen().contents().contains("served by"));
    fake.resume();
    terminal.wait_for("demo: healthy");

    let (mut other, path) = Terminal::new();
    std::fs::remove_file(&tty).unwrap();
    symlink(path, &tty).unwrap();
    drop(terminal);
    other.wait_for("demo: healthy, served by b");
}

/// Once, without the password; it fits into the lines of the screen.
fn the_bundle_is_fetched_by_its_link(terminal: &mut Terminal, url: &str) {
    terminal.press(b"b");
    terminal.wait_for("Good for one download within 15 minutes, without sign-in:");
    terminal.wait_for("Enter: go on");
    let contents = terminal.screen.screen().contents();
    let link = contents.lines().map(str::trim).find(|line| line.contains("/bundle/")).unwrap();
    assert!(link.starts_with(url), "{contents}");
    let fetch = || {
        let out =
            std::process::Command::new("curl").args(["-sk", "-w", "%{http_code}", link]).output().unwrap();
        (String::from_utf8_lossy(&out.stdout[out.stdout.len() - 3..]).into_owned(), out.stdout)
    };
    let (status, archive) = fetch();
    assert_eq!(status, "200");
    assert!(archive.windows(13).any(|bytes| bytes == b"settings.json"));
    assert_eq!(fetch().0, "404");
    terminal.press(b"\r");
    terminal.wait_for("> B");
}

fn hand_over() -> Command {
    Command::HandOver { volume: "demo".into(), to: None }
}

/// On the appliance's serial port, as whoever stands before the machine uses it.
#[test]
fn the_serial_port_of_an_appliance_has_the_menu_and_it_switches_the_machine_off() {
    let test = "the_serial_port_of_an_appliance_has_the_menu_and_it_switches_the_machine_off";
    if !vm::can_run(test) {
        return;
    }
    let dir = work_dir("console-serial");
    let kernel = vm::kernel().unwrap();
    let settings = json!({ "version": 1, "name": "omega", "role": "witness", "address": "198.51.100.13" });
    let hardware = Hardware {
        name: "menu".into(),
        memory_mib: 512,
        initramfs: vm::appliance_initramfs(&dir, &kernel).unwrap(),
        kernel,
        state_disk: Some(vm::state_disk(&dir, &settings).unwrap()),
        links: vec!["user,restrict=on".into()],
        number: 22,
        ..Hardware::default()
    };
    let mut machine = Machine::start(&dir, &hardware).unwrap();
    let mut terminal = Terminal::on(machine.serial_line().unwrap());
    terminal.wait_for("https://198.51.100.13/");
    terminal.wait_for("in none yet: create one, or offer pairing");
    terminal.wait_for("Certificate");
    terminal.press(b"p");
    terminal.wait_for("Pairing code");
    terminal.press(b"\r");
    terminal.wait_for("> P");

    // Another terminal is plugged in: the first key after a while draws everything, Ctrl-L at once.
    drop(terminal);
    let mut terminal = Terminal::on(machine.serial_line().unwrap());
    terminal.press(b"\x0c");
    terminal.wait_for("Futago omega");
    terminal.press(b"o");
    terminal.wait_for("Power off omega?");
    terminal.press(b"n");
    terminal.wait_for("> O");
    terminal.press(b"o");
    terminal.wait_for("Power off omega?");
    terminal.press(b"y");
    // A line that nobody reads from holds up what is sent.
    terminal.wait_for("futago: bye");
    assert!(machine.wait_off(PATIENCE * 2).unwrap().success());
    std::fs::remove_dir_all(dir).unwrap();
}

/// Everything that needs a machine, on the serial port of one: network, clock, shell, factory reset.
#[test]
fn the_serial_port_of_an_appliance_tests_sets_rescues_and_resets_it() {
    let test = "the_serial_port_of_an_appliance_tests_sets_rescues_and_resets_it";
    if !vm::can_run(test) {
        return;
    }
    let dir = work_dir("console-machine");
    let kernel = vm::kernel().unwrap();
    // Said on the command line, where a node that has no settings any more looks, too.
    let settings = json!({
        "version": 1, "name": "omega", "role": "data", "address": "10.0.2.13", "gateway": "10.0.2.2",
        "portal_interface": "eth0", "disks": [vm::FIRST_DISK], "time_scale_percent": 400,
    });
    let hardware = Hardware {
        name: "machine".into(),
        memory_mib: 768,
        initramfs: vm::appliance_initramfs(&dir, &kernel).unwrap(),
        kernel,
        restarts: true,
        state_disk: Some(vm::empty_state_disk(&dir, "state.img").unwrap()),
        pvscsi_disks: vec![vm::empty_disk(&dir, "data.img", 512).unwrap()],
        command_line: format!("futago.settings={}", STANDARD.encode(settings.to_string())),
        links: vec!["user,restrict=on".into()],
        number: 23,
        ..Hardware::default()
    };
    let mut machine = Machine::start(&dir, &hardware).unwrap();
    let mut terminal = Terminal::on(machine.serial_line().unwrap());
    terminal.wait_for("https://10.0.2.13/");
    terminal.wait_for("in none yet: create one, or offer pairing");

    // QEMU's own gateway answers echo requests.
    terminal.press(b"t");
    terminal.wait_for("An address to try");
    terminal.press(b"\r");
    terminal.wait_for("Enter: go on");
    let contents = terminal.screen.screen().contents();
    let gateway = contents.lines().find(|row| row.contains("10.0.2.2 ")).expect(&contents);
    assert!(gateway.contains("gateway") && gateway.trim_end().ends_with(" ms"), "{contents}");
    terminal.press(b"\r");

    terminal.wait_for("> T");
    terminal.press(b"c");
    terminal.wait_for("The clock shows ");
    terminal.press(b"2031-05-06 07:08\r");
    terminal.wait_for("Set the clock to 2031-05-06 07:08:00 UTC?");
    terminal.press(b"y");
    terminal.wait_for("The clock is set.");
    terminal.press(b"\r");
    terminal.wait_for("> C");

    in_the_shell(&mut terminal);

    terminal.press(b"n");
    terminal.wait_for("10.0.2.13/24_");
    terminal.press(b"\x7f\x7f\x7f\x7f4/24\r");
    terminal.wait_for("10.0.2.2_");
    terminal.press(b"\r");
    terminal.wait_for("Restart omega with address 10.0.2.14/24, gateway 10.0.2.2?");
    terminal.press(b"y");
    terminal.wait_for("https://10.0.2.14/");
    terminal.wait_for("in none yet: create one, or offer pairing");
    terminal.press(b"c");
    terminal.wait_for("The clock shows 2031-05-06 07:");
    terminal.press(b"\x1b");
    terminal.wait_for("> C");

    make_a_volume(&mut terminal);
    terminal.wait_for("served by omega");
    terminal.press(b"n");
    terminal.wait_for("Not done: omega is in a cluster");
    terminal.press(b"\r");
    terminal.wait_for("> N");
    terminal.press(b"c");
    terminal.wait_for("Not done: This node serves demo");
    terminal.press(b"\r");
    terminal.wait_for("> C");
    reset(&mut terminal);

    // The settings are those of the command line again; the node and its disk are new.
    make_a_volume(&mut terminal);
    terminal.wait_for("served by omega");
    terminal.press(b"o");
    terminal.wait_for("Power off omega?");
    terminal.press(b"y");
    // A line that nobody reads from holds up what is sent.
    terminal.wait_for("futago: bye");
    assert!(machine.wait_off(PATIENCE * 2).unwrap().success());
    std::fs::remove_dir_all(dir).unwrap();
}

/// Makes the node the first of a cluster, with a volume, in the shell.
fn make_a_volume(terminal: &mut Terminal) {
    terminal.press(b"s");
    terminal.wait_for("Open a shell on this terminal?");
    terminal.press(b"y");
    terminal.wait_for("rescue:/# ");
    terminal.press(b"until /init ctl node create-cluster --portal 10.0.2.50:3260; do sleep 1; done\r");
    terminal.wait_for("created a cluster");
    terminal.press(b"until /init ctl volume create demo 64MiB; do sleep 1; done; exit\r");
    terminal.wait_for("The shell has ended.");
    terminal.press(b"\r");
    terminal.wait_for("> S");
}

fn fingerprint(terminal: &Terminal) -> Vec<String> {
    let contents = terminal.screen.screen().contents();
    let rows = contents.lines().filter(|row| row.contains("Certificate ") || row.contains("SHA-256 "));
    rows.map(str::to_owned).collect()
}

/// By the node's name, and the phrase that a node with the only copy of a volume asks for.
fn reset(terminal: &mut Terminal) {
    let before = fingerprint(terminal);
    assert_eq!(before.len(), 2, "{before:?}");
    terminal.press(b"f");
    terminal.wait_for("Its cluster goes on counting it as a member that is away.");
    terminal.press(b"alpha\r");
    terminal.wait_for("Not so: this node's name is omega");
    terminal.press(b"\x7f\x7f\x7f\x7f\x7fomega\r");
    terminal.wait_for("No other node that answers has demo in sync: ITS DATA MAY BE LOST.");
    terminal.wait_for("Type \"accept the loss\" to go on:");
    terminal.press(b"accept the loss\r");
    terminal.wait_for("* This node was reset: settings, identity,");
    terminal.wait_for("https://10.0.2.13/");
    terminal.wait_for("in none yet: create one, or offer pairing");
    let after = fingerprint(terminal);
    assert_eq!(after.len(), 2, "{after:?}");
    assert_ne!(before, after);
}

/// It has the terminal, with its signals; then the menu has it again.
fn in_the_shell(terminal: &mut Terminal) {
    terminal.press(b"s");
    terminal.wait_for("Open a shell on this terminal?");
    terminal.press(b"y");
    terminal.wait_for("Rescue shell of this Futago node.");
    terminal.wait_for("rescue:/# ");
    terminal.press(b"tty; date -u +%Y-%m-%d; hwclock -u | cut -c 1-24\r");
    terminal.wait_for("/dev/ttyS0");
    terminal.wait_for("2031-05-06");
    terminal.wait_for("Tue May  6 07:");
    // A program that Ctrl-C ends, and not the shell; its own sleep takes no notice.
    terminal.press(b"echo run$((40+2)); busybox sleep 1000; echo inter$((40+2))\r");
    terminal.wait_for("run42");
    terminal.press(b"\x03");
    terminal.press(b"echo still$((40+2))\r");
    terminal.wait_for("still42");
    assert!(!terminal.screen.screen().contents().contains("inter42"));
    terminal.press(b"exit\r");
    terminal.wait_for("The shell has ended.");
    terminal.press(b"\r");
    terminal.wait_for("> S");
}
