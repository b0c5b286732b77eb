//! Reads the topics and folds what comes into the tables.
//!
//! The invariant: a position is handed back to the source only after what stood before it is committed. A crash in between reads
//! it again, which changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    time::Duration,
};

use saga_core::{
    Error, Manifest,
    envelope::{Delivery, Envelope},
    id::{EventId, ReactionId, SagaId},
    signal::Tells,
    step::Direction,
    transport::{Limit, Position, Source},
};
use serde::Deserialize;
use tokio::time::sleep;

use crate::{
    Saga, Store,
    saga::{Place, Told},
    view::Cast,
};

/// More than a participant takes at once: nobody waits for the answer, and a saga whose events come together is written once.
const BATCH: Limit = Limit { messages: 4_000, bytes: 16 << 20 };

/// While the database is away: the longest wait between two probes.
const PROBE: Duration = Duration::from_secs(2);

/// The topics on which the events of these manifests are published, and `signals`.
pub fn topics(manifests: &[Manifest], signals: Option<&str>) -> Vec<String> {
    let events = manifests.iter().flat_map(|manifest| manifest.events.values().map(|event| event.topic.clone()));
    let topics: BTreeSet<String> = events.chain(signals.map(ToOwned::to_owned)).collect();
    topics.into_iter().collect()
}

/// Folds until `shutdown`. Errors are those that waiting cannot mend.
pub async fn run(
    store: &Store,
    cast: &Cast<'_>,
    mut source: Box<dyn Source>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let result = fold(store, cast, source.as_mut(), shutdown).await;
    let closed = source.close().await;
    result?;
    Ok(closed?)
}

async fn fold(
    store: &Store,
    cast: &Cast<'_>,
    source: &mut dyn Source,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let mut shutdown = pin!(shutdown);
    loop {
        let deliveries = tokio::select! {
            () = &mut shutdown => return Ok(()),
            deliveries = source.receive(BATCH) => deliveries?,
        };
        let mut wait = PROBE / 8;
        // Read anew for each probe: while the database is there, nothing is copied.
        while let Err(error) = store.fold(seen(&deliveries), cast).await {
            let Error::Database { .. } = error else { return Err(error) };
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the observer's database is away: next probe in {wait:?}"
            );
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                () = sleep(wait) => wait = (wait * 2).min(PROBE),
            }
        }
        source.settled(&Position::behind(&deliveries))?;
    }
}

/// What these messages say, by saga. A message that says nothing about any saga is passed over.
pub fn seen(deliveries: &[Delivery]) -> BTreeMap<SagaId, Saga> {
    let mut sagas = BTreeMap::<SagaId, Saga>::new();
    for delivery in deliveries {
        let Ok(event) = Envelope::decode(delivery) else {
            tracing::debug!(
                topic = %delivery.topic,
                partition = delivery.partition,
                offset = delivery.offset,
                "passed over: no event"
            );
            continue;
        };
        let saga = match Tells::of_type(&event.event_type) {
            Some(tells) => signal(tells, &event),
            None => Some(Saga::of_event(&event, place(delivery))),
        };
        if let Some(saga) = saga {
            sagas.entry(event.saga).or_default().merge(saga);
        }
    }
    sagas
}

fn place(delivery: &Delivery) -> Place {
    Place { topic: delivery.topic.to_string(), partition: delivery.partition, offset: delivery.offset }
}

fn signal(tells: Tells, event: &Envelope) -> Option<Saga> {
    /// What a later version may add is passed over.
    #[derive(Deserialize)]
    struct Body {
        participant: String,
        step: String,
        direction: Direction,
        reaction: ReactionId,
        event: Option<EventId>,
        attempts: u32,
        reason: String,
        #[serde(default)]
        seq: i64,
    }
    let body: Body = serde_json::from_slice(&event.body).ok()?;
    let told = Told {
        seq: body.seq,
        tells,
        participant: body.participant,
        step: body.step,
        direction: body.direction,
        event: body.event,
        attempts: body.attempts,
        reason: body.reason,
        at: event.time,
    };
    Some(Saga::of_signal(body.reaction, told))
}
