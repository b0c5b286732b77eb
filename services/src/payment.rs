//! The payment service: charges customers at the gateway, and gives the money back when an order cannot be shipped.
//!
//! | step | on | emits | rejects | compensated on |
//! |---|---|---|---|---|
//! | `charge-customer` | [`OrderPlaced`] | [`PaymentCharged`] | [`PaymentDeclined`] | [`ShipmentFailed`] → [`PaymentRefunded`] |

use std::time::Duration;

use saga_core::{
    CompensateExternal, External, Participant, Step, StepContext, StepResult,
    step::{CallContext, Doubt, MustSucceed, reject},
};

use serde::{Deserialize, Serialize};

use crate::{
    events::{OrderPlaced, PaymentCharged, PaymentDeclined, PaymentRefunded, ShipmentFailed},
    gateway::{Charge, ChargeAnswer, GatewayClient},
};

/// The cast of the payment service.
pub fn participant(gateway: GatewayClient) -> Participant {
    Participant::new("payment").external(ChargeCustomer { gateway })
}

/// Its own table; `state` is charged, declined or refunded. A declined payment has no receipt.
pub const SCHEMA: &[&str] = &["CREATE TABLE IF NOT EXISTS payments (
        order_id TEXT PRIMARY KEY, saga TEXT NOT NULL, cents BIGINT NOT NULL, receipt TEXT, state TEXT NOT NULL,
        changed_at BIGINT NOT NULL)"];

/// Charges the customer at the gateway.
#[derive(Debug)]
pub struct ChargeCustomer {
    /// Where to.
    pub gateway: GatewayClient,
}

impl Step for ChargeCustomer {
    const NAME: &'static str = "charge-customer";
    /// A little longer than the client waits. Whoever is killed during a call holds its lease for this and a margin, and the
    /// customer waits as long.
    const TIMEOUT: Duration = Duration::from_secs(7);
    type On = OrderPlaced;
    type Emits = PaymentCharged;
    type Rejects = PaymentDeclined;
    type CompensatedOn = ShipmentFailed;
}

impl External for ChargeCustomer {
    type Reply = ChargeAnswer;

    async fn call(&self, placed: &OrderPlaced, cx: &CallContext) -> MustSucceed<ChargeAnswer> {
        let charge = Charge { order: placed.order.clone(), customer: placed.customer.clone(), cents: placed.cents };
        Ok(self.gateway.charge(cx.idempotency_key(), &charge).await?)
    }

    async fn run(&self, placed: OrderPlaced, answer: ChargeAnswer, cx: &mut StepContext<'_>) -> StepResult<Self> {
        let OrderPlaced { order, item, quantity, cents, .. } = placed;
        let (state, receipt) = match &answer {
            ChargeAnswer::Accepted { receipt } => ("charged", Some(receipt.clone())),
            ChargeAnswer::Declined { .. } => ("declined", None),
        };
        cx.execute(
            "INSERT INTO payments (order_id, saga, cents, receipt, state, changed_at) VALUES ($1, $2, $3, $4, $5, $6)",
            (order.clone(), cx.saga().to_string(), cents, receipt, state, cx.now()),
        )
        .await?;
        match answer {
            ChargeAnswer::Accepted { receipt } => Ok(PaymentCharged { order, item, quantity, cents, receipt }),
            ChargeAnswer::Declined { reason } => reject(PaymentDeclined { order, reason }),
        }
    }
}

/// Money that went back.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refund {
    /// The gateway's receipt.
    pub receipt: String,
    /// How much.
    pub cents: i64,
}

impl CompensateExternal for ChargeCustomer {
    type Compensated = PaymentRefunded;
    /// `None` when there turned out to be nothing to give back.
    type Reversal = Option<Refund>;

    async fn reverse(
        &self,
        charged: &PaymentCharged,
        _: &ShipmentFailed,
        cx: &CallContext,
    ) -> MustSucceed<Option<Refund>> {
        let receipt = self.gateway.refund(cx.idempotency_key(), &charged.receipt).await?;
        Ok(Some(Refund { receipt, cents: charged.cents }))
    }

    /// A void closes the key whatever became of it, so a charge that still travels is refused when it arrives.
    async fn in_doubt(&self, placed: &OrderPlaced, doubt: &Doubt, _: &CallContext) -> MustSucceed<Option<Refund>> {
        let receipt = self.gateway.void(doubt.forward_key).await?;
        Ok(receipt.map(|receipt| Refund { receipt, cents: placed.cents }))
    }

    async fn compensate(
        &self,
        refund: Option<Refund>,
        why: ShipmentFailed,
        cx: &mut StepContext<'_>,
    ) -> MustSucceed<PaymentRefunded> {
        if let Some(Refund { receipt, cents }) = refund {
            // A charge whose answer never came has no row yet.
            cx.execute(
                "INSERT INTO payments (order_id, saga, cents, receipt, state, changed_at)
                 VALUES ($1, $2, $3, $4, 'refunded', $5)
                 ON CONFLICT (order_id) DO UPDATE SET state = 'refunded', changed_at = $5",
                (why.order.clone(), cx.saga().to_string(), cents, receipt, cx.now()),
            )
            .await?;
        }
        Ok(PaymentRefunded { order: why.order, reason: why.reason })
    }

    async fn nothing_done(&self, why: ShipmentFailed, _: &mut StepContext<'_>) -> MustSucceed<PaymentRefunded> {
        Ok(PaymentRefunded { order: why.order, reason: why.reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payment_service_hears_order_and_shipping() {
        let payment = participant(GatewayClient::new("http://127.0.0.1:1").unwrap());
        payment.check().unwrap();
        assert_eq!(payment.listens_to(), ["order", "shipping"]);
        assert_eq!(payment.publishes_on(), ["payment"]);
    }
}
