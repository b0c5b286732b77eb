//! One reaction after the other, folded over the rows of its saga: ask the verdict, run the step, remember what to write.
//!
//! The invariant: *already done?* is asked before *may I?*, and both before the step's own code runs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    panic::AssertUnwindSafe,
    time::Duration,
};

use futures_util::FutureExt as _;
use saga_compensation as verdict;
use saga_compensation::State;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::{
    call::Call,
    envelope::{self, Delivery, Envelope, MAX_HOPS, Message, clip},
    event::{Encoded, EventType},
    harness::{broken, fails},
    id::{EventId, ReactionId, SagaId},
    ledger::SagaRows,
    node::Shared,
    observer::{Emission, Measure, Outcome, Phase, Reaction, ReactionSpan},
    participant::{Contract, Failure, Ran, StepKind, Wire, chain},
    pipeline::{Aborted, Arrival},
    signal::Tells,
    step::{BoxError, Direction, StepContext},
    store::{Changes, Fault, LedgerRow, OutboxRow, Record, Tx, WorkRow, WorkState, fault},
    work::KnownFailure,
};

/// A transaction that is ready to be written.
pub(crate) struct Folded {
    pub(crate) tx: Tx,
    pub(crate) changes: Changes,
    pub(crate) calls: Vec<Call>,
    pub(crate) spans: Vec<(Box<dyn ReactionSpan>, Outcome, Duration)>,
    /// Whose code ran last in the transaction.
    pub(crate) last_ran: Option<ReactionId>,
}

/// The batch's transaction with everything that it has decided so far.
pub(crate) struct Fold<'f> {
    pub(crate) shared: &'f Shared,
    pub(crate) known: &'f HashMap<ReactionId, KnownFailure>,
    pub(crate) now: i64,
    pub(crate) absent: Absent,
    sagas: BTreeMap<SagaId, SagaRows>,
    pub(crate) done: Folded,
}

/// What the rows of the batch's sagas cannot tell.
#[derive(Debug)]
pub(crate) struct Absent {
    /// Older than this participant's memory.
    pub(crate) forgotten: BTreeSet<SagaId>,
    /// Reactions to messages that are no event, or to events of forgotten sagas, that a person has discarded before.
    pub(crate) discarded: Vec<ReactionId>,
    /// Messages that are no event and wait for a person already.
    pub(crate) waiting: Vec<ReactionId>,
}

/// A reaction on its way through the fold.
pub(crate) struct Current<'r> {
    pub(crate) id: ReactionId,
    pub(crate) step: usize,
    pub(crate) contract: &'r Contract,
    /// What its saga calls the step: what rows, ids and keys carry. People and metrics are told the contract's name.
    pub(crate) name: &'static str,
    pub(crate) direction: Direction,
    pub(crate) delivery: &'r Delivery,
    pub(crate) event: &'r Envelope,
    /// The row that it waited in, if it did.
    pub(crate) row: Option<WorkRow>,
}

impl<'f> Fold<'f> {
    pub(crate) fn new(
        shared: &'f Shared,
        tx: Tx,
        ledger: Vec<LedgerRow>,
        work: Vec<WorkRow>,
        known: &'f HashMap<ReactionId, KnownFailure>,
        absent: Absent,
    ) -> Self {
        let mut sagas = BTreeMap::<SagaId, SagaRows>::new();
        for row in ledger {
            sagas.entry(row.saga).or_default().read_ledger(row);
        }
        for row in work {
            sagas.entry(row.saga).or_default().read_work(row);
        }
        let done = Folded { tx, changes: Changes::default(), calls: Vec::new(), spans: Vec::new(), last_ran: None };
        Self { shared, known, now: shared.clock.now(), absent, sagas, done }
    }

    /// Settles one arrival, and then whatever of its saga need not wait any longer.
    pub(crate) async fn settle(&mut self, arrival: Arrival<'_>) -> Result<(), Aborted> {
        let saga = match arrival {
            Arrival::Passed(event_type) => {
                self.measure(&Measure::Passed { event_type: &event_type });
                return Ok(());
            }
            Arrival::Malformed(delivery, reason) => {
                self.keep(delivery, reason);
                return Ok(());
            }
            Arrival::Again(id, message) => return Box::pin(self.again(id, *message)).await,
            Arrival::Event(delivery, event) => {
                for (step, direction) in self.shared.reactions(&event.event_type) {
                    let contract = self.contract(step);
                    let name = self.name_of(contract, direction, &event);
                    let id = ReactionId::derive(event.saga, name, direction, &event.id);
                    let current = Current { id, step, contract, name, direction, delivery, event: &event, row: None };
                    self.react(current).await?;
                }
                event.saga
            }
            Arrival::Due(id, saga) => {
                self.due(id, saga).await?;
                saga
            }
            Arrival::Answer(answer) => {
                self.answer(answer).await?;
                answer.saga
            }
        };
        self.release(saga).await
    }

    /// What is to be written.
    pub(crate) fn finish(mut self) -> Folded {
        // A call that was answered later in the same batch need not be made any more.
        let sagas = &self.sagas;
        self.done.calls.retain(|call| {
            let row = sagas.get(&call.saga).and_then(|rows| rows.work(call.id));
            row.is_some_and(|row| row.state == WorkState::Calling && row.due_at == Some(call.lease_until))
        });
        for rows in std::mem::take(&mut self.sagas).into_values() {
            self.tell_settled(rows.settled());
            rows.collect(&mut self.done.changes);
        }
        self.done
    }

    pub(crate) fn contract(&self, step: usize) -> &'f Contract {
        &self.shared.contracts[step]
    }

    /// What the saga of an event calls a step. Where it has no row of the step, what a person discarded tells.
    fn name_of(&self, contract: &Contract, direction: Direction, event: &Envelope) -> &'static str {
        let discarded =
            |name: &&str| self.absent.discarded.contains(&ReactionId::derive(event.saga, name, direction, &event.id));
        let knows = self.sagas.get(&event.saga).and_then(|rows| rows.knows(contract));
        knows.or_else(|| contract.formerly.iter().copied().find(discarded)).unwrap_or(contract.name)
    }

    pub(crate) fn rows(&mut self, saga: SagaId) -> &mut SagaRows {
        self.sagas.entry(saga).or_default()
    }

    pub(crate) fn measure(&self, measure: &Measure<'_>) {
        self.shared.observer.measure(self.shared.participant.name(), measure);
    }

    // ---- one reaction ------------------------------------------------------------------------------------------------

    pub(crate) async fn react(&mut self, current: Current<'_>) -> Result<(), Aborted> {
        let began = Instant::now();
        let mut span = self.span(&current);
        let outcome = match current.direction {
            Direction::Forward => self.forward(&current, span.as_mut()).await?,
            Direction::Compensation => self.compensation(&current, span.as_mut()).await?,
        };
        self.done.spans.push((span, outcome, began.elapsed()));
        Ok(())
    }

    async fn forward(&mut self, current: &Current<'_>, span: &mut dyn ReactionSpan) -> Result<Outcome, Aborted> {
        let saga = current.event.saga;
        let name = current.name;
        if current.row.is_none() && self.rows(saga).work(current.id).is_some() {
            return Ok(Outcome::Duplicate); // Its row owns it.
        }
        if self.absent.forgotten.contains(&saga) {
            return Ok(self.too_old(current));
        }
        let step = &self.shared.participant.steps()[current.step];
        let (state, first) = match self.rows(saga).ledger(name) {
            // A person has settled it.
            Some(row) if row.has_discarded(current.id) => return Ok(self.absorb(current, Outcome::Duplicate)),
            // The first one was discarded before it ran: another may take its place.
            Some(row) if row.is_vacant() => (None, current.event.id.clone()),
            Some(row) => (Some(row.state), row.trigger.clone()),
            None => (None, current.event.id.clone()),
        };
        let state = state.filter(|_| !broken!(self.shared.harness, NoLedgerCheck));
        let state = state.filter(|state| *state != State::Void || !broken!(self.shared.harness, VoidForgotten));
        match verdict::forward(state, first == current.event.id || current.contract.first_trigger_wins) {
            verdict::Forward::Duplicate => Ok(self.absorb(current, Outcome::Duplicate)),
            verdict::Forward::Late => {
                self.absorbed(current);
                Ok(self.absorb(current, Outcome::Late))
            }
            verdict::Forward::SecondTrigger => {
                let reason = format!("second trigger: {name} was triggered by event {} before", clip(&first.0, 64));
                Ok(self.stick(current, reason, false))
            }
            verdict::Forward::Run => {
                if self.rows(saga).blocked(Direction::Forward, current.row.as_ref().map(|row| row.seq))
                    && !broken!(self.shared.harness, ParkedOvertaken)
                {
                    return Ok(self.park(current, None));
                }
                if let Some(failure) = self.known.get(&current.id) {
                    return Ok(self.failed(current, failure.clone()));
                }
                let turn = match self.admit(current) {
                    Ok(turn) => turn,
                    Err(why) => return Ok(self.hold(current, why)),
                };
                let opened = self.open(current);
                if let Some(turn) = turn {
                    let mut row = self.work_row(current, WorkState::Calling);
                    row.attempts = 1;
                    self.rows(saga).put_ledger(LedgerRow { state: State::Calling, attempts: 1, ..opened });
                    self.call(current.step, row, turn);
                    return Ok(Outcome::Called);
                }
                let on = Wire { event_type: &current.event.event_type, body: &current.event.body };
                self.done.last_ran = Some(current.id);
                let fails = fails!(self.shared.harness, current);
                let mut cx = StepContext { conn: self.done.tx.conn(), saga, now: self.now };
                let ran = guarded(fails, step.timeout(), span.span(), step.run(on, None, &mut cx)).await;
                let ran = ran.map_err(|failure| aborted(current.id, failure))?;
                self.succeeded(current);
                self.ran(current, opened, ran, span)
            }
        }
    }

    async fn compensation(&mut self, current: &Current<'_>, span: &mut dyn ReactionSpan) -> Result<Outcome, Aborted> {
        let saga = current.event.saga;
        let name = current.name;
        if current.row.is_none() && self.rows(saga).work(current.id).is_some() {
            return Ok(Outcome::Duplicate);
        }
        if self.absent.forgotten.contains(&saga) {
            return Ok(self.too_old(current));
        }
        let now = self.now;
        let rows = self.rows(saga);
        let ledger = rows.ledger(name).cloned();
        let stuck = rows.forward_of(name).is_some_and(|row| row.state == WorkState::Stuck);
        if stuck && broken!(self.shared.harness, StuckCallWaits) {
            return Ok(self.park(current, None));
        }
        let rows = self.rows(saga);
        let lease = rows
            .forward_of(name)
            .filter(|row| row.state == WorkState::Calling)
            .and_then(|row| row.due_at)
            .filter(|until| *until > now);
        let call = if lease.is_some() { verdict::Call::Running } else { verdict::Call::Open };
        let state = ledger.as_ref().map(|row| row.state);
        let state = state.filter(|state| *state != State::Calling || !broken!(self.shared.harness, CallingAsNone));
        let verdict = verdict::compensation(current.contract.kind.verdict_kind(), state, call);
        match verdict {
            verdict::Compensation::Duplicate | verdict::Compensation::Late => {
                self.absorbed(current);
                let late = verdict == verdict::Compensation::Late;
                return Ok(self.absorb(current, if late { Outcome::Late } else { Outcome::Duplicate }));
            }
            verdict::Compensation::Wait => return Ok(self.park(current, lease)),
            _ => {}
        }
        if self.rows(saga).blocked(Direction::Compensation, current.row.as_ref().map(|row| row.seq)) {
            return Ok(self.park(current, None));
        }
        if let Some(failure) = self.known.get(&current.id) {
            return Ok(self.failed(current, failure.clone()));
        }
        // Where nothing was done there is nobody to call: a breaker of calls neither stops that nor learns from it.
        let calls_nobody =
            current.contract.kind == StepKind::External && matches!(verdict, verdict::Compensation::NothingDone);
        let turn = match if calls_nobody { Ok(None) } else { self.admit(current) } {
            Ok(turn) => turn,
            Err(why) => return Ok(self.hold(current, why)),
        };
        let step = &self.shared.participant.steps()[current.step];
        let why = Wire { event_type: &current.event.event_type, body: &current.event.body };
        match (verdict, ledger, turn) {
            (verdict::Compensation::Compensate, Some(row), Some(turn)) => {
                self.rows(saga).put_ledger(LedgerRow { state: State::Compensating, changed_at: now, ..row });
                let mut work = self.work_row(current, WorkState::Calling);
                work.attempts += 1;
                self.call(current.step, work, turn);
                Ok(Outcome::Called)
            }
            (verdict::Compensation::InDoubt, Some(row), Some(turn)) => {
                self.rows(saga).remove_forwards_of(name);
                // No record and no reply: that is how a row in doubt is told from one that reverses what it recorded.
                let row = LedgerRow { state: State::Compensating, record: None, reply: None, changed_at: now, ..row };
                self.rows(saga).put_ledger(row);
                let mut work = self.work_row(current, WorkState::Calling);
                work.attempts += 1;
                self.call(current.step, work, turn);
                Ok(Outcome::Called)
            }
            (verdict::Compensation::Compensate, Some(row), None) => {
                let record = row.record.clone();
                let done = record.as_ref().map(|r| Wire { event_type: &r.event_type, body: &r.body });
                self.done.last_ran = Some(current.id);
                let fails = fails!(self.shared.harness, current);
                let mut cx = StepContext { conn: self.done.tx.conn(), saga, now };
                let emits = guarded(fails, step.timeout(), span.span(), step.compensate(done, why, &mut cx)).await;
                let emits = emits.map_err(|failure| aborted(current.id, failure))?;
                self.succeeded(current);
                self.close(current, row, State::Compensated, envelope::Kind::Compensated, emits, span)?;
                Ok(Outcome::Compensated)
            }
            (_, row, _) => {
                self.done.last_ran = Some(current.id);
                let fails = fails!(self.shared.harness, current);
                let mut cx = StepContext { conn: self.done.tx.conn(), saga, now };
                let emits = guarded(fails, step.timeout(), span.span(), step.nothing_done(why, &mut cx)).await;
                let emits = emits.map_err(|failure| aborted(current.id, failure))?;
                if !calls_nobody {
                    self.succeeded(current);
                }
                let row = row.unwrap_or_else(|| self.open(current));
                self.rows(saga).remove_forwards_of(name);
                self.close(current, row, State::Void, envelope::Kind::NothingDone, emits, span)?;
                Ok(Outcome::NothingDone)
            }
        }
    }

    // ---- what becomes of it --------------------------------------------------------------------------------------------

    /// A forward ran: record and emit.
    pub(crate) fn ran(
        &mut self,
        current: &Current<'_>,
        mut row: LedgerRow,
        ran: Ran,
        span: &mut dyn ReactionSpan,
    ) -> Result<Outcome, Aborted> {
        let (state, kind, emits, outcome) = match ran {
            Ran::Emits(emits) => (State::Done, envelope::Kind::Done, emits, Outcome::Emitted),
            Ran::Rejects(no) | Ran::RejectsAfterEffect(no) => {
                (State::Rejected, envelope::Kind::Rejected, no, Outcome::Rejected)
            }
        };
        row.record = emits.as_ref().map(|e| Record { event_type: e.event.name.to_owned(), body: e.body.clone() });
        // Of joined steps the last one to be done emits. The saga's lock makes one of them the last.
        let contracts = &self.shared.contracts;
        let rows = self.rows(current.event.saga);
        let done = |step: &&str| {
            let joined = contracts.iter().find(|contract| contract.name == *step);
            joined.is_some_and(|joined| rows.ledger(rows.name_of(joined)).is_some_and(|row| row.state == State::Done))
        };
        let emits = emits.filter(|_| state != State::Done || current.contract.joins.iter().all(done));
        self.close(current, row, state, kind, emits, span)?;
        Ok(outcome)
    }

    /// The ledger row gets its new state, the event goes to the outbox, and the reaction waits no longer.
    pub(crate) fn close(
        &mut self,
        current: &Current<'_>,
        mut row: LedgerRow,
        state: State,
        kind: envelope::Kind,
        emits: Option<Encoded>,
        span: &mut dyn ReactionSpan,
    ) -> Result<(), Aborted> {
        if let Some(encoded) = emits {
            row.ending = encoded.event.ending.or(row.ending);
            let message =
                self.emit(current, kind, encoded, span).map_err(|why| aborted(current.id, Failure::GiveUp(why)))?;
            match kind {
                envelope::Kind::Done | envelope::Kind::Rejected => row.record_went(message),
                // The record stays what was done; so this is the one trace of what was said about taking it back.
                envelope::Kind::Compensated | envelope::Kind::NothingDone => row.compensation = Some(message.clone()),
            }
        }
        row.state = state;
        row.changed_at = self.now;
        let rows = self.rows(current.event.saga);
        rows.put_ledger(row);
        rows.remove_work(current.id);
        Ok(())
    }

    fn emit(
        &mut self,
        current: &Current<'_>,
        kind: envelope::Kind,
        encoded: Encoded,
        span: &mut dyn ReactionSpan,
    ) -> Result<&Message, String> {
        let Encoded { event: EventType { name, topic, ending, .. }, subject, body } = encoded;
        let saga = current.event.saga;
        let hops = current.event.hops + 1;
        if hops > MAX_HOPS {
            return Err(format!("the saga has emitted {MAX_HOPS} events in a row: do these events go in a circle?"));
        }
        if let (Some(_), Some(by)) = (ending, self.rows(saga).ended_by()) {
            return Err(format!("second ending: {by} has ended the saga before, {name} would end it again"));
        }
        // A rejection that waited for its key to be closed is still the forward's outcome.
        let direction = if kind == envelope::Kind::Rejected { Direction::Forward } else { current.direction };
        let participant = self.shared.participant.name();
        let mut id = EventId::derive(saga, participant, current.name, direction, name);
        if broken!(self.shared.harness, RandomEventId) {
            id = EventId(self.shared.clock.time_ordered_uuid().to_string());
        }
        let trace = span.emit(&Emission { id: &id, event_type: name, topic, ending });
        let trace = trace.map(envelope::TraceContext::bounded);
        let message = Envelope {
            id,
            source: format!("/{participant}"),
            event_type: name.to_owned(),
            time: Some(self.now),
            subject: subject.or_else(|| current.event.subject.clone()),
            saga,
            causation: Some(current.event.id.clone()),
            step: Some(current.name.to_owned()),
            kind: Some(kind),
            ending,
            hops,
            trace: trace.unwrap_or_else(|| current.event.trace.clone()),
            extensions: BTreeMap::new(),
            body,
        }
        .encode(topic)
        .map_err(|malformed| format!("{name} cannot be emitted: {malformed}"))?;
        let id = self.shared.clock.time_ordered_uuid();
        let row = OutboxRow { id, message, created_at: self.now };
        Ok(&self.done.changes.outbox.push_mut(row).message)
    }

    pub(crate) fn absorb(&mut self, current: &Current<'_>, outcome: Outcome) -> Outcome {
        if current.row.is_some() {
            self.rows(current.event.saga).remove_work(current.id);
        }
        outcome
    }

    /// Tells that a reaction changes nothing, where no event would ever show that: when it is not the one that opened or closed its
    /// step's row. That is a forward that comes after its compensation, a second compensation, one that meets a step which takes
    /// itself back to say its no, and one that meets a gate that has passed.
    ///
    /// What opened or closed the row has shown itself by what it emitted, so of plain redeliveries, however many, nothing is told;
    /// and the rule asks the row, not the order in which things came. A reaction that waited is told of when its row goes, and what a
    /// person discarded was told then. Of a compensation that emits nothing, nobody waits to hear.
    fn absorbed(&mut self, current: &Current<'_>) {
        let Some(row) = self.rows(current.event.saga).ledger(current.name) else { return };
        let event = &current.event.id;
        let shown = row.trigger == *event || row.closed_by().is_some_and(|closed_by| closed_by == event.0);
        let silent = current.direction == Direction::Compensation
            && row.state != State::Done
            && current.contract.compensated.is_empty();
        if !shown && !silent && current.row.is_none() && !row.has_discarded(current.id) {
            self.tell(Tells::Absorbed, current, None, "");
        }
    }

    // ---- rows and spans ------------------------------------------------------------------------------------------------

    /// The ledger row of a reaction that opens it.
    fn open(&self, current: &Current<'_>) -> LedgerRow {
        let external = current.contract.kind == StepKind::External;
        // Of a vacant row the notes stay.
        let before = self.sagas.get(&current.event.saga).and_then(|rows| rows.ledger(current.name));
        LedgerRow {
            saga: current.event.saga,
            step: current.name.to_owned(),
            state: State::Done,
            trigger: current.event.id.clone(),
            trigger_type: current.event.event_type.clone(),
            trigger_body: external.then(|| current.event.body.clone()),
            record: None,
            reply: None,
            attempts: current.row.as_ref().map_or(1, |row| row.attempts + 1),
            rejecting: false,
            ending: None,
            trace: current.event.trace.clone(),
            hops: current.event.hops,
            changed_at: self.now,
            record_topic: None,
            record_subject: None,
            compensation: None,
            notes: before.map(|row| row.notes.clone()).unwrap_or_default(),
        }
    }

    pub(crate) fn span(&self, current: &Current<'_>) -> Box<dyn ReactionSpan> {
        let delivery = current.delivery;
        self.shared.observer.reaction(&Reaction {
            participant: self.shared.participant.name(),
            step: current.contract.name,
            direction: current.direction,
            saga: current.event.saga,
            event: Some(&current.event.id),
            event_type: Some(&current.event.event_type),
            position: Some((&delivery.topic, delivery.partition, delivery.offset)),
            attempt: current.row.as_ref().map_or(1, |row| row.attempts.max(1)),
            phase: Phase::Settle,
            parent: &current.event.trace,
        })
    }
}

impl<'r> Current<'r> {
    pub(crate) fn with(&self, row: Option<WorkRow>) -> Current<'r> {
        Current {
            id: self.id,
            step: self.step,
            contract: self.contract,
            name: self.name,
            direction: self.direction,
            delivery: self.delivery,
            event: self.event,
            row,
        }
    }
}

/// Runs a step's own code: within its time, inside its span, and a panic is a failure of this reaction only.
///
/// `fails` is false but in a simulation, where it lets the step fail after all of its work.
pub(crate) async fn guarded<T>(
    fails: bool,
    timeout: Duration,
    span: tracing::Span,
    code: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, AssertUnwindSafe(code).catch_unwind().instrument(span)).await {
        Ok(Ok(Ok(_))) if fails => Err(Failure::Retry("the step failed on purpose".into())),
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(Failure::Retry(format!("the step panicked: {text}").into()))
        }
        Err(_) => Err(Failure::Retry(format!("the step took longer than {timeout:?}").into())),
    }
}

/// Two transactions in each other's way, and a database without room or memory, are nobody's failure, even when a step's own
/// statement was the one to notice.
pub(crate) fn aborted(id: ReactionId, failure: Failure) -> Aborted {
    let Failure::Retry(error) = failure else { return Aborted::Step(id, failure.into()) };
    let database = |error| crate::Error::database("running a step")(driver_error(error));
    match fault(error.as_ref()) {
        Some(Fault::Conflict) => {
            let failure = KnownFailure { for_good: false, error: chain(error.as_ref()) };
            Aborted::Conflict(database(error), Some((id, failure)))
        }
        Some(Fault::Crowded) => Aborted::Conflict(database(error), None),
        Some(Fault::Outage) => Aborted::Toolkit(database(error)),
        Some(Fault::Data) | None => Aborted::Step(id, Failure::Retry(error).into()),
    }
}

/// What the driver said; where the step has wrapped it, all of that.
fn driver_error(error: BoxError) -> sqlx::Error {
    match error.downcast::<sqlx::Error>() {
        Ok(source) => *source,
        Err(wrapped) => sqlx::Error::Io(std::io::Error::other(wrapped)),
    }
}
