//! From the outbox to the broker: published after the commit, deleted after the acknowledgement, swept after a crash.
//!
//! The invariant: a row leaves the table only when the broker has acknowledged its message. So a crash at any point leaves either
//! the row, which the sweeper publishes (perhaps for the second time: consumers absorb it), or nothing left to do.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    clock::{Clock, millis},
    error::Error,
    harness::{Harness, reach},
    observer::{Measure, Observer},
    store::{OutboxRow, Store},
    transport::Sink,
};

/// Rows younger than this are probably still in flight in the process that wrote them.
const SWEEP_AGE: Duration = Duration::from_secs(5);
/// How long a claimed row is left to the one who claimed it: longer than a publish takes unless the broker is away.
const CLAIM: Duration = Duration::from_secs(30);
/// Rows per sweep: one batch.
pub(crate) const SWEEP_ROWS: u32 = 500;

/// Committed rows that wait in memory for the broker at most, and a batch: what exceeds them is left to the sweeper.
const MOST_IN_FLIGHT: usize = 25_000;

/// Hands committed outbox rows to the task that publishes them. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    rows: mpsc::UnboundedSender<Vec<OutboxRow>>,
    in_flight: Arc<Mutex<HashSet<Uuid>>>,
}

/// The publishing side. There is one per process.
pub(crate) struct Publisher {
    rows: mpsc::UnboundedReceiver<Vec<OutboxRow>>,
    in_flight: Arc<Mutex<HashSet<Uuid>>>,
    participant: &'static str,
    store: Store,
    sink: Arc<dyn Sink>,
    clock: Clock,
    observer: Arc<dyn Observer>,
    harness: Harness,
}

impl Relay {
    pub(crate) fn new(
        participant: &'static str,
        store: Store,
        sink: Arc<dyn Sink>,
        clock: Clock,
        observer: Arc<dyn Observer>,
    ) -> (Self, Publisher) {
        let (sender, rows) = mpsc::unbounded_channel();
        let in_flight = Arc::<Mutex<HashSet<Uuid>>>::default();
        let harness = Harness::none();
        let publisher =
            Publisher { rows, in_flight: in_flight.clone(), participant, store, sink, clock, observer, harness };
        (Self { rows: sender, in_flight }, publisher)
    }

    /// Publishes committed rows soon. Losing them here loses nothing: they are in the table.
    pub(crate) fn publish(&self, rows: Vec<OutboxRow>) {
        // While the broker is away the table keeps them, not the memory.
        if rows.is_empty() || self.backlog() > MOST_IN_FLIGHT {
            return;
        }
        lock(&self.in_flight).extend(rows.iter().map(|row| row.id));
        if let Err(stopped) = self.rows.send(rows) {
            // The publisher has stopped: whoever starts next sweeps the rows.
            forget(&self.in_flight, &stopped.0);
        }
    }

    /// How many rows this process has handed over that are not acknowledged yet.
    pub(crate) fn backlog(&self) -> usize {
        lock(&self.in_flight).len()
    }
}

impl Publisher {
    /// Publishes until it is told to stop, and then what was handed over before.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while let Some(Some(rows)) = stop.run_until_cancelled(self.rows.recv()).await {
            self.publish_queued(rows).await;
        }
        while self.turn().await {}
    }

    /// One round without waiting for rows: what is queued now. For a driver that owns the time.
    pub(crate) async fn turn(&mut self) -> bool {
        match self.rows.try_recv() {
            Ok(rows) => {
                self.publish_queued(rows).await;
                true
            }
            Err(_) => false,
        }
    }

    async fn publish_queued(&mut self, mut rows: Vec<OutboxRow>) {
        // Whatever else is queued goes in the same round; a round that grows with the load is what keeps up with it.
        while rows.len() < 2_000 {
            match self.rows.try_recv() {
                Ok(more) => rows.extend(more),
                Err(_) => break,
            }
        }
        let Self { store, sink, observer, harness, .. } = self;
        let result = publish(store, sink.as_ref(), self.participant, observer.as_ref(), harness, &rows).await;
        forget(&self.in_flight, &rows);
        if let Err(error) = result {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                participant = self.participant,
                error,
                "published events stay in the outbox for the sweeper"
            );
        }
    }

    pub(crate) fn sweeper(&self) -> Sweeper {
        Sweeper {
            in_flight: self.in_flight.clone(),
            participant: self.participant,
            store: self.store.clone(),
            sink: self.sink.clone(),
            clock: self.clock.clone(),
            observer: self.observer.clone(),
            harness: self.harness.clone(),
        }
    }

    #[cfg(feature = "harness")]
    pub(crate) fn ask(&mut self, harness: &Harness) {
        self.harness = harness.clone();
    }
}

/// Publishes what a crash left behind.
pub(crate) struct Sweeper {
    in_flight: Arc<Mutex<HashSet<Uuid>>>,
    participant: &'static str,
    store: Store,
    sink: Arc<dyn Sink>,
    clock: Clock,
    observer: Arc<dyn Observer>,
    harness: Harness,
}

impl Sweeper {
    /// One sweep; returns how many rows it found. Not while this process has a backlog of more than a sweep: then the broker is slow
    /// or away, and old rows are not lost ones. What is in flight here is left to those who sent it.
    pub(crate) async fn sweep(&self) -> Result<usize, Error> {
        if lock(&self.in_flight).len() > SWEEP_ROWS as usize {
            return Ok(0);
        }
        let now = self.clock.now();
        let mut rows = self.store.outbox_claim(now, now - millis(SWEEP_AGE), now + millis(CLAIM), SWEEP_ROWS).await?;
        {
            let in_flight = lock(&self.in_flight);
            rows.retain(|row| !in_flight.contains(&row.id));
        }
        #[cfg(feature = "harness")]
        self.harness.page_by_id(&mut rows);
        reach!(self.harness, Swept);
        let Self { store, sink, observer, harness, .. } = self;
        publish(store, sink.as_ref(), self.participant, observer.as_ref(), harness, &rows).await?;
        Ok(rows.len())
    }
}

/// Publishes, then deletes what was acknowledged. A crash before the deletion publishes again.
async fn publish(
    store: &Store,
    sink: &dyn Sink,
    participant: &str,
    observer: &dyn Observer,
    harness: &Harness,
    rows: &[OutboxRow],
) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let messages: Vec<_> = rows.iter().map(|row| row.message.clone()).collect();
    reach!(harness, BeforePublish);
    let results = sink.publish(&messages).await;
    reach!(harness, BeforeDelete);
    let mut acknowledged = Vec::with_capacity(rows.len());
    let mut refused = Vec::new();
    let mut failed = Vec::new();
    for (row, result) in rows.iter().zip(results) {
        match result {
            Ok(()) => {
                acknowledged.push(row.id);
                observer.measure(participant, &Measure::Published { topic: &row.message.topic, messages: 1 });
            }
            Err(error) if error.permanent => {
                tracing::error!(
                    participant,
                    saga = row.message.key,
                    topic = row.message.topic,
                    reason = error.reason,
                    "the broker refuses an event for good: it stays in the outbox, and the rest goes on"
                );
                refused.push((row.id, error.reason));
            }
            Err(error) => failed.push((&row.message.topic, error.reason)),
        }
    }
    // A broker that is away refuses all of them, for one reason: one line, not hundreds.
    if let Some((topic, reason)) = failed.first() {
        tracing::warn!(participant, topic, reason, events = failed.len(), "events were not published");
    }
    // First what was acknowledged: a row that cannot be marked must not have the others published again and again.
    store.outbox_delete(&acknowledged).await?;
    reach!(harness, AfterDelete);
    for (row, reason) in refused {
        store.outbox_refuse(row, &reason).await?;
    }
    Ok(())
}

fn lock(in_flight: &Mutex<HashSet<Uuid>>) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
    in_flight.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forget(in_flight: &Mutex<HashSet<Uuid>>, rows: &[OutboxRow]) {
    let mut in_flight = lock(in_flight);
    for row in rows {
        in_flight.remove(&row.id);
    }
}
