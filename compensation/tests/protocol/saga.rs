//! One saga through order, payment (two instances, an external gateway) and shipping.
//!
//! ```text
//! forward        order ── OrderPlaced ──► payment ── PaymentCharged ──► shipping ── ShipmentScheduled ──► completed
//!                                            └────── PaymentDeclined ──────────────────────────────────► cancelled
//! compensation   shipping ── ShipmentFailed, ShipmentCancelled ──► payment ── PaymentRefunded ──────────► cancelled
//! from outside   OrderExpired, heard as `Cancelling` says
//! ```
//!
//! What is left out and why nothing is lost by it: the broker is the *set* of what was published, so everything may
//! be delivered any number of times, in any order, at any later time; an outbox row that is published late or twice is
//! the same set (that an outbox behaves so is what `relay` checks). Order and shipping settle a reaction in one
//! transition. Payment does the same, or, where [`Saga::split`] says so, begins and commits apart, so that a missing
//! lock shows.

use stateright::{Model, Property};

use crate::{
    events::Events,
    gateway::Doubt,
    payment::{Ask, Attempt, BACKS, CALLS, Caller, Payment, Reaction, back_place},
    properties,
    rules::{Rules, Work},
    world::{Shipment, World},
};

/// Who hears the cancelling event, and so whose ledger row decides between cancelled and completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cancelling {
    /// There is none.
    Never,
    /// The pivot's step, and what that emits starts the compensations backwards.
    AtThePivot,
    /// The participant that emits endings: it voids its completing step in the transaction that emits the event.
    AtTheEnding,
    /// As `AtTheEnding`, but the completing step is voided when the event comes round. Wrong: that is a second decision.
    AtTheEndingLater,
    /// Every step that it might concern. Wrong: as many decisions as there are steps.
    Everywhere,
}

/// The protocol with its rules, what may go wrong, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saga {
    pub(crate) rules: Rules,
    pub(crate) cancelling: Cancelling,
    pub(crate) doubt: Doubt,
    /// The gateway remembers what it accepted, but decides anew about what it refused.
    pub(crate) gateway_forgets_refusals: bool,
    /// Payment's step says no although the gateway took the money.
    pub(crate) rejects_after_effect: bool,
    /// Payment's step may fail on a reply for good.
    pub(crate) run_gives_up: bool,
    /// Shipping may fail for good.
    pub(crate) shipping_sticks: bool,
    pub(crate) second_trigger: bool,
    /// Payment's transactions begin and commit apart.
    pub(crate) split: bool,
    pub(crate) attempts: u8,
    pub(crate) crashes: u8,
    /// How often a person acts.
    pub(crate) persons: u8,
}

impl Saga {
    pub(crate) const SOUND: Saga = Saga {
        rules: Rules::REAL,
        cancelling: Cancelling::AtThePivot,
        doubt: Doubt::VoidKey,
        gateway_forgets_refusals: false,
        rejects_after_effect: false,
        run_gives_up: false,
        shipping_sticks: false,
        second_trigger: false,
        split: false,
        attempts: 2,
        crashes: 1,
        persons: 0,
    };

    /// The least that shows most faults: one attempt and no crash.
    pub(crate) const SMALL: Saga = Saga { attempts: 1, crashes: 0, ..Saga::SOUND };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    OrderExpires,
    Order(Events),
    Ship(Shipment),
    ShippingHearsExpired,
    Payment(u8, Reaction),
    Begin(u8, Reaction),
    Commit(u8),
    Crash(u8),
    Serve { place: usize, willing: bool, reply_arrives: bool },
    RequestLost(usize),
    CallTimesOut(usize),
    RedriveCall,
    DiscardCall,
    RedriveShipment(Shipment),
}

impl Saga {
    /// Nothing will happen any more unless a person, a crash or a deadline makes it happen, or something is delivered
    /// again.
    pub(crate) fn quiet(&self, world: &World) -> bool {
        let travels = |attempt: &Attempt| attempt.travelling || attempt.caller != Caller::Gone;
        if world.transactions != [None, None] || world.attempts.iter().any(travels) {
            return false;
        }
        let mut actions = Vec::new();
        self.actions(world, &mut actions);
        actions.into_iter().all(|action| need_not_happen(world, action) || self.next_state(world, action).is_none())
    }

    /// What `instance` of payment could settle now.
    fn reactions(&self, world: &World, instance: u8) -> Vec<Reaction> {
        let Payment { call, back, waits, .. } = world.payment;
        let mut found = Vec::new();
        for (trigger, event) in [(1, Events::PLACED), (2, Events::PLACED_AGAIN)] {
            if world.published.has(event) {
                found.push(Reaction::Forward { trigger });
            }
        }
        let cancels = match self.cancelling {
            Cancelling::Never => Events::NONE,
            Cancelling::AtThePivot => Events::SHIPMENT_CANCELLED,
            Cancelling::AtTheEnding | Cancelling::AtTheEndingLater | Cancelling::Everywhere => Events::EXPIRED,
        };
        let mut compensations = vec![];
        for event in [Events::SHIPMENT_FAILED, cancels] {
            if event != Events::NONE && world.published.has(event) {
                compensations.push(event);
            }
        }
        if waits {
            compensations.push(Events::NONE);
        }
        for event in compensations {
            found.push(Reaction::Compensation { event, lease_over: true });
            if let Work::Leased(_) = call.work {
                found.push(Reaction::Compensation { event, lease_over: false });
            }
        }
        for (place, mine) in world.attempts.iter().enumerate().filter(|(_, attempt)| attempt.owner == instance) {
            let forward = place < CALLS;
            let attempt = (if forward { place } else { place - CALLS }) as u8 + 1;
            match mine.caller {
                Caller::Heard(reply) if forward => {
                    found.push(Reaction::Answer { attempt, reply, gives_up: false });
                    if self.run_gives_up {
                        found.push(Reaction::Answer { attempt, reply, gives_up: true });
                    }
                }
                Caller::Heard(_) => found.push(Reaction::BackAnswered { attempt }),
                Caller::TimedOut if forward => found.push(Reaction::CallTimedOut { attempt }),
                Caller::TimedOut => found.push(Reaction::BackTimedOut { attempt }),
                Caller::Gone | Caller::Waiting => {}
            }
        }
        if call.work != Work::Gone {
            found.push(Reaction::TakeCall);
        }
        if let Work::Due | Work::Leased(_) = back.work {
            // The last place is used again and again, but not by an instance that still waits there.
            let next = world.attempts[back_place((back.attempt + 1).min(BACKS as u8))];
            if next.owner != instance || !matches!(next.caller, Caller::Waiting | Caller::Heard(_)) {
                found.push(Reaction::TakeBack);
            }
        }
        found
    }
}

impl Model for Saga {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let published = |event| world.published.has(event);
        if self.cancelling != Cancelling::Never && !published(Events::EXPIRED) && world.order.ending.is_none() {
            actions.push(Action::OrderExpires);
        }
        for event in [Events::SCHEDULED, Events::DECLINED, Events::REFUNDED] {
            if published(event) {
                actions.push(Action::Order(event));
            }
        }
        if published(Events::EXPIRED) && self.cancelling == Cancelling::AtTheEndingLater {
            actions.push(Action::Order(Events::EXPIRED));
        }
        if published(Events::CHARGED) {
            actions.extend([Action::Ship(Shipment::Scheduled), Action::Ship(Shipment::Rejected)]);
            if self.shipping_sticks {
                actions.push(Action::Ship(Shipment::Stuck));
            }
        }
        if published(Events::EXPIRED) || world.shipping.waits {
            actions.push(Action::ShippingHearsExpired);
        }
        for instance in 0..2 {
            let [mine, other] = [instance, 1 - instance].map(|i| world.transactions[usize::from(i)]);
            if mine.is_some() {
                actions.push(Action::Commit(instance));
            } else if other.is_none() || !self.rules.lock {
                let settle = if self.split { Action::Begin } else { Action::Payment };
                actions.extend(self.reactions(world, instance).into_iter().map(|reaction| settle(instance, reaction)));
            }
            if world.crashes < self.crashes {
                actions.push(Action::Crash(instance));
            }
        }
        for (place, attempt) in world.attempts.iter().enumerate() {
            if attempt.travelling {
                for reply_arrives in [true, false] {
                    actions.push(Action::Serve { place, willing: true, reply_arrives });
                    if attempt.ask != Ask::Refund {
                        actions.push(Action::Serve { place, willing: false, reply_arrives });
                    }
                }
                actions.push(Action::RequestLost(place));
            }
            if attempt.caller == Caller::Waiting {
                actions.push(Action::CallTimesOut(place));
            }
        }
        if world.persons < self.persons {
            actions.extend([Action::RedriveCall, Action::DiscardCall]);
            actions.extend([Shipment::Scheduled, Shipment::Rejected].map(Action::RedriveShipment));
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut next = *last;
        let world = &mut next;
        match action {
            Action::OrderExpires => world.expire(self),
            Action::Order(event) => world.order(self, event),
            Action::Ship(shipment) => {
                world.heard.shipping.add(Events::CHARGED);
                if !world.shipping.stuck {
                    world.ship(self, shipment);
                }
            }
            Action::ShippingHearsExpired => world.cancel_shipment(self),
            Action::Payment(instance, reaction) => world.commit(self, instance, reaction, last.payment),
            Action::Begin(instance, reaction) => {
                // What would be absorbed writes nothing, so it is not worth an open transaction.
                if last.payment.settle(self, reaction, instance).is_none() {
                    world.consumed(reaction, instance);
                } else {
                    world.transactions[usize::from(instance)] = Some((reaction, last.payment));
                }
            }
            Action::Commit(instance) => {
                let (reaction, seen) = world.transactions[usize::from(instance)].take()?;
                world.commit(self, instance, reaction, seen);
            }
            Action::Crash(instance) => {
                world.transactions[usize::from(instance)] = None;
                for attempt in world.attempts.iter_mut().filter(|attempt| attempt.owner == instance) {
                    attempt.caller = Caller::Gone;
                }
                if *world == *last {
                    return None;
                }
                world.crashes += 1;
            }
            Action::Serve { place, willing, reply_arrives } => {
                let attempt = &mut world.attempts[place];
                let forgets = self.gateway_forgets_refusals;
                let reply = world.gateway.serve(attempt.ask, self.doubt, forgets, &self.rules, willing);
                attempt.travelling = false;
                if reply_arrives && attempt.caller == Caller::Waiting {
                    attempt.caller = Caller::Heard(reply);
                }
            }
            Action::RequestLost(place) => world.attempts[place].travelling = false,
            Action::CallTimesOut(place) => world.attempts[place].caller = Caller::TimedOut,
            Action::RedriveCall => {
                let call = &mut world.payment.call;
                if call.work != Work::Stuck || usize::from(call.attempt) >= CALLS {
                    return None;
                }
                call.work = Work::Due;
                call.most = call.attempt + 1;
                world.persons += 1;
            }
            Action::DiscardCall => {
                if world.payment.call.work != Work::Stuck {
                    return None;
                }
                world.payment.call.work = Work::Gone;
                world.payment.notes.discarded = true;
                world.persons += 1;
            }
            Action::RedriveShipment(shipment) => {
                if !world.shipping.stuck {
                    return None;
                }
                world.shipping.stuck = false;
                world.ship(self, shipment);
                world.persons += 1;
            }
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

/// A person, a crash, a deadline, or a second delivery: may happen, need not.
fn need_not_happen(world: &World, action: Action) -> bool {
    match action {
        Action::Payment(_, Reaction::Forward { trigger }) | Action::Begin(_, Reaction::Forward { trigger }) => {
            world.heard.payment.has(Events::trigger(trigger))
        }
        Action::Payment(_, Reaction::Compensation { event, .. })
        | Action::Begin(_, Reaction::Compensation { event, .. }) => {
            event != Events::NONE && world.heard.payment.has(event)
        }
        Action::Order(event) => world.heard.order.has(event),
        Action::Ship(_) => world.heard.shipping.has(Events::CHARGED),
        Action::ShippingHearsExpired => world.heard.shipping.has(Events::EXPIRED) && !world.shipping.waits,
        Action::OrderExpires
        | Action::Crash(_)
        | Action::RedriveCall
        | Action::DiscardCall
        | Action::RedriveShipment(_) => true,
        Action::Payment(..)
        | Action::Begin(..)
        | Action::Commit(_)
        | Action::Serve { .. }
        | Action::RequestLost(_)
        | Action::CallTimesOut(_) => false,
    }
}
