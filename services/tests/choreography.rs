//! The samples are a sound choreography, as their own participants declare it.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use saga_choreography::{Choreography, Code, Findings, rules};
use saga_services::{gateway::GatewayClient, order, payment, shipping};

fn samples() -> Choreography {
    let gateway = GatewayClient::new("http://127.0.0.1:1").unwrap();
    Choreography::of(&[order::participant(), payment::participant(gateway), shipping::participant()])
}

fn judged(choreography: &Choreography) -> Findings {
    Findings::of(rules::findings(&choreography.flow()))
}

#[test]
fn the_samples_break_no_rule() {
    let found = judged(&samples());
    assert!(found.is_empty(), "{found}");
    let found = samples().check();
    assert!(found.is_empty(), "{found}");
}

/// The same with one declaration changed each: the rules look at them.
#[test]
fn what_is_taken_from_the_samples_is_missed() {
    let mut codes = vec![];
    for manifest in 0..3 {
        let mut broken = samples();
        broken.manifests.remove(manifest);
        codes.push(judged(&broken).iter().map(|finding| finding.code).collect::<Vec<_>>());
    }
    assert!(codes[0].contains(&Code::NoStart) && codes[1].contains(&Code::Unpublished));
    assert!(codes[2].contains(&Code::Unpublished) && codes[2].contains(&Code::Unheard));
    // What is done and never taken back is no less than an error.
    let mut broken = samples();
    let charge = &mut broken.manifests[1].steps[0];
    charge.compensated_on.clear();
    charge.compensated.clear();
    broken.manifests[0].steps[0].compensated_on.push("shop.shipment.failed.v1".to_owned());
    let codes: Vec<_> = judged(&broken).iter().map(|finding| finding.code).collect();
    assert!(codes.contains(&Code::IllDeclared) && codes.contains(&Code::TwoPivots), "{codes:?}");
}
