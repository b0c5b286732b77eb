//! Every run of the merged choreography, played over the toolkit's own verdicts: each event to each hearer, once, late, twice, before
//! what came before it; every step with every outcome that it declares; a request at every moment.
//!
//! ```text
//! flow ──► model (one per start step) ──► search (reduced) ──► ends ──► faults ──► findings, each with a shortest run
//! ```
//!
//! The invariant: within its bound it misses no end that a run of the toolkit can come to, but for what [`NOT_MODELLED`] lists.
//! Where it errs, it errs on the side of more runs than there are.

mod judge;
mod model;
mod moves;
mod reduce;
mod search;
mod set;
mod story;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use saga_core::participant::StepKind;

use self::{
    judge::Fault,
    model::{Model, Move, State, What},
    search::search,
};
use crate::{
    finding::{Code, Finding},
    flow::{Flow, StepId},
};

/// How far to explore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How many different states of the sagas of one start step are looked at, about 500 bytes each. Of what is left then, as many
    /// again are looked at along single runs.
    pub states: usize,
}

impl Default for Bounds {
    /// Some seconds and up to 250 MB. The samples have some dozens of states, three parallel calls with joins and a gate 3,414, five
    /// 210,454 (1.6 s, 104 MB).
    fn default() -> Self {
        Self { states: 250_000 }
    }
}

/// What can be wrong with the end of a run.
pub const OF_RUNS: [Code; 6] = [
    Code::Uncompensated,
    Code::NoGate,
    Code::NoEnding,
    Code::TwoEndings,
    Code::SecondTrigger,
    Code::CompensatedThoughCompleted,
];

/// What no exploration looks at, whatever its bounds: one line each, for reports.
pub const NOT_MODELLED: &[&str] = &[
    "failures that are tried again, outages, crashes, expired leases: they are delays, and an event may be delayed for any time",
    "reactions that are stuck because their attempts are used up, and what a person does about them: redrive and discard",
    "what events carry: whether a body can be read is the schemas' matter",
    "sagas older than a participant's memory",
];

/// What an exploration found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explored {
    /// What is wrong, each with a shortest run that comes to it. With [`Code::NotExplored`] where the bound was hit.
    pub findings: Vec<Finding>,
    /// Different states that were seen, of the sagas of all start steps together.
    pub states: usize,
    /// Different ends among them: states in which nothing more can happen.
    pub ends: usize,
    /// Every end was seen. Then what was not found is not there.
    pub complete: bool,
    /// What the bound left out, one line per start step; empty if complete.
    pub not_covered: Vec<String>,
}

/// Explores the sagas of every start step, each alone.
pub fn explore(flow: &Flow<'_>, bounds: &Bounds) -> Explored {
    let starts = flow.step_ids().filter(|id| flow.step(*id).declared.kind == StepKind::Start);
    let mut explored = Explored { complete: true, ..Explored::default() };
    for start in starts {
        explore_start(flow, start, bounds, &mut explored);
    }
    explored
}

fn explore_start(flow: &Flow<'_>, start: StepId, bounds: &Bounds, explored: &mut Explored) {
    let model = Model::of(flow, start);
    // The first run to a fault is a shortest one.
    let mut found = BTreeMap::<Fault, Finding>::new();
    let mut races = BTreeSet::new();
    let reach = search(
        &model,
        bounds.states,
        |at| model.few_moves(at),
        |end, way| {
            let faults = model.faults(end);
            let key = |fault: &Fault| Fault { event: None, ..*fault };
            if faults.iter().all(|fault| found.contains_key(&key(fault))) {
                return;
            }
            let run = way.moves();
            for fault in at_the_root(&faults, &run) {
                // Of two endings either may be the first: that is one thing to mend.
                if fault.code == Code::TwoEndings && !races.insert(model.rivals(fault.step, &run)) {
                    continue;
                }
                found.entry(key(&fault)).or_insert_with(|| model.finding(fault, &run, end));
            }
        },
    );
    explored.findings.extend(found.into_values());
    explored.states += reach.states;
    explored.ends += reach.ends;
    if reach.left > 0 {
        let step = flow.step(start);
        let label = step.label();
        explored.complete = false;
        explored.not_covered.push(format!(
            "sagas that {label} starts: {} states were seen, and of {} of them at most one run each was followed to its end",
            reach.states, reach.left
        ));
        let message =
            format!("not every run of the sagas that {label} starts was explored: {} states were seen", reach.states);
        let fix = format!(
            "allow more than {} states, or end and start a new saga where few branches are open",
            bounds.states
        );
        explored
            .findings
            .push(Finding::new(Code::NotExplored, step.participant, message, fix).step(&step.declared.step));
    }
}

/// One thing that happened though the saga completed takes back a step, and that one the next: only the first is to be mended.
fn at_the_root(faults: &[Fault], run: &[Move]) -> Vec<Fault> {
    let when = |fault: &Fault| {
        let closes = |taken: &Move| matches!(taken.what, What::Compensated | What::InDoubt | What::NothingDone);
        run.iter().position(|taken| taken.step == fault.step && closes(taken))
    };
    let (chained, single): (Vec<Fault>, Vec<Fault>) =
        faults.iter().copied().partition(|fault| fault.code == Code::CompensatedThoughCompleted);
    single.into_iter().chain(chained.into_iter().min_by_key(when)).collect()
}

impl Model<'_, '_> {
    fn finding(&self, fault: Fault, run: &[Move], end: &State) -> Finding {
        let Fault { code, step, event } = fault;
        let label = self.step_label(step);
        let name = &self.flow.step(self.steps[step].id).declared.step;
        let event_label = event.map(|event| self.event_label(event)).unwrap_or_default();
        // What began the cancelling, and what took this step back.
        let no = run.iter().find(|taken| {
            matches!(taken.what, What::Rejected | What::RejectedInDoubt | What::Requested) && taken.emits.is_some()
        });
        let no = no.filter(|taken| taken.step != step).and_then(|taken| taken.emits);
        let no = no.map_or_else(|| event_label.clone(), |no| self.event_label(no));
        let closed = run.iter().find(|taken| {
            taken.step == step && matches!(taken.what, What::Compensated | What::InDoubt | What::NothingDone)
        });
        let why = closed.and_then(|taken| taken.cause).map(|why| self.event_label(why)).unwrap_or_default();
        let (message, fix) = match code {
            Code::Uncompensated => (
                format!("{label} stays done although the saga is cancelled by {event_label}"),
                format!(
                    "let {name} be compensated on {no}, or on what a later step's compensation emits on every way from there to {event_label}"
                ),
            ),
            Code::NoGate if self.steps[step].kind == StepKind::Gate => (
                format!("{label} has passed although the saga is cancelled by {event_label}"),
                format!(
                    "let nothing cancel a saga past its gate: compensate the other steps on what {name} emits when it is shut, not on {no}"
                ),
            ),
            Code::NoGate => (
                format!("{label} is done and cannot be taken back although the saga is cancelled by {event_label}"),
                format!(
                    "say how {name} is taken back, on {no}, or make it a gate that decides alone whether the saga may still be cancelled"
                ),
            ),
            Code::CompensatedThoughCompleted => {
                let shut =
                    if end.rows[step].ledger == Some(saga_compensation::State::Void) { "shut" } else { "taken back" };
                (
                    format!("{label} is {shut} on {why} although the saga completes by {event_label}"),
                    format!(
                        "compensate {name} on what a gate emits when it is shut, not on {why}, which sagas that complete may bring too"
                    ),
                )
            }
            Code::SecondTrigger => self.second_trigger(step, run),
            Code::TwoEndings => self.two_endings(step, run),
            _ => self.no_ending(step, event),
        };
        let at = self.flow.step(self.steps[step].id);
        let finding =
            Finding::new(code, at.participant, message, fix).step(&at.declared.step).path(self.story(run, end));
        match event.filter(|_| code == Code::NoEnding) {
            Some(event) => finding.event(self.flow.event(self.emissions[event].event).name),
            None => finding,
        }
    }

    fn second_trigger(&self, step: usize, run: &[Move]) -> (String, String) {
        let (label, name) = (self.step_label(step), &self.flow.step(self.steps[step].id).declared.step);
        let told =
            |event: usize| format!("{} of {}", self.event_label(event), self.step_label(self.emissions[event].step));
        let triggers = run.iter().filter(|taken| taken.step == step && taken.what != What::InDoubt);
        let second = triggers.clone().find(|taken| taken.what == What::SecondTrigger).and_then(|taken| taken.cause);
        let first = triggers.filter_map(|taken| taken.cause).find(|cause| self.steps[step].on.contains(*cause));
        let (first, second) = (first.map(told).unwrap_or_default(), second.map(told).unwrap_or_default());
        (
            format!("{label} is triggered by {first}, and in the same saga by {second}"),
            format!(
                "let a saga bring only one of them, say that the first trigger of {name} wins, or make a step of each and join them"
            ),
        )
    }

    /// The moves of a run that end its saga, or would.
    fn endings<'r>(&self, run: &'r [Move]) -> impl Iterator<Item = &'r Move> {
        run.iter().filter(|taken| taken.emits.is_some_and(|event| self.emissions[event].ending.is_some()))
    }

    /// Two steps that end one saga, whichever is the first.
    fn rivals(&self, step: usize, run: &[Move]) -> (usize, usize) {
        let other = self.endings(run).next().map_or(step, |first| first.step);
        (step.min(other), step.max(other))
    }

    fn two_endings(&self, step: usize, run: &[Move]) -> (String, String) {
        let told = |taken: &Move| {
            let event = taken.emits.map(|event| self.event_label(event)).unwrap_or_default();
            (self.step_label(taken.step), event)
        };
        let mut endings = self.endings(run);
        let first = endings.next();
        let second = endings.filter(|taken| taken.step == step).last().or(first);
        let ((by, first), (label, second)) =
            (first.map(told).unwrap_or_default(), second.map(told).unwrap_or_default());
        (
            format!("{label} ends the saga by {second} after {by} has ended it by {first}"),
            format!(
                "let one ledger row decide whether {by} or {label} may end the saga: a gate that has to pass for one of them, and to be shut for the other"
            ),
        )
    }

    fn no_ending(&self, step: usize, event: Option<usize>) -> (String, String) {
        let (label, name) = (self.step_label(step), &self.flow.step(self.steps[step].id).declared.step);
        match event.map(|event| self.event_label(event)) {
            Some(event) => (
                format!("the saga stops without an ending after {label} has emitted {event}"),
                format!("let a step go on from {event} to an ending, or make it one"),
            ),
            None if self.steps[step].joins.is_empty() => (
                format!("the saga stops without an ending after {label}, which emits nothing"),
                format!("let {name} emit an event that leads to an ending"),
            ),
            None => (
                format!("the saga stops without an ending: {label} waits for ever for what it joins"),
                "let whatever keeps one of the joined steps from being done lead to an ending".to_owned(),
            ),
        }
    }
}
