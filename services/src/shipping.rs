//! The shipping service: takes the goods from the stock, or says that there are none.
//!
//! | step | on | emits | rejects | compensated on |
//! |---|---|---|---|---|
//! | `ship-order` | [`PaymentCharged`] | [`ShipmentScheduled`] | [`ShipmentFailed`] | [`OrderCancelRequested`] → [`ShipmentFailed`] |
//!
//! `ship-order` is the pivot: once it is done nothing is taken back, and the order can only complete. So it is the gate of a
//! customer's cancellation, too: whichever comes first at this one row of the ledger, payment or cancellation, wins.

use saga_core::{
    Gate, Local, Participant, Step, StepContext, StepResult,
    step::{MustSucceed, reject},
};

use crate::events::{OrderCancelRequested, PaymentCharged, ShipmentFailed, ShipmentScheduled};

/// The cast of the shipping service.
pub fn participant() -> Participant {
    Participant::new("shipping").gate(ShipOrder)
}

/// Its own tables, and a stock with one item that is sold out.
pub const SCHEMA: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, free BIGINT NOT NULL, initial BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS shipments (
        order_id TEXT PRIMARY KEY, saga TEXT NOT NULL, item TEXT NOT NULL, quantity BIGINT NOT NULL,
        scheduled_at BIGINT NOT NULL)",
    "INSERT INTO stock (item, free, initial)
     VALUES ('book', 1000000, 1000000), ('chair', 100, 100), ('lamp', 0, 0) ON CONFLICT (item) DO NOTHING",
];

/// Reserves the goods and schedules their shipment.
#[derive(Debug)]
pub struct ShipOrder;

impl Step for ShipOrder {
    const NAME: &'static str = "ship-order";
    type On = PaymentCharged;
    type Emits = ShipmentScheduled;
    type Rejects = ShipmentFailed;
    type CompensatedOn = OrderCancelRequested;
}

impl Local for ShipOrder {
    async fn run(&self, charged: PaymentCharged, cx: &mut StepContext<'_>) -> StepResult<Self> {
        let PaymentCharged { order, item, quantity, .. } = charged;
        // One statement looks and takes, so that two orders never get the same last item.
        let taken = cx
            .execute("UPDATE stock SET free = free - $1 WHERE item = $2 AND free >= $1", (quantity, item.clone()))
            .await?;
        if taken == 0 {
            return reject(ShipmentFailed { order, reason: "out of stock".to_owned() });
        }
        cx.execute(
            "INSERT INTO shipments (order_id, saga, item, quantity, scheduled_at) VALUES ($1, $2, $3, $4, $5)",
            (order.clone(), cx.saga().to_string(), item.clone(), quantity, cx.now()),
        )
        .await?;
        Ok(ShipmentScheduled { order, item, quantity })
    }
}

impl Gate for ShipOrder {
    type Compensated = ShipmentFailed;

    async fn nothing_done(&self, why: OrderCancelRequested, _: &mut StepContext<'_>) -> MustSucceed<ShipmentFailed> {
        Ok(ShipmentFailed { order: why.order, reason: "cancelled by the customer".to_owned() })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_shipping_service_hears_payment_and_cancellations() {
        let shipping = super::participant();
        shipping.check().unwrap();
        assert_eq!(shipping.listens_to(), ["order", "payment"]);
        assert_eq!(shipping.publishes_on(), ["shipping"]);
    }
}
