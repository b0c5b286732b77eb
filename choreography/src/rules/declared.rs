//! Rules over one manifest, and over the names of all: SG015, SG016, SG022.

use std::collections::BTreeMap;

use saga_core::{
    manifest::{DeclaredStep, FORMAT, Manifest},
    participant::StepKind,
    timeline::short,
};

use crate::{
    finding::{Code, Finding},
    flow::Flow,
};

pub(super) fn findings(flow: &Flow<'_>) -> Vec<Finding> {
    let mut found = clashes(flow.manifests);
    for manifest in flow.manifests {
        ill_declared(manifest, &mut found);
        found.extend(manifest.steps.iter().filter(|step| silent(step)).map(|step| no_patience(manifest, step)));
    }
    found
}

fn clashes(manifests: &[Manifest]) -> Vec<Finding> {
    let mut found = vec![];
    let mut names = BTreeMap::<&str, usize>::new();
    let mut groups = BTreeMap::<&str, &str>::new();
    for manifest in manifests {
        let name = manifest.participant.as_str();
        *names.entry(name).or_default() += 1;
        match names[name] {
            1 => {}
            2 => {
                let message = format!("two manifests are of a participant called {name}");
                let fix = format!("give one of the two another name than {name}, or pass its manifest once");
                found.push(Finding::new(Code::GroupClash, name, message, fix));
                continue;
            }
            _ => continue,
        }
        let group = manifest.consumer_group();
        match groups.get(group) {
            Some(other) => {
                let message = format!(
                    "{other} and {name} share the consumer group {group}, so each gets a part of the other's events"
                );
                let fix = format!("give {name} a consumer group of its own, such as its name");
                found.push(Finding::new(Code::GroupClash, name, message, fix));
            }
            None => {
                groups.insert(group, name);
            }
        }
    }
    found
}

fn silent(step: &DeclaredStep) -> bool {
    let retry = &step.retry;
    let endless = retry.attempts.is_none() && retry.at_most_ms.is_none();
    step.kind == StepKind::External && endless && retry.patience_ms.is_none()
}

fn no_patience(manifest: &Manifest, step: &DeclaredStep) -> Finding {
    let label = format!("{}/{}", manifest.participant, step.step);
    let message = format!("the call of {label} is retried for ever, and nobody is told that it fails");
    let fix = format!("give the retry policy of {label} a `patience`, or bound it by `attempts` or `for_at_most`");
    Finding::new(Code::NoPatience, &manifest.participant, message, fix).step(&step.step)
}

fn ill_declared(manifest: &Manifest, found: &mut Vec<Finding>) {
    let participant = manifest.participant.as_str();
    if manifest.manifest != FORMAT {
        let message = format!("the manifest of {participant} is of format {}, expected {FORMAT}", manifest.manifest);
        let fix = format!("print the manifest of {participant} with the same version of the toolkit");
        found.push(Finding::new(Code::IllDeclared, participant, message, fix));
    }
    for (i, step) in manifest.steps.iter().enumerate() {
        let label = format!("{participant}/{}", step.step);
        let mut ill = |message: String, fix: String| {
            found.push(Finding::new(Code::IllDeclared, participant, message, fix).step(&step.step));
        };
        if manifest.steps[..i].iter().any(|other| other.step == step.step) {
            ill(
                format!("two steps of {participant} are called {}; a ledger row belongs to one step", step.step),
                format!("rename one of the two steps {label}"),
            );
        }
        if step.formerly.contains(&step.step) {
            ill(
                format!("{label} names {} in `FORMERLY`, which it is already called", step.step),
                format!("take {} out of `FORMERLY` of {label}", step.step),
            );
        }
        let called = |one: &DeclaredStep| one.formerly.iter().chain([&one.step]).cloned().collect::<Vec<_>>();
        let own = called(step);
        let shared = |other: &DeclaredStep| {
            let both = called(other).into_iter().find(|name| own.contains(name));
            both.filter(|_| other.step != step.step).map(|both| (other.step.clone(), both))
        };
        if let Some((other, both)) = manifest.steps[..i].iter().find_map(shared) {
            ill(
                format!("{other} and {label} both are or were called {both}; a ledger row belongs to one step"),
                format!("take {both} out of `FORMERLY` of one of {other} and {label}"),
            );
        }
        if let Some(both) = step.on.iter().find(|on| step.compensated_on.contains(on)) {
            let event = short(both);
            ill(
                format!("{label} is triggered and compensated by the same event {event}"),
                format!("take {event} out of `On` or out of `CompensatedOn` of {label}"),
            );
        }
        let begins = matches!(step.kind, StepKind::Start | StepKind::Request);
        match (begins, step.on.is_empty()) {
            (true, false) => ill(
                format!("{label} is a {}, but hears {}", step.kind.as_str(), names(&step.on)),
                format!("declare `On = Never` at {label}, or add it to the cast with `.step(..)`"),
            ),
            (false, true) => ill(
                format!("{label} is triggered by nothing"),
                format!("name an event in `On` of {label}, or add it to the cast with `.start(..)`"),
            ),
            _ => {}
        }
        if begins && !step.rejects.is_empty() {
            ill(
                format!(
                    "{label} is a {}, but may say no by {}: there is no saga yet to say it in",
                    step.kind.as_str(),
                    names(&step.rejects)
                ),
                format!("declare `Rejects = Never` at {label}, and refuse the request itself"),
            );
        }
        if begins && step.emits.is_empty() {
            ill(
                format!("{label} is a {}, but emits nothing, so nobody hears of it", step.kind.as_str()),
                format!("name an event in `Emits` of {label}"),
            );
        }
        if step.compensated_on.is_empty() && !step.compensated.is_empty() {
            ill(
                format!("{label} says what its compensation emits, but not what it is compensated on"),
                format!("name an event in `CompensatedOn` of {label}"),
            );
        }
        if step.kind == StepKind::Gate && step.compensated_on.is_empty() {
            ill(
                format!("{label} is a gate, but hears no cancelling event"),
                format!("name an event in `CompensatedOn` of {label}, or add it to the cast with `.step(..)`"),
            );
        }
        if step.kind == StepKind::External && step.compensated_on.is_empty() && !step.rejects.is_empty() {
            ill(
                format!(
                    "{label} calls another system and may say no, but cannot close the key of a call of unknown outcome"
                ),
                format!("name an event in `CompensatedOn` of {label}, and implement `CompensateExternal`"),
            );
        }
        let undeclared = |event: &&String| !manifest.events.contains_key(*event);
        let mut unknown: Vec<&String> =
            step.published().chain(&step.on).chain(&step.compensated_on).filter(undeclared).collect();
        unknown.sort();
        unknown.dedup();
        for event in unknown {
            ill(
                format!("{label} names {event}, which the manifest of {participant} does not describe"),
                format!("describe {event} among the `events` of {participant}"),
            );
        }
        if let Some((message, fix)) = step.joins.iter().find_map(|other| ill_joined(&label, step, other, manifest)) {
            ill(message, fix);
        }
    }
}

/// What keeps a step from being joined with the one called `other`, and what to do.
fn ill_joined(label: &str, step: &DeclaredStep, other: &str, manifest: &Manifest) -> Option<(String, String)> {
    let Some(joined) = manifest.steps.iter().find(|one| one.step == other && one.step != step.step) else {
        let message = format!("{label} joins {other}, which is no other step of {}", manifest.participant);
        return Some((message, format!("name another step of {} in `JOINS` of {label}", manifest.participant)));
    };
    let group = |one: &DeclaredStep| {
        let mut group: Vec<String> = one.joins.iter().chain([&one.step]).cloned().collect();
        group.sort();
        group
    };
    if group(step) != group(joined) {
        let message = format!("{label} joins {other}, but the two do not name the same steps in `JOINS`");
        return Some((message, format!("let {label} and {other} name each other, and the same others, in `JOINS`")));
    }
    if step.emits.is_empty() || step.emits != joined.emits {
        let message =
            format!("{label} joins {other}, but does not emit the same event: whichever is done last emits it");
        return Some((message, format!("let {label} and {other} emit the same event")));
    }
    let begins = |one: &DeclaredStep| matches!(one.kind, StepKind::Start | StepKind::Request);
    (begins(step) || begins(joined)).then(|| {
        let message = format!("{label} joins {other}, but a request waits for nobody");
        (message, format!("take {other} out of `JOINS` of {label}"))
    })
}

fn names(events: &[String]) -> String {
    events.iter().map(|event| short(event)).collect::<Vec<_>>().join(", ")
}
