//! Ring 2: the three real participants in memory. Most of what can go wrong is shown here, where a second attempt costs no time.

use saga_core::{State, id::SagaId, timeline::Timeline, transport::memory::MemoryBroker};
use saga_services::gateway::Behaviour;
use saga_tests::{
    processes::{BYTES_OF_A_SAGA, partitions_for},
    scenario,
    stage::{Stage, TOPICS},
    world::{Order, World},
};
use uuid::Uuid;

#[tokio::test]
async fn a_paid_order_is_shipped_and_completed() {
    scenario::a_paid_order_is_shipped_and_completed(&mut Stage::new(1).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_declined_payment_cancels_the_order() {
    scenario::a_declined_payment_cancels_the_order(&mut Stage::new(2).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_failed_shipment_refunds_the_customer() {
    scenario::a_failed_shipment_refunds_the_customer(&mut Stage::new(3).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_repeated_delivery_changes_nothing() {
    scenario::a_repeated_delivery_changes_nothing(&mut Stage::new(4).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_consumer_that_was_down_catches_up() {
    scenario::a_consumer_that_was_down_catches_up(&mut Stage::new(5).await.unwrap(), 1_000).await.unwrap();
}

/// The gateway fails, or does what it was asked and then fails: calls are repeated under their key, and a no after an attempt of
/// unknown outcome closes the key before it is believed. Nobody is charged twice.
#[tokio::test]
async fn a_gateway_that_loses_answers_charges_nobody_twice() {
    let faults = [
        Behaviour { fail_every: 2, ..Behaviour::default() },
        Behaviour { lose_every: 2, ..Behaviour::default() },
        Behaviour { fail_every: 3, lose_every: 2, forget_refusals: true, ..Behaviour::default() },
    ];
    for (seed, behaviour) in faults.into_iter().enumerate() {
        let mut stage = Stage::with_gateway(seed as u64, behaviour.clone()).await.unwrap();
        for i in 0..30 {
            let order = match i % 3 {
                0 => Order::of_a_book(),
                1 => Order::by_a_declined_customer(),
                _ => Order::of_a_sold_out_lamp(),
            };
            stage.place(&order).await.unwrap();
        }
        let totals = stage.totals().await.unwrap();
        assert_eq!(totals.disagreement(), None, "{behaviour:?}");
        assert_eq!((totals.completed, totals.cancelled), (10, 20), "{behaviour:?}");
    }
}

#[tokio::test]
async fn whatever_is_on_the_topic_the_next_event_is_settled() {
    scenario::whatever_is_on_the_topic_the_next_event_is_settled(&mut Stage::new(6).await.unwrap()).await.unwrap();
}

/// The compensation overtakes its forward: it says that nothing was done, and the forward finds the door closed.
#[tokio::test]
async fn a_compensation_that_comes_first_is_remembered() {
    let mut stage = Stage::new(7).await.unwrap();
    let saga = SagaId(Uuid::now_v7());
    let append = |stage: &Stage, topic: &str, event_type: &str, body: &str| {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let headers = vec![
            header("ce_specversion", "1.0"),
            header("ce_type", event_type),
            header("ce_id", event_type),
            header("ce_source", "/somebody"),
            header("ce_sagaid", &saga.to_string()),
        ];
        append(&stage.broker, topic, Some(saga.to_string().into_bytes()), headers, body.into());
    };
    append(&stage, "shipping", "shop.shipment.failed.v1", r#"{"order":"4711","reason":"flooded"}"#);
    stage.settle().await.unwrap();
    append(
        &stage,
        "order",
        "shop.order.placed.v1",
        r#"{"order":"4711","customer":"ada","item":"book","quantity":1,"cents":5}"#,
    );
    stage.settle().await.unwrap();

    let totals = stage.totals().await.unwrap();
    assert_eq!((totals.charged, totals.gateway_charges, totals.shipped), (0, 0, 0), "{totals:?}");
    let ledger = stage.stores["payment"].ledger(saga).await.unwrap();
    assert_eq!(ledger.iter().map(|row| row.state).collect::<Vec<_>>(), [State::Void]);
    let timeline = Timeline::of(saga, stage.events()).to_string();
    assert!(timeline.contains("PaymentRefunded  nothing done"), "{timeline}");
}

/// The embedded broker drops what is beyond 5 MiB of a partition, so whoever sizes it must know what a saga takes.
#[tokio::test]
async fn the_events_of_a_saga_take_no_more_room_than_the_embedded_broker_is_sized_for() {
    let mut stage = Stage::new(8).await.unwrap();
    let placed = [Order::of_a_book(), Order::by_a_declined_customer(), Order::of_a_sold_out_lamp()];
    for order in &placed {
        stage.place(order).await.unwrap();
    }
    stage.totals().await.unwrap();
    for topic in TOPICS {
        let bytes: usize = stage
            .broker
            .messages(topic)
            .iter()
            .map(|message| {
                let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
                // With a trace, and with what the broker itself adds to a message that comes alone.
                message.body.len() + message.key.as_ref().map_or(0, Vec::len) + headers + 100 + 70
            })
            .sum();
        assert!(bytes as u64 <= BYTES_OF_A_SAGA * placed.len() as u64, "{topic}: {bytes} bytes");
    }
    assert_eq!(partitions_for(100), 6);
    assert!(partitions_for(100_000) as u64 * (5 << 20) > 100_000 * BYTES_OF_A_SAGA);
}

/// Bytes that no participant wrote.
fn append(broker: &MemoryBroker, topic: &str, key: Option<Vec<u8>>, headers: Vec<(String, Vec<u8>)>, body: Vec<u8>) {
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    assert!(broker.inject(topic, key.as_deref(), &headers, &body));
}
