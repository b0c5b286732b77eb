//! The scenarios with real processes, on Apache Kafka and PostgreSQL. One function, as the names of the topics are fixed:
//! two worlds on one broker would react to each other's events.

use std::collections::BTreeMap;

use anyhow::Result;
use saga_tests::{
    processes::{PARTICIPANTS, Processes, Setting},
    scenario,
    support::{require_kafka, require_postgres},
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
    // The least that a broker allows by default. Five services are killed here, and each time a group waits so long.
    let patience = [("session.timeout.ms".to_owned(), "6000".to_owned())].to_vec();
    let setting =
        Setting { kafka: Some(kafka.address().to_owned()), kafka_settings: patience, databases, ..Setting::default() };
    let mut world = Processes::start(setting).await?;
    scenario::a_paid_order_is_shipped_and_completed(&mut world).await?;
    scenario::a_declined_payment_cancels_the_order(&mut world).await?;
    scenario::a_failed_shipment_refunds_the_customer(&mut world).await?;
    scenario::a_repeated_delivery_changes_nothing(&mut world).await?;
    scenario::whatever_is_on_the_topic_the_next_event_is_settled(&mut world).await?;
    scenario::a_consumer_that_was_down_catches_up(&mut world, 1_000).await?;
    scenario::an_instance_that_is_killed_in_mid_load_loses_and_repeats_nothing(&mut world, 500).await
}
