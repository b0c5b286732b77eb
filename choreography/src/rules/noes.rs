//! What becomes of a saga after one no, and nothing else goes wrong: SG007, SG009, SG010, SG011, SG013, SG019.
//!
//! A run is fixed as far as the rule needs it: the way to one step, what that step says, and other steps that can be done in the
//! same run ([`Tree`]). Against it stands everything that may follow ([`Reached`]). What can be done, and cannot be taken back by
//! anything that may follow, stays done.

use saga_core::{event::Ending, participant::StepKind};

use super::{
    runs::{self, Reached, Tree},
    twice,
};
use crate::{
    finding::{Code, Finding},
    flow::{Arrow, EventId, Flow, Node, StepId},
};

pub(super) fn findings(flow: &Flow<'_>) -> Vec<Finding> {
    let mut found = vec![];
    for start in runs::starts(flow) {
        let tree = Tree::of(flow, start);
        let lost = never_ends(flow, start);
        if let Some(lost) = lost {
            found.push(lost);
            continue;
        }
        for case in cases(flow, &tree, start) {
            found.extend(case.judge(flow, &tree, start));
        }
        found.extend(twice::findings(flow, &tree));
    }
    found
}

/// What one step says in a run in which nobody else says no.
#[derive(Debug, Clone, Copy)]
struct Case {
    step: StepId,
    says: Says,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// One of several things that it may say when done.
    Done(EventId),
    /// A no.
    No(EventId),
    /// It is a gate, and this event shuts it before it runs; first who says that.
    Shut(StepId, EventId),
}

fn cases(flow: &Flow<'_>, tree: &Tree, start: StepId) -> Vec<Case> {
    let mut cases = vec![];
    for id in flow.step_ids().filter(|id| !tree.way(*id).is_empty()) {
        let step = flow.step(id);
        cases.extend(step.rejects.iter().map(|event| Case { step: id, says: Says::No(*event) }));
        if step.emits.len() > 1 {
            cases.extend(step.emits.iter().map(|event| Case { step: id, says: Says::Done(*event) }));
        }
        if step.declared.kind == StepKind::Gate {
            for request in runs::requests(flow, start) {
                let heard = flow.step(request).emits.iter().filter(|event| step.compensated_on.contains(event));
                cases.extend(heard.map(|event| Case { step: id, says: Says::Shut(request, *event) }));
            }
        }
    }
    cases
}

impl Case {
    /// At least everything that may happen in the run, in which the gate `passed` is done.
    fn may_happen(self, flow: &Flow<'_>, tree: &Tree, start: StepId, passed: Option<StepId>) -> Reached {
        let mut noes = tree.noes(self.step).to_vec();
        match self.says {
            Says::Done(_) => {}
            Says::No(event) => noes.push(event),
            Says::Shut(_, event) => noes = vec![event],
        }
        // Who has spoken on the way says nothing else.
        let mut spoken: Vec<Option<EventId>> = vec![None; flow.steps.len()];
        if !matches!(self.says, Says::Shut(..)) {
            for (step, event) in tree.sayings(self.step) {
                spoken[step.0] = Some(event);
            }
        }
        let said: Vec<Node> = noes.iter().map(|event| Node::Event(*event)).collect();
        // What joined steps would say together is not said where one of them is never come to, which may keep another from it.
        let mut silent = vec![false; flow.steps.len()];
        loop {
            let speaks = |from: Node, arrow: Arrow, to: Node| match from {
                Node::Forward(step) => {
                    let otherwise = spoken[step.0].is_some_and(|said| to != Node::Event(said));
                    step != self.step && !otherwise && (arrow != Arrow::Emits || !silent[step.0])
                }
                // Nothing shuts a gate that has passed.
                Node::Compensation(step) if flow.step(step).declared.kind == StepKind::Gate => {
                    passed != Some(step) && (matches!(self.says, Says::Shut(..)) || !tree.passes(self.step, step))
                }
                _ => true,
            };
            let after = Reached::from(flow, &said, speaks);
            let allowed = |from: Node, arrow: Arrow, to: Node| match (from, arrow, to) {
                (Node::Forward(step), _, Node::Event(event)) if step == self.step => match self.says {
                    Says::Done(said) | Says::No(said) => said == event,
                    Says::Shut(..) => false,
                },
                (Node::Forward(step), Arrow::Rejects, Node::Event(event)) if spoken[step.0].is_none() => {
                    noes.contains(&event) || after.has(flow, Node::Forward(step))
                }
                _ => speaks(from, arrow, to),
            };
            let mut all = Reached::from(flow, &[Node::Forward(start)], allowed);
            all.add(&after);
            let done = |step: StepId| {
                all.has(flow, Node::Forward(step)) && (step != self.step || matches!(self.says, Says::Done(_)))
            };
            let waits = |id: StepId| flow.step(id).joins.iter().any(|mate| !done(*mate));
            let now: Vec<bool> = flow.step_ids().map(waits).collect();
            if now == silent {
                return all;
            }
            silent = now;
        }
    }

    fn judge(self, flow: &Flow<'_>, tree: &Tree, start: StepId) -> Vec<Finding> {
        let may = self.may_happen(flow, tree, start, None);
        match (ends(flow, &may, Ending::Completed), ends(flow, &may, Ending::Cancelled)) {
            (false, false) => vec![self.no_ending(flow, tree)],
            (false, true) => {
                let mut found: Vec<Finding> =
                    flow.step_ids().filter_map(|other| self.stays_done(flow, tree, start, &may, other)).collect();
                found.extend(self.too_soon(flow, tree));
                found
            }
            _ => vec![],
        }
    }

    /// `order/check says no by OrderRefused`.
    fn told(self, flow: &Flow<'_>) -> String {
        let (label, name) = (flow.step(self.step).label(), |event: EventId| flow.event(event).label());
        match self.says {
            Says::Done(event) => format!("{label} emits {}", name(event)),
            Says::No(event) => format!("{label} says no by {}", name(event)),
            Says::Shut(by, event) => format!("{} emits {} before {label} has run", flow.step(by).label(), name(event)),
        }
    }

    fn path(self, flow: &Flow<'_>, tree: &Tree) -> Vec<String> {
        let (Says::Done(event) | Says::No(event)) = self.says else { return vec![self.told(flow)] };
        let way: Vec<Node> = tree.way(self.step).iter().copied().chain([Node::Event(event)]).collect();
        runs::lines(flow, &way)
    }

    fn no_ending(self, flow: &Flow<'_>, tree: &Tree) -> Finding {
        let step = flow.step(self.step);
        let (Says::Done(event) | Says::No(event) | Says::Shut(_, event)) = self.says;
        let (event, label) = (flow.event(event), step.label());
        let message = format!("when {}, no ending can follow, and the saga stays open", self.told(flow));
        let fix = match self.says {
            Says::Shut(..) => format!("let what {label} emits when it is shut lead to the event that ends the saga"),
            _ => format!("let the step that ends the saga, or one that leads there, hear {}", event.label()),
        };
        let finding = Finding::new(Code::NoEnding, step.participant, message, fix).step(&step.declared.step);
        finding.event(event.name).path(self.path(flow, tree))
    }

    /// Whether another step can be done in this run.
    fn done_too(self, flow: &Flow<'_>, tree: &Tree, other: StepId) -> bool {
        if other == self.step || tree.way(other).is_empty() || tree.passes(other, self.step) {
            return false;
        }
        let noes = tree.noes(other);
        match self.says {
            Says::Shut(..) => noes.is_empty(),
            Says::Done(said) | Says::No(said) => {
                let own = tree.noes(self.step);
                noes.iter().all(|no| own.contains(no)) && tree.together(flow, (other, None), (self.step, Some(said)))
            }
        }
    }

    /// The saga is cancelled, and `other` stays done.
    fn stays_done(self, flow: &Flow<'_>, tree: &Tree, start: StepId, may: &Reached, other: StepId) -> Option<Finding> {
        let step = flow.step(other);
        let kind = step.declared.kind;
        let gate = kind == StepKind::Gate;
        let kept = gate || step.compensated_on.is_empty();
        let counts = if kept {
            // Whoever cancels need not be taken back.
            let cancels = |event: &EventId| {
                let event = flow.event(*event);
                event.ending() == Some(Ending::Cancelled) || !event.compensates.is_empty()
            };
            let speaks = !step.emits.is_empty() && step.joins.is_empty() && !step.emits.iter().any(cancels);
            gate || (matches!(kind, StepKind::Local | StepKind::External) && speaks)
        } else {
            kind != StepKind::Request && !may.has(flow, Node::Compensation(other))
        };
        if !counts || !self.done_too(flow, tree, other) {
            return None;
        }
        // What a gate says when it is shut it does not say in this run.
        if gate && !ends(flow, &self.may_happen(flow, tree, start, Some(other)), Ending::Cancelled) {
            return None;
        }
        let (label, told) = (step.label(), self.told(flow));
        let before = tree.passes(self.step, other);
        let mut path = self.path(flow, tree);
        if !before {
            let way = runs::lines(flow, tree.way(other));
            path.retain(|line| !way.contains(line));
            path.splice(0..0, way);
        }
        if !kept {
            let back = self.goes_back_on(flow, tree, may, other);
            let message = format!("when {told}, nothing takes {label} back, although the saga is cancelled");
            let fix = format!("add {back} to `CompensatedOn` of {label}");
            let finding = Finding::new(Code::Uncompensated, step.participant, message, fix).step(&step.declared.step);
            return Some(finding.path(path));
        }
        let why = if gate { "is a gate, which stays done" } else { "has no compensation" };
        let no = flow.step(self.step);
        let mend =
            if gate { "behind the last step that may say no".to_owned() } else { format!("behind {}", no.label()) };
        let two = !step.rejects.is_empty()
            && matches!(no.declared.kind, StepKind::Local | StepKind::External | StepKind::Gate)
            && (no.declared.kind == StepKind::Gate || no.compensated_on.is_empty());
        let (code, at, message, fix) = if !before {
            let message = format!("when {told}, {label} can be done at the same time, and {why}");
            (Code::NoGate, step, message, format!("give {label} a compensation, or let it run only {mend}"))
        } else if two && matches!(self.says, Says::No(_)) {
            let message = format!("{label} may say no and {why}, and so does {} after it", no.label());
            let fix = format!("let only one of the two be the point of no return: give {label} a compensation");
            (Code::TwoPivots, no, message, fix)
        } else {
            let message = format!("when {told}, {label} is done before it, and {why}");
            let fix = format!(
                "give {label} a compensation, let it run only {mend}, or declare `Rejects = Never` at {}",
                no.label()
            );
            (Code::RejectsAfterPivot, no, message, fix)
        };
        Some(Finding::new(code, at.participant, message, fix).step(&at.declared.step).path(path))
    }

    /// On what a step is best taken back: what is said when the next one is, else what cancels the saga.
    fn goes_back_on(self, flow: &Flow<'_>, tree: &Tree, may: &Reached, step: StepId) -> String {
        let name = |event: EventId| flow.event(event).label();
        let later = |node: &Node| if let Node::Forward(later) = node { Some(*later) } else { None };
        let way = tree.way(self.step);
        let place = way.iter().position(|node| *node == Node::Forward(step));
        let next = place.and_then(|place| {
            let mut after = way[place + 1..].iter().filter_map(later);
            after.find(|later| may.has(flow, Node::Compensation(*later)) && !flow.step(*later).compensated.is_empty())
        });
        let cancelled = || {
            let ends = |event: &EventId| flow.event(*event).ending() == Some(Ending::Cancelled);
            flow.event_ids().find(|event| ends(event) && may.event(flow, *event))
        };
        match (next, self.says) {
            (Some(next), _) => name(flow.step(next).compensated[0]),
            (None, Says::No(event)) if place.is_some() => name(event),
            _ => cancelled().map_or_else(|| "the event that cancels the saga".to_owned(), name),
        }
    }

    /// A step that is taken back before one that was built on it, along compensations only.
    fn too_soon(self, flow: &Flow<'_>, tree: &Tree) -> Vec<Finding> {
        let Says::No(no) = self.says else { return vec![] };
        let gate = |step: StepId| flow.step(step).declared.kind == StepKind::Gate;
        let backward = |from: Node, _: Arrow, to: Node| match (from, to) {
            (_, Node::Forward(_)) => false,
            (_, Node::Compensation(step)) => !gate(step),
            _ => true,
        };
        let back = Reached::from(flow, &[Node::Event(no)], backward);
        let compensatable = |step: StepId| !gate(step) && !flow.step(step).compensated_on.is_empty();
        let mut found = vec![];
        for first in flow.step_ids().filter(|step| back.has(flow, Node::Compensation(*step)) && compensatable(*step)) {
            let step = flow.step(first);
            let begins = matches!(step.declared.kind, StepKind::Start | StepKind::Request);
            if begins || !self.done_too(flow, tree, first) {
                continue;
            }
            let way = back.way(flow, Node::Compensation(first));
            let mut taken_back = vec![false; flow.steps.len()];
            for node in &way {
                if let Node::Compensation(step) = node {
                    taken_back[step.0] = true;
                }
            }
            let built_on = |later: &&StepId| {
                compensatable(**later)
                    && !taken_back[later.0]
                    && tree.together(flow, (first, None), (**later, None))
                    && self.done_too(flow, tree, **later)
            };
            let Some(later) = tree.after(first).iter().find(built_on).copied() else { continue };
            let (label, later_step) = (step.label(), flow.step(later));
            let message = format!(
                "when {}, {label} can be taken back before {}, which was built on it",
                self.told(flow),
                later_step.label()
            );
            let instead =
                later_step.compensated.first().map_or("the event".to_owned(), |event| flow.event(*event).label());
            let heard =
                way.iter().rev().find_map(|node| if let Node::Event(event) = node { Some(*event) } else { None });
            let heard = heard.map_or_else(String::new, |event| flow.event(event).label());
            let fix = format!(
                "let {label} be compensated on {instead}, which {} emits when it is taken back, instead of {heard}",
                later_step.label()
            );
            let mut path = self.path(flow, tree);
            path.extend(runs::lines(flow, &way));
            let finding = Finding::new(Code::CompensatedTooSoon, step.participant, message, fix);
            found.push(finding.step(&step.declared.step).path(path));
        }
        found
    }
}

fn ends(flow: &Flow<'_>, may: &Reached, ending: Ending) -> bool {
    flow.event_ids().any(|event| flow.event(event).ending() == Some(ending) && may.event(flow, event))
}

/// A saga that cannot end even when nobody says no.
fn never_ends(flow: &Flow<'_>, start: StepId) -> Option<Finding> {
    let well = Reached::from(flow, &[Node::Forward(start)], |_, arrow, _| arrow != Arrow::Rejects);
    if flow.event_ids().any(|event| flow.event(event).ending().is_some() && well.event(flow, event)) {
        return None;
    }
    let step = flow.step(start);
    let label = step.label();
    let message =
        format!("a saga that {label} starts cannot end: nothing that follows, when nobody says no, is an ending");
    let ending = flow.events.iter().find(|event| event.ending().is_some() && !event.published_by.is_empty());
    let fix = match ending {
        Some(event) => {
            let by = flow.step(event.published_by[0]).label();
            format!("let what happens when all is done lead to {by}, which can end the saga by {}", event.label())
        }
        None => format!("let a step of {} emit an event with `ENDING` when all is done", step.participant),
    };
    // The last that anybody says.
    let farthest = flow
        .event_ids()
        .filter(|event| well.event(flow, *event))
        .map(|event| well.way(flow, Node::Event(event)))
        .max_by_key(Vec::len)
        .unwrap_or_default();
    let finding = Finding::new(Code::NoEnding, step.participant, message, fix).step(&step.declared.step);
    Some(finding.path(runs::lines(flow, &farthest)))
}
