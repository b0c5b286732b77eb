//! The tables of a participant: ledger, outbox, work and starts, on PostgreSQL or SQLite.
//!
//! The invariant: while a [`Tx`] has locked a saga, no other transaction of this participant reads or writes it, whatever
//! instances, zombies or workers exist; and every transition of a ledger row names the state that it expects. Each table name carries
//! the participant's name, so that two participants may share a database.

use sqlx::{
    Arguments, Encode, FromRow, PgConnection, Postgres as Pg, Sqlite as Lite, SqliteConnection, Type,
    postgres::{PgArguments, PgRow},
    sqlite::{SqliteArguments, SqliteRow},
};
use uuid::Uuid;

use crate::{
    envelope::{Delivery, Message, TraceContext},
    error::Error,
    event::Ending,
    id::{EventId, ReactionId, SagaId},
    step::Direction,
};
use saga_compensation::State;

mod fault;
mod postgres;
mod schema;
mod sqlite;

pub(crate) use fault::{Fault, fault};

/// An event's type beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its type, as it was when it was recorded.
    pub event_type: String,
    /// Its JSON.
    pub body: Vec<u8>,
}

/// One row per (saga, step): the idempotency barrier, what a compensation reads, and the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    /// The saga.
    pub saga: SagaId,
    /// The step's name.
    pub step: String,
    /// Where it stands.
    pub state: State,
    /// The event that opened the row; for a start, the id of the event that it emitted.
    pub trigger: EventId,
    /// What triggered it; its bytes are kept for external steps only, which may have to ask again.
    pub trigger_type: String,
    /// The trigger's bytes.
    pub trigger_body: Option<Vec<u8>>,
    /// What the step recorded: what it emitted, or, while `rejecting`, the rejection to emit when the key is closed.
    pub record: Option<Record>,
    /// The topic of the record, so that it can be emitted again by somebody who does not know its type.
    pub record_topic: Option<String>,
    /// CloudEvents `subject` of the record.
    pub record_subject: Option<String>,
    /// What the other system answered to the call that settled the step.
    pub reply: Option<Vec<u8>>,
    /// Attempts of the forward call that were made.
    pub attempts: u32,
    /// A call is closed before the rejection in `record` is emitted.
    pub rejecting: bool,
    /// Set where this row emitted the saga's ending, or will emit it with the rejection that waits in `record`.
    pub ending: Option<Ending>,
    /// The context that came with the trigger.
    pub trace: TraceContext,
    /// Emissions since the start, of the trigger.
    pub hops: u32,
    /// When the row was last written, in milliseconds since the Unix epoch.
    pub changed_at: i64,
    /// What its compensation emitted, as it was published; `None` where there was none.
    pub compensation: Option<Message>,
    /// What people did to its reactions.
    pub notes: Vec<Note>,
}

impl LedgerRow {
    /// The ending that it has emitted.
    pub fn ended(&self) -> Option<Ending> {
        self.ending.filter(|_| !(self.rejecting && self.state == State::Compensating))
    }
}

/// A reaction was discarded: a person's note on a ledger row.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Note {
    /// When, in milliseconds since the Unix epoch.
    pub at: i64,
    /// Which reaction of the row's step. It is absorbed when it is delivered again.
    pub reaction: ReactionId,
    /// By whom.
    pub who: String,
    /// Why.
    pub reason: String,
}

/// What a row of the work table waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkState {
    /// The answer of a call, as long as its lease lasts.
    Calling,
    /// Its next attempt.
    Deferred,
    /// An earlier row of its saga.
    Parked,
    /// A person.
    Stuck,
}

impl WorkState {
    const ALL: [Self; 4] = [Self::Calling, Self::Deferred, Self::Parked, Self::Stuck];

    /// The word that the table stores.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Calling => "calling",
            Self::Deferred => "deferred",
            Self::Parked => "parked",
            Self::Stuck => "stuck",
        }
    }

    /// The state that a word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// One failed attempt.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FailedAttempt {
    /// When, in milliseconds since the Unix epoch.
    pub at: i64,
    /// Which.
    pub attempt: u32,
    /// Why, cut to a bounded length.
    pub error: String,
}

/// A reaction that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkRow {
    /// One event at one step in one direction.
    pub id: ReactionId,
    /// The saga; the nil UUID for a message that names none.
    pub saga: SagaId,
    /// The step; empty for a message that reached none.
    pub step: String,
    /// Which way.
    pub direction: Direction,
    /// What it waits for.
    pub state: WorkState,
    /// Its place among the rows of its saga: they are settled in this order.
    pub seq: i64,
    /// The message as it came, bytes untouched. Its epoch is not kept.
    pub delivery: Delivery,
    /// When it is due, in milliseconds since the Unix epoch; `None` when time alone does not wake it.
    pub due_at: Option<i64>,
    /// Attempts that were begun. Counted before a call is made.
    pub attempts: u32,
    /// Failures that count against the step's policy: not those while everything failed there.
    pub counted: u32,
    /// Since when its policy's time runs, in milliseconds since the Unix epoch. Later than `due_at` in a row that is held: its time
    /// stands still until it goes on.
    pub counted_from: i64,
    /// Which process calls.
    pub lease_owner: Option<Uuid>,
    /// The failed attempts, the first and the last of them, [`KEPT_FAILURES`] together.
    pub failures: Vec<FailedAttempt>,
    /// When the reaction first waited, in milliseconds since the Unix epoch.
    pub since: i64,
    /// Why it is stuck; empty otherwise.
    pub reason: String,
    /// True when later reactions of its saga wait behind it.
    pub blocks: bool,
    /// The `seq` of the last signal about it; 0 when nothing was told.
    pub told: i64,
    /// The topic of its signals, for whoever has no node; `None` where its node published none.
    pub told_on: Option<String>,
}

/// How many failed attempts a work row remembers: the first, which tells since when, and the last ones.
pub const KEPT_FAILURES: usize = 20;

/// An event on its way to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// A UUIDv7 of its own, so that the index grows at its end.
    pub id: Uuid,
    /// What to publish.
    pub message: Message,
    /// When it was written, in milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// An event that has not gone out, as a person sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The row.
    pub row: OutboxRow,
    /// Until when a sweep has it for itself, in milliseconds since the Unix epoch; zero when none has had it.
    pub claimed_until: i64,
    /// Why the broker refuses it for good. `None` while it is tried by itself.
    pub refused: Option<String>,
}

/// What one transaction changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New rows. A row that is already there aborts the transaction.
    pub ledger_inserts: Vec<LedgerRow>,
    /// Rows with the state that they must still have. A row that has another aborts the transaction.
    pub ledger_updates: Vec<(State, LedgerRow)>,
    /// New rows.
    pub outbox: Vec<OutboxRow>,
    /// Rows to insert, or to overwrite where the id is there.
    pub work: Vec<WorkRow>,
    /// Rows to delete.
    pub work_done: Vec<ReactionId>,
    /// What a person discarded.
    pub discarded: Vec<DiscardedRow>,
}

/// A reaction that a person discarded, kept for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscardedRow {
    /// The row as it waited. Not kept: its place (`seq`), its times but `since`, its lease, what it blocked.
    pub work: WorkRow,
    /// Why.
    pub why: String,
    /// By whom.
    pub who: String,
    /// When, in milliseconds since the Unix epoch.
    pub at: i64,
}

/// Which waiting rows are asked for: all of them, narrowed by each field that is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Which {
    /// Of this saga; the nil UUID for messages that name none.
    pub saga: Option<SagaId>,
    /// Of this step.
    pub step: Option<String>,
    /// In this state.
    pub state: Option<WorkState>,
    /// Waiting since this moment or an earlier one, in milliseconds since the Unix epoch.
    pub since: Option<i64>,
}

/// The rows of one step in one direction, of which only so many are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane<'a> {
    /// The step; empty for messages that reached none.
    pub step: &'a str,
    /// Which way.
    pub direction: Direction,
    /// At most so many rows.
    pub room: u32,
}

/// A row whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// One event at one step in one direction.
    pub id: ReactionId,
    /// Its saga; the nil UUID for a message that names none.
    pub saga: SagaId,
    /// Since when it is due, in milliseconds since the Unix epoch.
    pub due_at: i64,
    /// Which of the lanes that were asked for it is in.
    pub lane: usize,
}

/// The place of a row in the order (saga, seq, id), for reading on behind it.
pub type Place = (SagaId, i64, ReactionId);

impl WorkRow {
    /// The row while its step cannot take it, which is no attempt. It is due, and asked for when the step can; until then its
    /// policy's time stands still.
    pub(crate) fn held(self, now: i64) -> Self {
        let state = WorkState::Deferred;
        Self { state, lease_owner: None, due_at: Some(now), counted_from: now.saturating_add(1), ..self }
    }

    /// See [`WorkRow::held`]. No other row has a policy whose time begins when it is due already.
    pub(crate) fn is_held(&self) -> bool {
        self.due_at.is_some_and(|due| due < self.counted_from)
    }

    /// Where it stands among all rows.
    pub fn place(&self) -> Place {
        (self.saga, self.seq, self.id)
    }
}

/// The answer that a start left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedRow {
    /// Whose keys these are.
    pub caller: String,
    /// The caller's idempotency key.
    pub key: String,
    /// A digest of the request.
    pub fingerprint: Vec<u8>,
    /// The saga that was started.
    pub saga: SagaId,
    /// The answer, as JSON.
    pub answer: String,
    /// When, in milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// The open connection of a transaction.
#[derive(Debug)]
pub enum Conn<'t> {
    /// PostgreSQL.
    Postgres(&'t mut PgConnection),
    /// SQLite.
    Sqlite(&'t mut SqliteConnection),
}

/// A value that both engines can bind.
pub trait Param: Send + for<'q> Encode<'q, Pg> + Type<Pg> + for<'q> Encode<'q, Lite> + Type<Lite> {}
impl<T> Param for T where T: Send + for<'q> Encode<'q, Pg> + Type<Pg> + for<'q> Encode<'q, Lite> + Type<Lite> {}

/// A row that both engines can fill: a tuple, or `#[derive(sqlx::FromRow)]`.
pub trait Row: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin {}
impl<T> Row for T where T: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin {}

/// The parameters of a statement: a tuple of up to eight values that both engines can bind.
#[diagnostic::on_unimplemented(
    message = "`{Self}` are no parameters for both engines",
    note = "pass a tuple, `(a,)` for one value, of types that sqlx binds on PostgreSQL and SQLite"
)]
pub trait Params: Send {
    /// For PostgreSQL.
    fn postgres(self) -> Result<PgArguments, sqlx::Error>;
    /// For SQLite.
    fn sqlite(self) -> Result<SqliteArguments, sqlx::Error>;
}

macro_rules! params {
    ($($t:ident),*) => {
        #[allow(non_snake_case, unused_mut, reason = "one macro for every length, zero included")]
        impl<$($t: Param),*> Params for ($($t,)*) {
            fn postgres(self) -> Result<PgArguments, sqlx::Error> {
                let ($($t,)*) = self;
                let mut arguments = PgArguments::default();
                $(arguments.add($t).map_err(sqlx::Error::Encode)?;)*
                Ok(arguments)
            }
            fn sqlite(self) -> Result<SqliteArguments, sqlx::Error> {
                let ($($t,)*) = self;
                let mut arguments = SqliteArguments::default();
                $(arguments.add($t).map_err(sqlx::Error::Encode)?;)*
                Ok(arguments)
            }
        }
    };
}
params!();
params!(A);
params!(A, B);
params!(A, B, C);
params!(A, B, C, D);
params!(A, B, C, D, E);
params!(A, B, C, D, E, F);
params!(A, B, C, D, E, F, G);
params!(A, B, C, D, E, F, G, H);

impl Conn<'_> {
    /// The same connection for a shorter time.
    pub fn reborrow(&mut self) -> Conn<'_> {
        match self {
            Conn::Postgres(conn) => Conn::Postgres(conn),
            Conn::Sqlite(conn) => Conn::Sqlite(conn),
        }
    }

    /// Runs a statement and returns how many rows it touched.
    pub async fn execute<P: Params>(&mut self, sql: &'static str, params: P) -> Result<u64, sqlx::Error> {
        match self {
            Conn::Postgres(conn) => {
                Ok(sqlx::query_with(sql, params.postgres()?).execute(&mut **conn).await?.rows_affected())
            }
            Conn::Sqlite(conn) => {
                Ok(sqlx::query_with(sql, params.sqlite()?).execute(&mut **conn).await?.rows_affected())
            }
        }
    }

    /// The first row of a query, if there is one.
    pub async fn fetch_optional<T: Row, P: Params>(
        &mut self,
        sql: &'static str,
        params: P,
    ) -> Result<Option<T>, sqlx::Error> {
        match self {
            Conn::Postgres(conn) => sqlx::query_as_with(sql, params.postgres()?).fetch_optional(&mut **conn).await,
            Conn::Sqlite(conn) => sqlx::query_as_with(sql, params.sqlite()?).fetch_optional(&mut **conn).await,
        }
    }

    /// Every row of a query.
    pub async fn fetch_all<T: Row, P: Params>(&mut self, sql: &'static str, params: P) -> Result<Vec<T>, sqlx::Error> {
        match self {
            Conn::Postgres(conn) => sqlx::query_as_with(sql, params.postgres()?).fetch_all(&mut **conn).await,
            Conn::Sqlite(conn) => sqlx::query_as_with(sql, params.sqlite()?).fetch_all(&mut **conn).await,
        }
    }
}

/// A participant's tables in one database. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub enum Store {
    /// PostgreSQL.
    Postgres(postgres::Postgres),
    /// SQLite, one file or `sqlite::memory:`.
    Sqlite(sqlite::Sqlite),
}

/// One transaction. Dropping it rolls back.
#[derive(Debug)]
pub enum Tx {
    /// PostgreSQL.
    Postgres(postgres::Tx),
    /// SQLite.
    Sqlite(sqlite::Tx),
}

/// Calls the same method of whichever engine it is.
macro_rules! on {
    ($engine:ident, $self:expr, $it:ident => $call:expr) => {
        match $self {
            $engine::Postgres($it) => $call,
            $engine::Sqlite($it) => $call,
        }
    };
}

impl Store {
    /// Connects to `postgres://..` or `sqlite:..`; a SQLite file is created when it is missing.
    pub async fn connect(url: &str, participant: &str) -> Result<Self, Error> {
        let prefix = prefix(participant)?;
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            Ok(Self::Postgres(postgres::Postgres::connect(url, prefix).await?))
        } else if url.starts_with("sqlite:") {
            Ok(Self::Sqlite(sqlite::Sqlite::connect(url, prefix).await?))
        } else {
            Err(Error::DatabaseUrl)
        }
    }

    /// The same tables over connections of its own, for another kind of work: whoever takes all of these waits for itself. On SQLite
    /// it is the same store, because a file has one writer, whoever asks; those who wait for it are served in their order.
    pub async fn apart(&self) -> Result<Self, Error> {
        Ok(match self {
            Self::Postgres(store) => Self::Postgres(store.apart().await?),
            Self::Sqlite(store) => Self::Sqlite(store.clone()),
        })
    }

    /// The participant whose tables these are.
    pub fn participant(&self) -> String {
        // A participant's name holds no underscore, so this is its name again.
        on!(Self, self, store => store.prefix()).replace('_', "-")
    }

    /// Creates or upgrades the tables. Safe to run at any time, also from several processes at once.
    pub async fn migrate(&self) -> Result<(), Error> {
        on!(Self, self, store => store.migrate().await)
    }

    /// The first row of a query outside any transaction, if there is one: for whoever shows what a participant's tables say. On SQLite
    /// it waits for nobody who writes.
    pub async fn fetch_optional<T: Row, P: Params>(&self, sql: &'static str, params: P) -> Result<Option<T>, Error> {
        let row = match self {
            Self::Postgres(store) => {
                let params = params.postgres().map_err(Error::database("binding parameters"))?;
                sqlx::query_as_with(sql, params).fetch_optional(store.reader()).await
            }
            Self::Sqlite(store) => {
                let params = params.sqlite().map_err(Error::database("binding parameters"))?;
                sqlx::query_as_with(sql, params).fetch_optional(store.reader()).await
            }
        };
        row.map_err(Error::database("reading"))
    }

    /// Every row of a query outside any transaction; see [`Store::fetch_optional`].
    pub async fn fetch_all<T: Row, P: Params>(&self, sql: &'static str, params: P) -> Result<Vec<T>, Error> {
        let rows = match self {
            Self::Postgres(store) => {
                let params = params.postgres().map_err(Error::database("binding parameters"))?;
                sqlx::query_as_with(sql, params).fetch_all(store.reader()).await
            }
            Self::Sqlite(store) => {
                let params = params.sqlite().map_err(Error::database("binding parameters"))?;
                sqlx::query_as_with(sql, params).fetch_all(store.reader()).await
            }
        };
        rows.map_err(Error::database("reading"))
    }

    /// Begins a transaction that may write.
    pub async fn begin(&self) -> Result<Tx, Error> {
        Ok(match self {
            Self::Postgres(store) => Tx::Postgres(store.begin().await?),
            Self::Sqlite(store) => Tx::Sqlite(store.begin().await?),
        })
    }

    /// Deletes outbox rows that the broker has acknowledged.
    pub async fn outbox_delete(&self, rows: &[Uuid]) -> Result<(), Error> {
        on!(Self, self, store => store.outbox_delete(rows).await)
    }

    /// Claims up to `limit` outbox rows that were written before `before` and are not claimed at `now`, oldest first. The claim lasts
    /// until `until` (all in milliseconds since the Unix epoch), so that one instance at a time publishes a row that a crash left.
    pub async fn outbox_claim(&self, now: i64, before: i64, until: i64, limit: u32) -> Result<Vec<OutboxRow>, Error> {
        on!(Self, self, store => store.outbox_claim(now, before, until, limit).await)
    }

    /// How many outbox rows there are.
    pub async fn outbox_len(&self) -> Result<u64, Error> {
        on!(Self, self, store => store.outbox_len().await)
    }

    /// Claims these rows, which are in flight somewhere, until `until` at least: whoever sweeps meanwhile leaves them alone.
    pub async fn outbox_hold(&self, rows: &[Uuid], until: i64) -> Result<(), Error> {
        on!(Self, self, store => store.outbox_hold(rows, until).await)
    }

    /// Lets the claims on these rows that end at `claim` end at `until` instead, so that another sweep takes the rows sooner. Claims
    /// that somebody else has made since stay as they are.
    pub async fn outbox_release(&self, rows: &[Uuid], claim: i64, until: i64) -> Result<(), Error> {
        on!(Self, self, store => store.outbox_release(rows, claim, until).await)
    }

    /// Up to `limit` outbox rows behind `after` (a row's time and id), the oldest first: those that the broker refuses for good, or
    /// with `all` those that wait for it, too; of one saga, if it is named.
    pub async fn outbox_page(
        &self,
        all: bool,
        saga: Option<SagaId>,
        after: Option<(i64, Uuid)>,
        limit: u32,
    ) -> Result<Vec<OutboxEntry>, Error> {
        on!(Self, self, store => store.outbox_page(all, saga, after, limit).await)
    }

    /// Takes the mark of [`Store::outbox_refuse`] away from these rows, so that the next sweep publishes them. Returns how many
    /// had it.
    pub async fn outbox_retry(&self, rows: &[Uuid]) -> Result<u64, Error> {
        on!(Self, self, store => store.outbox_retry(rows).await)
    }

    /// Marks an outbox row that the broker refuses for good: it is never claimed again, and shows its reason.
    pub async fn outbox_refuse(&self, row: Uuid, reason: &str) -> Result<(), Error> {
        on!(Self, self, store => store.outbox_refuse(row, reason).await)
    }

    /// Rows whose time has come (`due_at <= now`): of each of these lanes the oldest due, at most its room. The first row of every
    /// lane comes before the second of any, and else the oldest first, so that a cut anywhere leaves each lane its share. Rows of other steps are not asked for.
    pub async fn work_due(&self, now: i64, lanes: &[Lane<'_>]) -> Result<Vec<Due>, Error> {
        let mut due = on!(Self, self, store => store.work_due(now, lanes).await)?;
        let mut places = vec![0_usize; lanes.len()];
        due.sort_by_cached_key(|due| {
            places[due.lane] += 1;
            (places[due.lane], due.due_at)
        });
        Ok(due)
    }

    /// When the next row is due, if any has a time.
    pub async fn work_next_due(&self) -> Result<Option<i64>, Error> {
        on!(Self, self, store => store.work_next_due().await)
    }

    /// All waiting rows, ordered by (saga, seq), at most `limit`.
    pub async fn work(&self, limit: u32) -> Result<Vec<WorkRow>, Error> {
        on!(Self, self, store => store.work(limit).await)
    }

    /// One waiting row.
    pub async fn work_row(&self, id: ReactionId) -> Result<Option<WorkRow>, Error> {
        on!(Self, self, store => store.work_row(id).await)
    }

    /// The waiting rows that `which` asks for, ordered by (saga, seq, id), those behind `after` only, at most `limit`.
    pub async fn work_page(&self, which: &Which, after: Option<Place>, limit: u32) -> Result<Vec<WorkRow>, Error> {
        on!(Self, self, store => store.work_page(which, after, limit).await)
    }

    /// What was discarded, the newest first, at most `limit`; of one saga if it is named.
    pub async fn discarded(&self, saga: Option<SagaId>, limit: u32) -> Result<Vec<DiscardedRow>, Error> {
        on!(Self, self, store => store.discarded(saga, limit).await)
    }

    /// Makes every call that `owner` holds a lease on due at `now`: the process stops.
    pub async fn release_leases(&self, owner: Uuid, now: i64) -> Result<(), Error> {
        on!(Self, self, store => store.release_leases(owner, now).await)
    }

    /// The ledger rows of one saga, ordered by step.
    pub async fn ledger(&self, saga: SagaId) -> Result<Vec<LedgerRow>, Error> {
        on!(Self, self, store => store.ledger(saga).await)
    }

    /// The distinct step names that the ledger holds.
    pub async fn ledger_steps(&self) -> Result<Vec<String>, Error> {
        on!(Self, self, store => store.ledger_steps().await)
    }

    /// Sagas that started before this time were forgotten, in milliseconds since the Unix epoch; 0 when none were.
    pub async fn horizon(&self) -> Result<i64, Error> {
        on!(Self, self, store => store.horizon().await)
    }

    /// Raises the horizon to `before` (milliseconds since the Unix epoch; it is never lowered) and forgets up to `limit` whole sagas
    /// that started earlier: none that waits for something, and none that one of the steps `starts` has started and that has no
    /// ending. Returns how many were forgotten.
    pub async fn prune(&self, before: i64, starts: &[&str], limit: u32) -> Result<u64, Error> {
        let mut tx = self.begin().await?;
        // First: whoever finds a saga forgotten finds the horizon that says so.
        on!(Tx, &mut tx, tx => tx.raise_horizon(before).await)?;
        let mut sagas = on!(Tx, &mut tx, tx => tx.prunable(SagaId::first_of(before), starts, limit).await)?;
        if !sagas.is_empty() {
            tx.lock(&sagas).await?;
            // Asked again under the lock: something may have begun to wait.
            let (_, work) = tx.read(&sagas).await?;
            sagas.retain(|saga| !work.iter().any(|row| row.saga == *saga));
            on!(Tx, &mut tx, tx => tx.forget(&sagas).await)?;
        }
        tx.commit().await?;
        Ok(sagas.len() as u64)
    }

    /// Those of these sagas whose step `start` is done and that have no ending here.
    pub async fn still_open(&self, start: &str, sagas: &[SagaId]) -> Result<Vec<SagaId>, Error> {
        on!(Self, self, store => store.still_open(start, sagas).await)
    }

    /// Sagas whose step `start` is done and that have no ending here, with ids from `from` up to and without `to`, at most `limit`.
    pub async fn open_sagas(&self, start: &str, from: SagaId, to: SagaId, limit: u32) -> Result<Vec<SagaId>, Error> {
        on!(Self, self, store => store.open_sagas(start, from, to, limit).await)
    }

    /// How many rows of the work table there are in each state.
    pub async fn work_counts(&self) -> Result<Vec<(WorkState, u64)>, Error> {
        on!(Self, self, store => store.work_counts().await)
    }

    /// Fails when the database cannot be used, or the tables are not those of this version.
    pub async fn check(&self) -> Result<(), Error> {
        on!(Self, self, store => store.check().await)
    }
}

impl Tx {
    /// Locks these sagas (sorted, without repetitions) at this participant until the transaction ends.
    pub async fn lock(&mut self, sagas: &[SagaId]) -> Result<(), Error> {
        on!(Self, self, tx => tx.lock(sagas).await)
    }

    /// [`Rule::LockAndReadInOne`](crate::harness::Rule::LockAndReadInOne): from now on [`Tx::lock`] leaves the locks to the statement
    /// that reads the ledger. Nothing on SQLite, whose lock is its `BEGIN IMMEDIATE`.
    #[cfg(feature = "harness")]
    pub(crate) fn locks_when_it_reads(&mut self, broken: bool) {
        if let (Self::Postgres(tx), true) = (self, broken) {
            tx.locks_when_it_reads();
        }
    }

    /// Ledger and work rows of these sagas. A statement of its own after [`Tx::lock`]: lock and read in one statement sees
    /// the past (PostgreSQL takes its snapshot before it waits for the lock).
    pub async fn read(&mut self, sagas: &[SagaId]) -> Result<(Vec<LedgerRow>, Vec<WorkRow>), Error> {
        on!(Self, self, tx => tx.read(sagas).await)
    }

    /// These waiting rows. A statement of its own after [`Tx::lock`], like [`Tx::read`]; for messages that name no saga, of
    /// which there may be many, it is the way to read only some.
    pub async fn work_rows(&mut self, ids: &[ReactionId]) -> Result<Vec<WorkRow>, Error> {
        on!(Self, self, tx => tx.work_rows(ids).await)
    }

    /// Which of these reactions a person has discarded before.
    pub async fn discarded(&mut self, ids: &[ReactionId]) -> Result<Vec<ReactionId>, Error> {
        on!(Self, self, tx => tx.discarded(ids).await)
    }

    /// See [`Store::horizon`]. A statement of its own after [`Tx::lock`], like [`Tx::read`].
    pub async fn horizon(&mut self) -> Result<i64, Error> {
        on!(Self, self, tx => tx.horizon().await)
    }

    /// Writes in bulk. [`Error::Transition`] when a row is not in the state that it was expected in.
    pub async fn write(&mut self, changes: &Changes) -> Result<(), Error> {
        on!(Self, self, tx => tx.write(changes).await)
    }

    /// Serialises starts with this key until the transaction ends, and returns what an earlier one left.
    pub async fn started(&mut self, caller: &str, key: &str) -> Result<Option<StartedRow>, Error> {
        on!(Self, self, tx => tx.started(caller, key).await)
    }

    /// Remembers a start.
    pub async fn insert_started(&mut self, row: &StartedRow) -> Result<(), Error> {
        on!(Self, self, tx => tx.insert_started(row).await)
    }

    /// The connection, for the steps' own statements.
    pub fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Postgres(tx) => Conn::Postgres(tx.conn()),
            Self::Sqlite(tx) => Conn::Sqlite(tx.conn()),
        }
    }

    /// Commits. An error here is *unknown*: the transaction may have been committed.
    pub async fn commit(self) -> Result<(), Error> {
        on!(Self, self, tx => tx.commit().await)
    }
}

/// Table names begin with the participant's name, which is part of SQL text and so has a strict form.
pub(crate) fn prefix(participant: &str) -> Result<String, Error> {
    let good = participant.len() <= 30
        && participant.starts_with(|c: char| c.is_ascii_lowercase())
        && participant.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if good {
        Ok(participant.replace('-', "_"))
    } else {
        Err(Error::Name { kind: "participant", name: crate::envelope::clip(participant, 40).to_owned() })
    }
}
