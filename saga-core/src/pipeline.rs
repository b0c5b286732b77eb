//! The correctness argument: how a batch of reactions is settled, in one transaction.
//!
//! ```text
//! deliveries ─┐
//! due work  ──┼─► attempt: lock ► read ► fold ► write ► commit ─► outbox rows to the relay
//! answers   ──┘      └─ a step failed: roll back, settle each item alone   └─► calls to the pool, positions to the source
//! ```
//!
//! The invariant: nothing leaves this file before its transaction has committed, and whatever a crash interrupts is either
//! not written at all (the delivery or the due row comes again) or written whole (the ledger absorbs the repetition).

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    call::{Answer, Call},
    clock::millis,
    envelope::{Delivery, Envelope},
    error::Error,
    harness::reach,
    id::{ReactionId, SagaId},
    node::Shared,
    observer::Measure,
    reaction::{Absent, Fold},
    retention::LEAST,
    store::{Fault, LedgerRow, OutboxRow, Tx, WorkRow, fault},
    transport::Position,
    work::KnownFailure,
};

/// How often a reaction that is alone goes out of another transaction's way. One of two that meet gets through, so that a few are
/// enough for a crowd; a step whose statements are in their own way meets it every time, and has to be seen.
const CONFLICTS: u32 = 4;
/// The longest first pause before the next one; it doubles.
const PAUSE: Duration = Duration::from_millis(50);

/// Something to settle.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// A message from the broker.
    Delivery(Delivery),
    /// A row of the work table whose time has come.
    Due { id: ReactionId, saga: SagaId },
    /// A stuck message that names no saga, redriven by a person: its bytes are settled again.
    Again { id: ReactionId, delivery: Delivery },
    /// What a call to another system came to.
    Answer(Answer),
}

/// What is left to do after the commit.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) outbox: Vec<OutboxRow>,
    pub(crate) calls: Vec<Call>,
    pub(crate) positions: Vec<Position>,
}

/// Why a transaction was rolled back.
#[derive(Debug)]
pub(crate) enum Aborted {
    /// A step failed. Its reaction will be written down as failed, in a transaction of its own.
    Step(ReactionId, KnownFailure),
    /// Two transactions stood in each other's way, or PostgreSQL's lock table is full: smaller batches help. With the reaction
    /// whose own statement noticed, if one did.
    Conflict(Error, Option<(ReactionId, KnownFailure)>),
    /// The database or a bug, also where a step's own statement noticed; nobody's attempt is counted.
    Toolkit(Error),
}

impl From<Error> for Aborted {
    fn from(error: Error) -> Self {
        match fault(&error) {
            Some(Fault::Conflict | Fault::Crowded) => Aborted::Conflict(error, None),
            _ => Aborted::Toolkit(error),
        }
    }
}

/// Blames the last step that ran for a transaction that cannot be written or committed because of what is in it.
fn spoilt(error: Error, last_ran: Option<ReactionId>) -> Aborted {
    match last_ran {
        Some(reaction) if fault(&error) == Some(Fault::Data) => {
            Aborted::Step(reaction, KnownFailure { for_good: false, error: crate::participant::chain(&error) })
        }
        _ => error.into(),
    }
}

/// Settles every item: when this returns, each is in the ledger or in the work table, and may be forgotten by whoever brought it.
/// What the transactions that committed leave to do is added to `out`, also when a later one fails.
///
/// A step's failure is told from an outage by what the database said, where it said something ([`fault`]), else by what happens next:
/// the failure is written down in a transaction of its own, and if that fails too, nothing was counted and the whole batch comes again.
pub(crate) async fn settle(shared: &Shared, items: &[Item], out: &mut Settled) -> Result<(), Error> {
    match attempt(shared, items, &HashMap::new()).await {
        Ok(settled) => out.extend(settled),
        Err(Aborted::Toolkit(error)) => return Err(error),
        Err(Aborted::Conflict(error, None)) if items.len() == 1 => return Err(error),
        Err(Aborted::Conflict(_, Some(_))) if items.len() == 1 => {
            settle_alone(shared, &items[0], HashMap::new(), out).await?;
        }
        Err(Aborted::Step(reaction, failure)) if items.len() == 1 => {
            settle_alone(shared, &items[0], HashMap::from([(reaction, failure)]), out).await?;
        }
        Err(Aborted::Conflict(..)) => {
            let (first, second) = items.split_at(items.len() / 2);
            Box::pin(settle(shared, first, out)).await?;
            Box::pin(settle(shared, second, out)).await?;
        }
        // The one that noticed need not be the one that failed: an earlier step may have spoilt the transaction.
        Err(Aborted::Step(..)) => {
            for item in items {
                settle_alone(shared, item, HashMap::new(), out).await?;
            }
        }
    }
    Ok(())
}

/// One item in a transaction of its own. One event may be heard by several steps, so each round learns of at most one more failed
/// reaction, and the next round writes it down instead of running it.
async fn settle_alone(
    shared: &Shared,
    item: &Item,
    mut known: HashMap<ReactionId, KnownFailure>,
    out: &mut Settled,
) -> Result<(), Error> {
    let mut conflicts = 0;
    loop {
        match attempt(shared, std::slice::from_ref(item), &known).await {
            Ok(settled) => {
                out.extend(settled);
                return Ok(());
            }
            // Another instance, or whoever else writes to the step's tables, may have been in its way: that is no attempt.
            Err(Aborted::Conflict(_, Some(_))) if conflicts < CONFLICTS => {
                // Those who met do not all come back at the same moment.
                let most = u64::try_from(PAUSE.as_millis()).unwrap_or(1) << conflicts;
                sleep(Duration::from_millis(shared.clock.random() % most)).await;
                conflicts += 1;
            }
            // Its own statements are in each other's way: a failure like any other.
            Err(Aborted::Step(reaction, failure) | Aborted::Conflict(_, Some((reaction, failure)))) => {
                known.insert(reaction, failure);
                conflicts = 0;
            }
            Err(Aborted::Conflict(error, None) | Aborted::Toolkit(error)) => return Err(error),
        }
    }
}

/// One transaction, read top to bottom; each line says what a crash right after it leaves behind.
async fn attempt(
    shared: &Shared,
    items: &[Item],
    known: &HashMap<ReactionId, KnownFailure>,
) -> Result<Settled, Aborted> {
    let began = Instant::now();
    let arrivals: Vec<Arrival<'_>> = items.iter().map(|item| Arrival::of(shared, item)).collect();
    let mut sagas: Vec<SagaId> = arrivals.iter().filter_map(Arrival::saga).collect();
    sagas.sort_unstable();
    sagas.dedup();

    #[cfg(feature = "harness")]
    let past = crate::harness::past(shared, &sagas).await?;
    reach!(shared.harness, Taken);
    // A crash here leaves nothing: the source still has the deliveries, the table still has the rows.
    let mut tx = shared.store.begin().await?;
    reach!(shared.harness, Begun);
    // Nothing; the locks go with the connection. From here on no other transaction of this participant sees these sagas.
    let mut locks = sagas.clone();
    let again: Vec<ReactionId> = arrivals.iter().filter_map(Arrival::again).collect();
    if !again.is_empty() {
        locks.push(SagaId(Uuid::nil()));
    }
    #[cfg(feature = "harness")]
    tx.locks_when_it_reads(shared.harness.breaks(crate::harness::Rule::LockAndReadInOne));
    tx.lock(&locks).await?;
    reach!(shared.harness, Locked);
    // Nothing. A statement of its own: a read in the locking statement would see the past.
    let (ledger, mut work) = tx.read(&sagas).await?;
    if !again.is_empty() {
        work.extend(tx.work_rows(&again).await?);
    }
    #[cfg(feature = "harness")]
    let (ledger, work) = past.unwrap_or((ledger, work));
    reach!(shared.harness, Read);
    // Nothing. Asked under the lock: whoever forgets a saga holds it, and has raised the horizon before.
    let forgotten = forgotten(&mut tx, shared.clock.now(), &sagas, &ledger, &work).await?;
    #[cfg(feature = "harness")]
    let forgotten = shared.harness.horizon(forgotten);
    // Nothing. What comes of forgotten sagas has no ledger row that could tell.
    let unknown: Vec<ReactionId> = arrivals.iter().flat_map(|arrival| arrival.unknown(shared, &forgotten)).collect();
    let discarded = if unknown.is_empty() { Vec::new() } else { tx.discarded(&unknown).await? };

    let mut fold = Fold::new(shared, tx, ledger, work, known, Absent { forgotten, discarded, waiting: Vec::new() });
    let (malformed, arrivals): (Vec<_>, Vec<_>) =
        arrivals.into_iter().partition(|arrival| matches!(arrival, Arrival::Malformed(..)));
    for arrival in arrivals {
        // Nothing: the steps' own writes are in the same transaction.
        fold.settle(arrival).await?;
    }
    // Nothing. They come last because they share one lock: nobody's step may hold up whoever waits for that.
    fold.malformed(malformed).await?;
    let mut done = fold.finish();
    reach!(shared.harness, Folded);
    #[cfg(feature = "harness")]
    crate::harness::expect_what_is_there(shared, &mut done.tx, &mut done.changes).await?;
    // Nothing: ledger, outbox and work are in the same transaction as the steps' own writes.
    done.tx.write(&done.changes).await.map_err(|error| spoilt(error, done.last_ran))?;
    reach!(shared.harness, Written);
    #[cfg(feature = "harness")]
    shared.harness.publish_early(&done.changes.outbox).await;
    // Before: nothing. After: everything, and the offsets are behind, so the deliveries come again and are absorbed; the outbox
    // rows wait for the sweeper, the calls for the end of their lease. An error here is unknown, which is one of the two.
    done.tx.commit().await.map_err(|error| spoilt(error, done.last_ran))?;
    reach!(shared.harness, Committed);
    #[cfg(feature = "harness")]
    if shared.harness.loses_commit() {
        return Err(Error::database("committing")(sqlx::Error::WorkerCrashed).into());
    }

    for (span, outcome, took) in done.spans {
        span.settle(&outcome, took);
    }
    let measure = Measure::Batch { reactions: items.len(), took: began.elapsed() };
    shared.observer.measure(shared.participant.name(), &measure);
    Ok(Settled { outbox: done.changes.outbox, calls: done.calls, positions: positions(items) })
}

/// Sagas of which this participant knows nothing because they are older than its memory. A row that blocks nobody (such as the one
/// that says so) is no memory.
async fn forgotten(
    tx: &mut Tx,
    now: i64,
    sagas: &[SagaId],
    ledger: &[LedgerRow],
    work: &[WorkRow],
) -> Result<BTreeSet<SagaId>, Error> {
    // Half of it is room for clocks that do not agree.
    let young = now.saturating_sub(millis(LEAST / 2));
    let mut unknown: BTreeSet<SagaId> =
        sagas.iter().filter(|saga| saga.started_at().is_some_and(|at| at < young)).copied().collect();
    for known in ledger.iter().map(|row| row.saga).chain(work.iter().filter(|row| row.blocks).map(|row| row.saga)) {
        unknown.remove(&known);
    }
    if !unknown.is_empty() {
        let horizon = tx.horizon().await?;
        unknown.retain(|saga| saga.started_at().is_some_and(|at| at < horizon));
    }
    Ok(unknown)
}

/// An item with what could be read of it before the transaction.
#[derive(Debug)]
pub(crate) enum Arrival<'i> {
    /// An event that somebody here reacts to.
    Event(&'i Delivery, Box<Envelope>),
    /// A message that somebody should have a look at.
    Malformed(&'i Delivery, String),
    /// An event that nobody here reacts to.
    Passed(String),
    /// See [`Item::Due`].
    Due(ReactionId, SagaId),
    /// See [`Item::Again`].
    Again(ReactionId, Box<Arrival<'i>>),
    /// See [`Item::Answer`].
    Answer(&'i Answer),
}

impl<'i> Arrival<'i> {
    fn of(shared: &Shared, item: &'i Item) -> Self {
        match item {
            Item::Due { id, saga } => Arrival::Due(*id, *saga),
            Item::Answer(answer) => Arrival::Answer(answer),
            Item::Again { id, delivery } => Arrival::Again(*id, Box::new(Self::of_message(shared, delivery))),
            Item::Delivery(delivery) => Self::of_message(shared, delivery),
        }
    }

    fn of_message(shared: &Shared, delivery: &'i Delivery) -> Self {
        match crate::envelope::event_type(delivery) {
            Some(event_type) if !shared.hears(&event_type) => Arrival::Passed(event_type),
            _ => match Envelope::decode(delivery) {
                // No saga has it, and rows under it are those of messages that name none.
                Ok(envelope) if envelope.saga.0.is_nil() => {
                    Arrival::Malformed(delivery, "its sagaid is the nil UUID, which no saga has".to_owned())
                }
                Ok(envelope) => Arrival::Event(delivery, Box::new(envelope)),
                Err(malformed) => Arrival::Malformed(delivery, malformed.to_string()),
            },
        }
    }

    fn again(&self) -> Option<ReactionId> {
        if let Arrival::Again(id, _) = self { Some(*id) } else { None }
    }

    /// The reactions to it that no ledger row knows anything of.
    fn unknown(&self, shared: &Shared, forgotten: &BTreeSet<SagaId>) -> Vec<ReactionId> {
        match self {
            Arrival::Event(_, event) if forgotten.contains(&event.saga) => {
                let ids = |(step, direction): (usize, _)| {
                    let names = shared.contracts[step].names();
                    names.map(move |name| ReactionId::derive(event.saga, name, direction, &event.id))
                };
                shared.reactions(&event.event_type).into_iter().flat_map(ids).collect()
            }
            _ => Vec::new(),
        }
    }

    fn saga(&self) -> Option<SagaId> {
        match self {
            Arrival::Again(_, message) => message.saga(),
            Arrival::Event(_, envelope) => Some(envelope.saga),
            Arrival::Due(_, saga) => Some(*saga),
            Arrival::Answer(answer) => Some(answer.saga),
            Arrival::Malformed(..) | Arrival::Passed(_) => None,
        }
    }
}

/// Every delivery of a settled batch is settled, and batches follow each other.
pub(crate) fn positions(items: &[Item]) -> Vec<Position> {
    Position::behind(items.iter().filter_map(|item| match item {
        Item::Delivery(delivery) => Some(delivery),
        _ => None,
    }))
}

impl Settled {
    pub(crate) fn extend(&mut self, more: Settled) {
        self.outbox.extend(more.outbox);
        self.calls.extend(more.calls);
        self.positions.extend(more.positions);
    }
}
