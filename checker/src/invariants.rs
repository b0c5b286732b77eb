//! The eight invariants, as pure functions of what was found.
//!
//! A saga with a stuck reaction is not done: a person has to see it. What is asked of the end of a saga is not asked of such a
//! one, and how many there are is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::observed::{Accepted, Charge, Event, Ledger, Observed, Order, Payment, Refund, Shipment, Work};

mod effects;
mod events;
mod sums;

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// I1: no accepted order is lost.
    NothingLost,
    /// I2: a step has at most one effect in each direction, and exactly one if its event exists.
    OnceOnly,
    /// I3: a cancelled saga has every effect compensated, a completed one none.
    Compensated,
    /// I4: money is conserved.
    Money,
    /// I5: stock is conserved.
    Stock,
    /// I6: no event without its committed cause.
    Caused,
    /// I7: every committed event is published.
    Published,
    /// I8: the services agree on the ending.
    Agreed,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingLost => "I1 nothing lost",
            Self::OnceOnly => "I2 once only",
            Self::Compensated => "I3 compensated",
            Self::Money => "I4 money",
            Self::Stock => "I5 stock",
            Self::Caused => "I6 caused",
            Self::Published => "I7 published",
            Self::Agreed => "I8 agreed",
        })
    }
}

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What.
    pub invariant: Invariant,
    /// The saga; empty for a sum over all of them.
    pub saga: String,
    /// What was found, and what was expected.
    pub what: String,
}

/// The verdict.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// How many sagas were found.
    pub sagas: usize,
    /// By ending; those without one are `open`.
    pub endings: BTreeMap<String, usize>,
    /// Sagas that wait for a person, with the reason. No violation, but somebody has to look at them.
    pub stuck: Vec<(String, String)>,
    /// Messages that were published more than once: absorbed, and no violation.
    pub repeated: usize,
    /// What does not hold.
    pub violations: Vec<Violation>,
}

/// Checks everything.
pub fn check(observed: &Observed) -> Verdict {
    let mut check = Check { observed, sagas: gather(observed), violations: Vec::new() };
    check.nothing_lost();
    check.once_only();
    check.compensated();
    check.money();
    check.stock();
    check.caused();
    check.published();
    check.agreed();
    let mut verdict = Verdict { sagas: check.sagas.len(), violations: check.violations, ..Verdict::default() };
    for (id, saga) in &check.sagas {
        let ending = if saga.is("completed") {
            "completed"
        } else if saga.is("cancelled") {
            "cancelled"
        } else {
            "open"
        };
        *verdict.endings.entry(ending.to_owned()).or_default() += 1;
        verdict.stuck.extend(saga.stuck().map(|work| ((*id).to_owned(), format!("{}: {}", work.step, work.reason))));
    }
    let distinct: BTreeSet<&str> = observed.events.iter().map(|event| event.id.as_str()).collect();
    verdict.repeated = observed.events.len() - distinct.len();
    verdict
}

/// A saga's events, one a line, in the order in which they were caused; repetitions are told as such.
pub fn timeline(observed: &Observed, saga: &str) -> String {
    let mut events: Vec<&Event> = observed.events.iter().filter(|event| event.saga == saga).collect();
    events.sort_by_key(|event| (event.hops, &event.time, &event.topic, event.partition, event.offset));
    let line = |event: &&Event| {
        let Event { topic, partition, offset, id, event_type, time, step, outcome, causation, .. } = event;
        let cause = causation.as_deref().unwrap_or("nothing");
        format!("    {time} {topic}/{partition}@{offset} {step} {outcome} {event_type} {id} caused by {cause}\n")
    };
    events.iter().map(line).collect()
}

/// What was found of one saga.
#[derive(Debug, Default)]
struct Saga<'o> {
    accepted: Vec<&'o Accepted>,
    orders: Vec<&'o Order>,
    payments: Vec<&'o Payment>,
    shipments: Vec<&'o Shipment>,
    ledger: Vec<(&'o str, &'o Ledger)>,
    work: Vec<&'o Work>,
    /// Each once, however often it was published.
    events: Vec<&'o Event>,
    charges: Vec<&'o Charge>,
    refunds: Vec<&'o Refund>,
}

impl<'o> Saga<'o> {
    fn row(&self, participant: &str, step: &str) -> Option<&'o Ledger> {
        self.ledger.iter().find(|(of, row)| *of == participant && row.step == step).map(|(_, row)| *row)
    }

    fn state(&self, participant: &str, step: &str) -> &str {
        self.row(participant, step).map_or("none", |row| row.state.as_str())
    }

    fn has(&self, event_type: &str) -> bool {
        self.events.iter().any(|event| event.event_type == event_type)
    }

    /// Whether the order service's table says that it ended so.
    fn is(&self, state: &str) -> bool {
        self.orders.iter().any(|order| order.state == state)
    }

    fn stuck(&self) -> impl Iterator<Item = &'o Work> {
        self.work.iter().filter(|work| work.state == "stuck").copied()
    }

    /// Has not ended, and says so.
    fn needs_a_person(&self) -> bool {
        self.stuck().next().is_some() && !self.is("completed") && !self.is("cancelled")
    }

    /// What the gateway keeps of the customer's money.
    fn kept(&self) -> i64 {
        let charged: i64 = self.charges.iter().filter(|c| c.receipt.is_some()).map(|c| c.cents).sum();
        charged - self.refunds.iter().map(|r| r.cents).sum::<i64>()
    }
}

struct Check<'o> {
    observed: &'o Observed,
    sagas: BTreeMap<&'o str, Saga<'o>>,
    violations: Vec<Violation>,
}

fn gather(observed: &Observed) -> BTreeMap<&str, Saga<'_>> {
    let mut sagas = BTreeMap::<&str, Saga<'_>>::new();
    let mut of_order = BTreeMap::<&str, &str>::new();
    for accepted in &observed.accepted {
        sagas.entry(&accepted.saga).or_default().accepted.push(accepted);
        of_order.insert(&accepted.order, &accepted.saga);
    }
    for order in &observed.orders {
        sagas.entry(&order.saga).or_default().orders.push(order);
        of_order.insert(&order.id, &order.saga);
    }
    for payment in &observed.payments {
        sagas.entry(&payment.saga).or_default().payments.push(payment);
    }
    for shipment in &observed.shipments {
        sagas.entry(&shipment.saga).or_default().shipments.push(shipment);
    }
    for (participant, tables) in &observed.participants {
        for row in &tables.ledger {
            sagas.entry(&row.saga).or_default().ledger.push((participant, row));
        }
        for row in &tables.work {
            sagas.entry(&row.saga).or_default().work.push(row);
        }
    }
    let mut seen = BTreeSet::new();
    for event in &observed.events {
        if seen.insert(&event.id) {
            sagas.entry(&event.saga).or_default().events.push(event);
        }
    }
    let mut of_receipt = BTreeMap::<&str, &str>::new();
    for charge in &observed.gateway.charges {
        let saga = of_order.get(charge.order_id.as_str()).copied().unwrap_or_default();
        sagas.entry(saga).or_default().charges.push(charge);
        if let Some(receipt) = &charge.receipt {
            of_receipt.insert(receipt, saga);
        }
    }
    for refund in &observed.gateway.refunds {
        let saga = of_receipt.get(refund.charge.as_str()).copied().unwrap_or_default();
        sagas.entry(saga).or_default().refunds.push(refund);
    }
    sagas
}

impl Check<'_> {
    fn violate(&mut self, invariant: Invariant, saga: &str, what: impl Into<String>) {
        self.violations.push(Violation { invariant, saga: saga.to_owned(), what: what.into() });
    }

    /// Checks saga by saga; `rule` returns what does not hold.
    fn each(&mut self, invariant: Invariant, rule: impl Fn(&Saga<'_>) -> Vec<String>) {
        let found: Vec<_> = self.sagas.iter().map(|(id, saga)| ((*id).to_owned(), rule(saga))).collect();
        for (id, whats) in found {
            for what in whats {
                self.violate(invariant, &id, what);
            }
        }
    }

    /// I1: an accepted order is there, is what the customer ordered, and has ended or waits for a person.
    fn nothing_lost(&mut self) {
        self.each(Invariant::NothingLost, |saga| {
            let mut wrong = Vec::new();
            for accepted in &saga.accepted {
                let Accepted { key, order, item, quantity, cents, .. } = accepted;
                match saga.orders.iter().find(|row| row.id == *order) {
                    None => wrong.push(format!("order {order} (key {key}) was accepted and is not in the table")),
                    Some(row) if (&row.item, row.quantity, row.cents) != (item, *quantity, *cents) => {
                        wrong.push(format!("{quantity} {item} for {cents} were accepted, the table has {row:?}"));
                    }
                    Some(row)
                        if !["completed", "cancelled"].contains(&row.state.as_str()) && !saga.needs_a_person() =>
                    {
                        wrong.push(format!("order {order} has not ended: it is {}, and nothing is stuck", row.state));
                    }
                    Some(_) => {}
                }
                if !saga.has(PLACED) {
                    wrong.push(format!("order {order} was accepted, and no {PLACED} is in the topic"));
                }
            }
            wrong
        });
        let mut orders_of_key = BTreeMap::<&str, BTreeSet<&str>>::new();
        for accepted in &self.observed.accepted {
            orders_of_key.entry(&accepted.key).or_default().insert(&accepted.order);
        }
        for (key, orders) in orders_of_key.into_iter().filter(|(_, orders)| orders.len() > 1) {
            self.violate(Invariant::OnceOnly, "", format!("one key, {key}, placed {orders:?}"));
        }
    }
}

const PLACED: &str = "shop.order.placed.v1";
const COMPLETED: &str = "shop.order.completed.v1";
const CANCELLED: &str = "shop.order.cancelled.v1";
const CHARGED: &str = "shop.payment.charged.v1";
const DECLINED: &str = "shop.payment.declined.v1";
const REFUNDED: &str = "shop.payment.refunded.v1";
const SCHEDULED: &str = "shop.shipment.scheduled.v1";
