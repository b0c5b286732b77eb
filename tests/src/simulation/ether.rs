//! What lies between the participants: the broker's network, the gateway's line, and what is written down of all of it.
//!
//! The invariant: nothing is lost here but by a fault that has a name, and nothing is published whose transaction has not
//! committed without being noticed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt as _;
use saga_core::{
    clock::Clock,
    envelope::{Delivery, Envelope, Kind, Message},
    id::{EventId, SagaId},
    signal::Tells,
    step::Direction,
    timeline::short,
    transport::{
        BoxFuture, Limit, Position, PublishError, Sink, Source, SourceStatus, TransportError, memory::MemoryBroker,
    },
};
use saga_services::gateway::Line;
use tokio::sync::oneshot;

use super::{
    BEGIN, Violation,
    chance::{Chance, Fault, seconds},
    instance::Control,
};

/// How long a caller of the gateway waits for an answer, in milliseconds; as long as the real client does.
pub(super) const CALL_TIMEOUT: i64 = 10_000;

/// A request on its way to the gateway.
#[derive(Debug)]
pub(super) struct Request {
    /// Where to.
    pub(super) path: &'static str,
    /// Under which key.
    pub(super) key: Option<String>,
    /// With what.
    pub(super) body: Vec<u8>,
    /// Which task of which instance waits.
    pub(super) task: u64,
    /// By whom it was sent, and which of the key it is.
    pub(super) name: String,
    /// To whoever still waits.
    pub(super) answer: oneshot::Sender<Result<Vec<u8>, String>>,
}

/// What a step says that it did, or took back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) saga: SagaId,
    pub(super) step: String,
    pub(super) direction: Direction,
    pub(super) id: EventId,
}

/// Cheap to clone; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Ether {
    /// The time of everybody.
    pub(super) clock: Clock,
    /// The log behind the network.
    pub(super) broker: MemoryBroker,
    state: Arc<Mutex<State>>,
}

/// What happened and what is under way.
#[derive(Debug)]
pub(super) struct State {
    /// The faults.
    pub(super) chance: Chance,
    /// What happened, a line each.
    pub(super) journal: String,
    /// Messages that are readable later.
    pub(super) late: Vec<(i64, Message)>,
    /// Requests that nobody has looked at yet.
    pub(super) requests: Vec<Request>,
    /// Events whose transaction has committed.
    pub(super) committed: BTreeSet<EventId>,
    /// Which crashes and outcomes there were.
    pub(super) seen: BTreeSet<String>,
    /// The first thing that must not happen.
    pub(super) violation: Option<Violation>,
    effects: BTreeMap<(SagaId, String), Vec<Direction>>,
    published: BTreeMap<EventId, u64>,
    asked: BTreeMap<String, u64>,
}

impl Ether {
    /// Nothing is under way.
    pub(super) fn new(broker: MemoryBroker, clock: Clock, chance: Chance) -> Self {
        let state = State {
            chance,
            journal: String::new(),
            late: Vec::new(),
            requests: Vec::new(),
            committed: BTreeSet::new(),
            seen: BTreeSet::new(),
            violation: None,
            effects: BTreeMap::new(),
            published: BTreeMap::new(),
            asked: BTreeMap::new(),
        };
        Self { clock, broker, state: Arc::new(Mutex::new(state)) }
    }

    /// Everything. Never held while somebody waits.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the beginning.
    pub(super) fn now(&self) -> i64 {
        self.clock.now() - BEGIN
    }

    /// Whether a fault strikes; it is written down.
    pub(super) fn strikes(&self, fault: Fault, what: fmt::Arguments<'_>) -> Option<u64> {
        self.strikes_more(fault, 1, what)
    }

    /// The same, where it is to strike more often than elsewhere.
    pub(super) fn strikes_more(&self, fault: Fault, weight: u64, what: fmt::Arguments<'_>) -> Option<u64> {
        let now = self.now();
        let mut state = self.state();
        let force = state.chance.strikes(fault, weight, now, what)?;
        state.log(now, format_args!("FAULT {fault:?}: {what}"));
        Some(force)
    }

    /// Writes a line down.
    pub(super) fn log(&self, line: fmt::Arguments<'_>) {
        let now = self.now();
        self.state().log(now, line);
    }

    /// Something happened that must not. The first such thing counts.
    pub(super) fn violated(&self, rule: &'static str, saga: Option<SagaId>, text: String) {
        let now = self.now();
        let mut state = self.state();
        state.log(now, format_args!("VIOLATION of {rule}: {text}"));
        state.violation.get_or_insert(Violation { rule, saga, text });
    }

    /// A message can be read from now on.
    pub(super) fn store(&self, message: &Message) {
        let headers: Vec<(&str, &[u8])> =
            message.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        self.broker.inject(&message.topic, Some(message.key.as_bytes()), &headers, &message.body);
    }

    /// A transaction has committed. I2: a step does its work once, takes it back once, and does nothing after that.
    pub(super) fn commit(&self, effect: Effect) {
        let Effect { saga, step, direction, id } = effect;
        let before = {
            let mut state = self.state();
            state.committed.insert(id);
            let effects = state.effects.entry((saga, step.clone())).or_default();
            let before = effects.clone();
            effects.push(direction);
            before
        };
        if before.contains(&direction) || before.contains(&Direction::Compensation) {
            self.violated("I2", Some(saga), format!("{step} takes effect {direction} after {before:?}"));
        }
    }

    fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let Some(event) = envelope(message) else {
            self.violated("envelope", None, format!("{} was published, and cannot be read", message.topic));
            return Ok(());
        };
        let nth = {
            let mut state = self.state();
            let nth = state.published.entry(event.id.clone()).or_default();
            *nth += 1;
            *nth
        };
        // A signal is no event: no step emits it, and no participant hears it.
        if Tells::of_type(&event.event_type).is_none() {
            self.check(&event);
        }
        let name = format!("{} of {} ({nth})", short(&event.event_type), event.saga);
        let lost = |reason: &str| Err(PublishError { permanent: false, reason: reason.to_owned() });
        if self.strikes(Fault::MessageLost, format_args!("{name}")).is_some() {
            return lost("the message was lost on purpose");
        }
        if let Some(force) = self.strikes(Fault::MessageTwice, format_args!("{name}")) {
            let later = if force.is_multiple_of(2) { 0 } else { (force >> 8) % 60_000 };
            self.state().late.push((self.clock.now() + later.cast_signed(), message.clone()));
        }
        match self.strikes(Fault::MessageLate, format_args!("{name}")) {
            Some(force) => {
                // Mostly by moments, sometimes by more than a lease lasts.
                let late = if force.is_multiple_of(4) { (force >> 8) % 90_000 } else { (force >> 8) % 2_000 };
                self.state().late.push((self.clock.now() + late.cast_signed(), message.clone()));
            }
            None => {
                self.log(format_args!("{name} can be read"));
                self.store(message);
            }
        }
        if self.strikes(Fault::AcknowledgementLost, format_args!("{name}")).is_some() {
            return lost("the acknowledgement was lost on purpose");
        }
        Ok(())
    }

    /// I6, and what recognises a repetition.
    fn check(&self, event: &Envelope) {
        let Envelope { id, saga, event_type, .. } = event;
        if !self.state().committed.contains(id) {
            let text = format!("{event_type} was published before its transaction had committed");
            self.violated("I6", Some(*saga), text);
        }
        let direction = match event.kind {
            Some(Kind::Compensated | Kind::NothingDone) => Direction::Compensation,
            _ => Direction::Forward,
        };
        let (source, step) = (event.source.trim_start_matches('/'), event.step.as_deref().unwrap_or_default());
        let derived = EventId::derive(*saga, source, step, direction, event_type);
        if derived != *id {
            let text = format!("{event_type} has the id {id}, and would have another one if it were emitted again");
            self.violated("derived ids", Some(*saga), text);
        }
    }

    /// Every event that can be read.
    pub(super) fn events(&self) -> Vec<Envelope> {
        let deliveries = crate::stage::TOPICS.iter().flat_map(|topic| self.broker.messages(topic));
        deliveries.filter_map(|delivery| Envelope::decode(&delivery).ok()).collect()
    }
}

impl State {
    fn log(&mut self, now: i64, line: fmt::Arguments<'_>) {
        // A string takes any text.
        let _ = writeln!(self.journal, "{:>9} {line}", seconds(now));
    }
}

/// A message as a consumer will read it.
fn envelope(message: &Message) -> Option<Envelope> {
    let headers = message.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
    let topic = message.topic.as_str().into();
    let (key, body) = (Some(message.key.clone().into_bytes()), message.body.clone());
    Envelope::decode(&Delivery { topic, partition: 0, offset: 0, epoch: 0, key, headers, body }).ok()
}

/// Where an instance publishes.
#[derive(Debug)]
pub(super) struct Publishes(pub(super) Ether);

impl Sink for Publishes {
    fn publish<'a>(&'a self, messages: &'a [Message]) -> BoxFuture<'a, Vec<Result<(), PublishError>>> {
        Box::pin(async move { messages.iter().map(|message| self.0.publish(message)).collect() })
    }
}

/// A membership in a group that can be taken away while its owner sleeps; it joins again when it asks for more.
pub(super) type Membership = Arc<Mutex<Option<Box<dyn Source>>>>;

/// Where an instance's deliveries come from.
pub(super) struct Listens {
    /// Behind it.
    pub(super) ether: Ether,
    /// The group, and the topics that it listens to.
    pub(super) group: &'static str,
    /// See there.
    pub(super) topics: Vec<&'static str>,
    /// See there.
    pub(super) membership: Membership,
}

impl Listens {
    fn member(&self) -> MutexGuard<'_, Option<Box<dyn Source>>> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Listens {
    fn receive(&mut self, limit: Limit) -> BoxFuture<'_, Result<Vec<Delivery>, TransportError>> {
        let received = {
            let mut member = self.member();
            let member = member.get_or_insert_with(|| self.ether.broker.source(self.group, &self.topics));
            member.receive(limit).now_or_never()
        };
        Box::pin(async move {
            let Some(received) = received else { return std::future::pending().await };
            let mut deliveries = received?;
            for index in 0..deliveries.len() {
                let Delivery { topic, partition, offset, .. } = &deliveries[index];
                let what = format_args!("{topic}/{partition}@{offset} at {}", self.group);
                if self.ether.strikes(Fault::MessageTwice, what).is_some() {
                    deliveries.push(deliveries[index].clone());
                }
            }
            Ok(deliveries)
        })
    }

    fn settled(&mut self, positions: &[Position]) -> Result<(), TransportError> {
        self.member().as_mut().map_or(Ok(()), |member| member.settled(positions))
    }

    fn status(&self) -> SourceStatus {
        self.member().as_ref().map_or(SourceStatus::Ready(0), |member| member.status())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// How an instance's requests get to the gateway.
#[derive(Debug)]
pub(super) struct Calls {
    /// Over it.
    pub(super) ether: Ether,
    /// Who calls.
    pub(super) control: Arc<Control>,
}

impl Line for Calls {
    fn post(&self, path: &'static str, key: Option<String>, body: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            {
                let mut state = self.ether.state();
                // A void has its key in its body: the same request has the same name.
                let what = format!("{path} {}", key.as_deref().unwrap_or(&String::from_utf8_lossy(&body)));
                let nth = state.asked.entry(what.clone()).or_default();
                *nth += 1;
                let name = format!("{what} ({nth})");
                state.requests.push(Request { path, key, body, task: self.control.waits(), name, answer });
            }
            answered.await.unwrap_or_else(|_| Err("nobody will ever answer".to_owned()))
        })
    }
}
