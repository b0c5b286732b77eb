//! A database that is away when a participant starts is waited for, as one that goes away later.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{str::FromStr as _, time::Duration};

use anyhow::Result;
use saga_core::{node::Node, store::Store, transport::memory::MemoryBroker};
use saga_services::{order, service};
use saga_tests::{
    chaos::proxy::{Dialect, Proxy},
    processes::wait_for,
    stage::TOPICS,
    support::require_postgres,
};
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_participant_waits_for_a_database_that_is_away_when_it_starts() -> Result<()> {
    let Some(postgres) = require_postgres() else { return Ok(()) };
    let options = PgConnectOptions::from_str(&postgres.database("away").await?)?;
    let upstream = tokio::net::lookup_host((options.get_host(), options.get_port())).await?.next().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let proxy = Proxy::start(listener, upstream, Dialect::Postgres);
    let url = options.host("127.0.0.1").port(at.port()).to_url_lossy().to_string();
    let store = Store::connect(&url, "order").await?;
    store.migrate().await?;
    service::create_tables(&store, order::SCHEMA).await?;

    drop(proxy); // nobody listens there any more
    let broker = MemoryBroker::new(&TOPICS.map(|topic| (topic, 1)));
    let cast = order::participant();
    let source = broker.source("order", &cast.listens_to());
    let node = Node::new(cast, store, source, broker.sink())?;
    let (health, stop) = (node.health(), CancellationToken::new());
    let mut playing = JoinSet::new();
    playing.spawn(node.run(stop.clone().cancelled_owned()));
    let asked = health.clone();
    wait_for("the participant to notice", Duration::from_secs(30), async || {
        Ok(asked.ready().await.err().filter(|why| why.contains("the database")).map(drop))
    })
    .await?;

    let _proxy = Proxy::start(TcpListener::bind(at).await?, upstream, Dialect::Postgres);
    wait_for("the participant to be ready", Duration::from_secs(30), async || Ok(health.ready().await.ok())).await?;
    stop.cancel();
    Ok(playing.join_next().await.unwrap()??)
}
