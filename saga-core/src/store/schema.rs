//! What both engines share: how a row looks in a table, and which version the tables have.
//!
//! The invariant: what is read is what was written, or an error. A word, number or text that this version does not know is
//! never guessed at.

use std::collections::HashSet;

use sqlx::FromRow;
use uuid::Uuid;

use super::{
    Direction, DiscardedRow, LedgerRow, Note, OutboxEntry, OutboxRow, Place, Record, StartedRow, Which, WorkRow,
    WorkState,
};
use crate::{
    envelope::{Delivery, Message, TraceContext},
    error::Error,
    id::{EventId, ReactionId, SagaId},
};

/// Numbered changes of the tables, oldest first. `{p}` stands for the participant's prefix. One that was released is never
/// edited: what it did is in somebody's database.
pub(super) type Migrations = &'static [(i64, &'static str)];

/// The version that this binary needs.
pub(super) fn newest(migrations: Migrations) -> i64 {
    migrations.last().map_or(0, |(version, _)| *version)
}

/// The tables are not those of this binary.
pub(super) fn wrong_version(prefix: &str, found: i64, migrations: Migrations) -> Error {
    // A participant's name holds no underscore, so this is its name again.
    Error::Schema { participant: prefix.replace('_', "-"), found, needed: newest(migrations) }
}

/// A write of this transaction failed. It is rolled back although its caller asks for a commit.
pub(super) fn failed_before() -> Error {
    Error::database("committing")(sqlx::Error::Protocol("an earlier write of this transaction failed".to_owned()))
}

/// A row that has ended the saga of a row `l`: as [`LedgerRow::ended`] says it.
const ENDING: &str = "SELECT 1 FROM {p}_ledger AS e WHERE e.saga = l.saga \
                      AND e.ending IS NOT NULL AND NOT (e.rejecting AND e.state = 'compensating')";

/// Puts the prefix, which is checked where a store connects, into a statement, and what `{ending}` stands for.
pub(super) fn sql(prefix: &str, template: &str) -> std::sync::Arc<str> {
    template.replace("{ending}", ENDING).replace("{p}", prefix).into()
}

/// The columns of a ledger row, in the order in which they are bound.
pub(super) const LEDGER: [&str; 20] = [
    "saga",
    "step",
    "state",
    "trigger_id",
    "trigger_type",
    "trigger_body",
    "record_type",
    "record_body",
    "reply",
    "attempts",
    "rejecting",
    "ending",
    "traceparent",
    "tracestate",
    "hops",
    "changed_at",
    "record_topic",
    "record_subject",
    "compensation",
    "notes",
];

/// The columns of a work row, in the order in which they are bound.
pub(super) const WORK: [&str; 23] = [
    "id",
    "saga",
    "step",
    "direction",
    "state",
    "seq",
    "log_topic",
    "log_partition",
    "log_offset",
    "key",
    "headers",
    "body",
    "due_at",
    "attempts",
    "lease_owner",
    "failures",
    "since",
    "reason",
    "blocks",
    "counted",
    "counted_from",
    "told",
    "told_on",
];

/// The columns of a discarded row, in the order in which they are bound.
pub(super) const DISCARDED: [&str; 18] = [
    "id",
    "saga",
    "step",
    "direction",
    "state",
    "log_topic",
    "log_partition",
    "log_offset",
    "key",
    "headers",
    "body",
    "attempts",
    "failures",
    "since",
    "reason",
    "why",
    "who",
    "discarded_at",
];

/// The columns of an outbox row, in the order in which they are bound; the other columns have defaults.
pub(super) const OUTBOX: [&str; 6] = ["id", "topic", "key", "headers", "body", "created_at"];

/// `a = from.a, b = from.b` for these columns.
pub(super) fn assignments(columns: &[&str], from: &str) -> String {
    columns.iter().map(|column| format!("{column} = {from}.{column}")).collect::<Vec<_>>().join(", ")
}

/// A ledger row as it is read; `U` is how the engine keeps a UUID.
#[derive(Debug, FromRow)]
pub(super) struct LedgerCells<U> {
    saga: U,
    step: String,
    state: String,
    trigger_id: String,
    trigger_type: String,
    trigger_body: Option<Vec<u8>>,
    record_type: Option<String>,
    record_body: Option<Vec<u8>>,
    reply: Option<Vec<u8>>,
    attempts: i64,
    rejecting: bool,
    ending: Option<String>,
    traceparent: Option<String>,
    tracestate: Option<String>,
    hops: i64,
    changed_at: i64,
    record_topic: Option<String>,
    record_subject: Option<String>,
    compensation: Option<String>,
    notes: Option<String>,
}

impl<U: Into<Uuid>> TryFrom<LedgerCells<U>> for LedgerRow {
    type Error = Error;

    fn try_from(cells: LedgerCells<U>) -> Result<Self, Error> {
        const TABLE: &str = "ledger";
        let record = match (cells.record_type, cells.record_body) {
            (Some(event_type), Some(body)) => Some(Record { event_type, body }),
            (None, None) => None,
            _ => return Err(unknown(TABLE, "half a record")),
        };
        let ending = match cells.ending {
            Some(word) => Some(crate::event::Ending::parse(&word).ok_or_else(|| unknown(TABLE, &word))?),
            None => None,
        };
        Ok(Self {
            saga: SagaId(cells.saga.into()),
            step: cells.step,
            state: cells.state.parse().map_err(|_| unknown(TABLE, &cells.state))?,
            trigger: EventId(cells.trigger_id),
            trigger_type: cells.trigger_type,
            trigger_body: cells.trigger_body,
            record,
            reply: cells.reply,
            attempts: count(TABLE, cells.attempts)?,
            rejecting: cells.rejecting,
            ending,
            trace: TraceContext { traceparent: cells.traceparent, tracestate: cells.tracestate },
            hops: count(TABLE, cells.hops)?,
            changed_at: cells.changed_at,
            record_topic: cells.record_topic,
            record_subject: cells.record_subject,
            compensation: match cells.compensation {
                Some(text) => Some(message(&text).ok_or_else(|| unknown(TABLE, "an unreadable compensation"))?),
                None => None,
            },
            notes: match cells.notes {
                Some(text) => serde_json::from_str(&text).map_err(|_| unknown(TABLE, "unreadable notes"))?,
                None => Vec::new(),
            },
        })
    }
}

/// A work row as it is read.
#[derive(Debug, FromRow)]
pub(super) struct WorkCells<U> {
    id: U,
    saga: U,
    step: String,
    direction: String,
    state: String,
    seq: i64,
    log_topic: String,
    log_partition: i32,
    log_offset: i64,
    key: Option<Vec<u8>>,
    headers: String,
    body: Vec<u8>,
    due_at: Option<i64>,
    attempts: i64,
    lease_owner: Option<U>,
    failures: String,
    since: i64,
    reason: String,
    blocks: bool,
    counted: i64,
    counted_from: i64,
    told: i64,
    told_on: Option<String>,
}

impl<U: Into<Uuid>> TryFrom<WorkCells<U>> for WorkRow {
    type Error = Error;

    fn try_from(cells: WorkCells<U>) -> Result<Self, Error> {
        const TABLE: &str = "work";
        let direction = [Direction::Forward, Direction::Compensation]
            .into_iter()
            .find(|direction| direction.as_str() == cells.direction)
            .ok_or_else(|| unknown(TABLE, &cells.direction))?;
        Ok(Self {
            id: ReactionId(cells.id.into()),
            saga: SagaId(cells.saga.into()),
            step: cells.step,
            direction,
            state: WorkState::parse(&cells.state).ok_or_else(|| unknown(TABLE, &cells.state))?,
            seq: cells.seq,
            delivery: Delivery {
                topic: cells.log_topic.into(),
                partition: cells.log_partition,
                offset: cells.log_offset,
                // The assignment that it was read under is long gone.
                epoch: 0,
                key: cells.key,
                headers: raw_headers(&cells.headers).ok_or_else(|| unknown(TABLE, "unreadable headers"))?,
                body: cells.body,
            },
            due_at: cells.due_at,
            attempts: count(TABLE, cells.attempts)?,
            lease_owner: cells.lease_owner.map(Into::into),
            failures: serde_json::from_str(&cells.failures).map_err(|_| unknown(TABLE, "unreadable failures"))?,
            since: cells.since,
            reason: cells.reason,
            blocks: cells.blocks,
            counted: count(TABLE, cells.counted)?,
            counted_from: cells.counted_from,
            told: cells.told,
            told_on: cells.told_on,
        })
    }
}

/// A discarded row as it is read.
#[derive(Debug, FromRow)]
pub(super) struct DiscardedCells<U> {
    id: U,
    saga: U,
    step: String,
    direction: String,
    state: String,
    log_topic: String,
    log_partition: i32,
    log_offset: i64,
    key: Option<Vec<u8>>,
    headers: String,
    body: Vec<u8>,
    attempts: i64,
    failures: String,
    since: i64,
    reason: String,
    why: String,
    who: String,
    discarded_at: i64,
}

impl<U: Into<Uuid>> TryFrom<DiscardedCells<U>> for DiscardedRow {
    type Error = Error;

    fn try_from(cells: DiscardedCells<U>) -> Result<Self, Error> {
        let DiscardedCells { why, who, discarded_at: at, .. } = cells;
        let work = WorkCells {
            id: cells.id,
            saga: cells.saga,
            step: cells.step,
            direction: cells.direction,
            state: cells.state,
            seq: 0,
            log_topic: cells.log_topic,
            log_partition: cells.log_partition,
            log_offset: cells.log_offset,
            key: cells.key,
            headers: cells.headers,
            body: cells.body,
            due_at: None,
            attempts: cells.attempts,
            lease_owner: None,
            failures: cells.failures,
            since: cells.since,
            reason: cells.reason,
            blocks: false,
            counted: 0,
            counted_from: cells.since,
            told: 0,
            told_on: None,
        };
        Ok(Self { work: work.try_into()?, why, who, at })
    }
}

/// An outbox row as it is read.
#[derive(Debug, FromRow)]
pub(super) struct OutboxCells<U> {
    id: U,
    topic: String,
    key: String,
    headers: String,
    body: Vec<u8>,
    created_at: i64,
}

impl<U: Into<Uuid>> TryFrom<OutboxCells<U>> for OutboxRow {
    type Error = Error;

    fn try_from(cells: OutboxCells<U>) -> Result<Self, Error> {
        let headers = serde_json::from_str(&cells.headers).map_err(|_| unknown("outbox", "unreadable headers"))?;
        Ok(Self {
            id: cells.id.into(),
            message: Message { topic: cells.topic, key: cells.key, headers, body: cells.body },
            created_at: cells.created_at,
        })
    }
}

/// An outbox row as it is read for a person.
#[derive(Debug, FromRow)]
pub(super) struct OutboxEntryCells<U> {
    #[sqlx(flatten)]
    row: OutboxCells<U>,
    claimed_until: i64,
    refused: Option<String>,
}

impl<U: Into<Uuid>> TryFrom<OutboxEntryCells<U>> for OutboxEntry {
    type Error = Error;

    fn try_from(cells: OutboxEntryCells<U>) -> Result<Self, Error> {
        let OutboxEntryCells { row, claimed_until, refused } = cells;
        Ok(Self { row: row.try_into()?, claimed_until, refused })
    }
}

/// A start as it is read.
#[derive(Debug, FromRow)]
pub(super) struct StartedCells<U> {
    caller: String,
    key: String,
    fingerprint: Vec<u8>,
    saga: U,
    answer: String,
    created_at: i64,
}

impl<U: Into<Uuid>> From<StartedCells<U>> for StartedRow {
    fn from(cells: StartedCells<U>) -> Self {
        Self {
            caller: cells.caller,
            key: cells.key,
            fingerprint: cells.fingerprint,
            saga: SagaId(cells.saga.into()),
            answer: cells.answer,
            created_at: cells.created_at,
        }
    }
}

/// A page's bounds as both engines compare them: the sagas from one to another, the latest `since`, and the place behind which it begins.
pub(super) fn bounds(which: &Which, after: Option<Place>) -> (Uuid, Uuid, i64, Place) {
    let (from, to) = which.saga.map_or((Uuid::nil(), Uuid::max()), |saga| (saga.0, saga.0));
    // No row is before this place: the first `seq` of a saga is 1, and that of a message without a saga 0.
    let start = (SagaId(Uuid::nil()), i64::MIN, ReactionId(Uuid::nil()));
    (from, to, which.since.unwrap_or(i64::MAX), after.unwrap_or(start))
}

/// What a compensation emitted, as JSON. Its body is hex, because text could not hold every byte.
pub(super) fn message_text(message: &Message) -> Result<String, Error> {
    Ok(serde_json::to_string(&(&message.topic, &message.key, &message.headers, hex(&message.body)))?)
}

fn message(text: &str) -> Option<Message> {
    let (topic, key, headers, body): (String, String, Vec<(String, String)>, String) =
        serde_json::from_str(text).ok()?;
    Some(Message { topic, key, headers, body: unhex(&body)? })
}

/// Notes as JSON; nothing where there are none, as in nearly every row.
pub(super) fn notes_text(notes: &[Note]) -> Result<Option<String>, Error> {
    if notes.is_empty() { Ok(None) } else { Ok(Some(serde_json::to_string(notes)?)) }
}

/// Every row of a query, or the first thing in them that this version does not know.
pub(super) fn rows<C, R: TryFrom<C, Error = Error>>(cells: Vec<C>) -> Result<Vec<R>, Error> {
    cells.into_iter().map(R::try_from).collect()
}

/// Rows per state.
pub(super) fn counts(rows: Vec<(String, i64)>) -> Result<Vec<(WorkState, u64)>, Error> {
    let parse = |(word, rows): (String, i64)| {
        let state = WorkState::parse(&word).ok_or_else(|| unknown("work", &word))?;
        Ok((state, rows.unsigned_abs()))
    };
    rows.into_iter().map(parse).collect()
}

/// Sweepers publish in the order of writing; `RETURNING` promises none.
pub(super) fn oldest_first(mut rows: Vec<OutboxRow>) -> Vec<OutboxRow> {
    rows.sort_unstable_by_key(|row| (row.created_at, row.id));
    rows
}

/// Of several rows with one id the last counts, as if they had been written one by one.
pub(super) fn last_of_each(work: &[WorkRow]) -> Vec<&WorkRow> {
    let mut seen = HashSet::with_capacity(work.len());
    let mut rows: Vec<_> = work.iter().rev().filter(|row| seen.insert(row.id)).collect();
    rows.reverse();
    rows
}

/// Header names and values of a delivery as JSON. The values are hex, because they are any bytes.
pub(super) fn raw_headers_text(headers: &[(String, Vec<u8>)]) -> Result<String, Error> {
    let pairs: Vec<(&str, String)> = headers.iter().map(|(name, value)| (name.as_str(), hex(value))).collect();
    Ok(serde_json::to_string(&pairs)?)
}

fn raw_headers(text: &str) -> Option<Vec<(String, Vec<u8>)>> {
    let pairs: Vec<(String, String)> = serde_json::from_str(text).ok()?;
    pairs.into_iter().map(|(name, value)| Some((name, unhex(&value)?))).collect()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

fn count(table: &'static str, value: i64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| unknown(table, &value.to_string()))
}

fn unknown(table: &'static str, what: &str) -> Error {
    Error::Row { table, what: crate::envelope::clip(what, 60).to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_keeps_any_bytes_and_refuses_what_is_none() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex("abc"), None);
        assert_eq!(unhex("zz"), None);
        assert_eq!(unhex("é"), None);
    }
}
