//! Members, a cluster and shorthands.

use base::*;
use control::link::Member;
use control::targets::Presentation;
use futago_cluster::*;
use std::collections::BTreeSet;

pub(crate) const A: NodeId = NodeId(1);
pub(crate) const B: NodeId = NodeId(2);
pub(crate) const W: NodeId = NodeId(3);
pub(crate) const V: VolumeId = VolumeId(9);

pub(crate) fn set(nodes: &[NodeId]) -> BTreeSet<NodeId> {
    nodes.iter().copied().collect()
}

pub(crate) fn member(node: NodeId, name: &str, data: bool) -> Member {
    Member {
        node,
        name: name.into(),
        data,
        cluster_address: format!("127.0.0.{}:7780", node.0).parse().unwrap(),
        replication_address: format!("127.0.0.{}:7788", node.0).parse().unwrap(),
        certificate_sha256: String::new(),
    }
}

/// It joins, with this build.
pub(crate) fn add(member: Member) -> Command {
    Command::AddMember { member, formats: Formats::CURRENT }
}

/// Data nodes a and b, a witness, volume `demo` in epoch 1.
pub(crate) fn demo() -> ClusterState {
    let mut state = ClusterState::default();
    for command in [
        Command::CreateCluster {
            id: ClusterId(7),
            portal: "127.0.0.50:3260".parse().unwrap(),
            time_scale_percent: 100,
            first: member(A, "a", true),
            formats: Formats::CURRENT,
        },
        add(member(B, "b", true)),
        add(member(W, "witness", false)),
        Command::CreateVolume {
            id: V,
            name: "demo".into(),
            size: ByteCount::mib(64),
            write_back: false,
            presentation: Presentation::default(),
        },
    ] {
        assert!(matches!(state.apply(&command), Outcome::Applied { .. }), "{command:?}");
        state.validate().unwrap();
    }
    state
}

/// Writable, for everyone.
pub(crate) fn map_lun(iqn: &str, lun: u16, volume: &str) -> Command {
    Command::MapLun { iqn: iqn.into(), lun, volume: volume.into(), read_only: false, initiators: Vec::new() }
}

pub(crate) fn proposal(
    proposer: NodeId,
    instance: u64,
    number: u64,
    expected: u64,
    change: Change,
) -> Command {
    let id = ProposalId { proposer, instance: InstanceId(instance), number };
    Command::Propose(Proposal { id, volume: V, expected: Epoch(expected), change })
}

pub(crate) fn promote(proposer: NodeId, instance: u64, number: u64, expected: u64) -> Command {
    proposal(proposer, instance, number, expected, Change::Promote)
}
