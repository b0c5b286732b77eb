//! Small choreographies that are meant to be sound, in the shapes that people draw: a chain that is taken back from its end, parallel
//! legs that are joined, a gate that a customer's request may shut, a second way to the same goal.

use saga_core::{event::Ending, manifest::DeclaredStep, participant::StepKind};

use super::draft::{Draft, event, step};
use crate::simulation::chance::Random;

/// The starting participant.
const FIRST: usize = 0;

/// One of the shapes.
pub(super) fn skeleton(random: &mut Random) -> Draft {
    let others = 1 + random.below(3);
    let mut draft = if random.below(5) < 3 { chain(random, others) } else { legs(random, others) };
    if random.below(6) == 0 {
        // Somebody only listens.
        let events = draft.events();
        let heard = events[random.below(events.len())].clone();
        let place = somewhere(random, others);
        draft.add(place, DeclaredStep { on: vec![heard], ..step("listen", StepKind::Local) });
    }
    draft
}

fn somewhere(random: &mut Random, others: usize) -> usize {
    // Seldom at the starting participant, whose steps wait for each other.
    if random.below(6) == 0 { FIRST } else { 1 + random.below(others) }
}

fn works(random: &mut Random) -> StepKind {
    if random.below(3) == 0 { StepKind::External } else { StepKind::Local }
}

/// The step that starts, and what it emits.
fn starts(draft: &mut Draft, compensated_on: Vec<String>) -> String {
    let started = event(FIRST, "begin", "begun");
    let mut begin = DeclaredStep { emits: vec![started.clone()], ..step("begin", StepKind::Start) };
    if !compensated_on.is_empty() {
        let cancelled = event(FIRST, "begin", "cancelled");
        draft.endings.insert(cancelled.clone(), Ending::Cancelled);
        begin = DeclaredStep { compensated_on, compensated: vec![cancelled], ..begin };
    }
    draft.add(FIRST, begin);
    started
}

fn completed(draft: &mut Draft, step: &str) -> String {
    let completed = event(FIRST, step, "completed");
    draft.endings.insert(completed.clone(), Ending::Completed);
    completed
}

/// begin → s1 → s2 → .. → complete. Those before the pivot can be taken back, and are, from the pivot backwards; those behind it
/// cannot say no.
fn chain(random: &mut Random, others: usize) -> Draft {
    let stages = 1 + random.below(4);
    let pivot = random.below(stages + 1);
    let gate = pivot > 0 && random.below(3) == 0;
    let second_way = pivot > 0 && !gate && random.below(4) == 0;
    let mut draft = Draft::default();
    let mut steps = Vec::<(usize, DeclaredStep)>::new();
    let mut on = vec![event(FIRST, "begin", "begun")];
    for i in 1..=stages {
        let (name, place) = (format!("s{i}"), somewhere(random, others));
        let says = |outcome: &str| vec![event(place, &name, outcome)];
        let kind = match i {
            _ if i == pivot && gate => StepKind::Gate,
            // Of an external one that says no the toolkit wants to know how it is taken back.
            _ if i == pivot => StepKind::Local,
            _ => works(random),
        };
        let mut stage = DeclaredStep { on, emits: says("done"), ..step(&name, kind) };
        if random.below(5) == 0 {
            stage.emits.extend(says("done-otherwise"));
        }
        if i == pivot || (i < pivot && random.below(2) == 0) {
            stage.rejects = says("refused");
        }
        if i < pivot {
            stage.compensated = says("back");
        }
        on = stage.emits.clone();
        if i == pivot && gate {
            let asked = event(FIRST, "cancel", "asked");
            stage = DeclaredStep { compensated_on: vec![asked], compensated: says("shut"), ..stage };
        }
        steps.push((place, stage));
    }
    // What the last one that can be taken back is compensated on, and then those before it.
    let mut why = Vec::new();
    if let Some(pivot) = pivot.checked_sub(1) {
        why = [steps[pivot].1.rejects.clone(), steps[pivot].1.compensated.clone()].concat();
        if second_way {
            let place = somewhere(random, others);
            let says = |outcome: &str| vec![event(place, "otherwise", outcome)];
            let again = DeclaredStep {
                on: why,
                emits: says("done"),
                rejects: says("refused"),
                ..step("otherwise", StepKind::Local)
            };
            why = again.rejects.clone();
            match steps.get_mut(pivot + 1) {
                Some((_, next)) => next.on.extend(again.emits.clone()),
                None => on.extend(again.emits.clone()),
            }
            steps.push((place, again));
        }
        for (_, before) in steps[..pivot].iter_mut().rev() {
            before.compensated_on = why;
            why = [before.rejects.clone(), before.compensated.clone()].concat();
        }
    }
    starts(&mut draft, why);
    if gate {
        let asked = event(FIRST, "cancel", "asked");
        draft.add(FIRST, DeclaredStep { emits: vec![asked], ..step("cancel", StepKind::Request) });
    }
    draft.steps.extend(steps);
    let completed = completed(&mut draft, "complete");
    draft.add(FIRST, DeclaredStep { on, emits: vec![completed], ..step("complete", StepKind::Local) });
    draft
}

/// begin → two or three legs at the same time → joined → complete. The first leg that says no makes the start tell all of them.
fn legs(random: &mut Random, others: usize) -> Draft {
    let mut draft = Draft::default();
    let count = 2 + random.below(2);
    let legs: Vec<_> =
        (1..=count).map(|i| (format!("leg{i}"), somewhere(random, others), random.below(2) == 0)).collect();
    let no = |(name, place, _): &(String, usize, bool)| event(*place, name, "refused");
    let refusals: Vec<String> = legs.iter().filter(|(_, _, refuses)| *refuses).map(no).collect();
    let cancels = !refusals.is_empty();
    let started = starts(&mut draft, refusals);
    let cancelled = event(FIRST, "begin", "cancelled");
    let joined_at = if count == 2 { somewhere(random, others) } else { FIRST };
    let direct = joined_at == FIRST && (count == 3 || random.below(2) == 0);
    let all = if direct { completed(&mut draft, "note") } else { event(joined_at, "note", "all") };
    let note = |i: usize| format!("note{i}");
    for (i, leg) in legs.iter().enumerate() {
        let (name, place, refuses) = leg;
        let done = event(*place, name, "done");
        let kind = works(random);
        let mut own = DeclaredStep { on: vec![started.clone()], emits: vec![done.clone()], ..step(name, kind) };
        if *refuses {
            own.rejects = vec![no(leg)];
        }
        if cancels {
            own.compensated_on = vec![cancelled.clone()];
        }
        draft.add(*place, own);
        let joins = (0..count).filter(|other| *other != i).map(note).collect();
        let noted = DeclaredStep { on: vec![done], emits: vec![all.clone()], joins, ..step(&note(i), StepKind::Local) };
        draft.add(joined_at, noted);
    }
    if !direct {
        let completed = completed(&mut draft, "complete");
        draft.add(FIRST, DeclaredStep { on: vec![all], emits: vec![completed], ..step("complete", StepKind::Local) });
    }
    draft
}
