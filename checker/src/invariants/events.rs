//! I6 and I7: nothing was published that was not committed, and everything that was committed is published.

use super::{Check, Invariant, Saga};
use crate::observed::{Event, Ledger};

impl Check<'_> {
    /// I6: the event that caused it is in a topic, and its step's row says that it did what the event tells.
    pub(super) fn caused(&mut self) {
        self.each(Invariant::Caused, |saga| {
            let mut wrong = Vec::new();
            for event in &saga.events {
                let Event { id, event_type, step, causation, .. } = event;
                match causation {
                    Some(cause) if !saga.events.iter().any(|other| other.id == *cause) => {
                        wrong.push(format!("{event_type} {id} was caused by {cause}, which is in no topic"));
                    }
                    None if event.hops > 0 || step != "place-order" => {
                        wrong.push(format!("{event_type} {id} was caused by nothing"));
                    }
                    _ => {}
                }
                let why = match saga.row(event.participant(), step) {
                    None => "there is no such row in the ledger".to_owned(),
                    Some(row) if !tells(row, event) => format!("the ledger has {row:?}"),
                    Some(_) => continue,
                };
                wrong.push(format!("{} {step} {} emitted {event_type} {id}, but {why}", event.source, event.outcome));
            }
            wrong
        });
    }

    /// I7: no row in an outbox, and the event of every row of a ledger is in its topic.
    pub(super) fn published(&mut self) {
        let mut left = Vec::new();
        for (participant, tables) in &self.observed.participants {
            for row in &tables.outbox {
                let why = row.refused.as_deref().unwrap_or("nobody took it");
                left.push((row.key.clone(), format!("left in the outbox of {participant} for {}: {why}", row.topic)));
            }
        }
        for (saga, what) in left {
            self.violate(Invariant::Published, &saga, what);
        }
        self.each(Invariant::Published, |saga| {
            saga.ledger.iter().flat_map(|(participant, row)| unpublished(saga, participant, row)).collect()
        });
    }
}

/// Whether the row says what the event says.
fn tells(row: &Ledger, event: &Event) -> bool {
    let states: &[&str] = match event.outcome.as_str() {
        "done" => &["done", "compensating", "compensated"],
        "rejected" if row.rejecting => &["compensated"],
        // A no of another system is closed, too, when a compensation comes: nobody knows what else travels.
        "rejected" => &["rejected", "void", "compensating", "compensated"],
        "compensated" => &["compensated"],
        "nothingdone" => &["void"],
        _ => &[],
    };
    let forward = event.direction() == "forward";
    // A request and a start have no trigger but themselves.
    let trigger = event.causation.as_ref() == Some(&row.trigger_id) || row.trigger_id == event.id;
    // What a compensation removed from the row cannot be compared any more.
    let record = row.record_type.as_ref().is_none_or(|record| *record == event.event_type);
    states.contains(&row.state.as_str()) && (!forward || (trigger && record))
}

fn unpublished(saga: &Saga<'_>, participant: &str, row: &Ledger) -> Vec<String> {
    let mut missing = Vec::new();
    let mine = |event: &&&Event| event.participant() == participant && event.step == row.step;
    let mut expect = |what: &str, there: bool| {
        if !there {
            missing.push(format!("{participant} {} is {}, and its {what} is in no topic", row.step, row.state));
        }
    };
    let with = |outcome: &str| saga.events.iter().filter(mine).any(|event| event.outcome == outcome);
    // While its call is being closed, a rejection is only recorded.
    if let Some(record) = row.record_type.as_ref().filter(|_| !(row.rejecting && row.state == "compensating")) {
        let body = row.record_body.as_deref().unwrap_or_default();
        let there = saga.events.iter().filter(mine).any(|event| event.event_type == *record && event.body == body);
        expect(&format!("record {record}"), there);
    }
    match row.state.as_str() {
        "compensated" if !row.rejecting => expect("compensation", with("compensated")),
        "void" => expect("compensation", with("nothingdone")),
        _ => {}
    }
    if let Some(ending) = &row.ending {
        let there = saga.events.iter().filter(mine).any(|event| event.ending.as_ref() == Some(ending));
        expect(&format!("ending {ending}"), there);
    }
    missing
}
