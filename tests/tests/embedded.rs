//! The scenarios with real processes, on the embedded broker and SQLite files.

use anyhow::Result;
use saga_tests::{
    processes::{Processes, Setting},
    scenario,
};

#[tokio::test]
async fn a_paid_order_is_shipped_and_completed() -> Result<()> {
    scenario::a_paid_order_is_shipped_and_completed(&mut Processes::start(Setting::default()).await?).await
}

#[tokio::test]
async fn a_declined_payment_cancels_the_order() -> Result<()> {
    scenario::a_declined_payment_cancels_the_order(&mut Processes::start(Setting::default()).await?).await
}

#[tokio::test]
async fn a_failed_shipment_refunds_the_customer() -> Result<()> {
    scenario::a_failed_shipment_refunds_the_customer(&mut Processes::start(Setting::default()).await?).await
}

#[tokio::test]
async fn a_repeated_delivery_changes_nothing() -> Result<()> {
    scenario::a_repeated_delivery_changes_nothing(&mut Processes::start(Setting::default()).await?).await
}

#[tokio::test]
async fn a_consumer_that_was_down_catches_up() -> Result<()> {
    scenario::a_consumer_that_was_down_catches_up(&mut Processes::start(Setting::default()).await?, 1_000).await
}

#[tokio::test]
async fn whatever_is_on_the_topic_the_next_event_is_settled() -> Result<()> {
    scenario::whatever_is_on_the_topic_the_next_event_is_settled(&mut Processes::start(Setting::default()).await?).await
}

#[tokio::test]
async fn an_instance_that_is_killed_in_mid_load_loses_and_repeats_nothing() -> Result<()> {
    let mut world = Processes::start(Setting::default()).await?;
    scenario::an_instance_that_is_killed_in_mid_load_loses_and_repeats_nothing(&mut world, 500).await
}
