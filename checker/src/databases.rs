//! The three databases, by plain SQL.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use sqlx::{AssertSqlSafe, Connection as _, FromRow, PgConnection, postgres::PgRow};

use crate::observed::{Observed, Tables};

/// Reads all tables of the participants, whose databases are named by URL, into `observed`.
pub async fn read(databases: &BTreeMap<String, String>, observed: &mut Observed) -> Result<()> {
    for (name, url) in databases {
        let mut database = connect(name, url).await?;
        match name.as_str() {
            "order" => {
                observed.orders =
                    all(&mut database, "SELECT id, saga, item, quantity, cents, state FROM orders").await?;
            }
            "payment" => {
                observed.payments =
                    all(&mut database, "SELECT order_id, saga, cents, receipt, state FROM payments").await?;
            }
            "shipping" => {
                observed.shipments = all(&mut database, "SELECT order_id, saga, item, quantity FROM shipments").await?;
                observed.stock = all(&mut database, "SELECT item, free, initial FROM stock").await?;
            }
            other => anyhow::bail!("expected order, payment or shipping, got {other}"),
        }
        let ledger = "SELECT saga::text, step, state, trigger_id, record_type, record_body, rejecting, ending FROM";
        let tables = Tables {
            ledger: all(&mut database, &format!("{ledger} {name}_ledger")).await?,
            outbox: all(&mut database, &format!("SELECT key, topic, refused FROM {name}_outbox")).await?,
            work: all(&mut database, &format!("SELECT saga::text, step, direction, state, reason FROM {name}_work"))
                .await?,
        };
        observed.participants.insert(name.clone(), tables);
        database.close().await?;
    }
    Ok(())
}

/// A connection; the error names the participant and not the URL, which holds a password.
pub async fn connect(name: &str, url: &str) -> Result<PgConnection> {
    PgConnection::connect(url).await.with_context(|| format!("the database of {name} does not answer"))
}

async fn all<T>(database: &mut PgConnection, sql: &str) -> Result<Vec<T>>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_all(database).await.with_context(|| sql.to_owned())
}
