//! What comes from outside: a request that starts a saga, or one that joins a saga that is under way (a customer cancels).
//!
//! The invariant: what a request is recognised by, the step's own writes, its ledger row and its event are one transaction, and
//! the closure runs only when the request is new.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    envelope::{self, Envelope, TraceContext},
    error::Error,
    event::{Encoded, Ending, Never, Outcome as _},
    harness::reach,
    id::{EventId, SagaId},
    node::Shared,
    observer::{Emission, Measure, Outcome, Phase, Reaction, ReactionSpan},
    participant::{Contract, StepKind},
    step::{BoxError, Direction, MustSucceed, Step, StepContext, Stop},
    store::{Changes, LedgerRow, OutboxRow, Record, StartedRow, Store},
};
use saga_compensation::State;

/// What a start is recognised by when it is repeated.
#[derive(Debug, Clone, Copy)]
pub struct StartKey<'k> {
    /// Whose keys these are: two callers may use the same key for different things.
    pub caller: &'k str,
    /// The caller's idempotency key.
    pub key: &'k str,
    /// A digest of the request, or the request itself: the same key with another request is refused.
    pub fingerprint: &'k [u8],
}

/// A saga that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started<A> {
    /// By this call.
    New(SagaId, A),
    /// By an earlier one, whose answer this is.
    Repeated(SagaId, A),
}

/// What became of a request to a saga that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// The step ran, and its event goes out.
    New,
    /// It has run before, or was closed before it could: a saga takes each of its requests once.
    Repeated,
    /// The saga has ended; nothing was done.
    Ended(Ending),
}

/// Why nothing was started or requested.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The key was used before, for another request.
    #[error("the idempotency key was used before, for another request")]
    OtherRequest,
    /// This participant started no such saga, or has pruned it.
    #[error("no saga {0} was started here")]
    UnknownSaga(SagaId),
    /// The closure gave up.
    #[error("the request was given up: {0}")]
    GaveUp(String),
    /// The closure failed; nothing was written.
    #[error("the request failed")]
    Failed(#[source] BoxError),
    /// The toolkit or its database failed. After an error at commit the saga may have started: repeat with the same key.
    #[error(transparent)]
    Toolkit(#[from] Error),
}

/// Starts sagas of one participant, and brings requests to them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Starter {
    pub(crate) shared: Shared,
}

impl Starter {
    /// The same over other connections ([`Store::apart`]): a flood of requests must not take those with which the node settles.
    #[must_use]
    pub fn over(mut self, store: Store) -> Self {
        self.shared.store = store;
        self
    }

    /// Starts a saga with step `S`: `begin` does the step's writes and returns the event and an answer for the caller. A
    /// repetition gets the answer of the first call, as long as the saga is remembered ([`Retention`](crate::retention::Retention));
    /// `begin` does not run then.
    pub async fn start<S, A, F>(&self, key: StartKey<'_>, begin: F) -> Result<Started<A>, StartError>
    where
        S: Step<On = Never>,
        A: Serialize + DeserializeOwned + Send,
        F: AsyncFnOnce(SagaId, &mut StepContext<'_>) -> MustSucceed<(S::Emits, A)>,
    {
        self.start_with(S::NAME, key, async move |saga, cx: &mut StepContext<'_>| {
            let (event, answer) = within(S::TIMEOUT, begin(saga, cx)).await?;
            Ok((event.encode().map_err(Error::from)?, answer))
        })
        .await
    }

    /// The same without the step's types. `begin` returns the step's event, as bytes.
    pub(crate) async fn start_with<A, F>(
        &self,
        step: &'static str,
        key: StartKey<'_>,
        begin: F,
    ) -> Result<Started<A>, StartError>
    where
        A: Serialize + DeserializeOwned + Send,
        F: AsyncFnOnce(SagaId, &mut StepContext<'_>) -> Result<(Option<Encoded>, A), StartError>,
    {
        self.in_cast(step, StepKind::Start)?;
        let shared = &self.shared;
        let mut tx = shared.store.begin().await?;
        if let Some(row) = tx.started(key.caller, key.key).await? {
            if row.fingerprint != key.fingerprint {
                return Err(StartError::OtherRequest);
            }
            return Ok(Started::Repeated(row.saga, serde_json::from_str(&row.answer).map_err(Error::from)?));
        }
        let saga = SagaId::mint(&shared.clock);
        let mut opening = Opening::of(shared, step, saga, None);
        let mut cx = StepContext { conn: tx.conn(), saga, now: opening.now };
        let (event, answer) = begin(saga, &mut cx).await?;
        let changes = opening.changes(event)?;
        tx.write(&changes).await?;
        tx.insert_started(&StartedRow {
            caller: key.caller.to_owned(),
            key: key.key.to_owned(),
            fingerprint: key.fingerprint.to_vec(),
            saga,
            answer: serde_json::to_string(&answer).map_err(Error::from)?,
            created_at: opening.now,
        })
        .await?;
        reach!(shared.harness, BeforeStartCommit);
        tx.commit().await?;
        reach!(shared.harness, AfterStartCommit);
        shared.observer.measure(shared.participant.name(), &Measure::Started);
        opening.committed(changes);
        Ok(Started::New(saga, answer))
    }

    /// Joins a saga that this participant started, with step `S`: `begin` does the step's writes and returns the event. Each step
    /// does so once per saga; a repetition does not run `begin`, and neither does a request to a saga that has ended. `begin`
    /// holds the saga's lock, so what it reads of the saga's own rows cannot change under it.
    pub async fn request<S, F>(&self, saga: SagaId, begin: F) -> Result<Requested, StartError>
    where
        S: Step<On = Never>,
        F: AsyncFnOnce(&mut StepContext<'_>) -> MustSucceed<S::Emits>,
    {
        self.request_with(S::NAME, saga, async move |cx: &mut StepContext<'_>| {
            let event = within(S::TIMEOUT, begin(cx)).await?;
            Ok(event.encode().map_err(Error::from)?)
        })
        .await
    }

    /// The same without the step's types. `begin` returns the step's event, as bytes.
    pub(crate) async fn request_with<F>(
        &self,
        step: &'static str,
        saga: SagaId,
        begin: F,
    ) -> Result<Requested, StartError>
    where
        F: AsyncFnOnce(&mut StepContext<'_>) -> Result<Option<Encoded>, StartError>,
    {
        let contract = self.in_cast(step, StepKind::Request)?;
        let shared = &self.shared;
        let mut tx = shared.store.begin().await?;
        tx.lock(&[saga]).await?;
        let (ledger, _) = tx.read(&[saga]).await?;
        if let Some(ending) = ledger.iter().find_map(LedgerRow::ended) {
            return Ok(Requested::Ended(ending));
        }
        if ledger.iter().any(|row| contract.names().any(|name| name == row.step)) {
            return Ok(Requested::Repeated);
        }
        let starts = |row: &&LedgerRow| {
            let mut starts = shared.contracts.iter().filter(|contract| contract.kind == StepKind::Start);
            starts.any(|contract| contract.names().any(|name| name == row.step))
        };
        let start = ledger.iter().find(starts).ok_or(StartError::UnknownSaga(saga))?;
        let mut opening = Opening::of(shared, step, saga, Some(start));
        let mut cx = StepContext { conn: tx.conn(), saga, now: opening.now };
        let event = begin(&mut cx).await?;
        let changes = opening.changes(event)?;
        tx.write(&changes).await?;
        reach!(shared.harness, BeforeStartCommit);
        tx.commit().await?;
        reach!(shared.harness, AfterStartCommit);
        opening.committed(changes);
        Ok(Requested::New)
    }

    fn in_cast(&self, step: &str, kind: StepKind) -> Result<&Contract, StartError> {
        let shared = &self.shared;
        let mut cast = shared.contracts.iter();
        if let Some(contract) = cast.find(|contract| contract.name == step && contract.kind == kind) {
            return Ok(contract);
        }
        let (name, add) = (shared.participant.name(), if kind == StepKind::Start { "start" } else { "request" });
        Err(StartError::GaveUp(format!("{step} is not in the cast of {name}: add `.{add}(..)`")))
    }
}

async fn within<T>(timeout: Duration, begun: impl Future<Output = MustSucceed<T>>) -> Result<T, StartError> {
    let begun = tokio::time::timeout(timeout, begun).await;
    begun.map_err(|late| StartError::Failed(late.into()))?.map_err(|stop| match stop {
        Stop::Reject(no) | Stop::RejectAfterEffect(no) => match no {},
        Stop::Retry(error) => StartError::Failed(error),
        Stop::GiveUp(why) => StartError::GaveUp(why),
    })
}

/// The row and the event of a step that no event triggers.
struct Opening<'s> {
    shared: &'s Shared,
    step: &'static str,
    saga: SagaId,
    /// The event of the start, for a request.
    cause: Option<&'s LedgerRow>,
    now: i64,
    began: Instant,
    span: Box<dyn ReactionSpan>,
}

impl<'s> Opening<'s> {
    fn of(shared: &'s Shared, step: &'static str, saga: SagaId, cause: Option<&'s LedgerRow>) -> Self {
        let none = TraceContext::default();
        let span = shared.observer.reaction(&Reaction {
            participant: shared.participant.name(),
            step,
            direction: Direction::Forward,
            saga,
            event: cause.map(|row| &row.trigger),
            event_type: cause.map(|row| row.trigger_type.as_str()),
            position: None,
            attempt: 1,
            phase: Phase::Settle,
            parent: cause.map_or(&none, |row| &row.trace),
        });
        Self { shared, step, saga, cause, now: shared.clock.now(), began: Instant::now(), span }
    }

    fn changes(&mut self, event: Option<Encoded>) -> Result<Changes, StartError> {
        let Self { shared, step, saga, cause, now, span, .. } = self;
        let (saga, now) = (*saga, *now);
        let mut ledger = LedgerRow {
            saga,
            step: (*step).to_owned(),
            state: State::Done,
            trigger: EventId(format!("{saga}/{step}")),
            trigger_type: String::new(),
            trigger_body: None,
            record: None,
            reply: None,
            attempts: 1,
            rejecting: false,
            ending: None,
            trace: TraceContext::default(),
            hops: 0,
            changed_at: now,
            record_topic: None,
            record_subject: None,
            compensation: None,
            notes: Vec::new(),
        };
        let mut changes = Changes::default();
        if let Some(encoded) = event {
            let name = encoded.event.name;
            let id = EventId::derive(saga, shared.participant.name(), step, Direction::Forward, name);
            let emission =
                Emission { id: &id, event_type: name, topic: encoded.event.topic, ending: encoded.event.ending };
            let trace = span.emit(&emission).map(TraceContext::bounded).unwrap_or_default();
            ledger.trigger = id.clone();
            ledger.trigger_type = name.to_owned();
            ledger.ending = encoded.event.ending;
            ledger.trace = trace.clone();
            ledger.record = Some(Record { event_type: name.to_owned(), body: encoded.body.clone() });
            ledger.hops = cause.map_or(0, |row| row.hops + 1);
            let message = Envelope {
                id,
                source: format!("/{}", shared.participant.name()),
                event_type: name.to_owned(),
                time: Some(now),
                subject: encoded.subject,
                saga,
                causation: cause.map(|row| row.trigger.clone()),
                step: Some((*step).to_owned()),
                kind: Some(envelope::Kind::Done),
                ending: encoded.event.ending,
                hops: ledger.hops,
                trace,
                extensions: BTreeMap::new(),
                body: encoded.body,
            }
            .encode(encoded.event.topic)
            .map_err(|error| StartError::GaveUp(error.to_string()))?;
            ledger.record_went(&message);
            changes.outbox.push(OutboxRow { id: shared.clock.time_ordered_uuid(), message, created_at: now });
        }
        changes.ledger_inserts.push(ledger);
        Ok(changes)
    }

    fn committed(self, changes: Changes) {
        self.span.settle(&Outcome::Emitted, self.began.elapsed());
        self.shared.relay.publish(changes.outbox);
    }
}
