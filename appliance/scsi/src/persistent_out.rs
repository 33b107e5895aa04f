//! PERSISTENT RESERVE OUT (SPC-4 §6.16): the CDB and parameter list, turned into a [`Transition`] that the cluster is to
//! commit before it is in force and answered (S15).

use crate::command::{Continuation, NexusId, Operation, Response, Status, Step};
use crate::identity::{InitiatorPort, RELATIVE_PORT};
use crate::persistent::{Changing, PersistentState, PersistentType, Refusal, Transition};
use crate::sense::{Asc, Sense};
use crate::target::Call;
use crate::transport_id::{self, Named};
use alloc::{boxed::Box, vec::Vec};

/// A parameter list: the basic one (SPC-4 table 205), or that of REGISTER AND MOVE (table 208), which begin alike.
struct Parameters<'a> {
    key: u64,
    service_action_key: u64,
    /// The whole list, at least [`BASIC_BYTES`] long.
    list: &'a [u8],
}

const BASIC_BYTES: usize = 24;
const REGISTER: u16 = 0;
const PREEMPT_AND_ABORT: u16 = 5;
const REGISTER_AND_MOVE: u16 = 7;
const SHORT: Sense = Sense::illegal(Asc::PARAMETER_LIST_LENGTH);

/// PERSISTENT RESERVE OUT, all service actions but REPLACE LOST RESERVATION.
pub(crate) fn execute(call: &mut Call<'_>) -> Result<Step, Sense> {
    let parameters = parameters(call)?;
    let action = call.cdb.service_action();
    let decision = match call.initiator() {
        None => return Ok(conflict()),
        Some(_) if call.unit.changing.is_some() => return Ok(Step::Done(Response::status(Status::Busy))),
        Some(port) => decide(call, port, action, &parameters),
    };
    match decision {
        Ok(transition) => Ok(propose(call, transition, action == PREEMPT_AND_ABORT)),
        Err(Refusal::Conflict) => Ok(conflict()),
        Err(Refusal::Check(sense)) => Err(sense),
    }
}

fn decide(
    call: &Call<'_>,
    port: &InitiatorPort,
    action: u16,
    parameters: &Parameters<'_>,
) -> Result<Transition, Refusal> {
    let Parameters { key, service_action_key: other, .. } = *parameters;
    let state = &call.unit.persistent;
    match action {
        REGISTER => {
            let others = specified_ports(call, state, port, parameters)?;
            PersistentState::register_others(state.register(port, key, other, false)?, others, other)
        }
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
        REGISTER_AND_MOVE => {
            let to = destination(call, parameters)?;
            state.register_and_move(port, key, other, &to, byte(parameters, 17) & 0x02 != 0)
        }
        _ => Err(Refusal::Check(Sense::invalid_cdb_bit(1, 4))),
    }
}

fn conflict() -> Step {
    Step::Done(Response::status(Status::ReservationConflict))
}

/// Has the cluster commit the transition, if it changes anything.
fn propose(call: &mut Call<'_>, transition: Transition, abort: bool) -> Step {
    if transition.changes_nothing(&call.unit.persistent) {
        return Call::good();
    }
    let operation = Operation::Reserve(Box::new(transition.to_base()));
    call.unit.changes = call.unit.changes.wrapping_add(1);
    let number = call.unit.changes;
    call.unit.changing = Some(Changing { number, transition, abort });
    Step::Backend(operation, Continuation::Reserve { change: number })
}

/// Puts a committed change in force, tells those whom it concerns, and aborts the preempted nexuses' tasks if asked.
pub(crate) fn committed(call: &mut Call<'_>, changing: Changing) -> Step {
    let Changing { transition, abort, .. } = changing;
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

fn byte(parameters: &Parameters<'_>, at: usize) -> u8 {
    parameters.list.get(at).copied().unwrap_or(0)
}

/// SPEC_I_PT: TransportIDs follow the basic list.
fn specifies_ports(parameters: &Parameters<'_>) -> bool {
    byte(parameters, 20) & 0x08 != 0
}

/// The parameter list, as long as its service action has it. ALL_TG_PT changes nothing, there is one target port; nor does
/// APTPL: every registration outlives a loss of power (S15).
fn parameters<'a>(call: &'a Call<'_>) -> Result<Parameters<'a>, Sense> {
    let list = call.parameter_list(u64::from(call.cdb.u32(5)))?;
    let (key, rest) = list.split_first_chunk().ok_or(SHORT)?;
    let (service_action_key, _) = rest.split_first_chunk().ok_or(SHORT)?;
    let parameters = Parameters {
        key: u64::from_be_bytes(*key),
        service_action_key: u64::from_be_bytes(*service_action_key),
        list,
    };
    let action = call.cdb.service_action();
    if list.len() < BASIC_BYTES {
        return Err(SHORT);
    }
    let long = action == REGISTER_AND_MOVE || specifies_ports(&parameters);
    if action != REGISTER && action != REGISTER_AND_MOVE && specifies_ports(&parameters) {
        return Err(Sense::invalid_parameter_bit(20, 3));
    }
    if !long && list.len() != BASIC_BYTES {
        return Err(SHORT);
    }
    Ok(parameters)
}

/// What follows the length field at `at`, which must say how much that is.
fn counted<'a>(parameters: &Parameters<'a>, at: usize) -> Result<&'a [u8], Sense> {
    let (length, rest) = parameters.list.get(at..).and_then(|rest| rest.split_first_chunk()).ok_or(SHORT)?;
    let said = usize::try_from(u32::from_be_bytes(*length)).ok();
    if said == Some(rest.len()) { Ok(rest) } else { Err(SHORT) }
}

/// The ports that SPEC_I_PT names. A registered port may not use it (SPC-4 table 48).
fn specified_ports(
    call: &Call<'_>,
    state: &PersistentState,
    port: &InitiatorPort,
    parameters: &Parameters<'_>,
) -> Result<Vec<InitiatorPort>, Sense> {
    let mut ports = Vec::new();
    if !specifies_ports(parameters) {
        return Ok(ports);
    }
    if parameters.service_action_key == 0 || state.registrations().any(|(known, _)| known == port) {
        return Err(Sense::invalid_parameter_bit(20, 3));
    }
    let mut rest = counted(parameters, BASIC_BYTES)?;
    while !rest.is_empty() {
        let (named, after) = transport_id::decode(rest).ok_or(Sense::invalid_parameter_byte(28))?;
        let found = ports_of(call, named);
        if found.is_empty() {
            return Err(Sense::invalid_parameter_byte(28));
        }
        ports.extend(found);
        rest = after;
    }
    Ok(ports)
}

/// The port that REGISTER AND MOVE names.
fn destination(call: &Call<'_>, parameters: &Parameters<'_>) -> Result<InitiatorPort, Sense> {
    if [byte(parameters, 18), byte(parameters, 19)] != RELATIVE_PORT.to_be_bytes() {
        return Err(Sense::invalid_parameter_byte(18));
    }
    let wrong = Sense::invalid_parameter_byte(24);
    let (named, after) = transport_id::decode(counted(parameters, 20)?).ok_or(wrong)?;
    let mut found = ports_of(call, named);
    match (found.pop(), found.is_empty() && after.is_empty()) {
        (Some(port), true) => Ok(port),
        _ => Err(wrong),
    }
}

/// An initiator without port stands for those of its ports that are logged in.
fn ports_of(call: &Call<'_>, named: Named) -> Vec<InitiatorPort> {
    match named {
        Named::Port(port) => Vec::from([port]),
        Named::Device(name) => call.nexuses.values().filter(|port| port.name == name).cloned().collect(),
    }
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Check(sense)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{A, B, Bench};
    use crate::{
        Command, Continuation, Fault, InitiatorPort, Operation, Outcome, Status, Step, transport_id,
    };
    use alloc::vec::Vec;

    const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];

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
        assert_eq!(bench.ram.log.last(), Some(&Operation::AbortTasks([B].to_vec())));
        bench.nexus = B;
        bench.refused(&[0; 6], 0x6, (0x2a, 5), None);
    }

    #[test]
    fn fields_are_checked() {
        let mut bench = registered();
        bench.refused_with(&out(1, 2), &list(1, 0), 0x5, (0x24, 0), Some((2, Some(3))));
        bench.refused_with(&out(1, 0x11), &list(1, 0), 0x5, (0x24, 0), Some((2, Some(7))));
        bench.refused_with(&out(8, 0), &list(1, 0), 0x5, (0x24, 0), Some((1, Some(4))));
        bench.refused_with(&out(0, 0), &list(1, 0)[..20], 0x5, (0x1a, 0), None);
        let long = [0x5f, 0, 0, 0, 0, 0, 0, 0, 25, 0];
        bench.refused_with(&long, &[0; 25], 0x5, (0x1a, 0), None);
        let mut specifying = list(1, 3);
        specifying[20] = 0x08;
        for action in [1, 6] {
            bench.refused_with(&out(action, 1), &specifying, 0x5, (0x26, 0), Some((20, Some(3))));
        }
        bench.good(&out(1, 1), &list(1, 0));
        bench.refused_with(&out(2, 3), &list(1, 0), 0x5, (0x26, 4), None);
    }

    /// Starts a command of the bench's nexus and leaves it at its operation.
    fn start(bench: &mut Bench, cdb: &[u8], list: &[u8]) -> (Operation, Continuation) {
        let command = command(bench, cdb, list);
        match bench.target.execute(&command) {
            Step::Backend(operation, continuation) => (operation, continuation),
            Step::Done(response) => panic!("{response:?}"),
        }
    }

    fn command<'a>(bench: &Bench, cdb: &'a [u8], list: &'a [u8]) -> Command<'a> {
        Command { nexus: bench.nexus, lun: [0; 8], cdb, offered_len: 24, parameters: list }
    }

    #[test]
    fn a_change_is_in_force_once_it_is_committed() {
        let mut bench = registered();
        let (operation, continuation) = start(&mut bench, &out(5, 3), &list(1, 2));
        let Operation::Reserve(state) = operation else { panic!("{operation:?}") };
        assert_eq!((state.revision, state.generation, state.registrations.len()), (3, 3, 1));
        bench.nexus = B;
        bench.good(&READ, &[]);
        assert_eq!(bench.send(&out(1, 3), &list(2, 0)).status, Status::Busy, "one at a time");
        assert_eq!(bench.data_in(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0]), [0, 0, 0, 2, 0, 0, 0, 16]);
        bench.nexus = A;
        let (cdb, parameters) = (out(5, 3), list(1, 2));
        let step = bench.target.resume(&command(&bench, &cdb, &parameters), continuation, Outcome::Done);
        assert_eq!(step, Step::Backend(Operation::AbortTasks([B].to_vec()), Continuation::Finish));
        bench.nexus = B;
        bench.refused(&READ, 0x6, (0x2a, 5), None);
        bench.good(&READ, &[]);
        assert_eq!(bench.data_in(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0]), [0, 0, 0, 3, 0, 0, 0, 8]);
    }

    #[test]
    fn a_change_that_is_not_committed_changes_nothing() {
        let cases = [
            (Fault::Contended, Status::Busy, None),
            (Fault::NotServed, Status::CheckCondition, Some((2, 0x04))),
            (Fault::Internal, Status::CheckCondition, Some((4, 0x44))),
        ];
        for (fault, status, sense) in cases {
            let mut bench = registered();
            bench.ram.fault = Some(fault);
            let reply = bench.send(&out(1, 3), &list(1, 0));
            assert_eq!(reply.status, status);
            assert_eq!(reply.sense.map(|sense| (sense.key as u8, sense.asc.0)), sense);
            bench.ram.fault = None;
            bench.nexus = B;
            bench.good(&out(1, 3), &list(2, 0));
        }
    }

    #[test]
    fn a_confirmation_from_before_a_loss_of_service_is_no_success() {
        let mut bench = registered();
        let (_, continuation) = start(&mut bench, &out(1, 3), &list(1, 0));
        bench.target.set_served(0, false);
        bench.target.set_served(0, true);
        let (cdb, parameters) = (out(1, 3), list(1, 0));
        let step = bench.target.resume(&command(&bench, &cdb, &parameters), continuation, Outcome::Done);
        let Step::Done(response) = step else { panic!("{step:?}") };
        assert_eq!(response.status, Status::CheckCondition);
    }

    #[test]
    fn what_changes_nothing_is_not_committed() {
        let mut bench = registered();
        bench.good(&out(1, 1), &list(1, 0));
        let before = bench.ram.log.len();
        bench.good(&out(1, 1), &list(1, 0));
        bench.nexus = B;
        bench.good(&out(2, 1), &list(2, 0));
        assert_eq!(bench.ram.log.len(), before);
    }

    #[test]
    fn persistence_is_accepted() {
        let mut bench = registered();
        let mut list = list(1, 3);
        list[20] = 0x05;
        bench.good(&out(0, 0), &list);
        assert_eq!(bench.ram.committed.unwrap().generation, 3);
    }

    fn port(name: &str) -> InitiatorPort {
        InitiatorPort { name: name.into(), isid: [0x80, 0, 0, 0, 0, 1] }
    }

    /// The CDB for a list of that length.
    fn long_out(action: u8, list: &[u8]) -> [u8; 10] {
        [0x5f, action, 0, 0, 0, 0, 0, 0, u8::try_from(list.len()).unwrap(), 0]
    }

    #[test]
    fn register_names_other_ports() {
        let mut bench = Bench::ready();
        let id = transport_id::encode(&port("iqn.2026-01.test:b"));
        let mut list = list(0, 9).to_vec();
        list[20] = 0x08;
        list.extend([0, 0, 0, u8::try_from(id.len()).unwrap()]);
        list.extend(&id);
        let cdb = long_out(0, &list);
        bench.good(&cdb, &list);
        let keys: Vec<u64> =
            bench.ram.committed.as_ref().unwrap().registrations.iter().map(|one| one.key).collect();
        assert_eq!(keys, [9, 9]);
        list[7] = 9;
        bench.refused_with(&cdb, &list, 0x5, (0x26, 0), Some((20, Some(3))));
        let mut bench = Bench::ready();
        list[7] = 0;
        list[27] += 1;
        bench.refused_with(&cdb, &list, 0x5, (0x1a, 0), None);
        list[27] -= 1;
        list[28] = 0x46;
        bench.refused_with(&cdb, &list, 0x5, (0x26, 0), Some((28, None)));
        assert_eq!(bench.ram.committed, None);
    }

    #[test]
    fn register_and_move_gives_registration_and_reservation_to_another() {
        let mut bench = registered();
        bench.good(&out(1, 3), &list(1, 0));
        let id = transport_id::encode(&port("iqn.2026-01.test:c"));
        let mut list = list(1, 5).to_vec();
        list[17] = 0x02;
        list[19] = 1;
        list[23] = u8::try_from(id.len()).unwrap();
        list.extend(&id);
        let cdb = long_out(7, &list);
        let mut elsewhere = list.clone();
        elsewhere[19] = 2;
        bench.refused_with(&cdb, &elsewhere, 0x5, (0x26, 0), Some((18, None)));
        bench.good(&cdb, &list);
        let committed = bench.ram.committed.clone().unwrap();
        assert_eq!(committed.generation, 3);
        assert_eq!(committed.reservation.unwrap().holder, Some(port("iqn.2026-01.test:c")));
        let left: Vec<_> =
            committed.registrations.iter().map(|one| (one.port.name.as_str(), one.key)).collect();
        assert_eq!(left, [("iqn.2026-01.test:b", 2), ("iqn.2026-01.test:c", 5)]);
        bench.conflicts(&READ, &[]);
        bench.nexus = B;
        list[7] = 2;
        bench.refused_with(&cdb, &list, 0x5, (0x24, 0), Some((1, Some(4))));
    }
}
