//! The simulation as a test: it repeats itself, it finds nothing, and it would find something.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::collections::BTreeSet;

use saga_core::harness::{Point, Rule};
use saga_tests::simulation::{Play, play};

/// Seeds that a broken rule has to show itself in.
const SEEDS: u64 = 200;

#[test]
fn the_same_seed_is_the_same_run_byte_for_byte() {
    for seed in [1, 4, 5] {
        let what = Play::sound(seed, 12);
        let (first, second) = (play(&what).unwrap(), play(&what).unwrap());
        let lines = first.journal.lines().zip(second.journal.lines());
        let difference = lines.enumerate().find(|(_, (first, second))| first != second);
        assert_eq!(difference, None, "seed {seed}");
        assert!(first == second && first.journal.lines().count() > 100, "seed {seed}");
        assert_ne!(first.journal, play(&Play::sound(seed + 1, 12)).unwrap().journal, "another seed is another run");
    }
}

/// What never happens is not tested. Crashes at every point, and every outcome that the rules know of.
#[test]
fn nothing_is_violated_and_everything_happens() {
    let mut seen = BTreeSet::new();
    for seed in 0..40 {
        let played = play(&Play::sound(seed, 10)).unwrap();
        assert_eq!(played.violation, None, "seed {seed}: cargo xtask simulate --seed {seed} --seeds 1 --sagas 10");
        assert_eq!(played.ended.0 + played.ended.1, 10, "seed {seed}");
        seen.extend(played.seen);
    }
    let crashes = Point::ALL.iter().map(|point| format!("crash at {point}"));
    let outcomes = [
        "charge-customer forward called",
        "charge-customer forward emitted",
        "charge-customer forward rejected",
        "charge-customer forward deferred",
        "charge-customer forward stuck",
        "charge-customer forward duplicate",
        "charge-customer forward late",
        "charge-customer compensation called",
        "charge-customer compensation compensated",
        "charge-customer compensation nothing_done",
        "charge-customer compensation parked",
        "charge-customer compensation deferred",
        "charge-customer compensation duplicate",
        "ship-order forward rejected",
        "ship-order forward late",
        "ship-order compensation nothing_done",
        "ship-order compensation late",
        "place-order compensation compensated",
        "complete-order forward emitted",
        "the observer misses what was settled",
    ];
    let missing: Vec<_> =
        crashes.chain(outcomes.map(str::to_owned)).filter(|what| !seen.contains(what.as_str())).collect();
    assert!(missing.is_empty(), "never seen: {missing:#?}");
}

/// The negative controls: each rule is broken on purpose, and some seed shows it.
macro_rules! negative_controls {
    ($($test:ident $rule:ident)+) => {
        $(#[test]
        fn $test() {
            is_seen(Rule::$rule);
        })+

        #[test]
        fn every_rule_has_a_control() {
            // See `a_second_line_of_defence_is_seen_when_the_first_is_gone`, and `locks.rs` for the rule of PostgreSQL.
            let tried = [$(Rule::$rule,)+ Rule::BlindTransition, Rule::LockAndReadInOne];
            let untried: Vec<_> = Rule::ALL.iter().filter(|rule| !tried.contains(rule)).collect();
            assert!(untried.is_empty(), "{untried:?}");
        }
    };
}

negative_controls! {
    an_offset_stored_before_the_commit_is_seen OffsetBeforeCommit
    publishing_before_the_commit_is_seen PublishBeforeCommit
    a_ledger_that_is_not_asked_is_seen NoLedgerCheck
    reading_before_the_lock_is_seen ReadBeforeLock
    a_random_event_id_is_seen RandomEventId
    a_void_that_is_forgotten_is_seen VoidForgotten
    a_call_taken_for_none_is_seen CallingAsNone
    an_outbox_paged_by_id_is_seen OutboxPagedById
    a_parked_reaction_that_is_overtaken_is_seen ParkedOvertaken
    a_second_answer_that_overwrites_is_seen SecondAnswerOverwrites
    a_stuck_call_that_keeps_a_compensation_waiting_is_seen StuckCallWaits
    a_refusal_believed_after_an_unknown_attempt_is_seen RefusalBelieved
    a_key_for_each_attempt_is_seen KeyPerAttempt
    a_horizon_that_is_ignored_is_seen HorizonIgnored
    a_look_up_instead_of_a_closed_key_is_seen LookUpInDoubt
}

fn is_seen(rule: Rule) {
    let Some((seed, violation)) = first(&[rule]) else {
        panic!("no seed below {SEEDS} shows that {rule} is broken");
    };
    println!("{rule}: seed {seed} of {SEEDS}: {violation}");
}

/// A transition that names the state which it expects backs up the lock: as long as nobody else can be inside, the state is
/// always the expected one, and no order of events shows whether it was asked for. Without the lock it is what stands between
/// two instances: with it the transaction is refused, without it the damage is done.
#[test]
fn a_second_line_of_defence_is_seen_when_the_first_is_gone() {
    let (_, refused) = first(&[Rule::ReadBeforeLock]).unwrap();
    assert!(["expected states", "a node stops"].contains(&refused.rule), "{refused}");
    let (_, done) = first(&[Rule::ReadBeforeLock, Rule::BlindTransition]).unwrap();
    assert!(!["expected states", "a node stops"].contains(&done.rule), "{done}");
    for seed in 0..10 {
        let what = Play { rules: vec![Rule::BlindTransition], ..Play::sound(seed, 10) };
        assert_eq!(play(&what).unwrap().violation, None, "seed {seed}");
    }
}

/// The signals of what was absorbed are needed: without them some saga would wait for ever, as the observer sees it. That an event is
/// kept from it is noticed in every run (I9).
#[test]
fn an_observer_that_is_not_told_what_was_absorbed_is_wrong() {
    let misses = |seed| play(&Play::sound(seed, 20)).unwrap().seen.contains("the observer misses what was absorbed");
    let seed = (0..SEEDS).find(|seed| misses(*seed));
    assert!(seed.is_some(), "in {SEEDS} seeds nothing was absorbed that no event shows");
}

fn first(rules: &[Rule]) -> Option<(u64, saga_tests::simulation::Violation)> {
    (0..SEEDS).find_map(|seed| {
        let what = Play { rules: rules.to_vec(), ..Play::sound(seed, 20) };
        Some((seed, play(&what).unwrap().violation?))
    })
}
