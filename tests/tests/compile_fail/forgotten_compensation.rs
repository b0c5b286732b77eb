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
impl Local for ShipOrder {
    async fn run(&self, _: Paid, _: &mut StepContext<'_>) -> StepResult<Self> {
        Ok(Shipped {})
    }
}

fn main() {
    Participant::new("shipping").step(ShipOrder);
}

