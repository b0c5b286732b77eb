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

fn main() {
    Participant::new("shipping").external(ShipOrder);
}

