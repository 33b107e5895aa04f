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
