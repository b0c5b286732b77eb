//! What has to hold in every state of a saga, and what has to happen in some.
//!
//! The names are constants, so that a negative control names the property that it violates and a typo does not compile.

use saga_compensation::State;
use stateright::Property;

use crate::{
    payment::Why,
    rules::Work,
    saga::Saga,
    world::{Ending, World},
};

pub(crate) const CHARGED_ONCE: &str = "the customer is charged at most once";
pub(crate) const REFUND_HAS_A_CHARGE: &str = "nothing is refunded that was not charged";
pub(crate) const RUNS_ONCE: &str = "the forward is let in at most once";
pub(crate) const ONE_ENDING: &str = "a saga ends once";
pub(crate) const COMPLETED_KEEPS_MONEY: &str = "a completed saga is never refunded";
pub(crate) const COMPLETED_IS_WHOLE: &str = "completed: one charge and one reservation";
pub(crate) const CANCELLED_IS_CLEAN: &str = "cancelled and quiet: no money, no stock";
pub(crate) const CLOSED_ROW_KEEPS_NOTHING: &str = "rejected, void or compensated, and quiet: no money";
pub(crate) const DONE_ROW_KEEPS_ONE: &str = "done and quiet: one charge";
pub(crate) const ENDS_OR_IS_STUCK: &str = "quiet: ended or visibly stuck";
pub(crate) const NEVER_WAITS_FOR_A_PERSON: &str = "quiet: no compensation waits";
pub(crate) const LEAVES_NOTHING_STUCK: &str = "ended and quiet: nothing is stuck";
pub(crate) const SECOND_TRIGGER_SHOWS: &str = "done and quiet: a second trigger shows";
pub(crate) const NO_MISMATCH: &str = "every write finds the row that it expects";
pub(crate) const NO_CONTRADICTION: &str = "no late answer contradicts what was settled, unless the gateway forgets";

pub(crate) const COMPLETES: &str = "completes";
pub(crate) const CANCELS_UNCHARGED: &str = "cancels before a charge";
pub(crate) const CANCELS_CHARGED: &str = "cancels after a charge";
pub(crate) const IN_DOUBT: &str = "settles a compensation in doubt";
pub(crate) const CLOSES_THEN_REJECTS: &str = "closes a key, then rejects";

pub(crate) fn all() -> Vec<Property<Saga>> {
    vec![
        Property::always(CHARGED_ONCE, |_, w: &World| w.gateway.charges <= 1),
        Property::always(REFUND_HAS_A_CHARGE, |_, w: &World| w.gateway.refunds <= w.gateway.charges),
        Property::always(RUNS_ONCE, |_, w: &World| w.payment.notes.runs <= 1),
        Property::always(ONE_ENDING, |_, w: &World| !w.order.second_ending),
        Property::always(COMPLETED_KEEPS_MONEY, |_, w: &World| !(completed(w) && w.gateway.refunds > 0)),
        Property::always(COMPLETED_IS_WHOLE, |_, w: &World| {
            !completed(w) || (w.gateway.kept() == 1 && w.shipping.reserved == 1)
        }),
        Property::always(CANCELLED_IS_CLEAN, |saga: &Saga, w: &World| {
            let clean = w.gateway.kept() == 0 && w.shipping.reserved == 0;
            !cancelled(w) || clean || !saga.quiet(w)
        }),
        Property::always(CLOSED_ROW_KEEPS_NOTHING, |saga: &Saga, w: &World| {
            let closed = matches!(w.payment.ledger.state, Some(State::Rejected | State::Void | State::Compensated));
            !closed || w.gateway.kept() == 0 || !saga.quiet(w)
        }),
        Property::always(DONE_ROW_KEEPS_ONE, |saga: &Saga, w: &World| {
            w.payment.ledger.state != Some(State::Done) || w.gateway.kept() == 1 || !saga.quiet(w)
        }),
        Property::always(ENDS_OR_IS_STUCK, |saga: &Saga, w: &World| {
            w.order.ending.is_some() || w.stuck() || !saga.quiet(w)
        }),
        Property::always(NEVER_WAITS_FOR_A_PERSON, |saga: &Saga, w: &World| {
            !(w.payment.waits || w.shipping.waits) || !saga.quiet(w)
        }),
        // A second trigger and a discarded call stay visible for good, whatever became of the saga.
        Property::always(LEAVES_NOTHING_STUCK, |saga: &Saga, w: &World| {
            let stuck = w.payment.call.work == Work::Stuck || w.shipping.stuck;
            w.order.ending.is_none() || !stuck || !saga.quiet(w)
        }),
        Property::always(SECOND_TRIGGER_SHOWS, |saga: &Saga, w: &World| {
            let done = saga.second_trigger && w.payment.ledger.state == Some(State::Done);
            !done || w.payment.notes.second_trigger || !saga.quiet(w)
        }),
        Property::always(NO_MISMATCH, |_, w: &World| !w.mismatch),
        Property::always(NO_CONTRADICTION, |saga: &Saga, w: &World| {
            saga.gateway_forgets_refusals || !w.payment.notes.contradicted
        }),
        Property::sometimes(COMPLETES, |_, w: &World| completed(w)),
        Property::sometimes(CANCELS_UNCHARGED, |_, w: &World| cancelled(w) && w.gateway.charges == 0),
        Property::sometimes(CANCELS_CHARGED, |_, w: &World| cancelled(w) && w.gateway.refunds == 1),
        Property::sometimes(IN_DOUBT, |_, w: &World| compensated(w, Why::InDoubt)),
        Property::sometimes(CLOSES_THEN_REJECTS, |_, w: &World| compensated(w, Why::CloseThenReject)),
    ]
}

fn completed(world: &World) -> bool {
    world.order.ending == Some(Ending::Completed)
}

fn cancelled(world: &World) -> bool {
    world.order.ending == Some(Ending::Cancelled)
}

fn compensated(world: &World, why: Why) -> bool {
    world.payment.ledger.state == Some(State::Compensated) && world.payment.ledger.why == why
}
