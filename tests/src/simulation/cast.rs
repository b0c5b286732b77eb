//! The participants of the samples, and what a simulation adds to them: a policy that ends.
//!
//! The invariant: what a step does is the sample's own code. Only a policy is added here.

use std::{sync::Arc, time::Duration};

use saga_core::{
    CompensateExternal, External, Participant, Step, StepContext, StepResult,
    retry::Retry,
    step::{CallContext, Doubt, MustSucceed},
};
use saga_services::{
    events::{OrderPlaced, PaymentCharged, PaymentDeclined, PaymentRefunded, ShipmentFailed},
    gateway::{ChargeAnswer, GatewayClient, Line},
    order,
    payment::{self, Refund},
    shipping,
};

/// The sample's step with a policy that ends, so that calls get stuck.
#[derive(Debug)]
struct ChargeCustomer(payment::ChargeCustomer);

impl Step for ChargeCustomer {
    const NAME: &'static str = payment::ChargeCustomer::NAME;
    type On = OrderPlaced;
    type Emits = PaymentCharged;
    type Rejects = PaymentDeclined;
    type CompensatedOn = ShipmentFailed;

    fn retry(&self) -> Retry {
        Retry::exponential(Duration::from_millis(200), Duration::from_secs(60)).attempts(2)
    }
}

impl External for ChargeCustomer {
    type Reply = ChargeAnswer;

    async fn call(&self, on: &OrderPlaced, cx: &CallContext) -> MustSucceed<ChargeAnswer> {
        self.0.call(on, cx).await
    }

    async fn run(&self, on: OrderPlaced, answer: ChargeAnswer, cx: &mut StepContext<'_>) -> StepResult<Self> {
        self.0.run(on, answer, cx).await
    }
}

impl CompensateExternal for ChargeCustomer {
    type Compensated = PaymentRefunded;
    type Reversal = Option<Refund>;

    async fn reverse(
        &self,
        done: &PaymentCharged,
        why: &ShipmentFailed,
        cx: &CallContext,
    ) -> MustSucceed<Option<Refund>> {
        self.0.reverse(done, why, cx).await
    }

    async fn in_doubt(&self, on: &OrderPlaced, doubt: &Doubt, cx: &CallContext) -> MustSucceed<Option<Refund>> {
        self.0.in_doubt(on, doubt, cx).await
    }

    async fn compensate(
        &self,
        reversal: Option<Refund>,
        why: ShipmentFailed,
        cx: &mut StepContext<'_>,
    ) -> MustSucceed<PaymentRefunded> {
        self.0.compensate(reversal, why, cx).await
    }

    async fn nothing_done(&self, why: ShipmentFailed, cx: &mut StepContext<'_>) -> MustSucceed<PaymentRefunded> {
        CompensateExternal::nothing_done(&self.0, why, cx).await
    }
}

/// The cast of one participant. `patient`: payment never gives up.
pub(super) fn participant(name: &str, line: Arc<dyn Line>, patient: bool) -> Participant {
    match name {
        "order" => order::participant(),
        "payment" if patient => payment::participant(GatewayClient::over(line)),
        "payment" => Participant::new("payment")
            .external(ChargeCustomer(payment::ChargeCustomer { gateway: GatewayClient::over(line) })),
        _ => shipping::participant(),
    }
}
