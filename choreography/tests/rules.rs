//! The rules are silent where they are not sure: of choreographies made up at random, whatever a rule says ends badly is found by
//! playing it, too.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use saga_choreography::{
    Choreography, Code, Findings,
    explore::{Bounds, explore},
    rules,
};
use saga_core::{
    Manifest,
    event::Ending,
    manifest::{DeclaredEvent, DeclaredStep},
    participant::StepKind,
};

/// The rules that speak of runs.
const OF_RUNS: [Code; 7] = [
    Code::Uncompensated,
    Code::NoGate,
    Code::RejectsAfterPivot,
    Code::TwoPivots,
    Code::NoEnding,
    Code::TwoEndings,
    Code::SecondTrigger,
];

/// A step in numbers, all of them taken modulo what there is.
#[derive(Debug, Clone)]
struct Dice {
    participant: usize,
    kind: u8,
    on: Vec<usize>,
    emits: u8,
    rejects: bool,
    back: Vec<usize>,
    compensated: bool,
    wins: bool,
    ending: u8,
}

fn dice() -> impl Strategy<Value = Dice> {
    (
        0..3_usize,
        0..6_u8,
        prop::collection::vec(0..64_usize, 1..3),
        0..4_u8,
        any::<bool>(),
        prop::collection::vec(0..64_usize, 0..3),
        any::<bool>(),
        any::<bool>(),
        0..4_u8,
    )
        .prop_map(|(participant, kind, on, emits, rejects, back, compensated, wins, ending)| Dice {
            participant,
            kind,
            on,
            emits,
            rejects,
            back,
            compensated,
            wins,
            ending,
        })
}

/// A start, perhaps a request, and steps that hear what others publish. Steps of the first participant may end the saga; two of
/// them that follow each other may be joined.
fn made_up(dice: &[Dice], request: bool, joined: bool) -> Choreography {
    let names = ["order", "payment", "shipping"];
    let mut endings = BTreeMap::<String, Ending>::new();
    // What each publishes is known before it is known who hears it.
    let mut steps: Vec<(usize, DeclaredStep)> = vec![(0, step("start", StepKind::Start))];
    steps[0].1.emits.push("x.order.started.v1".to_owned());
    steps[0].1.compensated.push("x.order.cancelled.v1".to_owned());
    endings.insert("x.order.cancelled.v1".to_owned(), Ending::Cancelled);
    if request {
        let mut asks = step("ask", StepKind::Request);
        asks.emits.push("x.order.asked.v1".to_owned());
        steps.push((0, asks));
    }
    for (i, one) in dice.iter().enumerate() {
        let kind = match one.kind {
            0 | 1 => StepKind::External,
            2 => StepKind::Gate,
            _ => StepKind::Local,
        };
        let mut step = step(&format!("step-{i}"), kind);
        let event = |what: &str| format!("x.{}.{what}-{i}.v1", names[one.participant]);
        step.emits = match one.emits {
            0 => vec![],
            3 => vec![event("done"), event("other")],
            _ => vec![event("done")],
        };
        if one.rejects {
            step.rejects.push(event("refused"));
        }
        if one.compensated {
            step.compensated.push(event("undone"));
        }
        step.first_trigger_wins = one.wins;
        if one.participant == 0 && one.ending == 0 && !step.emits.is_empty() {
            endings.insert(event("done"), Ending::Completed);
        }
        steps.push((one.participant, step));
    }
    let published: Vec<String> = steps.iter().flat_map(|(_, step)| step.published().cloned()).collect();
    let first = steps.len() - dice.len();
    let back_of = |numbers: &[usize], own: &DeclaredStep| {
        let mut all: Vec<String> = numbers.iter().map(|number| published[number % published.len()].clone()).collect();
        all.sort();
        all.dedup();
        all.retain(|event| !own.published().any(|own| own == event));
        all
    };
    let refused: Vec<String> =
        published.iter().filter(|event| event.contains("refused") || event.contains("undone")).cloned().collect();
    steps[0].1.compensated_on = refused;
    for (one, (_, step)) in dice.iter().zip(&mut steps[first..]) {
        step.on = back_of(&one.on, step);
        step.compensated_on = back_of(&one.back, step);
        let on = step.on.clone();
        step.compensated_on.retain(|event| !on.contains(event));
        if one.kind == 5 && step.kind == StepKind::Local {
            step.compensated_on = vec!["x.order.cancelled.v1".to_owned()];
        }
        if step.compensated_on.is_empty() {
            step.compensated.clear();
        }
    }
    if joined {
        let mates: Vec<usize> =
            (first..steps.len()).filter(|i| steps[*i].0 == 0 && steps[*i].1.kind != StepKind::Gate).take(2).collect();
        if let [one, other] = mates[..] {
            let emits = steps[one].1.emits.clone();
            steps[other].1.emits = emits;
            steps[one].1.joins = vec![steps[other].1.step.clone()];
            steps[other].1.joins = vec![steps[one].1.step.clone()];
        }
    }
    let manifest = |participant: usize| {
        let steps: Vec<DeclaredStep> =
            steps.iter().filter(|(of, _)| *of == participant).map(|(_, step)| step.clone()).collect();
        let mut events = BTreeMap::new();
        for event in steps.iter().flat_map(|step| step.on.iter().chain(&step.compensated_on).chain(step.published())) {
            let ending = endings.get(event).copied();
            let known =
                DeclaredEvent { topic: "x".to_owned(), key: "sagaid".to_owned(), ending, writes: None, reads: None };
            events.insert(event.clone(), known);
        }
        let participant = names[participant].to_owned();
        Manifest { manifest: 1, participant, version: String::new(), group: None, steps, events }
    };
    Choreography::from((0..3).map(manifest).collect::<Vec<_>>())
}

fn step(name: &str, kind: StepKind) -> DeclaredStep {
    DeclaredStep { timeout_ms: 1_000, ..DeclaredStep::new(name, kind) }
}

/// One change of a sound choreography, in numbers taken modulo what there is.
#[derive(Debug, Clone)]
struct Change {
    step: usize,
    what: u8,
    event: usize,
    place: usize,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = (any::<usize>(), 0..14_u8, any::<usize>(), any::<usize>())
        .prop_map(|(step, what, event, place)| Change { step, what, event, place });
    prop::collection::vec(change, 1..4)
}

fn sound() -> Vec<Choreography> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus/sound");
    let mut all: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    all.sort();
    all.iter().map(|path| Manifest::read(&std::fs::read_to_string(path).unwrap()).unwrap().into()).collect()
}

fn changed(mut choreography: Choreography, changes: &[Change]) -> Choreography {
    let mut known: BTreeMap<String, DeclaredEvent> = BTreeMap::new();
    for (name, event) in choreography.manifests.iter().flat_map(|manifest| &manifest.events) {
        known.entry(name.clone()).or_insert_with(|| DeclaredEvent { writes: None, reads: None, ..event.clone() });
    }
    let names: Vec<String> = known.keys().cloned().collect();
    for change in changes {
        let steps: usize = choreography.manifests.iter().map(|manifest| manifest.steps.len()).sum();
        let mut all = choreography.manifests.iter_mut().flat_map(|manifest| &mut manifest.steps);
        let step = all.nth(change.step % steps).unwrap();
        let list = match change.what {
            0 | 1 => &mut step.on,
            2 | 3 => &mut step.emits,
            4 | 5 => &mut step.rejects,
            6..=8 => &mut step.compensated_on,
            9 | 10 => &mut step.compensated,
            11 => {
                step.first_trigger_wins ^= true;
                continue;
            }
            12 => {
                step.joins.clear();
                continue;
            }
            _ => {
                let kinds = [StepKind::Local, StepKind::External, StepKind::Gate];
                if kinds.contains(&step.kind) {
                    step.kind = kinds[change.place % 3];
                }
                continue;
            }
        };
        let event = &names[change.event % names.len()];
        match change.place % 3 {
            0 if !list.is_empty() => drop(list.remove(change.place % list.len())),
            1 if !list.is_empty() => {
                let place = change.place % list.len();
                list[place] = event.clone();
            }
            _ => list.push(event.clone()),
        }
        list.sort();
        list.dedup();
    }
    for manifest in &mut choreography.manifests {
        let named = |step: &DeclaredStep| {
            step.published().chain(&step.on).chain(&step.compensated_on).cloned().collect::<Vec<_>>()
        };
        let named = manifest.steps.iter().flat_map(named);
        manifest.events = named.map(|event| (event.clone(), known[&event].clone())).collect();
    }
    choreography
}

fn holds(choreography: &Choreography) -> Result<(), TestCaseError> {
    let flow = choreography.flow();
    let found = Findings::of(rules::findings(&flow));
    // What contradicts itself has no runs to speak of, and a circle is told before anything that comes of it.
    prop_assume!(!found.iter().any(|finding| [Code::IllDeclared, Code::Cycle].contains(&finding.code)));
    let said = Findings::of(found.iter().filter(|finding| OF_RUNS.contains(&finding.code)).cloned());
    prop_assume!(!said.is_empty());
    let explored = explore(&flow, &Bounds::default());
    prop_assume!(explored.complete);
    let manifests = || serde_json::to_string_pretty(&choreography.manifests).unwrap();
    prop_assert!(!explored.findings.is_empty(), "{said}\n{}", manifests());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400, max_global_rejects: 1_000_000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn what_a_rule_says_ends_badly_ends_badly_when_it_is_played(
        dice in prop::collection::vec(dice(), 1..6),
        request: bool,
        joined: bool,
    ) {
        holds(&made_up(&dice, request, joined))?;
    }

    #[test]
    fn so_it_does_where_something_sound_was_changed(which: usize, changes in changes()) {
        let mut sound = sound();
        let which = which % sound.len();
        holds(&changed(sound.swap_remove(which), &changes))?;
    }
}
