//! Fifty services of six steps each are judged while somebody waits: `cargo test --release -p saga-choreography --test size -- --nocapture`
//! prints how long it takes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use saga_choreography::{Choreography, Code, Findings, rules};
use saga_core::{
    Manifest,
    event::Ending,
    manifest::{DeclaredEvent, DeclaredStep},
    participant::StepKind,
};

const LEGS: usize = 7;
const SERVICES_OF_A_LEG: usize = 7;
const STEPS: usize = 6;

fn step(name: String, kind: StepKind) -> DeclaredStep {
    DeclaredStep { timeout_ms: 1_000, ..DeclaredStep::new(&name, kind) }
}

fn manifest(participant: String, steps: Vec<DeclaredStep>) -> Manifest {
    let mut events = BTreeMap::new();
    for step in &steps {
        for event in step.on.iter().chain(&step.compensated_on).chain(step.published()) {
            let topic = event.split('.').nth(1).unwrap_or_default().to_owned();
            let ending = match event.as_str() {
                "big.trip.cancelled.v1" => Some(Ending::Cancelled),
                "big.trip.booked.v1" => Some(Ending::Completed),
                _ => None,
            };
            let known = || DeclaredEvent { topic, key: "sagaid".to_owned(), ending, writes: None, reads: None };
            let known = events.entry(event.clone()).or_insert_with(known);
            if step.published().any(|published| published == event) {
                known.writes = Some(true.into());
            }
        }
    }
    Manifest { manifest: 1, participant, version: String::new(), group: None, steps, events }
}

/// A trip with seven legs at once, each a chain through seven services of six steps; every step may say no, and each chain is taken
/// back from its end.
fn fifty_services() -> Choreography {
    let event = |leg: usize, at: usize, what: &str| format!("big.leg-{leg}-{}.{what}-{}.v1", at / STEPS, at % STEPS);
    let last = SERVICES_OF_A_LEG * STEPS - 1;
    let mut start = step("book-trip".to_owned(), StepKind::Start);
    start.emits = vec!["big.trip.requested.v1".to_owned()];
    start.compensated_on = (0..LEGS).flat_map(|leg| [event(leg, 0, "refused"), event(leg, 0, "undone")]).collect();
    start.compensated = vec!["big.trip.cancelled.v1".to_owned()];
    let mut home = vec![start];
    for leg in 0..LEGS {
        let mut note = step(format!("note-{leg}"), StepKind::Local);
        note.on = vec![event(leg, last, "done")];
        note.emits = vec!["big.trip.booked.v1".to_owned()];
        note.joins = (0..LEGS).filter(|other| *other != leg).map(|other| format!("note-{other}")).collect();
        home.push(note);
    }
    let mut manifests = vec![manifest("trip".to_owned(), home)];
    for leg in 0..LEGS {
        for service in 0..SERVICES_OF_A_LEG {
            let one = |at: usize| {
                let mut step = step(format!("do-{}", at % STEPS), StepKind::Local);
                step.on = vec![if at == 0 { "big.trip.requested.v1".to_owned() } else { event(leg, at - 1, "done") }];
                step.emits = vec![event(leg, at, "done")];
                step.rejects = vec![event(leg, at, "refused")];
                step.compensated_on = if at == last {
                    vec!["big.trip.cancelled.v1".to_owned()]
                } else {
                    vec![event(leg, at + 1, "refused"), event(leg, at + 1, "undone")]
                };
                step.compensated = vec![event(leg, at, "undone")];
                step
            };
            let steps = (service * STEPS..(service + 1) * STEPS).map(one).collect();
            manifests.push(manifest(format!("leg-{leg}-{service}"), steps));
        }
    }
    Choreography::from(manifests)
}

#[test]
fn fifty_services_are_judged_at_once() {
    let choreography = fifty_services();
    let steps: usize = choreography.manifests.iter().map(|manifest| manifest.steps.len()).sum();
    assert!(choreography.manifests.len() >= 50 && steps >= 300, "{steps} steps");
    let began = Instant::now();
    let found = Findings::of(rules::findings(&choreography.flow()));
    let took = began.elapsed();
    assert!(found.is_empty(), "{found}");
    eprintln!("{} services with {steps} steps: {took:?}", choreography.manifests.len());
    // Far above what it takes on a busy machine, unoptimised, and below what comparing every step with every step takes there.
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn one_missing_declaration_among_three_hundred_is_found() {
    let mut choreography = fifty_services();
    let broken = &mut choreography.manifests[25].steps[3];
    broken.compensated_on.clear();
    broken.compensated.clear();
    let participant = choreography.manifests[25].participant.clone();
    let found = Findings::of(rules::findings(&choreography.flow()));
    let codes = [Code::NoGate, Code::TwoPivots, Code::RejectsAfterPivot];
    assert!(found.iter().any(|finding| finding.code == Code::Unpublished));
    assert!(found.iter().any(|finding| codes.contains(&finding.code) && finding.message.contains(&participant)));
}
