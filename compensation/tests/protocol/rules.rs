//! The rules that the model plays by, each of which can be broken alone.
//!
//! [`Rules::REAL`] is the crate's own verdicts plus what a pipeline has to do around them. A negative control replaces
//! one field, and the model then has to find the fault: a checker that no broken rule can turn red proves nothing.

use saga_compensation::{Answer, Call, Compensation, Forward, Kind, Said, State, answer, compensation, forward};

/// Where the work row of a call stands. The ledger row says `calling`; this row says who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    /// No row: never called, settled, or discarded by a person.
    Gone,
    /// Nobody calls; the next attempt may be taken.
    Due,
    /// This instance calls, or did before it crashed.
    Leased(u8),
    /// The attempts are used up, or the step gave up on the reply.
    Stuck,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    // The verdicts, and the one fact that a pipeline derives for them: how a work row reads as a `Call`.
    pub(crate) forward: fn(Option<State>, bool) -> Forward,
    pub(crate) compensation: fn(Kind, Option<State>, Call) -> Compensation,
    pub(crate) answer: fn(Option<State>, Said, bool) -> Answer,
    pub(crate) call: fn(Work, bool) -> Call,

    // What the pipeline does around a verdict.
    /// One saga is in one transaction at a time at one participant.
    pub(crate) lock: bool,
    /// Every write names the row that it expects to find.
    pub(crate) expected_state: bool,
    /// Nothing done is said, so that whoever compensates next hears of it.
    pub(crate) nothing_done_emits: bool,
    /// Putting a call in doubt takes its work row away, so that nobody retries it.
    pub(crate) doubt_drops_call: bool,

    // What must not keep a compensation waiting: each of these waits for a person.
    pub(crate) waits_behind_own_stuck_forward: bool,
    pub(crate) waits_behind_second_trigger: bool,
    pub(crate) waits_behind_late_answer: bool,

    // What is asked of the other system.
    /// All attempts of a call carry one key.
    pub(crate) charge_key: bool,
    /// All attempts of taking it back carry one key.
    pub(crate) refund_key: bool,
}

impl Rules {
    pub(crate) const REAL: Rules = Rules {
        forward,
        compensation,
        answer,
        call: call_of,
        lock: true,
        expected_state: true,
        nothing_done_emits: true,
        doubt_drops_call: true,
        waits_behind_own_stuck_forward: false,
        waits_behind_second_trigger: false,
        waits_behind_late_answer: false,
        charge_key: true,
        refund_key: true,
    };
}

/// Only a lease that lasts is worth waiting for: everything else ends with a retry or a person, and neither is bounded.
pub(crate) const fn call_of(work: Work, lease_over: bool) -> Call {
    match work {
        Work::Leased(_) if !lease_over => Call::Running,
        Work::Gone | Work::Due | Work::Leased(_) | Work::Stuck => Call::Open,
    }
}
