//! What the services tell each other.
//!
//! The invariant: an event carries all that its hearers need, because they share no tables; money is in cents, never a fraction.

use saga_core::{Event, event::Ending};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! events {
    ($($(#[$meta:meta])* $name:ident $type:literal on $topic:literal $(ends $ending:ident)? {
        $($(#[$field_meta:meta])* $field:ident: $of:ty,)*
    })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub struct $name {
            /// The order's id, a UUID.
            pub order: String,
            $($(#[$field_meta])* pub $field: $of,)*
        }
        impl Event for $name {
            const TYPE: &'static str = $type;
            const TOPIC: &'static str = $topic;
            $(const ENDING: Option<Ending> = Some(Ending::$ending);)?

            fn subject(&self) -> Option<String> {
                Some(self.order.clone())
            }
        }
    )+};
}

events! {
    /// A customer ordered something: a saga starts.
    OrderPlaced "shop.order.placed.v1" on "order" {
        /// Who pays.
        customer: String,
        /// What.
        item: String,
        /// How many.
        quantity: i64,
        /// The price of all of them.
        cents: i64,
    }
    /// The customer has changed their mind. Whether in time is decided by shipping.
    OrderCancelRequested "shop.order.cancel-requested.v1" on "order" {}
    /// Charged and shipped.
    OrderCompleted "shop.order.completed.v1" on "order" ends Completed {}
    /// Nothing is charged, nothing is shipped.
    OrderCancelled "shop.order.cancelled.v1" on "order" ends Cancelled {
        /// For the customer.
        reason: String,
    }
    /// The customer's money is there.
    PaymentCharged "shop.payment.charged.v1" on "payment" {
        /// What was paid for.
        item: String,
        /// How many.
        quantity: i64,
        /// How much was charged.
        cents: i64,
        /// The gateway's receipt.
        receipt: String,
    }
    /// The gateway said no.
    PaymentDeclined "shop.payment.declined.v1" on "payment" {
        /// In the gateway's words.
        reason: String,
    }
    /// The customer has their money back, or never paid.
    PaymentRefunded "shop.payment.refunded.v1" on "payment" {
        /// Why.
        reason: String,
    }
    /// The goods will go out.
    ShipmentScheduled "shop.shipment.scheduled.v1" on "shipping" {
        /// What goes out.
        item: String,
        /// How many.
        quantity: i64,
    }
    /// The goods are not there.
    ShipmentFailed "shop.shipment.failed.v1" on "shipping" {
        /// Why.
        reason: String,
    }
}
