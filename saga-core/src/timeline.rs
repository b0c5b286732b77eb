//! A saga as text: one line per event, in the order of cause and effect. Used by tests as their expectation, by the demo as its
//! output, and by people who ask what became of order 4711.
//!
//! ```text
//! order     place-order      OrderPlaced
//! payment   charge-customer  OrderPlaced     -> PaymentCharged
//! shipping  ship-order       PaymentCharged  -> ShipmentFailed   rejected: out of stock
//! payment   charge-customer  ShipmentFailed  -> PaymentRefunded  compensated
//! order     place-order      PaymentRefunded -> OrderCancelled   compensated, cancelled
//! ```

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashSet},
    fmt,
};

use crate::{
    envelope::{Envelope, Kind, clip},
    event::Ending,
    id::{EventId, SagaId},
};

/// One event of a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who emitted it.
    pub participant: String,
    /// With which step.
    pub step: String,
    /// The short name of what caused it; `None` for the start.
    pub on: Option<String>,
    /// The short name of the event.
    pub event: String,
    /// Its id.
    pub id: EventId,
    /// What it is the outcome of.
    pub kind: Kind,
    /// The `reason` field of its body, where there is one.
    pub reason: Option<String>,
    /// Set where it closes the saga.
    pub ending: Option<Ending>,
    /// When it was emitted, in milliseconds since the Unix epoch.
    pub time: Option<i64>,
}

/// The events of one saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// Whose.
    pub saga: SagaId,
    /// Causes before effects.
    pub entries: Vec<Entry>,
}

impl Timeline {
    /// Sorts the events of one saga, wherever they were read. The same event read twice counts once; the order in which they
    /// are given does not matter.
    ///
    /// The same event has the same id and the same source (CloudEvents 1.0, `id`). A step that ran again before it committed may
    /// have sent it with another time or another trace: then the earliest is shown.
    pub fn of(saga: SagaId, events: impl IntoIterator<Item = Envelope>) -> Self {
        let mut events: Vec<Envelope> = events.into_iter().filter(|event| event.saga == saga).collect();
        events.sort_by(reading_order);
        events.dedup_by(|later, kept| later.id == kept.id && later.source == kept.source);
        // A cause is named by its id alone; where two sources took the same one, by the first of them.
        let mut by_id: BTreeMap<&EventId, &Envelope> = BTreeMap::new();
        for event in &events {
            by_id.entry(&event.id).or_insert(event);
        }
        let mut left: Vec<&Envelope> = events.iter().collect();
        left.sort_by_key(|event| (event.hops, &event.source, &event.step, &event.id));
        let mut entries = Vec::with_capacity(left.len());
        let mut placed = HashSet::new();
        // Each round places what is caused by something placed (or by something that was not read): a forest, top down.
        while !left.is_empty() {
            let next = left.iter().position(|event| match &event.causation {
                Some(cause) => placed.contains(cause) || !by_id.contains_key(cause),
                None => true,
            });
            let event = left.remove(next.unwrap_or(0));
            placed.insert(&event.id);
            let on = event.causation.as_ref().map(|cause| match by_id.get(cause) {
                Some(cause) => short(&cause.event_type),
                None => format!("({})", clip(&cause.0, 8)),
            });
            entries.push(Entry {
                participant: event.source.trim_start_matches('/').to_owned(),
                step: event.step.clone().unwrap_or_default(),
                on,
                event: short(&event.event_type),
                id: event.id.clone(),
                kind: event.kind.unwrap_or(Kind::Done),
                reason: reason(&event.body),
                ending: event.ending,
                time: event.time,
            });
        }
        Self { saga, entries }
    }

    /// How the saga ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        self.entries.iter().find_map(|entry| entry.ending)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |of: fn(&Entry) -> usize| self.entries.iter().map(of).max().unwrap_or(0);
        let participant = width(|entry| entry.participant.len());
        let step = width(|entry| entry.step.len());
        let on = width(|entry| entry.on.as_deref().map_or(0, str::len));
        let event = width(|entry| if entry.on.is_some() { entry.event.len() } else { 0 });
        for entry in &self.entries {
            let arrow = match &entry.on {
                Some(cause) => format!("{cause:on$} -> {:event$}", entry.event),
                None => entry.event.clone(),
            };
            let notes = entry.notes();
            let line = format!("{:participant$}  {:step$}  {arrow}  {notes}", entry.participant, entry.step);
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl Entry {
    /// What is worth saying besides the event itself, such as `rejected: out of stock` or `compensated, cancelled`.
    pub fn notes(&self) -> String {
        let kind = match self.kind {
            Kind::Done => None,
            Kind::Rejected => Some(match &self.reason {
                Some(reason) => format!("rejected: {reason}"),
                None => "rejected".to_owned(),
            }),
            Kind::Compensated => Some("compensated".to_owned()),
            Kind::NothingDone => Some("nothing done".to_owned()),
        };
        let ending = self.ending.map(|ending| ending.to_string());
        kind.into_iter().chain(ending).collect::<Vec<_>>().join(", ")
    }
}

/// By identity, then the earliest first. It compares everything, so two events that it takes for equal are equal.
fn reading_order(one: &Envelope, other: &Envelope) -> Ordering {
    fn first(event: &Envelope) -> impl Ord + '_ {
        let said = (event.kind.map(Kind::as_str), event.ending.map(Ending::as_str), &event.subject, &event.body);
        let trace = (&event.trace.traceparent, &event.trace.tracestate);
        let caused = (event.hops, &event.causation, &event.step);
        (&event.id, &event.source, event.time, &event.event_type, caused, said, trace, &event.extensions)
    }
    first(one).cmp(&first(other))
}

/// `shop.payment.charged.v1` becomes `PaymentCharged`: the domain before and the version after are the same for all.
pub fn short(event_type: &str) -> String {
    let parts: Vec<&str> = event_type.split('.').collect();
    let is_version =
        |part: &&str| part.len() > 1 && part.starts_with('v') && part[1..].bytes().all(|b| b.is_ascii_digit());
    let end = if parts.last().is_some_and(is_version) { parts.len() - 1 } else { parts.len() };
    let start = end.saturating_sub(2);
    parts[start..end]
        .iter()
        .flat_map(|part| part.split(['-', '_']))
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
        })
        .collect()
}

/// By convention an event that says no says why in a text field `reason`. Shown on one line, cut to a bounded length.
pub fn reason(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Reason {
        reason: Option<String>,
    }
    let reason = serde_json::from_slice::<Reason>(body).ok()?.reason?;
    let line: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(clip(&line, 200).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_has_a_short_name() {
        assert_eq!(short("shop.payment.charged.v1"), "PaymentCharged");
        assert_eq!(short("shop.stock-item.sold_out.v12"), "StockItemSoldOut");
        assert_eq!(short("Paid"), "Paid");
    }
}
