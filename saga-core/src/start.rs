//! Starting a saga, once per request however often the request is repeated.
//!
//! The invariant: the caller's key, the step's own writes, its ledger row and its event are one transaction, and the
//! closure runs only when the key is new.

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    clock::Clock,
    envelope::{self, Envelope, TraceContext},
    error::Error,
    event::{Never, Outcome as _},
    harness::reach,
    id::{EventId, SagaId},
    node::Shared,
    observer::{Emission, Measure, Outcome, Phase, Reaction},
    participant::StepKind,
    step::{BoxError, Direction, MustSucceed, Step, StepContext, Stop},
    store::{Changes, LedgerRow, OutboxRow, Record, StartedRow, Tx},
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

/// Why no saga was started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The key was used before, for another request.
    #[error("the idempotency key was used before, for another request")]
    OtherRequest,
    /// The closure gave up.
    #[error("the start was given up: {0}")]
    GaveUp(String),
    /// The closure failed; nothing was written.
    #[error("the start failed")]
    Failed(#[source] BoxError),
    /// The toolkit or its database failed. After an error at commit the saga may have started: repeat with the same key.
    #[error(transparent)]
    Toolkit(#[from] Error),
}

/// Starts sagas of one participant. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Starter {
    pub(crate) shared: Shared,
}

impl Starter {
    /// Starts a saga with step `S`: `begin` does the step's writes and returns the event and an answer for the caller. A
    /// repetition gets the answer of the first call; `begin` does not run then.
    pub async fn start<S, A, F>(&self, key: StartKey<'_>, begin: F) -> Result<Started<A>, StartError>
    where
        S: Step<On = Never>,
        A: Serialize + DeserializeOwned + Send,
        F: AsyncFnOnce(SagaId, &mut StepContext<'_>) -> MustSucceed<(S::Emits, A)>,
    {
        let shared = &self.shared;
        if !shared.contracts.iter().any(|contract| contract.name == S::NAME && contract.kind == StepKind::Start) {
            let name = shared.participant.name();
            return Err(StartError::GaveUp(format!("{} is not in the cast of {name}: add `.start(..)`", S::NAME)));
        }
        let began = std::time::Instant::now();
        let mut tx = shared.store.begin().await?;
        if let Some(row) = tx.started(key.caller, key.key).await? {
            if row.fingerprint != key.fingerprint {
                return Err(StartError::OtherRequest);
            }
            return Ok(Started::Repeated(row.saga, serde_json::from_str(&row.answer).map_err(Error::from)?));
        }
        let saga = SagaId::mint(&shared.clock);
        let now = shared.clock.now();
        let none = TraceContext::default();
        let mut span = shared.observer.reaction(&Reaction {
            participant: shared.participant.name(),
            step: S::NAME,
            direction: Direction::Forward,
            saga,
            event: None,
            event_type: None,
            position: None,
            attempt: 1,
            phase: Phase::Settle,
            parent: &none,
        });
        let (event, answer) = {
            let mut cx = StepContext { conn: tx.conn(), saga, now };
            let begun = tokio::time::timeout(S::TIMEOUT, begin(saga, &mut cx)).await;
            begun.map_err(|late| StartError::Failed(late.into()))?.map_err(|stop| match stop {
                Stop::Reject(no) | Stop::RejectAfterEffect(no) => match no {},
                Stop::Retry(error) => StartError::Failed(error),
                Stop::GiveUp(why) => StartError::GaveUp(why),
            })?
        };
        let mut ledger = LedgerRow {
            saga,
            step: S::NAME.to_owned(),
            state: State::Done,
            trigger: EventId(saga.to_string()),
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
        };
        let mut changes = Changes::default();
        if let Some(encoded) = event.encode().map_err(Error::from)? {
            let id = EventId::derive(saga, shared.participant.name(), S::NAME, Direction::Forward, encoded.event.name);
            let emission = Emission {
                id: &id,
                event_type: encoded.event.name,
                topic: encoded.event.topic,
                ending: encoded.event.ending,
            };
            let trace = span.emit(&emission).unwrap_or_default();
            ledger.trigger = id.clone();
            ledger.trigger_type = encoded.event.name.to_owned();
            ledger.ending = encoded.event.ending;
            ledger.trace = trace.clone();
            ledger.record = Some(Record { event_type: encoded.event.name.to_owned(), body: encoded.body.clone() });
            let message = Envelope {
                id,
                source: format!("/{}", shared.participant.name()),
                event_type: encoded.event.name.to_owned(),
                time: Some(now),
                subject: encoded.subject,
                saga,
                causation: None,
                step: Some(S::NAME.to_owned()),
                kind: Some(envelope::Kind::Done),
                ending: encoded.event.ending,
                hops: 0,
                trace,
                body: encoded.body,
            }
            .encode(encoded.event.topic)
            .map_err(|error| StartError::GaveUp(error.to_string()))?;
            changes.outbox.push(OutboxRow { id: shared.clock.time_ordered_uuid(), message, created_at: now });
        }
        changes.ledger_inserts.push(ledger);
        self.finish(tx, key, saga, &changes, serde_json::to_string(&answer).map_err(Error::from)?).await?;
        span.settle(&Outcome::Emitted, began.elapsed());
        shared.observer.measure(shared.participant.name(), &Measure::Started);
        shared.relay.publish(changes.outbox);
        Ok(Started::New(saga, answer))
    }

    async fn finish(
        &self,
        mut tx: Tx,
        key: StartKey<'_>,
        saga: SagaId,
        changes: &Changes,
        answer: String,
    ) -> Result<(), Error> {
        tx.write(changes).await?;
        tx.insert_started(&StartedRow {
            caller: key.caller.to_owned(),
            key: key.key.to_owned(),
            fingerprint: key.fingerprint.to_vec(),
            saga,
            answer,
            created_at: Clock::now(&self.shared.clock),
        })
        .await?;
        reach!(self.shared.harness, BeforeStartCommit);
        tx.commit().await?;
        reach!(self.shared.harness, AfterStartCommit);
        Ok(())
    }
}
