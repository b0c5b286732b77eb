//! What becomes of a participant's own sagas under way: of the rows in its ledger and of the events that are still to come to it.

use std::collections::BTreeSet;

use saga_core::{Manifest, manifest::DeclaredStep, participant::StepKind, timeline::short};

use super::{ByName, Change, ChangeCode, publishers};
use crate::schema::mismatches;

pub(super) fn compare(was: &Manifest, is: &Manifest, before: &ByName<'_>, changes: &mut Vec<Change>) {
    let name = &was.participant;
    if was.consumer_group() != is.consumer_group() {
        let (old, new) = (was.consumer_group(), is.consumer_group());
        changes.push(Change::new(
            ChangeCode::GroupChanged,
            name,
            format!("{name} consumes in the group {new} instead of {old}, so it begins again where its topics begin"),
            format!(
                "keep the group {old}, or set the offsets of {new} to those of {old} while no instance of {name} runs"
            ),
        ));
    }
    for old in &was.steps {
        let Some(new) = is.steps.iter().find(|new| new.step == old.step || new.formerly.contains(&old.step)) else {
            changes.push(gone(was, is, old));
            continue;
        };
        Pair { was, is, old, new, before }.compare(changes);
    }
}

fn gone(was: &Manifest, is: &Manifest, old: &DeclaredStep) -> Change {
    let (participant, step) = (&was.participant, &old.step);
    let appeared = is.steps.iter().filter(|new| !was.steps.iter().any(|old| old.step == new.step));
    let like = |new: &&DeclaredStep| new.kind == old.kind && (&new.on, &new.emits) == (&old.on, &old.emits);
    let change = match appeared.filter(|new| new.formerly.is_empty()).find(like) {
        Some(DeclaredStep { step: new, .. }) => Change::new(
            ChangeCode::StepRenamed,
            participant,
            format!(
                "{participant}/{step} seems to be called {new} now: its rows are of a step that is no more, and what it did runs again under the new name"
            ),
            format!("let {new} say that it was formerly {step}"),
        ),
        None => Change::new(
            ChangeCode::StepGone,
            participant,
            format!("{participant}/{step} is gone: sagas that wait for it stop, and what it did is never taken back"),
            format!("keep {step} until the last saga that can come to it has ended, and let nothing new lead to it"),
        ),
    };
    change.step(step)
}

struct Pair<'m> {
    was: &'m Manifest,
    is: &'m Manifest,
    old: &'m DeclaredStep,
    new: &'m DeclaredStep,
    before: &'m ByName<'m>,
}

impl Pair<'_> {
    fn compare(&self, changes: &mut Vec<Change>) {
        let Self { old, new, .. } = self;
        let mut say = |change: Change| changes.push(change.step(&new.step));
        let label = format!("{}/{}", self.is.participant, new.step);
        let change = |code, message, fix| Change::new(code, &self.is.participant, message, fix);
        if old.kind != new.kind {
            say(change(
                ChangeCode::KindChanged,
                format!(
                    "{label} is {} and was {}: its rows, and the calls that wait, are of the old kind",
                    new.kind.as_str(),
                    old.kind.as_str()
                ),
                format!("give the new kind a step of its own, and keep {} until its sagas have ended", old.step),
            ));
        }
        for event in dropped(&old.on, &new.on).filter(|event| self.under_way(event)) {
            let fix = format!(
                "let {} hear {} too, until nobody has published it for as long as a saga lives",
                new.step,
                short(event)
            );
            say(change(
                ChangeCode::TriggerGone,
                format!("{label} no longer hears {}, which sagas under way bring", short(event)),
                fix,
            )
            .event(event));
        }
        for event in dropped(&old.compensated_on, &new.compensated_on).filter(|event| self.under_way(event)) {
            let message =
                format!("{label} is no longer taken back on {}, so it stays done in sagas under way", short(event));
            let fix = format!("let {} be compensated on {} too, until those sagas have ended", new.step, short(event));
            say(change(ChangeCode::CompensationGone, message, fix).event(event));
        }
        for event in dropped(&new.compensated_on, &old.compensated_on) {
            if !publishers(self.before, event).is_empty() {
                let message = format!(
                    "{label} is taken back on {} from now on: in sagas to which it has come already, it was passed over",
                    short(event)
                );
                let fix = format!(
                    "look for cancelled sagas in which {} is still done, and take these back by hand",
                    new.step
                );
                say(change(ChangeCode::CompensationNew, message, fix).event(event));
            }
        }
        let bounded = |step: &DeclaredStep| step.retry.attempts.is_some() || step.retry.at_most_ms.is_some();
        if bounded(new) && !bounded(old) {
            let message = format!(
                "{label} never gave up and does now ({}): what has failed for longer is stuck at once",
                new.retry.describe()
            );
            say(change(
                ChangeCode::RetryBounded,
                message,
                "deploy it while nothing waits (saga work), or keep trying for ever".to_owned(),
            ));
        }
        if set(&old.joins) != set(&new.joins) {
            let message = format!(
                "{label} joins [{}] instead of [{}]: a saga between the two may have published already, or never does",
                new.joins.join(", "),
                old.joins.join(", ")
            );
            let fix = format!(
                "give the new group steps of their own, triggered by a new event, and keep {} for sagas under way",
                old.step
            );
            say(change(ChangeCode::JoinsChanged, message, fix));
        }
        if !new.compensated_on.is_empty() && new.kind != StepKind::Gate {
            self.records(&mut say);
        }
    }

    /// What the step recorded is what it emitted, and its compensation reads it back.
    fn records(&self, say: &mut impl FnMut(Change)) {
        for event in self.old.emits.iter().filter(|event| self.new.emits.contains(event)) {
            let written = self.was.events.get(event).and_then(|declared| declared.writes.as_ref());
            let read = self.is.events.get(event).and_then(|declared| declared.reads.as_ref());
            let (Some(written), Some(read)) = (written, read) else { continue };
            let Some(mismatch) = mismatches(written, read).into_iter().next() else { continue };
            let (event, step) = (event.as_str(), &self.new.step);
            let message = format!(
                "the compensation of {}/{step} cannot read back {} as the old version recorded it: {mismatch}",
                self.is.participant,
                short(event)
            );
            let fix = "let the new version read both: a new member is optional, or has a default".to_owned();
            say(Change::new(ChangeCode::RecordUnreadable, &self.is.participant, message, fix).event(event));
        }
    }

    /// Whether events of this type may be on their way: somebody published it, or nobody knows who.
    fn under_way(&self, event: &str) -> bool {
        self.before.len() == 1 || !publishers(self.before, event).is_empty()
    }
}

fn set(names: &[String]) -> BTreeSet<&String> {
    names.iter().collect()
}

fn dropped<'m>(from: &'m [String], to: &'m [String]) -> impl Iterator<Item = &'m String> {
    from.iter().filter(|name| !to.contains(name))
}
