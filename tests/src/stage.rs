//! The three real participants in one process: the in-memory broker, SQLite in memory, a clock that is moved by hand.
//!
//! The invariant: nothing here waits. Every participant takes its turn until nobody has anything to do; then the clock jumps to the
//! moment at which the next row is due. So a retry an hour from now costs no time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use saga_core::{
    Participant,
    clock::Clock,
    envelope::{Delivery, Envelope},
    id::SagaId,
    node::Node,
    observer::{Observer, Unseen},
    start::{Requested, StartKey, Started},
    store::{Store, WorkRow, WorkState},
    timeline::Timeline,
    transport::memory::MemoryBroker,
};
use saga_services::{
    gateway::{Behaviour, Gateway, GatewayClient},
    order::{self, NewOrder},
    payment, service, shipping,
};
use tokio::task::JoinSet;
use tracing::{Dispatch, instrument::WithSubscriber as _};

use crate::world::{Order, Totals, World};

/// Any time will do.
const BEGIN: i64 = 1_800_000_000_000;
/// More rounds than any scenario needs: beyond it somebody spins.
const ROUNDS: usize = 100_000;
/// The topics of the samples.
pub const TOPICS: [&str; 3] = ["order", "payment", "shipping"];
/// The participants of the samples.
pub const PARTICIPANTS: [&str; 3] = ["order", "payment", "shipping"];

/// The participants and what they stand on.
#[derive(Debug)]
pub struct Stage {
    /// The broker, for tests that look at messages or send their own.
    pub broker: MemoryBroker,
    /// The time, which stands still unless the stage moves it.
    pub clock: Clock,
    /// The databases, for tests that look into them.
    pub stores: BTreeMap<&'static str, Store>,
    /// Those that are up.
    pub nodes: BTreeMap<&'static str, Node>,
    observers: BTreeMap<&'static str, (Arc<dyn Observer>, Dispatch)>,
    gateway: String,
    placed: u64,
    /// The gateway answers as long as this lives.
    _serving: JoinSet<()>,
}

impl Stage {
    /// Everybody up, nothing placed, a gateway without faults.
    pub async fn new(seed: u64) -> Result<Self> {
        Self::with_gateway(seed, Behaviour::default()).await
    }

    /// A stage whose gateway behaves in a certain way.
    pub async fn with_gateway(seed: u64, behaviour: Behaviour) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let gateway = format!("http://{}", listener.local_addr()?);
        let routes = Gateway::open("sqlite::memory:", behaviour).await?.routes();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!(%error, "the gateway stopped");
            }
        });
        let mut stage = Self {
            broker: MemoryBroker::new(&TOPICS.map(|topic| (topic, 3))),
            clock: Clock::manual(BEGIN, seed),
            stores: BTreeMap::new(),
            nodes: BTreeMap::new(),
            observers: BTreeMap::new(),
            gateway,
            placed: 0,
            _serving: serving,
        };
        let schemas = [order::SCHEMA, payment::SCHEMA, shipping::SCHEMA];
        for (name, schema) in PARTICIPANTS.into_iter().zip(schemas) {
            let store = Store::connect("sqlite::memory:", name).await?;
            store.migrate().await?;
            service::create_tables(&store, schema).await?;
            stage.stores.insert(name, store);
            stage.start(name).await?;
        }
        Ok(stage)
    }

    /// Lets everybody take turns until nobody has anything to do, now or later.
    pub async fn settle(&mut self) -> Result<()> {
        for _ in 0..ROUNDS {
            let mut busy = false;
            for (name, node) in &mut self.nodes {
                busy |= node.turn().with_subscriber(dispatch(&self.observers, name)).await?;
            }
            if busy {
                continue;
            }
            let mut next: Option<i64> = None;
            for name in self.nodes.keys() {
                let due = self.stores[name].work_next_due().await?;
                next = [next, due].into_iter().flatten().min();
            }
            match next {
                Some(due) => {
                    // What is due and was left is held until its step can take it: a node looks again after a while.
                    let wait = u64::try_from(due - self.clock.now()).ok().filter(|wait| *wait > 0).unwrap_or(100);
                    self.clock.advance(Duration::from_millis(wait));
                }
                None => return Ok(()),
            }
        }
        bail!("somebody was still busy after {ROUNDS} rounds")
    }

    /// One turn of one participant.
    pub async fn turn(&mut self, name: &str) -> Result<bool> {
        let node = self.nodes.get_mut(name).context("it is not up")?;
        Ok(node.turn().with_subscriber(dispatch(&self.observers, name)).await?)
    }

    /// The customer changes their mind.
    pub async fn cancel(&self, saga: SagaId) -> Result<Requested> {
        let starter = self.nodes.get("order").context("the order service is down")?.starter();
        let cancelling = order::cancel(&starter, saga, order::order_id(saga));
        Ok(cancelling.with_subscriber(dispatch(&self.observers, "order")).await?)
    }

    /// From now on the participant is seen by `observer`, and its spans go to `dispatch`. It is started anew.
    pub async fn observe(&mut self, name: &'static str, observer: Arc<dyn Observer>, dispatch: Dispatch) -> Result<()> {
        self.observers.insert(name, (observer, dispatch));
        self.kill(name).await?;
        self.start(name).await
    }

    /// Every event that was published.
    pub fn events(&self) -> Vec<Envelope> {
        TOPICS
            .iter()
            .flat_map(|topic| self.broker.messages(topic))
            .filter_map(|delivery| Envelope::decode(&delivery).ok())
            .collect()
    }

    /// The first column of the first row.
    pub async fn count(&self, participant: &str, sql: &'static str) -> Result<u64> {
        let store = self.stores.get(participant).context("no such participant")?;
        let mut tx = store.begin().await?;
        let row: Option<(i64,)> = tx.conn().fetch_optional(sql, ()).await?;
        Ok(row.map_or(0, |(count,)| u64::try_from(count).unwrap_or(0)))
    }
}

/// The participants of the samples, by their names. `gateway` is what the payment service calls.
pub fn cast(name: &str, gateway: &str) -> Result<(&'static str, Participant)> {
    Ok(match name {
        "order" => ("order", order::participant()),
        "payment" => ("payment", payment::participant(GatewayClient::new(gateway)?)),
        "shipping" => ("shipping", shipping::participant()),
        other => bail!("expected one of {PARTICIPANTS:?}, got {other}"),
    })
}

/// Where a participant's spans go: services of one process need one subscriber each.
fn dispatch(observers: &BTreeMap<&'static str, (Arc<dyn Observer>, Dispatch)>, name: &str) -> Dispatch {
    observers.get(name).map_or_else(Dispatch::none, |(_, dispatch)| dispatch.clone())
}

impl World for Stage {
    async fn place(&mut self, new: &Order) -> Result<SagaId> {
        let starter = match self.nodes.get("order") {
            Some(node) => node.starter(),
            None => bail!("the order service is down"),
        };
        self.placed += 1;
        let key = self.placed.to_string();
        let Order { customer, item, quantity, cents } = new.clone();
        let new = NewOrder { customer, item, quantity, cents: cents * quantity };
        let key_of_test = StartKey { caller: "test", key: &key, fingerprint: b"" };
        let placing = order::place(&starter, key_of_test, new).with_subscriber(dispatch(&self.observers, "order"));
        match placing.await? {
            Started::New(saga, _) => Ok(saga),
            Started::Repeated(saga, _) => bail!("{key} was used before, for {saga}"),
        }
    }

    async fn place_all(&mut self, orders: &[Order]) -> Result<Vec<SagaId>> {
        let mut sagas = Vec::with_capacity(orders.len());
        for order in orders {
            sagas.push(self.place(order).await?);
        }
        Ok(sagas)
    }

    async fn inject(&mut self, messages: &[Delivery]) -> Result<()> {
        for Delivery { topic, key, headers, body, .. } in messages {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
            ensure!(self.broker.inject(topic, key.as_deref(), &headers, body), "there is no topic {topic}");
        }
        Ok(())
    }

    async fn ended(&mut self, saga: SagaId) -> Result<Timeline> {
        self.settle().await?;
        let timeline = Timeline::of(saga, self.events());
        ensure!(timeline.ending().is_some(), "the saga has not ended:\n{timeline}");
        Ok(timeline)
    }

    async fn totals(&mut self) -> Result<Totals> {
        self.settle().await?;
        let record: serde_json::Value = reqwest::get(format!("{}/record", self.gateway)).await?.json().await?;
        let made = |what: &str| {
            let rows = record[what].as_array().map(Vec::as_slice).unwrap_or_default();
            rows.iter().filter(|row| row["receipt"].is_string()).count() as u64
        };
        Ok(Totals {
            open: self.count("order", "SELECT count(*) FROM orders WHERE state IN ('placed', 'cancelling')").await?,
            completed: self.count("order", "SELECT count(*) FROM orders WHERE state = 'completed'").await?,
            cancelled: self.count("order", "SELECT count(*) FROM orders WHERE state = 'cancelled'").await?,
            charged: self.count("payment", "SELECT count(*) FROM payments WHERE state = 'charged'").await?,
            refunded: self.count("payment", "SELECT count(*) FROM payments WHERE state = 'refunded'").await?,
            declined: self.count("payment", "SELECT count(*) FROM payments WHERE state = 'declined'").await?,
            shipped: self.count("shipping", "SELECT count(*) FROM shipments").await?,
            taken: self.count("shipping", "SELECT sum(initial - free) FROM stock").await?,
            gateway_charges: made("charges"),
            gateway_refunds: made("refunds"),
        })
    }

    async fn stuck(&mut self, participant: &str) -> Result<Vec<WorkRow>> {
        self.settle().await?;
        let store = self.stores.get(participant).context("no such participant")?;
        let mut rows = store.work(u32::MAX).await?;
        rows.retain(|row| row.state == WorkState::Stuck);
        Ok(rows)
    }

    async fn redeliver(&mut self, times: u32) -> Result<()> {
        let all: Vec<Delivery> = TOPICS.iter().flat_map(|topic| self.broker.messages(topic)).collect();
        for _ in 0..times {
            self.inject(&all).await?;
        }
        self.settle().await
    }

    async fn kill(&mut self, participant: &str) -> Result<()> {
        self.nodes.remove(participant).map(drop).context("it is not up")
    }

    async fn start(&mut self, participant: &str) -> Result<()> {
        let (name, cast) = cast(participant, &self.gateway)?;
        let source = self.broker.source(name, &cast.listens_to());
        let store = self.stores[name].clone();
        let observer: Arc<dyn Observer> = match self.observers.get(name) {
            Some((observer, _)) => observer.clone(),
            None => Arc::new(Unseen),
        };
        let node = Node::observed(cast, store, source, self.broker.sink(), observer, self.clock.clone())?;
        node.check().await?;
        self.nodes.insert(name, node);
        Ok(())
    }
}
