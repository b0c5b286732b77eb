//! What becomes of events that are under way, and of those that one version writes and another one hears.

use saga_core::{Manifest, timeline::short};

use super::{ByName, Change, ChangeCode, hears, publishes};
use crate::schema::{Mismatch, mismatches};

pub(super) fn compare(before: &ByName<'_>, after: &ByName<'_>, changes: &mut Vec<Change>) {
    for (name, is) in after {
        if let Some(was) = before.get(name) {
            moved(was, is, changes);
        }
        for event in heard(is) {
            // Events in the topics are as the old version wrote them.
            let old = before
                .values()
                .filter(|publisher| publishes(publisher, event))
                .map(|publisher| (*publisher, "written before the change"));
            let new = after
                .values()
                .filter(|publisher| publishes(publisher, event))
                .map(|publisher| (*publisher, "as it is written now"));
            for (publisher, when) in old.chain(new) {
                let Some(mismatch) = unreadable(publisher, is, event) else { continue };
                let message = format!(
                    "the new {name} cannot read {} {when} by {}: {mismatch}",
                    short(event),
                    publisher.participant
                );
                let fix = format!(
                    "let {name} read both: a new member is optional, or has a default; else publish a new type beside {event}"
                );
                changes.push(Change::new(ChangeCode::Unreadable, name, message, fix).event(event));
                break;
            }
        }
    }
}

/// The same participant knows the same event elsewhere, or as another ending.
fn moved(was: &Manifest, is: &Manifest, changes: &mut Vec<Change>) {
    for (event, old) in &was.events {
        let Some(new) = is.events.get(event) else { continue };
        let ending = |ending: Option<saga_core::event::Ending>| {
            ending.map_or_else(|| "none".to_owned(), |ending| ending.to_string())
        };
        let other = [
            ("topic", old.topic.clone(), new.topic.clone()),
            ("key", old.key.clone(), new.key.clone()),
            ("ending", ending(old.ending), ending(new.ending)),
        ];
        for (what, old, new) in other.into_iter().filter(|(_, old, new)| old != new) {
            let message = format!(
                "{} has the {what} {new} at {} and had {old}: events under way are as they were",
                short(event),
                is.participant
            );
            let fix = format!(
                "keep the {what}, or give the event a new type and hear both until the old one's sagas have ended"
            );
            changes.push(Change::new(ChangeCode::Moved, &is.participant, message, fix).event(event));
        }
    }
}

/// The event types that trigger a step of this participant, or take one back, each once.
pub(super) fn heard(manifest: &Manifest) -> impl Iterator<Item = &str> {
    manifest.events.keys().map(String::as_str).filter(|event| manifest.steps.iter().any(|step| hears(step, event)))
}

/// Where what one writes is more than the other can read.
pub(super) fn unreadable(writer: &Manifest, reader: &Manifest, event: &str) -> Option<Mismatch> {
    let writes = writer.events.get(event)?.writes.as_ref()?;
    let reads = reader.events.get(event)?.reads.as_ref()?;
    mismatches(writes, reads).into_iter().next()
}
