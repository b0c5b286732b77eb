//! Everything there is in one saga: the broker, three databases, the calls that are under way, and the gateway.
//!
//! Order and shipping settle a reaction in one transition. Payment commits what it has read before, and between the two
//! another instance may have written.

use saga_compensation::{Call, Compensation, Forward, Kind, State};

use crate::{
    events::Events,
    gateway::Gateway,
    payment::{ATTEMPTS, Attempt, Caller, Payment, Reaction, back_place, call_place},
    saga::{Cancelling, Saga},
};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Ending {
    Completed,
    Cancelled,
}

/// What shipping makes of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shipment {
    Scheduled,
    Rejected,
    Stuck,
}

/// Order's rows and the saga's ending.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Order {
    pub(crate) place: Option<State>,
    pub(crate) complete: Option<State>,
    pub(crate) ending: Option<Ending>,
    pub(crate) second_ending: bool,
}

/// Shipping's rows and what is taken off the shelf.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Shipping {
    pub(crate) ship: Option<State>,
    pub(crate) stuck: bool,
    pub(crate) waits: bool,
    pub(crate) reserved: i8,
}

/// What a participant has settled once. A second delivery may come, but need not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Heard {
    pub(crate) order: Events,
    pub(crate) payment: Events,
    pub(crate) shipping: Events,
}

/// Everything there is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct World {
    pub(crate) published: Events,
    pub(crate) heard: Heard,
    pub(crate) order: Order,
    pub(crate) payment: Payment,
    /// What an instance of payment has read in a transaction that is still open.
    pub(crate) transactions: [Option<(Reaction, Payment)>; 2],
    /// A write found another row than it expected.
    pub(crate) mismatch: bool,
    pub(crate) attempts: [Attempt; ATTEMPTS],
    pub(crate) gateway: Gateway,
    pub(crate) shipping: Shipping,
    pub(crate) crashes: u8,
    pub(crate) persons: u8,
}

impl World {
    /// The order is placed, and nobody has heard of it.
    pub(crate) fn new(saga: &Saga) -> World {
        let again = if saga.second_trigger { Events::PLACED_AGAIN } else { Events::NONE };
        World {
            published: Events::PLACED | again,
            heard: Heard { order: Events::NONE, payment: Events::NONE, shipping: Events::NONE },
            order: Order { place: Some(State::Done), complete: None, ending: None, second_ending: false },
            payment: Payment::new(saga.attempts),
            transactions: [None, None],
            mismatch: false,
            attempts: [Attempt::NONE; ATTEMPTS],
            gateway: Gateway::NEW,
            shipping: Shipping { ship: None, stuck: false, waits: false, reserved: 0 },
            crashes: 0,
            persons: 0,
        }
    }

    /// Whether something is left for a person to look at.
    pub(crate) fn stuck(&self) -> bool {
        self.payment.stuck() || self.shipping.stuck || self.order.second_ending
    }

    pub(crate) fn expire(&mut self, saga: &Saga) {
        if saga.cancelling == Cancelling::AtTheEnding {
            let verdict = (saga.rules.compensation)(Kind::Gate, self.order.complete, Call::Open);
            if verdict != Compensation::NothingDone {
                return;
            }
            self.order.complete = Some(State::Void);
        }
        self.published.add(Events::EXPIRED);
    }

    pub(crate) fn order(&mut self, saga: &Saga, event: Events) {
        self.heard.order.add(event);
        match event {
            Events::SCHEDULED => {
                let verdict = (saga.rules.forward)(self.order.complete, true);
                if verdict == Forward::Run && self.end(Ending::Completed) {
                    self.order.complete = Some(State::Done);
                }
            }
            Events::EXPIRED => {
                let verdict = (saga.rules.compensation)(Kind::Gate, self.order.complete, Call::Open);
                if verdict == Compensation::NothingDone {
                    self.order.complete = Some(State::Void);
                }
            }
            _ => {
                let verdict = (saga.rules.compensation)(Kind::Local, self.order.place, Call::Open);
                if verdict == Compensation::Compensate && self.end(Ending::Cancelled) {
                    self.order.place = Some(State::Compensated);
                }
            }
        }
    }

    /// An ending is a ledger row of its own: a second one is stuck.
    fn end(&mut self, ending: Ending) -> bool {
        self.order.second_ending |= self.order.ending.is_some();
        let first = self.order.ending.is_none();
        if first {
            self.order.ending = Some(ending);
        }
        first
    }

    pub(crate) fn ship(&mut self, saga: &Saga, shipment: Shipment) {
        if (saga.rules.forward)(self.shipping.ship, true) != Forward::Run {
            return;
        }
        match shipment {
            Shipment::Scheduled => {
                self.shipping.ship = Some(State::Done);
                self.shipping.reserved = (self.shipping.reserved + 1).min(2);
                self.published.add(Events::SCHEDULED);
            }
            Shipment::Rejected => {
                self.shipping.ship = Some(State::Rejected);
                self.published.add(Events::SHIPMENT_FAILED);
            }
            Shipment::Stuck => self.shipping.stuck = true,
        }
    }

    pub(crate) fn cancel_shipment(&mut self, saga: &Saga) {
        self.heard.shipping.add(Events::EXPIRED);
        if saga.rules.waits_behind_own_stuck_forward && self.shipping.stuck {
            self.shipping.waits = true;
            return;
        }
        self.shipping.waits = false;
        let pivot = saga.cancelling == Cancelling::AtThePivot;
        let kind = if pivot { Kind::Gate } else { Kind::Local };
        match (saga.rules.compensation)(kind, self.shipping.ship, Call::Open) {
            Compensation::NothingDone => {
                self.shipping.ship = Some(State::Void);
                self.shipping.stuck = false;
                if pivot && saga.rules.nothing_done_emits {
                    self.published.add(Events::SHIPMENT_CANCELLED);
                }
            }
            Compensation::Compensate => {
                self.shipping.ship = Some(State::Compensated);
                self.shipping.reserved = (self.shipping.reserved - 1).max(-1);
                if pivot {
                    self.published.add(Events::SHIPMENT_CANCELLED);
                }
            }
            Compensation::InDoubt | Compensation::Wait | Compensation::Duplicate | Compensation::Late => {}
        }
    }

    /// Payment's commit: rows that changed are written over what `seen` showed, then the call is made.
    pub(crate) fn commit(&mut self, saga: &Saga, instance: u8, reaction: Reaction, seen: Payment) {
        let Some(settled) = seen.settle(saga, reaction, instance) else {
            return self.consumed(reaction, instance);
        };
        let (mut now, rows) = (self.payment, settled.rows);
        let expected = saga.rules.expected_state;
        let written = write(&mut now.ledger, seen.ledger, rows.ledger, expected)
            && write(&mut now.call, seen.call, rows.call, expected)
            && write(&mut now.back, seen.back, rows.back, expected)
            && write(&mut now.waits, seen.waits, rows.waits, expected)
            && write(&mut now.notes, seen.notes, rows.notes, expected);
        if !written {
            self.mismatch = true;
            return;
        }
        self.payment = now;
        self.published.add(settled.emits);
        self.consumed(reaction, instance);
        if let Some((place, ask)) = settled.calls {
            self.attempts[place] = Attempt { owner: instance, travelling: true, caller: Caller::Waiting, ask };
        }
    }

    pub(crate) fn consumed(&mut self, reaction: Reaction, instance: u8) {
        let place = match reaction {
            Reaction::Forward { trigger } => return self.heard.payment.add(Events::trigger(trigger)),
            Reaction::Compensation { event, .. } => return self.heard.payment.add(event),
            Reaction::Answer { attempt, .. } | Reaction::CallTimedOut { attempt } => call_place(attempt),
            Reaction::BackAnswered { attempt } | Reaction::BackTimedOut { attempt } => back_place(attempt),
            Reaction::TakeCall | Reaction::TakeBack => return,
        };
        if self.attempts[place].owner == instance {
            self.attempts[place].caller = Caller::Gone;
        }
    }
}

/// Writes a row that changed. `false` if another transaction changed it too and the rule is to notice.
fn write<T: PartialEq + Copy>(now: &mut T, seen: T, new: T, expected: bool) -> bool {
    if new == seen {
        return true;
    }
    if expected && *now != seen {
        return false;
    }
    *now = new;
    true
}
