//! What an observer says of the sagas when nothing moves any more, beside what the participants' own tables say.
//!
//! The invariant: it reads nothing but the topics, in an order of its own; and it notices when anything is kept from it that it
//! needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::Result;
use saga_choreography::Choreography;
use saga_core::{
    Participant, State,
    envelope::{Delivery, Envelope, Kind},
    event::Ending,
    id::SagaId,
    signal::{self, Tells},
    step::Direction,
    store::{LedgerRow, WorkState},
};
use saga_observer::{Cast, Saga, intake, view};

use super::{cast, chance::Random, ether::Calls, world::World};
use crate::stage::{PARTICIPANTS, TOPICS};

/// The name of the rule.
const RULE: &str = "I9";

/// What the tables of the participants say of one saga.
#[derive(Debug, PartialEq, Eq)]
struct Tables {
    ending: Option<Ending>,
    /// By participant and step. Unknown where every ledger has forgotten the saga.
    said: Option<BTreeMap<(String, String), BTreeSet<Kind>>>,
    /// The reactions that wait: for a person, because nothing moves.
    waiting: BTreeSet<(String, String, Direction)>,
}

impl World<'_> {
    /// I9: the observer says what the ledgers say.
    pub(super) async fn check_observer(&self) -> Result<()> {
        let line = || Arc::new(Calls { ether: self.ether.clone(), control: Arc::clone(&self.instances[0].control) });
        let participants: Vec<Participant> =
            PARTICIPANTS.iter().map(|name| cast::participant(name, line(), self.patient)).collect();
        let choreography = Choreography::of(&participants);
        let cast = Cast::of(choreography.flow());
        let mut random = Random::new(self.play.seed);
        let topics = TOPICS.into_iter().chain([signal::TOPIC]);
        let mut read: Vec<Delivery> = topics.flat_map(|topic| self.ether.broker.messages(topic)).collect();
        for last in (1..read.len()).rev() {
            read.swap(last, random.below(last + 1));
        }
        let sagas = fold(&read);
        let mut waiting = BTreeMap::<SagaId, BTreeSet<_>>::new();
        for (name, store) in &self.stores {
            for row in store.work(100_000).await?.into_iter().filter(|row| row.state == WorkState::Stuck) {
                waiting.entry(row.saga).or_default().insert(((*name).to_owned(), row.step, row.direction));
            }
        }
        let mut known = BTreeMap::new();
        for order in self.orders().await?.into_values() {
            let id: SagaId = order.saga.parse()?;
            let ending = match order.state.as_str() {
                "completed" => Some(Ending::Completed),
                "cancelled" => Some(Ending::Cancelled),
                _ => None,
            };
            let said = if self.forgotten { None } else { Some(self.said(id).await?) };
            let tables = Tables { ending, said, waiting: waiting.remove(&id).unwrap_or_default() };
            let saga = sagas.get(&id).cloned().unwrap_or_default();
            if let Some(text) = tables.differ(&cast, &saga) {
                self.ether.violated(RULE, Some(id), text);
                return Ok(());
            }
            known.insert(id, tables);
        }
        self.check_sensitivity(&cast, &read, &known, &mut random);
        Ok(())
    }

    /// What each step must have said, as its ledger row tells.
    async fn said(&self, saga: SagaId) -> Result<BTreeMap<(String, String), BTreeSet<Kind>>> {
        let mut all = BTreeMap::new();
        for (name, store) in &self.stores {
            for row in store.ledger(saga).await? {
                let said = said(&row);
                if !said.is_empty() {
                    all.insert(((*name).to_owned(), row.step), said);
                }
            }
        }
        Ok(all)
    }

    /// The negative control of the comparison: an event that is kept from the observer is missed, and so are some of the signals
    /// that tell what no event shows.
    fn check_sensitivity(
        &self,
        cast: &Cast<'_>,
        read: &[Delivery],
        known: &BTreeMap<SagaId, Tables>,
        random: &mut Random,
    ) {
        let mut of = BTreeMap::<SagaId, Vec<(Envelope, Delivery)>>::new();
        for delivery in read {
            if let Ok(event) = Envelope::decode(delivery) {
                of.entry(event.saga).or_default().push((event, delivery.clone()));
            }
        }
        for (id, tables) in known {
            let Some(messages) = of.get(id) else { continue };
            let without = |leave: &dyn Fn(&Envelope) -> bool| {
                let rest = messages.iter().filter(|(event, _)| !leave(event)).map(|(_, delivery)| delivery.clone());
                let saga = fold(&rest.collect::<Vec<_>>()).remove(id).unwrap_or_default();
                tables.differ(cast, &saga).is_some()
            };
            let events: Vec<&Envelope> =
                messages.iter().map(|(event, _)| event).filter(|event| event.kind.is_some()).collect();
            let left = &events[random.below(events.len())].id;
            if !self.forgotten && !without(&|event| event.id == *left) {
                self.ether.violated(RULE, Some(*id), format!("the event {left} is kept from the observer, unnoticed"));
            }
            let absorbed = |event: &Envelope| Tells::of_type(&event.event_type) == Some(Tells::Absorbed);
            if messages.iter().any(|(event, _)| absorbed(event)) && without(&absorbed) {
                self.ether.state().seen.insert("the observer misses what was absorbed".to_owned());
            }
            let settled = |event: &Envelope| Tells::of_type(&event.event_type) == Some(Tells::Settled);
            if messages.iter().any(|(event, _)| settled(event)) && without(&settled) {
                self.ether.state().seen.insert("the observer misses what was settled".to_owned());
            }
        }
    }
}

impl Tables {
    /// What the observer says otherwise, if anything.
    fn differ(&self, cast: &Cast<'_>, saga: &Saga) -> Option<String> {
        let view = cast.view(saga);
        let steps = view.steps.iter().map(|step| ((step.participant.clone(), step.step.clone()), step.said.clone()));
        let waits = |it: &view::Awaited| (it.participant.clone(), it.step.clone(), it.direction);
        let seen = Tables {
            ending: view.ending,
            said: self.said.as_ref().map(|_| steps.collect()),
            waiting: view.waiting.iter().map(waits).collect(),
        };
        let stuck = |it: &view::Awaited| it.told.as_ref().is_some_and(|told| told.tells == Tells::Stuck);
        let state = match self.ending {
            _ if !self.waiting.is_empty() => view::State::Stuck,
            Some(Ending::Completed) => view::State::Completed,
            Some(Ending::Cancelled) => view::State::Cancelled,
            None => view::State::Silent,
        };
        let agrees = seen == *self && view.state == state && view.waiting.iter().all(stuck) && !view.truncated;
        (!agrees).then(|| format!("the tables say {self:?} ({state:?}), the observer {view:?}"))
    }
}

/// Folds in parts, as an observer that reads a batch at a time.
fn fold(deliveries: &[Delivery]) -> BTreeMap<SagaId, Saga> {
    let mut sagas = BTreeMap::<SagaId, Saga>::new();
    for batch in deliveries.chunks(7) {
        for (id, seen) in intake::seen(batch) {
            sagas.entry(id).or_default().merge(seen);
        }
    }
    sagas
}

/// What a step has said, by its row. One that went in doubt has lost its record, and where it had said anything before, that was a no.
fn said(row: &LedgerRow) -> BTreeSet<Kind> {
    let forward = match row.state {
        _ if row.record_topic.is_none() => None,
        State::Calling => None,
        State::Done => Some(Kind::Done),
        State::Rejected | State::Void => Some(Kind::Rejected),
        State::Compensating | State::Compensated if row.rejecting => Some(Kind::Rejected),
        State::Compensating | State::Compensated if row.record.is_none() => Some(Kind::Rejected),
        State::Compensating | State::Compensated => Some(Kind::Done),
    };
    let closed = if row.state == State::Void { Kind::NothingDone } else { Kind::Compensated };
    forward.into_iter().chain(row.compensation.as_ref().map(|_| closed)).collect()
}
