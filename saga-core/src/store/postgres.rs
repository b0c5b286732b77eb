//! The tables on PostgreSQL.
//!
//! The invariant: a saga is locked by an advisory lock of its transaction, and what the transaction then reads is a statement
//! of its own under READ COMMITTED, so it sees everything that the previous holder of the lock committed.

use std::{collections::BTreeSet, str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool, Postgres as Pg, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use uuid::Uuid;

use super::{
    Changes, DiscardedRow, Due, Lane, LedgerRow, OutboxEntry, OutboxRow, Place, StartedRow, State, Which, WorkRow,
    WorkState,
    schema::{self, DiscardedCells, LedgerCells, Migrations, OutboxCells, OutboxEntryCells, StartedCells, WorkCells},
};
use crate::{
    error::Error,
    id::{ReactionId, SagaId},
};

/// Outbox and work rows are deleted soon after they were written: a share of a table that is usually empty is no threshold, so
/// a fixed number of dead rows is, and the vacuum does not pause between pages.
const MIGRATIONS: Migrations = &[(
    1,
    "
    CREATE TABLE {p}_ledger (
        saga uuid NOT NULL, step text NOT NULL, state text NOT NULL,
        trigger_id text NOT NULL, trigger_type text NOT NULL, trigger_body bytea,
        record_type text, record_body bytea, reply bytea,
        attempts bigint NOT NULL, rejecting boolean NOT NULL, ending text,
        traceparent text, tracestate text, hops bigint NOT NULL, changed_at bigint NOT NULL,
        record_topic text, record_subject text, compensation text, notes text,
        PRIMARY KEY (saga, step)
    );
    CREATE TABLE {p}_outbox (
        id uuid PRIMARY KEY, topic text NOT NULL, key text NOT NULL, headers text NOT NULL, body bytea NOT NULL,
        created_at bigint NOT NULL, claimed_until bigint NOT NULL DEFAULT 0, refused text
    ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
    CREATE INDEX {p}_outbox_created_at ON {p}_outbox (created_at);
    CREATE TABLE {p}_work (
        id uuid PRIMARY KEY, saga uuid NOT NULL, step text NOT NULL, direction text NOT NULL, state text NOT NULL,
        seq bigint NOT NULL, log_topic text NOT NULL, log_partition integer NOT NULL, log_offset bigint NOT NULL,
        key bytea, headers text NOT NULL, body bytea NOT NULL,
        due_at bigint, attempts bigint NOT NULL, lease_owner uuid, failures text NOT NULL,
        since bigint NOT NULL, reason text NOT NULL, blocks boolean NOT NULL, counted bigint NOT NULL,
        counted_from bigint NOT NULL, told bigint NOT NULL, told_on text
    ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
    CREATE INDEX {p}_work_due_at ON {p}_work (step, direction, due_at, id) WHERE due_at IS NOT NULL;
    CREATE INDEX {p}_work_saga ON {p}_work (saga);
    CREATE TABLE {p}_started (
        caller text NOT NULL, key text NOT NULL, fingerprint bytea NOT NULL, saga uuid NOT NULL, answer text NOT NULL,
        created_at bigint NOT NULL,
        PRIMARY KEY (caller, key)
    );
    CREATE INDEX {p}_started_saga ON {p}_started (saga);
    CREATE TABLE {p}_horizon (id bigint PRIMARY KEY CHECK (id = 1), before bigint NOT NULL);
    INSERT INTO {p}_horizon (id, before) VALUES (1, 0);
    CREATE TABLE {p}_discarded (
        id uuid NOT NULL, saga uuid NOT NULL, step text NOT NULL, direction text NOT NULL, state text NOT NULL,
        log_topic text NOT NULL, log_partition integer NOT NULL, log_offset bigint NOT NULL,
        key bytea, headers text NOT NULL, body bytea NOT NULL,
        attempts bigint NOT NULL, failures text NOT NULL, since bigint NOT NULL, reason text NOT NULL,
        why text NOT NULL, who text NOT NULL, discarded_at bigint NOT NULL,
        PRIMARY KEY (id, discarded_at)
    );
    CREATE INDEX {p}_discarded_saga ON {p}_discarded (saga);
    ",
)];

/// What each connection is told. A transaction that hangs holds its sagas, so every wait has an end. Plans are made for the
/// parameters at hand, because one that was made while the tables were empty reads whole tables once they are not. And nothing
/// is compiled: as long as a table is not analysed its statements look dear, and compiling one took 55 ms, running it 1 ms.
const SETTINGS: [(&str, &str); 5] = [
    ("statement_timeout", "30s"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "60s"),
    ("jit", "off"),
    ("plan_cache_mode", "force_custom_plan"),
];

/// A transaction is one batch, so a few connections keep a database busy.
const CONNECTIONS: u32 = 10;

/// Longer than any batch should take; the pipeline pauses and probes after that.
const ACQUIRE: Duration = Duration::from_secs(5);

/// A connection that rested longer than this is pinged before it is used. In a busy service no transaction pays that round trip.
const RESTED: Duration = Duration::from_secs(5);

/// The namespace of the lock keys. Instances of different versions exclude each other only while it stays the same.
const LOCKS: Uuid = Uuid::from_u128(0x1c7e_94d2_6f0b_4a35_8e51_c2d9_730a_b6f4);

/// A participant's tables on PostgreSQL.
#[derive(Debug, Clone)]
pub struct Postgres {
    pool: PgPool,
    prefix: Arc<str>,
    sql: Arc<Statements>,
}

/// One transaction. Dropping it rolls back.
#[derive(Debug)]
pub struct Tx {
    tx: Transaction<'static, Pg>,
    prefix: Arc<str>,
    sql: Arc<Statements>,
    /// A write failed: what it left must never be committed.
    failed: bool,
    /// A rule is broken on purpose: the keys that [`Tx::lock`] has left to the statement that reads.
    #[cfg(feature = "harness")]
    unlocked: Option<Vec<i64>>,
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
    outbox_insert: Arc<str>,
    work_due: Arc<str>,
    work_next_due: Arc<str>,
    work: Arc<str>,
    work_row: Arc<str>,
    work_page: Arc<str>,
    work_of: Arc<str>,
    work_rows: Arc<str>,
    work_upsert: Arc<str>,
    work_delete: Arc<str>,
    release_leases: Arc<str>,
    ledger: Arc<str>,
    ledger_of: Arc<str>,
    ledger_steps: Arc<str>,
    ledger_insert: Arc<str>,
    ledger_update: Arc<str>,
    started: Arc<str>,
    started_insert: Arc<str>,
    discarded: Arc<str>,
    discarded_of: Arc<str>,
    discarded_insert: Arc<str>,
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
        let ledger_arrays = "$1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::text[], \
            $8::bytea[], $9::bytea[], $10::int8[], $11::bool[], $12::text[], $13::text[], $14::text[], $15::int8[], \
            $16::int8[], $17::text[], $18::text[], $19::text[], $20::text[]";
        let work_arrays = "$1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::text[], \
            $8::int4[], $9::int8[], $10::bytea[], $11::text[], $12::bytea[], $13::int8[], $14::int8[], $15::uuid[], \
            $16::text[], $17::int8[], $18::text[], $19::bool[], $20::int8[], $21::int8[], $22::int8[], $23::text[]";
        let discarded_arrays = "$1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int4[], $8::int8[], \
            $9::bytea[], $10::text[], $11::bytea[], $12::int8[], $13::text[], $14::int8[], $15::text[], $16::text[], \
            $17::text[], $18::int8[]";
        let outbox_arrays = "$1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::int8[]";
        Self {
            meta: sql("{p}_meta"),
            meta_create: sql("CREATE TABLE IF NOT EXISTS {p}_meta (version bigint PRIMARY KEY)"),
            meta_version: sql("SELECT coalesce(max(version), 0) FROM {p}_meta"),
            meta_insert: sql("INSERT INTO {p}_meta (version) VALUES ($1)"),
            outbox_delete: sql("DELETE FROM {p}_outbox WHERE id = ANY($1::uuid[])"),
            outbox_claim: sql(&format!(
                "UPDATE {{p}}_outbox SET claimed_until = $3 WHERE id IN (SELECT id FROM {{p}}_outbox \
                 WHERE created_at < $2 AND claimed_until <= $1 AND refused IS NULL \
                 ORDER BY created_at, id LIMIT $4 FOR UPDATE SKIP LOCKED) RETURNING {outbox}"
            )),
            outbox_len: sql("SELECT count(*) FROM {p}_outbox"),
            outbox_refuse: sql("UPDATE {p}_outbox SET refused = $2 WHERE id = $1"),
            outbox_hold: sql(
                "UPDATE {p}_outbox SET claimed_until = $2 WHERE id = ANY($1::uuid[]) AND claimed_until < $2",
            ),
            outbox_release: sql(
                "UPDATE {p}_outbox SET claimed_until = $3 WHERE id = ANY($1::uuid[]) AND claimed_until = $2",
            ),
            outbox_page: sql(&format!(
                "SELECT {outbox}, claimed_until, refused FROM {{p}}_outbox WHERE ($1 OR refused IS NOT NULL) \
                 AND ($2::text IS NULL OR key = $2) AND (created_at, id) > ($3, $4) ORDER BY created_at, id LIMIT $5"
            )),
            outbox_retry: sql(
                "UPDATE {p}_outbox SET refused = NULL, claimed_until = 0 WHERE id = ANY($1::uuid[]) AND refused IS NOT NULL",
            ),
            outbox_insert: sql(&format!("INSERT INTO {{p}}_outbox ({outbox}) SELECT * FROM unnest({outbox_arrays})")),
            work_due: sql("SELECT w.id, w.saga, w.due_at, l.lane FROM unnest($2::text[], $3::text[], $4::bigint[]) \
                 WITH ORDINALITY AS l (step, direction, room, lane) CROSS JOIN LATERAL \
                 (SELECT id, saga, due_at FROM {p}_work WHERE step = l.step AND direction = l.direction AND due_at <= $1 \
                  ORDER BY due_at, id LIMIT l.room) AS w ORDER BY l.lane, w.due_at, w.id"),
            work_next_due: sql("SELECT min(due_at) FROM {p}_work WHERE due_at IS NOT NULL"),
            work: sql(&format!("SELECT {work} FROM {{p}}_work ORDER BY saga, seq, id LIMIT $1")),
            work_row: sql(&format!("SELECT {work} FROM {{p}}_work WHERE id = $1")),
            work_page: sql(&format!(
                "SELECT {work} FROM {{p}}_work WHERE saga BETWEEN $1 AND $2 AND since <= $3 \
                 AND ($4::text IS NULL OR step = $4) AND ($5::text IS NULL OR state = $5) AND (saga, seq, id) > ($6, $7, $8) \
                 ORDER BY saga, seq, id LIMIT $9"
            )),
            work_of: sql(&format!(
                "SELECT {work} FROM unnest($1::uuid[]) AS s (wanted) \
                 CROSS JOIN LATERAL (SELECT * FROM {{p}}_work WHERE saga = s.wanted OFFSET 0) AS w \
                 ORDER BY saga, seq, id"
            )),
            work_rows: sql(&format!("SELECT {work} FROM {{p}}_work WHERE id = ANY($1::uuid[]) ORDER BY saga, seq, id")),
            work_upsert: sql(&format!(
                "INSERT INTO {{p}}_work ({work}) SELECT * FROM unnest({work_arrays}) ON CONFLICT (id) DO UPDATE SET {}",
                schema::assignments(&schema::WORK[1..], "excluded")
            )),
            work_delete: sql("DELETE FROM {p}_work WHERE id = ANY($1::uuid[])"),
            horizon: sql("SELECT before FROM {p}_horizon WHERE id = 1"),
            horizon_raise: sql("UPDATE {p}_horizon SET before = greatest(before, $1) WHERE id = 1"),
            // Only an id of version 7 tells when its saga started.
            prunable: sql(
                "SELECT DISTINCT saga FROM {p}_ledger AS l WHERE saga < $1 AND substr(saga::text, 15, 1) = '7' \
                 AND NOT EXISTS (SELECT 1 FROM {p}_work AS w WHERE w.saga = l.saga) \
                 AND (NOT EXISTS (SELECT 1 FROM {p}_ledger AS b WHERE b.saga = l.saga AND b.step = ANY($3::text[])) \
                      OR EXISTS ({ending})) \
                 ORDER BY saga LIMIT $2",
            ),
            prune_ledger: sql("DELETE FROM {p}_ledger WHERE saga = ANY($1::uuid[])"),
            prune_started: sql("DELETE FROM {p}_started WHERE saga = ANY($1::uuid[])"),
            open_sagas: sql(
                "SELECT saga FROM {p}_ledger AS l WHERE step = $1 AND state = 'done' AND saga >= $2 AND saga < $3 \
                 AND NOT EXISTS ({ending}) \
                 ORDER BY saga LIMIT $4",
            ),
            still_open: sql(
                "SELECT l.saga FROM unnest($2::uuid[]) AS s (saga) JOIN {p}_ledger AS l ON l.saga = s.saga AND l.step = $1 AND l.state = 'done' \
                 WHERE NOT EXISTS ({ending}) \
                 ORDER BY l.saga",
            ),
            work_counts: sql("SELECT state, count(*) FROM {p}_work GROUP BY state ORDER BY state"),
            release_leases: sql(
                "UPDATE {p}_work SET due_at = $2, lease_owner = NULL WHERE state = 'calling' AND lease_owner = $1",
            ),
            ledger: sql(&format!("SELECT {ledger} FROM {{p}}_ledger WHERE saga = $1 ORDER BY step COLLATE \"C\"")),
            // `OFFSET 0` keeps it one index lookup per saga. Until it is analysed, a table counts as having 200 distinct
            // sagas, and `saga = ANY($1)` reads all of it.
            ledger_of: sql(&format!(
                "SELECT {ledger} FROM unnest($1::uuid[]) AS s (wanted) \
                 CROSS JOIN LATERAL (SELECT * FROM {{p}}_ledger WHERE saga = s.wanted OFFSET 0) AS l \
                 ORDER BY saga, step COLLATE \"C\""
            )),
            ledger_steps: sql("SELECT DISTINCT step COLLATE \"C\" AS step FROM {p}_ledger ORDER BY 1"),
            ledger_insert: sql(&format!("INSERT INTO {{p}}_ledger ({ledger}) SELECT * FROM unnest({ledger_arrays})")),
            ledger_update: sql(&format!(
                "UPDATE {{p}}_ledger AS l SET {} FROM unnest({ledger_arrays}, $21::text[]) AS c ({ledger}, expected) \
                 WHERE l.saga = c.saga AND l.step = c.step AND l.state = c.expected",
                schema::assignments(&schema::LEDGER[2..], "c")
            )),
            started: sql(
                "SELECT caller, key, fingerprint, saga, answer, created_at FROM {p}_started WHERE caller = $1 AND key = $2",
            ),
            started_insert: sql(
                "INSERT INTO {p}_started (caller, key, fingerprint, saga, answer, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
            ),
            discarded: sql(&format!(
                "SELECT {discarded} FROM {{p}}_discarded WHERE ($1::uuid IS NULL OR saga = $1) \
                 ORDER BY discarded_at DESC, id LIMIT $2"
            )),
            discarded_of: sql("SELECT DISTINCT id FROM {p}_discarded WHERE id = ANY($1::uuid[])"),
            discarded_insert: sql(&format!(
                "INSERT INTO {{p}}_discarded ({discarded}) SELECT * FROM unnest({discarded_arrays})"
            )),
        }
    }
}

/// A statement of [`Statements`]: the prefix in it was checked, everything else in it is a constant of this file.
fn safe(sql: &Arc<str>) -> AssertSqlSafe<Arc<str>> {
    AssertSqlSafe(Arc::clone(sql))
}

async fn connect(options: PgConnectOptions) -> Result<PgPool, Error> {
    PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE)
        .test_before_acquire(false)
        .before_acquire(|conn, meta| {
            Box::pin(async move {
                if meta.idle_for > RESTED {
                    conn.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_with(options)
        .await
        .map_err(Error::database("connecting"))
}

impl Postgres {
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) async fn connect(url: &str, prefix: String) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(url).map_err(Error::database("reading its URL"))?.options(SETTINGS);
        let pool = connect(options).await?;
        Ok(Self { pool, sql: Arc::new(Statements::new(&prefix)), prefix: prefix.into() })
    }

    /// The same tables over another pool.
    pub(super) async fn apart(&self) -> Result<Self, Error> {
        let pool = connect((*self.pool.connect_options()).clone()).await?;
        Ok(Self { pool, sql: Arc::clone(&self.sql), prefix: Arc::clone(&self.prefix) })
    }

    pub(super) async fn migrate(&self) -> Result<(), Error> {
        self.run_migrations().await.map_err(Error::database("migrating")).and_then(|found| {
            if found > schema::newest(MIGRATIONS) {
                return Err(schema::wrong_version(&self.prefix, found, MIGRATIONS));
            }
            Ok(())
        })
    }

    /// Returns the version that it found.
    async fn run_migrations(&self) -> Result<i64, sqlx::Error> {
        let mut tx = self.pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        // An index of a large table takes its time, and so does another process that builds it.
        sqlx::raw_sql("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(lock_key(&[b"tables", self.prefix.as_bytes()]))
            .execute(&mut *tx)
            .await?;
        sqlx::query(safe(&self.sql.meta_create)).execute(&mut *tx).await?;
        let found: i64 = sqlx::query_scalar(safe(&self.sql.meta_version)).fetch_one(&mut *tx).await?;
        for (version, template) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
            sqlx::raw_sql(safe(&schema::sql(&self.prefix, template))).execute(&mut *tx).await?;
            sqlx::query(safe(&self.sql.meta_insert)).bind(version).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(found)
    }

    pub(super) fn reader(&self) -> &PgPool {
        &self.pool
    }

    pub(super) async fn begin(&self) -> Result<Tx, Error> {
        // Under REPEATABLE READ, which a database may have as its default, a read after the lock would see the past.
        let tx = self
            .pool
            .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            .await
            .map_err(Error::database("beginning a transaction"))?;
        Ok(Tx {
            tx,
            prefix: Arc::clone(&self.prefix),
            sql: Arc::clone(&self.sql),
            failed: false,
            #[cfg(feature = "harness")]
            unlocked: None,
        })
    }

    pub(super) async fn outbox_delete(&self, rows: &[Uuid]) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        sqlx::query(safe(&self.sql.outbox_delete))
            .bind(rows)
            .execute(&self.pool)
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
        let cells: Vec<OutboxCells<Uuid>> = sqlx::query_as(safe(&self.sql.outbox_claim))
            .bind(now)
            .bind(before)
            .bind(until)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(Error::database("claiming outbox rows"))?;
        Ok(schema::oldest_first(schema::rows(cells)?))
    }

    pub(super) async fn outbox_len(&self) -> Result<u64, Error> {
        let count: i64 = sqlx::query_scalar(safe(&self.sql.outbox_len))
            .fetch_one(&self.pool)
            .await
            .map_err(Error::database("counting the outbox"))?;
        Ok(count.unsigned_abs())
    }

    pub(super) async fn outbox_hold(&self, rows: &[Uuid], until: i64) -> Result<(), Error> {
        sqlx::query(safe(&self.sql.outbox_hold))
            .bind(rows)
            .bind(until)
            .execute(&self.pool)
            .await
            .map_err(Error::database("claiming outbox rows that are in flight"))?;
        Ok(())
    }

    pub(super) async fn outbox_release(&self, rows: &[Uuid], claim: i64, until: i64) -> Result<(), Error> {
        sqlx::query(safe(&self.sql.outbox_release))
            .bind(rows)
            .bind(claim)
            .bind(until)
            .execute(&self.pool)
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
        let cells: Vec<OutboxEntryCells<Uuid>> = sqlx::query_as(safe(&self.sql.outbox_page))
            .bind(all)
            .bind(saga.map(|saga| saga.to_string()))
            .bind(created_at)
            .bind(id)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(Error::database("reading the outbox"))?;
        schema::rows(cells)
    }

    pub(super) async fn outbox_retry(&self, rows: &[Uuid]) -> Result<u64, Error> {
        let done = sqlx::query(safe(&self.sql.outbox_retry))
            .bind(rows)
            .execute(&self.pool)
            .await
            .map_err(Error::database("taking the mark from refused outbox rows"))?;
        Ok(done.rows_affected())
    }

    pub(super) async fn outbox_refuse(&self, row: Uuid, reason: &str) -> Result<(), Error> {
        sqlx::query(safe(&self.sql.outbox_refuse))
            .bind(row)
            .bind(reason)
            .execute(&self.pool)
            .await
            .map_err(Error::database("marking a refused outbox row"))?;
        Ok(())
    }

    pub(super) async fn work_due(&self, now: i64, lanes: &[Lane<'_>]) -> Result<Vec<Due>, Error> {
        let rows: Vec<(Uuid, Uuid, i64, i64)> = sqlx::query_as(safe(&self.sql.work_due))
            .bind(now)
            .bind(lanes.iter().map(|lane| lane.step).collect::<Vec<_>>())
            .bind(lanes.iter().map(|lane| lane.direction.as_str()).collect::<Vec<_>>())
            .bind(lanes.iter().map(|lane| i64::from(lane.room)).collect::<Vec<_>>())
            .fetch_all(&self.pool)
            .await
            .map_err(Error::database("looking for due work"))?;
        let due = |(id, saga, due_at, lane): (Uuid, Uuid, i64, i64)| Due {
            id: ReactionId(id),
            saga: SagaId(saga),
            due_at,
            lane: usize::try_from(lane - 1).unwrap_or(0), // ordinality counts from 1
        };
        Ok(rows.into_iter().map(due).collect())
    }

    pub(super) async fn work_next_due(&self) -> Result<Option<i64>, Error> {
        sqlx::query_scalar(safe(&self.sql.work_next_due))
            .fetch_one(&self.pool)
            .await
            .map_err(Error::database("looking for the next due work"))
    }

    pub(super) async fn work(&self, limit: u32) -> Result<Vec<WorkRow>, Error> {
        let cells: Vec<WorkCells<Uuid>> = sqlx::query_as(safe(&self.sql.work))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(Error::database("listing work"))?;
        schema::rows(cells)
    }

    pub(super) async fn work_row(&self, id: ReactionId) -> Result<Option<WorkRow>, Error> {
        let cells: Option<WorkCells<Uuid>> = sqlx::query_as(safe(&self.sql.work_row))
            .bind(id.0)
            .fetch_optional(&self.pool)
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
        let cells: Vec<WorkCells<Uuid>> = sqlx::query_as(safe(&self.sql.work_page))
            .bind(from)
            .bind(to)
            .bind(since)
            .bind(&which.step)
            .bind(which.state.map(super::WorkState::as_str))
            .bind(saga.0)
            .bind(seq)
            .bind(id.0)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(Error::database("listing work"))?;
        schema::rows(cells)
    }

    pub(super) async fn discarded(&self, saga: Option<SagaId>, limit: u32) -> Result<Vec<DiscardedRow>, Error> {
        let cells: Vec<DiscardedCells<Uuid>> = sqlx::query_as(safe(&self.sql.discarded))
            .bind(saga.map(|saga| saga.0))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(Error::database("listing what was discarded"))?;
        schema::rows(cells)
    }

    pub(super) async fn horizon(&self) -> Result<i64, Error> {
        sqlx::query_scalar(safe(&self.sql.horizon))
            .fetch_one(&self.pool)
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
        let sagas: Vec<Uuid> = sqlx::query_scalar(safe(&self.sql.open_sagas))
            .bind(start)
            .bind(from.0)
            .bind(to.0)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(Error::database("looking for open sagas"))?;
        Ok(sagas.into_iter().map(SagaId).collect())
    }

    pub(super) async fn still_open(&self, start: &str, sagas: &[SagaId]) -> Result<Vec<SagaId>, Error> {
        let open: Vec<Uuid> = sqlx::query_scalar(safe(&self.sql.still_open))
            .bind(start)
            .bind(sagas.iter().map(|saga| saga.0).collect::<Vec<_>>())
            .fetch_all(&self.pool)
            .await
            .map_err(Error::database("looking at open sagas"))?;
        Ok(open.into_iter().map(SagaId).collect())
    }

    pub(super) async fn work_counts(&self) -> Result<Vec<(WorkState, u64)>, Error> {
        let counts: Vec<(String, i64)> = sqlx::query_as(safe(&self.sql.work_counts))
            .fetch_all(&self.pool)
            .await
            .map_err(Error::database("counting work"))?;
        schema::counts(counts)
    }

    pub(super) async fn release_leases(&self, owner: Uuid, now: i64) -> Result<(), Error> {
        sqlx::query(safe(&self.sql.release_leases))
            .bind(owner)
            .bind(now)
            .execute(&self.pool)
            .await
            .map_err(Error::database("releasing leases"))?;
        Ok(())
    }

    pub(super) async fn ledger(&self, saga: SagaId) -> Result<Vec<LedgerRow>, Error> {
        let cells: Vec<LedgerCells<Uuid>> = sqlx::query_as(safe(&self.sql.ledger))
            .bind(saga.0)
            .fetch_all(&self.pool)
            .await
            .map_err(Error::database("reading the ledger"))?;
        schema::rows(cells)
    }

    pub(super) async fn ledger_steps(&self) -> Result<Vec<String>, Error> {
        sqlx::query_scalar(safe(&self.sql.ledger_steps))
            .fetch_all(&self.pool)
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
        let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(&*self.sql.meta)
            .fetch_one(&self.pool)
            .await?;
        if !there {
            return Ok(0);
        }
        sqlx::query_scalar(safe(&self.sql.meta_version)).fetch_one(&self.pool).await
    }
}

impl Tx {
    pub(super) async fn lock(&mut self, sagas: &[SagaId]) -> Result<(), Error> {
        // Everybody takes the keys in this order, so nobody waits in a circle.
        let keys: BTreeSet<i64> =
            sagas.iter().map(|saga| lock_key(&[b"saga", self.prefix.as_bytes(), saga.0.as_bytes()])).collect();
        let keys: Vec<i64> = keys.into_iter().collect();
        #[cfg(feature = "harness")]
        if let Some(unlocked) = &mut self.unlocked {
            unlocked.extend(keys);
            return Ok(());
        }
        sqlx::query("SELECT count(pg_advisory_xact_lock(k)) FROM unnest($1::int8[]) k")
            .bind(keys)
            .execute(&mut *self.tx)
            .await
            .map_err(Error::database("locking sagas"))?;
        Ok(())
    }

    #[cfg(feature = "harness")]
    pub(super) fn locks_when_it_reads(&mut self) {
        self.unlocked = Some(Vec::new());
    }

    /// What a round trip less would look like. The locks are held before the first row is looked for, and yet the rows are those of
    /// the statement's snapshot, which was taken before the wait.
    #[cfg(feature = "harness")]
    async fn lock_and_read(&mut self, sagas: &[Uuid], keys: Vec<i64>) -> Result<Vec<LedgerCells<Uuid>>, Error> {
        let sql = format!(
            "SELECT {} FROM {}_ledger WHERE (SELECT count(pg_advisory_xact_lock(k)) FROM unnest($2::int8[]) k) > 0 \
             AND saga = ANY($1::uuid[])",
            schema::LEDGER.join(", "),
            self.prefix
        );
        sqlx::query_as(AssertSqlSafe(sql))
            .bind(sagas)
            .bind(keys)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(Error::database("locking sagas and reading the ledger"))
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
        let sagas: Vec<Uuid> = sqlx::query_scalar(safe(&self.sql.prunable))
            .bind(before.0)
            .bind(i64::from(limit))
            .bind(starts)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(Error::database("looking for old sagas"))?;
        Ok(sagas.into_iter().map(SagaId).collect())
    }

    pub(super) async fn forget(&mut self, sagas: &[SagaId]) -> Result<(), Error> {
        for statement in [&self.sql.prune_ledger, &self.sql.prune_started] {
            sqlx::query(safe(statement))
                .bind(sagas.iter().map(|saga| saga.0).collect::<Vec<_>>())
                .execute(&mut *self.tx)
                .await
                .map_err(Error::database("forgetting old sagas"))?;
        }
        Ok(())
    }

    pub(super) async fn read(&mut self, sagas: &[SagaId]) -> Result<(Vec<LedgerRow>, Vec<WorkRow>), Error> {
        // A saga that is named twice would be read twice.
        let sagas: BTreeSet<Uuid> = sagas.iter().map(|saga| saga.0).collect();
        let sagas: Vec<Uuid> = sagas.into_iter().collect();
        #[cfg(feature = "harness")]
        let past = match self.unlocked.as_mut().map(std::mem::take).filter(|keys| !keys.is_empty()) {
            Some(keys) => Some(self.lock_and_read(&sagas, keys).await?),
            None => None,
        };
        let ledger: Vec<LedgerCells<Uuid>> = sqlx::query_as(safe(&self.sql.ledger_of))
            .bind(&sagas)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(Error::database("reading the ledger"))?;
        #[cfg(feature = "harness")]
        let ledger = past.unwrap_or(ledger);
        let work: Vec<WorkCells<Uuid>> = sqlx::query_as(safe(&self.sql.work_of))
            .bind(&sagas)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(Error::database("reading waiting work"))?;
        Ok((schema::rows(ledger)?, schema::rows(work)?))
    }

    pub(super) async fn work_rows(&mut self, ids: &[ReactionId]) -> Result<Vec<WorkRow>, Error> {
        let cells: Vec<WorkCells<Uuid>> = sqlx::query_as(safe(&self.sql.work_rows))
            .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
            .fetch_all(&mut *self.tx)
            .await
            .map_err(Error::database("reading waiting work"))?;
        schema::rows(cells)
    }

    pub(super) async fn discarded(&mut self, ids: &[ReactionId]) -> Result<Vec<ReactionId>, Error> {
        let ids: Vec<Uuid> = sqlx::query_scalar(safe(&self.sql.discarded_of))
            .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
            .fetch_all(&mut *self.tx)
            .await
            .map_err(Error::database("looking for what was discarded"))?;
        Ok(ids.into_iter().map(ReactionId).collect())
    }

    pub(super) async fn write(&mut self, changes: &Changes) -> Result<(), Error> {
        // Before the first statement: a caller that drops this future half-way must not commit half of it either.
        let failed = std::mem::replace(&mut self.failed, true);
        self.write_ledger(changes).await?;
        self.write_outbox(&changes.outbox).await.map_err(Error::database("writing outbox rows"))?;
        self.write_work(changes).await?;
        self.write_discarded(&changes.discarded).await?;
        self.failed = failed;
        Ok(())
    }

    async fn write_ledger(&mut self, changes: &Changes) -> Result<(), Error> {
        if !changes.ledger_inserts.is_empty() {
            let rows: Vec<&LedgerRow> = changes.ledger_inserts.iter().collect();
            bind_ledger(sqlx::query(safe(&self.sql.ledger_insert)), &rows)?
                .execute(&mut *self.tx)
                .await
                .map_err(Error::database("inserting ledger rows"))?;
        }
        if !changes.ledger_updates.is_empty() {
            let rows: Vec<&LedgerRow> = changes.ledger_updates.iter().map(|(_, row)| row).collect();
            let states: Vec<&str> = changes.ledger_updates.iter().map(|(state, _)| State::as_str(*state)).collect();
            let count = bind_ledger(sqlx::query(safe(&self.sql.ledger_update)), &rows)?
                .bind(states)
                .execute(&mut *self.tx)
                .await
                .map_err(Error::database("updating ledger rows"))?
                .rows_affected();
            let expected = changes.ledger_updates.len() as u64;
            if count != expected {
                return Err(Error::Transition { expected, count });
            }
        }
        Ok(())
    }

    async fn write_outbox(&mut self, rows: &[OutboxRow]) -> Result<(), sqlx::Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let headers = rows.iter().map(|row| serde_json::to_string(&row.message.headers)).collect::<Result<Vec<_>, _>>();
        sqlx::query(safe(&self.sql.outbox_insert))
            .bind(each(rows, |row| row.id))
            .bind(each(rows, |row| row.message.topic.as_str()))
            .bind(each(rows, |row| row.message.key.as_str()))
            .bind(headers.map_err(|error| sqlx::Error::Encode(error.into()))?)
            .bind(each(rows, |row| row.message.body.as_slice()))
            .bind(each(rows, |row| row.created_at))
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Deletes before it writes: of a row that is in both lists the waiting one stays, because work is never dropped.
    async fn write_work(&mut self, changes: &Changes) -> Result<(), Error> {
        if !changes.work_done.is_empty() {
            sqlx::query(safe(&self.sql.work_delete))
                .bind(each(&changes.work_done, |id| id.0))
                .execute(&mut *self.tx)
                .await
                .map_err(Error::database("deleting settled work"))?;
        }
        if changes.work.is_empty() {
            return Ok(());
        }
        let rows = schema::last_of_each(&changes.work);
        let headers =
            rows.iter().map(|row| schema::raw_headers_text(&row.delivery.headers)).collect::<Result<Vec<_>, _>>()?;
        let failures = rows.iter().map(|row| serde_json::to_string(&row.failures)).collect::<Result<Vec<_>, _>>()?;
        sqlx::query(safe(&self.sql.work_upsert))
            .bind(each(&rows, |row| row.id.0))
            .bind(each(&rows, |row| row.saga.0))
            .bind(each(&rows, |row| row.step.as_str()))
            .bind(each(&rows, |row| row.direction.as_str()))
            .bind(each(&rows, |row| row.state.as_str()))
            .bind(each(&rows, |row| row.seq))
            .bind(each(&rows, |row| &*row.delivery.topic))
            .bind(each(&rows, |row| row.delivery.partition))
            .bind(each(&rows, |row| row.delivery.offset))
            .bind(each(&rows, |row| row.delivery.key.as_deref()))
            .bind(headers)
            .bind(each(&rows, |row| row.delivery.body.as_slice()))
            .bind(each(&rows, |row| row.due_at))
            .bind(each(&rows, |row| i64::from(row.attempts)))
            .bind(each(&rows, |row| row.lease_owner))
            .bind(failures)
            .bind(each(&rows, |row| row.since))
            .bind(each(&rows, |row| row.reason.as_str()))
            .bind(each(&rows, |row| row.blocks))
            .bind(each(&rows, |row| i64::from(row.counted)))
            .bind(each(&rows, |row| row.counted_from))
            .bind(each(&rows, |row| row.told))
            .bind(each(&rows, |row| row.told_on.as_deref()))
            .execute(&mut *self.tx)
            .await
            .map_err(Error::database("writing work rows"))?;
        Ok(())
    }

    async fn write_discarded(&mut self, rows: &[DiscardedRow]) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let headers = rows
            .iter()
            .map(|row| schema::raw_headers_text(&row.work.delivery.headers))
            .collect::<Result<Vec<_>, _>>()?;
        let failures =
            rows.iter().map(|row| serde_json::to_string(&row.work.failures)).collect::<Result<Vec<_>, _>>()?;
        sqlx::query(safe(&self.sql.discarded_insert))
            .bind(each(rows, |row| row.work.id.0))
            .bind(each(rows, |row| row.work.saga.0))
            .bind(each(rows, |row| row.work.step.as_str()))
            .bind(each(rows, |row| row.work.direction.as_str()))
            .bind(each(rows, |row| row.work.state.as_str()))
            .bind(each(rows, |row| &*row.work.delivery.topic))
            .bind(each(rows, |row| row.work.delivery.partition))
            .bind(each(rows, |row| row.work.delivery.offset))
            .bind(each(rows, |row| row.work.delivery.key.as_deref()))
            .bind(headers)
            .bind(each(rows, |row| row.work.delivery.body.as_slice()))
            .bind(each(rows, |row| i64::from(row.work.attempts)))
            .bind(failures)
            .bind(each(rows, |row| row.work.since))
            .bind(each(rows, |row| row.work.reason.as_str()))
            .bind(each(rows, |row| row.why.as_str()))
            .bind(each(rows, |row| row.who.as_str()))
            .bind(each(rows, |row| row.at))
            .execute(&mut *self.tx)
            .await
            .map_err(Error::database("keeping what is discarded"))?;
        Ok(())
    }

    pub(super) async fn started(&mut self, caller: &str, key: &str) -> Result<Option<StartedRow>, Error> {
        let lock = lock_key(&[b"start", self.prefix.as_bytes(), caller.as_bytes(), key.as_bytes()]);
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(lock)
            .execute(&mut *self.tx)
            .await
            .map_err(Error::database("locking a start"))?;
        let cells: Option<StartedCells<Uuid>> = sqlx::query_as(safe(&self.sql.started))
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
            .bind(row.saga.0)
            .bind(&row.answer)
            .bind(row.created_at)
            .execute(&mut *self.tx)
            .await
            .map_err(Error::database("remembering a start"))?;
        self.failed = failed;
        Ok(())
    }

    pub(super) fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    pub(super) async fn commit(self) -> Result<(), Error> {
        if self.failed {
            // Dropped here, and so rolled back. PostgreSQL itself would answer COMMIT with a rollback that looks like success.
            return Err(schema::failed_before());
        }
        self.tx.commit().await.map_err(Error::database("committing"))
    }
}

type Query<'q> = sqlx::query::Query<'q, Pg, sqlx::postgres::PgArguments>;

/// One array per column, in the order of [`schema::LEDGER`].
fn bind_ledger<'q>(query: Query<'q>, rows: &'q [&LedgerRow]) -> Result<Query<'q>, Error> {
    let compensation = rows.iter().map(|row| row.compensation.as_ref().map(schema::message_text).transpose());
    let compensation = compensation.collect::<Result<Vec<_>, _>>()?;
    let notes = rows.iter().map(|row| schema::notes_text(&row.notes)).collect::<Result<Vec<_>, _>>()?;
    Ok(query
        .bind(each(rows, |row| row.saga.0))
        .bind(each(rows, |row| row.step.as_str()))
        .bind(each(rows, |row| State::as_str(row.state)))
        .bind(each(rows, |row| row.trigger.0.as_str()))
        .bind(each(rows, |row| row.trigger_type.as_str()))
        .bind(each(rows, |row| row.trigger_body.as_deref()))
        .bind(each(rows, |row| row.record.as_ref().map(|record| record.event_type.as_str())))
        .bind(each(rows, |row| row.record.as_ref().map(|record| record.body.as_slice())))
        .bind(each(rows, |row| row.reply.as_deref()))
        .bind(each(rows, |row| i64::from(row.attempts)))
        .bind(each(rows, |row| row.rejecting))
        .bind(each(rows, |row| row.ending.map(crate::event::Ending::as_str)))
        .bind(each(rows, |row| row.trace.traceparent.as_deref()))
        .bind(each(rows, |row| row.trace.tracestate.as_deref()))
        .bind(each(rows, |row| i64::from(row.hops)))
        .bind(each(rows, |row| row.changed_at))
        .bind(each(rows, |row| row.record_topic.as_deref()))
        .bind(each(rows, |row| row.record_subject.as_deref()))
        .bind(compensation)
        .bind(notes))
}

fn each<'r, R, T>(rows: &'r [R], cell: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(cell).collect()
}

/// 64 stable bits of these parts, which a byte that is in no UTF-8 text separates.
fn lock_key(parts: &[&[u8]]) -> i64 {
    let (bits, _) = Uuid::new_v5(&LOCKS, &parts.join(&0xff)).as_u64_pair();
    i64::from_ne_bytes(bits.to_ne_bytes())
}
