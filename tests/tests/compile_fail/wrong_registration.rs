#[path = "events.rs"]
mod events;

use events::*;
use saga_core::*;

struct ShipOrder;
impl Step for ShipOrder {
    const NAME: &'static str = "ship-order";
    type On = Paid;
    type Emits = Shipped;
    type Rejects = Never;
    type CompensatedOn = Missed;
}
impl External for ShipOrder {
    type Reply = ();
    async fn call(&self, _: &Paid, _: &step::CallContext) -> step::MustSucceed<()> {
        Ok(())
    }
    async fn run(&self, _: Paid, _: (), _: &mut StepContext<'_>) -> StepResult<Self> {
        Ok(Shipped {})
    }
}
impl Compensate for ShipOrder {
    type Compensated = TakenBack;
    async fn compensate(&self, _: Shipped, _: Missed, _: &mut StepContext<'_>) -> step::MustSucceed<TakenBack> {
        Ok(TakenBack {})
    }
    async fn nothing_done(&self, _: Missed, _: &mut StepContext<'_>) -> step::MustSucceed<TakenBack> {
        Ok(TakenBack {})
    }
}

fn main() {
    Participant::new("shipping").step(ShipOrder);
}

