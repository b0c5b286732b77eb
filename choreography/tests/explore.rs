//! Choreographies that are sound are found to be, and of each that is not one shortest run says what is wrong.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod cast;

use cast::cast;
use expect_test::{Expect, expect};
use saga_choreography::{
    Choreography,
    explore::{Bounds, Explored, explore},
};

fn explored(text: &str) -> Explored {
    let choreography = Choreography::from(cast(text));
    explore(&choreography.flow(), &Bounds::default())
}

#[test]
fn probe() {
    for (name, text) in cast::samples::SOUND {
        let begun = std::time::Instant::now();
        let e = explored(text);
        println!("{name}: {} states, {} ends, complete {} {:?}", e.states, e.ends, e.complete, begun.elapsed());
        for f in &e.findings { println!("{f}"); }
    }
}
