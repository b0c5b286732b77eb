//! I2, I3 and I8: what each saga did, and how it ended.

use std::collections::{BTreeMap, BTreeSet};

use super::{CANCELLED, CHARGED, COMPLETED, Check, DECLINED, Invariant, PLACED, REFUNDED, SCHEDULED, Saga};

impl Check<'_> {
    /// I2: effects are counted where they took place, the gateway's own record included.
    pub(super) fn once_only(&mut self) {
        self.each(Invariant::OnceOnly, |saga| {
            let mut wrong = Vec::new();
            let charges = saga.charges.iter().filter(|charge| charge.receipt.is_some()).count();
            let effects = [
                ("orders", saga.orders.len(), saga.has(PLACED)),
                ("accepted charges at the gateway", charges, saga.has(CHARGED)),
                ("rows of payments", saga.payments.len(), saga.has(CHARGED) || saga.has(DECLINED)),
                ("shipments", saga.shipments.len(), saga.has(SCHEDULED)),
            ];
            for (what, count, event) in effects {
                if count > 1 || (event && count == 0) {
                    let event = if event { "its event exists" } else { "it has no event" };
                    wrong.push(format!("{count} {what}, and {event}"));
                }
            }
            for charge in &saga.charges {
                let refunds = saga.refunds.iter().filter(|refund| Some(&refund.charge) == charge.receipt.as_ref());
                let refunds = refunds.count();
                if refunds > 1 || (refunds == 0 && charge.receipt.is_some() && saga.has(REFUNDED)) {
                    wrong.push(format!("{refunds} refunds of charge {}", charge.key));
                }
            }
            // Two events of one step in one direction are two effects, whatever the tables say.
            let mut outcomes = BTreeMap::<_, BTreeSet<&str>>::new();
            for event in &saga.events {
                outcomes.entry((event.participant(), &event.step, event.direction())).or_default().insert(&event.id);
            }
            for ((participant, step, direction), ids) in outcomes.into_iter().filter(|(_, ids)| ids.len() > 1) {
                wrong.push(format!("{} events of {participant} {step} {direction}: {ids:?}", ids.len()));
            }
            wrong
        });
        // Customers repeat a request until they have an answer: an order that nobody was told of is one too many.
        let unknown = |saga: &Saga<'_>| match saga.orders.first() {
            Some(order) if saga.accepted.is_empty() => vec![format!("no customer was told of order {}", order.id)],
            _ => Vec::new(),
        };
        self.each(Invariant::OnceOnly, unknown);
        let mut first = BTreeMap::new();
        let mut differing = Vec::new();
        for event in &self.observed.events {
            let one = *first.entry(&event.id).or_insert(event);
            let same = one.event_type == event.event_type && one.causation == event.causation && one.body == event.body;
            if !same {
                differing.push((event.saga.clone(), event.id.clone()));
            }
        }
        for (saga, id) in differing {
            self.violate(Invariant::OnceOnly, &saga, format!("two different events have the id {id}"));
        }
    }

    /// I3: what a cancelled saga did is taken back; what a completed one did stands.
    pub(super) fn compensated(&mut self) {
        self.each(Invariant::Compensated, |saga| {
            let mut wrong = Vec::new();
            if saga.is("cancelled") {
                if saga.kept() != 0 {
                    wrong.push(format!("cancelled, and the gateway keeps {} cents", saga.kept()));
                }
                if let Some(payment) = saga.payments.iter().find(|payment| payment.state == "charged") {
                    wrong.push(format!("cancelled, and a payment stands: {payment:?}"));
                }
                if let Some(shipment) = saga.shipments.first() {
                    wrong.push(format!("cancelled, and shipped: {shipment:?}"));
                }
            }
            if saga.is("completed") {
                if !saga.refunds.is_empty() {
                    wrong.push("completed, and refunded".to_owned());
                }
                if !saga.payments.iter().any(|payment| payment.state == "charged") {
                    wrong.push(format!("completed, and no payment stands: {:?}", saga.payments));
                }
                if saga.shipments.is_empty() {
                    wrong.push("completed, and not shipped".to_owned());
                }
                let taken_back = saga
                    .ledger
                    .iter()
                    .find(|(_, row)| ["compensating", "compensated", "void"].contains(&row.state.as_str()));
                if let Some((participant, row)) = taken_back {
                    wrong.push(format!("completed, and {participant} {} is {}", row.step, row.state));
                }
            }
            wrong
        });
    }

    /// I8: the table of orders, the ledgers of all three, and the topics.
    pub(super) fn agreed(&mut self) {
        self.each(Invariant::Agreed, |saga| {
            let told = |event_type| if saga.has(event_type) { "published" } else { "not published" };
            let endings: BTreeSet<&str> = saga.ledger.iter().filter_map(|(_, row)| row.ending.as_deref()).collect();
            let (charge, ship) = (saga.state("payment", "charge-customer"), saga.state("shipping", "ship-order"));
            let expected = match (saga.is("completed"), saga.is("cancelled")) {
                (true, false) => {
                    Some(("completed", ["published", "not published"], ["done"].as_slice(), ["done"].as_slice()))
                }
                (false, true) => Some((
                    "cancelled",
                    ["not published", "published"],
                    ["rejected", "compensated", "void"].as_slice(),
                    ["none", "rejected", "void"].as_slice(),
                )),
                _ => None,
            };
            let mut wrong = Vec::new();
            let published = [told(COMPLETED), told(CANCELLED)];
            match expected {
                Some((ending, events, charged, shipped)) => {
                    if endings != BTreeSet::from([ending]) {
                        wrong.push(format!("the order is {ending}, the ledgers say {endings:?}"));
                    }
                    if published != events {
                        wrong
                            .push(format!("the order is {ending}, the topics say completed, cancelled: {published:?}"));
                    }
                    if !charged.contains(&charge) || !shipped.contains(&ship) {
                        wrong.push(format!("the order is {ending}, charge-customer is {charge}, ship-order {ship}"));
                    }
                }
                None if !endings.is_empty() || published != ["not published"; 2] => {
                    let states: Vec<&str> = saga.orders.iter().map(|order| order.state.as_str()).collect();
                    wrong.push(format!("orders {states:?}, ledgers {endings:?}, topics {published:?}"));
                }
                None => {}
            }
            wrong
        });
    }
}
