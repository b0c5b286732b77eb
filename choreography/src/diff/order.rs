//! In which order the services are deployed: who hears a new event before who publishes it, who stops publishing before who stops
//! hearing.

use std::collections::{BTreeMap, BTreeSet};

use saga_core::{Manifest, timeline::short};

use super::{
    ByName, Change, ChangeCode, Deployment,
    events::{heard, unreadable},
    publishes,
};

pub(super) fn of(before: &ByName<'_>, after: &ByName<'_>, changes: &mut Vec<Change>) -> Vec<Deployment> {
    // A version that changes nothing else needs no turn.
    let same = |was: &Manifest, is: &Manifest| was.clone().version("") == is.clone().version("");
    let changed = |name: &&str| !matches!((before.get(name), after.get(name)), (Some(was), Some(is)) if same(was, is));
    let mut left: BTreeSet<&str> = before.keys().chain(after.keys()).copied().filter(changed).collect();
    let waits = constraints(before, after, &left);
    let mut order = Vec::new();
    for turn in 1.. {
        let held = |name: &&str| waits.keys().any(|(first, then)| then == name && left.contains(first));
        let ready: Vec<&str> = left.iter().copied().filter(|name| !held(name)).collect();
        if ready.is_empty() {
            break;
        }
        for name in ready {
            left.remove(name);
            let because =
                waits.iter().filter(|((first, _), _)| *first == name).flat_map(|(_, reasons)| reasons.clone());
            order.push(Deployment { turn, participant: name.to_owned(), because: because.collect() });
        }
    }
    if let Some(first) = left.first() {
        let names = left.iter().copied().collect::<Vec<_>>().join(", ");
        let reasons: Vec<String> = waits
            .iter()
            .filter(|((first, then), _)| left.contains(first) && left.contains(then))
            .flat_map(|(_, reasons)| reasons.clone())
            .collect();
        changes.push(Change::new(
            ChangeCode::NoOrder,
            first,
            format!("each of {names} has to be deployed before another one of them: {}", reasons.join("; ")),
            "make two changes of it: first let everybody hear both the old and the new, then publish the new"
                .to_owned(),
        ));
    }
    order
}

/// Who has to be deployed before whom, and why.
fn constraints<'m>(
    before: &ByName<'m>,
    after: &ByName<'m>,
    changed: &BTreeSet<&'m str>,
) -> BTreeMap<(&'m str, &'m str), Vec<String>> {
    let mut waits = BTreeMap::<(&str, &str), Vec<String>>::new();
    let events: BTreeSet<&str> =
        before.values().chain(after.values()).flat_map(|m| m.events.keys()).map(String::as_str).collect();
    let hears = |manifests: &ByName<'m>, name: &str, event| {
        manifests.get(name).is_some_and(|m| heard(m).any(|heard| heard == event))
    };
    let says = |manifests: &ByName<'m>, name: &str, event| manifests.get(name).is_some_and(|m| publishes(m, event));
    for event in events {
        for publisher in changed {
            for hearer in changed.iter().filter(|hearer| *hearer != publisher) {
                let (heard_before, heard_after) = (hears(before, hearer, event), hears(after, hearer, event));
                let (said_before, said_after) = (says(before, publisher, event), says(after, publisher, event));
                let name = short(event);
                if !heard_before && heard_after && !said_before && said_after {
                    let why = format!("it hears {name} before {publisher} publishes it");
                    waits.entry((hearer, publisher)).or_default().push(why);
                }
                if heard_before && !heard_after && said_before && !said_after {
                    let why = format!("it stops publishing {name} before {hearer} stops hearing it");
                    waits.entry((publisher, hearer)).or_default().push(why);
                }
                let (Some(old), Some(new)) = (before.get(hearer), after.get(hearer)) else { continue };
                let Some(writer) = after.get(publisher).filter(|_| said_after && heard_before && heard_after) else {
                    continue;
                };
                if unreadable(writer, old, event).is_some() && unreadable(writer, new, event).is_none() {
                    let why = format!("it can read {name} as {publisher} is going to write it");
                    waits.entry((hearer, publisher)).or_default().push(why);
                }
            }
        }
    }
    waits
}
