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

/// Committed events that wait in memory for the broker at most, and a batch: what exceeds them is left to the sweeper.
const MOST_EVENTS: usize = 25_000;
/// The same for signals.
const MOST_SIGNALS: usize = 1_000;
/// Events in flight beyond which nothing is swept: then the broker is slow or away, and old rows are not lost ones.
const SLOW: usize = 10_000;
/// Rows of one round.
const ROUND: usize = 2_000;

/// Hands committed outbox rows to the task that publishes them. Cheap to clone.
///
/// Signals have a lane of their own: no saga waits because their topic is missing, or its broker away.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    events: Lane,
    signals: Lane,
    signal_topic: Option<Arc<str>>,
}

#[derive(Debug, Clone)]
struct Lane {
    rows: mpsc::UnboundedSender<Vec<OutboxRow>>,
    in_flight: Arc<Mutex<HashSet<Uuid>>>,
    most: usize,
}

/// The publishing side. There is one per process.
pub(crate) struct Publisher {
    events: mpsc::UnboundedReceiver<Vec<OutboxRow>>,
    signals: mpsc::UnboundedReceiver<Vec<OutboxRow>>,
    relay: Relay,
    outlet: Outlet,
    clock: Clock,
}

/// Where rows go to, and what becomes of them then.
#[derive(Clone)]
struct Outlet {
    participant: &'static str,
    store: Store,
    sink: Arc<dyn Sink>,
    observer: Arc<dyn Observer>,
    harness: Harness,
}

impl Lane {
    fn new(most: usize) -> (Self, mpsc::UnboundedReceiver<Vec<OutboxRow>>) {
        let (rows, receiver) = mpsc::unbounded_channel();
        (Self { rows, in_flight: Arc::default(), most }, receiver)
    }

    fn publish(&self, rows: Vec<OutboxRow>) {
        // While the broker is away the table keeps them, not the memory.
        if rows.is_empty() || self.backlog() > self.most {
            return;
        }
        lock(&self.in_flight).extend(rows.iter().map(|row| row.id));
        if let Err(stopped) = self.rows.send(rows) {
            // The publisher has stopped: whoever starts next sweeps the rows.
            self.forget(&stopped.0);
        }
    }

    fn backlog(&self) -> usize {
        lock(&self.in_flight).len()
    }

    fn forget(&self, rows: &[OutboxRow]) {
        let mut in_flight = lock(&self.in_flight);
        for row in rows {
            in_flight.remove(&row.id);
        }
    }
}

impl Relay {
    pub(crate) fn new(
        participant: &'static str,
        store: Store,
        sink: Arc<dyn Sink>,
        clock: Clock,
        observer: Arc<dyn Observer>,
    ) -> (Self, Publisher) {
        let (events, queued_events) = Lane::new(MOST_EVENTS);
        let (signals, queued_signals) = Lane::new(MOST_SIGNALS);
        let relay = Self { events, signals, signal_topic: None };
        let outlet = Outlet { participant, store, sink, observer, harness: Harness::none() };
        let publisher =
            Publisher { events: queued_events, signals: queued_signals, relay: relay.clone(), outlet, clock };
        (relay, publisher)
    }

    /// Publishes committed rows soon. Losing them here loses nothing: they are in the table.
    pub(crate) fn publish(&self, rows: Vec<OutboxRow>) {
        let (signals, events) = self.split(rows);
        self.events.publish(events);
        self.signals.publish(signals);
    }

    /// Signals first.
    fn split(&self, rows: Vec<OutboxRow>) -> (Vec<OutboxRow>, Vec<OutboxRow>) {
        match self.signal_topic.as_deref() {
            Some(topic) => rows.into_iter().partition(|row| row.message.topic == topic),
            None => (Vec::new(), rows),
        }
    }

    /// How many events this process has handed over that are not acknowledged yet.
    pub(crate) fn backlog(&self) -> usize {
        self.events.backlog()
    }

    pub(crate) fn signal_on(&mut self, topic: &Arc<str>) {
        self.signal_topic = Some(topic.clone());
    }
}

impl Publisher {
    /// Publishes until it is told to stop, and then what was handed over before.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let Self { mut events, mut signals, relay, outlet, .. } = self;
        let (lane, waning) = (&relay.events, &relay.signals);
        tokio::join!(
            drain(&mut events, lane, &outlet, &stop, false),
            drain(&mut signals, waning, &outlet, &stop, true)
        );
    }

    /// One round without waiting for rows: what is queued now. For a driver that owns the time.
    pub(crate) async fn turn(&mut self) -> bool {
        let Self { events, signals, relay, outlet, .. } = self;
        let mut busy = round(events, &relay.events, outlet, false).await;
        busy |= round(signals, &relay.signals, outlet, true).await;
        busy
    }

    pub(crate) fn signal_on(&mut self, topic: &Arc<str>) {
        self.relay.signal_on(topic);
    }

    pub(crate) fn sweeper(&self) -> Sweeper {
        Sweeper { relay: self.relay.clone(), outlet: self.outlet.clone(), clock: self.clock.clone() }
    }

    #[cfg(feature = "harness")]
    pub(crate) fn ask(&mut self, harness: &Harness) {
        self.outlet.harness = harness.clone();
    }
}

type Queued = mpsc::UnboundedReceiver<Vec<OutboxRow>>;

async fn drain(queued: &mut Queued, lane: &Lane, outlet: &Outlet, stop: &CancellationToken, signals: bool) {
    while let Some(Some(rows)) = stop.run_until_cancelled(queued.recv()).await {
        outlet.publish_queued(queued, lane, rows, signals).await;
    }
    while round(queued, lane, outlet, signals).await {}
}

async fn round(queued: &mut Queued, lane: &Lane, outlet: &Outlet, signals: bool) -> bool {
    match queued.try_recv() {
        Ok(rows) => {
            outlet.publish_queued(queued, lane, rows, signals).await;
            true
        }
        Err(_) => false,
    }
}

/// Publishes what a crash left behind.
pub(crate) struct Sweeper {
    relay: Relay,
    outlet: Outlet,
    clock: Clock,
}

impl Sweeper {
    /// One sweep; returns how many rows it found. What is in flight here is left to those who sent it.
    pub(crate) async fn sweep(&self) -> Result<usize, Error> {
        let Self { relay, outlet, clock } = self;
        if relay.backlog() > SLOW {
            return Ok(0);
        }
        let now = clock.now();
        let mut rows = outlet.store.outbox_claim(now, now - millis(SWEEP_AGE), now + millis(CLAIM), SWEEP_ROWS).await?;
        for lane in [&relay.events, &relay.signals] {
            let in_flight = lock(&lane.in_flight);
            rows.retain(|row| !in_flight.contains(&row.id));
        }
        #[cfg(feature = "harness")]
        outlet.harness.page_by_id(&mut rows);
        reach!(outlet.harness, Swept);
        let found = rows.len();
        let (signals, events) = relay.split(rows);
        relay.signals.publish(signals);
        outlet.publish(&events, false).await?;
        Ok(found)
    }
}

impl Outlet {
    async fn publish_queued(&self, queued: &mut Queued, lane: &Lane, mut rows: Vec<OutboxRow>, signals: bool) {
        // Whatever else is queued goes in the same round; a round that grows with the load is what keeps up with it.
        while rows.len() < ROUND {
            match queued.try_recv() {
                Ok(more) => rows.extend(more),
                Err(_) => break,
            }
        }
        let result = self.publish(&rows, signals).await;
        lane.forget(&rows);
        if let Err(error) = result {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                participant = self.participant,
                error,
                "published events stay in the outbox for the sweeper"
            );
        }
    }

    /// Publishes, then deletes what was acknowledged. A crash before the deletion publishes again.
    async fn publish(&self, rows: &[OutboxRow], signals: bool) -> Result<(), Error> {
        let Self { participant, store, sink, observer, harness } = self;
        let participant = *participant;
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
                // Its work row and its log line go on telling what it told.
                Err(error) if error.permanent && signals => {
                    tracing::warn!(
                        participant,
                        topic = row.message.topic,
                        reason = error.reason,
                        "a signal is dropped: the broker refuses it for good; does its topic exist (`migrate --topics`)?"
                    );
                    acknowledged.push(row.id);
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
}

fn lock(in_flight: &Mutex<HashSet<Uuid>>) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
    in_flight.lock().unwrap_or_else(PoisonError::into_inner)
}
