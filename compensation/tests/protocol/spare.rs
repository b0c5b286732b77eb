//! Rules that another rule backs up. Broken alone, none of them loses anything; each test says who holds the line then.
//!
//! They stay because they cost little, and because the other rule may be the one that a bug takes away.

use saga_compensation::{Call, Compensation, Kind, State, answer, compensation};

use crate::{
    explore::{holds, violates_only},
    gateway::Doubt,
    properties::{CLOSES_THEN_REJECTS, LEAVES_NOTHING_STUCK},
    relay::Relay,
    rules::{Rules, Work, call_of},
    saga::Saga,
};

const REAL: Rules = Rules::REAL;

fn no_crash(rules: Rules) -> Saga {
    Saga { rules, crashes: 0, ..Saga::SOUND }
}

/// The lock already keeps transactions of one saga apart. (No lock and no expected state is among the broken.)
#[test]
fn no_expected_state() {
    let saga = Saga { split: true, attempts: 1, ..no_crash(Rules { expected_state: false, ..REAL }) };
    holds("no expected state", saga, &[CLOSES_THEN_REJECTS]);
}

/// A key that is closed refuses whoever still calls, and the answer comes late: no money is lost. But the row becomes
/// stuck, and calls a person to a saga that has ended.
#[test]
fn a_doubt_leaves_the_call_to_be_retried() {
    for doubt in [Doubt::VoidKey, Doubt::Repeat] {
        let saga = Saga { doubt, ..no_crash(Rules { doubt_drops_call: false, ..REAL }) };
        violates_only(LEAVES_NOTHING_STUCK, "a doubt leaves the call to be retried", saga);
    }
}

/// A closed key needs no answer. Waiting for the lease only spares the gateway a call where the answer is a plain one.
#[test]
fn a_running_call_put_in_doubt_at_once() {
    let compensation = |kind, row, _| compensation(kind, row, Call::Open);
    holds("a running call put in doubt at once", no_crash(Rules { compensation, ..REAL }), &[]);
}

/// Retries are bounded, and then the call is stuck, which is no reason to wait: the money only comes back later.
#[test]
fn a_retry_that_is_due_keeps_a_compensation_waiting() {
    let call = |work, lease_over| match work {
        Work::Due => Call::Running,
        _ => call_of(work, lease_over),
    };
    holds("a retry that is due keeps a compensation waiting", no_crash(Rules { call, ..REAL }), &[]);
}

/// A gateway that remembers its refusals gives each attempt the same answer, so one refusal speaks for all.
#[test]
fn a_refusal_believed_where_refusals_are_remembered() {
    let answer = |row, said, _| answer(row, said, false);
    let saga = no_crash(Rules { answer, ..REAL });
    holds("a refusal believed where refusals are remembered", saga, &[CLOSES_THEN_REJECTS]);
}

/// A refusal settles a row only if no other attempt was made (`answer` sees to that), so no other request can travel.
#[test]
fn a_refused_call_taken_for_nothing_done() {
    let compensation = |kind, row, call| match (kind, row) {
        (Kind::External, Some(State::Rejected)) => Compensation::NothingDone,
        _ => compensation(kind, row, call),
    };
    let saga = Saga { gateway_forgets_refusals: true, ..no_crash(Rules { compensation, ..REAL }) };
    holds("a refused call taken for nothing done", saga, &[]);
}

/// What the gate rejected has started the compensations already.
#[test]
fn a_gate_that_said_no_absorbs_the_cancelling_event() {
    let compensation = |kind, row, call| match (kind, row) {
        (Kind::Gate, Some(State::Rejected)) => Compensation::Duplicate,
        _ => compensation(kind, row, call),
    };
    holds("a gate that said no absorbs the cancelling event", no_crash(Rules { compensation, ..REAL }), &[]);
}

/// The offset is progress, not truth. A zombie stores at most what it settled itself, and that is in the ledger.
#[test]
fn a_zombie_stores_offsets() {
    holds("a zombie stores offsets", Relay { fence: false, ..Relay::SOUND }, &[]);
}
