//! Ring 2: the three real participants in memory. Most of what can go wrong is shown here, where a second attempt costs no time.

use saga_services::gateway::Behaviour;
use saga_tests::{
    scenario,
    stage::Stage,
    world::{Order, World},
};

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
