//! The scenarios with real processes, on Apache Kafka and PostgreSQL. One function, as the names of the topics are fixed:
//! two worlds on one broker would react to each other's events.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use saga_tests::{
    processes::{PARTICIPANTS, Processes, Setting},
    scenario,
    support::{require_kafka, require_postgres},
    world::{Order, World as _},
};

#[tokio::test]
async fn the_scenarios_hold_on_kafka_and_postgres() -> Result<()> {
    let (Some(kafka), Some(postgres)) = (require_kafka(), require_postgres()) else {
        return Ok(());
    };
    let mut databases = BTreeMap::new();
    for name in PARTICIPANTS {
        databases.insert(name.to_owned(), postgres.database(name).await?);
    }
    let kafka = Some(kafka.address().to_owned());
    let mut world = Processes::start(Setting { kafka, databases, otlp: None }).await?;
    scenario::a_paid_order_is_shipped_and_completed(&mut world).await?;
    scenario::a_declined_payment_cancels_the_order(&mut world).await?;
    scenario::a_failed_shipment_refunds_the_customer(&mut world).await?;
    scenario::a_repeated_delivery_changes_nothing(&mut world).await?;
    an_instance_that_is_killed_in_mid_load_loses_and_repeats_nothing(&mut world, 500).await
}

async fn an_instance_that_is_killed_in_mid_load_loses_and_repeats_nothing(
    world: &mut Processes,
    orders: u64,
) -> Result<()> {
    world.start_another("payment", "payment-2").await?;
    let before = world.totals().await?;
    for i in 0..orders {
        let order = match i % 10 {
            3 => Order::by_a_declined_customer(),
            7 => Order::of_a_sold_out_lamp(),
            _ => Order::of_a_book(),
        };
        world.place(&order).await?;
        if i == orders / 2 {
            world.kill("payment").await?;
        }
    }
    let after = world.totals().await?;
    ensure!(after.disagreement().is_none(), "{:?}", after.disagreement());
    let ended = |totals: saga_tests::world::Totals| totals.completed + totals.cancelled;
    ensure!(ended(after) - ended(before) == orders, "of {orders} orders some have not ended: {before:?} {after:?}");
    Ok(())
}
