//! Payment: the participant with two instances and an external step, and the gateway that it calls.
//!
//! `charge-customer` is triggered by `OrderPlaced`, asks the gateway for the money outside any transaction, and is
//! taken back by another call. [`Payment::settle`] is what one transaction does with one reaction: it asks the verdicts
//! and writes rows, so a rule that is wrong there shows as money that is missing here.

use saga_compensation::{Answer, Call, Compensation, Forward, Kind, Said, State};

use crate::{
    events::Events,
    rules::{Rules, Work},
    saga::Saga,
};

/// Attempts of the forward call that are told apart: two by policy and one that a person adds.
pub(crate) const CALLS: usize = 3;
/// Attempts of taking it back that are told apart. They are unlimited: later ones reuse the last place.
pub(crate) const BACKS: usize = 2;
/// The calls, then the calls that take them back.
pub(crate) const ATTEMPTS: usize = CALLS + BACKS;

/// What the gateway is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ask {
    Charge,
    Refund,
    /// Nobody knows whether the charge took effect.
    CloseKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    Accepted,
    Declined,
}

/// Who still waits for the reply of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    Gone,
    Waiting,
    Heard(Reply),
    TimedOut,
}

/// One attempt of a call. Its request may travel on although nobody waits for the reply any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Attempt {
    pub(crate) owner: u8,
    pub(crate) travelling: bool,
    pub(crate) caller: Caller,
    pub(crate) ask: Ask,
}

impl Attempt {
    pub(crate) const NONE: Attempt = Attempt { owner: 0, travelling: false, caller: Caller::Gone, ask: Ask::Charge };
}

/// Why the step is being taken back, which decides what is asked of the gateway and what is said when it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Why {
    NotAtAll,
    Compensation,
    InDoubt,
    CloseThenReject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ledger {
    pub(crate) state: Option<State>,
    pub(crate) trigger: u8,
    pub(crate) why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WorkRow {
    pub(crate) work: Work,
    /// Counted before the call is made.
    pub(crate) attempt: u8,
    pub(crate) most: u8,
}

/// What somebody will find there who looks. None of these ever decides anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Notes {
    pub(crate) second_trigger: bool,
    pub(crate) discarded: bool,
    /// Written only where a broken rule reads it.
    pub(crate) late_answer: bool,
    /// A late answer says otherwise than what was settled.
    pub(crate) contradicted: bool,
    /// How often the forward was let in; two stands for more.
    pub(crate) runs: u8,
}

/// The rows of this saga in payment's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Payment {
    pub(crate) ledger: Ledger,
    pub(crate) call: WorkRow,
    pub(crate) back: WorkRow,
    /// A compensation is parked here.
    pub(crate) waits: bool,
    pub(crate) notes: Notes,
}

/// What payment settles in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reaction {
    Forward {
        trigger: u8,
    },
    /// No event: the one that is parked. `lease_over` is what the clock says about the running attempt, if any.
    Compensation {
        event: Events,
        lease_over: bool,
    },
    Answer {
        attempt: u8,
        reply: Reply,
        gives_up: bool,
    },
    CallTimedOut {
        attempt: u8,
    },
    TakeCall,
    BackAnswered {
        attempt: u8,
    },
    BackTimedOut {
        attempt: u8,
    },
    TakeBack,
}

/// What a transaction leaves: the rows, what it published, and the call that follows its commit.
pub(crate) struct Settled {
    pub(crate) rows: Payment,
    pub(crate) emits: Events,
    pub(crate) calls: Option<(usize, Ask)>,
}

/// The place of an attempt of the forward call.
pub(crate) fn call_place(attempt: u8) -> usize {
    (usize::from(attempt) - 1).min(CALLS - 1)
}

/// The place of an attempt of taking it back.
pub(crate) fn back_place(attempt: u8) -> usize {
    CALLS + (usize::from(attempt) - 1).min(BACKS - 1)
}

impl Payment {
    pub(crate) fn new(attempts: u8) -> Payment {
        Payment {
            ledger: Ledger { state: None, trigger: 0, why: Why::NotAtAll },
            call: WorkRow { work: Work::Gone, attempt: 0, most: attempts },
            back: WorkRow { work: Work::Gone, attempt: 0, most: u8::MAX },
            waits: false,
            notes: Notes::default(),
        }
    }

    /// What `instance` makes of `reaction`, or `None` if it is absorbed and nothing is written.
    pub(crate) fn settle(self, saga: &Saga, reaction: Reaction, instance: u8) -> Option<Settled> {
        let mut settled = Settled { rows: self, emits: Events::NONE, calls: None };
        let rules = &saga.rules;
        match reaction {
            Reaction::Forward { trigger } => settled.forward(rules, trigger, instance),
            Reaction::Compensation { lease_over, .. } => settled.compensation(rules, lease_over, instance),
            Reaction::Answer { attempt, gives_up: true, .. } => {
                if self.calls(instance, attempt) {
                    settled.rows.call.work = Work::Stuck;
                }
            }
            Reaction::Answer { reply, gives_up: false, .. } => settled.answer(saga, reply, instance),
            Reaction::CallTimedOut { attempt } => {
                if self.calls(instance, attempt) {
                    settled.rows.call.work = if attempt < self.call.most { Work::Due } else { Work::Stuck };
                }
            }
            Reaction::TakeCall => settled.take_call(rules, instance),
            Reaction::BackAnswered { attempt } => {
                if self.takes_back(instance, attempt) {
                    settled.rows.ledger.state = Some(State::Compensated);
                    settled.rows.back.work = Work::Gone;
                    settled.emits = match self.ledger.why {
                        Why::CloseThenReject => Events::DECLINED,
                        Why::NotAtAll | Why::Compensation | Why::InDoubt => Events::REFUNDED,
                    };
                }
            }
            Reaction::BackTimedOut { attempt } => {
                if self.takes_back(instance, attempt) {
                    settled.rows.back.work = Work::Due;
                }
            }
            Reaction::TakeBack => settled.take_back_again(instance),
        }
        let Settled { rows, emits, calls } = &settled;
        (*rows != self || *emits != Events::NONE || calls.is_some()).then_some(settled)
    }

    fn calls(&self, instance: u8, attempt: u8) -> bool {
        self.ledger.state == Some(State::Calling)
            && self.call.work == Work::Leased(instance)
            && self.call.attempt == attempt
    }

    fn takes_back(&self, instance: u8, attempt: u8) -> bool {
        self.ledger.state == Some(State::Compensating)
            && self.back.work == Work::Leased(instance)
            && self.back.attempt == attempt
    }

    /// Whether something here is left for a person to look at.
    pub(crate) fn stuck(&self) -> bool {
        self.call.work == Work::Stuck || self.notes.second_trigger || self.notes.discarded
    }
}

impl Settled {
    fn forward(&mut self, rules: &Rules, trigger: u8, instance: u8) {
        let rows = &mut self.rows;
        match (rules.forward)(rows.ledger.state, trigger == rows.ledger.trigger) {
            Forward::Run => {
                rows.ledger = Ledger { state: Some(State::Calling), trigger, why: Why::NotAtAll };
                rows.call.work = Work::Leased(instance);
                rows.call.attempt = 1;
                rows.notes.runs = (rows.notes.runs + 1).min(2);
                self.calls = Some((call_place(1), Ask::Charge));
            }
            Forward::SecondTrigger => rows.notes.second_trigger = true,
            Forward::Duplicate | Forward::Late => {}
        }
    }

    fn compensation(&mut self, rules: &Rules, lease_over: bool, instance: u8) {
        let rows = &mut self.rows;
        let blocked = (rules.waits_behind_second_trigger && rows.notes.second_trigger)
            || (rules.waits_behind_late_answer && rows.notes.late_answer);
        let call = (rules.call)(rows.call.work, lease_over);
        match (rules.compensation)(Kind::External, rows.ledger.state, call) {
            Compensation::Duplicate | Compensation::Late => rows.waits = false,
            _ if blocked => rows.waits = true,
            Compensation::NothingDone => {
                rows.ledger.state = Some(State::Void);
                rows.call.work = Work::Gone;
                rows.waits = false;
                if rules.nothing_done_emits {
                    self.emits = Events::REFUNDED;
                }
            }
            Compensation::Compensate => self.take_back(rules, Why::Compensation, instance),
            Compensation::InDoubt => self.take_back(rules, Why::InDoubt, instance),
            Compensation::Wait => rows.waits = true,
        }
    }

    fn answer(&mut self, saga: &Saga, reply: Reply, instance: u8) {
        let said = match reply {
            Reply::Accepted if saga.rejects_after_effect => Said::NoAfterEffect,
            Reply::Accepted => Said::Yes,
            Reply::Declined => Said::No,
        };
        let rows = &mut self.rows;
        // No attempt but this one has been answered, or the row would be settled: so every other one is unknown.
        let earlier_unknown = rows.call.attempt > 1;
        let (state, emits) = match (saga.rules.answer)(rows.ledger.state, said, earlier_unknown) {
            Answer::Done => (State::Done, Events::CHARGED),
            Answer::Rejected => (State::Rejected, Events::DECLINED),
            Answer::CloseThenReject => return self.take_back(&saga.rules, Why::CloseThenReject, instance),
            Answer::Late => {
                rows.notes.contradicted |= match rows.ledger.state {
                    Some(State::Done) => said == Said::No,
                    Some(State::Rejected | State::Void) => said != Said::No,
                    _ => false,
                };
                rows.notes.late_answer |= saga.rules.waits_behind_late_answer;
                return;
            }
        };
        rows.ledger.state = Some(state);
        rows.call.work = Work::Gone;
        self.emits = emits;
    }

    fn take_back(&mut self, rules: &Rules, why: Why, instance: u8) {
        let rows = &mut self.rows;
        rows.ledger.state = Some(State::Compensating);
        rows.ledger.why = why;
        if rules.doubt_drops_call {
            rows.call.work = Work::Gone;
        }
        rows.waits = false;
        rows.back.work = Work::Leased(instance);
        rows.back.attempt = 1;
        self.calls = Some((back_place(1), ask(why)));
    }

    /// The next attempt of the forward call: a retry that is due, or a lease that ran out. A call that cannot be retried
    /// any more is stuck; one whose compensation waits is left to it.
    fn take_call(&mut self, rules: &Rules, instance: u8) {
        let rows = &mut self.rows;
        if rows.ledger.state != Some(State::Calling) && rules.doubt_drops_call {
            return;
        }
        if rows.waits && (rules.call)(Work::Due, true) == Call::Open {
            return;
        }
        match rows.call.work {
            Work::Due | Work::Leased(_) if rows.call.attempt < rows.call.most => {
                rows.call.work = Work::Leased(instance);
                rows.call.attempt += 1;
                self.calls = Some((call_place(rows.call.attempt), Ask::Charge));
            }
            Work::Leased(_) => rows.call.work = Work::Stuck,
            Work::Gone | Work::Due | Work::Stuck => {}
        }
    }

    fn take_back_again(&mut self, instance: u8) {
        let rows = &mut self.rows;
        if rows.ledger.state == Some(State::Compensating) && matches!(rows.back.work, Work::Due | Work::Leased(_)) {
            rows.back.work = Work::Leased(instance);
            rows.back.attempt = (rows.back.attempt + 1).min(BACKS as u8);
            self.calls = Some((back_place(rows.back.attempt), ask(rows.ledger.why)));
        }
    }
}

/// A charge that is recorded is refunded; one that nobody is sure of has its key closed.
fn ask(why: Why) -> Ask {
    match why {
        Why::NotAtAll | Why::Compensation => Ask::Refund,
        Why::InDoubt | Why::CloseThenReject => Ask::CloseKey,
    }
}
