//! How long a participant remembers: old sagas are forgotten whole, behind a horizon that says so, and sagas that started here and
//! never ended are counted as overdue.
//!
//! The invariant: a saga is forgotten by its age (the time inside its id), never while something of it waits, nor where it started
//! before it has ended, and what comes of
//! a forgotten saga later is stuck: never taken for new. So an event that is delivered again after its ledger row is gone runs
//! nothing twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    clock::millis,
    error::Error,
    id::SagaId,
    node::Shared,
    observer::Measure,
    participant::{Contract, StepKind, chain},
    store::WorkState,
};

/// Nothing is forgotten sooner, so that a young saga never has to be looked up behind the horizon.
pub(crate) const LEAST: Duration = Duration::from_secs(3_600);
/// Sagas that are forgotten in one transaction.
const AT_ONCE: u32 = 500;
/// Transactions of one round, so that a first round after long does not keep the database for itself.
const ROUNDS: usize = 20;
/// More overdue sagas than this are not counted: by then the number no longer matters.
const MOST_OVERDUE: u32 = 10_000;

/// How long a participant remembers its sagas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    keep: Option<Duration>,
    overdue: Duration,
    shorter_than_topics: bool,
}

impl Default for Retention {
    /// For ever; a saga is overdue after an hour.
    fn default() -> Self {
        Self { keep: None, overdue: Duration::from_secs(3_600), shorter_than_topics: false }
    }
}

impl Retention {
    /// Sagas are forgotten when they started longer ago than this. At least an hour, and at least as long as the topics keep their
    /// events: an event that outlives the memory of its saga is stuck when it is read again.
    pub const fn keep(keep: Duration) -> Self {
        Self { keep: Some(keep), overdue: Duration::from_secs(3_600), shorter_than_topics: false }
    }

    /// A saga that started here and has had no ending for longer than this is counted as overdue.
    pub const fn overdue_after(mut self, overdue: Duration) -> Self {
        self.overdue = overdue;
        self
    }

    /// Sagas may be forgotten although the topics still hold their events. Whoever reads those again gets stuck rows.
    pub const fn shorter_than_topics(mut self) -> Self {
        self.shorter_than_topics = true;
        self
    }

    pub(crate) fn forgets(&self) -> bool {
        self.keep.is_some()
    }

    /// `topics` is the longest retention of the topics that the participant listens to, if that is known.
    pub(crate) fn check(&self, participant: &str, topics: Option<Duration>) -> Result<(), Error> {
        let refuse = |problem: String| Err(Error::Retention { participant: participant.to_owned(), problem });
        let Some(keep) = self.keep else { return Ok(()) };
        if keep < LEAST {
            return refuse(format!("sagas would be kept for {keep:?}: expected at least {LEAST:?}"));
        }
        match topics {
            Some(topics) if keep < topics && !self.shorter_than_topics => refuse(format!(
                "sagas would be kept for {keep:?}, but a topic that it listens to keeps events for {topics:?}: keep sagas at least as \
                 long, shorten the topic's retention.ms, or allow it with `Retention::shorter_than_topics`"
            )),
            _ => Ok(()),
        }
    }
}

/// Forgets, and counts what is overdue and what waits; a round at a time.
#[derive(Debug)]
pub(crate) struct Housekeeping {
    shared: Shared,
    retention: Retention,
    /// Every saga before this one was looked at when it became overdue.
    from: SagaId,
    /// Those of them that were open, by the step that started them.
    overdue: BTreeMap<&'static str, BTreeSet<SagaId>>,
}

impl Housekeeping {
    pub(crate) fn new(shared: Shared, retention: Retention) -> Self {
        Self { shared, retention, from: SagaId::first_of(0), overdue: BTreeMap::new() }
    }

    /// Returns how many sagas were forgotten. That comes first: no count that fails may keep a table growing.
    pub(crate) async fn round(&mut self) -> Result<u64, Error> {
        let forgotten = self.forget().await?;
        self.count().await?;
        self.look_for_overdue().await?;
        Ok(forgotten)
    }

    /// See [`Retention::check`].
    pub(crate) fn check(&self, topics: Option<Duration>) -> Result<(), Error> {
        self.retention.check(self.shared.participant.name(), topics)
    }

    fn starts(&self) -> Vec<&'static str> {
        let starts = self.shared.contracts.iter().filter(|contract| contract.kind == StepKind::Start);
        starts.flat_map(Contract::names).collect()
    }

    async fn forget(&self) -> Result<u64, Error> {
        let Some(keep) = self.retention.keep else { return Ok(0) };
        let before = self.shared.clock.now().saturating_sub(millis(keep.max(LEAST)));
        let starts = self.starts();
        let mut forgotten = 0;
        for _ in 0..ROUNDS {
            let some = self.shared.store.prune(before, &starts, AT_ONCE).await?;
            forgotten += some;
            if some < u64::from(AT_ONCE) {
                break;
            }
        }
        self.measure(&Measure::Forgotten { sagas: forgotten });
        Ok(forgotten)
    }

    async fn count(&self) -> Result<(), Error> {
        let store = &self.shared.store;
        self.measure(&Measure::Outbox { rows: store.outbox_len().await? });
        let counts = store.work_counts().await?;
        for state in [WorkState::Calling, WorkState::Deferred, WorkState::Parked, WorkState::Stuck] {
            let rows = counts.iter().find(|(of, _)| *of == state).map_or(0, |(_, rows)| *rows);
            self.measure(&Measure::Work { state, rows });
        }
        Ok(())
    }

    /// Each saga is looked at when it becomes overdue, and again only as long as it has no ending.
    async fn look_for_overdue(&mut self) -> Result<(), Error> {
        let now = self.shared.clock.now();
        let to = SagaId::first_of(now.saturating_sub(millis(self.retention.overdue)));
        let before: usize = self.overdue.values().map(BTreeSet::len).sum();
        let mut next = to;
        for start in self.starts() {
            let known = self.overdue.remove(start).unwrap_or_default();
            let known: Vec<SagaId> = known.into_iter().collect();
            let mut open = BTreeSet::new();
            if !known.is_empty() {
                open.extend(self.shared.store.still_open(start, &known).await?);
            }
            let room = MOST_OVERDUE.saturating_sub(u32::try_from(open.len()).unwrap_or(u32::MAX));
            let more = self.shared.store.open_sagas(start, self.from, to, room).await?;
            // There are more of them: they are looked at when there is room.
            if more.len() >= room as usize {
                next = next.min(more.last().copied().unwrap_or(self.from));
            }
            open.extend(more);
            self.overdue.insert(start, open);
        }
        self.from = next.max(self.from);
        let overdue: usize = self.overdue.values().map(BTreeSet::len).sum();
        let oldest = self.overdue.values().filter_map(BTreeSet::first).min();
        if let Some(saga) = oldest.filter(|_| overdue > before) {
            let participant = self.shared.participant.name();
            let after = self.retention.overdue;
            tracing::warn!(participant, overdue, %saga, "sagas have had no ending for longer than {after:?}; this is the oldest");
        }
        self.measure(&Measure::Overdue { sagas: overdue as u64 });
        Ok(())
    }

    fn measure(&self, measure: &Measure<'_>) {
        self.shared.observer.measure(self.shared.participant.name(), measure);
    }

    /// A round that cannot be done now is done later.
    pub(crate) async fn try_round(&mut self) {
        match self.round().await {
            Ok(0) => {}
            Ok(sagas) => {
                tracing::info!(participant = self.shared.participant.name(), sagas, "old sagas were forgotten")
            }
            Err(error) => tracing::warn!(
                participant = self.shared.participant.name(),
                error = chain(&error),
                "old sagas could not be forgotten, nor overdue ones counted"
            ),
        }
    }
}
