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
    envelope::{self, Delivery, Envelope, clip},
    event::Encoded,
    harness::{broken, fails, reach},
    id::{EventId, IdempotencyKey, ReactionId, SagaId},
    node::Shared,
    observer::{Outcome, Phase, Reaction, ReactionSpan},
    participant::{Failure, Known, Ran, Wire},
    pipeline::Aborted,
    reaction::{Current, Fold, aborted, guarded},
    step::{CallContext, Direction, Doubt, StepContext},
    store::{LedgerRow, Record, WorkRow, WorkState},
    turn::Turn,
    work::KnownFailure,
};

/// How long after a call's own timeout its lease still lasts: the answer has to be settled within it.
const LEASE_MARGIN: Duration = Duration::from_secs(15);

/// A call to make once the transaction has committed.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: ReactionId,
    pub(crate) saga: SagaId,
    pub(crate) step: usize,
    /// What its saga calls the step: its keys carry it.
    pub(crate) name: &'static str,
    pub(crate) direction: Direction,
    pub(crate) attempt: u32,
    /// The end of the lease, in milliseconds since the Unix epoch.
    pub(crate) lease_until: i64,
    pub(crate) what: Ask,
    pub(crate) delivery: Delivery,
    pub(crate) turn: Turn,
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
    /// The lease that it was made under: attempts that are given back have their numbers again, leases are never the same.
    pub(crate) lease_until: i64,
    pub(crate) came: Came,
    /// What the call was made for, in case its row is gone.
    pub(crate) delivery: Delivery,
}

/// See [`Answer`].
#[derive(Debug, Clone)]
pub(crate) enum Came {
    /// To an answer: its bytes.
    Answered(Vec<u8>),
    /// To nothing that anybody knows.
    Failed(KnownFailure),
    /// It was never made: its turn came when its lease might have ended under it.
    NotMade,
}

impl Fold<'_> {
    pub(crate) async fn answer(&mut self, answer: &Answer) -> Result<(), Aborted> {
        let began = Instant::now();
        let contract = self.contract(answer.step);
        let rows = self.rows(answer.saga);
        let name = rows.name_of(contract);
        let (row, ledger) = (rows.work(answer.id).cloned(), rows.ledger(name).cloned());
        // It could be read when the call was leased.
        let Ok(event) = Envelope::decode(&answer.delivery) else { return Ok(()) };
        let waits = row.is_some();
        let current = Current {
            id: answer.id,
            step: answer.step,
            contract,
            name,
            direction: answer.direction,
            delivery: &answer.delivery,
            event: &event,
            row,
        };
        let mut span = self.span(&current);
        let outcome = match (answer.direction, ledger) {
            (Direction::Forward, Some(ledger))
                if (waits && ledger.state == State::Calling)
                    || broken!(self.shared.harness, SecondAnswerOverwrites) =>
            {
                self.forward_answer(&current, ledger, answer, span.as_mut()).await?
            }
            (Direction::Compensation, Some(ledger)) if waits && ledger.state == State::Compensating => {
                self.reversal(&current, ledger, answer, span.as_mut()).await?
            }
            (_, ledger) => self.late(&current, ledger, answer),
        };
        self.done.spans.push((span, outcome, began.elapsed()));
        Ok(())
    }

    /// Another attempt settled the step before. All attempts carry one key, so that this answer should say what that one said:
    /// where it does not, the other system does not keep its keys, and a person has to know. A key that was closed, or is being
    /// closed, needs nobody: closing it took back whatever this answer speaks of.
    fn late(&mut self, current: &Current<'_>, ledger: Option<LedgerRow>, answer: &Answer) -> Outcome {
        let settled = ledger.filter(|row| matches!(row.state, State::Done | State::Rejected)).and_then(|row| row.reply);
        match (settled, &answer.came) {
            (Some(settled), Came::Answered(late)) if settled != *late => {
                let text = |bytes: &[u8]| clip(&String::from_utf8_lossy(bytes), 150).to_owned();
                let (first, late) = (text(&settled), text(late));
                let reason = format!("attempt {} was answered {late}, after {first} had settled it", answer.attempt);
                // Beside the step's own reactions: it is no event, and nothing waits for it.
                let event = EventId(format!("{}#late-{}", current.event.id, answer.attempt));
                let id = ReactionId::derive(answer.saga, current.name, answer.direction, &event);
                self.stick(&Current { id, ..current.with(None) }, reason, false)
            }
            _ => Outcome::Late,
        }
    }

    /// The bytes to settle with, or what became of the row without any.
    ///
    /// Only the attempt that holds the lease can fail the row: not one that a newer attempt has replaced, and not one whose
    /// failure was written down before.
    fn bytes<'a>(&mut self, current: &Current<'_>, answer: &'a Answer) -> Result<&'a [u8], Outcome> {
        let holds_lease = current.row.as_ref().is_some_and(|row| {
            row.state == WorkState::Calling && row.attempts == answer.attempt && row.due_at == Some(answer.lease_until)
        });
        match (&answer.came, self.known.get(&current.id)) {
            (Came::Answered(bytes), None) => Ok(bytes),
            (Came::NotMade, None) if holds_lease => Err(self.give_back(current)),
            (_, Some(failure)) | (Came::Failed(failure), None) if holds_lease => {
                Err(self.failed(current, failure.clone()))
            }
            _ => Err(Outcome::Late),
        }
    }

    /// A call that was not made is no attempt, and waits as if it had had no turn.
    fn give_back(&mut self, current: &Current<'_>) -> Outcome {
        let mut row = self.work_row(current, WorkState::Deferred);
        row.attempts -= 1;
        let row = row.held(self.now);
        let attempts = row.attempts;
        let rows = self.rows(row.saga);
        if let Some(ledger) = rows.ledger(&row.step).filter(|_| row.direction == Direction::Forward).cloned() {
            rows.put_ledger(LedgerRow { attempts, ..ledger });
        }
        rows.put_work(row);
        Outcome::Deferred("its turn came too late for its lease".to_owned())
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
        let reply = match self.bytes(current, answer) {
            Ok(reply) => reply,
            Err(outcome) => return Ok(outcome),
        };
        let saga = answer.saga;
        let step = &self.shared.participant.steps()[current.step];
        let on_body = ledger.trigger_body.clone().unwrap_or_default();
        let on = Wire { event_type: &ledger.trigger_type, body: &on_body };
        self.done.last_ran = Some(current.id);
        let fails = fails!(self.shared.harness, current);
        let mut cx = StepContext { conn: self.done.tx.conn(), saga, now: self.now };
        let ran = guarded(fails, step.timeout(), span.span(), step.run(on, Some(reply), &mut cx)).await;
        let ran = ran.map_err(|failure| aborted(current.id, failure))?;
        self.succeeded(current);
        let said = match ran {
            Ran::Emits(_) => verdict::Said::Yes,
            Ran::Rejects(_) => verdict::Said::No,
            Ran::RejectsAfterEffect(_) => verdict::Said::NoAfterEffect,
        };
        let mut opened = ledger;
        opened.reply = Some(reply.to_vec());
        opened.attempts = attempts;
        let earlier_unknown = attempts > 1 && !broken!(self.shared.harness, RefusalBelieved);
        let state = if broken!(self.shared.harness, SecondAnswerOverwrites) { State::Calling } else { opened.state };
        match verdict::answer(Some(state), said, earlier_unknown) {
            verdict::Answer::Done | verdict::Answer::Rejected => self.ran(current, opened, ran, span),
            verdict::Answer::Late => Ok(Outcome::Late),
            verdict::Answer::CloseThenReject => {
                let (Ran::Emits(no) | Ran::Rejects(no) | Ran::RejectsAfterEffect(no)) = ran;
                let record_topic = no.as_ref().map(|no| no.event.topic.to_owned());
                let record_subject = no.as_ref().and_then(|no| no.subject.clone());
                let ending = no.as_ref().and_then(|no| no.event.ending);
                let record = no.map(|no| Record { event_type: no.event.name.to_owned(), body: no.body });
                let closing = ReactionId::derive(saga, current.name, Direction::Compensation, &current.event.id);
                let mut work = self.work_row(current, WorkState::Calling);
                let (since, failures) = (self.now, Vec::new());
                let direction = Direction::Compensation;
                work = WorkRow {
                    id: closing,
                    direction,
                    attempts: 1,
                    counted: 0,
                    counted_from: since,
                    told: 0,
                    since,
                    failures,
                    ..work
                };
                self.rows(saga).remove_work(current.id);
                let (state, changed_at) = (State::Compensating, self.now);
                let row = LedgerRow {
                    state,
                    rejecting: true,
                    record,
                    record_topic,
                    record_subject,
                    ending,
                    changed_at,
                    ..opened
                };
                self.rows(saga).put_ledger(row);
                // It goes on from an answer, and is no reaction that could be held before anything was written.
                match self.shared.turns.take(current.step, direction, true) {
                    Some(turn) => self.call(current.step, work, turn),
                    None => self.rows(saga).put_work(WorkRow { attempts: 0, ..work }.held(since)),
                }
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
        let reversal = match self.bytes(current, answer) {
            Ok(reversal) => reversal,
            Err(outcome) => return Ok(outcome),
        };
        if ledger.rejecting {
            self.succeeded(current);
            // The key is closed: now the step may say its no.
            let no = match ledger.record.clone() {
                None => None,
                Some(record) => match current.contract.rejects.iter().find(|event| event.name == record.event_type) {
                    Some(event) => {
                        Some(Encoded { event: *event, subject: ledger.record_subject.clone(), body: record.body })
                    }
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
        let fails = fails!(self.shared.harness, current);
        let mut cx = StepContext { conn: self.done.tx.conn(), saga: answer.saga, now: self.now };
        let emits = guarded(fails, step.timeout(), span.span(), step.compensate(Some(from), why, &mut cx)).await;
        let emits = emits.map_err(|failure| aborted(current.id, failure))?;
        self.succeeded(current);
        self.close(current, ledger, State::Compensated, envelope::Kind::Compensated, emits, span)?;
        Ok(Outcome::Compensated)
    }

    /// Leases the row to this process; the call goes out after the commit.
    pub(crate) fn call(&mut self, step: usize, mut row: WorkRow, turn: Turn) {
        let saga = row.saga;
        let contract = self.contract(step);
        let name = self.rows(saga).name_of(contract);
        let Some(ledger) = self.rows(saga).ledger(name).cloned() else { return };
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
            name,
            direction: row.direction,
            attempt: row.attempts,
            lease_until,
            what,
            delivery: row.delivery.clone(),
            turn,
        });
        self.rows(saga).put_work(row);
    }
}

impl Call {
    /// Makes the call, outside any transaction; not one whose turn came so late that its lease might end under it.
    pub(crate) async fn make(self, shared: &Shared) -> Answer {
        let step = &shared.participant.steps()[self.step];
        if shared.clock.now() > self.latest(shared) {
            return self.not_made();
        }
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
        let key = |direction| IdempotencyKey::derive(self.saga, participant, self.name, direction);
        let mut cx = CallContext { saga: self.saga, key: key(self.direction), attempt: self.attempt };
        if broken!(shared.harness, KeyPerAttempt) {
            cx.key.0 = uuid::Uuid::from_u128(cx.key.0.as_u128() ^ u128::from(self.attempt));
        }
        reach!(shared.harness, BeforeCall);
        let result = match &self.what {
            Ask::Forward { on } => {
                let on = Wire { event_type: &on.event_type, body: &on.body };
                guarded(false, step.timeout(), span.span(), step.call(on, &cx)).await
            }
            Ask::Reverse { record, why } => {
                let record = record.as_ref().map(|r| Wire { event_type: &r.event_type, body: &r.body });
                let why = Wire { event_type: &why.event_type, body: &why.body };
                guarded(false, step.timeout(), span.span(), step.reverse(Known::Done { record, why }, &cx)).await
            }
            Ask::InDoubt { on, attempts } => {
                let doubt = Doubt { forward_key: key(Direction::Forward), attempts: *attempts };
                let on = Wire { event_type: &on.event_type, body: &on.body };
                guarded(false, step.timeout(), span.span(), step.reverse(Known::InDoubt { on, doubt: &doubt }, &cx))
                    .await
            }
        };
        let (outcome, came) = match result.map_err(KnownFailure::from) {
            Ok(bytes) => (Outcome::Answered, Came::Answered(bytes)),
            Err(failure) => (Outcome::Deferred(failure.error.clone()), Came::Failed(failure)),
        };
        reach!(shared.harness, AfterCall);
        span.settle(&outcome, began.elapsed());
        self.came(came)
    }

    /// The last moment at which it may be made, in milliseconds since the Unix epoch.
    fn latest(&self, shared: &Shared) -> i64 {
        self.lease_until.saturating_sub(millis(shared.participant.steps()[self.step].timeout()))
    }

    /// How long it may wait for its turn.
    pub(crate) fn patience(&self, shared: &Shared) -> Duration {
        let left = self.latest(shared).saturating_sub(shared.clock.now());
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }

    /// Its turn did not come in time.
    pub(crate) fn not_made(self) -> Answer {
        self.came(Came::NotMade)
    }

    fn came(self, came: Came) -> Answer {
        let Self { id, saga, step, direction, attempt, lease_until, delivery, .. } = self;
        Answer { id, saga, step, direction, attempt, lease_until, came, delivery }
    }
}
