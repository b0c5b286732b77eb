//! A customer cancels: the shipping step is the gate, and one row of its ledger decides what came first.

use anyhow::Result;
use saga_core::{event::Ending, start::Requested, timeline::Timeline};
use saga_services::gateway::Behaviour;
use saga_tests::{
    stage::Stage,
    world::{Order, World as _},
};

#[tokio::test]
async fn a_cancellation_that_comes_first_closes_the_gate_and_gives_the_money_back() -> Result<()> {
    let mut stage = Stage::new(1).await?;
    stage.kill("payment").await?;
    let saga = stage.place(&Order::of_a_book()).await?;
    assert_eq!(stage.cancel(saga).await?, Requested::New);
    assert_eq!(stage.cancel(saga).await?, Requested::Repeated);
    stage.settle().await?;
    stage.start("payment").await?;
    let timeline = stage.ended(saga).await?;
    // Payment finds the order and the failed shipment in its topics at once, and takes them in that order.
    assert_eq!(
        timeline.to_string(),
        "\
order     place-order      OrderPlaced
order     cancel-order     OrderPlaced          -> OrderCancelRequested
payment   charge-customer  OrderPlaced          -> PaymentCharged
shipping  ship-order       OrderCancelRequested -> ShipmentFailed        nothing done
payment   charge-customer  ShipmentFailed       -> PaymentRefunded       compensated
order     place-order      PaymentRefunded      -> OrderCancelled        compensated, cancelled
"
    );
    let totals = stage.totals().await?;
    assert_eq!(
        (totals.disagreement(), totals.gateway_charges, totals.gateway_refunds, totals.shipped),
        (None, 1, 1, 0)
    );
    assert_eq!(stage.cancel(saga).await?, Requested::Ended(Ending::Cancelled));
    Ok(())
}

#[tokio::test]
async fn a_cancellation_that_finds_the_customer_charged_gives_the_money_back() -> Result<()> {
    let mut stage = Stage::new(2).await?;
    stage.kill("shipping").await?;
    let saga = stage.place(&Order::of_a_book()).await?;
    stage.settle().await?;
    assert_eq!(stage.cancel(saga).await?, Requested::New);
    // Both are in the log now, and the cancellation is read first: the topics are read in their order.
    stage.start("shipping").await?;
    let timeline = stage.ended(saga).await?;
    let totals = stage.totals().await?;
    assert_eq!((totals.disagreement(), totals.shipped), (None, 0), "{timeline}");
    assert_eq!((totals.gateway_charges, totals.gateway_refunds), (1, 1), "{timeline}");
    assert_eq!(timeline.ending(), Some(Ending::Cancelled), "{timeline}");
    Ok(())
}

#[tokio::test]
async fn a_cancellation_after_the_shipment_changes_nothing() -> Result<()> {
    let mut stage = Stage::new(3).await?;
    stage.kill("order").await?;
    stage.start("order").await?;
    let saga = stage.place(&Order::of_a_book()).await?;
    for participant in ["order", "payment", "payment", "payment", "shipping"] {
        stage.turn(participant).await?;
    }
    assert_eq!(stage.count("shipping", "SELECT count(*) FROM shipments").await?, 1);
    assert_eq!(stage.cancel(saga).await?, Requested::New, "the order service cannot know yet");
    let timeline = stage.ended(saga).await?;
    assert_eq!(timeline.ending(), Some(Ending::Completed), "{timeline}");
    assert_eq!(stage.totals().await?.disagreement(), None);
    assert_eq!(stage.cancel(saga).await?, Requested::Ended(Ending::Completed));
    Ok(())
}

/// Whenever the customer changes their mind, and whatever becomes of the order otherwise: it ends once, and the money, the goods and
/// the services agree on how.
#[tokio::test]
async fn a_cancellation_at_any_moment_ends_the_saga_once() -> Result<()> {
    let faults = Behaviour { fail_every: 3, lose_every: 2, ..Behaviour::default() };
    let (mut in_time, mut too_late) = (0, 0);
    for moment in 0..24 {
        let behaviour = if moment % 2 == 0 { Behaviour::default() } else { faults.clone() };
        let mut stage = Stage::with_gateway(moment, behaviour).await?;
        let orders = [Order::of_a_book(), Order::by_a_declined_customer(), Order::of_a_sold_out_lamp()];
        let mut sagas = Vec::new();
        for order in &orders {
            sagas.push(stage.place(order).await?);
        }
        for turn in 0..moment as usize {
            stage.turn(["order", "payment", "shipping"][turn % 3]).await?;
        }
        for saga in &sagas {
            stage.cancel(*saga).await?;
        }
        stage.settle().await?;
        assert_eq!(stage.totals().await?.disagreement(), None, "at {moment}");
        for saga in sagas {
            let timeline = Timeline::of(saga, stage.events());
            let endings = timeline.entries.iter().filter(|entry| entry.ending.is_some()).count();
            assert_eq!(endings, 1, "at {moment}:\n{timeline}");
            match timeline.ending() {
                Some(Ending::Completed) => too_late += 1,
                _ => in_time += 1,
            }
        }
        for (name, store) in &stage.stores {
            assert_eq!(store.work(10).await?, [], "something still waits at {name}, at {moment}");
        }
    }
    assert!(in_time > 0 && too_late > 0, "both were to happen: {in_time} in time, {too_late} too late");
    Ok(())
}
