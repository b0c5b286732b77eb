//! What a scenario may do to the three services, whatever they run on.
//!
//! There are two worlds: `crate::stage` plays the real participants in one process, in memory, on a clock of its own;
//! `crate::processes` runs the real binaries against a broker and databases. A scenario is written once over this trait.

use std::future::Future;

use anyhow::Result;
use saga_core::{envelope::Delivery, id::SagaId, store::WorkRow, timeline::Timeline};

/// An order to place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The customer; one whose name begins with `declined` is declined by the payment gateway.
    pub customer: String,
    /// `book` is in stock, `lamp` is sold out.
    pub item: String,
    /// How many.
    pub quantity: i64,
    /// The price of one, in cents.
    pub cents: i64,
}

impl Order {
    /// An order that completes.
    pub fn of_a_book() -> Self {
        Self { customer: "ada".to_owned(), item: "book".to_owned(), quantity: 1, cents: 1_250 }
    }

    /// An order that the payment gateway declines.
    pub fn by_a_declined_customer() -> Self {
        Self { customer: "declined-bob".to_owned(), ..Self::of_a_book() }
    }

    /// An order that is paid, and then found to be out of stock.
    pub fn of_a_sold_out_lamp() -> Self {
        Self { item: "lamp".to_owned(), ..Self::of_a_book() }
    }
}

/// What the databases of the three services and the gateway's own record say, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Orders that are neither completed nor cancelled.
    pub open: u64,
    /// Orders.
    pub completed: u64,
    /// Orders.
    pub cancelled: u64,
    /// Payments of the payment service that stand.
    pub charged: u64,
    /// Payments that were taken back.
    pub refunded: u64,
    /// Payments that were declined.
    pub declined: u64,
    /// Shipments of the shipping service.
    pub shipped: u64,
    /// Units that left the stock.
    pub taken: u64,
    /// Charges that the gateway made, those refunded included.
    pub gateway_charges: u64,
    /// Refunds that the gateway made.
    pub gateway_refunds: u64,
}

impl Totals {
    /// Why the databases and the gateway do not agree, if they do not: money and goods are where the endings say.
    pub fn disagreement(&self) -> Option<String> {
        let Self { open, completed, charged, refunded, shipped, gateway_charges, gateway_refunds, .. } = *self;
        let checks = [
            (open == 0, "an order has not ended"),
            (completed == charged, "completed orders and standing payments differ"),
            (completed == shipped, "completed orders and shipments differ"),
            (gateway_charges == charged + refunded, "the gateway's charges and the payments differ"),
            (gateway_refunds == refunded, "the gateway's refunds and the refunded payments differ"),
        ];
        checks.iter().find(|(holds, _)| !holds).map(|(_, why)| format!("{why}: {self:?}"))
    }
}

/// The three services and what surrounds them.
pub trait World {
    /// Places an order under a fresh idempotency key.
    fn place(&mut self, order: &Order) -> impl Future<Output = Result<SagaId>>;

    /// Places orders at the same time, as customers do. The sagas are in the order of the orders.
    fn place_all(&mut self, orders: &[Order]) -> impl Future<Output = Result<Vec<SagaId>>>;

    /// Messages arrive as they are, whoever made them. The key decides on the partition, as for every message; partition, offset
    /// and epoch of the deliveries count for nothing.
    fn inject(&mut self, messages: &[Delivery]) -> impl Future<Output = Result<()>>;

    /// Waits, with a bound, until the saga has ended, and tells what happened.
    fn ended(&mut self, saga: SagaId) -> impl Future<Output = Result<Timeline>>;

    /// Waits, with a bound, until nothing moves any more, and counts.
    fn totals(&mut self) -> impl Future<Output = Result<Totals>>;

    /// Waits, with a bound, until nothing moves any more, and lists what waits for a person at the participant.
    fn stuck(&mut self, participant: &str) -> impl Future<Output = Result<Vec<WorkRow>>>;

    /// Every message of every topic is delivered again, so many times, to everybody who listens.
    fn redeliver(&mut self, times: u32) -> impl Future<Output = Result<()>>;

    /// Stops the participant (`order`, `payment`, `shipping`) as a crash would.
    fn kill(&mut self, participant: &str) -> impl Future<Output = Result<()>>;

    /// Starts a participant that was killed, on the database that it left.
    fn start(&mut self, participant: &str) -> impl Future<Output = Result<()>>;
}
