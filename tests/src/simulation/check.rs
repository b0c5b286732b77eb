//! What must hold when nothing moves any more, read from the databases, the broker and the gateway's own record.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::Result;
use saga_core::{
    State,
    event::Ending,
    id::{EventId, SagaId},
    store::{Row, Store, WorkState},
    timeline::Timeline,
};

use super::world::World;

/// What one order came to, everywhere.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub(super) saga: String,
    pub(super) state: String,
    cents: i64,
    payment: Option<String>,
    shipments: usize,
    /// Of the gateway: accepted charges, what they took, what was given back.
    charges: usize,
    charged: i64,
    refunded: i64,
}

impl World<'_> {
    /// Every invariant, for every order. The first that is violated counts.
    pub(super) async fn check(&self) -> Result<()> {
        let orders = self.orders().await?;
        let events = self.ether.events();
        let completed: i64 = orders.values().filter(|order| order.state == "completed").map(|order| order.cents).sum();
        let kept: i64 = orders.values().map(|order| order.charged - order.refunded).sum();
        for asked in self.asked.iter() {
            let (Some(saga), Some(id)) = (asked.saga, &asked.order) else { continue };
            let Some(order) = orders.get(id).filter(|order| order.saga == saga.to_string()) else {
                self.ether.violated("I1", Some(saga), format!("the order {id} was accepted and is lost"));
                continue;
            };
            let ending = events.iter().filter(|event| event.saga == saga).find_map(|event| event.ending);
            // A participant that has forgotten the saga tells nothing of it.
            let payment = self.state("payment", saga, "charge-customer").await?;
            let shipping = self.state("shipping", saga, "ship-order").await?;
            if let Some((rule, text)) = order.wrong(ending, payment, shipping, self.forgotten) {
                self.ether.violated(
                    rule,
                    Some(saga),
                    format!("{text}: {order:?}, payment {payment:?}, shipping {shipping:?}"),
                );
            }
        }
        for (id, order) in &orders {
            if !self.asked.iter().any(|asked| asked.order.as_ref() == Some(id)) {
                let text = format!("the order {id} is nobody's");
                self.ether.violated("I1", order.saga.parse().ok(), text);
            }
        }
        if kept != completed {
            self.ether.violated(
                "I4",
                None,
                format!("the gateway keeps {kept}, the completed orders are worth {completed}"),
            );
        }
        self.check_stock().await?;
        self.check_outboxes().await?;
        self.check_work().await?;
        if self.ether.state().violation.is_none() {
            self.check_observer().await?;
        }
        Ok(())
    }

    /// I5.
    async fn check_stock(&self) -> Result<()> {
        let sql = "SELECT item, free, initial, (SELECT coalesce(sum(quantity), 0) FROM shipments WHERE shipments.item = stock.item)
                   FROM stock ORDER BY item";
        for (item, free, initial, shipped) in rows::<(String, i64, i64, i64)>(&self.stores["shipping"], sql).await? {
            if free < 0 || initial - free != shipped {
                let text = format!("of {item}, {initial} at first, {free} are free and {shipped} shipped");
                self.ether.violated("I5", None, text);
            }
        }
        Ok(())
    }

    /// I6 and I7.
    async fn check_outboxes(&self) -> Result<()> {
        for (name, store) in &self.stores {
            let left = store.outbox_len().await?;
            if left > 0 {
                self.ether.violated("I7", None, format!("{left} events are still in the outbox of {name}"));
            }
        }
        let events = self.ether.events();
        let published: std::collections::BTreeSet<&EventId> = events.iter().map(|event| &event.id).collect();
        let lost = self.ether.state().committed.iter().find(|id| !published.contains(id)).cloned();
        if let Some(lost) = lost {
            self.ether.violated("I7", None, format!("the event {lost} was committed and never published"));
        }
        for event in &events {
            if let Some(cause) = event.causation.as_ref().filter(|cause| !published.contains(cause)) {
                let text = format!("{} has a cause that nobody published: {cause}", event.event_type);
                self.ether.violated("I6", Some(event.saga), text);
            }
        }
        Ok(())
    }

    /// Nothing waits. A gateway that forgets its refusals may contradict itself, and a person is told so.
    async fn check_work(&self) -> Result<()> {
        for (name, store) in &self.stores {
            for row in store.work(100_000).await? {
                let contradiction =
                    row.state == WorkState::Stuck && !row.blocks && row.reason.contains("had settled it");
                let old = self.forgotten && !row.blocks && row.reason.contains("older than this participant's memory");
                let expected = old || (contradiction && self.forgets);
                if !expected {
                    let text =
                        format!("{name}: {} {} is {}: {}", row.step, row.direction, row.state.as_str(), row.reason);
                    self.ether.violated("everything ends", Some(row.saga), text);
                }
            }
        }
        Ok(())
    }

    pub(super) async fn orders(&self) -> Result<BTreeMap<String, Order>> {
        let mut orders = BTreeMap::<String, Order>::new();
        let placed =
            rows::<(String, String, String, i64)>(&self.stores["order"], "SELECT id, saga, state, cents FROM orders");
        for (id, saga, state, cents) in placed.await? {
            orders.insert(id, Order { saga, state, cents, ..Order::default() });
        }
        let paid = rows::<(String, String)>(&self.stores["payment"], "SELECT order_id, state FROM payments");
        for (id, state) in paid.await? {
            orders.entry(id).or_default().payment = Some(state);
        }
        for (id,) in rows::<(String,)>(&self.stores["shipping"], "SELECT order_id FROM shipments").await? {
            orders.entry(id).or_default().shipments += 1;
        }
        let record = self.gateway.shown().await?;
        let list = |name: &str| record[name].as_array().cloned().unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let mut of_receipt = BTreeMap::new();
        for charge in list("charges").iter().filter(|charge| charge["receipt"].is_string()) {
            let id = text(&charge["order_id"]);
            of_receipt.insert(text(&charge["receipt"]), id.clone());
            let order = orders.entry(id).or_default();
            order.charges += 1;
            order.charged += charge["cents"].as_i64().unwrap_or(0);
        }
        for refund in list("refunds") {
            let order = of_receipt.get(&text(&refund["charge"])).cloned().unwrap_or_default();
            orders.entry(order).or_default().refunded += refund["cents"].as_i64().unwrap_or(0);
        }
        Ok(orders)
    }

    async fn state(&self, participant: &str, saga: SagaId, step: &str) -> Result<Option<State>> {
        let ledger = self.stores[participant].ledger(saga).await?;
        Ok(ledger.into_iter().find(|row| row.step == step).map(|row| row.state))
    }

    /// What has not ended, and of which saga the first is.
    pub(super) async fn left(&self) -> Result<(Option<SagaId>, String)> {
        let mut text = String::new();
        let mut saga = None;
        for (name, store) in &self.stores {
            let outbox = store.outbox_len().await?;
            if outbox > 0 {
                write!(text, "{outbox} events are in the outbox of {name}; ")?;
            }
            for row in store.work(5).await? {
                saga = saga.or(Some(row.saga));
                let why = row.failures.last().map_or(row.reason.as_str(), |failure| failure.error.as_str());
                write!(
                    text,
                    "{name} {} {} of {} is {} ({why}); ",
                    row.step,
                    row.direction,
                    row.saga,
                    row.state.as_str()
                )?;
            }
        }
        Ok((saga, text))
    }

    /// A saga as its timeline, with the rows that its participants have of it.
    pub(super) async fn tell(&self, saga: SagaId) -> Result<String> {
        let mut text = Timeline::of(saga, self.ether.events()).to_string();
        for (name, store) in &self.stores {
            for row in store.ledger(saga).await? {
                writeln!(text, "ledger of {name}: {} is {}, attempts {}", row.step, row.state, row.attempts)?;
            }
            for row in store.work(100_000).await?.into_iter().filter(|row| row.saga == saga) {
                let last = row.failures.last().map_or("", |failure| failure.error.as_str());
                writeln!(
                    text,
                    "work of {name}: {} {} is {} {} {last}",
                    row.step,
                    row.direction,
                    row.state.as_str(),
                    row.reason
                )?;
            }
        }
        for (id, order) in self.orders().await?.iter().filter(|(_, order)| order.saga == saga.to_string()) {
            writeln!(text, "order {id}: {order:?}")?;
        }
        Ok(text)
    }
}

impl Order {
    /// Which invariant this order violates, if any.
    fn wrong(
        &self,
        ending: Option<Ending>,
        payment: Option<State>,
        shipping: Option<State>,
        forgotten: bool,
    ) -> Option<(&'static str, &'static str)> {
        let kept = self.charged - self.refunded;
        let is_done = |state: Option<State>| state == Some(State::Done) || (forgotten && state.is_none());
        let paid = self.payment.as_deref() == Some("charged");
        match (self.state.as_str(), ending) {
            ("completed", Some(Ending::Completed)) => {
                let checks = [
                    (self.charges == 1, "I2", "a completed order was not charged exactly once"),
                    (self.shipments == 1, "I2", "a completed order was not shipped exactly once"),
                    (kept == self.cents && self.refunded == 0, "I3", "the money of a completed order was taken back"),
                    (paid && is_done(payment), "I8", "payment takes a completed order for another one"),
                    (is_done(shipping), "I8", "shipping takes a completed order for another one"),
                ];
                checks.into_iter().find(|(holds, ..)| !holds).map(|(_, rule, text)| (rule, text))
            }
            ("cancelled", Some(Ending::Cancelled)) => {
                let checks = [
                    (self.charges <= 1, "I2", "a cancelled order was charged more than once"),
                    (kept == 0, "I3", "the money of a cancelled order was kept"),
                    (self.shipments == 0, "I3", "a cancelled order was shipped"),
                    (!paid && payment != Some(State::Done), "I8", "payment takes a cancelled order for paid"),
                    (shipping != Some(State::Done), "I8", "shipping takes a cancelled order for shipped"),
                ];
                checks.into_iter().find(|(holds, ..)| !holds).map(|(_, rule, text)| (rule, text))
            }
            ("placed" | "cancelling", _) => Some(("I1", "an accepted order has not ended")),
            _ => Some(("I8", "the order and its ending event differ")),
        }
    }
}

/// Every row of a query.
async fn rows<T: Row>(store: &Store, sql: &'static str) -> Result<Vec<T>> {
    let mut tx = store.begin().await?;
    Ok(tx.conn().fetch_all(sql, ()).await?)
}
