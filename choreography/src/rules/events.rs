//! Rules over one event type and all who know it: SG001 to SG006.

use std::collections::BTreeSet;

use saga_core::{event::Ending, manifest::DeclaredEvent};

use super::runs;
use crate::{
    finding::{Code, Finding, Severity},
    flow::{EventId, Flow, FlowEvent},
    schema::{Mismatch, mismatches},
};

pub(super) fn findings(flow: &Flow<'_>) -> Vec<Finding> {
    let mut found = vec![];
    for id in flow.event_ids() {
        let event = flow.event(id);
        if event.published_by.is_empty() {
            found.extend(unpublished(flow, id));
        } else if event.triggers.is_empty() && event.compensates.is_empty() && event.ending().is_none() {
            found.push(unheard(flow, event));
        }
        found.extend(two_publishers(flow, event));
        found.extend(disagreements(flow, event));
        found.extend(unreadable(flow, event));
    }
    found.extend(endings_of_two(flow));
    found
}

/// The participants that publish an event, in the order of the steps.
fn publishers<'m>(flow: &Flow<'m>, event: &FlowEvent<'m>) -> Vec<&'m str> {
    let mut all: Vec<&str> = event.published_by.iter().map(|step| flow.step(*step).participant).collect();
    all.dedup();
    all
}

/// One per step that hears it.
fn unpublished(flow: &Flow<'_>, id: EventId) -> Vec<Finding> {
    let event = flow.event(id);
    let name = event.label();
    // The same name in another version, or on the way to it.
    let meant = flow.event_ids().map(|id| flow.event(id)).find(|other| {
        let alike = other.label() == name || other.name.eq_ignore_ascii_case(event.name);
        alike && other.name != event.name && !other.published_by.is_empty()
    });
    let hearers: BTreeSet<_> = event.triggers.iter().chain(&event.compensates).collect();
    let one = |step| {
        let step = flow.step(step);
        let (label, side) = (step.label(), if step.on.contains(&id) { "On" } else { "CompensatedOn" });
        let message = format!("{label} hears {} ({name}), but nobody publishes it", event.name);
        let fix = match meant {
            Some(meant) => format!("let {label} hear {} instead, which is published, or publish both", meant.name),
            None => format!("publish {name} from the step that it comes of, or take it out of `{side}` of {label}"),
        };
        Finding::new(Code::Unpublished, step.participant, message, fix).step(&step.declared.step).event(event.name)
    };
    hearers.into_iter().map(|step| one(*step)).collect()
}

fn unheard(flow: &Flow<'_>, event: &FlowEvent<'_>) -> Finding {
    let (step, name) = (flow.step(event.published_by[0]), event.label());
    let label = step.label();
    let message = format!("{label} publishes {name}, but nobody hears it and it ends nothing");
    let fix = format!("let a step hear {name}, or take it out of what {label} publishes (`Nothing` publishes nothing)");
    Finding::new(Code::Unheard, step.participant, message, fix).step(&step.declared.step).event(event.name)
}

fn two_publishers(flow: &Flow<'_>, event: &FlowEvent<'_>) -> Option<Finding> {
    let [first, second, ..] = publishers(flow, event)[..] else { return None };
    let name = event.label();
    let message = format!("{first} and {second} both publish {name} ({})", event.name);
    let fix = format!("give the event that {second} publishes a type of its own, and let its hearers hear that, too");
    Some(Finding::new(Code::TwoPublishers, second, message, fix).event(event.name))
}

/// One per participant that disagrees with whoever publishes the event.
fn disagreements(flow: &Flow<'_>, event: &FlowEvent<'_>) -> Vec<Finding> {
    let publishing = publishers(flow, event);
    let by_publisher = event.known.iter().find(|(who, _)| publishing.contains(who));
    let Some((reference, says)) = by_publisher.or(event.known.first()) else { return vec![] };
    let name = event.label();
    let mut found = vec![];
    for (who, other) in event.known.iter().filter(|(who, _)| who != reference) {
        let ending = |event: &DeclaredEvent| event.ending.map_or("none", Ending::as_str).to_owned();
        let points = [
            ("topic", says.topic.clone(), other.topic.clone()),
            ("key", says.key.clone(), other.key.clone()),
            ("ending", ending(says), ending(other)),
        ];
        let points: Vec<_> = points.into_iter().filter(|(_, a, b)| a != b).collect();
        let Some((what, right, wrong)) = points.first() else { continue };
        let message = format!("{who} knows {name} with the {what} {wrong}, {reference} with the {what} {right}");
        let fix = format!("declare {name} at {who} with the {what} {right}, as {reference} does");
        let path = points.iter().map(|(what, a, b)| format!("{what}: {a} at {reference}, {b} at {who}")).collect();
        found.push(Finding::new(Code::Disagreement, who, message, fix).event(event.name).path(path));
    }
    found
}

/// One per participant that reads what it cannot read, and one per participant of which that cannot be said.
fn unreadable(flow: &Flow<'_>, event: &FlowEvent<'_>) -> Vec<Finding> {
    let name = event.label();
    let mut found = vec![];
    let publishing = publishers(flow, event);
    for (writer, written) in event.known.iter().filter(|(who, _)| publishing.contains(who)) {
        for (reader, read) in &event.known {
            let Some(reads) = &read.reads else { continue };
            let Some(writes) = &written.writes else {
                if *reads != true {
                    let why = format!("the manifest of {writer} does not say what it writes");
                    found.push(not_compared(event, reader, writer, why, vec![]));
                }
                continue;
            };
            let (sure, unsure): (Vec<Mismatch>, Vec<Mismatch>) =
                mismatches(writes, reads).into_iter().partition(|mismatch| mismatch.compared);
            let lines = |all: &[Mismatch]| all.iter().map(Mismatch::to_string).collect();
            if let Some(first) = sure.first() {
                let more = if sure.len() > 1 { format!(" (and {} more)", sure.len() - 1) } else { String::new() };
                let message = format!("{reader} cannot read every {name} that {writer} writes: {first}{more}");
                let fix = format!(
                    "let {reader} read at {} what {writer} writes, or let {writer} write what {reader} reads, as a new version of \
                     {name} if any is stored",
                    first.path
                );
                found.push(Finding::new(Code::Schema, reader, message, fix).event(event.name).path(lines(&sure)));
            } else if let Some(first) = unsure.first() {
                found.push(not_compared(event, reader, writer, first.to_string(), lines(&unsure)));
            }
        }
    }
    found
}

fn not_compared(event: &FlowEvent<'_>, reader: &str, writer: &str, why: String, path: Vec<String>) -> Finding {
    let name = event.label();
    let message = format!("whether {reader} can read every {name} that {writer} writes is not known: {why}");
    let fix = format!(
        "describe {name} at {reader} and {writer} by the same words there, or by a schema without that keyword"
    );
    let found = Finding::new(Code::Schema, reader, message, fix).event(event.name).path(path);
    Finding { severity: Severity::Warning, ..found }
}

/// Whoever starts a saga keeps it open until its ending; so the endings of one saga come from one participant.
fn endings_of_two(flow: &Flow<'_>) -> Vec<Finding> {
    let mut found = vec![];
    let ending = |id: &EventId| flow.event(*id).ending().is_some();
    for start in runs::starts(flow) {
        let reached = runs::everything(flow, start);
        let endings = flow.event_ids().filter(ending).filter(|id| reached.event(flow, *id));
        let by = |id: EventId| flow.event(id).published_by.iter().map(move |step| (*step, id));
        let all: Vec<_> = endings.flat_map(by).filter(|(step, _)| reached.step(flow, *step)).collect();
        let home = flow.step(start).participant;
        let at_home = all.iter().find(|(step, _)| flow.step(*step).participant == home);
        let Some((first, first_event)) = at_home.or(all.first()) else { continue };
        let keeper = flow.step(*first).participant;
        for (step, event) in all.iter().filter(|(step, _)| flow.step(*step).participant != keeper) {
            let (step, event) = (flow.step(*step), flow.event(*event));
            let (one, other) = (flow.event(*first_event).label(), event.label());
            let label = step.label();
            let message = format!("{label} ends the saga by {other}, but {keeper} ends it, too, by {one}");
            let fix = format!("let a step of {keeper} hear what {label} says, and end the saga there");
            let found_here = Finding::new(Code::EndingsOfTwo, step.participant, message, fix);
            found.push(found_here.step(&step.declared.step).event(event.name));
        }
    }
    found
}
