//! States of a step and the verdicts over them: the whole decision table of the toolkit.
//!
//! The invariant it keeps: *already done?* is asked before *may I?*, so a second delivery of anything is absorbed.

use std::{fmt, str::FromStr};

/// What the ledger says about one step of one saga. No row at all is written `Option::None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// An external step has been called, perhaps more than once; what the other system did is not known yet.
    Calling,
    /// The step ran and what it recorded can be compensated.
    Done,
    /// The step said a business no; nothing is left to take back.
    Rejected,
    /// A call that takes an external step back is on its way.
    Compensating,
    /// The step was done, and is taken back.
    Compensated,
    /// The compensation came first: the step never ran, and never will.
    Void,
}

impl State {
    /// Every state, in the order in which a saga can pass through them.
    pub const ALL: [State; 6] =
        [State::Calling, State::Done, State::Rejected, State::Compensating, State::Compensated, State::Void];

    /// The word that the ledger table stores.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Calling => "calling",
            State::Done => "done",
            State::Rejected => "rejected",
            State::Compensating => "compensating",
            State::Compensated => "compensated",
            State::Void => "void",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no [`State`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseStateError(String);

impl fmt::Display for ParseStateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected one of calling, done, rejected, compensating, compensated, void, got {:?}", self.0)
    }
}

impl std::error::Error for ParseStateError {}

impl FromStr for State {
    type Err = ParseStateError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|state| state.as_str() == word).ok_or_else(|| ParseStateError(word.to_owned()))
    }
}

/// How a step does its work, which decides how it can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Works in its participant's database only: compensated in one transaction.
    Local,
    /// Calls another system: compensated by another call, outside any transaction.
    External,
    /// Must not run once its saga is cancelled, but keeps what it did when it has run: the gate of a cancelling event.
    Gate,
}

/// What becomes of a forward: an event that triggers the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forward {
    /// Run the step (an external step: call first).
    Run,
    /// It was settled before, or a waiting row owns it: absorbed.
    Duplicate,
    /// Its compensation came first: absorbed.
    Late,
    /// Another event already triggered this step of this saga. A person has to look; nothing waits for them.
    SecondTrigger,
}

/// What becomes of a compensation: an event that takes the step back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compensation {
    /// Take back what the ledger recorded.
    Compensate,
    /// There is nothing to take back: say so once, so that the chain of compensations goes on, and close the door.
    NothingDone,
    /// Nobody knows whether the call took effect: close its key, whatever it did.
    InDoubt,
    /// An attempt of the call is running under its lease: its answer decides.
    Wait,
    /// It was settled before: absorbed.
    Duplicate,
    /// A [`Kind::Gate`] has passed: the saga completes, the compensation is absorbed.
    Late,
}

/// Where the call of a `calling` step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// The lease of the running attempt lasts, so an answer may still come.
    Running,
    /// Nobody calls at the moment: a retry is due, the lease ran out, the call is stuck or was discarded.
    Open,
}

/// What the other system said, read by the step's own `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Said {
    /// It did what it was asked.
    Yes,
    /// It refused, and nothing took effect.
    No,
    /// The step says no although the call took effect.
    NoAfterEffect,
}

/// What becomes of an answer to a forward call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The ledger row becomes `done`.
    Done,
    /// The ledger row becomes `rejected`.
    Rejected,
    /// The row becomes `compensating`: close the call's key first, then emit the rejection.
    CloseThenReject,
    /// Another attempt settled the step already: counted and kept, never acted upon.
    Late,
}

/// The verdict over a forward.
///
/// `same_trigger` says whether the event is the one that the row was opened with, or an alternative of it that the step
/// declared (an any-of trigger).
pub const fn forward(row: Option<State>, same_trigger: bool) -> Forward {
    match row {
        None => Forward::Run,
        Some(State::Calling | State::Done | State::Rejected) if same_trigger => Forward::Duplicate,
        Some(State::Calling | State::Done | State::Rejected) => Forward::SecondTrigger,
        Some(State::Compensating | State::Compensated | State::Void) => Forward::Late,
    }
}

/// The verdict over a compensation.
///
/// `call` matters only to a row that is `calling`. Nothing here ever waits for a person: a call that is stuck or was discarded
/// is [`Call::Open`], and goes in doubt at once.
pub const fn compensation(kind: Kind, row: Option<State>, call: Call) -> Compensation {
    match (row, kind) {
        (None, _) => Compensation::NothingDone,
        (Some(State::Calling), _) => match call {
            Call::Running => Compensation::Wait,
            Call::Open => Compensation::InDoubt,
        },
        (Some(State::Done), Kind::Gate) => Compensation::Late,
        (Some(State::Done), _) => Compensation::Compensate,
        // A refusal came from another system, which may forget it and accept a request that still travels.
        (Some(State::Rejected), Kind::External) => Compensation::InDoubt,
        (Some(State::Rejected), _) => Compensation::NothingDone,
        (Some(State::Compensating | State::Compensated | State::Void), _) => Compensation::Duplicate,
    }
}

/// The verdict over an answer of a forward call.
///
/// The first answer settles the row, whichever attempt it belongs to: all attempts carry the same key, so the other system
/// tells the same truth to each. `earlier_unknown` says whether any other attempt was made whose outcome nobody saw: then a
/// refusal is not believed blindly, because it may be the refusal of *this* request while another one took effect.
pub const fn answer(row: Option<State>, said: Said, earlier_unknown: bool) -> Answer {
    match row {
        Some(State::Calling) => match said {
            Said::Yes => Answer::Done,
            Said::No if !earlier_unknown => Answer::Rejected,
            Said::No | Said::NoAfterEffect => Answer::CloseThenReject,
        },
        None | Some(_) => Answer::Late,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_one_word() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!(
            "open".parse::<State>().map_err(|e| e.to_string()),
            Err(r#"expected one of calling, done, rejected, compensating, compensated, void, got "open""#.to_owned())
        );
    }

    #[test]
    fn a_closed_row_absorbs_everything() {
        for state in [State::Compensated, State::Void] {
            for same in [true, false] {
                assert_eq!(forward(Some(state), same), Forward::Late);
            }
            for kind in [Kind::Local, Kind::External, Kind::Gate] {
                for call in [Call::Running, Call::Open] {
                    assert_eq!(compensation(kind, Some(state), call), Compensation::Duplicate);
                }
            }
            for said in [Said::Yes, Said::No, Said::NoAfterEffect] {
                assert_eq!(answer(Some(state), said, false), Answer::Late);
            }
        }
    }
}
