//! Keys and updates by the program's own commands and by OpenSSL.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use update::{HEADER_BYTES, PublicKey, Sha256, verify};

fn futago_image(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_futago-image")).current_dir(dir).args(arguments).output().unwrap()
}

fn done(dir: &Path, arguments: &[&str]) -> String {
    let output = futago_image(dir, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(dir: &Path, arguments: &[&str]) -> String {
    let output = futago_image(dir, arguments);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

const BUNDLE: [&str; 9] =
    ["bundle", "--kernel", "kernel", "--initramfs", "initramfs", "--key", "update.key", "--version", "0.2.0"];

#[test]
fn an_update_is_what_was_put_in_signed_by_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (kernel, initramfs) = (vec![7; 70_001], vec![9; 100_000]);
    std::fs::write(dir.join("kernel"), &kernel).unwrap();
    std::fs::write(dir.join("initramfs"), &initramfs).unwrap();
    let printed = done(dir, &["key", "--out", "update.key"]);
    assert_eq!(std::fs::metadata(dir.join("update.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(refused(dir, &["key", "--out", "update.key"]).contains("update.key"), "never over another one");
    let line = done(dir, &["public-key", "--key", "update.key"]);
    assert_eq!(line, printed);
    let keys = PublicKey::parse_file(&line).unwrap();

    done(dir, &BUNDLE);
    let bytes = std::fs::read(dir.join("futago-0.2.0.update")).unwrap();
    let header = verify(&bytes[..HEADER_BYTES], &keys).unwrap();
    assert_eq!(
        (header.version.to_string(), header.replaces_from.to_string()),
        ("0.2.0".into(), "0.1.0".into())
    );
    assert_eq!(header.formats, update::Formats::CURRENT);
    assert_eq!(header.bundle_bytes(), bytes.len() as u64);
    let (first, second) = bytes[HEADER_BYTES..].split_at(kernel.len());
    assert!(first == kernel && second == initramfs);
    let mut sha256 = Sha256::new();
    sha256.update(&initramfs);
    assert_eq!(header.initramfs.sha256, sha256.finish());

    // The same again: the same bytes.
    done(dir, &[&BUNDLE[..], &["--out", "again"]].concat());
    assert!(std::fs::read(dir.join("again")).unwrap() == bytes);
}

#[test]
fn openssl_s_keys_sign_and_openssl_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let openssl = |arguments: &[&str]| Command::new("openssl").current_dir(dir).args(arguments).output();
    let Ok(made) = openssl(&["genpkey", "-algorithm", "ed25519", "-out", "update.key"]) else {
        return println!("skipped: no openssl");
    };
    assert!(made.status.success());
    for part in ["kernel", "initramfs"] {
        std::fs::write(dir.join(part), part).unwrap();
    }
    done(dir, &[&BUNDLE[..], &["--replaces-from", "0.1.9", "--out", "x.update"]].concat());
    let bytes = std::fs::read(dir.join("x.update")).unwrap();
    std::fs::write(dir.join("signed"), &bytes[..192]).unwrap();
    std::fs::write(dir.join("signature"), &bytes[192..HEADER_BYTES]).unwrap();
    let verified = openssl(&[
        "pkeyutl",
        "-verify",
        "-inkey",
        "update.key",
        "-rawin",
        "-in",
        "signed",
        "-sigfile",
        "signature",
    ]);
    let verified = verified.unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[test]
fn what_can_not_be_made_is_named_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("kernel"), "k").unwrap();
    std::fs::write(dir.join("initramfs"), "").unwrap();
    std::fs::write(dir.join("update.key"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        .unwrap();
    assert!(refused(dir, &BUNDLE).contains("no Ed25519 private key"));
    std::fs::remove_file(dir.join("update.key")).unwrap();
    done(dir, &["key", "--out", "update.key"]);
    assert!(refused(dir, &BUNDLE).contains("can't be of that size"));
    std::fs::remove_file(dir.join("initramfs")).unwrap();
    assert!(refused(dir, &BUNDLE).contains("initramfs"));
    let version = refused(dir, &[&BUNDLE[..8], &["1.2"]].concat());
    assert!(version.contains("1.2"), "{version}");
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 2, "kernel and key");
}
