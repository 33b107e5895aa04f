//! The header of an update, and the file with the public keys.
//!
//! Checked: a header has one encoding; without the key's signature none is believed; whatever a believed one says can be
//! judged.

use control::update::InUse;
use ring::signature::{Ed25519KeyPair, KeyPair};
use update::bundle::SIGNED_BYTES;
use update::{Claimed, PublicKey, Version, judge, verify};

/// One header.
pub fn target(data: &[u8]) {
    let _ = PublicKey::parse_file(&String::from_utf8_lossy(data));
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let key = PublicKey::new(pair.public_key().as_ref()).unwrap();
    let claimed = Claimed::decode(data);
    assert!(verify(data, &[key]).is_err(), "nobody has signed it");
    let Ok(claimed) = claimed else { return };
    let signed = claimed.header.signed_part().unwrap();
    assert_eq!(signed[..], data[..SIGNED_BYTES]);
    let bytes = [&signed[..], pair.sign(&signed).as_ref()].concat();
    assert_eq!(verify(&bytes, &[key]).as_ref(), Ok(&claimed.header));
    assert!(claimed.header.bundle_bytes() <= update::bundle::MOST_BYTES);
    if let Err(refusal) = judge(&claimed.header, &Version::new(1, 0, 0), &InUse::UNKNOWN) {
        assert!(!refusal.to_string().is_empty());
    }
}
