//! How a saga ended, by what it left behind: its events, the rows of its steps, and what waits. It knows the rules of a good end, and
//! nothing of how a verifier finds them out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use saga_choreography::Code;
use saga_core::{
    Manifest, State,
    event::Ending,
    manifest::DeclaredStep,
    participant::StepKind,
    store::{LedgerRow, WorkState},
};

use super::player::Left;

/// Something that a saga must not come to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bad {
    /// It ends badly; the code that a verifier has for it.
    Ends(Code, String),
    /// The pipeline did something that no choreography excuses.
    Pipeline(String),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bad::Ends(code, what) => write!(f, "{code}: {what}"),
            Bad::Pipeline(what) => write!(f, "the pipeline: {what}"),
        }
    }
}

/// Everything that is bad about how a saga ended.
pub fn judge(manifests: &[Manifest], left: &Left) -> BTreeSet<Bad> {
    let mut bad = BTreeSet::new();
    let mut endings = BTreeMap::new();
    for event in &left.events {
        if let Some(ending) = event.ending {
            endings.insert(&event.id, ending);
        }
    }
    let stuck = left.work.iter().any(|(_, row)| row.state == WorkState::Stuck);
    // What waits behind something stuck waits for the same person.
    for (participant, row) in left.work.iter().filter(|(_, row)| !stuck || row.state == WorkState::Stuck) {
        let what = format!("{participant}/{} is {}: {}", row.step, row.state.as_str(), row.reason);
        let code = match row.state {
            WorkState::Stuck if row.reason.starts_with("second trigger") => Code::SecondTrigger,
            WorkState::Stuck if row.reason.contains("second ending") => Code::TwoEndings,
            // Nobody moves any more, and it waits all the same.
            _ => Code::NoEnding,
        };
        bad.insert(Bad::Ends(code, what));
    }
    for (participant, step, direction, count) in left.effects.iter().filter(|(.., count)| *count > 1) {
        bad.insert(Bad::Pipeline(format!("{participant}/{step} took effect {count} times ({direction})")));
    }
    if left.events_of_repetition > 0 {
        let count = left.events_of_repetition;
        bad.insert(Bad::Pipeline(format!("{count} events came of what was delivered before")));
    }
    if !left.work.is_empty() {
        // Whatever else is wrong may be the consequence.
        return bad;
    }
    let mut ends = |code: Code, what: String| _ = bad.insert(Bad::Ends(code, what));
    let ending = match endings.values().collect::<Vec<_>>()[..] {
        [] => {
            ends(Code::NoEnding, "it has no ending".to_owned());
            None
        }
        [ending] => Some(*ending),
        _ => {
            ends(Code::TwoEndings, "it has two endings".to_owned());
            None
        }
    };
    for (participant, row) in &left.ledger {
        let Some(step) = declared(manifests, participant, &row.step) else { continue };
        let what = format!("{participant}/{} is {}", row.step, row.state);
        match ending {
            Some(Ending::Completed) if taken_back(step, row) => ends(Code::CompensatedThoughCompleted, what),
            Some(Ending::Cancelled) => {
                if let Some(code) = left_done(manifests, step, row) {
                    ends(code, what);
                }
            }
            _ => {}
        }
    }
    bad
}

fn declared<'m>(manifests: &'m [Manifest], participant: &str, step: &str) -> Option<&'m DeclaredStep> {
    let manifest = manifests.iter().find(|manifest| manifest.participant == participant)?;
    manifest.steps.iter().find(|declared| declared.step == step)
}

/// A no that had to close its call's key first leaves `compensated` behind, and is a no all the same.
fn rejected(row: &LedgerRow) -> bool {
    row.state == State::Rejected || (row.rejecting && row.state == State::Compensated)
}

fn taken_back(step: &DeclaredStep, row: &LedgerRow) -> bool {
    let back = matches!(row.state, State::Compensated | State::Void | State::Compensating);
    !step.compensated_on.is_empty() && back && !rejected(row)
}

fn left_done(manifests: &[Manifest], step: &DeclaredStep, row: &LedgerRow) -> Option<Code> {
    if !matches!(row.state, State::Done | State::Calling) {
        return None;
    }
    let compensatable = !step.compensated_on.is_empty();
    match step.kind {
        StepKind::Local | StepKind::External | StepKind::Start if compensatable => Some(Code::Uncompensated),
        StepKind::Gate => Some(Code::NoGate),
        StepKind::Local | StepKind::External if step.emits.is_empty() || !step.joins.is_empty() => None,
        StepKind::Local | StepKind::External if cancels(manifests, row) => None,
        StepKind::Local | StepKind::External => Some(Code::NoGate),
        _ => None,
    }
}

/// Whether what the step did belongs to the cancelling: it heard that the saga is cancelled, or what it said cancels it or takes
/// something back.
fn cancels(manifests: &[Manifest], row: &LedgerRow) -> bool {
    let ends = |event: &str| {
        let known = manifests.iter().filter_map(|manifest| manifest.events.get(event));
        known.into_iter().any(|known| known.ending == Some(Ending::Cancelled))
    };
    let takes_back = |event: &String| {
        manifests.iter().flat_map(|manifest| &manifest.steps).any(|step| step.compensated_on.contains(event))
    };
    ends(&row.trigger_type)
        || row.record.as_ref().is_some_and(|record| ends(&record.event_type) || takes_back(&record.event_type))
}
