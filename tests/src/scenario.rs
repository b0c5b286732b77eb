//! The scenarios, each written once over a [`World`]. The expectation is the timeline as text.

use anyhow::{Result, ensure};

use crate::world::{Order, Totals, World};

/// An order is paid, shipped and completed.
pub async fn a_paid_order_is_shipped_and_completed(world: &mut impl World) -> Result<()> {
    let saga = world.place(&Order::of_a_book()).await?;
    expect(
        &world.ended(saga).await?.to_string(),
        "\
order     place-order      OrderPlaced
payment   charge-customer  OrderPlaced       -> PaymentCharged
shipping  ship-order       PaymentCharged    -> ShipmentScheduled
order     complete-order   ShipmentScheduled -> OrderCompleted     completed
",
    )?;
    agree(&world.totals().await?)
}

/// The gateway says no, and the order is cancelled.
pub async fn a_declined_payment_cancels_the_order(world: &mut impl World) -> Result<()> {
    let saga = world.place(&Order::by_a_declined_customer()).await?;
    expect(
        &world.ended(saga).await?.to_string(),
        "\
order    place-order      OrderPlaced
payment  charge-customer  OrderPlaced     -> PaymentDeclined  rejected: card declined
order    place-order      PaymentDeclined -> OrderCancelled   compensated, cancelled
",
    )?;
    agree(&world.totals().await?)
}

/// There is no stock: the payment is refunded, and the order cancelled.
pub async fn a_failed_shipment_refunds_the_customer(world: &mut impl World) -> Result<()> {
    let saga = world.place(&Order::of_a_sold_out_lamp()).await?;
    expect(
        &world.ended(saga).await?.to_string(),
        "\
order     place-order      OrderPlaced
payment   charge-customer  OrderPlaced     -> PaymentCharged
shipping  ship-order       PaymentCharged  -> ShipmentFailed   rejected: out of stock
payment   charge-customer  ShipmentFailed  -> PaymentRefunded  compensated
order     place-order      PaymentRefunded -> OrderCancelled   compensated, cancelled
",
    )?;
    agree(&world.totals().await?)
}

/// Every event comes again, many times, and once more after a restart: nothing changes.
pub async fn a_repeated_delivery_changes_nothing(world: &mut impl World) -> Result<()> {
    for order in [Order::of_a_book(), Order::by_a_declined_customer(), Order::of_a_sold_out_lamp()] {
        let saga = world.place(&order).await?;
        world.ended(saga).await?;
    }
    let before = world.totals().await?;
    agree(&before)?;
    world.redeliver(1).await?;
    unchanged(&before, &world.totals().await?)?;
    world.redeliver(100).await?;
    unchanged(&before, &world.totals().await?)?;
    for participant in ["order", "payment", "shipping"] {
        world.kill(participant).await?;
        world.start(participant).await?;
    }
    world.redeliver(1).await?;
    unchanged(&before, &world.totals().await?)
}

/// A service is down while orders are placed, and catches up when it starts.
pub async fn a_consumer_that_was_down_catches_up(world: &mut impl World, orders: usize) -> Result<()> {
    world.kill("payment").await?;
    let mut sagas = Vec::with_capacity(orders);
    for i in 0..orders {
        let order = match i % 10 {
            3 => Order::by_a_declined_customer(),
            7 => Order::of_a_sold_out_lamp(),
            _ => Order::of_a_book(),
        };
        sagas.push(world.place(&order).await?);
    }
    world.start("payment").await?;
    let totals = world.totals().await?;
    agree(&totals)?;
    let ended = totals.completed + totals.cancelled;
    ensure!(ended == orders as u64, "{orders} orders were placed, {ended} have ended: {totals:?}");
    for saga in [sagas.first(), sagas.last()].into_iter().flatten() {
        ensure!(world.ended(*saga).await?.ending().is_some(), "{saga} has no ending");
    }
    Ok(())
}

fn expect(got: &str, expected: &str) -> Result<()> {
    ensure!(got == expected, "the timeline is another one\n--- expected\n{expected}--- got\n{got}");
    Ok(())
}

fn agree(totals: &Totals) -> Result<()> {
    match totals.disagreement() {
        Some(why) => anyhow::bail!(why),
        None => Ok(()),
    }
}

fn unchanged(before: &Totals, after: &Totals) -> Result<()> {
    ensure!(before == after, "a repeated delivery changed something\n--- before\n{before:?}\n--- after\n{after:?}");
    Ok(())
}
