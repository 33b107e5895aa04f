//! The console in a real browser: first password, sign-in, the overview, a resync bar that moves by itself, a
//! hand-over, and what is shown when the cluster manager falls silent. The console is the product's; the cluster
//! manager behind it is one that the test moves.
//!
//! With `FUTAGO_PICTURES=DIR` the test leaves pictures of the pages there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../../webui/tests/fake/mod.rs"]
mod fake;
#[path = "web/storage.rs"]
mod storage;

use base::ByteCount;
use control::api::{Command, ResyncStatus, VolumeState};
use control::settings::Role;
use control::setup::{Disk, Door, Machine};
use control::update::{ClusterUpdate, ClusterUpdateState, Installation, NodeProgress, NodeStep, SlotStatus};
use fake::{Fake, World};
use futago_e2e::browser::Browser;
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const PASSWORD: &str = "correct horse battery";

/// Starts a console for `dir` in a thread that lives as long as the test process.
fn console(dir: &Path) -> String {
    let settings = fake::settings(dir);
    let owned = dir.to_owned();
    std::thread::spawn(move || webui::run(&owned).unwrap());
    let start = Instant::now();
    while !dir.join(control::paths::WEB_SOCKET).exists() {
        assert!(start.elapsed() < Duration::from_secs(20), "no console");
        std::thread::sleep(Duration::from_millis(10));
    }
    format!("https://{}:{}", settings.address, settings.ports.web)
}

/// Pictures of the page at three widths and in both schemes, if they are asked for.
fn picture(browser: &Browser, name: &str) {
    let Some(dir) = std::env::var_os("FUTAGO_PICTURES") else { return };
    std::fs::create_dir_all(&dir).unwrap();
    for (label, width, dark) in
        [("wide", 1280, false), ("wide-dark", 1280, true), ("phone", 390, false), ("phone-dark", 390, true)]
    {
        browser.picture(&Path::new(&dir).join(format!("{name}-{label}.png")), width, dark);
    }
    browser.devtools("Emulation.clearDeviceMetricsOverride", &json!({}));
    browser.devtools("Emulation.setEmulatedMedia", &json!({ "features": [] }));
}

/// Node b came back: it is brought up to date, `percent` of the way.
fn resyncing(world: &mut World, percent: u32) {
    let volume = &mut world.status.volumes[0];
    volume.state = VolumeState::Resyncing;
    volume.in_sync = vec!["a".into()];
    let total = ByteCount::gib(12).0;
    let left = ByteCount(total / 100 * u64::from(100 - percent));
    let rate = 117 << 20;
    volume.resync = Some(ResyncStatus {
        source: "a".into(),
        target: "b".into(),
        percent,
        bytes_left: left,
        bytes_per_s: rate,
        eta_s: Some(left.0 / rate),
    });
    volume.dirty = left;
}

fn percent_shown(browser: &Browser) -> u64 {
    let shown = browser.script("return document.querySelector('.resync progress')?.value ?? 0", &json!([]));
    shown.as_u64().unwrap_or_default()
}

#[test]
fn an_administrator_at_the_console() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(dir.path(), fake::healthy());
    let logs = dir.path().join(control::paths::LOG_DIR);
    std::fs::create_dir(&logs).unwrap();
    let line = "2026-11-22T10:02:11Z  INFO serving volume demo\n";
    std::fs::write(logs.join("storage.log"), line.repeat(200)).unwrap();
    let url = console(dir.path());
    let browser = Browser::start();

    first_password_and_sign_in(&browser, &url);
    overview(&browser, &fake, &url);
    pages_are_left(&browser, &url);
    resync_bar_moves_by_itself(&browser, &fake);
    hand_over(&browser, &fake);
    storage::volumes_and_targets(&browser, &fake, &url);
    pairing(&browser, &fake, &url);
    update_all(&browser, dir.path(), &url);
    removal(&browser, &fake, &url);
    without_a_majority(&browser, &fake, &url);
    update(&browser, &fake, dir.path(), &url);
    change_password(&browser, &url);
    silence(&browser, &fake, &url);
    sign_out(&browser, &url);

    let complaints = browser.complaints();
    let serious: Vec<_> = complaints.iter().filter(|m| !m.contains("401")).collect();
    assert!(serious.is_empty(), "the browser complains: {serious:?}");
}

/// The page of a machine that has no settings: what PID 1 found is in a file, and so is what it leaves.
#[test]
fn a_machine_without_settings_is_set_up_on_its_page() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(control::paths::RUN_DIR)).unwrap();
    let disk = |id: u32, gib: u64| {
        Disk::new(format!("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:{id}:0"), ByteCount::gib(gib).0)
    };
    let machine = Machine {
        interface: "eth0".into(),
        hardware_address: "00:50:56:9a:41:07".into(),
        address: "127.0.0.1".parse().unwrap(),
        prefix_len: 8,
        gateway: Some("127.0.0.254".parse().unwrap()),
        mirror_interface: Some("eth1".into()),
        disks: vec![disk(1, 2048), disk(2, 512)],
    };
    let port = fake::free_port(machine.address);
    let told = serde_json::to_vec(&machine).unwrap();
    std::fs::write(dir.path().join(control::paths::SETUP_MACHINE), told).unwrap();
    let owned = dir.path().to_owned();
    let served = std::thread::spawn(move || webui::run_setup(&owned, port).unwrap());
    let start = Instant::now();
    let door: Door = loop {
        assert!(start.elapsed() < Duration::from_secs(20), "no console");
        std::thread::sleep(Duration::from_millis(10));
        if let Ok(json) = std::fs::read(dir.path().join(control::paths::SETUP_DOOR)) {
            break serde_json::from_slice(&json).unwrap();
        }
    };

    let browser = Browser::start();
    browser.open(&format!("https://127.0.0.1:{port}/"));
    assert!(browser.url().ends_with("/setup"), "{}", browser.url());
    picture(&browser, "machine");
    let fill = |fields: &[(&str, &str)]| {
        for (field, text) in fields {
            browser.script("document.querySelector(arguments[0]).value = ''", &json!([field]));
            browser.fill(field, text);
        }
        browser.click("button.primary");
    };
    fill(&[
        ("#code", &door.code),
        ("#name", "futago-1"),
        ("#address", "192.0.2.11"),
        ("#gateway", "192.0.2.1"),
        ("#password", PASSWORD),
        ("#again", PASSWORD),
    ]);
    browser.wait_text("#address-fault", "no prefix length");
    picture(&browser, "machine-faults");
    // Secrets are typed again; what was right stays. The second disk is not for data.
    browser.click("#disks label:nth-of-type(2) input");
    fill(&[
        ("#code", &door.code),
        ("#address", "192.0.2.11/24"),
        ("#password", PASSWORD),
        ("#again", PASSWORD),
    ]);
    browser.wait_text("main", "This machine is futago-1 now");
    assert_eq!(browser.text("#console"), "https://192.0.2.11/");
    assert_eq!(browser.text(".fingerprint"), door.fingerprint);
    picture(&browser, "machine-done");
    served.join().unwrap();
    let settings = std::fs::read(dir.path().join(control::paths::SETTINGS)).unwrap();
    let settings = control::settings::Settings::parse(&settings).unwrap();
    assert_eq!((settings.role, &settings.disks), (Role::Data, &vec![machine.disks[0].path.clone()]));
    assert_eq!(settings.gateway, Some("192.0.2.1".parse().unwrap()));
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "the browser complains: {complaints:?}");
}

fn first_password_and_sign_in(browser: &Browser, url: &str) {
    browser.open(&format!("{url}/volumes"));
    assert!(browser.url().ends_with("/setup"), "nothing but set-up answers: {}", browser.url());
    picture(browser, "setup");
    browser.fill("#password", PASSWORD);
    browser.fill("#again", "something else");
    browser.click("button.primary");
    browser.wait_text("[role=alert]", "differ");
    browser.fill("#password", PASSWORD);
    browser.fill("#again", PASSWORD);
    browser.click("button.primary");
    browser.find("#panel-headline");

    browser.click("form.out button");
    browser.find("#password");
    browser.open(&format!("{url}/nodes"));
    browser.fill("#password", "wrong password");
    browser.click("button.primary");
    browser.wait_text("[role=alert]", "Wrong password");
    picture(browser, "login");
    browser.fill("#password", PASSWORD);
    browser.click("button.primary");
    browser.find("#panel-nodes");
    assert!(browser.url().ends_with("/nodes"), "back to where one wanted to go");
}

/// An update for all nodes is refused while one does not answer; one that another node leads is followed.
fn update_all(browser: &Browser, dir: &Path, url: &str) {
    let file = dir.join("futago-0.2.0.update");
    std::fs::write(&file, bundle()).unwrap();
    browser.open(&format!("{url}/nodes"));
    browser.wait_text("#panel-nodes", "witness");
    browser.open(&format!("{url}/update"));
    browser.wait_text("#panel-rollout", "knows of none");
    browser.fill("#file-all", file.to_str().unwrap());
    browser.click("input[name=without][value=witness]");
    browser.click("#update-all");
    browser.wait_text(".notice.bad", "Not begun: the console of node b");

    let node = |name: &str, step| NodeProgress { name: name.into(), step };
    let mut told = ClusterUpdate {
        id: "1".into(),
        release: "0.2.0".into(),
        begun_at: 5,
        leader: "b".into(),
        moves: 1,
        without: vec!["witness".into()],
        state: ClusterUpdateState::Running,
        text: "handing volume demo over to node b".into(),
        nodes: vec![node("b", NodeStep::Updated), node("a", NodeStep::HandingOver)],
    };
    tell(dir, &told);
    browser.wait_text("#panel-rollout", "Handing over");
    browser.wait_text("#panel-rollout", "node b leads it");
    picture(browser, "update-all");
    told.state = ClusterUpdateState::Stopped;
    told.text = "node a: it is not signed".into();
    tell(dir, &told);
    browser.wait_text("#panel-rollout", "node a: it is not signed");
}

/// As the console of another member does, by the cluster managers.
fn tell(dir: &Path, update: &ClusterUpdate) {
    let json = serde_json::to_string(update).unwrap();
    let mut stream = UnixStream::connect(dir.join(control::paths::PEER_SOCKET)).unwrap();
    let length = json.len();
    write!(
        stream,
        "PUT /api/v1/update/cluster HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{json}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn bundle() -> Vec<u8> {
    let part = |len_bytes| update::Part { len_bytes, sha256: [0; 32] };
    let header = update::Header {
        version: "0.2.0".parse().unwrap(),
        replaces_from: "0.1.0".parse().unwrap(),
        formats: update::Formats::CURRENT,
        kernel: part(1),
        initramfs: part(300_000),
    };
    let mut content = header.signed_part().unwrap().to_vec();
    content.resize(update::HEADER_BYTES + 300_001, 7);
    content
}

/// A file chosen in the browser arrives whole, and the page follows its installation.
fn update(browser: &Browser, fake: &Fake, dir: &Path, url: &str) {
    let content = bundle();
    let file = dir.join("futago-0.2.0.update");
    std::fs::write(&file, &content).unwrap();

    browser.open(&format!("{url}/nodes"));
    browser.click("a[href='/update']");
    browser.wait_text("#panel-update", "0.0.9");
    browser.fill("#file", file.to_str().unwrap());
    browser.click("#install");
    browser.wait_text(".notice", "being installed");
    browser.wait_text("#panel-update", "Installing");
    assert!(std::fs::read(dir.join(control::paths::UPDATE_BUNDLE)).unwrap() == content);
    picture(browser, "update");
    fake.edit(|w| {
        w.update.installation = Some(Installation::Installed { release: "0.2.0".into() });
        w.update.slots = Some(SlotStatus {
            running: "a".into(),
            next: "b".into(),
            idle_release: Some("0.2.0".into()),
            on_trial: true,
        });
    });
    browser.wait_text("#panel-update", "the next start takes it");
    browser.click("#restart");
    browser.wait_text("main", "It starts release 0.2.0 then");
    browser.click("#confirm");
    browser.wait_text(".notice", "comes back");
    assert_eq!(fake.edit(|w| w.asked.clone()), ["update", "restart"]);
}

fn change_password(browser: &Browser, url: &str) {
    let fill = |current: &str, password: &str, again: &str| {
        browser.fill("#current", current);
        browser.fill("#password", password);
        browser.fill("#again", again);
        browser.click("button.primary");
    };
    browser.open(&format!("{url}/password"));
    picture(browser, "password");
    fill("wrong password", "another password", "another password");
    browser.wait_text(".notice.bad", "Wrong password");
    fill(PASSWORD, "another password", "yet another one");
    browser.wait_text(".notice.bad", "differ");
    fill(PASSWORD, "another password", "another password");
    browser.find("#panel-headline");
    browser.open(&format!("{url}/password"));
    fill("another password", PASSWORD, PASSWORD);
    browser.find("#panel-headline");
}

fn overview(browser: &Browser, fake: &Fake, url: &str) {
    browser.open(url);
    browser.wait_text("#panel-headline", "Everything is mirrored");
    for (css, text) in [
        ("#panel-volumes", "demo"),
        ("#panel-volumes", "Healthy"),
        ("#panel-volumes", "200 GiB"),
        ("#panel-nodes", "witness"),
        ("#panel-connect", "127.0.0.50:3260"),
        ("#panel-connect", "iqn.2026-11.local.futago:demo"),
        ("#panel-services", "Cluster manager"),
        ("#panel-events", "serves volume demo"),
    ] {
        browser.wait_text(css, text);
    }
    picture(browser, "overview");
    browser.script("document.querySelectorAll('details').forEach((d) => d.open = true)", &json!([]));
    picture(browser, "connect");
    browser.click("a[href='/logs/storage']");
    browser.wait_text("pre.log", "serving volume demo");
    // Opened at its end.
    let hidden = "const log = document.querySelector('pre.log'), text = document.createRange();
        text.selectNodeContents(log);
        return text.getBoundingClientRect().bottom - log.getBoundingClientRect().bottom";
    assert!(browser.script(hidden, &json!([])).as_f64().unwrap() < 1.0);
    picture(browser, "log");
    browser.open(url);
    let serving = |world: &mut World, online| {
        let cluster = world.status.cluster.as_mut().unwrap();
        cluster.members.iter_mut().filter(|m| m.name == "b").for_each(|m| m.online = online);
        world.status.volumes[0].state = if online { VolumeState::Healthy } else { VolumeState::Degraded };
        world.status.volumes[0].in_sync =
            if online { vec!["a".into(), "b".into()] } else { vec!["a".into()] };
    };
    fake.edit(|w| {
        serving(w, false);
        w.status
            .problems
            .push("Node b: disk /dev/sdb does not answer since 10:02; its copy is detached.".into());
        let number = w.events.len() as u64 + 1;
        w.events.push(control::api::Event {
            number,
            at: fake::now(),
            late: false,
            severity: "error".into(),
            text: "Node b fell silent; volume demo goes on with the copy on a.".into(),
        });
    });
    browser.wait_text("#panel-headline", "without full protection");
    browser.wait_text("#panel-nodes", "Offline");
    picture(browser, "degraded");
    fake.edit(|w| {
        serving(w, true);
        w.status.problems.clear();
    });
    assert_eq!(fake.edit(|w| w.status.cluster.as_ref().unwrap().members[2].role), Role::Witness);
}

/// A browser has six connections for a server, and keeps a page that was left for a minute: it holds none. Ends on the overview,
/// gone back to.
fn pages_are_left(browser: &Browser, url: &str) {
    let shown = |name: &str| browser.wait_text("nav a[aria-current]", name);
    browser.open(url);
    let start = Instant::now();
    for _ in 0..4 {
        for (path, name) in [("/", "Overview"), ("/nodes", "Nodes")] {
            browser.click(&format!("nav a[href='{path}']"));
            shown(name);
        }
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?} for eight pages", start.elapsed());
    browser.script("history.back()", &json!([]));
    shown("Overview");
}

fn resync_bar_moves_by_itself(browser: &Browser, fake: &Fake) {
    fake.edit(|w| resyncing(w, 7));
    browser.wait_text("#panel-volumes", "Resyncing");
    browser.wait_text(".resync", "117 MiB/s");
    browser.wait_text(".resync", "left");
    // The element stays the same while it moves: focus and transitions survive.
    browser.script("document.querySelector('.resync progress').mine = 'yes'", &json!([]));
    let mut last = 0;
    for percent in [25, 43, 78] {
        fake.edit(|w| resyncing(w, percent));
        browser.wait_text(".resync .percent", &format!("{percent} %"));
        let shown = percent_shown(browser);
        assert!(shown > last && shown == u64::from(percent), "{shown} after {last}");
        last = shown;
        if percent == 43 {
            picture(browser, "resync");
        }
    }
    assert_eq!(browser.script("return document.querySelector('.resync progress').mine", &json!([])), "yes");
    browser.wait_text("#panel-announce", "70 percent");
    assert!(
        browser.text("#panel-volumes").contains("no hand-over"),
        "nobody to hand over to while b is behind"
    );
    fake.edit(|w| {
        let volume = &mut w.status.volumes[0];
        volume.state = VolumeState::Healthy;
        volume.in_sync = vec!["a".into(), "b".into()];
        volume.resync = None;
        volume.dirty = ByteCount(0);
    });
    browser.wait_text("#panel-headline", "Everything is mirrored");
}

fn hand_over(browser: &Browser, fake: &Fake) {
    browser.click("#handover-demo");
    browser.wait_text("h1", "Hand demo over to node b?");
    picture(browser, "handover");
    browser.click("#confirm");
    browser.wait_text(".notice", "served by node b");
    browser.wait_text("#panel-volumes", "Primary b");
    let commands = fake.edit(|w| w.commands.clone());
    assert_eq!(commands, [Command::HandOver { volume: "demo".into(), to: Some("b".into()) }]);
}

fn pairing(browser: &Browser, fake: &Fake, url: &str) {
    browser.open(&format!("{url}/nodes"));
    picture(browser, "nodes");
    browser.fill("[name=address]", "10.0.0.13");
    browser.fill("[name=code]", "0000-0000");
    browser.click("form[action='/nodes/pair'] button");
    browser.wait_text(".notice", "code is wrong");
    let cluster = fake.edit(|w| w.status.cluster.take());
    browser.wait_text("#panel-nodes", "In no cluster");
    browser.open(&format!("{url}/nodes"));
    browser.click("form[action='/nodes/offer'] button");
    browser.wait_text(".code", "4821-9037");
    picture(browser, "offer");
    fake.edit(|w| w.status.cluster = cluster);
}

/// What needs a majority is not offered without one.
fn without_a_majority(browser: &Browser, fake: &Fake, url: &str) {
    let quorum = |there| fake.edit(|w| w.status.cluster.as_mut().unwrap().quorum = there);
    let see = |headline: &str| {
        browser.open(url);
        browser.wait_text("#panel-headline", headline);
        browser.open(&format!("{url}/nodes"));
    };
    quorum(false);
    see("No majority");
    browser.wait_text("main", "it comes back only as a new one");
    assert!(!browser.text("main").contains("Pairing code"));
    picture(browser, "alone");
    quorum(true);
    see("Everything is mirrored");
    browser.wait_text("main", "Pairing code");
}

/// A member is removed only by whoever types its name, and is told what the others can't do without it.
fn removal(browser: &Browser, fake: &Fake, url: &str) {
    let cluster = fake.edit(|w| w.status.cluster.clone());
    browser.open(&format!("{url}/nodes"));
    browser.wait_text("#panel-nodes", "votes");
    // Only now it knows again that it is in a cluster.
    browser.open(&format!("{url}/nodes"));
    for (typed, notice) in [("a", "nothing was removed"), ("witness", "Node witness is no member any more")] {
        browser.click("a[href='/nodes/witness/remove']");
        browser.wait_text("h1", "Remove node witness from the cluster?");
        browser.wait_text("main", "Afterwards: There is no witness");
        picture(browser, "remove");
        browser.fill("[name=confirm]", typed);
        browser.click("#confirm");
        browser.wait_text(".notice", notice);
    }
    assert_eq!(fake.edit(|w| w.status.cluster.as_ref().unwrap().members.len()), 2);
    let offered =
        browser.script("return document.querySelectorAll(\"a[href='/nodes/a/remove']\").length", &json!([]));
    assert_eq!(offered, 0, "not itself");
    fake.edit(|w| w.status.cluster = cluster);
}

fn silence(browser: &Browser, fake: &Fake, url: &str) {
    browser.open(url);
    browser.wait_text("#panel-headline", "Everything is mirrored");
    fake.silence();
    browser.wait_text("#panel-headline", "not known");
    browser.wait_text("#panel-headline", "No answer since 20");
    browser.wait_text("#panel-volumes", "Last known");
    assert!(!browser.text("#panel-volumes").contains("Hand over"), "no command on old knowledge");
    picture(browser, "silent");
    fake.resume();
    browser.wait_text("#panel-headline", "Everything is mirrored");
}

fn sign_out(browser: &Browser, url: &str) {
    let cookies = browser.script("return document.cookie", &json!([]));
    assert_eq!(cookies, "", "scripts do not see the session");
    browser.click("form.out button");
    browser.find("#password");
    browser.open(&format!("{url}/volumes"));
    assert!(browser.url().contains("/login?next=/volumes"), "{}", browser.url());
}
