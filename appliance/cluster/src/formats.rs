//! In which versions the cluster writes things down, and who may raise them.
//!
//! Each node says by a committed command what it understands, and that is a promise: of every release that it may start
//! without asking again. Each format's level is the highest version that all members have promised. So a raise needs no
//! decision of anyone, and no member has to be online for it: it follows from the log, and a node that is to go back to an
//! older release first takes its promise back, or is told that it comes too late.
//!
//! Invariants
//! - Every member understands the levels: they rise only to what all have promised, a promise that lacks a level is refused, and
//!   so is a new member that does.
//! - A level never falls.
//! - A node's promises are counted: one that arrives late, after a later one of the same node, changes nothing.

use crate::apply::{Applied, refuse};
use crate::command::{Command, Note, Outcome, Refusal, RefusalKind, Severity};
use crate::state::ClusterState;
use alloc::{format, string::String, vec::Vec};
use base::{Format, Formats, Levels, NodeId};
use serde::{Deserialize, Serialize};

/// What a member has promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// Counts this member's promises.
    pub number: u64,
    /// What every release understands that it may start.
    pub formats: Formats,
}

impl Command {
    /// The first version of the state with which this command may be proposed: before that version is in force, there may be
    /// nodes that can't read it.
    #[must_use]
    pub fn since(&self) -> u16 {
        // Every command there is; a later one gets a row of its own.
        KNOWN_SINCE
    }
}

/// The first that had these commands.
const KNOWN_SINCE: u16 = 4;

impl ClusterState {
    /// What is in force.
    #[must_use]
    pub fn levels(&self) -> Levels {
        Levels { metadata: self.metadata_version, pool: self.pool_version, state: self.version }
    }

    /// Whether `command` may be proposed yet; or why not.
    pub fn admits(&self, command: &Command) -> Result<(), Refusal> {
        if command.since() <= self.version {
            return Ok(());
        }
        let text = "not every node runs a release that knows how to do this: update them first";
        refuse(RefusalKind::Unavailable, text.into())
    }

    /// Refuses `formats` of the member `name` if they lack what is in force.
    pub(crate) fn check_formats(&self, name: &str, formats: &Formats) -> Result<(), Refusal> {
        if !formats.are_sound() {
            return refuse(RefusalKind::Invalid, format!("{name} understands nothing of some format"));
        }
        match formats.lack(&self.levels()) {
            None => Ok(()),
            Some((format, level)) => refuse(
                RefusalKind::Invalid,
                format!(
                    "the release of {name} does not know version {level} of {format}, which the cluster uses: update it \
                     first"
                ),
            ),
        }
    }

    pub(crate) fn promise(&mut self, node: NodeId, number: u64, formats: &Formats) -> Applied {
        let Some(name) = self.members.get(&node).map(|member| member.name.clone()) else {
            return refuse(RefusalKind::NotFound, format!("node {node} is no member"));
        };
        let last = self.promises.get(&node).map_or(0, |promise| promise.number);
        if number <= last {
            return refuse(RefusalKind::Exists, format!("promise {number} of {name} came after its {last}"));
        }
        self.check_formats(&name, formats)?;
        self.promises.insert(node, Promise { number, formats: *formats });
        Ok(Outcome::Applied { notes: self.raise_levels() })
    }

    /// Raises each level to what all members have promised.
    pub(crate) fn raise_levels(&mut self) -> Vec<Note> {
        let common = |format: Format| {
            let of_member = |node: &NodeId| Some(self.promises.get(node)?.formats.of(format).newest);
            self.members.keys().map(of_member).min().flatten()
        };
        let raised = self.levels().each().map(|(format, level)| (format, level, common(format).unwrap_or(0)));
        let raised = raised.into_iter().filter(|(_, level, common)| common > level);
        let mut notes = Vec::new();
        for (format, level, common) in raised.collect::<Vec<_>>() {
            match format {
                Format::Metadata => self.metadata_version = common,
                Format::Pool => self.pool_version = common,
                Format::State => self.version = common,
                // Agreed for each connection.
                Format::Replication | Format::Cluster => continue,
            }
            notes.push(Note { severity: Severity::Info, text: raised_text(format, level, common) });
        }
        notes
    }
}

fn raised_text(format: Format, from: u16, to: u16) -> String {
    format!(
        "All nodes understand version {to} of {format}: it is used instead of {from}, and no node can go back to a release \
         that does not know it."
    )
}
