//! Who may log in to a target, how he proves it, and what he sees: with libiscsi's tools and QEMU's initiator, which
//! nobody here wrote, against the demo.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use futago_e2e::demo::Demo;
use futago_e2e::tools::{futago, run_within, wait_for, work_dir};

const LIMIT: Duration = Duration::from_secs(60);
/// A change is done when it is committed; the other node, if that one serves, obeys it a moment later.
const SOON: Duration = Duration::from_secs(5);
const HEALTHY: Duration = Duration::from_secs(90);
const ALICE: &str = "iqn.2026-11.local.test:alice";
const BOB: &str = "iqn.2026-11.local.test:bob";
const SECRET: &str = "open-sesame-1001";
const OTHER_SECRET: &str = "the-rock-answers";

/// One demo for all scenarios: each cleans up behind itself.
struct Access {
    demo: Demo,
}

impl Access {
    /// `futago ctl target …` on node a.
    fn target(&self, arguments: &[&str]) {
        let all = [&["target"], arguments].concat();
        self.demo.ctl("a", &all).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    }

    /// Creates a volume and waits until it is served.
    fn volume(&self, arguments: &[&str]) {
        self.demo.ctl("a", &[&["volume", "create"], arguments].concat()).unwrap();
        wait_for("the new volume", HEALTHY, || {
            let status = self.demo.status()?;
            let volume = status["volumes"].as_array()?.iter().find(|v| v["name"] == arguments[0])?.clone();
            (volume["state"] == "healthy").then_some(())
        })
        .unwrap();
    }

    /// `futago ctl target chap IQN …` with `input` on its standard input; exit status and what it said.
    fn chap(&self, arguments: &[&str], input: &str) -> (Option<i32>, String) {
        let mut command = Command::new(futago());
        command.args(["ctl", "--dir"]).arg(self.demo.dir.join("a"));
        command.args(["target", "chap", &self.demo.iqn()]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains(SECRET) && !said.contains(OTHER_SECRET), "{said}");
        (output.status.code(), said.into_owned())
    }

    fn set_chap(&self, arguments: &[&str], input: &str) {
        let (code, said) = self.chap(arguments, input);
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
    }

    /// INQUIRY by libiscsi's tool as `initiator`; `door` is `user%secret@` or nothing, `rest` what follows the `?`.
    fn inquiry(&self, initiator: &str, door: &str, lun: u16, rest: &str) -> Result<String, String> {
        let url = format!("iscsi://{door}{}/{}/{lun}{rest}", self.demo.portal(), self.demo.iqn());
        let said = run_within(LIMIT, "iscsi-inq", &["-i", initiator, &url]);
        match said {
            Ok(text) if text.contains("Vendor:FUTAGO") => Ok(text),
            Ok(text) => Err(text),
            Err(error) => Err(error.to_string()),
        }
    }

    fn gets_in(&self, initiator: &str, door: &str, rest: &str) {
        self.sees(initiator, door, 0, rest);
    }

    fn sees(&self, initiator: &str, door: &str, lun: u16, rest: &str) {
        let mut last = String::new();
        let seen = wait_for("the LUN", SOON, || match self.inquiry(initiator, door, lun, rest) {
            Ok(_) => Some(()),
            Err(said) => {
                last = said;
                None
            }
        });
        assert!(seen.is_ok(), "{initiator} {lun} {rest}: {last}");
    }

    fn sees_not(&self, initiator: &str, lun: u16) {
        wait_for("no LUN", SOON, || self.inquiry(initiator, "", lun, "").err()).unwrap();
    }

    fn stays_out(&self, initiator: &str, door: &str, rest: &str, status: &str) {
        let said = wait_for("a refusal", SOON, || self.inquiry(initiator, door, 0, rest).err());
        let said = said.unwrap_or_else(|error| panic!("{initiator} {rest}: {error}"));
        assert!(said.contains(status), "{initiator} {rest}: {said}");
    }

    /// Targets and LUNs as libiscsi's discovery shows them.
    fn listing(&self, initiator: &str) -> String {
        self.listing_through("", initiator)
    }

    fn listing_through(&self, door: &str, initiator: &str) -> String {
        let portal = format!("iscsi://{door}{}", self.demo.portal());
        run_within(LIMIT, "iscsi-ls", &["-i", initiator, "-s", &portal]).unwrap()
    }

    /// One command of qemu-io on a LUN, as `initiator`.
    fn qemu(&self, initiator: &str, lun: u16, command: &str) -> Result<String, String> {
        let image = format!(
            "driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={},file.target={},file.lun={lun},\
             file.initiator-name={initiator}",
            self.demo.portal(),
            self.demo.iqn()
        );
        let mut arguments = vec!["--image-opts", "-c", command];
        if !command.starts_with("write") {
            arguments.push("-r");
        }
        arguments.push(&image);
        let said = run_within(LIMIT, "qemu-io", &arguments).map_err(|error| error.to_string())?;
        if said.contains("failed") || said.contains("error") { Err(said) } else { Ok(said) }
    }
}

#[test]
fn only_those_who_may_get_in_and_see_what_they_may() {
    let dir = work_dir("access");
    let demo = Demo::start(&dir.join("state"), "256MiB").unwrap();
    demo.wait_healthy(HEALTHY).unwrap();
    let access = Access { demo };
    rules(&access);
    chap(&access);
    mutual_chap(&access);
    masks(&access);
    formats(&access);
    bad_input(&access);
    no_secret_was_written(&access);
    let mut demo = access.demo;
    demo.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

fn rules(access: &Access) {
    let iqn = access.demo.iqn();
    access.gets_in(ALICE, "", "");
    access.target(&["allow", &iqn, "IQN.2026-11.local.test:al*"]);
    access.gets_in(ALICE, "", "");
    access.stays_out(BOB, "", "", "Authorization failure");
    assert!(access.listing(ALICE).contains(&iqn));
    assert!(!access.listing(BOB).contains(&iqn));
    access.target(&["allow", &iqn, BOB]);
    access.gets_in(BOB, "", "");
    access.target(&["deny", &iqn, BOB]);
    access.stays_out(BOB, "", "", "Authorization failure");
    let refused = access.demo.ctl("a", &["target", "deny", &iqn, "iqn.2026-11.local.test:al*"]).unwrap_err();
    assert!(refused.to_string().contains("last rule"), "{refused}");
    ends_a_session(access, &iqn);
    access.target(&["deny", &iqn, "iqn.2026-11.local.test:al*", "--open"]);
    access.gets_in(BOB, "", "");
}

/// A rule that goes ends the session that it let in; the console and `ctl` show sessions.
fn ends_a_session(access: &Access, iqn: &str) {
    access.target(&["allow", iqn, BOB]);
    let mut session = futago_e2e::checker::reconnect(access.demo.portal(), iqn, BOB, 1, HEALTHY).unwrap();
    session.write(0, &[0x42; 4096]).unwrap();
    wait_for("bob in the list of sessions", Duration::from_secs(10), || {
        access.demo.ctl("b", &["target", "show", iqn]).ok().filter(|said| said.contains(BOB))
    })
    .unwrap();
    access.target(&["deny", iqn, BOB]);
    wait_for("the end of bob's session", Duration::from_secs(10), || session.write(0, &[1; 4096]).err())
        .unwrap();
    wait_for("bob gone from the list of sessions", Duration::from_secs(10), || {
        access.demo.ctl("b", &["target", "show", iqn]).ok().filter(|said| !said.contains(BOB))
    })
    .unwrap();
}

fn chap(access: &Access) {
    access.set_chap(&["--user", "alice"], &format!("{SECRET}\n"));
    access.stays_out(ALICE, "", "", "Authentication");
    access.stays_out(ALICE, "alice%wrong-secret-0000@", "", "Authentication");
    access.stays_out(ALICE, &format!("bob%{SECRET}@"), "", "Authentication");
    access.gets_in(ALICE, &format!("alice%{SECRET}@"), "");
    assert!(access.listing_through(&format!("alice%{SECRET}@"), ALICE).contains(&access.demo.iqn()));
    // The other node knows it too.
    access.demo.ctl("a", &["handover", "demo"]).unwrap();
    access.demo.wait_healthy(HEALTHY).unwrap();
    access.gets_in(ALICE, &format!("alice%{SECRET}@"), "");
    access.stays_out(ALICE, "", "", "Authentication");
    let shown = access.demo.ctl("a", &["status", "--json"]).unwrap();
    assert!(shown.contains("\"secret\": \"set\"") && !shown.contains(SECRET), "{shown}");

    // A rule of its own counts before the target's.
    let iqn = access.demo.iqn();
    access.target(&["allow", &iqn, "*"]);
    access.target(&["allow", &iqn, BOB]);
    access.set_chap(&["--initiator", BOB, "--user", "bob"], "bobs-own-secret-1\n");
    access.gets_in(BOB, "bob%bobs-own-secret-1@", "");
    access.stays_out(BOB, &format!("alice%{SECRET}@"), "", "Authentication");
    access.gets_in(ALICE, &format!("alice%{SECRET}@"), "");
    access.target(&["deny", &iqn, BOB]);
    access.target(&["deny", &iqn, "*", "--open"]);
    access.set_chap(&["--off"], "");
    access.gets_in(ALICE, "", "");
}

fn mutual_chap(access: &Access) {
    access.set_chap(&["--user", "alice", "--mutual-user", "array"], &format!("{SECRET}\n{OTHER_SECRET}\n"));
    let door = format!("alice%{SECRET}@");
    access.gets_in(ALICE, &door, &format!("?target_user=array&target_password={OTHER_SECRET}"));
    access.gets_in(ALICE, &door, "");
    // What the target proves is judged by the initiator.
    for wrong in
        ["?target_user=array&target_password=not-the-secret-0", "?target_user=other&target_password=x"]
    {
        assert!(access.inquiry(ALICE, &door, 0, wrong).is_err(), "{wrong}");
    }
    access.set_chap(&["--off"], "");
}

fn masks(access: &Access) {
    let iqn = access.demo.iqn();
    access.volume(&["second", "64MiB"]);
    access.target(&["map", &iqn, "7", "second", "--read-only", "--initiators", "iqn.2026-11.local.test:a*"]);
    access.sees(ALICE, "", 7, "");
    access.sees_not(BOB, 7);
    assert!(access.listing(ALICE).contains("Lun:7"), "{}", access.listing(ALICE));
    assert!(!access.listing(BOB).contains("Lun:7") && access.listing(BOB).contains("Lun:0"));

    // Read-only: QEMU sees the write protection and refuses to open for writing; libiscsi's suite is told 7/27/00.
    access.qemu(ALICE, 7, "read 0 64k").unwrap();
    let said = access.qemu(ALICE, 7, "write 0 64k").unwrap_err();
    assert!(said.contains("write protected") || said.contains("read-only"), "{said}");
    let url = format!("iscsi://{}/{iqn}/7", access.demo.portal());
    let suite = ["-i", ALICE, "-d", "-V", "-t", "SCSI.ReadOnly.ReadOnlySBC", &url];
    let said = run_within(LIMIT, "iscsi-test-cu", &suite).unwrap();
    assert!(said.contains("passed") && !said.contains("SKIPPED"), "{said}");

    // Both are one change: who sees the LUN may write.
    access.target(&["change", &iqn, "7", "--writable", "--everyone"]);
    access.sees(BOB, "", 7, "");
    access.qemu(BOB, 7, "write -P 7 0 64k").unwrap();
    access.target(&["change", &iqn, "7", "--initiators", BOB]);
    access.sees_not(ALICE, 7);
    access.qemu(BOB, 7, "read -P 7 0 64k").unwrap();
    access.target(&["unmap", &iqn, "7"]);
    access.sees_not(BOB, 7);
}

fn formats(access: &Access) {
    let iqn = access.demo.iqn();
    access.volume(&["native", "64MiB", "--block-format", "512n", "--no-thin"]);
    access.target(&["map", &iqn, "8", "native"]);
    access.sees(ALICE, "", 8, "");
    let capacity = |lun: u16| {
        let url = format!("iscsi://{}/{iqn}/{lun}", access.demo.portal());
        run_within(LIMIT, "iscsi-readcapacity16", &[&url]).unwrap()
    };
    for (lun, exponent, thin) in [(8, 0, 0), (0, 3, 1)] {
        let said = capacity(lun);
        let expected = format!("BLOCK EXPONENT:{exponent}\nLBPME:{thin} LBPRZ:{thin}");
        assert!(said.contains(&expected), "{said}");
    }
    access.target(&["unmap", &iqn, "8"]);
}

/// One line, exit status 1, and nothing changed.
fn bad_input(access: &Access) {
    let iqn = access.demo.iqn();
    let before = access.demo.status().unwrap()["targets"].clone();
    let one_line = |(code, said): (Option<i32>, String), named: &str| {
        assert_eq!((code, said.trim().lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(named) && !said.contains("panicked"), "{said}");
    };
    one_line(access.chap(&["--user", "u"], "too-short\n"), "12 to 255 bytes");
    one_line(access.chap(&["--user", "u"], ""), "no secret");
    one_line(access.chap(&["--user", "u", "--secret-file", "/no/such/file"], ""), "/no/such/file");
    one_line(access.chap(&["--user", &"u".repeat(512)], &format!("{SECRET}\n")), "511");
    one_line(access.chap(&["--user", "u", "--mutual-user", "t"], &format!("{SECRET}\n{SECRET}\n")), "differ");
    one_line(access.chap(&["--initiator", "iqn.2026-11.x:none", "--off"], ""), "no rule");
    let cases: [(&[&str], &str); 6] = [
        (&["allow", &iqn, "no name"], "no name"),
        (&["allow", "iqn.2026-11.x:none", "*"], "does not exist"),
        (&["deny", &iqn, "iqn.2026-11.x:none"], "no rule"),
        (&["change", &iqn, "99", "--read-only"], "no LUN 99"),
        (&["map", &iqn, "9", "native", "--initiators", "esx1"], "esx1"),
        (&["show", "iqn.2026-11.x:none"], "does not exist"),
    ];
    for (arguments, named) in cases {
        let all = [&["target"], arguments].concat();
        let said = access.demo.ctl("a", &all).unwrap_err().to_string();
        assert!(said.contains(named) && said.contains("exit status: 1"), "{arguments:?}: {said}");
    }
    assert_eq!(access.demo.status().unwrap()["targets"], before);
}

/// No log, event list, status or support bundle holds a secret.
fn no_secret_was_written(access: &Access) {
    access.set_chap(&["--user", "alice", "--mutual-user", "array"], &format!("{SECRET}\n{OTHER_SECRET}\n"));
    let bundle = access.demo.dir.join("bundle.tar");
    access.demo.ctl("a", &["support-bundle", &bundle.to_string_lossy()]).unwrap();
    let mut places = vec![bundle];
    for node in ["a", "b", "witness"] {
        let logs = std::fs::read_dir(access.demo.dir.join(node).join("log")).unwrap();
        places.extend(logs.map(|entry| entry.unwrap().path()));
    }
    for place in places {
        let bytes = std::fs::read(&place).unwrap();
        for secret in [SECRET, OTHER_SECRET] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{} holds a secret", place.display());
        }
    }
    let shown = access.demo.ctl("b", &["target", "show", &access.demo.iqn(), "--json"]).unwrap();
    assert!(shown.contains("\"set\"") && !shown.contains(SECRET) && !shown.contains(OTHER_SECRET), "{shown}");
}
