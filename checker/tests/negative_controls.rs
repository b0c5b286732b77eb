//! A checker that finds nothing proves nothing: each invariant is violated by hand here, and has to be reported.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::collections::BTreeSet;

use saga_checker::{
    invariants::{Invariant, Verdict, check, timeline},
    observed::{Accepted, Charge, Event, Ledger, Observed, Order, Outbox, Payment, Refund, Shipment, Stock, Work},
};

/// Its parts are added saga by saga, as the services would have written them.
struct Shop(Observed);

/// A step's outcome with the row that it leaves behind.
#[derive(Clone, Copy)]
struct Did {
    participant: &'static str,
    step: &'static str,
    event: &'static str,
    outcome: &'static str,
    cause: &'static str,
    hops: u32,
}

const PLACED: Did = did("order", "place-order", "shop.order.placed.v1", "done", "", 0);
const CANCEL: Did = did("order", "cancel-order", "shop.order.cancel-requested.v1", "done", PLACED.event, 1);
const CHARGED: Did = did("payment", "charge-customer", "shop.payment.charged.v1", "done", PLACED.event, 1);
const DECLINED: Did = did("payment", "charge-customer", "shop.payment.declined.v1", "rejected", PLACED.event, 1);
const SCHEDULED: Did = did("shipping", "ship-order", "shop.shipment.scheduled.v1", "done", CHARGED.event, 2);
const FAILED: Did = did("shipping", "ship-order", "shop.shipment.failed.v1", "rejected", CHARGED.event, 2);
const STOPPED: Did = did("shipping", "ship-order", "shop.shipment.failed.v1", "nothingdone", CANCEL.event, 2);
const REFUNDED: Did = did("payment", "charge-customer", "shop.payment.refunded.v1", "compensated", FAILED.event, 3);
const COMPLETED: Did = did("order", "complete-order", "shop.order.completed.v1", "done", SCHEDULED.event, 3);
const UNPAID: Did = did("order", "place-order", "shop.order.cancelled.v1", "compensated", DECLINED.event, 2);
const CANCELLED: Did = did("order", "place-order", "shop.order.cancelled.v1", "compensated", REFUNDED.event, 4);

const fn did(
    participant: &'static str,
    step: &'static str,
    event: &'static str,
    outcome: &'static str,
    cause: &'static str,
    hops: u32,
) -> Did {
    Did { participant, step, event, outcome, cause, hops }
}

impl Shop {
    /// One saga of each kind, all of them as they should be.
    fn clean() -> Observed {
        let mut shop = Self(Observed::default());
        shop.0.stock.push(Stock { item: "book".into(), free: 98, initial: 100 });
        shop.saga("completed", "completed", &[PLACED, CHARGED, SCHEDULED, COMPLETED]);
        shop.saga("declined", "cancelled", &[PLACED, DECLINED, UNPAID]);
        shop.saga("sold-out", "cancelled", &[PLACED, CHARGED, FAILED, REFUNDED, CANCELLED]);
        shop.saga("stopped", "cancelled", &[PLACED, CANCEL, CHARGED, STOPPED, REFUNDED, CANCELLED]);
        shop.saga("too-late", "completed", &[PLACED, CHARGED, SCHEDULED, CANCEL, COMPLETED]);
        shop.0.gateway.totals.kept = 2 * 700;
        shop.0
    }

    fn saga(&mut self, saga: &str, ending: &str, story: &[Did]) {
        let Self(o) = self;
        let (item, quantity, cents) = ("book".to_owned(), 1, 700);
        let order = format!("order-{saga}");
        let accepted =
            Accepted { key: saga.into(), order: order.clone(), saga: saga.into(), item: item.clone(), quantity, cents };
        o.accepted.push(accepted);
        o.orders.push(Order {
            id: order.clone(),
            saga: saga.into(),
            item: item.clone(),
            quantity,
            cents,
            state: ending.into(),
        });
        let receipt = format!("receipt-{saga}");
        let has = |event: Did| story.iter().any(|did| did.event == event.event);
        if has(CHARGED) {
            let charge =
                Charge { key: format!("key-{saga}"), order_id: order.clone(), cents, receipt: Some(receipt.clone()) };
            o.gateway.charges.push(charge);
        }
        if has(CHARGED) || has(DECLINED) {
            let state = if has(DECLINED) {
                "declined"
            } else if has(REFUNDED) {
                "refunded"
            } else {
                "charged"
            };
            let receipt = has(CHARGED).then(|| receipt.clone());
            o.payments.push(Payment {
                order_id: order.clone(),
                saga: saga.into(),
                cents,
                receipt,
                state: state.into(),
            });
        }
        if has(REFUNDED) {
            o.gateway.refunds.push(Refund { key: format!("back-{saga}"), charge: receipt, cents });
        }
        if has(SCHEDULED) {
            o.shipments.push(Shipment { order_id: order, saga: saga.into(), item, quantity });
        }
        for did in story {
            self.did(saga, did);
        }
    }

    fn did(&mut self, saga: &str, did: &Did) {
        let Did { participant, step, event, outcome, cause, hops } = *did;
        let id = |event: &str| format!("{saga}/{event}");
        let (state, forward) = match outcome {
            "done" => ("done", true),
            "rejected" => ("rejected", true),
            "compensated" => ("compensated", false),
            _ => ("void", false),
        };
        let ending = ["completed", "cancelled"].into_iter().find(|word| event.contains(&format!("order.{word}.")));
        let ledger = &mut self.0.participants.entry(participant.into()).or_default().ledger;
        match ledger.iter_mut().find(|row| row.saga == saga && row.step == step) {
            Some(row) => {
                row.state = state.into();
                row.ending = ending.map(Into::into);
            }
            None => ledger.push(Ledger {
                saga: saga.into(),
                step: step.into(),
                state: state.into(),
                trigger_id: if hops == 0 { id(event) } else { id(cause) },
                record_type: forward.then(|| event.into()),
                record_body: forward.then(|| b"{}".to_vec()),
                rejecting: false,
                ending: ending.map(Into::into),
            }),
        }
        let offset = i64::try_from(self.0.events.len()).unwrap();
        self.0.events.push(Event {
            topic: participant.into(),
            offset,
            id: id(event),
            source: format!("/{participant}"),
            event_type: event.into(),
            time: format!("2026-01-01T00:00:0{hops}Z"),
            saga: saga.into(),
            step: step.into(),
            outcome: outcome.into(),
            causation: (hops > 0).then(|| id(cause)),
            ending: ending.map(Into::into),
            hops,
            body: b"{}".to_vec(),
            ..Event::default()
        });
    }
}

/// What is reported after `spoil`.
fn after(spoil: impl FnOnce(&mut Observed)) -> (BTreeSet<Invariant>, Verdict) {
    let mut observed = Shop::clean();
    spoil(&mut observed);
    let verdict = check(&observed);
    (verdict.violations.iter().map(|violation| violation.invariant).collect(), verdict)
}

fn row<'o>(observed: &'o mut Observed, participant: &str, saga: &str, step: &str) -> &'o mut Ledger {
    let ledger = &mut observed.participants.get_mut(participant).unwrap().ledger;
    ledger.iter_mut().find(|row| row.saga == saga && row.step == step).unwrap()
}

fn forget(observed: &mut Observed, saga: &str, event: &str) {
    observed.events.retain(|other| !(other.saga == saga && other.event_type == event));
}

#[test]
fn what_is_clean_passes_and_repeated_messages_are_no_violation() {
    let (found, verdict) = after(|observed| observed.events.extend(observed.events.clone()));
    assert_eq!(found, BTreeSet::new(), "{:#?}", verdict.violations);
    assert_eq!((verdict.sagas, verdict.repeated), (5, 23));
    assert_eq!(verdict.endings["completed"], 2);
    assert_eq!(verdict.endings["cancelled"], 3);
}

#[test]
fn an_accepted_order_that_is_gone_is_reported() {
    let (found, _) = after(|observed| {
        let accepted = Accepted {
            key: "lost".into(),
            order: "order-lost".into(),
            saga: "lost".into(),
            item: "book".into(),
            quantity: 1,
            cents: 700,
        };
        observed.accepted.push(accepted);
    });
    assert_eq!(found, BTreeSet::from([Invariant::NothingLost]));
}

#[test]
fn an_order_that_never_ends_is_reported_unless_a_person_has_to_see_it() {
    let open = |observed: &mut Observed| {
        observed.orders[0].state = "placed".into();
        row(observed, "order", "completed", "complete-order").ending = None;
        forget(observed, "completed", COMPLETED.event);
        observed
            .participants
            .get_mut("order")
            .unwrap()
            .ledger
            .retain(|r| !(r.saga == "completed" && r.step == "complete-order"));
    };
    let (found, _) = after(open);
    assert!(found.contains(&Invariant::NothingLost), "{found:?}");
    let (found, verdict) = after(|observed| {
        open(observed);
        let stuck = Work {
            saga: "completed".into(),
            step: "complete-order".into(),
            direction: "forward".into(),
            state: "stuck".into(),
            reason: "broken".into(),
        };
        observed.participants.get_mut("order").unwrap().work.push(stuck);
    });
    assert_eq!(found, BTreeSet::new(), "{:#?}", verdict.violations);
    assert_eq!(verdict.stuck.len(), 1);
}

#[test]
fn a_customer_who_is_charged_twice_is_reported() {
    let (found, verdict) = after(|observed| {
        let mut again = observed.gateway.charges[0].clone();
        (again.key, again.receipt) = ("key-2".into(), Some("receipt-2".into()));
        observed.gateway.charges.push(again);
        observed.gateway.totals.kept += 700;
    });
    assert!(found.contains(&Invariant::OnceOnly), "{:#?}", verdict.violations);
    assert!(found.is_subset(&BTreeSet::from([Invariant::OnceOnly, Invariant::Money])), "{found:?}");
}

#[test]
fn an_order_that_no_customer_was_told_of_is_reported() {
    let (found, _) = after(|observed| observed.accepted.retain(|accepted| accepted.saga != "declined"));
    assert_eq!(found, BTreeSet::from([Invariant::OnceOnly]));
}

#[test]
fn two_events_of_one_step_are_reported() {
    let (found, _) = after(|observed| {
        let mut other = observed.events.iter().find(|event| event.event_type == CHARGED.event).unwrap().clone();
        other.id = "of-another-run".into();
        observed.events.push(other);
    });
    assert_eq!(found, BTreeSet::from([Invariant::OnceOnly]));
}

#[test]
fn an_effect_that_is_missing_although_its_event_is_there_is_reported() {
    let (found, _) = after(|observed| {
        observed.shipments.retain(|shipment| shipment.saga != "completed");
        observed.stock[0].free += 1;
    });
    assert!(found.contains(&Invariant::OnceOnly), "{found:?}");
}

#[test]
fn a_cancelled_saga_with_a_shipment_is_reported() {
    let (found, _) = after(|observed| {
        let (saga, order_id) = ("sold-out".to_owned(), "order-sold-out".to_owned());
        observed.shipments.push(Shipment { saga, order_id, item: "book".into(), quantity: 1 });
        observed.stock[0].free -= 1;
    });
    assert_eq!(found, BTreeSet::from([Invariant::Compensated, Invariant::Stock]));
}

#[test]
fn a_completed_saga_with_a_refund_is_reported() {
    let (found, _) = after(|observed| {
        observed.gateway.refunds.push(Refund { key: "x".into(), charge: "receipt-completed".into(), cents: 700 });
        observed.gateway.totals.kept -= 700;
    });
    assert_eq!(found, BTreeSet::from([Invariant::Compensated, Invariant::Money]));
}

#[test]
fn money_that_nobody_accounts_for_is_reported() {
    // The amounts differ, nothing else does.
    let (found, _) = after(|observed| {
        observed.gateway.charges[0].cents += 5;
        observed.gateway.totals.kept += 5;
    });
    assert_eq!(found, BTreeSet::from([Invariant::Money]));
    // An order that the gateway charged and that nobody knows.
    let (found, _) = after(|observed| {
        let charge = Charge { key: "k".into(), order_id: "nobody's".into(), cents: 1, receipt: Some("r".into()) };
        observed.gateway.charges.push(charge);
        observed.gateway.totals.kept += 1;
    });
    assert_eq!(found, BTreeSet::from([Invariant::Money]));
}

#[test]
fn stock_that_is_gone_is_reported() {
    let (found, _) = after(|observed| observed.stock[0].free -= 1);
    assert_eq!(found, BTreeSet::from([Invariant::Stock]));
}

#[test]
fn an_event_without_its_cause_is_reported() {
    // The event that caused it was never published, so its publication is missing, too.
    let (found, _) = after(|observed| forget(observed, "completed", SCHEDULED.event));
    assert_eq!(found, BTreeSet::from([Invariant::Caused, Invariant::Published]));
    // Its step's transaction was rolled back.
    let (found, _) = after(|observed| {
        observed.participants.get_mut("shipping").unwrap().ledger.retain(|row| row.saga != "sold-out");
    });
    assert_eq!(found, BTreeSet::from([Invariant::Caused]));
    let (found, _) =
        after(|observed| row(observed, "payment", "completed", "charge-customer").state = "calling".into());
    assert_eq!(found, BTreeSet::from([Invariant::Caused, Invariant::Agreed]));
}

#[test]
fn what_was_never_published_is_reported() {
    let (found, _) = after(|observed| {
        let row = Outbox { key: "completed".into(), topic: "payment".into(), refused: None };
        observed.participants.get_mut("payment").unwrap().outbox.push(row);
    });
    assert_eq!(found, BTreeSet::from([Invariant::Published]));
    let (found, _) = after(|observed| forget(observed, "stopped", CANCEL.event));
    assert_eq!(found, BTreeSet::from([Invariant::Caused, Invariant::Published]));
    // What was published is another thing than what was recorded.
    let (found, _) = after(|observed| {
        row(observed, "order", "completed", "place-order").record_body = Some(b"{\"cents\":1}".to_vec());
    });
    assert_eq!(found, BTreeSet::from([Invariant::Published]));
}

#[test]
fn services_that_disagree_on_the_ending_are_reported() {
    let (found, _) = after(|observed| {
        row(observed, "order", "declined", "place-order").ending = Some("completed".into());
        let cancelled = |event: &&mut Event| event.saga == "declined" && event.ending.is_some();
        observed.events.iter_mut().find(cancelled).unwrap().ending = Some("completed".into());
    });
    assert_eq!(found, BTreeSet::from([Invariant::Agreed]));
}

#[test]
fn a_violation_is_shown_with_its_events_in_the_order_of_their_causes() {
    let mut observed = Shop::clean();
    observed.events.reverse();
    let shown = timeline(&observed, "completed");
    let events: Vec<&str> = shown.lines().map(|line| line.split_whitespace().nth(4).unwrap()).collect();
    assert_eq!(events, [PLACED.event, CHARGED.event, SCHEDULED.event, COMPLETED.event]);
}
