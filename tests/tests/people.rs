//! A person at work on the three real participants, in memory.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use saga_core::{
    State,
    discard::{Discard, discard},
    id::SagaId,
    redrive::redrive,
    store::{WorkRow, WorkState},
    timeline::Timeline,
};
use saga_tests::{
    stage::Stage,
    world::{Order, World},
};

/// Everybody takes turns until nobody has anything to do at this time: the clock stands still.
async fn take_turns(stage: &mut Stage) {
    for _ in 0..1_000 {
        let mut busy = false;
        for node in stage.nodes.values_mut() {
            busy |= node.turn().await.unwrap();
        }
        if !busy {
            return;
        }
    }
    panic!("somebody spins");
}

async fn change(stage: &Stage, participant: &str, sql: &'static str) {
    let mut tx = stage.stores[participant].begin().await.unwrap();
    tx.conn().execute(sql, ()).await.unwrap();
    tx.commit().await.unwrap();
}

async fn work(stage: &Stage, participant: &str) -> Vec<WorkRow> {
    stage.stores[participant].work(100).await.unwrap()
}

/// A table is missing, the fault is mended, and nobody waits for the next attempt.
#[tokio::test]
async fn a_mended_fault_is_redriven_and_the_saga_ends_at_once() {
    let mut stage = Stage::new(21).await.unwrap();
    change(&stage, "shipping", "ALTER TABLE shipments RENAME TO lost").await;
    let saga = stage.place(&Order::of_a_book()).await.unwrap();
    take_turns(&mut stage).await;
    let rows = work(&stage, "shipping").await;
    assert_eq!((rows[0].step.as_str(), rows[0].state), ("ship-order", WorkState::Deferred));
    assert!(rows[0].failures[0].error.contains("no such table"), "{:?}", rows[0].failures);

    change(&stage, "shipping", "ALTER TABLE lost RENAME TO shipments").await;
    let redriven = redrive(&stage.stores["shipping"], &stage.clock, &[(rows[0].id, saga)]).await.unwrap();
    assert_eq!(redriven.len(), 1);
    let before = stage.clock.now();
    take_turns(&mut stage).await;
    assert_eq!(stage.clock.now(), before);
    let timeline = Timeline::of(saga, stage.events());
    assert!(timeline.ending().is_some(), "{timeline}");
    assert_eq!(stage.totals().await.unwrap().disagreement(), None);
}

/// Somebody published a payment that makes no sense, and then the right one. The first is discarded, the second goes on, and the
/// nonsense does not come back when everything is delivered again.
#[tokio::test]
async fn nonsense_is_discarded_and_what_waited_behind_it_goes_on() {
    let mut stage = Stage::new(22).await.unwrap();
    let saga = SagaId::mint(&stage.clock);
    let key = saga.to_string();
    for (id, body) in
        [("e1", r#"{"order":4711}"#), ("e2", r#"{"order":"4711","item":"book","quantity":1,"cents":5,"receipt":"r1"}"#)]
    {
        let headers: [(&str, &[u8]); 5] = [
            ("ce_specversion", b"1.0"),
            ("ce_type", b"shop.payment.charged.v1"),
            ("ce_id", id.as_bytes()),
            ("ce_source", b"/somebody"),
            ("ce_sagaid", key.as_bytes()),
        ];
        assert!(stage.broker.inject("payment", Some(key.as_bytes()), &headers, body.as_bytes()));
    }
    take_turns(&mut stage).await;
    let rows = work(&stage, "shipping").await;
    assert_eq!(rows.iter().map(|row| row.state).collect::<Vec<_>>(), [WorkState::Stuck, WorkState::Parked]);

    let (reaction, reason, who) = (rows[0].id, "nonsense", "ada");
    let what = Discard { reaction, reason, who, taken_back: false, dry_run: false };
    discard(&stage.stores["shipping"], &stage.clock, "shipping", &what).await.unwrap();
    take_turns(&mut stage).await;
    stage.redeliver(2).await.unwrap();
    assert_eq!(work(&stage, "shipping").await, []);
    let ledger = stage.stores["shipping"].ledger(saga).await.unwrap();
    assert_eq!((ledger[0].state, ledger[0].trigger.0.as_str()), (State::Done, "e2"));
    assert_eq!(ledger[0].notes[0].reason, "nonsense");
    assert_eq!(stage.count("shipping", "SELECT count(*) FROM shipments").await.unwrap(), 1);
    assert!(Timeline::of(saga, stage.events()).ending().is_some());
}
