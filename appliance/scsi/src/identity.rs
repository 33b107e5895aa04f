//! Who is who: names of ports and of logical units. All are pure functions of committed values, so that both nodes
//! answer alike (esxi-iscsi.md).

use alloc::{format, string::String};
pub use base::InitiatorPort;
use base::{ClusterId, VolumeId};

/// The target port that every node stands behind: one per target (iSCSI target portal group 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPort {
    /// iSCSI name of the target.
    pub iqn: String,
}

/// Relative port identifier and target port group, the same on every node.
pub(crate) const RELATIVE_PORT: u16 = 1;
/// See [`RELATIVE_PORT`].
pub(crate) const PORT_GROUP: u16 = 1;

impl TargetPort {
    /// The target port's name: `iqn,t,0x` and the portal group tag (RFC 7143 §4.4.2).
    pub(crate) fn port_name(&self) -> String {
        format!("{},t,0x{PORT_GROUP:04x}", self.iqn)
    }
}

/// NAA designator of a volume, type 3 (locally assigned, SPC-4 §7.8.6.6.3): 60 bits of the volume's id mixed with the
/// cluster's. Not registered with the IEEE, therefore not type 6.
#[must_use]
pub fn naa(cluster: ClusterId, volume: VolumeId) -> [u8; 8] {
    let mixed = volume.0 ^ mix(cluster.0);
    ((mixed & 0x0fff_ffff_ffff_ffff) | 0x3000_0000_0000_0000).to_be_bytes()
}

/// Unit serial number: both ids in hex, 32 characters.
#[must_use]
pub fn serial(cluster: ClusterId, volume: VolumeId) -> String {
    format!("{cluster}{volume}")
}

/// SplitMix64's finalizer: spreads every bit of the cluster's id over all 64.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naa_is_locally_assigned_and_depends_on_both_ids() {
        let one = naa(ClusterId(1), VolumeId(2));
        assert_eq!(one[0] >> 4, 3);
        assert_eq!(one, naa(ClusterId(1), VolumeId(2)));
        assert_ne!(one, naa(ClusterId(2), VolumeId(2)));
        assert_ne!(one, naa(ClusterId(1), VolumeId(3)));
        // Frozen: VMFS takes another value for a snapshot of the datastore.
        assert_eq!(
            naa(ClusterId(0), VolumeId(0xfedc_ba98_7654_3210)),
            [0x3e, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10]
        );
    }

    #[test]
    fn port_names_follow_rfc_7143() {
        let port = InitiatorPort { name: "iqn.2026-01.x:y".into(), isid: [0x80, 1, 2, 3, 4, 5] };
        assert_eq!(port.port_name(), "iqn.2026-01.x:y,i,0x800102030405");
        assert_eq!(TargetPort { iqn: "iqn.2026-01.x:t".into() }.port_name(), "iqn.2026-01.x:t,t,0x0001");
        assert_eq!(serial(ClusterId(1), VolumeId(0xab)), "000000000000000100000000000000ab");
    }
}
