//! Everything there is to check, as it was found.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What was found in the three databases, the gateway's record, the topics and the customers' list.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// What customers were told.
    pub accepted: Vec<Accepted>,
    /// The order service's own table.
    pub orders: Vec<Order>,
    /// The payment service's own table.
    pub payments: Vec<Payment>,
    /// The shipping service's own table.
    pub shipments: Vec<Shipment>,
    /// The shipping service's own table.
    pub stock: Vec<Stock>,
    /// The toolkit's tables, by participant.
    pub participants: BTreeMap<String, Tables>,
    /// The gateway's own record.
    pub gateway: Record,
    /// Every message of every topic, each partition from its beginning.
    pub events: Vec<Event>,
}

/// An order that a customer was told is placed.
#[derive(Debug, Clone, Deserialize)]
pub struct Accepted {
    /// The idempotency key.
    pub key: String,
    /// The order's id.
    pub order: String,
    /// The saga's id.
    pub saga: String,
    /// What.
    pub item: String,
    /// How many.
    pub quantity: i64,
    /// The price of all of them.
    pub cents: i64,
}

/// A row of `orders`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Order {
    /// The order's id.
    pub id: String,
    /// The saga's id.
    pub saga: String,
    /// What.
    pub item: String,
    /// How many.
    pub quantity: i64,
    /// The price of all of them.
    pub cents: i64,
    /// placed, cancelling, completed or cancelled.
    pub state: String,
}

/// A row of `payments`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Payment {
    /// The order's id.
    pub order_id: String,
    /// The saga's id.
    pub saga: String,
    /// How much.
    pub cents: i64,
    /// The gateway's receipt.
    pub receipt: Option<String>,
    /// charged, declined or refunded.
    pub state: String,
}

/// A row of `shipments`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Shipment {
    /// The order's id.
    pub order_id: String,
    /// The saga's id.
    pub saga: String,
    /// What.
    pub item: String,
    /// How many.
    pub quantity: i64,
}

/// A row of `stock`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Stock {
    /// What.
    pub item: String,
    /// How many are left.
    pub free: i64,
    /// How many there were.
    pub initial: i64,
}

/// The toolkit's tables of one participant.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// What its steps did.
    pub ledger: Vec<Ledger>,
    /// What it has not published.
    pub outbox: Vec<Outbox>,
    /// What waits.
    pub work: Vec<Work>,
}

/// A row of the ledger.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Ledger {
    /// The saga's id.
    pub saga: String,
    /// Its step.
    pub step: String,
    /// calling, done, rejected, compensating, compensated or void.
    pub state: String,
    /// The event that opened the row.
    pub trigger_id: String,
    /// The type of what the step recorded.
    pub record_type: Option<String>,
    /// Its bytes.
    pub record_body: Option<Vec<u8>>,
    /// The record is a rejection that waits for its call to be closed.
    pub rejecting: bool,
    /// completed or cancelled, where the row ended the saga.
    pub ending: Option<String>,
}

/// A row of the outbox.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Outbox {
    /// The saga's id.
    pub key: String,
    /// Where it belongs.
    pub topic: String,
    /// Why the broker refused it for good.
    pub refused: Option<String>,
}

/// A row of the work table.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Work {
    /// The saga's id.
    pub saga: String,
    /// Its step.
    pub step: String,
    /// forward or compensation.
    pub direction: String,
    /// calling, deferred, parked or stuck.
    pub state: String,
    /// Why it is stuck.
    pub reason: String,
}

/// The gateway's record.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Record {
    /// Charges that were accepted (with a receipt) or declined.
    pub charges: Vec<Charge>,
    /// Money that went back.
    pub refunds: Vec<Refund>,
    /// The gateway's own sums.
    pub totals: Totals,
}

/// A charge.
#[derive(Debug, Clone, Deserialize)]
pub struct Charge {
    /// Its idempotency key.
    pub key: String,
    /// The order's id.
    pub order_id: String,
    /// How much.
    pub cents: i64,
    /// None when it was declined.
    pub receipt: Option<String>,
}

/// A refund.
#[derive(Debug, Clone, Deserialize)]
pub struct Refund {
    /// Its idempotency key.
    pub key: String,
    /// The receipt of the charge.
    pub charge: String,
    /// How much.
    pub cents: i64,
}

/// In cents.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Totals {
    /// Charged less refunded.
    pub kept: i64,
}

/// A message.
#[derive(Debug, Clone, Default)]
pub struct Event {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// `ce_id`; empty when it has none, as everything below.
    pub id: String,
    /// `ce_source`: a slash and the participant.
    pub source: String,
    /// `ce_type`.
    pub event_type: String,
    /// `ce_time`.
    pub time: String,
    /// `ce_sagaid`.
    pub saga: String,
    /// `ce_sagastep`.
    pub step: String,
    /// `ce_sagaoutcome`: done, rejected, compensated or nothingdone.
    pub outcome: String,
    /// `ce_causationid`.
    pub causation: Option<String>,
    /// `ce_sagaending`.
    pub ending: Option<String>,
    /// `ce_sagahops`.
    pub hops: u32,
    /// JSON.
    pub body: Vec<u8>,
}

impl Event {
    /// Whose event it is.
    pub fn participant(&self) -> &str {
        self.source.trim_start_matches('/')
    }

    /// forward or compensation.
    pub fn direction(&self) -> &'static str {
        if matches!(self.outcome.as_str(), "done" | "rejected") { "forward" } else { "compensation" }
    }
}
