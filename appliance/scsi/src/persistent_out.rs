//! PERSISTENT RESERVE OUT (SPC-4 §6.16): the CDB and parameter list, turned into a [`Transition`].

use crate::command::{NexusId, Operation, Response, Status, Step};
use crate::persistent::{PersistentType, Refusal, Transition};
use crate::sense::{Asc, Sense};
use crate::target::Call;
use alloc::vec::Vec;

/// The basic parameter list (SPC-4 table 205), 24 bytes.
struct Parameters {
    key: u64,
    service_action_key: u64,
}

const PARAMETER_BYTES: u32 = 24;
const PREEMPT_AND_ABORT: u16 = 5;

/// PERSISTENT RESERVE OUT, all service actions but REGISTER AND MOVE and REPLACE LOST RESERVATION.
pub(crate) fn execute(call: &mut Call<'_>) -> Result<Step, Sense> {
    let parameters = parameters(call)?;
    let (key, other) = (parameters.key, parameters.service_action_key);
    let Some(port) = call.initiator() else { return Ok(conflict()) };
    let state = &call.unit.persistent;
    let action = call.cdb.service_action();
    let decision = match action {
        0 => state.register(port, key, other, false),
        1 => state.reserve(port, key, scoped_type(call)?),
        2 => {
            scope(call)?;
            state.release(port, key, type_field(call))
        }
        3 => state.clear(port, key),
        4 | PREEMPT_AND_ABORT => {
            scope(call)?;
            state.preempt(port, key, other, type_field(call))
        }
        6 => state.register(port, key, other, true),
        _ => return Err(Sense::invalid_cdb_bit(1, 4)),
    };
    match decision {
        Ok(transition) => Ok(install(call, transition, action == PREEMPT_AND_ABORT)),
        Err(Refusal::Conflict) => Ok(conflict()),
        Err(Refusal::Check(sense)) => Err(sense),
    }
}

fn conflict() -> Step {
    Step::Done(Response::status(Status::ReservationConflict))
}

/// Puts the transition in force, tells those whom it concerns, and aborts the preempted nexuses' tasks if asked.
fn install(call: &mut Call<'_>, transition: Transition, abort: bool) -> Step {
    let nexus_of = |port| call.nexuses.iter().find(|(_, known)| *known == port).map(|(&nexus, _)| nexus);
    for (port, asc) in &transition.attentions {
        if let Some(nexus) = nexus_of(port) {
            call.unit.attentions.establish(nexus, *asc);
        }
    }
    let victims: Vec<NexusId> = transition.preempted.iter().filter_map(nexus_of).collect();
    call.unit.persistent.commit(transition);
    if abort && !victims.is_empty() {
        return Call::finish_with(Operation::AbortTasks(victims));
    }
    Call::good()
}

/// Scope must be the logical unit.
fn scope(call: &Call<'_>) -> Result<(), Sense> {
    if call.cdb.byte(2) >> 4 == 0 { Ok(()) } else { Err(Sense::invalid_cdb_bit(2, 7)) }
}

fn type_field(call: &Call<'_>) -> Option<PersistentType> {
    PersistentType::from_code(call.cdb.byte(2) & 0x0f)
}

fn scoped_type(call: &Call<'_>) -> Result<PersistentType, Sense> {
    scope(call)?;
    type_field(call).ok_or(Sense::invalid_cdb_bit(2, 3))
}

fn parameters(call: &Call<'_>) -> Result<Parameters, Sense> {
    let short = Sense::illegal(Asc::PARAMETER_LIST_LENGTH);
    if call.cdb.u32(5) != PARAMETER_BYTES {
        return Err(short);
    }
    let list = call.parameter_list(u64::from(PARAMETER_BYTES))?;
    let (key, rest) = list.split_first_chunk().ok_or(short)?;
    let (service_action_key, rest) = rest.split_first_chunk().ok_or(short)?;
    let flags = rest.get(4).copied().unwrap_or(0);
    // SPEC_I_PT is not supported (SIP_C=0). ALL_TG_PT is: there is one target port. APTPL: see `report_capabilities`.
    if flags & 0x08 != 0 {
        return Err(Sense::invalid_parameter_bit(20, 3));
    }
    if flags & 0x01 != 0 {
        return Err(Sense::invalid_parameter_bit(20, 0));
    }
    Ok(Parameters {
        key: u64::from_be_bytes(*key),
        service_action_key: u64::from_be_bytes(*service_action_key),
    })
}

#[cfg(test)]
mod tests {
    use crate::Operation;
    use crate::testing::{A, B, Bench};

    fn list(key: u8, service_action_key: u8) -> [u8; 24] {
        let mut list = [0; 24];
        list[7] = key;
        list[15] = service_action_key;
        list
    }

    fn out(action: u8, kind: u8) -> [u8; 10] {
        [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0]
    }

    /// A and B registered with keys 1 and 2.
    fn registered() -> Bench {
        let mut bench = Bench::ready();
        for (nexus, key) in [(B, 2), (A, 1)] {
            bench.nexus = nexus;
            bench.good(&out(0, 0), &list(0, key));
        }
        bench
    }

    #[test]
    fn a_reservation_keeps_the_unregistered_out() {
        let mut bench = registered();
        bench.good(&out(1, 5), &list(1, 0));
        bench.nexus = B;
        bench.good(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]);
        bench.good(&out(0, 0), &list(2, 0));
        bench.conflicts(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]);
        bench.conflicts(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
        bench.good(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[]);
        bench.good(&[0; 6], &[]);
        bench.good(&[0x1b, 0, 0, 0, 1, 0], &[]);
        bench.conflicts(&[0x1b, 0, 0, 0, 0, 0], &[]);
        bench.conflicts(&out(1, 5), &list(2, 0));
    }

    #[test]
    fn registrations_outlive_the_session() {
        let mut bench = registered();
        bench.good(&out(1, 3), &list(1, 0));
        bench.target.detach(A);
        bench.nexus = B;
        bench.conflicts(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[]);
        let port = crate::InitiatorPort { name: "iqn.2026-01.test:a".into(), isid: [0x80, 0, 0, 0, 0, 1] };
        bench.nexus = crate::NexusId(77);
        bench.target.attach(bench.nexus, port, |_| true);
        bench.refused(&[0; 6], 0x6, (0x29, 0), None);
        bench.good(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[]);
    }

    #[test]
    fn preempt_and_abort_aborts_the_victims_tasks() {
        let mut bench = registered();
        bench.good(&out(5, 1), &list(1, 2));
        assert_eq!(bench.ram.log, [Operation::AbortTasks([B].to_vec())]);
        bench.nexus = B;
        bench.refused(&[0; 6], 0x6, (0x2a, 5), None);
    }

    #[test]
    fn fields_are_checked() {
        let mut bench = registered();
        bench.refused_with(&out(1, 2), &list(1, 0), 0x5, (0x24, 0), Some((2, Some(3))));
        bench.refused_with(&out(1, 0x11), &list(1, 0), 0x5, (0x24, 0), Some((2, Some(7))));
        bench.refused_with(&out(7, 0), &list(1, 0), 0x5, (0x24, 0), Some((1, Some(4))));
        bench.refused_with(&out(0, 0), &list(1, 0)[..20], 0x5, (0x1a, 0), None);
        let long = [0x5f, 0, 0, 0, 0, 0, 0, 0, 25, 0];
        bench.refused_with(&long, &[0; 25], 0x5, (0x1a, 0), None);
        for (flag, bit) in [(0x08, 3), (0x01, 0)] {
            let mut list = list(1, 3);
            list[20] = flag;
            bench.refused_with(&out(0, 0), &list, 0x5, (0x26, 0), Some((20, Some(bit))));
        }
        bench.good(&out(1, 1), &list(1, 0));
        bench.refused_with(&out(2, 3), &list(1, 0), 0x5, (0x26, 4), None);
    }
}
