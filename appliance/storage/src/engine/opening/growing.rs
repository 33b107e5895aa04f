//! Room for a larger size (S22): asked of the disk thread, then told to the replica.

use base::ByteCount;
use control::link::NoRoom;

use super::worker::Growth;
use super::{Grown, RETRY};
use crate::engine::volume::Volume;
use crate::engine::{Engine, clock};

impl Engine {
    /// Asks for room wherever the committed size, or the wanted one, has none yet.
    pub(in crate::engine) fn make_room(&mut self) {
        if self.stopping {
            return;
        }
        for volume in self.volumes.values_mut() {
            let size = volume.size_to_have_room_for();
            if volume.no_room.as_ref().is_some_and(|no_room| no_room.size != size) {
                volume.no_room = None;
            }
            let room = volume.replica.room_layout().filter(|room| room.size < size);
            let (Some(room), None) = (room, volume.making_room) else { continue };
            // What is wanted is withdrawn if there is no room; what is committed has to have it.
            let give_up = volume.no_room.is_some() && size > volume.config.size;
            let wait = volume.tried_at.is_some_and(|at| clock::now().since(at) < RETRY);
            if volume.no_room.is_some() && (give_up || wait) || volume.stopped {
                continue;
            }
            volume.making_room = Some(size);
            volume.tried_at = Some(clock::now());
            if volume.no_room.is_none() {
                tracing::info!(volume = volume.name, from = room.size.0, to = size.0, "making room");
            }
            self.opener.grow(Growth { identity: volume.replica.identity(), room, size });
        }
    }

    pub(in crate::engine) fn handle_grown(&mut self, grown: Grown) {
        let Some(volume) = self.volumes.get_mut(&grown.volume) else { return };
        volume.making_room = None;
        match grown.result {
            Ok((meta, data)) => {
                (volume.meta, volume.data) = (meta, data);
                volume.no_room = None;
                tracing::info!(volume = volume.name, room = grown.size.0, "room is there");
                let now = clock::now();
                volume.replica.handle_room(now, grown.size);
                // It may have been told one before that it had no room for.
                volume.replica.handle_config(now, &volume.config);
            }
            Err(reason) => {
                if let Some(unsaid) = volume.failures.ask(&grown.size, &reason, clock::now()) {
                    tracing::error!(volume = volume.name, size = grown.size.0, reason, unsaid, "no room");
                }
                volume.no_room = Some(NoRoom { size: grown.size, reason });
            }
        }
    }

    /// Initiators see a size when this copy acts in an epoch that has it.
    pub(in crate::engine) fn show_sizes(&mut self) {
        let mut changed = false;
        for volume in self.volumes.values_mut() {
            let size = volume.replica.size();
            changed |= std::mem::replace(&mut volume.shown_size, size) != size;
        }
        if changed && let Some(state) = &self.state {
            self.portal.set_targets(state, |id| Some(self.volumes.get(&id)?.replica.size()));
        }
    }
}

impl Volume {
    fn size_to_have_room_for(&self) -> ByteCount {
        self.wanted_size.map_or(self.config.size, |wanted| wanted.max(self.config.size))
    }

    /// Why this copy is of no use, if it lacks room for the volume's size.
    pub(in crate::engine) fn lacks_room(&self) -> Option<String> {
        let no_room = self.no_room.as_ref().filter(|no_room| no_room.size <= self.config.size)?;
        Some(format!(
            "volume {} has grown to {} and its copy here can't: the node {}",
            self.name, self.config.size, no_room.reason
        ))
    }
}
