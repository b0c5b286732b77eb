//! The observer's own tables: a row per saga, on SQLite or PostgreSQL.
//!
//! The invariant: a saga's row is read, merged and written under that saga's lock, so several observers that share a PostgreSQL lose
//! nothing of each other. Whoever deletes the tables loses nothing either: the group under which the topics are read is named after
//! the tables, so new tables are filled from the start of the topics.

use std::collections::BTreeMap;

use saga_core::{
    Error, Manifest,
    event::Ending,
    id::SagaId,
    store::{Conn, Store as Tables, Tx},
};
use serde::Serialize;
use sqlx::{PgConnection, SqliteConnection};
use uuid::Uuid;

use crate::{
    saga::Saga,
    view::{Cast, State, View},
};

/// The prefix of the tables' names.
const NAME: &str = "observer";

/// Run one by one, in the dialect of both.
const SCHEMA: [&str; 6] = [
    "CREATE TABLE IF NOT EXISTS observer_meta (only_row BIGINT PRIMARY KEY, version BIGINT NOT NULL, instance TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS observer_sagas (
        saga TEXT PRIMARY KEY, body TEXT NOT NULL, state TEXT NOT NULL, ending TEXT NOT NULL, awaited TEXT NOT NULL,
        since BIGINT NOT NULL, started_at BIGINT NOT NULL, changed_at BIGINT NOT NULL, subjects TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS observer_manifests (participant TEXT PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS observer_sagas_state ON observer_sagas (state, since)",
    "CREATE INDEX IF NOT EXISTS observer_sagas_awaited ON observer_sagas (awaited, since)",
    "CREATE INDEX IF NOT EXISTS observer_sagas_subjects ON observer_sagas (subjects)",
];

/// The version of the tables. Others are deleted and filled again: what they hold is in the topics.
const VERSION: i64 = 1;

/// The observer's tables. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Store {
    tables: Tables,
    instance: Uuid,
}

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Listed {
    /// The saga's id.
    pub saga: String,
    /// [`State::as_str`].
    pub state: String,
    /// How it ended; empty when it has not.
    pub ending: String,
    /// `participant/step` of what it has waited for longest; empty when it waits for nothing.
    pub awaited: String,
    /// Since when it has waited for that, in milliseconds since the Unix epoch; 0 when it waits for nothing.
    pub since: i64,
    /// When its first event was emitted, in milliseconds since the Unix epoch.
    pub started_at: i64,
    /// When the last event or signal was.
    pub changed_at: i64,
    /// Its business keys, separated by line ends.
    pub subjects: String,
}

/// Which sagas to list; empty texts and zeros ask for all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In this state.
    pub state: Option<State>,
    /// With this ending.
    pub ending: Option<Ending>,
    /// That wait longest for this `participant/step`.
    pub awaited: String,
    /// That have this text in a business key, or whose id begins with it.
    pub text: String,
    /// That were started before this time, in milliseconds since the Unix epoch.
    pub started_before: Option<i64>,
    /// With ids below this one, for the next page.
    pub after: Option<SagaId>,
}

impl Store {
    /// Connects to `postgres://..` or `sqlite:..`, and makes the tables that are missing. `new` names new tables.
    pub async fn open(url: &str, new: Uuid) -> Result<Self, Error> {
        let tables = Tables::connect(url, NAME).await?;
        let mut tx = tables.begin().await?;
        tx.lock(&[SagaId(Uuid::nil())]).await?;
        let mut conn = tx.conn();
        let made = "making the observer's tables";
        for statement in SCHEMA {
            conn.execute(statement, ()).await.map_err(database(made))?;
        }
        let meta = "SELECT version, instance FROM observer_meta WHERE only_row = 1";
        let found: Option<(i64, String)> = conn.fetch_optional(meta, ()).await.map_err(database(made))?;
        let known = found.filter(|(version, _)| *version == VERSION).and_then(|(_, instance)| instance.parse().ok());
        let instance = known.unwrap_or(new);
        if known.is_none() {
            conn.execute("DELETE FROM observer_meta", ()).await.map_err(database(made))?;
            conn.execute("DELETE FROM observer_sagas", ()).await.map_err(database(made))?;
            let insert = "INSERT INTO observer_meta (only_row, version, instance) VALUES (1, $1, $2)";
            conn.execute(insert, (VERSION, instance.to_string())).await.map_err(database(made))?;
        }
        tx.commit().await?;
        Ok(Self { tables, instance })
    }

    /// Connects to tables that an observer has made; `None` when there are none of this version.
    pub async fn existing(url: &str) -> Result<Option<Self>, Error> {
        let tables = Tables::connect(url, NAME).await?;
        let meta = "SELECT version, instance FROM observer_meta WHERE only_row = 1";
        let found: Result<Option<(i64, String)>, Error> = tables.fetch_optional(meta, ()).await;
        let instance = match found {
            Ok(Some((VERSION, instance))) => instance.parse().ok(),
            Ok(_) => None,
            // There is no such table: said by the database itself, so it is there.
            Err(Error::Database { source, .. }) if source.as_database_error().is_some() => None,
            Err(error) => return Err(error),
        };
        Ok(instance.map(|instance| Self { tables, instance }))
    }

    /// The consumer group that fills these tables, and no others.
    pub fn group(&self) -> String {
        format!("saga-observer-{}", self.instance)
    }

    /// Takes in what was seen of these sagas, in one transaction.
    pub async fn fold(&self, seen: BTreeMap<SagaId, Saga>, cast: &Cast<'_>) -> Result<(), Error> {
        let sagas: Vec<SagaId> = seen.keys().copied().collect();
        let mut tx = self.tables.begin().await?;
        tx.lock(&sagas).await?;
        let mut rows = read(&mut tx, &sagas).await?;
        let mut cells = Vec::with_capacity(seen.len());
        for (id, seen) in seen {
            let mut saga = rows.remove(&id).unwrap_or_default();
            saga.merge(seen);
            cells.push(Cells::of(id, &saga, &cast.view(&saga))?);
        }
        match tx.conn() {
            Conn::Postgres(conn) => write_postgres(conn, &cells).await,
            Conn::Sqlite(conn) => write_sqlite(conn, &cells).await,
        }
        .map_err(database("writing what was observed"))?;
        tx.commit().await
    }

    /// Everything that was seen of one saga; `None` when nothing was.
    pub async fn saga(&self, id: SagaId) -> Result<Option<Saga>, Error> {
        let sql = "SELECT body FROM observer_sagas WHERE saga = $1";
        let row: Option<(String,)> = self.tables.fetch_optional(sql, (id.to_string(),)).await?;
        Ok(row.map(|(body,)| serde_json::from_str(&body)).transpose()?)
    }

    /// The sagas that a filter asks for, the newest first, at most `limit`.
    pub async fn list(&self, filter: &Filter, limit: u32) -> Result<Vec<Listed>, Error> {
        let escaped = filter.text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        self.tables
            .fetch_all(
                "SELECT saga, state, ending, awaited, since, started_at, changed_at, subjects FROM observer_sagas
                 WHERE ($1 = '' OR state = $1) AND ($2 = '' OR ending = $2) AND ($3 = '' OR awaited = $3)
                   AND ($4 = '' OR subjects LIKE '%' || $4 || '%' ESCAPE '\\' OR saga LIKE $4 || '%' ESCAPE '\\')
                   AND ($5 = 0 OR started_at < $5) AND ($6 = '' OR saga < $6)
                 ORDER BY saga DESC LIMIT $7",
                (
                    filter.state.map_or("", State::as_str),
                    filter.ending.map_or("", Ending::as_str),
                    filter.awaited.clone(),
                    escaped,
                    filter.started_before.unwrap_or(0),
                    filter.after.map(|after| after.to_string()).unwrap_or_default(),
                    i64::from(limit),
                ),
            )
            .await
    }

    /// Remembers the manifests beside which sagas are viewed, so that whoever asks these tables sees them in the same way.
    pub async fn remember(&self, manifests: &[Manifest]) -> Result<(), Error> {
        let mut tx = self.tables.begin().await?;
        let mut conn = tx.conn();
        for manifest in manifests {
            conn.execute(
                "INSERT INTO observer_manifests (participant, body) VALUES ($1, $2)
                 ON CONFLICT (participant) DO UPDATE SET body = excluded.body",
                (manifest.participant.clone(), serde_json::to_string(manifest)?),
            )
            .await
            .map_err(database("remembering manifests"))?;
        }
        tx.commit().await
    }

    /// The manifests that were remembered, by participant.
    pub async fn manifests(&self) -> Result<Vec<Manifest>, Error> {
        let sql = "SELECT body FROM observer_manifests ORDER BY participant";
        let rows: Vec<(String,)> = self.tables.fetch_all(sql, ()).await?;
        let mut manifests = Vec::with_capacity(rows.len());
        for (body,) in rows {
            manifests.push(serde_json::from_str(&body)?);
        }
        Ok(manifests)
    }

    /// The sagas that are not stuck and have waited for something since before this time (milliseconds since the Unix epoch), those
    /// that have waited longest first, at most `limit`.
    pub async fn waiting_since(&self, before: i64, limit: u32) -> Result<Vec<Listed>, Error> {
        self.tables
            .fetch_all(
                "SELECT saga, state, ending, awaited, since, started_at, changed_at, subjects FROM observer_sagas
                 WHERE awaited <> '' AND state <> 'stuck' AND since < $1 ORDER BY since LIMIT $2",
                (before, i64::from(limit)),
            )
            .await
    }

    /// How many sagas there are in each state.
    pub async fn counts(&self) -> Result<Vec<(String, i64)>, Error> {
        self.tables.fetch_all("SELECT state, count(*) FROM observer_sagas GROUP BY state ORDER BY state", ()).await
    }

    /// How many sagas wait longest for each `participant/step`, and since when the oldest of them does.
    pub async fn awaited(&self) -> Result<Vec<(String, i64, i64)>, Error> {
        let sql = "SELECT awaited, count(*), min(since) FROM observer_sagas
                   WHERE awaited <> '' GROUP BY awaited ORDER BY awaited";
        self.tables.fetch_all(sql, ()).await
    }
}

/// A row as it is written.
struct Cells {
    saga: String,
    body: String,
    state: &'static str,
    ending: &'static str,
    awaited: String,
    since: i64,
    started_at: i64,
    changed_at: i64,
    subjects: String,
}

impl Cells {
    fn of(id: SagaId, saga: &Saga, view: &View) -> Result<Self, Error> {
        let first = view.waiting.first();
        Ok(Self {
            saga: id.to_string(),
            body: serde_json::to_string(saga)?,
            state: view.state.as_str(),
            ending: view.ending.map_or("", Ending::as_str),
            awaited: first.map(|awaited| format!("{}/{}", awaited.participant, awaited.step)).unwrap_or_default(),
            since: first.and_then(|awaited| awaited.since).unwrap_or(0),
            started_at: view.started_at.unwrap_or(0),
            changed_at: view.changed_at.unwrap_or(0),
            // No text that PostgreSQL refuses.
            subjects: view.subjects.iter().map(|subject| subject.replace('\0', " ")).collect::<Vec<_>>().join("\n"),
        })
    }
}

async fn read(tx: &mut Tx, sagas: &[SagaId]) -> Result<BTreeMap<SagaId, Saga>, Error> {
    let ids: Vec<String> = sagas.iter().map(ToString::to_string).collect();
    let rows: Vec<(String, String)> = match tx.conn() {
        Conn::Postgres(conn) => {
            let sql = "SELECT saga, body FROM unnest($1::text[]) wanted JOIN observer_sagas ON saga = wanted";
            sqlx::query_as(sql).bind(ids).fetch_all(conn).await
        }
        Conn::Sqlite(conn) => {
            let ids = serde_json::to_string(&ids)?;
            let sql = "SELECT saga, body FROM json_each($1) wanted JOIN observer_sagas ON saga = wanted.value";
            sqlx::query_as(sql).bind(ids).fetch_all(conn).await
        }
    }
    .map_err(database("reading what was observed"))?;
    let mut read = BTreeMap::new();
    for (id, body) in rows {
        if let Ok(id) = id.parse() {
            read.insert(id, serde_json::from_str(&body)?);
        }
    }
    Ok(read)
}

/// The same in both dialects, but for where the rows come from.
macro_rules! upsert {
    ($rows:literal) => {
        concat!(
            "INSERT INTO observer_sagas (saga, body, state, ending, awaited, since, started_at, changed_at, subjects) ",
            $rows,
            " ON CONFLICT (saga) DO UPDATE SET body = excluded.body, state = excluded.state, ending = excluded.ending,
            awaited = excluded.awaited, since = excluded.since, started_at = excluded.started_at,
            changed_at = excluded.changed_at, subjects = excluded.subjects"
        )
    };
}

async fn write_postgres(conn: &mut PgConnection, cells: &[Cells]) -> Result<(), sqlx::Error> {
    fn texts(cells: &[Cells], of: impl Fn(&Cells) -> &str) -> Vec<&str> {
        cells.iter().map(of).collect()
    }
    let numbers = |of: fn(&Cells) -> i64| cells.iter().map(of).collect::<Vec<i64>>();
    let sql = upsert!(
        "SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::int8[], $8::int8[],
                              $9::text[])"
    );
    sqlx::query(sql)
        .bind(texts(cells, |cell| &cell.saga))
        .bind(texts(cells, |cell| &cell.body))
        .bind(texts(cells, |cell| cell.state))
        .bind(texts(cells, |cell| cell.ending))
        .bind(texts(cells, |cell| &cell.awaited))
        .bind(numbers(|cell| cell.since))
        .bind(numbers(|cell| cell.started_at))
        .bind(numbers(|cell| cell.changed_at))
        .bind(texts(cells, |cell| &cell.subjects))
        .execute(conn)
        .await?;
    Ok(())
}

async fn write_sqlite(conn: &mut SqliteConnection, cells: &[Cells]) -> Result<(), sqlx::Error> {
    for cell in cells {
        sqlx::query(upsert!("VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"))
            .bind(&cell.saga)
            .bind(&cell.body)
            .bind(cell.state)
            .bind(cell.ending)
            .bind(&cell.awaited)
            .bind(cell.since)
            .bind(cell.started_at)
            .bind(cell.changed_at)
            .bind(&cell.subjects)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

fn database(doing: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |source| Error::Database { doing, source }
}
