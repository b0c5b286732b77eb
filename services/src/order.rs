//! The order service: starts a saga when an order is placed, and says how it ended.
//!
//! | step | on | emits | compensated on |
//! |---|---|---|---|
//! | `place-order` | HTTP | [`OrderPlaced`] | [`PaymentDeclined`], [`PaymentRefunded`] → [`OrderCancelled`] |
//! | `cancel-order` | HTTP | [`OrderCancelRequested`] | |
//! | `complete-order` | [`ShipmentScheduled`] | [`OrderCompleted`] | |

use saga_core::{
    Compensate, Local, Never, Participant, Step, StepContext, StepResult,
    id::SagaId,
    one_of,
    start::{Requested, StartError, StartKey, Started, Starter},
    step::MustSucceed,
};
use uuid::Uuid;

use crate::events::{
    OrderCancelRequested, OrderCancelled, OrderCompleted, OrderPlaced, PaymentDeclined, PaymentRefunded,
    ShipmentScheduled,
};

/// The cast of the order service.
pub fn participant() -> Participant {
    Participant::new("order").start(PlaceOrder).request(CancelOrder).step(CompleteOrder)
}

/// Its own table; `state` is placed, cancelling, completed or cancelled.
pub const SCHEMA: &[&str] = &["CREATE TABLE IF NOT EXISTS orders (
        id TEXT PRIMARY KEY, saga TEXT NOT NULL, customer TEXT NOT NULL, item TEXT NOT NULL, quantity BIGINT NOT NULL,
        cents BIGINT NOT NULL, state TEXT NOT NULL, reason TEXT, placed_at BIGINT NOT NULL)"];

one_of! {
    /// Why an order cannot go on: there is no money for it, or no longer.
    #[derive(Debug)]
    pub enum NotPaid { PaymentDeclined, PaymentRefunded }
}

impl NotPaid {
    fn into_parts(self) -> (String, String) {
        match self {
            Self::PaymentDeclined(no) => (no.order, no.reason),
            Self::PaymentRefunded(no) => (no.order, no.reason),
        }
    }
}

/// Starts the saga; taken back when the order is not paid.
#[derive(Debug)]
pub struct PlaceOrder;

impl Step for PlaceOrder {
    const NAME: &'static str = "place-order";
    type On = Never;
    type Emits = OrderPlaced;
    type Rejects = Never;
    type CompensatedOn = NotPaid;
}

/// An order that nobody has placed yet. Checked by whoever made it.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// Who pays.
    pub customer: String,
    /// What.
    pub item: String,
    /// How many.
    pub quantity: i64,
    /// The price of all of them.
    pub cents: i64,
}

/// Places an order and starts its saga, once per `key`. The answer is the order's id.
pub async fn place(starter: &Starter, key: StartKey<'_>, new: NewOrder) -> Result<Started<String>, StartError> {
    starter
        .start::<PlaceOrder, _, _>(key, async move |saga, cx: &mut StepContext<'_>| {
            let NewOrder { customer, item, quantity, cents } = new;
            let order = order_id(saga);
            cx.execute(
                "INSERT INTO orders (id, saga, customer, item, quantity, cents, state, placed_at)
                 VALUES ($1, $2, $3, $4, $5, $6, 'placed', $7)",
                (order.clone(), saga.to_string(), customer.clone(), item.clone(), quantity, cents, cx.now()),
            )
            .await?;
            Ok((OrderPlaced { order: order.clone(), customer, item, quantity, cents }, order))
        })
        .await
}

/// A saga has one order. Like the saga's id it begins with the time, so that the table's index grows at its end; the random part
/// is turned round, so that nobody takes one id for the other.
pub fn order_id(saga: SagaId) -> String {
    Uuid::from_u128(saga.0.as_u128() ^ u128::from(u64::MAX >> 2)).to_string()
}

impl Compensate for PlaceOrder {
    type Compensated = OrderCancelled;

    async fn compensate(&self, _: OrderPlaced, why: NotPaid, cx: &mut StepContext<'_>) -> MustSucceed<OrderCancelled> {
        let (order, reason) = why.into_parts();
        cx.execute("UPDATE orders SET state = 'cancelled', reason = $1 WHERE id = $2", (reason.clone(), order.clone()))
            .await?;
        Ok(OrderCancelled { order, reason })
    }

    /// Only where the ledger was lost: there is no order to cancel, but the saga still needs its ending.
    async fn nothing_done(&self, why: NotPaid, _: &mut StepContext<'_>) -> MustSucceed<OrderCancelled> {
        let (order, reason) = why.into_parts();
        Ok(OrderCancelled { order, reason })
    }
}

/// The customer changes their mind. The order is cancelled if shipping hears of it before it has shipped; otherwise it completes.
#[derive(Debug)]
pub struct CancelOrder;

impl Step for CancelOrder {
    const NAME: &'static str = "cancel-order";
    type On = Never;
    type Emits = OrderCancelRequested;
    type Rejects = Never;
    type CompensatedOn = Never;
}

/// Asks for the cancellation of an order that has not ended.
pub async fn cancel(starter: &Starter, saga: SagaId, order: String) -> Result<Requested, StartError> {
    starter
        .request::<CancelOrder, _>(saga, async move |cx: &mut StepContext<'_>| {
            cx.execute("UPDATE orders SET state = 'cancelling' WHERE id = $1", (order.clone(),)).await?;
            Ok(OrderCancelRequested { order })
        })
        .await
}

/// Closes the saga: the goods are on their way.
#[derive(Debug)]
pub struct CompleteOrder;

impl Step for CompleteOrder {
    const NAME: &'static str = "complete-order";
    type On = ShipmentScheduled;
    type Emits = OrderCompleted;
    type Rejects = Never;
    type CompensatedOn = Never;
}

impl Local for CompleteOrder {
    async fn run(&self, shipped: ShipmentScheduled, cx: &mut StepContext<'_>) -> StepResult<Self> {
        cx.execute("UPDATE orders SET state = 'completed' WHERE id = $1", (shipped.order.clone(),)).await?;
        Ok(OrderCompleted { order: shipped.order })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_and_its_saga_have_two_ids_of_one_time() {
        let saga = SagaId(Uuid::parse_str("019ab1c2-0000-7000-8000-000000000007").unwrap());
        assert_eq!(order_id(saga), "019ab1c2-0000-7000-bfff-fffffffffff8");
    }

    #[test]
    fn the_order_service_declares_both_endings_and_hears_payment_and_shipping() {
        let order = participant();
        assert_eq!(order.listens_to(), ["payment", "shipping"]);
        assert!(order.check().is_ok());
        let mut endings: Vec<_> =
            order.contracts().iter().flat_map(|c| c.published().filter_map(|e| e.ending).collect::<Vec<_>>()).collect();
        endings.sort_by_key(|ending| ending.as_str());
        assert_eq!(endings.iter().map(|e| e.as_str()).collect::<Vec<_>>(), ["cancelled", "completed"]);
    }
}
