//! A run as text: one line per thing that happens, in the columns of a timeline ([`saga_core::timeline`]).
//!
//! ```text
//! order    place-order      OrderPlaced
//! order    cancel-order     OrderCancelRequested                         requested
//! payment  charge-customer  OrderPlaced          -> PaymentCharged
//! payment  charge-customer  OrderCancelRequested -> PaymentRefunded      compensated
//! ```

use saga_compensation::{self as verdict, State as Ledger};

use super::model::{Model, Move, State, What};

/// A line's cells.
struct Line {
    step: usize,
    on: Option<String>,
    event: Option<String>,
    note: String,
}

impl Model<'_, '_> {
    /// The name of an emission's event, for people.
    pub(super) fn event_label(&self, emission: usize) -> String {
        self.flow.event(self.emissions[emission].event).label()
    }

    /// `payment/charge-customer`, for people.
    pub(super) fn step_label(&self, step: usize) -> String {
        self.flow.step(self.steps[step].id).label()
    }

    /// What happens in a run, and which deliveries were absorbed at its end although more than a repetition.
    pub(super) fn story(&self, run: &[Move], end: &State) -> Vec<String> {
        let mut lines = Vec::<Line>::new();
        for (i, taken) in run.iter().enumerate().filter(|(_, taken)| taken.what != What::Withheld) {
            let next = run.get(i + 1).filter(|next| next.step == taken.step && is_answer(next.what));
            if taken.what == What::Called && next.is_some() {
                continue; // The answer is the whole of it.
            }
            lines.push(self.line(taken, &run[..i]));
        }
        lines.extend(self.absorbed(run, end));
        let width = |of: &dyn Fn(&Line) -> usize| lines.iter().map(of).max().unwrap_or(0);
        let names = |line: &Line| {
            let step = self.flow.step(self.steps[line.step].id);
            (step.participant, step.declared.step.as_str())
        };
        let participant = width(&|line| names(line).0.len());
        let step = width(&|line| names(line).1.len());
        let on = width(&|line| line.on.as_deref().filter(|_| line.event.is_some()).map_or(0, str::len));
        let arrow = |line: &Line| match (&line.on, &line.event) {
            (Some(on_), Some(event)) => format!("{on_:on$} -> {event}"),
            (one, other) => one.as_ref().or(other.as_ref()).cloned().unwrap_or_default(),
        };
        let arrows = width(&|line| arrow(line).len());
        let text = |line: &Line| {
            let (its, name) = names(line);
            let text = format!("{its:participant$}  {name:step$}  {:arrows$}  {}", arrow(line), line.note);
            text.trim_end().to_owned()
        };
        lines.iter().map(text).collect()
    }

    fn line(&self, taken: &Move, before: &[Move]) -> Line {
        let Move { step, emits, what, stuck, .. } = *taken;
        let called = before.iter().rev().find(|past| past.step == step && past.what == What::Called);
        let cause = taken.cause.or(called.filter(|_| is_answer(what)).and_then(|called| called.cause));
        let said = match what {
            What::Done if cause.is_some() && emits.is_none() => "done, tells nobody",
            What::Done => "",
            What::Withheld => "never requested",
            What::Requested => "requested",
            What::Called => "calls",
            What::Joined => "done, waits for what it joins",
            What::Rejected => "rejected",
            What::RejectedInDoubt => "rejected after its call's key was closed",
            What::SecondTrigger => "second trigger, stuck",
            What::Compensated => "compensated",
            What::InDoubt => "in doubt, compensated",
            What::NothingDone => "nothing done",
        };
        let ending = emits.and_then(|event| self.emissions[event].ending).map(|ending| ending.to_string());
        let second = stuck.then(|| "second ending, stuck".to_owned());
        let notes = [Some(said.to_owned()), second.or(ending)];
        let note = notes.into_iter().flatten().filter(|note| !note.is_empty()).collect::<Vec<_>>().join(", ");
        let label = |event: usize| self.event_label(event);
        Line { step, on: cause.map(label), event: emits.map(label), note }
    }

    /// Deliveries that change nothing whenever they come last, and that a reader would miss otherwise.
    fn absorbed(&self, run: &[Move], end: &State) -> Vec<Line> {
        let mut lines = Vec::new();
        for event in end.emitted.iter() {
            for (step, (player, row)) in self.steps.iter().zip(&end.rows).enumerate() {
                let took = |taken: &Move| taken.step == step && taken.cause == Some(event);
                if run.iter().any(took) {
                    continue;
                }
                let same = player.first_trigger_wins || row.opened == Some(event);
                let forward = player.on.contains(event).then(|| verdict::forward(row.ledger, same));
                let gate = row.ledger == Some(Ledger::Done);
                let note = match forward {
                    Some(verdict::Forward::Late) => "late",
                    Some(verdict::Forward::Duplicate) => "duplicate: another trigger was first",
                    _ if player.compensated_on.contains(event) && gate => "late: it has passed",
                    _ if player.compensated_on.contains(event) && row.rejecting => {
                        "duplicate: its key was closed to say no"
                    }
                    _ => continue,
                };
                lines.push(Line { step, on: Some(self.event_label(event)), event: None, note: note.to_owned() });
            }
        }
        lines
    }
}

fn is_answer(what: What) -> bool {
    matches!(what, What::Done | What::Joined | What::Rejected | What::RejectedInDoubt)
}
