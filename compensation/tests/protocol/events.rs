//! What travels between the participants.
//!
//! The broker is the set of what was published: whatever is in it may be delivered again, at any later time.

use std::{fmt, ops::BitOr};

/// A set of event types: each is published at most once in a saga, or as good as.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Events(u16);

impl Events {
    pub(crate) const NONE: Events = Events(0);
    pub(crate) const PLACED: Events = Events(1);
    /// Another `OrderPlaced` of the same saga, under another event id: somebody's bug, not a duplicate.
    pub(crate) const PLACED_AGAIN: Events = Events(2);
    pub(crate) const CHARGED: Events = Events(4);
    pub(crate) const DECLINED: Events = Events(8);
    pub(crate) const REFUNDED: Events = Events(16);
    pub(crate) const SCHEDULED: Events = Events(32);
    pub(crate) const SHIPMENT_FAILED: Events = Events(64);
    pub(crate) const SHIPMENT_CANCELLED: Events = Events(128);
    /// The cancelling event from outside: a customer changed their mind, a deadline passed.
    pub(crate) const EXPIRED: Events = Events(256);

    /// The trigger that this number stands for: payment's step knows two.
    pub(crate) fn trigger(trigger: u8) -> Events {
        if trigger == 1 { Events::PLACED } else { Events::PLACED_AGAIN }
    }

    pub(crate) fn has(self, event: Events) -> bool {
        self.0 & event.0 == event.0
    }

    pub(crate) fn add(&mut self, events: Events) {
        self.0 |= events.0;
    }
}

/// A history is read by people: names rather than bits.
impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Events, &str); 9] = [
            (Events::PLACED, "OrderPlaced"),
            (Events::PLACED_AGAIN, "OrderPlaced (again)"),
            (Events::CHARGED, "PaymentCharged"),
            (Events::DECLINED, "PaymentDeclined"),
            (Events::REFUNDED, "PaymentRefunded"),
            (Events::SCHEDULED, "ShipmentScheduled"),
            (Events::SHIPMENT_FAILED, "ShipmentFailed"),
            (Events::SHIPMENT_CANCELLED, "ShipmentCancelled"),
            (Events::EXPIRED, "OrderExpired"),
        ];
        f.debug_set().entries(NAMES.iter().filter(|(event, _)| self.has(*event)).map(|(_, name)| name)).finish()
    }
}

impl BitOr for Events {
    type Output = Events;

    fn bitor(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }
}
