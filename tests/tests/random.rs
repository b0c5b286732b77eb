//! What the verifier calls sound never ends badly: held against random choreographies that the real pipeline plays. Nor does any come to
//! a kind of bad end that was not found. `SAGA_RANDOM=N` plays N of them.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use saga_choreography::explore::OF_RUNS;
use saga_core::harness::Rule;
use saga_tests::random::Trials;

/// How many choreographies are played unless the variable says otherwise.
const CHOREOGRAPHIES: u64 = 2_000;

fn trials() -> Trials {
    let count = std::env::var("SAGA_RANDOM").ok().map_or(CHOREOGRAPHIES, |n| n.parse().unwrap());
    Trials::of(0..count)
}

#[test]
fn what_is_called_sound_never_ends_badly() {
    let figures = trials().run().unwrap();
    println!("{figures}");
    for disagreement in figures.disagreements.iter().take(8) {
        println!("{}", disagreement.story);
    }
    assert!(figures.disagreements.is_empty(), "{} choreographies, printed above", figures.disagreements.len());
    // What hardly ever happens is not tested.
    assert!(figures.sound * 5 > figures.tried, "a good part has to be sound");
    assert!(figures.confirmed.0 * 5 > figures.tried, "a good part has to end badly in some run");
    assert!(figures.codes.values().all(|[_, came, _]| *came > 0), "every kind of bad end has to come to pass");
    // The verifier allows for every delay, the player only for some; but if it saw much that never happens, it would be too strict.
    let (unsound, confirmed) = figures.confirmed;
    assert!(confirmed * 10 > unsound * 9, "{confirmed} of {unsound} came to pass");
}

/// The negative controls: a verifier that overlooks one kind of bad end, and a pipeline that breaks one rule, disagree with the other.
#[test]
fn a_verifier_that_overlooks_a_bad_end_is_seen() {
    for code in OF_RUNS {
        let blind = Trials { blind: vec![code], until_the_first: true, ..trials() };
        let figures = blind.run().unwrap();
        assert!(!figures.disagreements.is_empty(), "nobody misses {code}");
        println!("{code} is missed after {} choreographies", figures.tried);
    }
}

#[test]
fn a_pipeline_that_breaks_a_rule_is_seen() {
    for rule in [Rule::NoLedgerCheck, Rule::VoidForgotten, Rule::SecondAnswerOverwrites] {
        let broken = Trials { rules: vec![rule], until_the_first: true, ..trials() };
        let figures = broken.run().unwrap();
        assert!(!figures.disagreements.is_empty(), "nobody sees that {rule} is broken");
        println!("{rule} is seen after {} choreographies", figures.tried);
    }
}
