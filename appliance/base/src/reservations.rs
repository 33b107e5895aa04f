//! Persistent reservations of one volume (SPC-4 §5.9): what the cluster keeps of them (S15).
//!
//! `cluster` commits them, `scsi` makes and obeys them. They stand here because both rooms speak them and neither may
//! use the other. What a service action makes of a state is decided in `scsi` alone.
//!
//! Invariants ([`Reservations::check`])
//! - Registrations are sorted by port, one per port, each key not zero, at most [`MAX_REGISTRATIONS`].
//! - The holder is registered. A reservation that all registrants hold has at least one, and names none.

use crate::{Epoch, ProposalId, VolumeId};
use alloc::{format, string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// Most registrations of one volume: sixteen paths each of sixteen hosts.
pub const MAX_REGISTRATIONS: usize = 256;
/// Longest iSCSI name (RFC 7143 §4.2.7.1).
pub const MAX_ISCSI_NAME_BYTES: usize = 223;

/// An initiator port: iSCSI name and ISID (RFC 7143 §4.4.2). Registrations for persistent reservations belong to it
/// and outlive its sessions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitiatorPort {
    /// iSCSI name.
    pub name: String,
    /// Initiator part of the session id.
    pub isid: [u8; 6],
}

impl InitiatorPort {
    /// The port's name as it stands in TransportIDs: `name,i,0x` and the ISID in hex (SPC-4 §7.6.4.6).
    #[must_use]
    pub fn port_name(&self) -> String {
        let [a, b, c, d, e, f] = self.isid;
        format!("{},i,0x{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}", self.name)
    }
}

/// Persistent reservation type (SPC-4 table 64).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum ReservationType {
    /// Others may read.
    WriteExclusive = 1,
    /// Others may neither read nor write.
    ExclusiveAccess = 3,
    /// Registrants may do everything, others read.
    WriteExclusiveRegistrantsOnly = 5,
    /// Registrants may do everything, others nothing.
    ExclusiveAccessRegistrantsOnly = 6,
    /// Every registrant holds it; others may read.
    WriteExclusiveAllRegistrants = 7,
    /// Every registrant holds it; others may do nothing.
    ExclusiveAccessAllRegistrants = 8,
}

impl ReservationType {
    /// The type of a TYPE field.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrantsOnly,
            6 => Self::ExclusiveAccessRegistrantsOnly,
            7 => Self::WriteExclusiveAllRegistrants,
            8 => Self::ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }

    /// Every registrant holds it.
    #[must_use]
    pub fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }
}

/// A registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Whose.
    pub port: InitiatorPort,
    /// Its reservation key, not zero.
    pub key: u64,
}

/// The reservation in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// Its type.
    pub kind: ReservationType,
    /// Who holds it; `None` where all registrants do.
    pub holder: Option<InitiatorPort>,
}

/// Registrations and reservation of one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservations {
    /// Counts the changes committed, from 0: the next one must carry the number after this.
    pub revision: u64,
    /// PRGENERATION: counts changes of registrations only, as initiators see it.
    pub generation: u32,
    /// Sorted by port.
    pub registrations: Vec<Registration>,
    /// If any.
    pub reservation: Option<Reservation>,
}

impl Reservations {
    /// The first breach of an invariant, in words.
    pub fn check(&self) -> Result<(), &'static str> {
        let registered = |port: &InitiatorPort| self.registrations.iter().any(|known| known.port == *port);
        if self.registrations.len() > MAX_REGISTRATIONS {
            return Err("too many registrations");
        }
        if !self.registrations.is_sorted_by(|a, b| a.port < b.port) {
            return Err("registrations are not in order");
        }
        for Registration { port, key } in &self.registrations {
            if port.name.is_empty() || port.name.len() > MAX_ISCSI_NAME_BYTES {
                return Err("a registration without a usable initiator name");
            }
            if *key == 0 {
                return Err("a registration with key 0");
            }
        }
        match &self.reservation {
            None => Ok(()),
            Some(held) if held.kind.is_all_registrants() != held.holder.is_none() => {
                Err("a reservation whose type and holder disagree")
            }
            Some(Reservation { holder: Some(port), .. }) if !registered(port) => {
                Err("the holder of the reservation is not registered")
            }
            Some(_) if self.registrations.is_empty() => Err("a reservation without registrations"),
            Some(_) => Ok(()),
        }
    }
}

/// A change of one volume's reservations: applied only in the epoch that it names, only by that epoch's primary, and
/// only on the revision before its own (S15). It does not raise the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReservationProposal {
    /// Who proposed, and which of its reservation proposals this is (S21).
    pub id: ProposalId,
    /// Which volume.
    pub volume: VolumeId,
    /// The epoch in which the proposer serves.
    pub expected: Epoch,
    /// What is to hold from now on; its revision is one more than the present one.
    pub next: Reservations,
}

/// The reservations as committed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommittedReservations {
    /// What holds.
    pub state: Reservations,
    /// The proposal that made it; a proposer in doubt reads it here (S21).
    pub made_by: Option<ProposalId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn port(name: &str) -> InitiatorPort {
        InitiatorPort { name: name.into(), isid: [0x80, 0, 0, 0, 0, 1] }
    }

    fn sound() -> Reservations {
        Reservations {
            revision: 3,
            generation: 2,
            registrations: vec![
                Registration { port: port("iqn.a"), key: 1 },
                Registration { port: port("iqn.b"), key: u64::MAX },
            ],
            reservation: Some(Reservation {
                kind: ReservationType::WriteExclusive,
                holder: Some(port("iqn.a")),
            }),
        }
    }

    #[test]
    fn each_breach_is_found() {
        assert_eq!(sound().check(), Ok(()));
        assert_eq!(Reservations::default().check(), Ok(()));
        type Spoil = fn(&mut Reservations);
        let spoils: [(&str, Spoil); 8] = [
            ("order", |state| state.registrations.reverse()),
            ("order", |state| state.registrations[1].port = port("iqn.a")),
            ("key 0", |state| state.registrations[0].key = 0),
            ("name", |state| state.registrations[0].port.name = String::new()),
            ("too many", |state| {
                state.registrations =
                    (0..257).map(|n| Registration { port: port(&format!("{n:04}")), key: 1 }).collect();
            }),
            ("not registered", |state| state.reservation.as_mut().unwrap().holder = Some(port("iqn.z"))),
            ("disagree", |state| state.reservation.as_mut().unwrap().holder = None),
            ("without registrations", |state| {
                state.registrations.clear();
                let kind = ReservationType::WriteExclusiveAllRegistrants;
                state.reservation = Some(Reservation { kind, holder: None });
            }),
        ];
        for (word, spoil) in spoils {
            let mut state = sound();
            spoil(&mut state);
            assert!(state.check().unwrap_err().contains(word), "{word}: {:?}", state.check());
        }
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        for code in 0..=15_u8 {
            assert_eq!(ReservationType::from_code(code).map_or(code, |kind| kind as u8), code);
        }
        assert!([0, 2, 4, 9].iter().all(|&code| ReservationType::from_code(code).is_none()));
    }
}
