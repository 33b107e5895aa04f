//! Executes what replicas command.

use base::VolumeId;
use control::link::ToCluster;
use replication::frame::Message;
use replication::{Command, DiskResult};

use super::data::Data;
use super::{Engine, clock};
use crate::peers::Outgoing;

impl Engine {
    /// Executes the commands of all replicas until none has any.
    pub(super) fn execute_all(&mut self) {
        let ids: smallvec::SmallVec<[VolumeId; 8]> = self.volumes.keys().copied().collect();
        for id in ids {
            while let Some(command) =
                self.volumes.get_mut(&id).and_then(|volume| volume.replica.poll_command())
            {
                self.execute(id, command);
            }
        }
    }

    fn execute(&mut self, id: VolumeId, command: Command<Data>) {
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        match command {
            Command::Disk { token, op } => {
                let spaces = (&volume.meta, &volume.data);
                if let Err(error) = self.operations.start(id, spaces, token, op) {
                    tracing::error!(volume = %volume.name, "disk: {}", crate::chain(&error));
                    volume.replica.handle_disk(clock::now(), token, DiskResult::Failed);
                }
            }
            Command::Send { session, frame, payload } => {
                if let Some(handle) = volume.sessions.get(&session) {
                    let last = matches!(frame.message, Message::Refuse(_));
                    handle.send(Outgoing {
                        frame: frame.encode_as(handle.version),
                        payload: payload.map(|data| data.0),
                        last,
                    });
                }
            }
            Command::Reply { id: request, result } => self.reply(id, request, result),
            Command::Compare { id: request, data } => {
                let write = self.requests.compared(request, &data);
                if let Some(volume) = self.volumes.get_mut(&id) {
                    volume.replica.handle_compared(clock::now(), request, write);
                }
            }
            Command::Propose(proposal) => self.tell(ToCluster::Propose(proposal)),
            Command::Dial { peer } => self.dial(id, peer),
            Command::Close { session } => drop(volume.sessions.remove(&session)),
            Command::Serving(serving) => self.set_serving(id, serving),
            Command::HandOverFailed(reason) => {
                self.portal.resume();
                self.tell(ToCluster::HandOverFailed { volume: id, reason });
            }
            Command::Problem(problem) => volume.note(problem),
            Command::Stopped => volume.stopped = true,
        }
    }

    /// Sends to the cluster manager. With the link down the message is lost, and nothing relies on it: the engine
    /// repeats what matters when the link is up again.
    pub(super) fn tell(&self, message: ToCluster) {
        let _ = self.link.send(message);
    }

    fn dial(&mut self, id: VolumeId, peer: base::NodeId) {
        let member =
            self.state.as_ref().and_then(|state| state.members.iter().find(|member| member.node == peer));
        let pin = member.and_then(|member| member.certificate_sha256.parse().ok());
        match (member, pin) {
            (Some(member), Some(pin)) => self.peers.dial(id, peer, member.replication_address, pin),
            _ => {
                if let Some(volume) = self.volumes.get_mut(&id) {
                    volume.replica.handle_dial_failed(clock::now(), peer);
                }
            }
        }
    }
}
