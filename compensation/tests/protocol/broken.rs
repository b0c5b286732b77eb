//! One rule broken at a time. The model has to find each fault, or its silence about the sound rules means nothing.

use saga_compensation::{Answer, Call, Compensation, Forward, Kind, Said, State, answer, compensation, forward};

use crate::{
    explore::finds,
    gateway::Doubt,
    properties::{
        CANCELLED_IS_CLEAN, CHARGED_ONCE, CLOSED_ROW_KEEPS_NOTHING, COMPLETED_IS_WHOLE, COMPLETED_KEEPS_MONEY,
        DONE_ROW_KEEPS_ONE, ENDS_OR_IS_STUCK, NEVER_WAITS_FOR_A_PERSON, NO_MISMATCH, ONE_ENDING, REFUND_HAS_A_CHARGE,
        RUNS_ONCE, SECOND_TRIGGER_SHOWS,
    },
    relay::{EFFECT_ONCE, NO_DELIVERY_LOST, NO_EMISSION_LOST, NOTHING_UNCOMMITTED, Relay},
    rules::{Rules, Work, call_of},
    saga::{Cancelling, Saga},
};

const REAL: Rules = Rules::REAL;

/// One attempt, no crash, and a rule that is broken.
fn small(rules: Rules) -> Saga {
    Saga { rules, ..Saga::SMALL }
}

// The verdict over a forward.

#[test]
fn void_forgotten() {
    let forward = |row, same| match row {
        Some(State::Void) => Forward::Run,
        _ => forward(row, same),
    };
    finds(CANCELLED_IS_CLEAN, "void forgotten", small(Rules { forward, ..REAL }));
}

#[test]
fn a_compensated_row_runs_again() {
    let forward = |row, same| match row {
        Some(State::Compensated) => Forward::Run,
        _ => forward(row, same),
    };
    finds(DONE_ROW_KEEPS_ONE, "a compensated row runs again", small(Rules { forward, ..REAL }));
}

#[test]
fn a_compensating_row_runs_again() {
    let forward = |row, same| match row {
        Some(State::Compensating) => Forward::Run,
        _ => forward(row, same),
    };
    finds(RUNS_ONCE, "a compensating row runs again", small(Rules { forward, ..REAL }));
}

#[test]
fn a_duplicate_runs_again() {
    let forward = |row, same| match forward(row, same) {
        Forward::Duplicate => Forward::Run,
        other => other,
    };
    let rules = Rules { forward, ..REAL };
    // Shipping works in its own database: nothing but the verdict stands between a duplicate and a second reservation.
    finds(COMPLETED_IS_WHOLE, "a duplicate runs again", small(rules));
    finds(RUNS_ONCE, "a duplicate runs again", small(rules));
}

#[test]
fn a_second_trigger_runs() {
    let forward = |row, same| match forward(row, same) {
        Forward::SecondTrigger => Forward::Run,
        other => other,
    };
    let saga = Saga { second_trigger: true, ..small(Rules { forward, ..REAL }) };
    finds(RUNS_ONCE, "a second trigger runs", saga);
    // The gateway's key absorbs the second charge as long as it remembers the first answer.
    let saga = Saga { gateway_forgets_refusals: true, ..saga };
    finds(CANCELLED_IS_CLEAN, "a second trigger runs, after a refusal that is forgotten", saga);
}

#[test]
fn a_second_trigger_taken_for_a_duplicate() {
    let forward = |row, same| match forward(row, same) {
        Forward::SecondTrigger => Forward::Duplicate,
        other => other,
    };
    let saga = Saga { second_trigger: true, ..small(Rules { forward, ..REAL }) };
    finds(SECOND_TRIGGER_SHOWS, "a second trigger taken for a duplicate", saga);
}

// The verdict over a compensation.

#[test]
fn a_call_treated_as_none() {
    let compensation = |kind, row, call| match row {
        Some(State::Calling) => Compensation::NothingDone,
        _ => compensation(kind, row, call),
    };
    finds(CLOSED_ROW_KEEPS_NOTHING, "a call treated as none", small(Rules { compensation, ..REAL }));
}

#[test]
fn a_call_refunded_rather_than_put_in_doubt() {
    let compensation = |kind, row, call| match compensation(kind, row, call) {
        Compensation::InDoubt => Compensation::Compensate,
        other => other,
    };
    let saga = small(Rules { compensation, ..REAL });
    finds(CANCELLED_IS_CLEAN, "a call refunded rather than put in doubt", saga);
}

#[test]
fn a_compensation_without_a_forward_dropped() {
    // A gate would only lose the cancelling event. Where the ending has been voided, nobody is left to end the saga.
    let compensation = |kind, row, call| match (kind, row) {
        (Kind::Local | Kind::External, None) => Compensation::Duplicate,
        _ => compensation(kind, row, call),
    };
    let saga = Saga { cancelling: Cancelling::AtTheEnding, ..small(Rules { compensation, ..REAL }) };
    finds(ENDS_OR_IS_STUCK, "a compensation without a forward dropped", saga);
}

#[test]
fn a_charge_not_taken_back() {
    let compensation = |kind, row, call| match (kind, row) {
        (Kind::External, Some(State::Done)) => Compensation::NothingDone,
        _ => compensation(kind, row, call),
    };
    finds(CANCELLED_IS_CLEAN, "a charge not taken back", small(Rules { compensation, ..REAL }));
}

#[test]
fn a_gate_taken_back_although_it_has_passed() {
    let compensation = |kind, row, call| match (kind, row) {
        (Kind::Gate, Some(State::Done)) => Compensation::Compensate,
        _ => compensation(kind, row, call),
    };
    let saga = small(Rules { compensation, ..REAL });
    finds(COMPLETED_KEEPS_MONEY, "a gate taken back although it has passed", saga);
}

#[test]
fn a_compensated_row_compensates_again() {
    let compensation = |kind, row, call| match row {
        Some(State::Compensated) => Compensation::Compensate,
        _ => compensation(kind, row, call),
    };
    let saga = small(Rules { compensation, ..REAL });
    finds(ONE_ENDING, "a compensated row compensates again", saga);
}

#[test]
fn a_compensating_row_compensates_again() {
    // The second compensation takes the key for settled, and the first has not closed it yet.
    let compensation = |kind, row, call| match row {
        Some(State::Compensating) => Compensation::Compensate,
        _ => compensation(kind, row, call),
    };
    let saga = small(Rules { compensation, ..REAL });
    finds(CANCELLED_IS_CLEAN, "a compensating row compensates again", saga);
}

#[test]
fn a_stuck_call_keeps_a_compensation_waiting() {
    let call = |work, lease_over| match work {
        Work::Stuck => Call::Running,
        _ => call_of(work, lease_over),
    };
    let saga = small(Rules { call, ..REAL });
    finds(NEVER_WAITS_FOR_A_PERSON, "a stuck call keeps a compensation waiting", saga);
}

#[test]
fn a_discarded_call_keeps_a_compensation_waiting() {
    let call = |work, lease_over| match work {
        Work::Gone => Call::Running,
        _ => call_of(work, lease_over),
    };
    let saga = Saga { persons: 1, ..small(Rules { call, ..REAL }) };
    finds(NEVER_WAITS_FOR_A_PERSON, "a discarded call keeps a compensation waiting", saga);
}

#[test]
fn a_lease_that_ran_out_keeps_a_compensation_waiting() {
    // The caller crashed, and the call has no attempts left: nobody will ever answer.
    let call = |work, lease_over| match work {
        Work::Leased(_) | Work::Stuck => Call::Running,
        _ => call_of(work, lease_over),
    };
    let saga = Saga { crashes: 1, ..small(Rules { call, ..REAL }) };
    finds(NEVER_WAITS_FOR_A_PERSON, "a lease that ran out keeps a compensation waiting", saga);
}

// The verdict over an answer.

#[test]
fn a_late_answer_accepted() {
    let answer = |_, said, unknown| answer(Some(State::Calling), said, unknown);
    finds(DONE_ROW_KEEPS_ONE, "a late answer accepted", small(Rules { answer, ..REAL }));
}

#[test]
fn a_refusal_after_an_unknown_attempt_believed() {
    let answer = |row, said, _| answer(row, said, false);
    let rules = Rules { answer, ..REAL };
    let saga = Saga { rules, gateway_forgets_refusals: true, crashes: 0, ..Saga::SOUND };
    finds(CANCELLED_IS_CLEAN, "a refusal after an unknown attempt believed", saga);
    finds(CLOSED_ROW_KEEPS_NOTHING, "a refusal after an unknown attempt believed", saga);
}

#[test]
fn a_no_after_the_effect_taken_for_a_plain_no() {
    let answer = |row, said, unknown| match answer(row, said, unknown) {
        Answer::CloseThenReject if said == Said::NoAfterEffect => Answer::Rejected,
        other => other,
    };
    let saga = Saga { rejects_after_effect: true, ..small(Rules { answer, ..REAL }) };
    finds(CANCELLED_IS_CLEAN, "a no after the effect taken for a plain no", saga);
}

// What the pipeline does around the verdicts.

#[test]
fn no_lock() {
    let saga = Saga { split: true, ..small(Rules { lock: false, ..REAL }) };
    finds(NO_MISMATCH, "no lock", saga);
}

#[test]
fn no_lock_and_no_expected_state() {
    let saga = Saga { split: true, ..small(Rules { lock: false, expected_state: false, ..REAL }) };
    finds(CANCELLED_IS_CLEAN, "no lock and no expected state", saga);
}

#[test]
fn nothing_done_not_said() {
    let saga = small(Rules { nothing_done_emits: false, ..REAL });
    finds(ENDS_OR_IS_STUCK, "nothing done not said", saga);
}

#[test]
fn a_compensation_waits_behind_its_own_stuck_forward() {
    let saga = Saga { shipping_sticks: true, ..small(Rules { waits_behind_own_stuck_forward: true, ..REAL }) };
    finds(NEVER_WAITS_FOR_A_PERSON, "a compensation waits behind its own stuck forward", saga);
}

#[test]
fn a_compensation_waits_behind_a_second_trigger() {
    let saga = Saga { second_trigger: true, ..small(Rules { waits_behind_second_trigger: true, ..REAL }) };
    finds(NEVER_WAITS_FOR_A_PERSON, "a compensation waits behind a second trigger", saga);
}

#[test]
fn a_compensation_waits_behind_a_late_answer() {
    let rules = Rules { waits_behind_late_answer: true, ..REAL };
    let saga = Saga { rules, crashes: 0, ..Saga::SOUND };
    finds(NEVER_WAITS_FOR_A_PERSON, "a compensation waits behind a late answer", saga);
}

// What is asked of the other system, and of a choreography.

#[test]
fn a_charge_without_a_key() {
    let saga = Saga { rules: Rules { charge_key: false, ..REAL }, crashes: 0, ..Saga::SOUND };
    finds(CHARGED_ONCE, "a charge without a key", saga);
}

#[test]
fn a_refund_without_its_own_key() {
    let saga = small(Rules { refund_key: false, ..REAL });
    finds(REFUND_HAS_A_CHARGE, "a refund without its own key", saga);
}

#[test]
fn a_look_up_instead_of_a_closed_key() {
    let saga = Saga { doubt: Doubt::LookUp, ..Saga::SMALL };
    finds(CANCELLED_IS_CLEAN, "a look-up instead of a closed key", saga);
}

#[test]
fn a_doubt_settled_by_repeating_what_the_other_side_forgets() {
    let saga = Saga { doubt: Doubt::Repeat, gateway_forgets_refusals: true, ..Saga::SMALL };
    finds(CANCELLED_IS_CLEAN, "repeating what the other side forgets", saga);
}

#[test]
fn a_cancelling_event_heard_by_everyone() {
    let saga = Saga { cancelling: Cancelling::Everywhere, ..Saga::SMALL };
    for property in [COMPLETED_KEEPS_MONEY, COMPLETED_IS_WHOLE, ONE_ENDING] {
        finds(property, "a cancelling event heard by everyone", saga);
    }
}

#[test]
fn an_ending_voided_by_the_event_rather_than_with_it() {
    let saga = Saga { cancelling: Cancelling::AtTheEndingLater, ..Saga::SMALL };
    for property in [COMPLETED_KEEPS_MONEY, COMPLETED_IS_WHOLE, ONE_ENDING] {
        finds(property, "an ending voided by the event rather than with it", saga);
    }
}

// From a delivery to what it publishes.

#[test]
fn no_ledger_check() {
    let forward = |_, _| Forward::Run;
    finds(EFFECT_ONCE, "no ledger check", Relay { forward, ..Relay::SOUND });
}

#[test]
fn an_offset_stored_before_the_commit() {
    let relay = Relay { store_after_commit: false, ..Relay::SOUND };
    finds(NO_DELIVERY_LOST, "an offset stored before the commit", relay);
}

#[test]
fn offsets_stored_with_a_gap() {
    finds(NO_DELIVERY_LOST, "offsets stored with a gap", Relay { contiguous: false, ..Relay::SOUND });
}

#[test]
fn an_unknown_commit_taken_for_done() {
    let relay = Relay { read_again: false, ..Relay::SOUND };
    finds(NO_DELIVERY_LOST, "an unknown commit taken for done", relay);
    finds(NOTHING_UNCOMMITTED, "an unknown commit taken for done", relay);
}

#[test]
fn published_before_the_commit() {
    let relay = Relay { publish_after_commit: false, ..Relay::SOUND };
    finds(NOTHING_UNCOMMITTED, "published before the commit", relay);
}

#[test]
fn no_sweeper() {
    finds(NO_EMISSION_LOST, "no sweeper", Relay { sweeper: false, ..Relay::SOUND });
}

#[test]
fn an_outbox_paged_by_id() {
    finds(NO_EMISSION_LOST, "an outbox paged by id", Relay { page_by_id: true, ..Relay::SOUND });
}

#[test]
fn an_outbox_row_deleted_before_the_acknowledgement() {
    let relay = Relay { delete_after_acknowledgement: false, ..Relay::SOUND };
    finds(NO_EMISSION_LOST, "an outbox row deleted before the acknowledgement", relay);
}
