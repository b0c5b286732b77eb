//! Reactions that wait: why, until when, and how they go on. Those that failed, those behind them, those that a breaker holds, and
//! those that need a person.
//!
//! The invariant: what waits holds up its own saga only, and in the order in which it came; nothing that waits is dropped.

use std::time::Duration;

use saga_compensation::State;
use uuid::Uuid;

use crate::{
    breaker::{self, Admission},
    clock::millis,
    envelope::{self, Delivery, Envelope, clip},
    id::{ReactionId, SagaId},
    observer::{Measure, Outcome},
    participant::{Failure, StepKind, chain},
    pipeline::{Aborted, Arrival},
    reaction::{Current, Fold},
    signal::{self, Signal, Tells},
    step::Direction,
    store::{FailedAttempt, KEPT_FAILURES, LedgerRow, WorkRow, WorkState},
    turn::Turn,
};

/// How often a row of a step that this binary lacks is looked at.
const OTHER_VERSION: Duration = Duration::from_secs(60);
/// How long a call waits that its own compensation will put in doubt as soon as that may.
const COMPENSATION_FIRST: Duration = Duration::from_secs(1);
/// Longest text of an error that a row keeps, in bytes.
const MAX_ERROR: usize = 500;

/// A failure, fit to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownFailure {
    /// Trying again cannot help.
    pub(crate) for_good: bool,
    pub(crate) error: String,
}

impl From<Failure> for KnownFailure {
    fn from(failure: Failure) -> Self {
        let (for_good, error) = match failure {
            Failure::Retry(error) => (false, chain(error.as_ref())),
            Failure::GiveUp(why) | Failure::Undecodable(why) => (true, why),
        };
        // Foreign text: bounded, and on one line (PostgreSQL's text could not hold a NUL either).
        let error = clip(&error, MAX_ERROR).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { for_good, error }
    }
}

impl Fold<'_> {
    // ---- rows that go on ---------------------------------------------------------------------------------------------

    /// No events, but somebody should know: their bytes wait for a person, and block nobody.
    ///
    /// Whoever redrives or discards such messages holds their lock, which is that of the nil saga, and so does this from here to the
    /// commit: otherwise a message that two instances take at the same time would come back after a person has discarded it at the
    /// one. A batch that redrives some takes this lock with those of its sagas, so that the two may wait in a circle: a conflict.
    pub(crate) async fn malformed(&mut self, messages: Vec<Arrival<'_>>) -> Result<(), Aborted> {
        if messages.is_empty() {
            return Ok(());
        }
        self.done.tx.lock(&[SagaId(Uuid::nil())]).await?;
        let place = |delivery: &Delivery| ReactionId::of_message(&delivery.topic, delivery.partition, delivery.offset);
        let ids = messages.iter().filter_map(|message| match message {
            Arrival::Malformed(delivery, _) => Some(place(delivery)),
            _ => None,
        });
        let ids: Vec<ReactionId> = ids.collect();
        self.absent.discarded.extend(self.done.tx.discarded(&ids).await?);
        self.absent.waiting = self.done.tx.work_rows(&ids).await?.into_iter().map(|row| row.id).collect();
        for message in messages {
            self.settle(message).await?;
        }
        Ok(())
    }

    /// One of them.
    pub(crate) fn keep(&mut self, delivery: &Delivery, reason: String) {
        let id = ReactionId::of_message(&delivery.topic, delivery.partition, delivery.offset);
        if self.absent.discarded.contains(&id) || self.absent.waiting.contains(&id) {
            return; // Delivered again: it waits, or a person has looked at it before.
        }
        let told = self.now;
        self.tell_malformed(id, delivery, &reason, told);
        self.done.changes.work.retain(|row| row.id != id);
        self.done.changes.work.push(WorkRow {
            id,
            saga: SagaId(Uuid::nil()),
            step: String::new(),
            direction: Direction::Forward,
            state: WorkState::Stuck,
            seq: 0,
            delivery: delivery.clone(),
            due_at: None,
            attempts: 0,
            lease_owner: None,
            failures: Vec::new(),
            since: self.now,
            reason: clip(&reason, MAX_ERROR).to_owned(),
            blocks: false,
            counted: 0,
            counted_from: self.now,
            told,
            told_on: self.told_on(),
        });
    }

    /// Says that a message is stuck: in the log, and by a signal.
    fn tell_malformed(&mut self, id: ReactionId, delivery: &Delivery, reason: &str, seq: i64) {
        tracing::error!(
            participant = self.shared.participant.name(),
            topic = %delivery.topic,
            partition = delivery.partition,
            offset = delivery.offset,
            reason,
            "a message is stuck: it is no event that could be reacted to"
        );
        let signal = Signal {
            participant: self.shared.participant.name(),
            step: "",
            direction: Direction::Forward,
            saga: SagaId(Uuid::nil()),
            reaction: id,
            event: None,
            attempts: 0,
            seq,
            topic: &delivery.topic,
            partition: delivery.partition,
            offset: delivery.offset,
            reason: clip(reason, MAX_ERROR),
        };
        self.signal(Tells::Stuck, &signal, envelope::TraceContext::default());
    }

    /// A stuck message that a person redrives: this binary may know better what to make of its bytes than the one that kept them.
    pub(crate) async fn again(&mut self, id: ReactionId, message: Arrival<'_>) -> Result<(), Aborted> {
        let now = self.now;
        let nobody = SagaId(Uuid::nil());
        let Some(mut row) = self.rows(nobody).work(id).filter(|row| row.due_at.is_some_and(|due| due <= now)).cloned()
        else {
            return Ok(()); // Another instance was faster, or it was discarded.
        };
        if let Arrival::Malformed(delivery, reason) = message {
            let seq = row.next_told(now);
            self.tell_malformed(id, delivery, &reason, seq);
            let reason = clip(&reason, MAX_ERROR).to_owned();
            self.rows(nobody).put_work(WorkRow { state: WorkState::Stuck, due_at: None, reason, ..row });
            return Ok(());
        }
        self.rows(nobody).remove_work(id);
        self.settle(message).await
    }

    /// A row whose time has come: another attempt, the end of a lease, or a compensation that waited for that end.
    pub(crate) async fn due(&mut self, id: ReactionId, saga: SagaId) -> Result<(), Aborted> {
        let now = self.now;
        let Some(row) = self.rows(saga).work(id).filter(|row| row.due_at.is_some_and(|due| due <= now)).cloned() else {
            return Ok(()); // Another instance, or an earlier item of this batch, was faster.
        };
        self.resume(row).await
    }

    /// Rows that wait behind nothing any more.
    pub(crate) async fn release(&mut self, saga: SagaId) -> Result<(), Aborted> {
        for id in self.rows(saga).parked() {
            let rows = self.rows(saga);
            let Some(row) = rows.work(id).filter(|row| row.state == WorkState::Parked).cloned() else { continue };
            if !rows.blocked(row.direction, Some(row.seq)) {
                self.resume(row).await?;
            }
        }
        Ok(())
    }

    async fn resume(&mut self, mut row: WorkRow) -> Result<(), Aborted> {
        if row.state == WorkState::Parked || row.is_held() {
            // It waited for others, or for its step: its own time goes on now.
            row.counted_from = self.now;
        } else if let Some(due) = row.due_at {
            // Due, and not asked for: everything failed at its step, as many calls as may wait did, or nobody was there. Whoever is
            // asked for is held and waits like the others; whoever is not has had as little of its time.
            row.counted_from = row.counted_from.saturating_add(self.now.saturating_sub(due).max(0));
        }
        let Some(step) =
            self.shared.contracts.iter().position(|contract| contract.names().any(|name| name == row.step))
        else {
            // A step of another version of this participant: its rows wait for that, and are not looked at all the time.
            let due_at = Some(self.now.saturating_add(millis(OTHER_VERSION)));
            self.rows(row.saga).put_work(WorkRow { due_at, ..row });
            return Ok(());
        };
        let contract = self.contract(step);
        let state = self.rows(row.saga).ledger(&row.step).map(|ledger| ledger.state);
        let calls = match row.direction {
            Direction::Forward => state == Some(State::Calling),
            Direction::Compensation => state == Some(State::Compensating),
        };
        if calls && contract.kind == StepKind::External && row.state != WorkState::Parked {
            let saga = row.saga;
            let compensation_waits = row.direction == Direction::Forward
                && self.rows(saga).waiting().any(|other| {
                    other.step == row.step
                        && other.direction == Direction::Compensation
                        && other.state != WorkState::Stuck
                });
            if compensation_waits {
                // Nobody calls any more: the compensation that waited for the answer goes in doubt, see `release`.
                row.state = WorkState::Deferred;
                row.due_at = Some(self.now.saturating_add(millis(COMPENSATION_FIRST)));
                self.rows(saga).put_work(row);
                return Ok(());
            }
            let turn = match self.may(step, row.direction, row.id, true) {
                Ok(turn) => turn,
                Err(_) => {
                    let row = row.held(self.now);
                    self.rows(saga).put_work(row);
                    return Ok(());
                }
            };
            // Counted before the call is made, and under the saga's lock: of two instances only one gets here.
            row.attempts += 1;
            if row.direction == Direction::Forward
                && let Some(ledger) = self.rows(row.saga).ledger(&row.step).cloned()
            {
                let attempts = row.attempts;
                self.rows(row.saga).put_ledger(LedgerRow { attempts, ..ledger });
            }
            if let Some(turn) = turn {
                self.call(step, row, turn);
            }
            return Ok(());
        }
        let delivery = row.delivery.clone();
        match Envelope::decode(&delivery) {
            Ok(event) => {
                let (id, direction) = (row.id, row.direction);
                let name = self.rows(row.saga).name_of(contract);
                let current =
                    Current { id, step, contract, name, direction, delivery: &delivery, event: &event, row: Some(row) };
                self.react(current).await
            }
            Err(malformed) => {
                row.state = WorkState::Stuck;
                row.due_at = None;
                row.reason = malformed.to_string();
                let saga = row.saga;
                self.rows(saga).put_work(row);
                Ok(())
            }
        }
    }

    // ---- reactions that begin to wait --------------------------------------------------------------------------------

    pub(crate) fn park(&mut self, current: &Current<'_>, until: Option<i64>) -> Outcome {
        let mut row = self.work_row(current, WorkState::Parked);
        row.due_at = until;
        // Once, and not of one that its step cannot take, which may go to and fro.
        if current.row.as_ref().is_none_or(|row| row.state != WorkState::Parked && !row.is_held()) {
            self.tell(Tells::Parked, current, Some(&mut row), "");
        }
        self.rows(current.event.saga).put_work(row);
        Outcome::Parked
    }

    /// It may have been settled before its saga was forgotten, so that it must not be taken for new.
    pub(crate) fn too_old(&mut self, current: &Current<'_>) -> Outcome {
        if self.absent.discarded.contains(&current.id) {
            return self.absorb(current, Outcome::Duplicate);
        }
        let reason = "its saga is older than this participant's memory: it may have been settled before".to_owned();
        self.stick(current, reason, false)
    }

    pub(crate) fn stick(&mut self, current: &Current<'_>, reason: String, blocks: bool) -> Outcome {
        let mut row = self.work_row(current, WorkState::Stuck);
        row.blocks = blocks;
        row.due_at = None;
        row.reason = reason.clone();
        tracing::error!(
            participant = self.shared.participant.name(),
            step = current.contract.name,
            direction = %current.direction,
            saga = %current.event.saga,
            event = %current.event.id,
            topic = %current.delivery.topic,
            partition = current.delivery.partition,
            offset = current.delivery.offset,
            attempt = row.attempts,
            reason,
            "a reaction is stuck: it needs a person"
        );
        self.tell(Tells::Stuck, current, Some(&mut row), &reason);
        self.rows(current.event.saga).put_work(row);
        Outcome::Stuck(reason)
    }

    /// Writes a signal about a reaction, where the node publishes signals. Its row, if it has one, remembers which was the last; what
    /// is told without a row is final.
    pub(crate) fn tell(&mut self, tells: Tells, current: &Current<'_>, row: Option<&mut WorkRow>, reason: &str) {
        if self.shared.signals.is_none() {
            return;
        }
        let (attempts, seq) = row.map_or((0, self.now), |row| (row.attempts, row.next_told(self.now)));
        let signal = Signal {
            participant: self.shared.participant.name(),
            step: current.contract.name,
            direction: current.direction,
            saga: current.event.saga,
            reaction: current.id,
            event: Some(&current.event.id),
            attempts,
            seq,
            topic: &current.delivery.topic,
            partition: current.delivery.partition,
            offset: current.delivery.offset,
            reason,
        };
        self.signal(tells, &signal, current.event.trace.clone());
    }

    fn signal(&mut self, tells: Tells, signal: &Signal<'_>, trace: envelope::TraceContext) {
        let Some(topic) = &self.shared.signals else { return };
        let id = self.shared.clock.time_ordered_uuid();
        self.done.changes.outbox.extend(signal.row(tells, topic, id, self.now, trace));
    }

    /// Tells that these waiting reactions, of which something was told or which nobody else will hear of, are settled.
    pub(crate) fn tell_settled(&mut self, rows: impl Iterator<Item = WorkRow>) {
        for mut row in rows {
            row.told_on = self.told_on();
            let contract = self.shared.contracts.iter().find(|contract| contract.names().any(|name| name == row.step));
            // People are told the step's present name.
            let step = contract.map_or(row.step.clone(), |contract| contract.name.to_owned());
            let name = self.shared.participant.name();
            let signal = signal::of_row(Tells::Settled, name, &step, &mut row, "", &self.shared.clock);
            self.done.changes.outbox.extend(signal);
        }
    }

    fn told_on(&self) -> Option<String> {
        self.shared.signals.as_deref().map(ToOwned::to_owned)
    }

    /// May it go on now? With a turn, if it calls another system; otherwise `Err` says what it has to be held for.
    pub(crate) fn admit(&self, current: &Current<'_>) -> Result<Option<Turn>, &'static str> {
        self.may(current.step, current.direction, current.id, current.row.is_some())
    }

    /// The one place that decides whether a reaction goes on or is held. Room comes first: a probe that could not call would be lost.
    fn may(
        &self,
        step: usize,
        direction: Direction,
        id: ReactionId,
        waited: bool,
    ) -> Result<Option<Turn>, &'static str> {
        let turn = match self.contract(step).kind {
            StepKind::External => {
                let turn = self.shared.turns.take(step, direction, waited);
                Some(turn.ok_or("as many calls as may wait for the other system do")?)
            }
            _ => None,
        };
        match self.shared.breakers.ask(step, direction, id, self.now) {
            Admission::Go => Ok(turn),
            Admission::Hold(_) => Err("everything fails at this step: one reaction probes, the others wait"),
        }
    }

    /// Waits for its step, which is no attempt. See [`WorkRow::held`].
    pub(crate) fn hold(&mut self, current: &Current<'_>, why: &str) -> Outcome {
        let row = self.work_row(current, WorkState::Deferred).held(self.now);
        self.rows(current.event.saga).put_work(row);
        Outcome::Deferred(why.to_owned())
    }

    /// The step did what it was asked to.
    pub(crate) fn succeeded(&mut self, current: &Current<'_>) {
        let Current { step, direction, .. } = *current;
        if self.shared.breakers.succeeded(step, direction) {
            let (participant, name) = (self.shared.participant.name(), current.contract.name);
            tracing::info!(participant, step = name, %direction, "the step works again: its breaker is closed");
            self.measure(&Measure::Breaker { step: name, direction, open: false });
        }
    }

    /// A failed reaction waits for its next attempt, or for a person when its policy is used up.
    pub(crate) fn failed(&mut self, current: &Current<'_>, failure: KnownFailure) -> Outcome {
        let step = &self.shared.participant.steps()[current.step];
        let mut row = self.work_row(current, WorkState::Deferred);
        // A call's attempt was counted when it was begun.
        if current.row.as_ref().is_none_or(|row| row.state != WorkState::Calling) {
            row.attempts += 1;
        }
        row.lease_owner = None;
        // What was done must be taken back: a compensation's policy never ends.
        let policy = match current.direction {
            Direction::Forward => step.retry(),
            Direction::Compensation => step.retry().unbounded(),
        };
        let alarmed = self.impatient(current, &mut row, policy.declared_patience(), &failure);
        row.failures.push(FailedAttempt { at: self.now, attempt: row.attempts, error: failure.error.clone() });
        // The first one stays: it tells since when.
        let surplus = row.failures.len().saturating_sub(KEPT_FAILURES);
        row.failures.drain(1..1 + surplus);
        if failure.for_good {
            return self.stick(&current.with(Some(row)), failure.error, true);
        }
        // The alarm tells of this failure, too.
        let mut tells = !alarmed;
        let next = match self.blame(current) {
            breaker::Verdict::Opens(at) | breaker::Verdict::Excused(at) => {
                // Every probe fails: the first time somebody hears of it.
                tells &= row.told == 0;
                row = row.held(self.now);
                Some(at)
            }
            breaker::Verdict::Counts => {
                row.counted += 1;
                let wait = policy.next(row.counted, self.now - row.counted_from, self.shared.clock.random());
                let due = wait.map(|wait| self.now.saturating_add(millis(wait)));
                row.due_at = due;
                due
            }
        };
        let Some(due) = next else {
            let reason = format!("{} attempts failed, the last with: {}", row.attempts, failure.error);
            return self.stick(&current.with(Some(row)), reason, true);
        };
        tracing::warn!(
            participant = self.shared.participant.name(),
            step = current.contract.name,
            direction = %current.direction,
            saga = %current.event.saga,
            event = %current.event.id,
            attempt = row.attempts,
            error = failure.error,
            "a reaction failed and will be tried again in {} ms",
            due - self.now
        );
        if tells {
            self.tell(Tells::Deferred, current, Some(&mut row), &failure.error);
        }
        self.rows(current.event.saga).put_work(row);
        Outcome::Deferred(failure.error)
    }

    /// Is it the reaction that failed, or does everything fail at its step?
    fn blame(&mut self, current: &Current<'_>) -> breaker::Verdict {
        let Current { step, direction, .. } = *current;
        let verdict = self.shared.breakers.failed(step, direction, current.event.saga, self.now);
        if matches!(verdict, breaker::Verdict::Opens(_)) {
            let (participant, name) = (self.shared.participant.name(), current.contract.name);
            tracing::error!(
                participant,
                step = name,
                %direction,
                "everything fails at this step: its breaker is open, one reaction probes, and no failure counts"
            );
            self.measure(&Measure::Breaker { step: name, direction, open: true });
        }
        verdict
    }

    /// The first failure after the step's patience raises the alarm: told from the times of the failures before, so that no row has
    /// to remember it. What a row waited before its first failure is nobody's failing. Returns whether it was told.
    fn impatient(
        &mut self,
        current: &Current<'_>,
        row: &mut WorkRow,
        patience: Duration,
        failure: &KnownFailure,
    ) -> bool {
        let (Some(first), Some(last)) = (row.failures.first(), row.failures.last()) else { return false };
        let (alarm, before) = (first.at.saturating_add(millis(patience)), last.at);
        let alarmed = before < alarm && alarm <= self.now;
        if alarmed {
            tracing::error!(
                participant = self.shared.participant.name(),
                step = current.contract.name,
                direction = %current.direction,
                saga = %current.event.saga,
                event = %current.event.id,
                attempt = row.attempts,
                error = failure.error,
                "a reaction has failed for longer than its patience of {patience:?}, and goes on being tried"
            );
            let Current { direction, .. } = *current;
            self.measure(&Measure::PatienceExceeded { step: current.contract.name, direction });
            self.tell(Tells::Impatient, current, Some(row), &failure.error);
        }
        alarmed
    }

    pub(crate) fn work_row(&self, current: &Current<'_>, state: WorkState) -> WorkRow {
        match &current.row {
            Some(row) => WorkRow { state, told_on: self.told_on(), ..row.clone() },
            None => WorkRow {
                id: current.id,
                saga: current.event.saga,
                step: current.name.to_owned(),
                direction: current.direction,
                state,
                seq: 0,
                delivery: current.delivery.clone(),
                due_at: None,
                attempts: 0,
                lease_owner: None,
                failures: Vec::new(),
                since: self.now,
                reason: String::new(),
                blocks: true,
                counted: 0,
                counted_from: self.now,
                told: 0,
                told_on: self.told_on(),
            },
        }
    }
}
