//! Every target over its corpus, then over seeded random inputs and over mutations of the corpus: the same inputs each time.
//!
//! An input on which a target panics is written to the build directory; `ci/fuzz` takes it from there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::path::{Path, PathBuf};

/// Random numbers that are the same each time (xorshift64*).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 32) as usize) % bound.max(1)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 56) as u8).collect()
    }
}

/// The committed inputs of `target`, by name.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut names: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "{} holds no input", dir.display());
    names.into_iter().map(|name| (name.clone(), std::fs::read(name).unwrap())).collect()
}

/// One of the corpus with some bytes changed, moved, cut or doubled, or joined with another.
fn mutate(rng: &mut Rng, corpus: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = corpus[rng.below(corpus.len())].1.clone();
    for _ in 0..=rng.below(6) {
        let at = rng.below(bytes.len() + 1);
        match rng.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5)],
            2 => bytes.truncate(at),
            3 => {
                let len = 1 + rng.below(16);
                bytes.splice(at..at, rng.bytes(len));
            }
            4 => {
                let end = (at + 1 + rng.below(32)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let end = (at + 1 + rng.below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let other = &corpus[rng.below(corpus.len())].1;
                bytes.truncate(at);
                bytes.extend_from_slice(&other[rng.below(other.len() + 1)..]);
            }
        }
    }
    bytes
}

fn run(name: &str, target: futago_fuzz::Target, input: &[u8], origin: &str) {
    if let Err(fault) = std::panic::catch_unwind(|| target(input)) {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-fault"));
        std::fs::write(&file, input).unwrap();
        eprintln!("{name} fails on {origin}, {} bytes, kept in {}", input.len(), file.display());
        std::panic::resume_unwind(fault);
    }
}

fn all(name: &str, random: usize, mutated: usize) {
    let target = futago_fuzz::find(name).unwrap();
    let corpus = corpus(name);
    for (file, input) in &corpus {
        run(name, target, input, &file.display().to_string());
    }
    let mut rng = Rng(0x0f07_a90f_077e_5eed);
    for number in 0..random {
        let len = 1 << rng.below(12);
        let len = rng.below(len) + 1;
        let input = rng.bytes(len);
        run(name, target, &input, &format!("random input {number}"));
    }
    for number in 0..mutated {
        let input = mutate(&mut rng, &corpus);
        run(name, target, &input, &format!("mutation {number}"));
    }
}

/// A test for each target, so that they run side by side, and a check that none is missing.
macro_rules! targets {
    ($($name:ident: $random:literal, $mutated:literal;)+) => {
        $(#[test]
        fn $name() {
            all(stringify!($name), $random, $mutated);
        })+

        #[test]
        fn every_target_has_its_test() {
            let known: Vec<&str> = futago_fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(known, [$(stringify!($name)),+]);
        }
    };
}

targets! {
    pdu: 2000, 4000;
    login: 2000, 4000;
    session: 400, 1500;
    device: 1000, 3000;
    frames: 2000, 4000;
    metadata: 100, 200;
    disks: 100, 300;
    messages: 2000, 4000;
    pairing: 300, 700;
    updates: 2000, 4000;
    network: 2000, 4000;
}
