//! A participant at work in one process: what is queued becomes a batch, a batch is settled, and what it left behind goes out.
//!
//! The invariant: batches follow each other. A position is handed to the source only after the batch that settled it has
//! committed, so what is stored is always the end of a contiguous prefix.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    breaker::Breakers,
    call::{Answer, Call},
    clock::Clock,
    error::Error,
    harness::{Harness, broken, reach},
    observer::{Measure, Observer, Unseen},
    participant::{Contract, Participant, StepKind, chain},
    pipeline::{Item, Settled, positions, settle},
    relay::{Publisher, Relay, SWEEP_ROWS, Sweeper},
    retention::{Housekeeping, Retention},
    start::Starter,
    step::Direction,
    store::{Due, Lane, Store},
    transport::{BoxFuture, Limit, Sink, Source, SourceStatus, TransportError},
    turn::Turns,
};

#[cfg(feature = "harness")]
mod parts;
#[cfg(feature = "harness")]
pub use parts::{Answered, Keeping, Outgoing, Parts, Publishing, Settling, Sweeping};

/// How often the work table is asked for rows that are due: the least wait between two attempts that can be told apart.
const DUE_EVERY: Duration = Duration::from_millis(100);
/// How often the outbox is swept. A crash costs its last events the sweep's minimum age and this.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often old sagas are forgotten, and waiting rows and overdue sagas counted. As often as metrics are commonly read.
const KEEP_HOUSE_EVERY: Duration = Duration::from_secs(15);
/// Committed events that may wait for the broker before no more deliveries are taken.
const RELAY_BACKLOG: usize = 20_000;
/// While the database is away: the longest wait between two probes.
const PROBE: Duration = Duration::from_secs(2);
/// The unit of a stop, which may take seven of them: two for the last batch, two for calls, one for the broker, two for the group.
/// Together below 4 s, so that of the 5 s of a clean stop something is left for the last spans.
const STOP_PART: Duration = Duration::from_millis(550);

/// What every part of a node needs.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) participant: Arc<Participant>,
    pub(crate) contracts: Arc<Vec<Contract>>,
    listeners: Arc<HashMap<&'static str, Vec<(usize, Direction)>>>,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) relay: Relay,
    pub(crate) breakers: Arc<Breakers>,
    pub(crate) turns: Arc<Turns>,
    /// The topic of its signals, if it publishes any.
    pub(crate) signals: Option<Arc<str>>,
    /// This process, as the owner of leases.
    pub(crate) instance: Uuid,
    pub(crate) harness: Harness,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("participant", &self.participant.name())
            .field("instance", &self.instance)
            .finish()
    }
}

impl Shared {
    pub(crate) fn hears(&self, event_type: &str) -> bool {
        self.listeners.contains_key(event_type)
    }

    /// Which steps react to a type, and which way; compensations first, so that a step that a cancelling event closes does not
    /// run once more for nothing.
    pub(crate) fn reactions(&self, event_type: &str) -> Vec<(usize, Direction)> {
        self.listeners.get(event_type).cloned().unwrap_or_default()
    }
}

/// A participant with its database, its source and its sink.
pub struct Node {
    shared: Shared,
    source: Box<dyn Source>,
    publisher: Publisher,
    health: Health,
    waiting_calls: Vec<Call>,
    retention: Retention,
    /// Taken from the source by a turn that failed.
    unsettled: Vec<Item>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

/// Whether a node can do its work. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health {
    store: Store,
    trouble: Arc<Mutex<Option<String>>>,
    contracts: Arc<Vec<Contract>>,
    breakers: Arc<Breakers>,
    relay: Relay,
}

impl Health {
    /// `Err` says what is missing: the database, the broker, partitions not assigned yet.
    pub async fn ready(&self) -> Result<(), String> {
        if let Some(trouble) = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Err(trouble);
        }
        match timeout(Duration::from_secs(2), self.store.check()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err("the database does not answer within 2 s".to_owned()),
        }
    }

    /// What does not keep the node from its work, but from doing all of it: steps at which everything fails at the moment.
    pub fn failing_steps(&self) -> Vec<String> {
        let open = self.breakers.open().into_iter();
        open.map(|(step, direction)| format!("{} ({direction})", self.contracts[step].name)).collect()
    }

    /// The same for what it publishes: partitions, as `topic/partition`, that do not take what they are given, as when they have no
    /// leader. Their events wait, and the others go on.
    pub fn slow_partitions(&self) -> Vec<String> {
        self.relay.slow_partitions()
    }

    fn set(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

impl Node {
    /// A node on the machine's clock, seen by nobody.
    pub fn new(
        participant: Participant,
        store: Store,
        source: Box<dyn Source>,
        sink: Arc<dyn Sink>,
    ) -> Result<Self, Error> {
        Self::observed(participant, store, source, sink, Arc::new(Unseen), Clock::system())
    }

    /// A node with an observer and a clock of its own.
    pub fn observed(
        participant: Participant,
        store: Store,
        source: Box<dyn Source>,
        sink: Arc<dyn Sink>,
        observer: Arc<dyn Observer>,
        clock: Clock,
    ) -> Result<Self, Error> {
        participant.check()?;
        let contracts = participant.contracts();
        let mut listeners = HashMap::<&'static str, Vec<(usize, Direction)>>::new();
        for direction in [Direction::Compensation, Direction::Forward] {
            for (step, contract) in contracts.iter().enumerate() {
                let heard = match direction {
                    Direction::Forward => &contract.on,
                    Direction::Compensation => &contract.compensated_on,
                };
                for event in heard {
                    listeners.entry(event.name).or_default().push((step, direction));
                }
            }
        }
        let name = participant.name();
        let (relay, publisher) = Relay::new(name, store.clone(), sink, clock.clone(), observer.clone());
        let contracts = Arc::new(contracts);
        let breakers = Arc::new(Breakers::of(contracts.len()));
        let health = Health {
            store: store.clone(),
            trouble: Arc::new(Mutex::new(Some("starting".to_owned()))),
            contracts: contracts.clone(),
            breakers: breakers.clone(),
            relay: relay.clone(),
        };
        let turns = Arc::new(Turns::of(participant.steps().iter().map(|step| step.calls_at_once())));
        let instance = clock.time_ordered_uuid();
        let shared = Shared {
            participant: Arc::new(participant),
            contracts,
            listeners: Arc::new(listeners),
            store,
            clock,
            observer,
            relay,
            breakers,
            turns,
            signals: None,
            instance,
            harness: Harness::none(),
        };
        Ok(Self {
            shared,
            source,
            publisher,
            health,
            waiting_calls: Vec::new(),
            retention: Retention::default(),
            unsettled: Vec::new(),
        })
    }

    /// The same node with another memory. By default it forgets nothing.
    #[must_use]
    pub fn remembering(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// The same node, which publishes its signals on `topic` ([`signal::TOPIC`](crate::signal::TOPIC) by convention). By default it
    /// publishes none.
    #[must_use]
    pub fn signalling(mut self, topic: &str) -> Self {
        let topic: Arc<str> = topic.into();
        self.shared.relay.signal_on(&topic);
        self.publisher.signal_on(&topic);
        self.shared.signals = Some(topic);
        self
    }

    /// Starts sagas of this participant.
    pub fn starter(&self) -> Starter {
        Starter { shared: self.shared.clone() }
    }

    /// For a readiness probe.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Refuses tables of another version, and a ledger that names steps which this binary lacks: it would take their
    /// repetitions for something new.
    pub async fn check(&self) -> Result<(), Error> {
        check(&self.shared).await
    }

    /// Plays the part until `shutdown`, then stops within 5 s: no more consumption, the batch finished, leases released, events
    /// flushed, offsets stored, the group left. Errors are those that waiting cannot mend.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let mut shutdown = pin!(shutdown);
        while let Err(error) = tokio::select! {
            checked = check(&self.shared) => checked,
            () = &mut shutdown => return Ok(()),
        } {
            let Error::Database { .. } = error else { return Err(error) };
            // Away, or too busy with what else uses its connections: waited for, as later on.
            self.health.set(Some(chain(&error)));
            tracing::warn!(
                participant = self.shared.participant.name(),
                error = chain(&error),
                "the database is away: nothing is consumed before it is there"
            );
            tokio::select! {
                () = sleep(PROBE) => {}
                () = &mut shutdown => return Ok(()),
            }
        }
        let Self { shared, mut source, publisher, health, retention, .. } = self;
        // Asked beside the work, as a broker may take its time to say: nothing is forgotten before it has said.
        let topics = retention.forgets().then(|| source.retention());
        let stop = CancellationToken::new();
        let told = CancellationToken::new();
        let mut relay = JoinSet::<Result<(), Error>>::new();
        let sweeper = publisher.sweeper();
        // A relay that ends on its own has panicked. Committed events would wait for ever, and readiness would not show it.
        relay.spawn(with_guard(publisher.run(stop.clone()).map(Ok), told.clone()));
        relay.spawn(with_guard(sweep(sweeper, stop.clone()).map(Ok), told.clone()));
        let house = keep_house(Housekeeping::new(shared.clone(), retention), topics, stop.clone());
        relay.spawn(with_guard(house, told.clone()));

        let result = {
            let mut play = pin!(play(&shared, source.as_mut(), &health, &told));
            tokio::select! {
                result = &mut play => result,
                () = &mut shutdown => {
                    told.cancel();
                    play.await
                }
            }
        };

        health.set(Some("stopping".to_owned()));
        stop.cancel();
        let deadline = Instant::now() + STOP_PART;
        let mut failed = Ok(());
        while let Ok(Some(ended)) = timeout_at(deadline, relay.join_next()).await {
            let participant = || shared.participant.name().to_owned();
            let ended = ended
                .unwrap_or_else(|panic| Err(Error::Relay { participant: participant(), panic: panic.to_string() }));
            failed = failed.and(ended);
        }
        let closed = timeout(STOP_PART * 2, source.close()).await;
        result?;
        failed?;
        match closed {
            Ok(closed) => Ok(closed?),
            // Nothing is lost: the ledger, not the group, knows what is settled.
            Err(_) => {
                tracing::warn!(participant = shared.participant.name(), "the group was not left in time");
                Ok(())
            }
        }
    }

    /// One round of everything that can be done without waiting, for a driver that owns the time: what is queued, what is due,
    /// what calls were left by the last round, what is to be published. False when there was nothing to do.
    pub async fn turn(&mut self) -> Result<bool, Error> {
        for call in std::mem::take(&mut self.waiting_calls) {
            self.unsettled.push(Item::Answer(call.make(&self.shared).await));
        }
        let Self { shared, source, unsettled, waiting_calls, .. } = self;
        let mut busy = round(shared, source.as_mut(), unsettled, Limit::default(), waiting_calls).await?;
        busy |= self.publisher.turn().await;
        Ok(busy || !self.waiting_calls.is_empty())
    }

    /// Forgets what is old and counts what waits, for a driver that owns the time. Returns how many sagas were forgotten.
    pub async fn keep_house(&self) -> Result<u64, Error> {
        Housekeeping::new(self.shared.clone(), self.retention).round().await
    }

    /// One sweep of the outbox, for a driver that owns the time. Returns how many rows a crash had left.
    pub async fn sweep(&mut self) -> Result<usize, Error> {
        let found = self.publisher.sweeper().sweep().await?;
        self.publisher.turn().await;
        Ok(found)
    }
}

/// See [`Node::check`]. A function of what can be shared, so that [`Node::run`] can be spawned.
async fn check(shared: &Shared) -> Result<(), Error> {
    shared.store.check().await?;
    let mut steps = shared.store.ledger_steps().await?;
    steps.retain(|step| !shared.contracts.iter().flat_map(Contract::names).any(|name| name == step));
    if steps.is_empty() {
        return Ok(());
    }
    Err(Error::UnknownSteps { participant: shared.participant.name().to_owned(), steps })
}

/// One batch of what waits: `unsettled`, and what is queued and due now. False when there was nothing.
async fn round(
    shared: &Shared,
    source: &mut dyn Source,
    unsettled: &mut Vec<Item>,
    limit: Limit,
    calls: &mut Vec<Call>,
) -> Result<bool, Error> {
    if let Some(deliveries) = source.receive(limit).now_or_never() {
        unsettled.extend(deliveries?.into_iter().map(Item::Delivery));
    }
    let mut items = unsettled.clone();
    items.extend(due(shared, limit.messages).await?);
    if items.is_empty() {
        return Ok(false);
    }
    let mut settled = Settled::default();
    if broken!(shared.harness, OffsetBeforeCommit) {
        source.settled(&positions(&items))?;
    }
    let result = settle(shared, &items, &mut settled).await;
    shared.relay.publish(settled.outbox);
    calls.extend(settled.calls);
    result?;
    unsettled.clear();
    reach!(shared.harness, BeforeOffsets);
    source.settled(&settled.positions)?;
    reach!(shared.harness, AfterOffsets);
    Ok(true)
}

/// Tells everybody to stop when the work ends, however it ends.
async fn with_guard<T>(work: impl Future<Output = T>, told: CancellationToken) -> T {
    let _ends = told.drop_guard();
    work.await
}

/// Now and then, while the participant plays. `topics` tells for how long the topics keep their events; an error when the participant
/// would forget sooner.
async fn keep_house(
    mut housekeeping: Housekeeping,
    topics: Option<BoxFuture<'static, Result<Option<Duration>, TransportError>>>,
    stop: CancellationToken,
) -> Result<(), Error> {
    if let Some(topics) = topics {
        match stop.run_until_cancelled(topics).await {
            Some(topics) => housekeeping.check(topics?)?,
            None => return Ok(()),
        }
    }
    let mut ticks = interval(KEEP_HOUSE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        stop.run_until_cancelled(housekeeping.try_round()).await;
    }
    Ok(())
}

/// The loop of a running participant: wait for anything, take everything that is queued, settle it.
async fn play(
    shared: &Shared,
    source: &mut dyn Source,
    health: &Health,
    told: &CancellationToken,
) -> Result<(), Error> {
    let mut calls = JoinSet::<Answer>::new();
    let result = rounds(shared, source, health, told, &mut calls).await;
    finish_calls(shared, &mut calls).await;
    result
}

/// Until it is told to stop, or until something fails that waiting cannot mend.
async fn rounds(
    shared: &Shared,
    source: &mut dyn Source,
    health: &Health,
    told: &CancellationToken,
    calls: &mut JoinSet<Answer>,
) -> Result<(), Error> {
    let limit = Limit::default();
    let mut ticks = interval(DUE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut items = Vec::new();
        let room = shared.relay.backlog() < RELAY_BACKLOG;
        tokio::select! {
            biased;
            () = told.cancelled() => return Ok(()),
            // Before the two that can be ready all the time: at most ten of these a second.
            _ = ticks.tick() => {
                health.set(match source.status() {
                    SourceStatus::Ready(_) => None,
                    SourceStatus::NotReady(why) => Some(why),
                });
                // Half a batch at most, so that deliveries always have room.
                match due(shared, limit.messages / 2).await {
                    Ok(rows) => items.extend(rows),
                    Err(error) => {
                        // The next settlement, or the next tick, finds out when it is back.
                        health.set(Some(chain(&error)));
                        tracing::warn!(participant = shared.participant.name(), error = chain(&error), "cannot ask for due work");
                    }
                }
            }
            Some(ended) = calls.join_next() => items.extend(answered(shared, ended)),
            deliveries = source.receive(limit), if room => items.extend(deliveries?.into_iter().map(Item::Delivery)),
        }
        while items.len() < limit.messages {
            let Some(ended) = calls.try_join_next() else { break };
            items.extend(answered(shared, ended));
        }
        // Whatever woke this round, deliveries that are queued go with it: answers alone must not starve them.
        let rest = Limit { messages: limit.messages.saturating_sub(items.len()), ..limit };
        if room && rest.messages > 0 && !items.iter().any(|item| matches!(item, Item::Delivery(_))) {
            let queued = source.receive(rest).now_or_never();
            items.extend(queued.transpose()?.into_iter().flatten().map(Item::Delivery));
        }
        consumed(shared, &items);
        if items.is_empty() {
            continue;
        }
        // An answer that is here already makes the takeover of its lease needless: answers first.
        items.sort_by_key(|item| !matches!(item, Item::Answer(_)));
        let mut settled = Settled::default();
        let result = settle_until(shared, health, &items, &mut settled, told).await;
        // What has committed goes out, whatever became of the rest.
        shared.relay.publish(settled.outbox);
        for call in settled.calls {
            spawn_call(calls, shared.clone(), call);
        }
        if !result? {
            return Ok(());
        }
        reach!(shared.harness, BeforeOffsets);
        source.settled(&settled.positions)?;
        reach!(shared.harness, AfterOffsets);
    }
}

/// Settles the batch, and goes on trying while the database is away: consumption pauses, nobody's attempt is counted. `false` when
/// the participant is told to stop meanwhile; then what is left of the batch comes again after the start.
async fn settle_until(
    shared: &Shared,
    health: &Health,
    items: &[Item],
    out: &mut Settled,
    told: &CancellationToken,
) -> Result<bool, Error> {
    let mut wait = Duration::from_millis(50);
    loop {
        // Dropped in mid-air it is rolled back, or has committed: either way the deliveries come again and the ledger knows.
        let late = async {
            told.cancelled().await;
            sleep(STOP_PART * 2).await;
        };
        let settled = tokio::select! {
            settled = settle(shared, items, out) => settled,
            () = late => {
                tracing::warn!(
                    participant = shared.participant.name(),
                    "the last batch is given up: its steps are too slow for a stop"
                );
                return Ok(false);
            }
        };
        let error = match settled {
            Ok(()) => return Ok(true),
            Err(error @ Error::Database { .. }) => error,
            Err(fatal) => return Err(fatal),
        };
        health.set(Some(chain(&error)));
        tracing::warn!(
            participant = shared.participant.name(),
            error = chain(&error),
            "the database is away or overloaded: consumption pauses, next probe in {wait:?}"
        );
        tokio::select! {
            () = sleep(wait) => wait = (wait * 2).min(PROBE),
            () = told.cancelled() => return Ok(false),
        }
    }
}

/// What is due and can be taken now. The one place that decides which of what waits is worth a look: of a step at which everything
/// fails, a probe; of a step that calls another system, as many as have room; of a step of another version, none.
async fn due(shared: &Shared, limit: usize) -> Result<Vec<Item>, Error> {
    let now = shared.clock.now();
    let room = |step: usize, direction| {
        let calls = shared.contracts[step].kind == StepKind::External;
        let turns = if calls { shared.turns.room(step, direction) } else { limit };
        shared.breakers.room(step, direction, now).unwrap_or(limit).min(turns).min(limit)
    };
    let steps =
        (0..shared.contracts.len()).flat_map(|step| [(step, Direction::Compensation), (step, Direction::Forward)]);
    let asked: Vec<(usize, Direction, usize)> = steps
        .map(|(step, direction)| (step, direction, room(step, direction)))
        .filter(|(.., room)| *room > 0)
        .collect();
    let lane = |step, direction, room: usize| Lane { step, direction, room: u32::try_from(room).unwrap_or(u32::MAX) };
    // Rows carry the name that their step had when they were written.
    let lanes = asked.iter().flat_map(|(step, direction, room)| {
        shared.contracts[*step].names().map(|name| lane(name, *direction, *room)).collect::<Vec<_>>()
    });
    // Last those of messages that named no saga.
    let lanes: Vec<_> = lanes.chain([lane("", Direction::Forward, limit)]).collect();
    let mut rows = shared.store.work_due(now, &lanes).await?;
    for (step, direction, room) in asked {
        let own = |row: &&Due| {
            lanes[row.lane].direction == direction
                && shared.contracts[step].names().any(|name| name == lanes[row.lane].step)
        };
        if rows.iter().filter(own).count() < room {
            shared.turns.caught_up(step, direction);
        }
    }
    rows.truncate(limit);
    let mut items = Vec::with_capacity(rows.len());
    // The others are read under their sagas' locks; of these, which name none, the bytes say whose lock it is.
    let mut room = Limit::default().bytes;
    for Due { id, saga, .. } in rows {
        if !saga.0.is_nil() {
            items.push(Item::Due { id, saga });
        } else if room > 0 // what has no room now is still due at the next tick
            && let Some(row) = shared.store.work_row(id).await?
        {
            room = room.saturating_sub(row.delivery.body.len().max(1));
            items.push(Item::Again { id, delivery: row.delivery });
        }
    }
    Ok(items)
}

fn consumed(shared: &Shared, items: &[Item]) {
    let mut counts = HashMap::<&str, usize>::new();
    for item in items {
        if let Item::Delivery(delivery) = item {
            *counts.entry(&delivery.topic).or_default() += 1;
        }
    }
    for (topic, messages) in counts {
        shared.observer.measure(shared.participant.name(), &Measure::Consumed { topic, messages });
    }
}

/// The call waits for its turn, but not for longer than its lease allows: then it is given back, and another may have its place.
fn spawn_call(calls: &mut JoinSet<Answer>, shared: Shared, call: Call) {
    calls.spawn(async move {
        tokio::select! {
            biased;
            _going = call.turn.comes() => call.make(&shared).await,
            () = sleep(call.patience(&shared)) => call.not_made(),
        }
    });
}

fn answered(shared: &Shared, ended: Result<Answer, tokio::task::JoinError>) -> Option<Item> {
    match ended {
        Ok(answer) => Some(Item::Answer(answer)),
        Err(error) => {
            // A step's own panic is caught before; the lease will be taken over.
            tracing::error!(participant = shared.participant.name(), %error, "a call was lost");
            None
        }
    }
}

/// Answers that come soon are settled; the other calls are given up, and their leases released for the next instance.
async fn finish_calls(shared: &Shared, calls: &mut JoinSet<Answer>) {
    let deadline = Instant::now() + STOP_PART;
    while let Ok(Some(ended)) = timeout_at(deadline, calls.join_next()).await {
        let Some(item) = answered(shared, ended) else { continue };
        let mut settled = Settled::default();
        match timeout_at(deadline + STOP_PART / 2, settle(shared, &[item], &mut settled)).await {
            Ok(Ok(())) => shared.relay.publish(settled.outbox),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = chain(&error),
                    "an answer was not settled before the stop: the call is repeated"
                );
                break;
            }
            Err(_) => break,
        }
    }
    calls.abort_all();
    let released = shared.store.release_leases(shared.instance, shared.clock.now());
    match timeout(STOP_PART / 2, released).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = chain(&error), "leases were not released: they end by themselves"),
        Err(_) => tracing::warn!("leases were not released in time: they end by themselves"),
    }
}

async fn sweep(sweeper: Sweeper, stop: CancellationToken) {
    let mut ticks = interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        // A full sweep is not the last one.
        loop {
            match stop.run_until_cancelled(sweeper.sweep()).await {
                None | Some(Ok(0)) => break,
                Some(Ok(rows)) => {
                    tracing::info!(
                        rows,
                        "publishing events that an earlier process or a broker that was away had left"
                    );
                    if rows < SWEEP_ROWS as usize {
                        break;
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(error = chain(&error), "the outbox could not be swept");
                    break;
                }
            }
        }
    }
}
