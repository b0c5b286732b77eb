//! The rules as they are, under everything that may go wrong.

use crate::{
    explore::{holds, in_full, not_explored},
    gateway::Doubt,
    properties::{CLOSES_THEN_REJECTS, COMPLETES, IN_DOUBT},
    relay::Relay,
    saga::{Cancelling, Saga},
};

/// Explores `everyday`; and `full` as well where there is time for it.
fn holds_up_to(name: &str, everyday: Saga, full: Saga, never: &[&str]) {
    holds(name, everyday, never);
    if in_full() {
        holds(&format!("{name}, in full"), full, &[]);
    } else {
        let bounds = |Saga { attempts, crashes, persons, .. }: Saga| {
            format!("attempts of a call: {attempts}, crashes: {crashes}, acts of a person: {persons}")
        };
        not_explored(&format!("{name}, {} (explored: {})", bounds(full), bounds(everyday)));
    }
}

#[test]
fn cancelled_at_the_pivot() {
    holds_up_to("cancelled at the pivot", Saga::SOUND, Saga { crashes: 2, ..Saga::SOUND }, &[]);
}

#[test]
fn cancelled_at_the_ending() {
    let saga = Saga { cancelling: Cancelling::AtTheEnding, ..Saga::SOUND };
    holds_up_to("cancelled at the ending", Saga { crashes: 0, ..saga }, saga, &[]);
}

#[test]
fn never_cancelled_from_outside() {
    // Only a rejection compensates here: it comes after the charge was settled, so nothing about it is in doubt.
    let saga = Saga { cancelling: Cancelling::Never, crashes: 2, ..Saga::SOUND };
    holds("never cancelled from outside", saga, &[IN_DOUBT]);
}

#[test]
fn transactions_of_two_instances_interleave() {
    for cancelling in [Cancelling::AtThePivot, Cancelling::AtTheEnding] {
        let saga = Saga { cancelling, split: true, ..Saga::SOUND };
        holds_up_to(
            &format!("interleaved transactions, cancelled {cancelling:?}"),
            Saga { attempts: 1, ..saga },
            saga,
            // With one attempt every refusal is the first and the last.
            &[CLOSES_THEN_REJECTS],
        );
    }
}

#[test]
fn a_person_redrives_or_discards_what_is_stuck() {
    let saga = Saga { shipping_sticks: true, persons: 1, ..Saga::SOUND };
    holds_up_to("shipping sticks, a person acts", Saga { attempts: 1, crashes: 0, ..saga }, saga, &[]);
}

#[test]
fn the_step_gives_up_on_a_reply() {
    let saga = Saga { run_gives_up: true, persons: 1, crashes: 0, ..Saga::SOUND };
    holds_up_to("the step gives up, a person acts", Saga { attempts: 1, ..saga }, saga, &[]);
}

#[test]
fn a_second_trigger() {
    let saga = Saga { second_trigger: true, ..Saga::SOUND };
    holds_up_to("a second trigger", Saga { attempts: 1, crashes: 0, ..saga }, saga, &[CLOSES_THEN_REJECTS]);
}

#[test]
fn a_gateway_that_forgets_its_refusals() {
    let saga = Saga { gateway_forgets_refusals: true, ..Saga::SOUND };
    holds_up_to("a gateway that forgets its refusals", Saga { crashes: 0, ..saga }, saga, &[]);
}

#[test]
fn a_doubt_settled_by_repeating_the_call() {
    let saga = Saga { doubt: Doubt::Repeat, ..Saga::SOUND };
    holds_up_to("a doubt settled by repeating the call", Saga { crashes: 0, ..saga }, saga, &[]);
}

#[test]
fn a_step_that_rejects_after_the_call_took_effect() {
    let saga = Saga { rejects_after_effect: true, ..Saga::SOUND };
    holds("rejects after the effect", saga, &[COMPLETES]);
}

#[test]
fn from_a_delivery_to_what_it_publishes() {
    holds("relay", Relay::SOUND, &[]);
}
