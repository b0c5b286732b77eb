//! What a person does when the fault is gone: waiting reactions are tried again now, or what a saga said is said again.
//!
//! The invariant: the rows of a saga keep their order, a call is left alone while its lease may last, and an event that is emitted
//! again has the id that it had, so that whoever heard it before absorbs it.

use std::collections::BTreeMap;

use saga_compensation::State;

use crate::{
    clock::Clock,
    envelope::{Envelope, Kind, Message},
    error::Error,
    id::{EventId, ReactionId, SagaId},
    signal::{self, Tells},
    step::Direction,
    store::{Changes, LedgerRow, OutboxRow, Store, WorkRow, WorkState},
};

/// Makes those of these reactions due now that are stuck or deferred, and returns them as they are then; the others were settled
/// meanwhile, wait behind another row and follow it, or are being called. One transaction, under the locks of their sagas: so give
/// it a bounded number. What a late answer left behind is no reaction, and is left, too.
///
/// A retry policy starts anew. The attempts go on being counted from where they were, because the other system of a call has seen
/// them, and a no after an attempt of unknown outcome must still not be believed.
pub async fn redrive(store: &Store, clock: &Clock, reactions: &[(ReactionId, SagaId)]) -> Result<Vec<WorkRow>, Error> {
    let (ids, mut sagas): (Vec<_>, Vec<_>) = reactions.iter().copied().unzip();
    sagas.sort_unstable();
    sagas.dedup();
    let mut tx = store.begin().await?;
    tx.lock(&sagas).await?;
    let now = clock.now();
    let due = |row: WorkRow| WorkRow {
        state: WorkState::Deferred,
        due_at: Some(now),
        counted: 0,
        counted_from: now,
        reason: String::new(),
        ..row
    };
    // Whoever runs this is no node: the rows know where the participant's signals go.
    let participant = store.participant();
    let waits = |row: &WorkRow| matches!(row.state, WorkState::Stuck | WorkState::Deferred) && is_reaction(row);
    let mut work: Vec<WorkRow> = tx.work_rows(&ids).await?.into_iter().filter(waits).map(due).collect();
    let told = work.iter_mut().filter_map(|row| {
        let step = row.step.clone();
        signal::of_row(Tells::Redriven, &participant, &step, row, "", clock)
    });
    let outbox = told.collect();
    let changes = Changes { work, outbox, ..Changes::default() };
    // A crash before the commit leaves every row as it was; after it, all of them are due.
    tx.write(&changes).await?;
    tx.commit().await?;
    Ok(changes.work)
}

/// Whether there is something to run. A late answer that contradicts what was settled leaves a row beside the step's own ones, so
/// that a person learns of it; settling that would only make it disappear.
pub fn is_reaction(row: &WorkRow) -> bool {
    let own = |event: Envelope| row.id == ReactionId::derive(row.saga, &row.step, row.direction, &event.id);
    row.saga.0.is_nil() || Envelope::decode(&row.delivery).map_or(true, own)
}

/// What a saga's steps at one participant said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The events that were written to the outbox again, with the step that emitted each.
    pub again: Vec<(String, Message)>,
    /// The steps with nothing to emit, and why.
    pub silent: Vec<(String, &'static str)>,
}

/// Writes the events that a saga's steps emitted at this participant to the outbox again, from the ledger; with `dry_run` it only
/// tells which. Their ids are the same as before. The running participant publishes them a few seconds later.
pub async fn re_emit(
    store: &Store,
    clock: &Clock,
    participant: &str,
    saga: SagaId,
    dry_run: bool,
) -> Result<Said, Error> {
    let mut tx = store.begin().await?;
    tx.lock(&[saga]).await?;
    let (mut ledger, _) = tx.read(&[saga]).await?;
    // Causes before effects, as far as one participant knows.
    ledger.sort_by_key(|row| row.hops);
    let mut said = Said::default();
    for row in &ledger {
        let step = row.step.clone();
        let compensation = row.compensation.clone();
        match (outcome(participant, row, &ledger), compensation) {
            (Err(why), None) => said.silent.push((step, why)),
            (forward, compensation) => {
                said.again.extend(forward.ok().into_iter().chain(compensation).map(|message| (step.clone(), message)));
            }
        }
    }
    if !dry_run {
        let outbox = said.again.iter().map(|(_, message)| OutboxRow {
            id: clock.time_ordered_uuid(),
            message: message.clone(),
            created_at: clock.now(),
        });
        tx.write(&Changes { outbox: outbox.collect(), ..Changes::default() }).await?;
        tx.commit().await?;
    }
    Ok(said)
}

/// What a step's forward emitted, built again from its ledger row. `saga` are the rows of its saga.
pub(crate) fn outcome(participant: &str, row: &LedgerRow, saga: &[LedgerRow]) -> Result<Message, &'static str> {
    let kind = match row.state {
        State::Calling => return Err("its call is not answered yet"),
        State::Compensating if row.rejecting => return Err("its rejection waits until the call's key is closed"),
        State::Done => Kind::Done,
        State::Rejected | State::Void => Kind::Rejected,
        State::Compensating | State::Compensated if row.rejecting => Kind::Rejected,
        State::Compensating | State::Compensated => Kind::Done,
    };
    let Some(record) = &row.record else { return Err("it recorded no event") };
    // Where it went is written down when it goes.
    let Some(topic) = &row.record_topic else {
        return Err("its event did not go out: a step that it joins was not done yet");
    };
    let id = EventId::derive(row.saga, participant, &row.step, Direction::Forward, &record.event_type);
    // A start is its own trigger, and so is a request, which was caused by the start.
    let starts = id == row.trigger;
    let start =
        saga.iter().find(|other| starts && row.hops > 0 && other.hops + 1 == row.hops && is_start(participant, other));
    let causation = if starts { start.map(|start| start.trigger.clone()) } else { Some(row.trigger.clone()) };
    let compensation_ends = || {
        let mut headers = row.compensation.iter().flat_map(|message| &message.headers);
        headers.any(|(name, _)| name == "ce_sagaending")
    };
    let settled = matches!(row.state, State::Done | State::Rejected);
    Envelope {
        id,
        source: format!("/{participant}"),
        event_type: record.event_type.clone(),
        // A row that changed since does not know any more when it was.
        time: settled.then_some(row.changed_at),
        subject: row.record_subject.clone(),
        saga: row.saga,
        causation,
        step: Some(row.step.clone()),
        kind: Some(kind),
        ending: row.ending.filter(|_| !compensation_ends()),
        hops: if starts { row.hops } else { row.hops + 1 },
        trace: row.trace.clone(),
        extensions: BTreeMap::new(),
        body: record.body.clone(),
    }
    .encode(topic)
    .map_err(|_| "what it recorded is larger than an event may be")
}

fn is_start(participant: &str, row: &LedgerRow) -> bool {
    let own = |event_type| EventId::derive(row.saga, participant, &row.step, Direction::Forward, event_type);
    row.hops == 0 && row.record.as_ref().is_some_and(|record| own(&record.event_type) == row.trigger)
}
