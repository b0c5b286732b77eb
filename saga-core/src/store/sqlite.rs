//! The tables on SQLite.
//!
//! The invariant: one connection of this process writes, and each of its transactions is `BEGIN IMMEDIATE`, so whoever is
//! inside one is alone with every saga, other processes included.
//!
//! Bulk writes are statements of 64, 32 .. 1 rows, so that a handful of prepared statements writes any number of rows and
//! bytes are bound as bytes.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, Connection, Executor, Sqlite as Lite, SqliteConnection, SqlitePool, Transaction,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use uuid::{Uuid, fmt::Hyphenated};

use super::{
    Changes, DiscardedRow, Due, Lane, LedgerRow, OutboxEntry, OutboxRow, Place, StartedRow, State, Which, WorkRow,
    WorkState,
    schema::{self, DiscardedCells, LedgerCells, Migrations, OutboxCells, OutboxEntryCells, StartedCells, WorkCells},
};
use crate::{
    error::Error,
    id::{ReactionId, SagaId},
};

const MIGRATIONS: Migrations = &[(
    1,
    "
    CREATE TABLE {p}_ledger (
        saga TEXT NOT NULL, step TEXT NOT NULL, state TEXT NOT NULL,
        trigger_id TEXT NOT NULL, trigger_type TEXT NOT NULL, trigger_body BLOB,
        record_type TEXT, record_body BLOB, reply BLOB,
        attempts INTEGER NOT NULL, rejecting INTEGER NOT NULL, ending TEXT,
        traceparent TEXT, tracestate TEXT, hops INTEGER NOT NULL, changed_at INTEGER NOT NULL,
        record_topic TEXT, record_subject TEXT, compensation TEXT, notes TEXT,
        PRIMARY KEY (saga, step)
    ) STRICT;
    CREATE TABLE {p}_outbox (
        id TEXT NOT NULL PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL,
        created_at INTEGER NOT NULL, claimed_until INTEGER NOT NULL DEFAULT 0, refused TEXT
    ) STRICT;
    CREATE INDEX {p}_outbox_created_at ON {p}_outbox (created_at);
    CREATE TABLE {p}_work (
        id TEXT NOT NULL PRIMARY KEY, saga TEXT NOT NULL, step TEXT NOT NULL, direction TEXT NOT NULL, state TEXT NOT NULL,
        seq INTEGER NOT NULL, log_topic TEXT NOT NULL, log_partition INTEGER NOT NULL, log_offset INTEGER NOT NULL,
        key BLOB, headers TEXT NOT NULL, body BLOB NOT NULL,
        due_at INTEGER, attempts INTEGER NOT NULL, lease_owner TEXT, failures TEXT NOT NULL,
        since INTEGER NOT NULL, reason TEXT NOT NULL, blocks INTEGER NOT NULL, counted INTEGER NOT NULL,
        counted_from INTEGER NOT NULL, told INTEGER NOT NULL, told_on TEXT
    ) STRICT;
    CREATE INDEX {p}_work_due_at ON {p}_work (step, direction, due_at, id) WHERE due_at IS NOT NULL;
    CREATE INDEX {p}_work_saga ON {p}_work (saga);
    CREATE TABLE {p}_started (
        caller TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL, saga TEXT NOT NULL, answer TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (caller, key)
    ) STRICT;
    CREATE INDEX {p}_started_saga ON {p}_started (saga);
    CREATE TABLE {p}_horizon (id INTEGER PRIMARY KEY CHECK (id = 1), before INTEGER NOT NULL) STRICT;
    INSERT INTO {p}_horizon (id, before) VALUES (1, 0);
    CREATE TABLE {p}_discarded (
        id TEXT NOT NULL, saga TEXT NOT NULL, step TEXT NOT NULL, direction TEXT NOT NULL, state TEXT NOT NULL,
        log_topic TEXT NOT NULL, log_partition INTEGER NOT NULL, log_offset INTEGER NOT NULL,
        key BLOB, headers TEXT NOT NULL, body BLOB NOT NULL,
        attempts INTEGER NOT NULL, failures TEXT NOT NULL, since INTEGER NOT NULL, reason TEXT NOT NULL,
        why TEXT NOT NULL, who TEXT NOT NULL, discarded_at INTEGER NOT NULL,
        PRIMARY KEY (id, discarded_at)
    ) STRICT;
    CREATE INDEX {p}_discarded_saga ON {p}_discarded (saga);
    ",
)];

/// How long another process may hold the file's write lock, and how long this process's writers may queue.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads outside transactions are few: a sweeper, a timer, a person.
const READERS: u32 = 4;

/// The most rows of one statement: three to five times as fast as a statement for each row. 64 rows of 21 columns are far
/// below SQLite's bound of 32,766 parameters.
const MOST_ROWS: usize = 64;

/// A participant's tables in a SQLite file, or in memory.
#[derive(Debug, Clone)]
pub struct Sqlite {
    writer: SqlitePool,
    /// The writer again where the database is in memory.
    readers: SqlitePool,
    prefix: Arc<str>,
    sql: Arc<Statements>,
}

/// One transaction. Dropping it rolls back.
#[derive(Debug)]
pub struct Tx {
    tx: Transaction<'static, Lite>,
    sql: Arc<Statements>,
    /// A write failed. SQLite undoes the statement only, so what came before it must never be committed.
    failed: bool,
}

/// One statement for each number of rows: 64, 32 .. 1.
#[derive(Debug)]
struct Bulk(Vec<(usize, Arc<str>)>);

impl Bulk {
    /// `{rows}` in the template stands for the tuples of parameters.
    fn new(prefix: &str, columns: usize, template: &str) -> Self {
        let tuple = format!("({})", vec!["?"; columns].join(", "));
        let sizes = std::iter::successors(Some(MOST_ROWS), |size| Some(size / 2).filter(|half| *half > 0));
        Self(
            sizes
                .map(|size| {
                    let rows = vec![tuple.as_str(); size].join(", ");
                    (size, schema::sql(prefix, &template.replace("{rows}", &rows)))
                })
                .collect(),
        )
    }

    /// Runs the statements that together have all the rows, and returns how many rows they touched.
    async fn execute<R>(
        &self,
        conn: &mut SqliteConnection,
        mut rows: &[R],
        bind: impl for<'q> Fn(Query<'q>, &R) -> Query<'q>,
    ) -> Result<u64, sqlx::Error> {
        let mut touched = 0;
        for (size, sql) in &self.0 {
            while let Some((now, later)) = rows.split_at_checked(*size) {
                let query = now.iter().fold(sqlx::query(safe(sql)), &bind);
                touched += query.execute(&mut *conn).await?.rows_affected();
                rows = later;
            }
        }
        Ok(touched)
    }
}

/// Every statement that names a table, written out once.
#[derive(Debug)]
struct Statements {
    meta: Arc<str>,
    meta_create: Arc<str>,
    meta_version: Arc<str>,
    meta_insert: Arc<str>,
    outbox_delete: Arc<str>,
    outbox_claim: Arc<str>,
    outbox_len: Arc<str>,
    outbox_refuse: Arc<str>,
    outbox_hold: Arc<str>,
    outbox_release: Arc<str>,
    outbox_page: Arc<str>,
    outbox_retry: Arc<str>,
    outbox_insert: Bulk,
    work_due: Arc<str>,
    work_next_due: Arc<str>,
    work: Arc<str>,
    work_row: Arc<str>,
    work_page: Arc<str>,
    work_of: Arc<str>,
    work_rows: Arc<str>,
    work_upsert: Bulk,
    work_delete: Arc<str>,
    release_leases: Arc<str>,
    ledger: Arc<str>,
    ledger_of: Arc<str>,
    ledger_steps: Arc<str>,
    ledger_insert: Bulk,
    ledger_update: Bulk,
    started: Arc<str>,
    started_insert: Arc<str>,
    discarded: Arc<str>,
    discarded_of: Arc<str>,
    discarded_insert: Bulk,
    horizon: Arc<str>,
    horizon_raise: Arc<str>,
    prunable: Arc<str>,
    prune_ledger: Arc<str>,
    prune_started: Arc<str>,
    open_sagas: Arc<str>,
    still_open: Arc<str>,
    work_counts: Arc<str>,
}

impl Statements {
    fn new(prefix: &str) -> Self {
        let sql = |template: &str| schema::sql(prefix, template);
        let ledger = schema::LEDGER.join(", ");
        let work = schema::WORK.join(", ");
        let outbox = schema::OUTBOX.join(", ");
        let discarded = schema::DISCARDED.join(", ");
        Self {
            meta: sql("{p}_meta"),
            meta_create: sql("CREATE TABLE IF NOT EXISTS {p}_meta (version INTEGER PRIMARY KEY) STRICT"),
            meta_version: sql("SELECT coalesce(max(version), 0) FROM {p}_meta"),
            meta_insert: sql("INSERT INTO {p}_meta (version) VALUES ($1)"),
            outbox_delete: sql("DELETE FROM {p}_outbox WHERE id IN (SELECT value FROM json_each($1))"),
            outbox_claim: sql(&format!(
                "UPDATE {{p}}_outbox SET claimed_until = $3 WHERE id IN (SELECT id FROM {{p}}_outbox \
                 WHERE created_at < $2 AND claimed_until <= $1 AND refused IS NULL \
                 ORDER BY created_at, id LIMIT $4) RETURNING {outbox}"
            )),
            outbox_len: sql("SELECT count(*) FROM {p}_outbox"),
            outbox_refuse: sql("UPDATE {p}_outbox SET refused = $2 WHERE id = $1"),
            outbox_hold: sql(
                "UPDATE {p}_outbox SET claimed_until = $2 WHERE id IN (SELECT value FROM json_each($1)) AND claimed_until < $2",
            ),
            outbox_release: sql(
                "UPDATE {p}_outbox SET claimed_until = $3 WHERE id IN (SELECT value FROM json_each($1)) AND claimed_until = $2",
            ),
            outbox_page: sql(&format!(
                "SELECT {outbox}, claimed_until, refused FROM {{p}}_outbox WHERE ($1 OR refused IS NOT NULL) \
                 AND ($2 IS NULL OR key = $2) AND (created_at, id) > ($3, $4) ORDER BY created_at, id LIMIT $5"
            )),
            outbox_retry: sql(
                "UPDATE {p}_outbox SET refused = NULL, claimed_until = 0 WHERE id IN (SELECT value FROM json_each($1)) AND refused IS NOT NULL",
            ),
            outbox_insert: Bulk::new(
                prefix,
                schema::OUTBOX.len(),
                &format!("INSERT INTO {{p}}_outbox ({outbox}) VALUES {{rows}}"),
            ),
            work_due: sql(
                "SELECT id, saga, due_at FROM {p}_work WHERE step = $1 AND direction = $2 AND due_at <= $3 ORDER BY due_at, id LIMIT $4",
            ),
            work_next_due: sql("SELECT min(due_at) FROM {p}_work WHERE due_at IS NOT NULL"),
            work: sql(&format!("SELECT {work} FROM {{p}}_work ORDER BY saga, seq, id LIMIT $1")),
            work_row: sql(&format!("SELECT {work} FROM {{p}}_work WHERE id = $1")),
            work_page: sql(&format!(
                "SELECT {work} FROM {{p}}_work WHERE saga BETWEEN $1 AND $2 AND since <= $3 \
                 AND ($4 IS NULL OR step = $4) AND ($5 IS NULL OR state = $5) AND (saga, seq, id) > ($6, $7, $8) \
                 ORDER BY saga, seq, id LIMIT $9"
            )),
            work_of: sql(&format!(
                "SELECT {work} FROM {{p}}_work WHERE saga IN (SELECT value FROM json_each($1)) ORDER BY saga, seq, id"
            )),
            work_rows: sql(&format!(
                "SELECT {work} FROM {{p}}_work WHERE id IN (SELECT value FROM json_each($1)) ORDER BY saga, seq, id"
            )),
            work_upsert: Bulk::new(
                prefix,
                schema::WORK.len(),
                &format!(
                    "INSERT INTO {{p}}_work ({work}) VALUES {{rows}} ON CONFLICT (id) DO UPDATE SET {}",
                    schema::assignments(&schema::WORK[1..], "excluded")
                ),
            ),
            work_delete: sql("DELETE FROM {p}_work WHERE id IN (SELECT value FROM json_each($1))"),
            horizon: sql("SELECT before FROM {p}_horizon WHERE id = 1"),
            horizon_raise: sql("UPDATE {p}_horizon SET before = max(before, $1) WHERE id = 1"),
            // Only an id of version 7 tells when its saga started.
            prunable: sql("SELECT DISTINCT saga FROM {p}_ledger AS l WHERE saga < $1 AND substr(saga, 15, 1) = '7' \
                 AND NOT EXISTS (SELECT 1 FROM {p}_work AS w WHERE w.saga = l.saga) \
                 AND (NOT EXISTS (SELECT 1 FROM {p}_ledger AS b WHERE b.saga = l.saga AND b.step IN (SELECT value FROM json_each($3))) \
                      OR EXISTS ({ending})) \
                 ORDER BY saga LIMIT $2"),
            prune_ledger: sql("DELETE FROM {p}_ledger WHERE saga IN (SELECT value FROM json_each($1))"),
            prune_started: sql("DELETE FROM {p}_started WHERE saga IN (SELECT value FROM json_each($1))"),
            open_sagas: sql(
                "SELECT saga FROM {p}_ledger AS l WHERE step = $1 AND state = 'done' AND saga >= $2 AND saga < $3 \
                 AND NOT EXISTS ({ending}) \
                 ORDER BY saga LIMIT $4",
            ),
            still_open: sql(
                "SELECT l.saga FROM json_each($2) AS s JOIN {p}_ledger AS l ON l.saga = s.value AND l.step = $1 AND l.state = 'done' \
                 WHERE NOT EXISTS ({ending}) \
                 ORDER BY l.saga",
            ),
            work_counts: sql("SELECT state, count(*) FROM {p}_work GROUP BY state ORDER BY state"),
            release_leases: sql(
                "UPDATE {p}_work SET due_at = $2, lease_owner = NULL WHERE state = 'calling' AND lease_owner = $1",
            ),
            ledger: sql(&format!("SELECT {ledger} FROM {{p}}_ledger WHERE saga = $1 ORDER BY step")),
            ledger_of: sql(&format!(
                "SELECT {ledger} FROM {{p}}_ledger WHERE saga IN (SELECT value FROM json_each($1)) ORDER BY saga, step"
            )),
            ledger_steps: sql("SELECT DISTINCT step FROM {p}_ledger ORDER BY step"),
            ledger_insert: Bulk::new(
                prefix,
                schema::LEDGER.len(),
                &format!("INSERT INTO {{p}}_ledger ({ledger}) VALUES {{rows}}"),
            ),
            ledger_update: Bulk::new(
                prefix,
                schema::LEDGER.len() + 1,
                &format!(
                    "WITH c ({ledger}, expected) AS (VALUES {{rows}}) UPDATE {{p}}_ledger AS l SET {} FROM c \
                     WHERE l.saga = c.saga AND l.step = c.step AND l.state = c.expected",
                    schema::assignments(&schema::LEDGER[2..], "c")
                ),
            ),
            started: sql(
                "SELECT caller, key, fingerprint, saga, answer, created_at FROM {p}_started WHERE caller = $1 AND key = $2",
            ),
            started_insert: sql(
                "INSERT INTO {p}_started (caller, key, fingerprint, saga, answer, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
            ),
            discarded: sql(&format!(
                "SELECT {discarded} FROM {{p}}_discarded WHERE ($1 IS NULL OR saga = $1) \
                 ORDER BY discarded_at DESC, id LIMIT $2"
            )),
            discarded_of: sql("SELECT DISTINCT id FROM {p}_discarded WHERE id IN (SELECT value FROM json_each($1))"),
            discarded_insert: Bulk::new(
                prefix,
                schema::DISCARDED.len(),
                &format!("INSERT INTO {{p}}_discarded ({discarded}) VALUES {{rows}}"),
            ),
        }
    }
}

/// A statement of [`Statements`]: the prefix in it was checked, everything else in it is a constant of this file.
fn safe(sql: &Arc<str>) -> AssertSqlSafe<Arc<str>> {
    AssertSqlSafe(Arc::clone(sql))
}

/// A full disk, an I/O error and a lack of memory may make SQLite roll back the whole transaction, not only the statement
/// (<https://www.sqlite.org/lang_transaction.html>, section 3.1). Then a step that swallows the error goes on outside any
/// transaction, where each of its statements would commit by itself: so nothing is committed between a rollback and the next
/// time that the connection is taken. And the driver goes on counting the transaction, which nothing can end any more: such a
/// connection is closed (in memory, where that is the database, only a lack of memory leads here). For a pool of one connection: what
/// is remembered is the transaction of whoever has it.
fn notices_lost_transactions(pool: SqlitePoolOptions) -> SqlitePoolOptions {
    let lost = Arc::new(AtomicBool::new(false));
    let taken = Arc::clone(&lost);
    pool.after_connect(move |conn, _| {
        let (rolled_back, asked) = (Arc::clone(&lost), Arc::clone(&lost));
        Box::pin(async move {
            let mut handle = conn.lock_handle().await?;
            handle.set_rollback_hook(move || rolled_back.store(true, Ordering::Release));
            handle.set_commit_hook(move || !asked.load(Ordering::Acquire));
            Ok(())
        })
    })
    .before_acquire(move |conn, _| {
        let lost = Arc::clone(&taken);
        Box::pin(async move {
            lost.store(false, Ordering::Release);
            Ok(!conn.is_in_transaction())
        })
    })
}

impl Sqlite {
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) async fn connect(url: &str, prefix: String) -> Result<Self, Error> {
        let options = SqliteConnectOptions::from_str(url)
            .map_err(Error::database("reading its URL"))?
            .create_if_missing(true)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(PATIENCE);
        // Never recycled: in memory, the connection is the database.
        let pool = SqlitePoolOptions::new()
            .acquire_timeout(PATIENCE)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false);
        // Of the writer only: whoever takes a reader meanwhile begins nothing anew.
        let one = notices_lost_transactions(pool.clone().max_connections(1));
        let (writer, readers) = if url.contains(":memory:") || url.contains("mode=memory") {
            let only = one.connect_with(options).await.map_err(Error::database("connecting"))?;
            (only.clone(), only)
        } else {
            let writer = one
                .connect_with(options.clone().journal_mode(SqliteJournalMode::Wal))
                .await
                .map_err(Error::database("connecting"))?;
            (writer, pool.max_connections(READERS).connect_lazy_with(options.pragma("query_only", "on")))
        };
        Ok(Self { writer, readers, sql: Arc::new(Statements::new(&prefix)), prefix: prefix.into() })
    }

    pub(super) async fn migrate(&self) -> Result<(), Error> {
        let found = self.run_migrations().await.map_err(Error::database("migrating"))?;
        if found > schema::newest(MIGRATIONS) {
            return Err(schema::wrong_version(&self.prefix, found, MIGRATIONS));
        }
        Ok(())
    }

    /// Returns the version that it found.
    async fn run_migrations(&self) -> Result<i64, sqlx::Error> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(safe(&self.sql.meta_create)).execute(&mut *tx).await?;
        let found: i64 = sqlx::query_scalar(safe(&self.sql.meta_version)).fetch_one(&mut *tx).await?;
        for (version, template) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
            tx.execute(sqlx::raw_sql(safe(&schema::sql(&self.prefix, template)))).await?;
            sqlx::query(safe(&self.sql.meta_insert)).bind(version).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(found)
    }

    pub(super) fn reader(&self) -> &SqlitePool {
        &self.readers
    }

    pub(super) async fn begin(&self) -> Result<Tx, Error> {
        let tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(Error::database("beginning a transaction"))?;
        Ok(Tx { tx, sql: Arc::clone(&self.sql), failed: false })
    }

    pub(super) async fn outbox_delete(&self, rows: &[Uuid]) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        sqlx::query(safe(&self.sql.outbox_delete))
            .bind(serde_json::to_string(rows)?)
            .execute(&self.writer)
            .await
            .map_err(Error::database("deleting published outbox rows"))?;
        Ok(())
    }

    pub(super) async fn outbox_claim(
        &self,
        now: i64,
        before: i64,
        until: i64,
        limit: u32,
    ) -> Result<Vec<OutboxRow>, Error> {
        let cells: Vec<OutboxCells<Hyphenated>> = sqlx::query_as(safe(&self.sql.outbox_claim))
            .bind(now)
            .bind(before)
            .bind(until)
            .bind(i64::from(limit))
            .fetch_all(&self.writer)
            .await
            .map_err(Error::database("claiming outbox rows"))?;
        Ok(schema::oldest_first(schema::rows(cells)?))
    }

    pub(super) async fn outbox_len(&self) -> Result<u64, Error> {
        let count: i64 = sqlx::query_scalar(safe(&self.sql.outbox_len))
            .fetch_one(&self.readers)
            .await
            .map_err(Error::database("counting the outbox"))?;
        Ok(count.unsigned_abs())
    }

    pub(super) async fn outbox_hold(&self, rows: &[Uuid], until: i64) -> Result<(), Error> {
        sqlx::query(safe(&self.sql.outbox_hold))
            .bind(serde_json::to_string(rows)?)
            .bind(until)
            .execute(&self.writer)
            .await
            .map_err(Error::database("claiming outbox rows that are in flight"))?;
        Ok(())
    }

    pub(super) async fn outbox_release(&self, rows: &[Uuid], claim: i64, until: i64) -> Result<(), Error> {
        sqlx::query(safe(&self.sql.outbox_release))
            .bind(serde_json::to_string(rows)?)
            .bind(claim)
            .bind(until)
            .execute(&self.writer)
            .await
            .map_err(Error::database("releasing outbox rows"))?;
        Ok(())
    }

    pub(super) async fn outbox_page(
        &self,
        all: bool,
        saga: Option<SagaId>,
        after: Option<(i64, Uuid)>,
        limit: u32,
    ) -> Result<Vec<OutboxEntry>, Error> {
        let (created_at, id) = after.unwrap_or((i64::MIN, Uuid::nil()));
        let cells: Vec<OutboxEntryCells<Hyphenated>> = sqlx::query_as(safe(&self.sql.outbox_page))
            .bind(all)
            .bind(saga.map(|saga| saga.to_string()))
            .bind(created_at)
            .bind(id.hyphenated())
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(Error::database("reading the outbox"))?;
        schema::rows(cells)
    }

    pub(super) async fn outbox_retry(&self, rows: &[Uuid]) -> Result<u64, Error> {
        let done = sqlx::query(safe(&self.sql.outbox_retry))
            .bind(serde_json::to_string(rows)?)
            .execute(&self.writer)
            .await
            .map_err(Error::database("taking the mark from refused outbox rows"))?;
        Ok(done.rows_affected())
    }

    pub(super) async fn outbox_refuse(&self, row: Uuid, reason: &str) -> Result<(), Error> {
        sqlx::query(safe(&self.sql.outbox_refuse))
            .bind(row.hyphenated())
            .bind(reason)
            .execute(&self.writer)
            .await
            .map_err(Error::database("marking a refused outbox row"))?;
        Ok(())
    }

    pub(super) async fn work_due(&self, now: i64, lanes: &[Lane<'_>]) -> Result<Vec<Due>, Error> {
        let mut due = Vec::new();
        for (lane, asked) in lanes.iter().enumerate() {
            let rows: Vec<(Hyphenated, Hyphenated, i64)> = sqlx::query_as(safe(&self.sql.work_due))
                .bind(asked.step)
                .bind(asked.direction.as_str())
                .bind(now)
                .bind(i64::from(asked.room))
                .fetch_all(&self.readers)
                .await
                .map_err(Error::database("looking for due work"))?;
            let found = |(id, saga, due_at): (Hyphenated, Hyphenated, i64)| Due {
                id: ReactionId(id.into()),
                saga: SagaId(saga.into()),
                due_at,
                lane,
            };
            due.extend(rows.into_iter().map(found));
        }
        Ok(due)
    }

    pub(super) async fn work_next_due(&self) -> Result<Option<i64>, Error> {
        sqlx::query_scalar(safe(&self.sql.work_next_due))
            .fetch_one(&self.readers)
            .await
            .map_err(Error::database("looking for the next due work"))
    }

    pub(super) async fn work(&self, limit: u32) -> Result<Vec<WorkRow>, Error> {
        let cells: Vec<WorkCells<Hyphenated>> = sqlx::query_as(safe(&self.sql.work))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(Error::database("listing work"))?;
        schema::rows(cells)
    }

    pub(super) async fn work_row(&self, id: ReactionId) -> Result<Option<WorkRow>, Error> {
        let cells: Option<WorkCells<Hyphenated>> = sqlx::query_as(safe(&self.sql.work_row))
            .bind(id.0.hyphenated())
            .fetch_optional(&self.readers)
            .await
            .map_err(Error::database("reading waiting work"))?;
        cells.map(WorkRow::try_from).transpose()
    }

    pub(super) async fn work_page(
        &self,
        which: &Which,
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<WorkRow>, Error> {
        let (from, to, since, (saga, seq, id)) = schema::bounds(which, after);
        let cells: Vec<WorkCells<Hyphenated>> = sqlx::query_as(safe(&self.sql.work_page))
            .bind(from.hyphenated())
            .bind(to.hyphenated())
            .bind(since)
            .bind(&which.step)
            .bind(which.state.map(super::WorkState::as_str))
            .bind(saga.0.hyphenated())
            .bind(seq)
            .bind(id.0.hyphenated())
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(Error::database("listing work"))?;
        schema::rows(cells)
    }

    pub(super) async fn discarded(&self, saga: Option<SagaId>, limit: u32) -> Result<Vec<DiscardedRow>, Error> {
        let cells: Vec<DiscardedCells<Hyphenated>> = sqlx::query_as(safe(&self.sql.discarded))
            .bind(saga.map(|saga| saga.0.hyphenated()))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(Error::database("listing what was discarded"))?;
        schema::rows(cells)
    }

    pub(super) async fn horizon(&self) -> Result<i64, Error> {
        sqlx::query_scalar(safe(&self.sql.horizon))
            .fetch_one(&self.readers)
            .await
            .map_err(Error::database("reading the horizon"))
    }

    pub(super) async fn open_sagas(
        &self,
        start: &str,
        from: SagaId,
        to: SagaId,
        limit: u32,
    ) -> Result<Vec<SagaId>, Error> {
        let sagas: Vec<Hyphenated> = sqlx::query_scalar(safe(&self.sql.open_sagas))
            .bind(start)
            .bind(from.0.hyphenated())
            .bind(to.0.hyphenated())
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(Error::database("looking for open sagas"))?;
        Ok(sagas.into_iter().map(|saga| SagaId(saga.into())).collect())
    }

    pub(super) async fn still_open(&self, start: &str, sagas: &[SagaId]) -> Result<Vec<SagaId>, Error> {
        let open: Vec<Hyphenated> = sqlx::query_scalar(safe(&self.sql.still_open))
            .bind(start)
            .bind(serde_json::to_string(sagas)?)
            .fetch_all(&self.readers)
            .await
            .map_err(Error::database("looking at open sagas"))?;
        Ok(open.into_iter().map(|saga| SagaId(saga.into())).collect())
    }

    pub(super) async fn work_counts(&self) -> Result<Vec<(WorkState, u64)>, Error> {
        let counts: Vec<(String, i64)> = sqlx::query_as(safe(&self.sql.work_counts))
            .fetch_all(&self.readers)
            .await
            .map_err(Error::database("counting work"))?;
        schema::counts(counts)
    }

    pub(super) async fn release_leases(&self, owner: Uuid, now: i64) -> Result<(), Error> {
        sqlx::query(safe(&self.sql.release_leases))
            .bind(owner.hyphenated())
            .bind(now)
            .execute(&self.writer)
            .await
            .map_err(Error::database("releasing leases"))?;
        Ok(())
    }

    pub(super) async fn ledger(&self, saga: SagaId) -> Result<Vec<LedgerRow>, Error> {
        let cells: Vec<LedgerCells<Hyphenated>> = sqlx::query_as(safe(&self.sql.ledger))
            .bind(saga.0.hyphenated())
            .fetch_all(&self.readers)
            .await
            .map_err(Error::database("reading the ledger"))?;
        schema::rows(cells)
    }

    pub(super) async fn ledger_steps(&self) -> Result<Vec<String>, Error> {
        sqlx::query_scalar(safe(&self.sql.ledger_steps))
            .fetch_all(&self.readers)
            .await
            .map_err(Error::database("reading the ledger's step names"))
    }

    pub(super) async fn check(&self) -> Result<(), Error> {
        let found = self.version().await.map_err(Error::database("reading the version of the tables"))?;
        if found == schema::newest(MIGRATIONS) {
            Ok(())
        } else {
            Err(schema::wrong_version(&self.prefix, found, MIGRATIONS))
        }
    }

    async fn version(&self) -> Result<i64, sqlx::Error> {
        let there: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = $1)")
                .bind(&*self.sql.meta)
                .fetch_one(&self.readers)
                .await?;
        if !there {
            return Ok(0);
        }
        sqlx::query_scalar(safe(&self.sql.meta_version)).fetch_one(&self.readers).await
    }
}

impl Tx {
    /// Nothing to do: `BEGIN IMMEDIATE` has locked every saga.
    #[expect(clippy::unused_async, reason = "the same signature on both engines")]
    pub(super) async fn lock(&mut self, _sagas: &[SagaId]) -> Result<(), Error> {
        Ok(())
    }

    pub(super) async fn horizon(&mut self) -> Result<i64, Error> {
        sqlx::query_scalar(safe(&self.sql.horizon))
            .fetch_one(&mut *self.tx)
            .await
            .map_err(Error::database("reading the horizon"))
    }

    pub(super) async fn raise_horizon(&mut self, before: i64) -> Result<(), Error> {
        sqlx::query(safe(&self.sql.horizon_raise))
            .bind(before)
            .execute(&mut *self.tx)
            .await
            .map_err(Error::database("raising the horizon"))?;
        Ok(())
    }

    pub(super) async fn prunable(&mut self, before: SagaId, starts: &[&str], limit: u32) -> Result<Vec<SagaId>, Error> {
        let sagas: Vec<Hyphenated> = sqlx::query_scalar(safe(&self.sql.prunable))
            .bind(before.0.hyphenated())
            .bind(i64::from(limit))
            .bind(serde_json::to_string(starts)?)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(Error::database("looking for old sagas"))?;
        Ok(sagas.into_iter().map(|saga| SagaId(saga.into())).collect())
    }

    pub(super) async fn forget(&mut self, sagas: &[SagaId]) -> Result<(), Error> {
        for statement in [&self.sql.prune_ledger, &self.sql.prune_started] {
            sqlx::query(safe(statement))
                .bind(serde_json::to_string(sagas)?)
                .execute(&mut *self.tx)
                .await
                .map_err(Error::database("forgetting old sagas"))?;
        }
        Ok(())
    }

    pub(super) async fn read(&mut self, sagas: &[SagaId]) -> Result<(Vec<LedgerRow>, Vec<WorkRow>), Error> {
        let sagas = serde_json::to_string(sagas)?;
        let ledger: Vec<LedgerCells<Hyphenated>> = sqlx::query_as(safe(&self.sql.ledger_of))
            .bind(&sagas)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(Error::database("reading the ledger"))?;
        let work: Vec<WorkCells<Hyphenated>> = sqlx::query_as(safe(&self.sql.work_of))
            .bind(&sagas)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(Error::database("reading waiting work"))?;
        Ok((schema::rows(ledger)?, schema::rows(work)?))
    }

    pub(super) async fn work_rows(&mut self, ids: &[ReactionId]) -> Result<Vec<WorkRow>, Error> {
        let cells: Vec<WorkCells<Hyphenated>> = sqlx::query_as(safe(&self.sql.work_rows))
            .bind(serde_json::to_string(ids)?)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(Error::database("reading waiting work"))?;
        schema::rows(cells)
    }

    pub(super) async fn discarded(&mut self, ids: &[ReactionId]) -> Result<Vec<ReactionId>, Error> {
        let ids: Vec<Hyphenated> = sqlx::query_scalar(safe(&self.sql.discarded_of))
            .bind(serde_json::to_string(ids)?)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(Error::database("looking for what was discarded"))?;
        Ok(ids.into_iter().map(|id| ReactionId(id.into())).collect())
    }

    pub(super) async fn write(&mut self, changes: &Changes) -> Result<(), Error> {
        // Before the first statement: a caller that drops this future half-way must not commit half of it either.
        let failed = std::mem::replace(&mut self.failed, true);
        self.write_ledger(changes).await?;
        let rows = changes
            .outbox
            .iter()
            .map(|row| Ok((row, serde_json::to_string(&row.message.headers)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        self.sql
            .outbox_insert
            .execute(&mut self.tx, &rows, |query, (row, headers)| {
                query
                    .bind(row.id.hyphenated())
                    .bind(row.message.topic.clone())
                    .bind(row.message.key.clone())
                    .bind(headers.clone())
                    .bind(row.message.body.clone())
                    .bind(row.created_at)
            })
            .await
            .map_err(Error::database("writing outbox rows"))?;
        self.write_work(changes).await?;
        self.write_discarded(&changes.discarded).await?;
        self.failed = failed;
        Ok(())
    }

    async fn write_ledger(&mut self, changes: &Changes) -> Result<(), Error> {
        let rows = changes.ledger_inserts.iter().map(ledger_texts).collect::<Result<Vec<_>, _>>()?;
        self.sql
            .ledger_insert
            .execute(&mut self.tx, &rows, bind_ledger)
            .await
            .map_err(Error::database("inserting ledger rows"))?;
        let rows = changes.ledger_updates.iter().map(|(expected, row)| Ok((*expected, ledger_texts(row)?)));
        let rows = rows.collect::<Result<Vec<_>, Error>>()?;
        let count = self
            .sql
            .ledger_update
            .execute(&mut self.tx, &rows, |query, (expected, row)| {
                bind_ledger(query, row).bind(State::as_str(*expected))
            })
            .await
            .map_err(Error::database("updating ledger rows"))?;
        let expected = changes.ledger_updates.len() as u64;
        if count == expected { Ok(()) } else { Err(Error::Transition { expected, count }) }
    }

    /// Deletes before it writes: of a row that is in both lists the waiting one stays, because work is never dropped.
    async fn write_work(&mut self, changes: &Changes) -> Result<(), Error> {
        if !changes.work_done.is_empty() {
            sqlx::query(safe(&self.sql.work_delete))
                .bind(serde_json::to_string(&changes.work_done)?)
                .execute(&mut *self.tx)
                .await
                .map_err(Error::database("deleting settled work"))?;
        }
        let rows = schema::last_of_each(&changes.work)
            .into_iter()
            .map(|row| {
                Ok((row, schema::raw_headers_text(&row.delivery.headers)?, serde_json::to_string(&row.failures)?))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        self.sql
            .work_upsert
            .execute(&mut self.tx, &rows, |query, (row, headers, failures)| {
                query
                    .bind(row.id.0.hyphenated())
                    .bind(row.saga.0.hyphenated())
                    .bind(row.step.clone())
                    .bind(row.direction.as_str())
                    .bind(row.state.as_str())
                    .bind(row.seq)
                    .bind(row.delivery.topic.to_string())
                    .bind(row.delivery.partition)
                    .bind(row.delivery.offset)
                    .bind(row.delivery.key.clone())
                    .bind(headers.clone())
                    .bind(row.delivery.body.clone())
                    .bind(row.due_at)
                    .bind(i64::from(row.attempts))
                    .bind(row.lease_owner.map(Uuid::hyphenated))
                    .bind(failures.clone())
                    .bind(row.since)
                    .bind(row.reason.clone())
                    .bind(row.blocks)
                    .bind(i64::from(row.counted))
                    .bind(row.counted_from)
                    .bind(row.told)
                    .bind(row.told_on.clone())
            })
            .await
            .map_err(Error::database("writing work rows"))?;
        Ok(())
    }

    async fn write_discarded(&mut self, rows: &[DiscardedRow]) -> Result<(), Error> {
        let rows = rows
            .iter()
            .map(|row| {
                let DiscardedRow { work, .. } = row;
                Ok((row, schema::raw_headers_text(&work.delivery.headers)?, serde_json::to_string(&work.failures)?))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        self.sql
            .discarded_insert
            .execute(&mut self.tx, &rows, |query, (DiscardedRow { work, why, who, at }, headers, failures)| {
                query
                    .bind(work.id.0.hyphenated())
                    .bind(work.saga.0.hyphenated())
                    .bind(work.step.clone())
                    .bind(work.direction.as_str())
                    .bind(work.state.as_str())
                    .bind(work.delivery.topic.to_string())
                    .bind(work.delivery.partition)
                    .bind(work.delivery.offset)
                    .bind(work.delivery.key.clone())
                    .bind(headers.clone())
                    .bind(work.delivery.body.clone())
                    .bind(i64::from(work.attempts))
                    .bind(failures.clone())
                    .bind(work.since)
                    .bind(work.reason.clone())
                    .bind(why.clone())
                    .bind(who.clone())
                    .bind(*at)
            })
            .await
            .map_err(Error::database("keeping what is discarded"))?;
        Ok(())
    }

    /// The transaction is alone already, so this only looks.
    pub(super) async fn started(&mut self, caller: &str, key: &str) -> Result<Option<StartedRow>, Error> {
        let cells: Option<StartedCells<Hyphenated>> = sqlx::query_as(safe(&self.sql.started))
            .bind(caller)
            .bind(key)
            .fetch_optional(&mut *self.tx)
            .await
            .map_err(Error::database("looking for an earlier start"))?;
        Ok(cells.map(Into::into))
    }

    pub(super) async fn insert_started(&mut self, row: &StartedRow) -> Result<(), Error> {
        let failed = std::mem::replace(&mut self.failed, true);
        sqlx::query(safe(&self.sql.started_insert))
            .bind(&row.caller)
            .bind(&row.key)
            .bind(&row.fingerprint)
            .bind(row.saga.0.hyphenated())
            .bind(&row.answer)
            .bind(row.created_at)
            .execute(&mut *self.tx)
            .await
            .map_err(Error::database("remembering a start"))?;
        self.failed = failed;
        Ok(())
    }

    pub(super) fn conn(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }

    pub(super) async fn commit(self) -> Result<(), Error> {
        if self.failed {
            // Dropped here, and so rolled back.
            return Err(schema::failed_before());
        }
        self.tx.commit().await.map_err(Error::database("committing"))
    }
}

type Query<'q> = sqlx::query::Query<'q, Lite, SqliteArguments>;

/// A row with those of its cells that are JSON.
type LedgerTexts<'r> = (&'r LedgerRow, Option<String>, Option<String>);

fn ledger_texts(row: &LedgerRow) -> Result<LedgerTexts<'_>, Error> {
    Ok((row, row.compensation.as_ref().map(schema::message_text).transpose()?, schema::notes_text(&row.notes)?))
}

/// One row's cells, in the order of [`schema::LEDGER`].
fn bind_ledger<'q>(query: Query<'q>, (row, compensation, notes): &LedgerTexts<'_>) -> Query<'q> {
    query
        .bind(row.saga.0.hyphenated())
        .bind(row.step.clone())
        .bind(State::as_str(row.state))
        .bind(row.trigger.0.clone())
        .bind(row.trigger_type.clone())
        .bind(row.trigger_body.clone())
        .bind(row.record.as_ref().map(|record| record.event_type.clone()))
        .bind(row.record.as_ref().map(|record| record.body.clone()))
        .bind(row.reply.clone())
        .bind(i64::from(row.attempts))
        .bind(row.rejecting)
        .bind(row.ending.map(crate::event::Ending::as_str))
        .bind(row.trace.traceparent.clone())
        .bind(row.trace.tracestate.clone())
        .bind(i64::from(row.hops))
        .bind(row.changed_at)
        .bind(row.record_topic.clone())
        .bind(row.record_subject.clone())
        .bind(compensation.clone())
        .bind(notes.clone())
}
