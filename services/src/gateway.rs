//! The other system: a small payment gateway with a record of its own.
//!
//! The invariant: a key takes effect once at most, and a voided key never does, however often and late its requests arrive.
//! Its faults are options, because what a saga must survive is a gateway that is slow, fails, loses its answers, or
//! forgets its refusals.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use serde::Serialize;
use sqlx::{
    ConnectOptions as _, Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use crate::problem::{self, Input, Problem, idempotency_key};

mod client;
#[cfg(feature = "harness")]
pub use client::Line;
pub use client::{Charge, ChargeAnswer, GatewayClient, GatewayError};
use client::{Refund, Refunded, Void, Voided};

/// How the gateway behaves.
#[derive(Debug, Clone, clap::Args)]
pub struct Behaviour {
    /// Decline charges of more cents than this.
    #[arg(long, env = "GATEWAY_LIMIT_CENTS", default_value_t = 100_000)]
    pub limit_cents: i64,
    /// Take this long before a request takes effect.
    #[arg(long, env = "GATEWAY_SLOW_MS", default_value_t = 0)]
    pub slow_ms: u64,
    /// Fail every N-th request before it takes effect; 0 is never.
    #[arg(long, env = "GATEWAY_FAIL_EVERY", default_value_t = 0, value_name = "N")]
    pub fail_every: u64,
    /// Let every N-th request take effect and then fail; 0 is never.
    #[arg(long, env = "GATEWAY_LOSE_EVERY", default_value_t = 0, value_name = "N")]
    pub lose_every: u64,
    /// Keep no memory of refusals: the same key is judged again when it comes again.
    #[arg(long, env = "GATEWAY_FORGET_REFUSALS")]
    pub forget_refusals: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { limit_cents: 100_000, slow_ms: 0, fail_every: 0, lose_every: 0, forget_refusals: false }
    }
}

/// A gateway and its record. Cheap to clone; clones share the record.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    behaviour: Behaviour,
    record: Mutex<SqliteConnection>,
    requests: AtomicU64,
    /// Requests go on when their caller hangs up, as they do in a real gateway.
    travelling: TaskTracker,
}

const TABLES: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS charges (key TEXT PRIMARY KEY, order_id TEXT NOT NULL, customer TEXT NOT NULL,
        cents BIGINT NOT NULL, receipt TEXT UNIQUE, reason TEXT)",
    "CREATE TABLE IF NOT EXISTS refunds (key TEXT PRIMARY KEY, charge TEXT NOT NULL UNIQUE, receipt TEXT NOT NULL,
        cents BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS voids (key TEXT PRIMARY KEY, receipt TEXT)",
];

/// A charge as the record holds it: accepted with a receipt, or declined with a reason.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct ChargeRow {
    key: String,
    order_id: String,
    customer: String,
    cents: i64,
    receipt: Option<String>,
    reason: Option<String>,
}

impl ChargeRow {
    fn answer(self) -> ChargeAnswer {
        match self.receipt {
            Some(receipt) => ChargeAnswer::Accepted { receipt },
            None => ChargeAnswer::Declined { reason: self.reason.unwrap_or_default() },
        }
    }
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct RefundRow {
    key: String,
    charge: String,
    receipt: String,
    cents: i64,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct VoidRow {
    key: String,
    receipt: Option<String>,
}

#[derive(Debug, Serialize)]
struct RecordShown {
    charges: Vec<ChargeRow>,
    refunds: Vec<RefundRow>,
    voids: Vec<VoidRow>,
    totals: Totals,
}

/// In cents.
#[derive(Debug, Serialize)]
struct Totals {
    charged: i64,
    refunded: i64,
    kept: i64,
}

impl Gateway {
    /// Opens the record, `sqlite:FILE` or `sqlite::memory:`.
    pub async fn open(url: &str, behaviour: Behaviour) -> anyhow::Result<Self> {
        let options: SqliteConnectOptions = url.parse().context("the record is no sqlite: URL")?;
        let options = options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let mut record = options.connect().await.context("the record cannot be opened")?;
        for table in TABLES {
            sqlx::query(table).execute(&mut record).await.context("the record's tables cannot be created")?;
        }
        Ok(Self(Arc::new(Shared {
            behaviour,
            record: Mutex::new(record),
            requests: AtomicU64::new(0),
            travelling: TaskTracker::new(),
        })))
    }

    /// Its routes.
    pub fn routes(self) -> Router {
        let routes = Router::new()
            .route("/charges", post(charge))
            .route("/refunds", post(refund))
            .route("/voids", post(void))
            .route("/record", get(record))
            .route("/health", get(async || "ok"))
            .route("/ready", get(async || "ok"));
        problem::complete(routes.with_state(self))
    }

    /// Waits for the requests that go on without their callers.
    pub async fn close(&self) {
        self.0.travelling.close();
        self.0.travelling.wait().await;
    }

    /// What a request does when it arrives, without HTTP and without faults, which whoever brings it has in their hands. `Err`
    /// is what the gateway says instead of an answer.
    #[cfg(feature = "harness")]
    pub async fn serve(&self, path: &str, key: Option<String>, body: &[u8]) -> Result<Vec<u8>, String> {
        let said = |failure: Failure| format!("{failure:?}");
        let text = |error: serde_json::Error| error.to_string();
        let key = key.unwrap_or_default();
        match path {
            "charges" => {
                let charge = serde_json::from_slice(body).map_err(text)?;
                serde_json::to_vec(&self.clone().charge(key, charge).await.map_err(said)?).map_err(text)
            }
            "refunds" => {
                let refund = serde_json::from_slice(body).map_err(text)?;
                serde_json::to_vec(&self.clone().refund(key, refund).await.map_err(said)?).map_err(text)
            }
            "voids" => {
                let void = serde_json::from_slice(body).map_err(text)?;
                serde_json::to_vec(&self.clone().void(void).await.map_err(said)?).map_err(text)
            }
            other => Err(format!("there is nothing at {other}")),
        }
    }

    /// What `/record` shows.
    #[cfg(feature = "harness")]
    pub async fn shown(&self) -> anyhow::Result<serde_json::Value> {
        let record = self.record().await.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        Ok(serde_json::to_value(record)?)
    }

    /// Lets `work` take effect, with the faults that are asked for, whether or not the caller still listens.
    async fn effect<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<Json<T>, Problem> {
        let Behaviour { slow_ms, fail_every, lose_every, .. } = self.0.behaviour;
        let number = self.0.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let every = move |n: u64| n > 0 && number.is_multiple_of(n);
        let travelling = self.0.travelling.spawn(async move {
            tokio::time::sleep(Duration::from_millis(slow_ms)).await;
            if every(fail_every) {
                return Err(injected("this request failed before it took effect"));
            }
            let answer = work.await.map_err(Failure::problem)?;
            if every(lose_every) {
                Err(injected("this request took effect, but its answer is lost"))
            } else {
                Ok(answer)
            }
        });
        travelling.await.map_err(|_| injected("the request was aborted"))?.map(Json)
    }

    async fn charge(self, key: String, charge: Charge) -> Result<ChargeAnswer, Failure> {
        let mut record = self.0.record.lock().await;
        let mut tx = record.begin_with("BEGIN IMMEDIATE").await?;
        let voided = sqlx::query_as::<_, VoidRow>("SELECT key, receipt FROM voids WHERE key = $1").bind(&key);
        if voided.fetch_optional(&mut *tx).await?.is_some() {
            return Ok(ChargeAnswer::Declined { reason: "voided".to_owned() });
        }
        let seen = "SELECT key, order_id, customer, cents, receipt, reason FROM charges WHERE key = $1";
        let seen = sqlx::query_as::<_, ChargeRow>(seen).bind(&key).fetch_optional(&mut *tx).await?;
        let asked_before = seen.is_some();
        if let Some(row) = seen {
            if (&row.order_id, &row.customer, row.cents) != (&charge.order, &charge.customer, charge.cents) {
                return Err(Failure::Refused(StatusCode::CONFLICT, "the key was used before, for another charge"));
            }
            if row.receipt.is_some() || !self.0.behaviour.forget_refusals {
                return Ok(row.answer());
            }
        }
        let reason = self.refusal(&charge, asked_before).map(str::to_owned);
        // One key, one charge: the receipt needs no other name.
        let receipt = reason.is_none().then(|| format!("charge-{key}"));
        let Charge { order: order_id, customer, cents } = charge;
        sqlx::query(
            "INSERT INTO charges (key, order_id, customer, cents, receipt, reason) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (key) DO UPDATE SET receipt = excluded.receipt, reason = excluded.reason",
        )
        .bind(&key)
        .bind(&order_id)
        .bind(&customer)
        .bind(cents)
        .bind(&receipt)
        .bind(&reason)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(ChargeRow { key, order_id, customer, cents, receipt, reason }.answer())
    }

    fn refusal(&self, charge: &Charge, asked_before: bool) -> Option<&'static str> {
        if charge.cents < 1 {
            Some("not an amount")
        } else if charge.cents > self.0.behaviour.limit_cents {
            Some("over the limit")
        } else if charge.customer.starts_with("declined-once") {
            // Seen only by a gateway that forgets its refusals: a no that would have become a yes.
            (!asked_before).then_some("card declined, this once")
        } else {
            charge.customer.starts_with("declined").then_some("card declined")
        }
    }

    async fn refund(self, key: String, refund: Refund) -> Result<Refunded, Failure> {
        let mut record = self.0.record.lock().await;
        let mut tx = record.begin_with("BEGIN IMMEDIATE").await?;
        let done = "SELECT key, charge, receipt, cents FROM refunds WHERE key = $1 OR charge = $2";
        let done = sqlx::query_as::<_, RefundRow>(done).bind(&key).bind(&refund.receipt);
        if let Some(row) = done.fetch_optional(&mut *tx).await? {
            if row.key != key || row.charge != refund.receipt {
                return Err(Failure::Refused(StatusCode::CONFLICT, "the key or the receipt was used before"));
            }
            return Ok(Refunded { receipt: row.receipt });
        }
        let charged = "SELECT key, order_id, customer, cents, receipt, reason FROM charges WHERE receipt = $1";
        let charged = sqlx::query_as::<_, ChargeRow>(charged).bind(&refund.receipt).fetch_optional(&mut *tx).await?;
        let Some(row) = charged else {
            return Err(Failure::Refused(StatusCode::NOT_FOUND, "there is no such receipt"));
        };
        let receipt = give_back(&mut tx, &key, &refund.receipt, row.cents).await?;
        tx.commit().await?;
        Ok(Refunded { receipt })
    }

    async fn void(self, void: Void) -> Result<Voided, Failure> {
        let Void { key } = void;
        let mut record = self.0.record.lock().await;
        let mut tx = record.begin_with("BEGIN IMMEDIATE").await?;
        let done = sqlx::query_as::<_, VoidRow>("SELECT key, receipt FROM voids WHERE key = $1").bind(&key);
        if let Some(row) = done.fetch_optional(&mut *tx).await? {
            return Ok(Voided { receipt: row.receipt });
        }
        let charged = "SELECT c.key, order_id, customer, c.cents, c.receipt, reason FROM charges c
            LEFT JOIN refunds r ON r.charge = c.receipt WHERE c.key = $1 AND c.receipt IS NOT NULL AND r.key IS NULL";
        let charged = sqlx::query_as::<_, ChargeRow>(charged).bind(&key).fetch_optional(&mut *tx).await?;
        let receipt = match charged {
            Some(ChargeRow { receipt: Some(charge), cents, .. }) => {
                Some(give_back(&mut tx, &format!("void-{key}"), &charge, cents).await?)
            }
            _ => None,
        };
        let insert = sqlx::query("INSERT INTO voids (key, receipt) VALUES ($1, $2)").bind(&key).bind(&receipt);
        insert.execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(Voided { receipt })
    }

    async fn record(&self) -> Result<RecordShown, Failure> {
        let mut record = self.0.record.lock().await;
        let mut tx = record.begin().await?;
        let charges: Vec<ChargeRow> =
            sqlx::query_as("SELECT key, order_id, customer, cents, receipt, reason FROM charges ORDER BY rowid")
                .fetch_all(&mut *tx)
                .await?;
        let refunds: Vec<RefundRow> = sqlx::query_as("SELECT key, charge, receipt, cents FROM refunds ORDER BY rowid")
            .fetch_all(&mut *tx)
            .await?;
        let voids = sqlx::query_as("SELECT key, receipt FROM voids ORDER BY rowid").fetch_all(&mut *tx).await?;
        let sum = |mut cents: Box<dyn Iterator<Item = i64> + '_>| cents.try_fold(0_i64, i64::checked_add);
        let charged = sum(Box::new(charges.iter().filter(|row| row.receipt.is_some()).map(|row| row.cents)));
        let refunded = sum(Box::new(refunds.iter().map(|row| row.cents)));
        let totals = charged
            .zip(refunded)
            .and_then(|(charged, refunded)| Some(Totals { charged, refunded, kept: charged.checked_sub(refunded)? }));
        let overflow = Failure::Refused(StatusCode::INTERNAL_SERVER_ERROR, "the totals are more than can be told");
        Ok(RecordShown { charges, refunds, voids, totals: totals.ok_or(overflow)? })
    }
}

/// Records a refund and returns its receipt.
async fn give_back(tx: &mut SqliteConnection, key: &str, charge: &str, cents: i64) -> Result<String, Failure> {
    let receipt = format!("refund-{key}");
    sqlx::query("INSERT INTO refunds (key, charge, receipt, cents) VALUES ($1, $2, $3, $4)")
        .bind(key)
        .bind(charge)
        .bind(&receipt)
        .bind(cents)
        .execute(tx)
        .await?;
    Ok(receipt)
}

async fn charge(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Input(charge): Input<Charge>,
) -> Result<Json<ChargeAnswer>, Problem> {
    let key = idempotency_key(&headers)?.to_owned();
    gateway.effect(gateway.clone().charge(key, charge)).await
}

async fn refund(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Input(refund): Input<Refund>,
) -> Result<Json<Refunded>, Problem> {
    let key = idempotency_key(&headers)?.to_owned();
    gateway.effect(gateway.clone().refund(key, refund)).await
}

async fn void(State(gateway): State<Gateway>, Input(void): Input<Void>) -> Result<Json<Voided>, Problem> {
    gateway.effect(gateway.clone().void(void)).await
}

async fn record(State(gateway): State<Gateway>) -> Result<Json<RecordShown>, Problem> {
    gateway.record().await.map(Json).map_err(Failure::problem)
}

/// Why a request got no answer.
#[derive(Debug)]
enum Failure {
    Refused(StatusCode, &'static str),
    Record(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Record(error)
    }
}

impl Failure {
    fn problem(self) -> Problem {
        match self {
            Self::Refused(status, detail) => Problem::new(status, detail),
            Self::Record(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the gateway's record failed");
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the record cannot be used at the moment")
            }
        }
    }
}

fn injected(detail: &str) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
}
