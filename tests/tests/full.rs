//! A PostgreSQL that cannot do its work, whoever asks: no room, no memory, on its way down, a replica. Its own error codes, raised where
//! a step writes and where the toolkit does. (`saga-core/tests/full.rs` fills a real SQLite.)
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

#[path = "../../saga-core/tests/toy/mod.rs"]
mod toy;

use std::time::Duration;

use anyhow::Result;
use saga_core::{Error, Event as _, State, store::Store};
use saga_tests::{processes::wait_for, support::require_postgres};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use toy::*;

/// What the server says then, and whether it is about the server.
const CODES: [(&str, bool); 9] = [
    ("53100", true),  // disk_full
    ("53200", true),  // out_of_memory
    ("53300", true),  // too_many_connections
    ("57P01", true),  // admin_shutdown
    ("57P02", true),  // crash_shutdown
    ("57P03", true),  // cannot_connect_now
    ("25006", true),  // read_only_sql_transaction
    ("58030", true),  // io_error
    ("P0001", false), // raise_exception: somebody's trigger refuses this row
];

/// From now on writing to this table fails so.
async fn fail(url: &str, table: &str, code: &str) -> Result<()> {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'it cannot be done' USING ERRCODE = '{code}'; END $$; \
         CREATE TRIGGER fails BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION fails()"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut PgConnection::connect(url).await?).await?;
    Ok(())
}

async fn mend(url: &str, table: &str) -> Result<()> {
    let sql = AssertSqlSafe(format!("DROP TRIGGER fails ON {table}"));
    sqlx::raw_sql(sql).execute(&mut PgConnection::connect(url).await?).await?;
    Ok(())
}

#[tokio::test]
async fn what_the_server_cannot_do_is_nobodys_attempt() -> Result<()> {
    let Some(postgres) = require_postgres() else { return Ok(()) };
    let url = postgres.database("full").await?;
    let mut toy = Toy::on(&url, []).await;
    for table in ["effects", "toy_ledger"] {
        for (code, about_the_server) in CODES {
            let sagas = [toy.saga(), toy.saga(), toy.saga()];
            fail(&url, table, code).await?;
            for saga in sagas {
                toy.send(saga, Asked::TYPE, &format!("{code} {saga}"));
            }
            let turned = toy.node.turn().await;
            let waiting = toy.store.work(10).await?;
            // What the ledger's own table refuses is no step's failure, whatever it is called.
            if about_the_server || table == "toy_ledger" {
                assert!(matches!(turned, Err(Error::Database { .. })), "{table} {code}: {turned:?}");
                assert_eq!(waiting, [], "{table} {code}: nobody failed, nobody is stuck");
            } else {
                assert!(turned?, "{table} {code}");
                assert_eq!(waiting.len(), 3, "{table} {code}: a step that fails is a step that fails");
            }
            mend(&url, table).await?;
            toy.settle().await;
            toy.later(3_600).await;
            for saga in sagas {
                assert_eq!(toy.effects(saga).await, 1, "{table} {code}");
                assert_eq!(toy.state(saga, "do").await, Some(State::Done), "{table} {code}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_full_disk_pauses_consumption_and_readiness_says_why() -> Result<()> {
    let Some(postgres) = require_postgres() else { return Ok(()) };
    let url = postgres.database("full").await?;
    let toy = Toy::on(&url, []).await;
    let saga = toy.saga();
    fail(&url, "effects", "53100").await?;
    toy.send(saga, Asked::TYPE, "a1");
    let Toy { node, broker, .. } = toy;
    let (health, stop) = (node.health(), CancellationToken::new());
    let mut playing = JoinSet::new();
    playing.spawn(node.run(stop.clone().cancelled_owned()));
    let asked = health.clone();
    wait_for("readiness to say why", Duration::from_secs(30), async || {
        let why = asked.ready().await.err();
        Ok(why.filter(|why| why.contains("running a step") && why.contains("it cannot be done")))
    })
    .await?;
    let consumed = || (0..3).map(|partition| broker.committed("toy", "toy", partition)).sum::<i64>();
    assert_eq!(consumed(), 0);
    mend(&url, "effects").await?;
    wait_for("the participant to go on", Duration::from_secs(30), async || {
        // What it was asked for, and its own two events.
        Ok(health.ready().await.ok().filter(|()| consumed() == 3))
    })
    .await?;
    let store = Store::connect(&url, "toy").await?;
    let attempts: Vec<_> = store.ledger(saga).await?.iter().map(|row| row.attempts).collect();
    assert_eq!(attempts, [1, 1], "no attempt was counted");
    stop.cancel();
    Ok(playing.join_next().await.unwrap()??)
}
