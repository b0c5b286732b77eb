//! A database without room: nothing is consumed, nobody's attempt is counted, and it goes on by itself when there is room.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]
#![allow(clippy::disallowed_methods, reason = "each test awaits what it spawns")]

mod toy;

use std::{pin::pin, time::Duration};

use saga_core::{
    Event as _,
    envelope::Message,
    node::Health,
    store::{Changes, Conn, OutboxRow, Store},
    transport::memory::MemoryBroker,
};
use sqlx::AssertSqlSafe;
use toy::*;
use uuid::Uuid;

/// How long something that must come may take.
const SOON: Duration = Duration::from_secs(20);

/// SQLite refuses to grow the file beyond so many pages; `None` gives the room back.
async fn leave_pages(store: &Store, room: Option<i64>) {
    let mut tx = store.begin().await.unwrap();
    let pages = match room {
        Some(room) => {
            let used: (i64,) = tx.conn().fetch_optional("PRAGMA page_count", ()).await.unwrap().unwrap();
            used.0 + room
        }
        None => 1_000_000,
    };
    let Conn::Sqlite(conn) = tx.conn() else { panic!("these tests are about SQLite") };
    let set = AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
    let now: i64 = sqlx::query_scalar(set).fetch_one(conn).await.unwrap();
    assert_eq!(now, pages);
    tx.commit().await.unwrap();
}

/// Fills what is left of the pages that are there already.
async fn fill(store: &Store) {
    loop {
        let mut tx = store.begin().await.unwrap();
        let filled = tx.conn().execute("INSERT INTO effects (saga, step) VALUES ('filler', 'filler')", ()).await;
        match filled {
            Ok(_) => tx.commit().await.unwrap(),
            Err(full) => return assert_full(&full.to_string()),
        }
    }
}

/// Messages of the toy's topic that its group is done with.
fn consumed(broker: &MemoryBroker) -> i64 {
    (0..3).map(|partition| broker.committed("toy", "toy", partition)).sum()
}

fn assert_full(text: &str) {
    assert!(text.contains("full"), "{text}");
}

async fn not_ready(health: &Health) -> String {
    loop {
        match health.ready().await {
            Err(why) if why.contains("full") => return why,
            _ => tokio::task::yield_now().await,
        }
    }
}

/// The step's own table has no room: its own statement notices first.
#[tokio::test]
async fn a_full_disk_pauses_consumption_and_is_nobodys_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let toy = Toy::on(&format!("sqlite:{}", dir.path().join("toy.db").display()), []).await;
    // A statement that may abort is rolled back by itself, and the transaction goes on.
    let aborts =
        "CREATE TRIGGER aborts BEFORE INSERT ON effects WHEN NEW.step = '' BEGIN SELECT RAISE(ABORT, 'empty'); END";
    let mut tx = toy.store.begin().await.unwrap();
    tx.conn().execute(aborts, ()).await.unwrap();
    tx.commit().await.unwrap();
    leave_pages(&toy.store, Some(0)).await;
    fill(&toy.store).await;
    let sagas: Vec<_> = (0..20).map(|_| toy.saga()).collect();
    for (i, saga) in sagas.iter().enumerate() {
        toy.send(*saga, Asked::TYPE, &format!("a{i}"));
    }
    let Toy { node, store, script, broker, .. } = toy;
    let health = node.health();
    let (stop, told) = tokio::sync::oneshot::channel::<()>();
    let mut running = pin!(node.run(async { drop(told.await) }));
    let play = async {
        let why = not_ready(&health).await;
        assert!(why.contains("running a step") && why.contains("database or disk is full"), "{why}");
        assert_eq!(consumed(&broker), 0, "nothing is settled, and so nothing is consumed");
        assert_eq!(store.work(10).await.unwrap(), [], "nobody failed, nobody is stuck");

        leave_pages(&store, None).await;
        while health.ready().await.is_err() || consumed(&broker) < 3 * 20 {
            tokio::task::yield_now().await;
        }
        stop.send(()).unwrap();
    };
    tokio::time::timeout(SOON, async { tokio::join!(&mut running, play).0.unwrap() })
        .await
        .expect("it did not recover");
    for saga in &sagas {
        let rows = store.ledger(*saga).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.attempts).collect::<Vec<_>>(), [1, 1], "no attempt was counted: {rows:?}");
    }
    let runs = script.seen().len();
    assert_eq!(runs, sagas.len(), "each step got to its end once");
}

/// Without such a trigger SQLite rolls back the whole transaction (<https://www.sqlite.org/lang_transaction.html>, section 3.1). What a
/// step that swallowed the error wrote after it would be committed, and what it wrote before it would not.
#[tokio::test]
async fn nothing_is_committed_after_a_rollback_that_a_step_did_not_notice() {
    let dir = tempfile::tempdir().unwrap();
    let mut toy = Toy::on(&format!("sqlite:{}", dir.path().join("toy.db").display()), []).await;
    for writes_the_ledger in [false, true] {
        leave_pages(&toy.store, Some(0)).await;
        let saga = toy.saga();
        let insert = "INSERT INTO effects (saga, step) VALUES ($1, $2)";
        let mut tx = toy.store.begin().await.unwrap();
        tx.conn().execute(insert, (saga.to_string(), "before")).await.unwrap();
        let large = "x".repeat(1_000_000);
        let full = tx.conn().execute(insert, (saga.to_string(), large)).await;
        assert_full(&full.unwrap_err().to_string());
        // Others read meanwhile, over other connections: theirs is another transaction.
        toy.store.ledger(saga).await.unwrap();
        if writes_the_ledger {
            let outbox = vec![OutboxRow { id: Uuid::from_u128(1), message: message(), created_at: 0 }];
            tx.write(&Changes { outbox, ..Changes::default() }).await.unwrap_err();
        } else {
            tx.conn().execute(insert, (saga.to_string(), "after")).await.unwrap_err();
        }
        tx.commit().await.unwrap_err();
        assert_eq!(toy.effects(saga).await, 0);
        assert_eq!(toy.store.outbox_len().await.unwrap(), 0);
    }
    // And the store goes on.
    let saga = toy.saga();
    toy.send(saga, Asked::TYPE, "a1");
    toy.settle().await;
    assert_eq!(toy.effects(saga).await, 1);
}

fn message() -> Message {
    Message { topic: "toy".to_owned(), key: "k".to_owned(), headers: Vec::new(), body: Vec::new() }
}
