//! `saga work show`: one waiting row whole.

use std::process::ExitCode;

use anyhow::bail;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use saga_core::{
    clock::Clock,
    envelope::trace_id,
    id::ReactionId,
    store::{WorkRow, WorkState},
};
use serde_json::{Value, json};

use crate::{
    database::Participant,
    text::{bytes, moment, plain},
    work::{Saga, Waiting},
};

/// How much of a body is shown, in characters: a screen full.
const BODY: usize = 4_000;

/// The row of this reaction, at whichever participant it waits.
pub(crate) async fn find(
    participants: &[Participant],
    reaction: ReactionId,
) -> anyhow::Result<(&Participant, WorkRow)> {
    for participant in participants {
        if let Some(row) = participant.store.work_row(reaction).await? {
            return Ok((participant, row));
        }
    }
    let names: Vec<_> = participants.iter().map(|participant| participant.name.as_str()).collect();
    bail!(
        "no reaction {} waits at {}: it was settled, discarded (see saga work --discarded), or waits at another participant",
        reaction.0,
        names.join(", ")
    )
}

pub(crate) async fn show(participants: &[Participant], reaction: ReactionId, json: bool) -> anyhow::Result<ExitCode> {
    let (participant, row) = find(participants, reaction).await?;
    let behind = Saga::default().behind(participant, &row).await?;
    let waiting = Waiting::of(participant, &row, behind, Clock::system().now());
    let ledger = participant.store.ledger(row.saga).await?.into_iter().find(|ledger| ledger.step == row.step);
    let ledger_state = ledger.as_ref().map(|ledger| ledger.state.as_str());
    if json {
        let mut whole = serde_json::to_value(&waiting)?;
        whole["ledger"] = json!(ledger_state);
        whole["lease_owner"] = json!(row.lease_owner.map(|owner| owner.to_string()));
        whole["trace"] = json!(trace(&row));
        whole["failures"] = failures(&row);
        whole["message"] = message(&row);
        println!("{}", serde_json::to_string_pretty(&whole)?);
        return Ok(ExitCode::SUCCESS);
    }
    let delivery = &row.delivery;
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let event = saga_core::envelope::event_type(delivery).map(|name| plain(&name, 200));
    let lines = [
        ("reaction", row.id.0.to_string()),
        ("participant", participant.name.clone()),
        ("saga", if row.saga.0.is_nil() { "-".to_owned() } else { row.saga.to_string() }),
        ("step", format!("{} ({})", if row.step.is_empty() { "-" } else { &row.step }, row.direction)),
        ("event", dash(event)),
        ("state", row.state.as_str().to_owned()),
        ("why", waiting.why()),
        ("attempts", row.attempts.to_string()),
        ("since", moment(row.since)),
        ("due", dash(row.due_at.map(moment))),
        ("ledger", ledger_state.unwrap_or("no row: the step has not run").to_owned()),
        ("trace", dash(trace(&row))),
        ("message", format!("{} partition {} offset {}", delivery.topic, delivery.partition, delivery.offset)),
        ("key", dash(delivery.key.as_deref().map(|key| bytes(key, 200)))),
    ];
    for (name, value) in lines {
        println!("{name:<12} {value}");
    }
    println!("failures");
    for failure in &row.failures {
        println!("  {}  attempt {}  {}", moment(failure.at), failure.attempt, plain(&failure.error, 600));
    }
    println!("headers");
    for (name, value) in &delivery.headers {
        println!("  {}: {}", plain(name, 100), bytes(value, 300));
    }
    println!("body ({} bytes)", delivery.body.len());
    println!("  {}", bytes(&delivery.body, BODY));
    if row.state == WorkState::Stuck {
        let id = row.id.0;
        println!("next: saga redrive --reaction {id}, or saga discard --reaction {id} --reason '..'");
    }
    Ok(ExitCode::SUCCESS)
}

/// The trace that the message belongs to.
fn trace(row: &WorkRow) -> Option<String> {
    let (_, value) = row.delivery.headers.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case("traceparent"))?;
    trace_id(std::str::from_utf8(value).ok()?).map(ToOwned::to_owned)
}

pub(crate) fn failures(row: &WorkRow) -> Value {
    let failure = |failure: &saga_core::store::FailedAttempt| json!({"at": moment(failure.at), "attempt": failure.attempt, "error": failure.error});
    row.failures.iter().map(failure).collect()
}

/// The message as it came. What is text is there as text, everything else in base64.
pub(crate) fn message(row: &WorkRow) -> Value {
    let delivery = &row.delivery;
    let any = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({"base64": BASE64_STANDARD.encode(bytes)}),
    };
    json!({
        "topic": &*delivery.topic,
        "partition": delivery.partition,
        "offset": delivery.offset,
        "key": delivery.key.as_deref().map(any),
        "headers": delivery.headers.iter().map(|(name, value)| json!([name, any(value)])).collect::<Vec<_>>(),
        "body": any(&delivery.body),
    })
}
