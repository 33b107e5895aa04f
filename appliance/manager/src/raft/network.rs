//! openraft's messages, over [`Peers`].

use super::Types;
use crate::messages::{Request, Response};
use crate::peers::{CallError, Peers};
use base::NodeId;
use openraft::EmptyNode;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// Makes a sender for each peer.
pub(crate) struct Network {
    peers: Arc<Peers>,
    back_off: Duration,
}

impl Network {
    pub(crate) fn new(peers: Arc<Peers>, back_off: Duration) -> Self {
        Self { peers, back_off }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = ToPeer;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> ToPeer {
        ToPeer { peers: self.peers.clone(), target: NodeId(target), back_off: self.back_off }
    }
}

/// Sends openraft's messages to one peer.
pub(crate) struct ToPeer {
    peers: Arc<Peers>,
    target: NodeId,
    back_off: Duration,
}

type RpcError<E> = RPCError<u64, EmptyNode, RaftError<u64, E>>;

impl ToPeer {
    /// `pick` takes the right kind of answer out of the response.
    async fn call<T, E: Error>(
        &self,
        request: Request,
        option: &RPCOption,
        pick: impl FnOnce(Response) -> Option<Result<T, RaftError<u64, E>>>,
    ) -> Result<T, RpcError<E>> {
        let unreachable = |error: CallError| RPCError::Unreachable(Unreachable::new(&error));
        let response = self.peers.call(self.target, request, option.hard_ttl()).await.map_err(unreachable)?;
        match pick(response) {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(RPCError::RemoteError(RemoteError::new(self.target.0, error))),
            None => Err(unreachable(CallError::Protocol(self.target))),
        }
    }
}

impl RaftNetwork<Types> for ToPeer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64>>> {
        self.call(Request::AppendEntries(rpc), &option, |response| match response {
            Response::AppendEntries(result) => Some(result),
            _ => None,
        })
        .await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64, InstallSnapshotError>>>
    {
        self.call(Request::InstallSnapshot(rpc), &option, |response| match response {
            Response::InstallSnapshot(result) => Some(result),
            _ => None,
        })
        .await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, EmptyNode, RaftError<u64>>> {
        self.call(Request::Vote(rpc), &option, |response| match response {
            Response::Vote(result) => Some(result),
            _ => None,
        })
        .await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.back_off))
    }
}
