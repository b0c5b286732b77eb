//! What people get wrong in a choreography, one mistake at a time.

use saga_core::{event::Ending, manifest::DeclaredStep, participant::StepKind};

use super::draft::{Draft, PARTICIPANTS, event, step};
use crate::simulation::chance::Random;

/// A mistake, at a place that `random` chooses. It may come to nothing, and it may come to something that is as good as before.
pub(super) fn mutate(draft: &mut Draft, random: &mut Random, nth: usize) {
    let events = draft.events();
    let any = events[random.below(events.len())].clone();
    let at = random.below(draft.steps.len());
    let other = random.below(draft.steps.len());
    let begins_twice = draft.steps.iter().any(|(_, step)| step.step == "also");
    let (place, chosen) = &mut draft.steps[at];
    let said = |outcome: &str| event(*place, &chosen.step, outcome);
    match random.below(19) {
        // A compensation is forgotten.
        0 => {
            chosen.compensated_on.clear();
            chosen.compensated.clear();
        }
        // .. or for one of its reasons,
        1 if !chosen.compensated_on.is_empty() => {
            chosen.compensated_on.remove(random.below(chosen.compensated_on.len()));
        }
        // .. or is given for another,
        2 if !chosen.compensated_on.is_empty() => {
            let i = random.below(chosen.compensated_on.len());
            chosen.compensated_on[i] = any;
        }
        // .. or for one more.
        3 if !matches!(chosen.kind, StepKind::Request) => {
            chosen.compensated_on.push(any);
            chosen.compensated_on.dedup();
            if chosen.compensated.is_empty() && random.below(2) == 0 {
                chosen.compensated = vec![said("undone")];
            }
        }
        // It says nothing of it.
        4 => chosen.compensated.clear(),
        // A no that nobody thought of, or that somebody hears as a reason.
        5 | 6 if !matches!(chosen.kind, StepKind::Start | StepKind::Request) => {
            let no = said("no");
            if !chosen.rejects.contains(&no) {
                chosen.rejects.push(no.clone());
            }
            if random.below(2) == 0 && !matches!(draft.steps[other].1.kind, StepKind::Request) {
                draft.steps[other].1.compensated_on.push(no);
            }
        }
        // A no that cannot be said any more.
        7 => chosen.rejects.clear(),
        // Joined steps that each speak.
        8 => draft.steps.iter_mut().for_each(|(_, step)| step.joins.clear()),
        // Two steps in the wrong order.
        9 => {
            let on = chosen.on.clone();
            if !on.is_empty() && !draft.steps[other].1.on.is_empty() {
                draft.steps[at].1.on = std::mem::replace(&mut draft.steps[other].1.on, on);
            }
        }
        // One more trigger.
        10 if !chosen.on.is_empty() && !chosen.on.contains(&any) => {
            chosen.on.push(any);
            chosen.first_trigger_wins = random.below(2) == 0;
        }
        // One more step, which may say something that others hear, or end the saga.
        11 | 12 => {
            let place = random.below(PARTICIPANTS.len());
            let name = format!("more{nth}");
            let mut more = DeclaredStep { on: vec![any], ..step(&name, StepKind::Local) };
            match random.below(5) {
                0 => {}
                // What another one says, too.
                4 => more.emits = vec![draft.events()[random.below(draft.events().len())].clone()],
                1 => more.emits = vec![event(place, &name, "done")],
                2 => {
                    let done = event(place, &name, "done");
                    more.emits = vec![done.clone()];
                    let heard = &mut draft.steps[other].1;
                    let hears = if heard.on.is_empty() { &mut heard.compensated_on } else { &mut heard.on };
                    hears.push(done);
                }
                _ => more.rejects = vec![event(place, &name, "no")],
            }
            draft.add(place, more);
        }
        // A customer may cancel: a step becomes the gate, or is only taken back.
        13 => {
            let asked = event(0, "ask", "asked");
            if !draft.steps.iter().any(|(_, step)| step.step == "ask") {
                let (place, gate) = &mut draft.steps[other];
                if !matches!(gate.kind, StepKind::Start | StepKind::Request) {
                    if random.below(3) > 0 {
                        gate.kind = StepKind::Gate;
                    }
                    if gate.compensated.is_empty() {
                        gate.compensated = vec![event(*place, &gate.step, "shut")];
                    }
                }
                gate.compensated_on.push(asked.clone());
                draft.add(0, DeclaredStep { emits: vec![asked], ..step("ask", StepKind::Request) });
            }
        }
        // Another kind of step.
        14 => {
            chosen.kind = match chosen.kind {
                StepKind::Local => StepKind::External,
                StepKind::External | StepKind::Gate => StepKind::Local,
                kind => kind,
            }
        }
        // An event that ends the saga, or does so no more, or otherwise.
        15 => {
            let ending = [None, Some(Ending::Completed), Some(Ending::Cancelled)][random.below(3)];
            match ending.filter(|_| any.contains(PARTICIPANTS[0])) {
                Some(ending) => _ = draft.endings.insert(any, ending),
                None => _ = draft.endings.remove(&any),
            }
        }
        // Another way to begin.
        16 if !begins_twice => {
            let begun = if any.contains(PARTICIPANTS[0]) { any } else { event(0, "also", "begun") };
            draft.add(0, DeclaredStep { emits: vec![begun], ..step("also", StepKind::Start) });
        }
        // Two steps that wait for each other.
        17 => {
            let (place, emits, name) = (*place, chosen.emits.clone(), chosen.step.clone());
            let (there, joined) = &mut draft.steps[other];
            if at != other && *there == place && !emits.is_empty() {
                joined.emits = emits;
                joined.joins = vec![name];
                let back = joined.step.clone();
                draft.steps[at].1.joins = vec![back];
            }
        }
        // It takes the first of several triggers, or does not.
        18 => chosen.first_trigger_wins = !chosen.first_trigger_wins,
        _ => {}
    }
}
