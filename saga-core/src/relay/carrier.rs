//! Carries the rows of one lane to the broker, round after round.
//!
//! A round waits for its acknowledgements, as one statement deletes many rows for the price of one; but not for ever. What is not
//! acknowledged in time goes on waiting by itself, beside the rounds that follow, until the broker takes it or this process ends.
//! Either way a row is deleted after its own acknowledgement and never before.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    CLAIM, Handed, Lane, Outlet,
    flight::{Flight, Flying},
};
use crate::{
    clock::millis,
    error::Error,
    harness::reach,
    observer::Measure,
    store::OutboxRow,
    transport::{BoxFuture, PublishError},
};

/// Rows of one round.
const ROUND: usize = 2_000;
/// Bytes of one round, bodies and headers; one row is always taken.
const ROUND_BYTES: usize = 8 << 20;
/// When a row whose publication failed may be swept again: not at once, or a broker that refuses everything is asked in a spin.
const RETRY: Duration = Duration::from_secs(1);
/// For how long a partition is slow before it is said: a busy broker is, now and then.
const SAY_AFTER: Duration = Duration::from_secs(2);
/// How often slow rows are claimed, so that no other instance takes them for lost: well within the age at which they would be.
const HOLD_EVERY: Duration = Duration::from_secs(2);
/// How often it is said then.
const SAY_AGAIN: Duration = Duration::from_secs(10);

type Answer = (Uuid, Result<(), PublishError>);

pub(super) struct Carrier {
    queued: mpsc::UnboundedReceiver<Handed>,
    lane: Lane,
    pub(super) outlet: Outlet,
    signals: bool,
    /// Taken from the queue, for the next rounds; with the end of the claim that they came with.
    waiting: VecDeque<(OutboxRow, Option<i64>)>,
    flight: Flight,
    /// Each ends when all of its messages were told of. Whoever is slow is in one of these.
    rounds: FuturesUnordered<BoxFuture<'static, ()>>,
    tell: mpsc::UnboundedSender<Answer>,
    told: mpsc::UnboundedReceiver<Answer>,
    answers: Vec<Answer>,
    /// What came of rows, to be written down.
    results: Vec<(Uuid, Flying, Result<(), PublishError>)>,
    /// Claims that may end now.
    again: Vec<(Uuid, i64)>,
    left: usize,
    said: Option<Instant>,
    held: Option<Instant>,
}

impl Carrier {
    pub(super) fn new(queued: mpsc::UnboundedReceiver<Handed>, lane: Lane, outlet: Outlet, signals: bool) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self {
            queued,
            lane,
            outlet,
            signals,
            waiting: VecDeque::new(),
            flight: Flight::default(),
            rounds: FuturesUnordered::new(),
            tell,
            told,
            answers: Vec::new(),
            results: Vec::new(),
            again: Vec::new(),
            left: 0,
            said: None,
            held: None,
        }
    }

    /// Until it is told to stop, and then what was handed over before; what is slow then stays in the table.
    pub(super) async fn run(&mut self, stop: &CancellationToken) {
        let mut stopping = false;
        loop {
            if self.flight.awaited() == 0 {
                self.settle().await;
                if self.load() {
                    self.begin().await;
                } else if stopping {
                    return self.leave().await;
                }
            }
            let (awaited, slow) = (self.flight.patient_until(), self.slow_until().min(self.hold_at()));
            tokio::select! {
                biased;
                () = stop.cancelled(), if !stopping => stopping = true,
                _ = self.told.recv_many(&mut self.answers, ROUND) => self.hear(),
                Some(()) = self.rounds.next() => {}
                () = until(awaited) => self.flight.give_up_waiting(Instant::now()),
                Some(handed) = self.queued.recv(), if awaited.is_none() && !stopping => self.take(handed),
                () = until(slow) => {}
            }
            self.say_what_is_slow();
            if self.hold_at().is_some_and(|at| at <= Instant::now()) {
                self.hold().await;
            }
        }
    }

    /// One round, to its end. For a driver that owns the time: false when nothing was queued.
    pub(super) async fn turn(&mut self) -> bool {
        if !self.load() {
            return false;
        }
        self.begin().await;
        while !self.flight.is_empty() {
            tokio::select! {
                biased;
                _ = self.told.recv_many(&mut self.answers, ROUND) => self.hear(),
                Some(()) = self.rounds.next() => {}
            }
        }
        self.settle().await;
        true
    }

    /// Whatever is queued goes in the same round; a round that grows with the load is what keeps up with it.
    fn load(&mut self) -> bool {
        while self.waiting.len() < ROUND {
            match self.queued.try_recv() {
                Ok(handed) => self.take(handed),
                Err(_) => break,
            }
        }
        !self.waiting.is_empty()
    }

    fn take(&mut self, Handed { rows, claim }: Handed) {
        self.waiting.extend(rows.into_iter().map(|row| (row, claim)));
    }

    /// Hands the next round over.
    async fn begin(&mut self) {
        let now = Instant::now();
        let mut topics = HashMap::<String, Arc<str>>::new();
        let (mut ids, mut messages, mut bytes, mut left) = (Vec::new(), Vec::new(), 0, Vec::new());
        while let Some((row, claim)) = self.waiting.pop_front() {
            let size = size(&row);
            if ids.len() == ROUND || !ids.is_empty() && bytes + size > ROUND_BYTES {
                self.waiting.push_front((row, claim));
                break;
            }
            let OutboxRow { id, message, .. } = row;
            let topic = topics.entry(message.topic.clone()).or_insert_with(|| message.topic.as_str().into()).clone();
            let place = (topic, self.outlet.sink.partition(&message));
            if self.flight.begin(id, place, &message.key, size, claim, now) {
                bytes += size;
                ids.push(id);
                messages.push(message);
            } else {
                left.push(id);
            }
        }
        // The table keeps them. Their claims last, so that sweeps come to what is behind them.
        self.left += left.len();
        self.lane.forget(&left);
        if ids.is_empty() {
            return;
        }
        reach!(self.outlet.harness, BeforePublish);
        let (sink, tell) = (self.outlet.sink.clone(), self.tell.clone());
        self.rounds.push(Box::pin(async move {
            let told = move |index: usize, result| {
                // The receiver is this lane's own: gone is it only when nobody waits for the answer.
                tell.send((ids[index], result)).ok();
            };
            sink.publish_each(messages, Box::new(told)).await;
        }));
    }

    fn hear(&mut self) {
        let now = Instant::now();
        for (id, result) in self.answers.drain(..) {
            let Some((row, again)) = self.flight.heard(id, result.is_ok(), now) else { continue };
            self.again.extend(again);
            self.results.push((id, row, result));
        }
    }

    /// Deletes what was acknowledged. A crash before that publishes again.
    async fn settle(&mut self) {
        if self.results.is_empty() {
            return;
        }
        let results = std::mem::take(&mut self.results);
        let ids: Vec<Uuid> = results.iter().map(|(id, ..)| *id).collect();
        let again = std::mem::take(&mut self.again);
        reach!(self.outlet.harness, BeforeDelete);
        let settled = self.outlet.settle(results, again, self.signals).await;
        self.lane.forget(&ids);
        if let Err(error) = settled {
            let error = &error as &dyn std::error::Error;
            let participant = self.outlet.participant;
            tracing::warn!(participant, error, "published events stay in the outbox for the sweeper");
        }
    }

    /// When slow rows are to be claimed next.
    fn hold_at(&self) -> Option<Instant> {
        let first = self.flight.slow().map(|(_, since, _)| since).min()? + HOLD_EVERY;
        Some(self.held.map_or(first, |held| first.max(held + HOLD_EVERY)))
    }

    async fn hold(&mut self) {
        let now = self.outlet.clock.now();
        let rows = self.flight.hold(now + millis(CLAIM) / 2, now + millis(CLAIM));
        if !rows.is_empty()
            && let Err(error) = self.outlet.store.outbox_hold(&rows, now + millis(CLAIM)).await
        {
            let error = &error as &dyn std::error::Error;
            let participant = self.outlet.participant;
            tracing::warn!(participant, error, "another instance may publish what is in flight here, too");
        }
        self.held = Some(Instant::now());
    }

    /// What is in flight yet is anybody's.
    async fn leave(&mut self) {
        self.rounds.clear();
        let claims = self.flight.give_up();
        if let Err(error) = self.outlet.release(&claims, self.outlet.clock.now()).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                participant = self.outlet.participant,
                error,
                "claims were not released: they end by themselves"
            );
        }
    }

    /// When it is to be said next that partitions are slow.
    fn slow_until(&self) -> Option<Instant> {
        let first = self.flight.slow().map(|(_, since, _)| since).min()? + SAY_AFTER;
        Some(self.said.map_or(first, |said| first.max(said + SAY_AGAIN)))
    }

    fn say_what_is_slow(&mut self) {
        {
            let mut under_way = self.lane.lock();
            if !under_way.slow.iter().eq(self.flight.slow().map(|(place, ..)| place)) {
                under_way.slow = self.flight.slow().map(|(place, ..)| place.clone()).collect();
            }
        }
        if self.slow_until().is_none_or(|next| next > Instant::now()) {
            return;
        }
        let mut topics = BTreeMap::<&str, (Vec<i32>, usize)>::new();
        for ((topic, partition), _, rows) in self.flight.slow() {
            let (partitions, events) = topics.entry(topic).or_default();
            partitions.push(*partition);
            *events += rows;
        }
        let participant = self.outlet.participant;
        for (topic, (partitions, events)) in topics {
            tracing::warn!(
                participant,
                topic,
                ?partitions,
                events,
                "events wait for the broker, those of other partitions go on: has each of these a leader?"
            );
        }
        if self.left > 0 {
            tracing::warn!(
                participant,
                events = self.left,
                "no more of them may wait in memory: these stay in the outbox"
            );
        }
        self.left = 0;
        self.said = Some(Instant::now());
    }
}

impl Outlet {
    async fn settle(
        &self,
        results: Vec<(Uuid, Flying, Result<(), PublishError>)>,
        again: Vec<(Uuid, i64)>,
        signals: bool,
    ) -> Result<(), Error> {
        let Self { participant, store, observer, clock, harness, .. } = self;
        let participant = *participant;
        let mut acknowledged = Vec::with_capacity(results.len());
        let mut published = HashMap::<Arc<str>, usize>::new();
        let (mut refused, mut failed, mut first_failure) = (Vec::new(), Vec::new(), None);
        for (id, row, result) in results {
            let (topic, _) = row.place;
            match result {
                Ok(()) => {
                    acknowledged.push(id);
                    *published.entry(topic).or_default() += 1;
                }
                // Its work row and its log line go on telling what it told.
                Err(error) if error.permanent && signals => {
                    tracing::warn!(
                        participant,
                        %topic,
                        reason = error.reason,
                        "a signal is dropped: the broker refuses it for good; does its topic exist (`migrate --topics`)?"
                    );
                    acknowledged.push(id);
                }
                Err(error) if error.permanent => {
                    tracing::error!(
                        participant,
                        saga = row.saga,
                        %topic,
                        reason = error.reason,
                        "the broker refuses an event for good: it stays in the outbox (`saga outbox`), and the rest goes on"
                    );
                    refused.push((id, error.reason));
                }
                Err(error) => {
                    failed.extend(row.claim.map(|claim| (id, claim)));
                    first_failure.get_or_insert((topic, error.reason, 0_usize)).2 += 1;
                }
            }
        }
        for (topic, messages) in published {
            observer.measure(participant, &Measure::Published { topic: &topic, messages });
        }
        // A broker that is away refuses all of them, for one reason: one line, not hundreds.
        if let Some((topic, reason, events)) = first_failure {
            tracing::warn!(participant, %topic, reason, events, "events were not published");
        }
        // First what was acknowledged: a row that cannot be marked must not have the others published again and again.
        store.outbox_delete(&acknowledged).await?;
        reach!(harness, AfterDelete);
        for (row, reason) in refused {
            store.outbox_refuse(row, &reason).await?;
        }
        let now = clock.now();
        self.release(&again, now).await?;
        self.release(&failed, now + millis(RETRY)).await
    }

    async fn release(&self, claims: &[(Uuid, i64)], until: i64) -> Result<(), Error> {
        let mut of_a_sweep = HashMap::<i64, Vec<Uuid>>::new();
        for (id, claim) in claims {
            of_a_sweep.entry(*claim).or_default().push(*id);
        }
        for (claim, rows) in of_a_sweep {
            self.store.outbox_release(&rows, claim, until).await?;
        }
        Ok(())
    }
}

fn size(row: &OutboxRow) -> usize {
    let headers = row.message.headers.iter();
    let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
    row.message.body.len() + row.message.key.len() + headers
}

/// A moment, or never.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
