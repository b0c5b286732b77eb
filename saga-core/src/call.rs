//! Calls to other systems: leased inside a transaction, made outside any, and answered inside another one.
//!
//! The invariant: the attempt is counted before the call is made, and the first answer settles the step, whichever attempt it
//! belongs to.

use std::time::Duration;

use saga_compensation as verdict;
use saga_compensation::State;
use tokio::time::Instant;

use crate::{
    clock::millis,
    envelope::{self, Delivery, Envelope},
    event::Encoded,
    id::{IdempotencyKey, ReactionId, SagaId},
    node::Shared,
    observer::{Outcome, Phase, Reaction, ReactionSpan},
    participant::{Failure, Known, Ran, Wire},
    pipeline::Aborted,
    reaction::{Current, Fold, KnownFailure, aborted, guarded},
    step::{CallContext, Direction, Doubt, StepContext},
    store::{LedgerRow, Record, WorkRow, WorkState},
};

/// How long after a call's own timeout its lease still lasts: the answer has to be settled within it.
const LEASE_MARGIN: Duration = Duration::from_secs(15);

/// A call to make once the transaction has committed.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: ReactionId,
    pub(crate) saga: SagaId,
    pub(crate) step: usize,
    pub(crate) direction: Direction,
    pub(crate) attempt: u32,
    /// The end of the lease, in milliseconds since the Unix epoch.
    pub(crate) lease_until: i64,
    pub(crate) what: Ask,
    pub(crate) delivery: Delivery,
}

/// What a call asks the other system for.
#[derive(Debug)]
pub(crate) enum Ask {
    Forward { on: Record },
    Reverse { record: Option<Record>, why: Record },
    InDoubt { on: Record, attempts: u32 },
}

/// What a call to another system came to.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) id: ReactionId,
    pub(crate) saga: SagaId,
    pub(crate) step: usize,
    pub(crate) direction: Direction,
    pub(crate) attempt: u32,
    pub(crate) result: Result<Vec<u8>, KnownFailure>,
}

impl Fold<'_> {
    pub(crate) async fn answer(&mut self, answer: &Answer) -> Result<(), Aborted> {
        let contract = self.contract(answer.step).clone();
        let rows = self.rows(answer.saga);
        let (Some(row), Some(ledger)) = (rows.work(answer.id).cloned(), rows.ledger(contract.name).cloned()) else {
            return Ok(()); // Another attempt's answer settled it: this one is late.
        };
        let began = Instant::now();
        let delivery = row.delivery.clone();
        let event = match Envelope::decode(&delivery) {
            Ok(event) => event,
            Err(_) => return Ok(()), // It was readable when its row was written.
        };
        let current = Current {
            id: answer.id,
            step: answer.step,
            contract,
            direction: answer.direction,
            delivery: &delivery,
            event: &event,
            row: Some(row),
        };
        let mut span = self.span(&current);
        let outcome = match (answer.direction, ledger.state) {
            (Direction::Forward, State::Calling) => {
                self.forward_answer(&current, ledger, answer, span.as_mut()).await?
            }
            (Direction::Compensation, State::Compensating) => {
                self.reversal(&current, ledger, answer, span.as_mut()).await?
            }
            _ => Outcome::Late,
        };
        self.done.spans.push((span, outcome, began.elapsed()));
        Ok(())
    }

    /// The first answer settles the row, whichever attempt it belongs to.
    async fn forward_answer(
        &mut self,
        current: &Current<'_>,
        ledger: LedgerRow,
        answer: &Answer,
        span: &mut dyn ReactionSpan,
    ) -> Result<Outcome, Aborted> {
        let attempts = current.row.as_ref().map_or(1, |row| row.attempts);
        let reply = match (&answer.result, self.known.get(&current.id)) {
            // Only the attempt that holds the lease can fail the row: not one that a newer attempt has replaced, and not one
            // whose failure was written down before.
            (_, Some(failure)) | (Err(failure), None) if current.holds_lease(answer) => {
                return Ok(self.failed(current, failure.clone()));
            }
            (_, Some(_)) | (Err(_), None) => return Ok(Outcome::Late),
            (Ok(reply), None) => reply,
        };
        let saga = answer.saga;
        let step = &self.shared.participant.steps()[current.step];
        let on_body = ledger.trigger_body.clone().unwrap_or_default();
        let on = Wire { event_type: &ledger.trigger_type, body: &on_body };
        self.done.last_ran = Some(current.id);
        let mut cx = StepContext { conn: self.done.tx.conn(), saga, now: self.now };
        let ran = guarded(step.timeout(), span.span(), step.run(on, Some(reply), &mut cx)).await;
        let ran = ran.map_err(|failure| aborted(current.id, failure))?;
        let said = match ran {
            Ran::Emits(_) => verdict::Said::Yes,
            Ran::Rejects(_) => verdict::Said::No,
            Ran::RejectsAfterEffect(_) => verdict::Said::NoAfterEffect,
        };
        let mut opened = ledger;
        opened.reply = Some(reply.clone());
        opened.attempts = attempts;
        match verdict::answer(Some(opened.state), said, attempts > 1) {
            verdict::Answer::Done | verdict::Answer::Rejected => self.ran(current, opened, ran, span),
            verdict::Answer::Late => Ok(Outcome::Late),
            verdict::Answer::CloseThenReject => {
                let (Ran::Emits(no) | Ran::Rejects(no) | Ran::RejectsAfterEffect(no)) = ran;
                let record_topic = no.as_ref().map(|no| no.event.topic.to_owned());
                let record = no.map(|no| Record { event_type: no.event.name.to_owned(), body: no.body });
                let name = current.contract.name;
                let closing = ReactionId::derive(saga, name, Direction::Compensation, &current.event.id);
                let mut work = self.work_row(current, WorkState::Calling);
                let (since, failures) = (self.now, Vec::new());
                let direction = Direction::Compensation;
                work = WorkRow { id: closing, direction, attempts: 1, forgiven: 0, since, failures, ..work };
                self.rows(saga).remove_work(current.id);
                let (state, changed_at) = (State::Compensating, self.now);
                let row = LedgerRow { state, rejecting: true, record, record_topic, changed_at, ..opened };
                self.rows(saga).put_ledger(row);
                self.call(current.step, work);
                Ok(Outcome::Called)
            }
        }
    }

    /// The call that took the step back, or closed its key, was answered.
    async fn reversal(
        &mut self,
        current: &Current<'_>,
        ledger: LedgerRow,
        answer: &Answer,
        span: &mut dyn ReactionSpan,
    ) -> Result<Outcome, Aborted> {
        let reversal = match (&answer.result, self.known.get(&current.id)) {
            // Only the attempt that holds the lease can fail the row: not one that a newer attempt has replaced, and not one
            // whose failure was written down before.
            (_, Some(failure)) | (Err(failure), None) if current.holds_lease(answer) => {
                return Ok(self.failed(current, failure.clone()));
            }
            (_, Some(_)) | (Err(_), None) => return Ok(Outcome::Late),
            (Ok(reversal), None) => reversal,
        };
        if ledger.rejecting {
            // The key is closed: now the step may say its no.
            let no = match ledger.record.clone() {
                None => None,
                Some(record) => match current.contract.rejects.iter().find(|event| event.name == record.event_type) {
                    Some(event) => Some(Encoded { event: *event, subject: None, body: record.body }),
                    // Of another version: dropping it would leave the saga without its rejection.
                    None => {
                        let why = format!("the rejection {} is not declared any more", record.event_type);
                        return Err(aborted(current.id, Failure::GiveUp(why)));
                    }
                },
            };
            self.close(current, ledger, State::Compensated, envelope::Kind::Rejected, no, span)?;
            return Ok(Outcome::Rejected);
        }
        let step = &self.shared.participant.steps()[current.step];
        let from = Wire { event_type: "", body: reversal };
        let why = Wire { event_type: &current.event.event_type, body: &current.event.body };
        self.done.last_ran = Some(current.id);
        let mut cx = StepContext { conn: self.done.tx.conn(), saga: answer.saga, now: self.now };
        let emits = guarded(step.timeout(), span.span(), step.compensate(Some(from), why, &mut cx)).await;
        let emits = emits.map_err(|failure| aborted(current.id, failure))?;
        self.close(current, ledger, State::Compensated, envelope::Kind::Compensated, emits, span)?;
        Ok(Outcome::Compensated)
    }

    /// Leases the row to this process; the call goes out after the commit.
    pub(crate) fn call(&mut self, step: usize, mut row: WorkRow) {
        let saga = row.saga;
        let Some(ledger) = self.rows(saga).ledger(&row.step).cloned() else { return };
        let lease_until =
            self.now.saturating_add(millis(self.shared.participant.steps()[step].timeout() + LEASE_MARGIN));
        row.state = WorkState::Calling;
        row.lease_owner = Some(self.shared.instance);
        row.due_at = Some(lease_until);
        let on = Record { event_type: ledger.trigger_type, body: ledger.trigger_body.unwrap_or_default() };
        let what = match row.direction {
            Direction::Forward => Ask::Forward { on },
            Direction::Compensation if ledger.rejecting || (ledger.record.is_none() && ledger.reply.is_none()) => {
                Ask::InDoubt { on, attempts: ledger.attempts }
            }
            Direction::Compensation => match Envelope::decode(&row.delivery) {
                Ok(event) => {
                    let why = Record { event_type: event.event_type, body: event.body };
                    Ask::Reverse { record: ledger.record, why }
                }
                Err(_) => return, // It was readable when its row was written.
            },
        };
        self.done.calls.push(Call {
            id: row.id,
            saga,
            step,
            direction: row.direction,
            attempt: row.attempts,
            lease_until,
            what,
            delivery: row.delivery.clone(),
        });
        self.rows(saga).put_work(row);
    }
}

impl Current<'_> {
    fn holds_lease(&self, answer: &Answer) -> bool {
        self.row.as_ref().is_some_and(|row| row.state == WorkState::Calling && row.attempts == answer.attempt)
    }
}

impl Call {
    /// Makes the call, outside any transaction.
    pub(crate) async fn make(&self, shared: &Shared) -> Answer {
        let step = &shared.participant.steps()[self.step];
        let contract = &shared.contracts[self.step];
        let participant = shared.participant.name();
        let began = Instant::now();
        let trace = Envelope::decode(&self.delivery).map(|event| event.trace).unwrap_or_default();
        let span = shared.observer.reaction(&Reaction {
            participant,
            step: contract.name,
            direction: self.direction,
            saga: self.saga,
            event: None,
            event_type: None,
            position: None,
            attempt: self.attempt,
            phase: Phase::Call,
            parent: &trace,
        });
        let key = |direction| IdempotencyKey::derive(self.saga, participant, contract.name, direction);
        let cx = CallContext { saga: self.saga, key: key(self.direction), attempt: self.attempt };
        let result = match &self.what {
            Ask::Forward { on } => {
                let on = Wire { event_type: &on.event_type, body: &on.body };
                guarded(step.timeout(), span.span(), step.call(on, &cx)).await
            }
            Ask::Reverse { record, why } => {
                let record = record.as_ref().map(|r| Wire { event_type: &r.event_type, body: &r.body });
                let why = Wire { event_type: &why.event_type, body: &why.body };
                guarded(step.timeout(), span.span(), step.reverse(Known::Done { record, why }, &cx)).await
            }
            Ask::InDoubt { on, attempts } => {
                let doubt = Doubt { forward_key: key(Direction::Forward), attempts: *attempts };
                let on = Wire { event_type: &on.event_type, body: &on.body };
                guarded(step.timeout(), span.span(), step.reverse(Known::InDoubt { on, doubt: &doubt }, &cx)).await
            }
        };
        let result = result.map_err(KnownFailure::from);
        let outcome = match &result {
            Ok(_) => Outcome::Answered,
            Err(failure) => Outcome::Deferred(failure.error.clone()),
        };
        span.settle(&outcome, began.elapsed());
        Answer {
            id: self.id,
            saga: self.saga,
            step: self.step,
            direction: self.direction,
            attempt: self.attempt,
            result,
        }
    }
}
