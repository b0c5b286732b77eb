//! The scenarios, each written once over a [`World`]. The expectation is the timeline as text.

use anyhow::{Result, ensure};
use saga_core::{clock::Clock, envelope::Delivery, id::SagaId, store::WorkRow};

use crate::{
    processes::Processes,
    stage::PARTICIPANTS,
    world::{Order, Totals, World},
};

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
    let before = world.totals().await?;
    world.kill("payment").await?;
    let placed: Vec<Order> = (0..orders).map(any_order).collect();
    let sagas = world.place_all(&placed).await?;
    world.start("payment").await?;
    let after = world.totals().await?;
    agree(&after)?;
    all_ended(&before, &after, orders)?;
    for saga in [sagas.first(), sagas.last()].into_iter().flatten() {
        ensure!(world.ended(*saga).await?.ending().is_some(), "{saga} has no ending");
    }
    Ok(())
}

/// One of two instances is killed while orders come in: the other one takes over, and nothing is lost or done twice.
pub async fn an_instance_that_is_killed_in_mid_load_loses_and_repeats_nothing(
    world: &mut Processes,
    orders: usize,
) -> Result<()> {
    world.start_another("payment", "payment-2").await?;
    let before = world.totals().await?;
    let placed: Vec<Order> = (0..orders).map(any_order).collect();
    let (first, second) = placed.split_at(orders / 2);
    world.place_all(first).await?;
    world.kill("payment").await?;
    world.place_all(second).await?;
    let after = world.totals().await?;
    agree(&after)?;
    all_ended(&before, &after, orders)
}

/// Messages that no participant wrote: each gets what it deserves, and the next event is settled.
pub async fn whatever_is_on_the_topic_the_next_event_is_settled(world: &mut impl World) -> Result<()> {
    let (bad, other) = (SagaId::mint(&Clock::system()), SagaId::mint(&Clock::system()));
    let placed = r#"{"order":"4711","customer":"declined-eve","item":"book","quantity":1,"cents":5}"#;
    let structured = format!(
        r#"{{"specversion":"1.0","id":"e5","source":"/shop","type":"shop.order.placed.v1","sagaid":"{other}","data":{placed}}}"#
    );
    let mut huge = attributes(bad, "shop.order.placed.v1", "e3");
    huge.push(("x".to_owned(), vec![b'x'; 20_000]));
    let messages = [
        // A console producer's bytes; a type that nobody here knows; bytes that are no JSON; too many headers.
        foreign(None, vec![], b"hello"),
        foreign(Some(bad), attributes(bad, "shop.order.liked.v1", "e1"), b"{}"),
        foreign(Some(bad), attributes(bad, "shop.order.placed.v1", "e2"), &[0xff, 0xfe]),
        foreign(Some(bad), huge, placed.as_bytes()),
        // An event whose key says that it belongs to another saga.
        foreign(Some(other), attributes(bad, "shop.order.placed.v1", "e4"), placed.as_bytes()),
        // A structured event is as good as a binary one.
        foreign(
            Some(other),
            vec![("content-type".to_owned(), b"application/cloudevents+json; charset=utf-8".to_vec())],
            structured.as_bytes(),
        ),
    ];
    let known = all_stuck(world).await?;
    world.inject(&messages).await?;
    a_paid_order_is_shipped_and_completed(world).await?;
    expect(
        &world.ended(other).await?.to_string(),
        "\
shop                      OrderPlaced
payment  charge-customer  OrderPlaced     -> PaymentDeclined  rejected: card declined
order    place-order      PaymentDeclined -> OrderCancelled   nothing done, cancelled
",
    )?;
    let mut stuck = all_stuck(world).await?;
    stuck.retain(|row| !known.contains(row));
    // What names no type is everybody's who hears the topic; the rest is whose step reacts to the type.
    expect(
        &reasons(&stuck).replace(&bad.to_string(), "SAGA"),
        "\
payment   -                the message has no specversion: expected a CloudEvent in binary mode (ce_specversion header) or structured mode (5 bytes)
payment   -                the message key is not the saga id SAGA (79 bytes)
payment   -                the size of the headers is 20115, the bound is 16384 (79 bytes)
payment   charge-customer  the body of a shop.order.placed.v1 is not what this participant expects: expected value at line 1 column 1 (2 bytes)
shipping  -                the message has no specversion: expected a CloudEvent in binary mode (ce_specversion header) or structured mode (5 bytes)
",
    )?;
    for (_, WorkRow { delivery, .. }) in &stuck {
        let came = |message: &&Delivery| message.headers == delivery.headers && message.key == delivery.key;
        let came = messages.iter().find(came).map(|message| &message.body);
        ensure!(came == Some(&delivery.body), "the bytes are not kept as they came: {delivery:?}");
    }
    Ok(())
}

fn any_order(i: usize) -> Order {
    match i % 10 {
        3 => Order::by_a_declined_customer(),
        7 => Order::of_a_sold_out_lamp(),
        _ => Order::of_a_book(),
    }
}

/// The attributes of an event in binary mode.
fn attributes(saga: SagaId, event_type: &str, id: &str) -> Vec<(String, Vec<u8>)> {
    let saga = saga.to_string();
    let all = [("specversion", "1.0"), ("type", event_type), ("id", id), ("source", "/somebody"), ("sagaid", &*saga)];
    all.map(|(name, value)| (format!("ce_{name}"), value.as_bytes().to_vec())).to_vec()
}

/// A message that no participant wrote.
fn foreign(key: Option<SagaId>, headers: Vec<(String, Vec<u8>)>, body: &[u8]) -> Delivery {
    let key = key.map(|saga| saga.to_string().into_bytes());
    Delivery { topic: "order".into(), partition: 0, offset: 0, epoch: 0, key, headers, body: body.to_vec() }
}

/// What waits for a person, with the participant at which it waits.
async fn all_stuck(world: &mut impl World) -> Result<Vec<(&'static str, WorkRow)>> {
    let mut all = Vec::new();
    for name in PARTICIPANTS {
        all.extend(world.stuck(name).await?.into_iter().map(|row| (name, row)));
    }
    Ok(all)
}

/// One line for each row, sorted: at which step it waits, why, and how many bytes are kept.
fn reasons(rows: &[(&str, WorkRow)]) -> String {
    let line = |(name, row): &(&str, WorkRow)| {
        let step = if row.step.is_empty() { "-" } else { &*row.step };
        format!("{name:<8}  {step:<15}  {} ({} bytes)\n", row.reason, row.delivery.body.len())
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    lines.sort_unstable();
    lines.concat()
}

fn expect(got: &str, expected: &str) -> Result<()> {
    ensure!(got == expected, "it went another way\n--- expected\n{expected}--- got\n{got}");
    Ok(())
}

/// So many orders have ended since `before`.
fn all_ended(before: &Totals, after: &Totals, orders: usize) -> Result<()> {
    let ended = after.completed + after.cancelled - before.completed - before.cancelled;
    ensure!(ended == orders as u64, "{orders} orders were placed, {ended} have ended\n{before:?}\n{after:?}");
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
