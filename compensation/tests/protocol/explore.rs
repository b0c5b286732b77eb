//! Runs the checker over a model and reads what it found.
//!
//! One thread, breadth first: a fault is then reported by one of its shortest histories, and the same one every time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    hash::Hash,
    io::{self, Write},
    time::Instant,
};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use crate::{relay::Relay, saga::Saga};

/// What the checker asks of a model.
pub(crate) trait Explorable:
    Model<State: Hash + Debug + Clone + PartialEq + Send + Sync, Action: Debug + Clone + PartialEq + Send + Sync>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl Explorable for Saga {}
impl Explorable for Relay {}

/// Explores every state. No property may be violated, and what should sometimes happen does, but for `never`.
pub(crate) fn holds<M: Explorable>(name: &str, model: M, never: &[&str]) {
    let (violated, unreached) = explore(name, model, HasDiscoveries::AnyFailures);
    assert!(violated.is_empty(), "{name}:{}", violated.into_values().collect::<String>());
    assert_eq!(unreached, never.iter().copied().collect(), "{name}: what never happens");
}

/// Explores every state. `property` is violated, and nothing else is.
pub(crate) fn violates_only<M: Explorable>(property: &'static str, name: &str, model: M) {
    let (mut violated, _) = explore(name, model, HasDiscoveries::All);
    assert!(violated.remove(property).is_some(), "{name}: no state violates `{property}`");
    assert!(violated.is_empty(), "{name}:{}", violated.into_values().collect::<String>());
}

/// The violated properties with a history each, and those that should sometimes hold and never do.
fn explore<M: Explorable>(
    name: &str,
    model: M,
    until: HasDiscoveries,
) -> (BTreeMap<&'static str, String>, BTreeSet<&'static str>) {
    let begun = Instant::now();
    let checker = model.clone().checker().finish_when(until).spawn_bfs().join();
    let found = checker.discoveries();
    let (mut violated, mut unreached) = (BTreeMap::new(), BTreeSet::new());
    for property in model.properties() {
        match (property.expectation, found.get(property.name)) {
            (Expectation::Always, Some(path)) => _ = violated.insert(property.name, history(property.name, path)),
            (Expectation::Sometimes, None) => _ = unreached.insert(property.name),
            _ => {}
        }
    }
    println!(
        "{name}: {} states, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f32()
    );
    (violated, unreached)
}

/// Explores until `property` is violated. It has to be: the rule that was broken on purpose is one that keeps it.
pub(crate) fn finds<M: Explorable>(property: &'static str, name: &str, model: M) {
    let begun = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyOf([property].into())).spawn_bfs().join();
    let states = checker.unique_state_count();
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("{name}: {states} states, and none of them violates `{property}`"));
    println!(
        "{name}: found among {states} states in {:.1} s{}",
        begun.elapsed().as_secs_f32(),
        history(property, &path)
    );
}

fn history<S: Clone + Debug + PartialEq, A: Clone + Debug + PartialEq>(property: &str, path: &Path<S, A>) -> String {
    let actions: String = path.clone().into_actions().iter().map(|action| format!("\n    {action:?}")).collect();
    format!("\n  violates `{property}` after{actions}\n  in {:?}", path.last_state())
}

/// How far to go: as far as a developer waits for, or, with `SAGA_MODEL=full`, through millions of states.
pub(crate) fn in_full() -> bool {
    match std::env::var("SAGA_MODEL").as_deref() {
        Ok("full") => true,
        Err(_) | Ok("") => false,
        Ok(other) => panic!("expected SAGA_MODEL=full or no SAGA_MODEL, got {other:?}"),
    }
}

/// Says what was left out, past the test runner, which shows nothing that a passing test prints.
pub(crate) fn not_explored(what: &str) {
    let line = format!("NOT EXPLORED without SAGA_MODEL=full: {what}\n");
    io::stderr().write_all(line.as_bytes()).expect("standard error takes a line");
}
