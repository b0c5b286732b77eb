//! What a person does when trying again cannot help: a waiting reaction is given up, with a reason, and for ever recorded.
//!
//! The invariant: a reaction that was discarded never runs again, however often its event is delivered; a compensation is never
//! given up, unless somebody took the effect back by hand, and then its step can neither run nor be compensated again.
//!
//! | discarded | the step's ledger row before | after | a compensation that comes later |
//! |---|---|---|---|
//! | forward | none | rejected, with a note: another trigger may still take its place | nothing done (an external step: in doubt) |
//! | forward of an external step | calling | calling, with a note | in doubt: closes the call's key |
//! | second trigger | any | the same, with a note | as without it |
//! | compensation, taken back by hand | none, rejected | void | duplicate |
//! | compensation, taken back by hand | calling, done, compensating | compensated | duplicate |
//! | message that is no event, or of a saga that is forgotten | | | |

use saga_compensation::State;

use crate::{
    clock::Clock,
    envelope::{Envelope, Message},
    error::Error,
    id::ReactionId,
    redrive::outcome,
    signal::{self, Tells},
    step::Direction,
    store::{Changes, DiscardedRow, LedgerRow, Note, OutboxRow, Store, WorkRow, WorkState},
};

/// Longest reason, in bytes: a reason, not a report.
pub const MAX_REASON: usize = 2_000;

/// What is given up, and why.
#[derive(Debug, Clone, Copy)]
pub struct Discard<'d> {
    /// Which waiting reaction.
    pub reaction: ReactionId,
    /// Why. Kept for ever.
    pub reason: &'d str,
    /// Who says so. Kept for ever.
    pub who: &'d str,
    /// The reaction may be a compensation: the person has taken the effect back by hand.
    pub taken_back: bool,
    /// Change nothing, tell only what would become of it.
    pub dry_run: bool,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discarded {
    /// The row that waited.
    pub work: WorkRow,
    /// The state of its step in the ledger, before and after.
    pub step: (Option<State>, Option<State>),
    /// The rejection that waited for a call's key to be closed, and is emitted now.
    pub emits: Option<Message>,
    /// The first of the rows that waited behind it, which are due now.
    pub wakes: Option<ReactionId>,
}

/// Why nothing was discarded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscardError {
    /// There is no such row.
    #[error("no reaction {0} waits at this participant: was it settled, or discarded before?")]
    NotWaiting(ReactionId),
    /// A call is running.
    #[error(
        "{step} is calling another system, and its answer may still come: wait until its lease ends in {seconds} s, then look again"
    )]
    Calling {
        /// Whose call.
        step: String,
        /// Until its lease ends, rounded up.
        seconds: i64,
    },
    /// It takes something back.
    #[error(
        "it is a compensation of {0}, and what was done must be taken back: redrive it when the fault is gone, or take the effect \
         back by hand and say so"
    )]
    Compensation(String),
    /// A reason is required, and bounded.
    #[error("a reason of 1 to {MAX_REASON} bytes is required, this one has {0}")]
    Reason(usize),
    /// The step's no would be said now, and cannot be built from its row.
    #[error("the rejection that waits for this compensation cannot be said: {0}")]
    Rejection(&'static str),
    /// The toolkit or its database failed.
    #[error(transparent)]
    Toolkit(#[from] Error),
}

/// Discards one reaction, in one transaction under its saga's lock.
pub async fn discard(
    store: &Store,
    clock: &Clock,
    participant: &str,
    what: &Discard<'_>,
) -> Result<Discarded, DiscardError> {
    let length = what.reason.trim().len();
    if length == 0 || length > MAX_REASON {
        return Err(DiscardError::Reason(length));
    }
    let missing = || DiscardError::NotWaiting(what.reaction);
    let saga = store.work_row(what.reaction).await?.ok_or_else(missing)?.saga;
    let mut tx = store.begin().await?;
    tx.lock(&[saga]).await?;
    // Again, now that nobody else has it.
    let row = tx.work_rows(&[what.reaction]).await?.pop().ok_or_else(missing)?;
    // Messages that name no saga are no saga: none has to do with the other, and there may be many.
    let (ledger, waiting) = if saga.0.is_nil() { (Vec::new(), Vec::new()) } else { tx.read(&[saga]).await? };
    let horizon = tx.horizon().await?;
    let forgotten = saga.started_at().is_some_and(|at| at < horizon);
    let now = clock.now();
    let rows = if saga.0.is_nil() { vec![row.clone()] } else { waiting.clone() };
    let saga = Saga { participant, ledger, waiting, forgotten };
    let (mut changes, discarded) = plan(what, now, row, saga)?;
    if let Some(message) = &discarded.emits {
        let (id, message) = (clock.time_ordered_uuid(), message.clone());
        changes.outbox.push(OutboxRow { id, message, created_at: now });
    }
    // The forwards of a step that is closed go with it.
    for mut row in rows.into_iter().filter(|row| changes.work_done.contains(&row.id)) {
        let (tells, why) =
            if row.id == what.reaction { (Tells::Discarded, what.reason.trim()) } else { (Tells::Settled, "") };
        let step = row.step.clone();
        changes.outbox.extend(signal::of_row(tells, participant, &step, &mut row, why, clock));
    }
    if !what.dry_run {
        // A crash before the commit leaves everything as it was.
        tx.write(&changes).await?;
        tx.commit().await?;
    }
    Ok(discarded)
}

/// What is known of the reaction's saga.
struct Saga<'s> {
    participant: &'s str,
    ledger: Vec<LedgerRow>,
    waiting: Vec<WorkRow>,
    /// It is older than the participant's memory.
    forgotten: bool,
}

/// What changes, decided without any I/O.
fn plan(what: &Discard<'_>, now: i64, row: WorkRow, saga: Saga<'_>) -> Result<(Changes, Discarded), DiscardError> {
    let Saga { participant, ledger: mut rows, waiting, forgotten } = saga;
    let forwards = |other: &&WorkRow| other.step == row.step && other.direction == Direction::Forward && other.blocks;
    let compensates = row.direction == Direction::Compensation;
    let mut gone = vec![row.id];
    if compensates {
        if !what.taken_back {
            return Err(DiscardError::Compensation(row.step));
        }
        // Of a step that is closed no forward will ever run.
        gone.extend(waiting.iter().filter(forwards).map(|other| other.id));
    }
    let leased = |other: &&WorkRow| {
        other.state == WorkState::Calling && gone.contains(&other.id) && other.due_at.is_some_and(|until| until > now)
    };
    if let Some(WorkRow { step, due_at, .. }) = waiting.iter().find(leased) {
        let left = due_at.unwrap_or(now) - now;
        return Err(DiscardError::Calling { step: step.clone(), seconds: left.div_euclid(1_000) + 1 });
    }
    // A row of a saga that is forgotten, and of which nothing else is left, would be taken for a memory of it.
    let remembered =
        !forgotten || !rows.is_empty() || waiting.iter().any(|other| other.blocks && !gone.contains(&other.id));
    let place = rows.iter().position(|ledger| ledger.step == row.step);
    let ledger = place.map(|place| rows.swap_remove(place));
    let before = ledger.as_ref().map(|ledger| ledger.state);
    let after = match (row.direction, before) {
        (Direction::Forward, None) => State::Rejected,
        (Direction::Forward, Some(state)) => state,
        (Direction::Compensation, None | Some(State::Rejected | State::Void)) => State::Void,
        (Direction::Compensation, _) => State::Compensated,
    };
    let note = Note { at: now, reaction: row.id, who: what.who.to_owned(), reason: what.reason.trim().to_owned() };
    let mut changes = Changes::default();
    let mut emits = None;
    let mut written = before;
    if let Some(mut ledger) = ledger.or_else(|| vacant(&row).filter(|_| remembered)) {
        // The person has closed the key by hand: now the step may say its no.
        let says_no = compensates && ledger.state == State::Compensating && ledger.rejecting && ledger.record.is_some();
        if before != Some(after) {
            ledger.changed_at = now;
        }
        ledger.state = after;
        ledger.notes.push(note);
        if says_no {
            emits = Some(outcome(participant, &ledger, &rows).map_err(DiscardError::Rejection)?);
        }
        written = Some(after);
        match before {
            Some(expected) => changes.ledger_updates.push((expected, ledger)),
            None => changes.ledger_inserts.push(ledger),
        }
    }
    // They settle nothing by themselves: each looks whether it must still wait. All of them, as none is asked for before its own step
    // can go on, and what takes back must not wait for a forward of another step.
    let parked = || waiting.iter().filter(|other| other.state == WorkState::Parked && !gone.contains(&other.id));
    changes.work.extend(parked().map(|parked| WorkRow { due_at: Some(now), ..parked.clone() }));
    let wakes = parked().next().map(|parked| parked.id);
    changes.discarded.push(DiscardedRow {
        work: row.clone(),
        why: what.reason.trim().to_owned(),
        who: what.who.to_owned(),
        at: now,
    });
    changes.work_done = gone;
    Ok((changes, Discarded { work: row, step: (before, written), emits, wakes }))
}

/// The ledger row of a reaction that is given up before its step has run. `None` for a message that is no event.
fn vacant(row: &WorkRow) -> Option<LedgerRow> {
    let event = Envelope::decode(&row.delivery).ok().filter(|event| event.saga == row.saga && !row.step.is_empty())?;
    Some(LedgerRow {
        saga: row.saga,
        step: row.step.clone(),
        state: State::Rejected,
        trigger: event.id,
        trigger_type: event.event_type,
        // An external step is asked about it when its key is closed; this file cannot know what kind of step it is.
        trigger_body: Some(event.body),
        record: None,
        reply: None,
        attempts: row.attempts,
        rejecting: false,
        ending: None,
        trace: event.trace,
        hops: event.hops,
        changed_at: row.since,
        record_topic: None,
        record_subject: None,
        compensation: None,
        notes: Vec::new(),
    })
}
