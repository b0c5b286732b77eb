//! From the outbox to the broker: published after the commit, deleted after the acknowledgement, swept after a crash.
//!
//! The invariant: a row leaves the table only when the broker has acknowledged its message. So a crash at any point leaves either
//! the row, which the sweeper publishes (perhaps for the second time: consumers absorb it), or nothing left to do.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    clock::{Clock, millis},
    error::Error,
    harness::{Harness, reach},
    observer::Observer,
    store::{OutboxRow, Store},
    transport::Sink,
};

mod carrier;
mod flight;

use carrier::Carrier;
use flight::Place;

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
/// Events in flight beyond which nothing is swept: then the broker is slow or away, and old rows are not lost ones. More than
/// what partitions without a leader may hold (see `flight`), so that they do not end the sweeps.
const SLOW: usize = 10_000;

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
    rows: mpsc::UnboundedSender<Handed>,
    under_way: Arc<Mutex<UnderWay>>,
    most: usize,
}

/// Rows for the publisher, and until when the sweep that found them has claimed them, if one did.
#[derive(Debug)]
struct Handed {
    rows: Vec<OutboxRow>,
    claim: Option<i64>,
}

#[derive(Debug, Default)]
struct UnderWay {
    /// Queued, or handed to the broker and not acknowledged.
    rows: HashSet<Uuid>,
    /// Partitions that do not take what they are given.
    slow: BTreeSet<Place>,
}

/// The publishing side. There is one per process.
pub(crate) struct Publisher {
    events: Carrier,
    signals: Carrier,
    relay: Relay,
}

/// Where rows go to, and what becomes of them then.
#[derive(Clone)]
struct Outlet {
    participant: &'static str,
    store: Store,
    sink: Arc<dyn Sink>,
    observer: Arc<dyn Observer>,
    clock: Clock,
    harness: Harness,
}

impl Lane {
    fn new(most: usize) -> (Self, mpsc::UnboundedReceiver<Handed>) {
        let (rows, receiver) = mpsc::unbounded_channel();
        (Self { rows, under_way: Arc::default(), most }, receiver)
    }

    fn publish(&self, mut handed: Handed) {
        {
            let mut under_way = self.lock();
            // While the broker is away the table keeps them, not the memory.
            if under_way.rows.len() > self.most {
                return;
            }
            // Whoever brings it the second time, a sweep or a late committer: it goes out once.
            handed.rows.retain(|row| under_way.rows.insert(row.id));
        }
        if handed.rows.is_empty() {
            return;
        }
        if let Err(stopped) = self.rows.send(handed) {
            // The publisher has stopped: whoever starts next sweeps the rows.
            self.forget(&stopped.0.rows.iter().map(|row| row.id).collect::<Vec<_>>());
        }
    }

    fn backlog(&self) -> usize {
        self.lock().rows.len()
    }

    fn forget(&self, rows: &[Uuid]) {
        let mut under_way = self.lock();
        for row in rows {
            under_way.rows.remove(row);
        }
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
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
        let outlet = Outlet { participant, store, sink, observer, clock, harness: Harness::none() };
        let publisher = Publisher {
            events: Carrier::new(queued_events, relay.events.clone(), outlet.clone(), false),
            signals: Carrier::new(queued_signals, relay.signals.clone(), outlet, true),
            relay: relay.clone(),
        };
        (relay, publisher)
    }

    /// Publishes committed rows soon. Losing them here loses nothing: they are in the table.
    pub(crate) fn publish(&self, rows: Vec<OutboxRow>) {
        self.hand_over(rows, None);
    }

    fn hand_over(&self, rows: Vec<OutboxRow>, claim: Option<i64>) {
        let (signals, events) = self.split(rows);
        self.events.publish(Handed { rows: events, claim });
        self.signals.publish(Handed { rows: signals, claim });
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

    /// Partitions that do not take what they are given, as `topic/partition`.
    pub(crate) fn slow_partitions(&self) -> Vec<String> {
        let lanes = [&self.events, &self.signals].into_iter();
        let places: BTreeSet<Place> = lanes.flat_map(|lane| lane.lock().slow.clone()).collect();
        places.into_iter().map(|(topic, partition)| format!("{topic}/{partition}")).collect()
    }

    pub(crate) fn signal_on(&mut self, topic: &Arc<str>) {
        self.signal_topic = Some(topic.clone());
    }
}

impl Publisher {
    /// Publishes until it is told to stop, and then what was handed over before.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        tokio::join!(self.events.run(&stop), self.signals.run(&stop));
    }

    /// One round without waiting for rows: what is queued now. For a driver that owns the time.
    pub(crate) async fn turn(&mut self) -> bool {
        let busy = self.events.turn().await;
        self.signals.turn().await || busy
    }

    pub(crate) fn signal_on(&mut self, topic: &Arc<str>) {
        self.relay.signal_on(topic);
    }

    pub(crate) fn sweeper(&self) -> Sweeper {
        Sweeper { relay: self.relay.clone(), outlet: self.events.outlet.clone() }
    }

    #[cfg(feature = "harness")]
    pub(crate) fn ask(&mut self, harness: &Harness) {
        self.events.outlet.harness = harness.clone();
        self.signals.outlet.harness = harness.clone();
    }
}

/// Finds what a crash left behind.
pub(crate) struct Sweeper {
    relay: Relay,
    outlet: Outlet,
}

impl Sweeper {
    /// One sweep: hands over what it found to be published, and returns how many rows that are. What is in flight here is left to
    /// those who sent it.
    pub(crate) async fn sweep(&self) -> Result<usize, Error> {
        let Self { relay, outlet } = self;
        if relay.backlog() > SLOW {
            return Ok(0);
        }
        let now = outlet.clock.now();
        let claim = now + millis(CLAIM);
        let mut rows = outlet.store.outbox_claim(now, now - millis(SWEEP_AGE), claim, SWEEP_ROWS).await?;
        for lane in [&relay.events, &relay.signals] {
            let under_way = lane.lock();
            rows.retain(|row| !under_way.rows.contains(&row.id));
        }
        #[cfg(feature = "harness")]
        outlet.harness.page_by_id(&mut rows);
        reach!(outlet.harness, Swept);
        let found = rows.len();
        relay.hand_over(rows, Some(claim));
        Ok(found)
    }
}
