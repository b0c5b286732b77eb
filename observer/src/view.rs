//! What a saga's row means beside the choreography: how far it is, what it waits for, what must still happen.
//!
//! The invariant: a function of the row and the manifests alone, so two observers that saw the same topics say the same. Participants
//! tell what they emit; that an event was absorbed in silence they tell by a signal.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use saga_choreography::flow::{Flow, StepId};
use saga_core::{
    envelope::Kind,
    event::Ending,
    id::{EventId, ReactionId},
    participant::StepKind,
    signal::Tells,
    step::Direction,
    timeline::short,
};
use serde::Serialize;

use crate::saga::{Saga, Seen, Told};

/// The one word for where a saga is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Some reaction needs a person.
    Stuck,
    /// Some reaction failed and will be tried again.
    Deferred,
    /// It has no ending yet, and something is on its way.
    Running,
    /// It has no ending yet, and nobody is known to owe it anything.
    Silent,
    /// It has its ending, but some compensation is still on its way.
    Ending,
    /// It ended, and everything that it is for was done.
    Completed,
    /// It ended, and everything that was done is compensated.
    Cancelled,
}

impl State {
    /// Every state, those that need somebody first.
    pub const ALL: [State; 7] = [
        State::Stuck,
        State::Deferred,
        State::Running,
        State::Silent,
        State::Ending,
        State::Completed,
        State::Cancelled,
    ];

    /// The word that tables carry.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Stuck => "stuck",
            State::Deferred => "deferred",
            State::Running => "running",
            State::Silent => "silent",
            State::Ending => "ending",
            State::Completed => "completed",
            State::Cancelled => "cancelled",
        }
    }
}

/// A reaction that has not been seen yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Awaited {
    /// Since when, in milliseconds since the Unix epoch: when the event was emitted.
    pub since: Option<i64>,
    /// Who owes it.
    pub participant: String,
    /// With which step.
    pub step: String,
    /// Which way.
    pub direction: Direction,
    /// To which event.
    pub event: EventId,
    /// Its type.
    pub event_type: String,
    /// The last that was told of it, if anything was.
    pub told: Option<Told>,
}

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepView {
    /// Whose.
    pub participant: String,
    /// Its name.
    pub step: String,
    /// What it said, in the order of the kinds: done, rejected, compensated, nothing done.
    pub said: BTreeSet<Kind>,
}

/// A saga as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct View {
    /// Where it is.
    pub state: State,
    /// How it ended, if it did.
    pub ending: Option<Ending>,
    /// When its first event was emitted, in milliseconds since the Unix epoch.
    pub started_at: Option<i64>,
    /// When the last event or signal was.
    pub changed_at: Option<i64>,
    /// What it is about in business terms, such as an order number.
    pub subjects: BTreeSet<String>,
    /// The trace of its first event.
    pub trace_id: Option<String>,
    /// What was said by each step that said something.
    pub steps: Vec<StepView>,
    /// What it waits for, the longest first.
    pub waiting: Vec<Awaited>,
    /// What is expected after that until an ending, `participant/step`, if nobody says no.
    pub expected: Vec<String>,
    /// More was seen than is kept, so that all of this may be wrong.
    pub truncated: bool,
}

/// The choreography as an observer asks it.
#[derive(Debug)]
pub struct Cast<'m> {
    flow: Flow<'m>,
    /// By event type.
    hearers: HashMap<&'m str, Vec<(StepId, Direction)>>,
}

impl<'m> Cast<'m> {
    /// Of a merged flow.
    pub fn of(flow: Flow<'m>) -> Self {
        let mut hearers = HashMap::new();
        for event in &flow.events {
            let triggers = event.triggers.iter().map(|step| (*step, Direction::Forward));
            let compensates = event.compensates.iter().map(|step| (*step, Direction::Compensation));
            hearers.insert(event.name, triggers.chain(compensates).collect());
        }
        Self { flow, hearers }
    }

    /// What a saga's row means.
    pub fn view(&self, saga: &Saga) -> View {
        let mut said = BTreeMap::<(&str, &str), BTreeSet<Kind>>::new();
        for (source, _, seen) in saga.events() {
            let participant = source.trim_start_matches('/');
            if let (Some(step), Some(kind)) = (&seen.step, seen.kind) {
                said.entry((participant, step)).or_default().insert(kind);
            }
        }
        // Beside a reaction a late answer may need a person, too: what waits comes before what is settled.
        let mut told = BTreeMap::<_, &Told>::new();
        for (_, tells) in saga.told() {
            let Some(event) = &tells.event else { continue };
            let key = (tells.participant.as_str(), tells.step.as_str(), tells.direction, event);
            let last = told.entry(key).or_insert(tells);
            if (!tells.tells.is_final(), tells.seq) > (!last.tells.is_final(), last.seq) {
                *last = tells;
            }
        }
        let mut waiting = Vec::new();
        for (_, id, seen) in saga.events() {
            for (step, direction) in self.hearers.get(seen.event_type.as_str()).into_iter().flatten() {
                let hearer = self.flow.step(*step);
                let (participant, name) = (hearer.participant, hearer.declared.step.as_str());
                let told = told.remove(&(participant, name, *direction, id));
                let waits = match told {
                    Some(told) if told.tells.is_final() => false,
                    // Whatever the step said: a second trigger needs a person, too.
                    Some(told) if told.tells == Tells::Stuck => true,
                    told => {
                        let silent = told.is_none() && self.reacts_in_silence(*step, *direction);
                        !silent && !self.has_reacted(*step, *direction, &said)
                    }
                };
                if !waits {
                    continue;
                }
                waiting.push(Awaited {
                    since: seen.time,
                    participant: participant.to_owned(),
                    step: name.to_owned(),
                    direction: *direction,
                    event: id.clone(),
                    event_type: seen.event_type.clone(),
                    told: told.cloned(),
                });
            }
        }
        let types: BTreeMap<&EventId, &Seen> = saga.events().map(|(_, id, seen)| (id, seen)).collect();
        // What no manifest knows of, or no event: a step that closes its call's key to say its no, a step of another version.
        for ((participant, step, direction, event), told) in told {
            if !told.tells.is_final() {
                let seen = types.get(event);
                waiting.push(Awaited {
                    since: seen.map_or(told.at, |seen| seen.time),
                    participant: participant.to_owned(),
                    step: step.to_owned(),
                    direction,
                    event: event.clone(),
                    event_type: seen.map(|seen| seen.event_type.clone()).unwrap_or_default(),
                    told: Some(told.clone()),
                });
            }
        }
        waiting.sort();
        let ending = saga.events().filter_map(|(_, _, seen)| Some((seen.time, seen.ending?))).min().map(|(_, e)| e);
        let first = saga.events().map(|(_, _, seen)| seen).min_by_key(|seen| (seen.hops, seen.time, &seen.event_type));
        let times = || saga.events().filter_map(|(_, _, seen)| seen.time);
        let told_at = saga.told().filter_map(|(_, told)| told.at);
        View {
            state: state(ending, &waiting),
            ending,
            started_at: times().min(),
            changed_at: times().chain(told_at).max(),
            subjects: saga.events().filter_map(|(_, _, seen)| seen.subject.clone()).collect(),
            trace_id: first.and_then(Seen::trace_id).map(ToOwned::to_owned),
            expected: self.expected(&waiting, ending),
            steps: said
                .into_iter()
                .map(|((participant, step), said)| StepView {
                    participant: participant.to_owned(),
                    step: step.to_owned(),
                    said,
                })
                .collect(),
            waiting,
            truncated: saga.is_truncated(),
        }
    }

    /// Whether what a step said shows that it has reacted in this direction, or need not any more.
    fn has_reacted(&self, id: StepId, direction: Direction, said: &BTreeMap<(&str, &str), BTreeSet<Kind>>) -> bool {
        let step = self.flow.step(id);
        let of = |step: StepId| {
            let step = self.flow.step(step);
            said.get(&(step.participant, step.declared.step.as_str()))
        };
        let own = of(id);
        let says = |kind| own.is_some_and(|said| said.contains(&kind));
        match direction {
            // A compensation that came first has shut the step. Of joined steps one speaks for all.
            Direction::Forward => own.is_some() || step.joins.iter().any(|other| of(*other).is_some()),
            Direction::Compensation => {
                let passed = step.declared.kind == StepKind::Gate && says(Kind::Done);
                says(Kind::Compensated) || says(Kind::NothingDone) || passed
            }
        }
    }

    /// Whether a step may react without emitting anything, so that nobody can wait to hear of it.
    fn reacts_in_silence(&self, id: StepId, direction: Direction) -> bool {
        let step = self.flow.step(id);
        match direction {
            Direction::Forward => step.emits.is_empty() || !step.joins.is_empty(),
            Direction::Compensation => step.compensated.is_empty(),
        }
    }

    /// The steps that follow what is awaited, as far as an ending, without those that a no would bring.
    fn expected(&self, waiting: &[Awaited], ending: Option<Ending>) -> Vec<String> {
        if ending.is_some() {
            return Vec::new();
        }
        let find = |awaited: &Awaited| {
            self.flow.step_ids().find(|id| {
                let step = self.flow.step(*id);
                step.participant == awaited.participant && step.declared.step == awaited.step
            })
        };
        let mut next: Vec<(StepId, Direction)> =
            waiting.iter().filter_map(|awaited| Some((find(awaited)?, awaited.direction))).collect();
        let awaited: BTreeSet<(StepId, Direction)> = next.iter().copied().collect();
        let mut seen = awaited.clone();
        let mut expected = Vec::new();
        while !next.is_empty() {
            let mut after = Vec::new();
            for (id, direction) in next {
                let step = self.flow.step(id);
                let emits = if direction == Direction::Forward { &step.emits } else { &step.compensated };
                for event in emits {
                    for hearer in self.hearers.get(self.flow.event(*event).name).into_iter().flatten() {
                        if seen.insert(*hearer) {
                            after.push(*hearer);
                            expected.push(self.flow.step(hearer.0).label());
                        }
                    }
                }
            }
            next = after;
        }
        expected
    }
}

fn state(ending: Option<Ending>, waiting: &[Awaited]) -> State {
    let told = |tells: &[Tells]| {
        waiting.iter().any(|awaited| awaited.told.as_ref().is_some_and(|told| tells.contains(&told.tells)))
    };
    if told(&[Tells::Stuck]) {
        return State::Stuck;
    }
    if told(&[Tells::Deferred, Tells::Impatient]) {
        return State::Deferred;
    }
    match ending {
        None if waiting.is_empty() => State::Silent,
        None => State::Running,
        Some(_) if waiting.iter().any(|awaited| awaited.direction == Direction::Compensation) => State::Ending,
        Some(Ending::Completed) => State::Completed,
        Some(Ending::Cancelled) => State::Cancelled,
    }
}

impl Awaited {
    /// `payment/charge-customer reacts to OrderPlaced`, for people.
    pub fn describe(&self) -> String {
        let does = if self.direction == Direction::Forward { "reacts to" } else { "is compensated on" };
        format!("{}/{} {does} {}", self.participant, self.step, short(&self.event_type))
    }
}

/// The reactions that a saga's signals tell of, which no event names: messages that are no event.
pub fn stray(saga: &Saga) -> impl Iterator<Item = (ReactionId, &Told)> {
    saga.told().filter(|(_, told)| told.event.is_none())
}
