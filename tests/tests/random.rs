//! What the verifier calls sound never ends badly: held against random choreographies that the real pipeline plays.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use saga_tests::random::Trials;

/// How many choreographies are played; more with `SAGA_RANDOM=N`.
const CHOREOGRAPHIES: u64 = 2_000;

fn how_many() -> u64 {
    std::env::var("SAGA_RANDOM").ok().map_or(CHOREOGRAPHIES, |n| n.parse().unwrap())
}

#[test]
fn what_is_called_sound_never_ends_badly() {
    let figures = Trials::of(0..how_many()).run().unwrap();
    println!("{figures}");
    for disagreement in figures.disagreements.iter().take(8) {
        println!("{}", disagreement.story);
    }
    assert!(figures.disagreements.is_empty());
}
