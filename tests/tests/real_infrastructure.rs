//! The servers that `cargo xtask test` starts are there, and a test gets a database of its own.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use saga_tests::support::{require_kafka, require_postgres};
use sqlx::{Connection, PgConnection};
use tokio::net::TcpStream;

#[tokio::test]
async fn kafka_accepts_connections() -> anyhow::Result<()> {
    let Some(kafka) = require_kafka() else {
        return Ok(());
    };
    TcpStream::connect(kafka.address()).await?;
    Ok(())
}

/// Many at a time, as the tests of one run ask for them.
#[tokio::test]
async fn postgres_gives_every_test_an_empty_database_of_its_own() -> anyhow::Result<()> {
    let Some(postgres) = require_postgres() else {
        return Ok(());
    };
    let urls = try_join_all((0..12).map(|_| postgres.database("orders"))).await?;
    assert_eq!(urls.iter().collect::<BTreeSet<_>>().len(), urls.len());
    for url in urls {
        let mut connection = PgConnection::connect(&url).await?;
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            .fetch_one(&mut connection)
            .await?;
        assert_eq!(tables, 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_database_name_is_not_a_way_into_sql() -> anyhow::Result<()> {
    let Some(postgres) = require_postgres() else {
        return Ok(());
    };
    let refused = postgres.database("orders; DROP DATABASE postgres").await;
    assert!(refused.is_err());
    Ok(())
}
