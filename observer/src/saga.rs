//! What was seen of one saga: a set of events and, per reaction, the last that was told of it.
//!
//! The invariant: merging is commutative, associative and idempotent (a join semilattice; Shapiro et al., "Conflict-free replicated
//! data types", 2011), so the same topics give the same row in every order of arrival, however often they are read. Meaning is made
//! of it elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use saga_core::{
    envelope::{Envelope, Kind, TraceContext, trace_id},
    event::Ending,
    id::{EventId, ReactionId, SagaId},
    signal::Tells,
    step::Direction,
    timeline::{self, Timeline},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Places of one event that are kept: enough to say that it was sent again, few enough that a thousandfold repetition stays small.
const MOST_PLACES: usize = 8;
/// Events of one saga that are kept; no honest choreography has as many.
const MOST_EVENTS: usize = 512;
/// Reactions of one saga that something was told of.
const MOST_TOLD: usize = 512;

/// Everything that was seen of one saga.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saga {
    /// By source and then by id, which together name an event (CloudEvents 1.0, `id`).
    events: BTreeMap<String, BTreeMap<EventId, Seen>>,
    /// The last of what was told of each reaction.
    told: BTreeMap<ReactionId, Told>,
    /// More was seen than is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// One event, without its body, which stays in the topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seen {
    /// When it was emitted, in milliseconds since the Unix epoch; of one that was sent twice, the earlier time.
    pub time: Option<i64>,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The step that emitted it.
    pub step: Option<String>,
    /// What it is the outcome of.
    pub kind: Option<Kind>,
    /// Set where it closes the saga.
    pub ending: Option<Ending>,
    /// The event whose reaction emitted it.
    pub causation: Option<EventId>,
    /// Emissions since the start.
    pub hops: u32,
    /// What it is about in business terms.
    pub subject: Option<String>,
    /// W3C `traceparent`.
    pub traceparent: Option<String>,
    /// The text field `reason` of its body, where there is one, on one line.
    pub reason: Option<String>,
    /// Where it stands in the log, the first places of it: more than one when it was sent again.
    pub places: BTreeSet<Place>,
}

/// Where a message stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// The last that a participant told of one reaction, by a signal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Told {
    /// Grows with each signal of the reaction.
    pub seq: i64,
    /// What it tells.
    pub tells: Tells,
    /// Who.
    pub participant: String,
    /// Of which step.
    pub step: String,
    /// Which way.
    pub direction: Direction,
    /// Reacting to which event.
    pub event: Option<EventId>,
    /// After how many attempts.
    pub attempts: u32,
    /// Why.
    pub reason: String,
    /// When, in milliseconds since the Unix epoch.
    pub at: Option<i64>,
}

impl Saga {
    /// A saga of which one event was seen.
    pub fn of_event(event: &Envelope, place: Place) -> Self {
        let seen = Seen {
            time: event.time,
            event_type: event.event_type.clone(),
            step: event.step.clone(),
            kind: event.kind,
            ending: event.ending,
            causation: event.causation.clone(),
            hops: event.hops,
            subject: event.subject.clone(),
            traceparent: event.trace.traceparent.clone(),
            reason: timeline::reason(&event.body),
            places: BTreeSet::from([place]),
        };
        let events = BTreeMap::from([(event.source.clone(), BTreeMap::from([(event.id.clone(), seen)]))]);
        Self { events, ..Self::default() }
    }

    /// A saga of which one signal was heard.
    pub fn of_signal(reaction: ReactionId, told: Told) -> Self {
        Self { told: BTreeMap::from([(reaction, told)]), ..Self::default() }
    }

    /// Takes in what was seen elsewhere, or again.
    pub fn merge(&mut self, other: Self) {
        for (source, events) in other.events {
            let mine = self.events.entry(source).or_default();
            for (id, seen) in events {
                match mine.get_mut(&id) {
                    Some(known) => known.merge(seen),
                    None => drop(mine.insert(id, seen)),
                }
            }
        }
        for (reaction, told) in other.told {
            match self.told.get_mut(&reaction) {
                // The greatest of all: two that claim the same place in their order are told apart by what they say.
                Some(known) if *known >= told => {}
                Some(known) => *known = told,
                None => drop(self.told.insert(reaction, told)),
            }
        }
        self.truncated |= other.truncated;
        self.truncate();
    }

    /// Every event, by source and id.
    pub fn events(&self) -> impl Iterator<Item = (&str, &EventId, &Seen)> {
        self.events.iter().flat_map(|(source, events)| events.iter().map(move |(id, seen)| (source.as_str(), id, seen)))
    }

    /// The last of what was told of each reaction.
    pub fn told(&self) -> impl Iterator<Item = (ReactionId, &Told)> {
        self.told.iter().map(|(reaction, told)| (*reaction, told))
    }

    /// Its events in the order of cause and effect, as participants, tests and the demo show them.
    pub fn timeline(&self, saga: SagaId) -> Timeline {
        let envelope = |(source, id, seen): (&str, &EventId, &Seen)| Envelope {
            id: id.clone(),
            source: source.to_owned(),
            event_type: seen.event_type.clone(),
            time: seen.time,
            subject: seen.subject.clone(),
            saga,
            causation: seen.causation.clone(),
            step: seen.step.clone(),
            kind: seen.kind,
            ending: seen.ending,
            hops: seen.hops,
            trace: TraceContext { traceparent: seen.traceparent.clone(), tracestate: None },
            extensions: BTreeMap::new(),
            body: seen.reason.as_ref().map(|reason| json!({ "reason": reason }).to_string()).unwrap_or_default().into(),
        };
        Timeline::of(saga, self.events().map(envelope))
    }

    /// More was seen than is kept: what is said of it may be wrong.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Keeps the least by their keys, which is the same whatever came first.
    fn truncate(&mut self) {
        let mut room = MOST_EVENTS;
        for events in self.events.values_mut() {
            self.truncated |= events.len() > room;
            while events.len() > room {
                events.pop_last();
            }
            room -= events.len();
        }
        self.events.retain(|_, events| !events.is_empty());
        self.truncated |= self.told.len() > MOST_TOLD;
        while self.told.len() > MOST_TOLD {
            self.told.pop_last();
        }
    }
}

impl Seen {
    /// The trace that it belongs to.
    pub fn trace_id(&self) -> Option<&str> {
        trace_id(self.traceparent.as_deref()?)
    }

    /// The same event, sent twice: a step that ran again before it committed may have sent it with another time or trace.
    fn merge(&mut self, mut other: Self) {
        let mut places = std::mem::take(&mut self.places);
        places.append(&mut other.places);
        while places.len() > MOST_PLACES {
            places.pop_last();
        }
        if other < *self {
            *self = other;
        }
        self.places = places;
    }
}
