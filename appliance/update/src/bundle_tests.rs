use super::*;
use alloc::string::ToString;
use proptest::prelude::*;
use ring::signature::{Ed25519KeyPair, KeyPair};

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn public(key: &Ed25519KeyPair) -> PublicKey {
    PublicKey::new(key.public_key().as_ref()).unwrap()
}

fn header() -> Header {
    Header {
        version: "0.2.0-rc.1+build.7".parse().unwrap(),
        replaces_from: "0.1.0".parse().unwrap(),
        formats: Formats {
            replication: Versions { oldest: 1, newest: 2 },
            cluster: Versions::only(1),
            metadata: Versions::only(0),
            pool: Versions { oldest: 2, newest: 5 },
            state: Versions { oldest: 3, newest: u16::MAX },
        },
        kernel: Part { len_bytes: 6_000_000, sha256: [7; 32] },
        initramfs: Part { len_bytes: 20_000_001, sha256: [9; 32] },
    }
}

fn signed(header: &Header, key: &Ed25519KeyPair) -> Vec<u8> {
    let mut bytes = header.signed_part().unwrap().to_vec();
    let signature = key.sign(&bytes);
    bytes.extend_from_slice(signature.as_ref());
    bytes
}

#[test]
fn a_header_survives_and_any_changed_bit_is_noticed() {
    let (ours, theirs) = (key(1), key(2));
    let bytes = signed(&header(), &ours);
    assert_eq!(bytes.len(), HEADER_BYTES);
    assert_eq!(verify(&bytes, &[public(&theirs), public(&ours)]), Ok(header()));
    assert_eq!(verify(&bytes, &[public(&theirs)]), Err(BundleError::Signature));
    assert_eq!(verify(&bytes, &[]), Err(BundleError::Signature));
    for bit in 0..HEADER_BYTES * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&changed, &[public(&ours)]).is_err(), "bit {bit}");
    }
    for len in 0..HEADER_BYTES {
        assert!(verify(&bytes[..len], &[public(&ours)]).is_err(), "{len} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(verify(&longer, &[public(&ours)]).is_err());
}

#[test]
fn the_layout_is_the_document_s() {
    let bytes = header().signed_part().unwrap();
    let field = |at: usize, len: usize| &bytes[at..at + len];
    assert_eq!(field(0, 8), b"FtgUpdat");
    assert_eq!(field(8, 8), [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(field(16, 8), [1, 0, 2, 0, 1, 0, 1, 0]);
    assert_eq!(field(24, 8), [0, 0, 0, 0, 2, 0, 5, 0]);
    assert_eq!(field(32, 4), [3, 0, 255, 255]);
    assert_eq!(field(36, 12), [0; 12]);
    assert_eq!(field(48, 19), b"0.2.0-rc.1+build.7\0");
    assert_eq!(field(80, 6), b"0.1.0\0");
    assert_eq!(field(112, 8), 6_000_000_u64.to_le_bytes());
    assert_eq!(field(120, 8), 20_000_001_u64.to_le_bytes());
    assert_eq!((field(128, 32), field(160, 32)), (&[7; 32][..], &[9; 32][..]));
    assert_eq!(header().bundle_bytes(), 256 + 26_000_001);
}

/// A field, by its offset and new bytes, and what is said of it.
#[test]
fn each_field_has_its_range() {
    for (at, field, expected) in [
        (0, &b"x"[..], BundleError::NotABundle),
        (8, &[3], BundleError::Layout(3)),
        (12, &[1], BundleError::Field(DecodeError::Value("reserved bytes"))),
        (16, &[3], BundleError::Field(DecodeError::Value("a format's versions"))),
        (47, &[1], BundleError::Field(DecodeError::Value("reserved bytes"))),
        (48, b"1.2", BundleError::Version("the release")),
        (48, b"v", BundleError::Version("the release")),
        (48, &[0xff], BundleError::Version("the release")),
        (79, b"x", BundleError::Version("the release")),
        (80, &[0], BundleError::Version("the oldest release that it replaces")),
        (112, &[0; 8], BundleError::Size),
        (120, &[0; 8], BundleError::Size),
        (112, &[0xff; 8], BundleError::Size),
        (112, &(64_u64 << 20).to_le_bytes(), BundleError::Size),
    ] {
        let mut bytes = signed(&header(), &key(1));
        bytes[at..at + field.len()].copy_from_slice(field);
        if at == 48 && field == b"1.2" {
            bytes[51..80].fill(0);
        }
        assert_eq!(Claimed::decode(&bytes), Err(expected), "offset {at}");
    }
    let long = Header { version: "1.0.0-a-very-long-name-of-a-release".parse().unwrap(), ..header() };
    assert_eq!(long.signed_part(), Err(BundleError::Version("the release")));
    let empty = Header { kernel: Part { len_bytes: 0, ..header().kernel }, ..header() };
    assert_eq!(empty.signed_part(), Err(BundleError::Size));
}

#[test]
fn a_key_file_holds_a_key_a_line() {
    let (one, two) = (public(&key(1)), public(&key(2)));
    let file = alloc::format!("# the present one\n{one}\n\n  {two}  \n");
    assert_eq!(PublicKey::parse_file(&file), Ok([one, two].into()));
    for bad in ["", "# none\n", "abcd", &alloc::format!("{one}\nx\n"), &alloc::format!("{one}00")] {
        assert_eq!(PublicKey::parse_file(bad), Err(BundleError::Key), "{bad}");
    }
}

/// RFC 8032 §7.1, test 2; FIPS 180-4's "abc".
#[test]
fn the_algorithms_are_those_that_are_named() {
    let public = hex::decode("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c").unwrap();
    let signature = hex::decode(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee\
         b00d291612bb0c00",
    );
    assert!(UnparsedPublicKey::new(&ED25519, public).verify(&[0x72], &signature.unwrap()).is_ok());
    let mut sha256 = Sha256::new();
    sha256.update(b"a");
    sha256.update(b"bc");
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(hex::encode(sha256.finish()), expected);
    // However little comes at a time.
    let mut left = &b"abc"[..];
    let found = Part::measure(&mut [0; 2], |memory| {
        let len_bytes = left.len().min(memory.len());
        let (now, later) = left.split_at(len_bytes);
        memory[..len_bytes].copy_from_slice(now);
        left = later;
        Ok::<_, ()>(len_bytes)
    });
    assert_eq!(found.map(|part| (part.len_bytes, hex::encode(part.sha256))), Ok((3, expected.into())));
    assert_eq!(Part::measure(&mut [0; 2], |_| Err("the disk is gone")), Err("the disk is gone"));
}

proptest! {
    #[test]
    fn what_decodes_encodes_to_the_same_bytes(edits in prop::collection::vec((0..HEADER_BYTES, any::<u8>()), 0..6)) {
        let mut bytes = signed(&header(), &key(1));
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        if let Ok(claimed) = Claimed::decode(&bytes) {
            let again = claimed.header.signed_part().unwrap();
            prop_assert_eq!(&again[..], &bytes[..SIGNED_BYTES]);
            prop_assert!(!claimed.header.version.to_string().is_empty());
        }
    }
}
