//! The REST interface and its client against a real console process loop and a fake cluster manager.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod fake;

use base::ByteCount;
use control::api::{Command, VolumeState};
use control::names::Pattern;
use control::targets::{BlockFormat, Chap, Login, Presentation, Secret};
use fake::Fake;
use futago_webui::client::{Client, Trust};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

const PASSWORD: &str = "correct horse battery";

/// Starts a console for `dir` in a thread that lives as long as the test process.
fn console(dir: &Path) -> String {
    let settings = fake::settings(dir);
    let owned = dir.to_owned();
    std::thread::spawn(move || futago_webui::run(&owned).unwrap());
    let socket = dir.join(control::paths::WEB_SOCKET);
    let start = Instant::now();
    while !socket.exists() {
        assert!(start.elapsed() < Duration::from_secs(20), "no console");
        std::thread::sleep(Duration::from_millis(10));
    }
    format!("https://{}:{}", settings.address, settings.ports.web)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn the_password_changes_with_the_current_one_or_on_the_node_itself() {
    let dir = tempfile::tempdir().unwrap();
    let _fake = Fake::start(dir.path(), fake::healthy());
    let url = console(dir.path());
    let local = Client::local(dir.path());
    let remote = |password: &str| Client::remote(&url, "admin", password, Trust::Anyone).unwrap();
    block_on(async {
        local.setup(PASSWORD).await.unwrap();
        assert_eq!(remote(PASSWORD).change_password("short").await.unwrap_err().kind, "invalid");
        assert_eq!(remote("wrong").change_password("a longer one").await.unwrap_err().kind, "unauthorized");
        remote(PASSWORD).status().await.unwrap();

        remote(PASSWORD).change_password("a longer one").await.unwrap();
        assert_eq!(remote(PASSWORD).status().await.unwrap_err().kind, "unauthorized");
        remote("a longer one").status().await.unwrap();

        local.change_password(PASSWORD).await.unwrap();
        assert_eq!(remote("a longer one").status().await.unwrap_err().kind, "unauthorized");
        remote(PASSWORD).status().await.unwrap();
    });
}

#[test]
fn commands_reach_the_manager_and_errors_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(dir.path(), fake::healthy());
    console(dir.path());
    let mode = std::fs::metadata(dir.path().join(control::paths::WEB_SOCKET)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let client = Client::local(dir.path());
    block_on(drive(&client, &fake));
}

async fn drive(client: &Client, fake: &Fake) {
    let status = client.status().await.unwrap();
    assert_eq!(status.volumes[0].state, VolumeState::Healthy);
    assert_eq!(status.services.len(), 3, "merged from the supervisor");
    assert_eq!(client.events(3).await.unwrap().len(), 2);

    let native = Presentation { block_format: BlockFormat::Native, thin: false };
    client.create_volume("vm", ByteCount::gib(1), native).await.unwrap();
    let again = client.create_volume("vm", ByteCount::gib(1), Presentation::default()).await;
    assert_eq!(again.unwrap_err().kind, "exists");
    client.create_target("iqn.2026-11.local.futago:two").await.unwrap();
    access(client).await;
    assert_eq!(client.delete_volume("vm").await.unwrap_err().kind, "in_use");
    assert_eq!(client.delete_target("iqn.2026-11.local.futago:two").await.unwrap_err().kind, "in_use");
    client.unmap_lun("iqn.2026-11.local.futago:two", 7).await.unwrap();
    client.delete_volume("vm").await.unwrap();
    client.delete_target("iqn.2026-11.local.futago:two").await.unwrap();
    client.grow_volume("demo", ByteCount::gib(300)).await.unwrap();
    assert_eq!(client.status().await.unwrap().volumes[0].size, ByteCount::gib(300));
    assert_eq!(client.grow_volume("demo", ByteCount::gib(1)).await.unwrap_err().kind, "invalid");
    client.hand_over("demo", Some("b")).await.unwrap();
    assert_eq!(client.hand_over("none", None).await.unwrap_err().kind, "not_found");
    let offer = client.offer_pairing().await.unwrap();
    client.join("127.0.0.12:7780".parse().unwrap(), &offer.code).await.unwrap();
    assert_eq!(client.join("127.0.0.12:7780".parse().unwrap(), "0-0").await.unwrap_err().kind, "refused");
    assert_eq!(client.create_cluster("127.0.0.50:3260".parse().unwrap()).await.unwrap_err().kind, "exists");
    let names = async || {
        let members = client.status().await.unwrap().cluster.unwrap().members;
        members.into_iter().map(|member| member.name).collect::<Vec<_>>()
    };
    assert_eq!(client.remove_member("none").await.unwrap_err().kind, "not_found");
    assert_eq!(names().await, ["a", "b", "witness"]);
    client.remove_member("witness").await.unwrap();
    assert_eq!(names().await, ["a", "b"]);
    let seen = fake.edit(|w| w.commands.clone());
    assert!(seen.contains(&Command::HandOver { volume: "demo".into(), to: Some("b".into()) }));

    assert!(seen.contains(&Command::CreateVolume {
        name: "vm".into(),
        size: ByteCount::gib(1),
        presentation: native
    }));

    let bundle = client.support_bundle().await.unwrap();
    assert!(bundle.windows(11).any(|w| w == b"status.json"));

    fake.silence();
    let error = client.status().await.unwrap_err();
    assert_eq!(error.kind, "unavailable");
    assert!(error.message.contains("cluster manager"), "{}", error.message);
    assert_eq!(client.services().await.unwrap().len(), 3, "the supervisor still answers");
    fake.resume();
    client.status().await.unwrap();
}

/// LUNs, rules and CHAP of the target `two`.
async fn access(client: &Client) {
    const IQN: &str = "iqn.2026-11.local.futago:two";
    let (all, one) = (Pattern::typed("iqn.1998-01.com.vmware:*"), Pattern::typed("iqn.2026-11.x:a/b?c"));
    client.map_lun(IQN, 7, "vm", true, &[]).await.unwrap();
    client.change_lun(IQN, 7, Some(false), Some(std::slice::from_ref(&all))).await.unwrap();
    client.allow_initiator(IQN, &all).await.unwrap();
    client.allow_initiator(IQN, &one).await.unwrap();
    let chap = |secret: &str, mutual: Option<Login>| Chap {
        user: "host".into(),
        secret: Secret::new(secret.into()),
        mutual,
    };
    let own = Login { user: "array".into(), secret: Secret::new("hidden-secret-2".into()) };
    client.set_chap(IQN, None, Some(&chap("hidden-secret-1", None))).await.unwrap();
    client.set_chap(IQN, Some(&one), Some(&chap("hidden-secret-3", Some(own)))).await.unwrap();

    let status = client.status().await.unwrap();
    assert_eq!(status.sessions.len(), 1);
    let target = status.targets.into_iter().find(|t| t.iqn == IQN).unwrap();
    assert_eq!((target.luns[0].read_only, &target.luns[0].initiators[..]), (false, &[all.clone()][..]));
    assert_eq!(target.initiators[1].chap.as_ref().unwrap().mutual.as_ref().unwrap().user, "array");
    assert!(!serde_json::to_string(&target).unwrap().contains("hidden"));
    let bundle = client.support_bundle().await.unwrap();
    assert!(!bundle.windows(6).any(|window| window == b"hidden"));

    assert_eq!(client.deny_initiator(IQN, &one, false).await, Ok(()));
    assert_eq!(client.deny_initiator(IQN, &all, false).await.unwrap_err().kind, "refused");
    client.deny_initiator(IQN, &all, true).await.unwrap();
    client.set_chap(IQN, None, None).await.unwrap();
    assert_eq!(client.set_chap(IQN, Some(&one), None).await.unwrap_err().kind, "not_found");
    let status = client.status().await.unwrap();
    let target = status.targets.into_iter().find(|t| t.iqn == IQN).unwrap();
    assert!(target.initiators.is_empty() && target.chap.is_none());
}

#[test]
fn the_network_needs_set_up_then_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let _fake = Fake::start(dir.path(), fake::healthy());
    let url = console(dir.path());
    block_on(knock(&url, &Client::local(dir.path())));
}

async fn knock(url: &str, local: &Client) {
    let fingerprint = local.fingerprint().await.unwrap();
    let pinned = || Trust::Fingerprint(fingerprint.clone());
    let remote = |password: &str| Client::remote(url, "admin", password, pinned()).unwrap();

    assert_eq!(remote("").status().await.unwrap_err().kind, "setup_needed");
    assert_eq!(remote("").setup("short").await.unwrap_err().kind, "invalid");
    remote("").setup(PASSWORD).await.unwrap();
    assert_eq!(remote("").setup("another password").await.unwrap_err().kind, "exists");
    remote(PASSWORD).status().await.unwrap();
    let other_user = Client::remote(url, "root", PASSWORD, pinned()).unwrap();
    assert_eq!(other_user.status().await.unwrap_err().kind, "unauthorized");

    let stranger = Client::remote(url, "admin", PASSWORD, Trust::Fingerprint("00".repeat(32))).unwrap();
    let error = stranger.status().await.unwrap_err();
    assert_eq!(error.kind, "unreachable");
    assert!(error.message.contains(&fingerprint), "{}", error.message);
    Client::remote(url, "admin", PASSWORD, Trust::Anyone).unwrap().status().await.unwrap();

    let plain = plain_http(url);
    assert!(plain.starts_with("HTTP/1.1 400") && plain.contains("https://"), "{plain}");

    let mut kind = remote("wrong password").status().await.unwrap_err().kind;
    assert_eq!(kind, "unauthorized");
    // On a busy machine the first waits pass while a hash is computed; they double.
    for _ in 0..20 {
        if kind == "too_many_attempts" {
            break;
        }
        kind = remote("wrong password").status().await.unwrap_err().kind;
    }
    assert_eq!(kind, "too_many_attempts");
}

#[test]
fn the_network_of_a_node_that_is_no_machine_stays() {
    let dir = tempfile::tempdir().unwrap();
    let _fake = Fake::start(dir.path(), fake::healthy());
    console(dir.path());
    let before = std::fs::read(dir.path().join(control::paths::SETTINGS)).unwrap();
    let local = Client::local(dir.path());
    let kind = |address, gateway| block_on(local.set_network(address, gateway)).unwrap_err().kind;
    assert_eq!(kind("127.0.0.2", None), "invalid");
    assert_eq!(kind("127.0.0.2/24", Some("127.0.0.9".parse().unwrap())), "refused");
    assert_eq!(std::fs::read(dir.path().join(control::paths::SETTINGS)).unwrap(), before);
}

#[test]
fn a_download_link_works_once_without_sign_in() {
    let dir = tempfile::tempdir().unwrap();
    let _fake = Fake::start(dir.path(), fake::healthy());
    let url = console(dir.path());
    let local = Client::local(dir.path());
    let link = block_on(local.support_bundle_link()).unwrap();
    assert_eq!((link.valid_s, link.path.len()), (900, "/bundle/".len() + 32), "{}", link.path);
    let stranger = Client::remote(&url, "admin", "", Trust::Anyone).unwrap();
    assert_eq!(block_on(stranger.support_bundle_link()).unwrap_err().kind, "setup_needed");

    let fetched = dir.path().join("bundle.tar");
    let fetch = |method: &str, path: &str| {
        let out = fetched.display().to_string();
        let words = ["-sk", "-X", method, "-o", &out, "-w", "%{http_code}", &format!("{url}{path}")];
        let answer = std::process::Command::new("curl").args(words).output().unwrap();
        String::from_utf8(answer.stdout).unwrap()
    };
    assert_eq!(fetch("HEAD", &link.path), "405", "uses nothing up");
    assert_eq!(fetch("GET", &format!("/bundle/{}", "0".repeat(32))), "404");
    assert_eq!(fetch("GET", &link.path), "200");
    assert!(std::fs::read(&fetched).unwrap().windows(11).any(|w| w == b"status.json"));
    assert_eq!(fetch("GET", &link.path), "404");
    assert!(std::fs::read_to_string(&fetched).unwrap().contains("was used"));
}

/// What serde and axum would let pass.
#[test]
fn a_request_says_what_it_means_or_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(dir.path(), fake::healthy());
    console(dir.path());
    let logs = dir.path().join(control::paths::LOG_DIR);
    std::fs::create_dir(&logs).unwrap();
    std::fs::write(logs.join("storage.log"), "a line\n").unwrap();
    let socket = dir.path().join(control::paths::WEB_SOCKET).display().to_string();
    let ask = |words: &[&str], path: &str| {
        let url = format!("http://x/api/v1/{path}");
        let fixed = ["-s", "--unix-socket", &socket, "-w", " %{http_code}", &url];
        let answer = std::process::Command::new("curl").args(fixed).args(words).output().unwrap();
        String::from_utf8(answer.stdout).unwrap()
    };
    let json = ["-H", "Content-Type: application/json", "-d"];
    let array = ask(&[&json[..], &[r#" ["r5",4194304,"512e",true]"#]].concat(), "volumes");
    assert!(array.ends_with(" 400") && array.contains("must be a JSON object"), "{array}");
    let plain = ask(&["-H", "Content-Type: text/plain", "-d", r#"{"name":"r5","size":4096}"#], "volumes");
    assert!(plain.ends_with(" 400"), "{plain}");
    assert!(fake.edit(|w| w.commands.is_empty()));
    let object = ask(&[&json[..], &[r#"{"name":"r5","size":4194304}"#]].concat(), "volumes");
    assert!(object.ends_with(" 201"), "{object}");
    assert_eq!(ask(&[], "services/storage/log"), "a line\n 200");
    let unknown = ask(&[], "services/storage/log?lines=abc");
    assert!(unknown.ends_with(" 400") && unknown.contains("lines"), "{unknown}");
}

#[test]
fn a_node_without_a_console_is_told_from_one_that_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let said = || block_on(Client::local(dir.path()).status()).unwrap_err().message;
    let settings = fake::settings(dir.path());
    assert!(said().contains("is the node running"), "{}", said());
    let settings = serde_json::to_vec(&control::settings::Settings { web: false, ..settings }).unwrap();
    std::fs::write(dir.path().join(control::paths::SETTINGS), settings).unwrap();
    assert!(said().contains("`web` is off"), "{}", said());
}

/// What a browser gets that was told `http://`.
fn plain_http(url: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(url.trim_start_matches("https://")).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The first bytes of a release `version`, and `len` bytes behind them.
fn release(version: &str, len: u64) -> Vec<u8> {
    let part = |len_bytes| update::Part { len_bytes, sha256: [0; 32] };
    let header = update::Header {
        version: version.parse().unwrap(),
        replaces_from: version.parse().unwrap(),
        formats: update::Formats::CURRENT,
        kernel: part(1),
        initramfs: part(len - 1),
    };
    let mut bytes = header.signed_part().unwrap().to_vec();
    bytes.resize(update::HEADER_BYTES + usize::try_from(len).unwrap(), 7);
    bytes
}

#[test]
fn an_update_is_kept_whole_or_not_at_all_and_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(dir.path(), fake::healthy());
    let url = console(dir.path());
    let local = Client::local(dir.path());
    let kept = || std::fs::read(dir.path().join(control::paths::UPDATE_BUNDLE)).ok();
    let left = || std::fs::read_dir(dir.path().join("update")).map_or(0, Iterator::count);
    block_on(async {
        local.setup(PASSWORD).await.unwrap();
        let remote = Client::remote(&url, "admin", PASSWORD, Trust::Anyone).unwrap();
        let stranger = Client::remote(&url, "admin", "wrong", Trust::Anyone).unwrap();
        assert_eq!(stranger.upload_update(release("0.2.0", 9)).await.unwrap_err().kind, "unauthorized");
        assert_eq!(stranger.restart().await.unwrap_err().kind, "unauthorized");
        let good = release("0.2.0", 3 << 20);
        for (bytes, kind, expected) in [
            (Vec::new(), "invalid", "no update"),
            (vec![7; 100_000], "invalid", "no update"),
            (good[..100].to_vec(), "invalid", "too short"),
            (good[..good.len() - 1].to_vec(), "invalid", "not whole"),
            ([&good[..], &[0]].concat(), "too_large", "longer than it says"),
        ] {
            let error = remote.upload_update(bytes).await.unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(expected), "{error}");
            assert_eq!((kept(), left()), (None, 0));
        }
        assert!(fake.edit(|w| w.asked.clone()).is_empty());

        remote.upload_update(good.clone()).await.unwrap();
        assert!(kept() == Some(good.clone()));
        assert_eq!(fake.edit(|w| w.asked.clone()), ["update"]);
        let status = remote.update_status().await.unwrap();
        assert!(status.installation.unwrap().is_under_way());
        let error = local.upload_update(release("0.3.0", 9)).await.unwrap_err();
        assert_eq!(error.kind, "in_use");
        assert!(kept() == Some(good), "not changed under the supervisor");

        remote.restart().await.unwrap();
        fake.edit(|w| {
            w.update.installation = None;
            w.update.slots = None;
        });
        assert_eq!(remote.upload_update(release("0.3.0", 9)).await.unwrap_err().kind, "refused");
        let error = remote.restart().await.unwrap_err();
        assert_eq!((&*error.kind, &*error.message), ("refused", "There is no machine to restart."));
    });
}
