//! What a change does to sagas under way: each case is one small edit of one choreography.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use saga_choreography::{
    Choreography,
    diff::{ChangeCode, Diff, diff},
};
use saga_core::Manifest;
use serde_json::{Value, json};

/// Order starts, payment charges and takes the charge back when shipping says no.
fn shop() -> Value {
    let body = json!({ "type": "object", "properties": { "id": { "type": "string" } }, "required": ["id"] });
    let event = |topic: &str, sides: &[&str]| {
        let mut event = json!({ "topic": topic });
        for side in sides {
            event[*side] = body.clone();
        }
        event
    };
    json!([
        { "manifest": 1, "participant": "order",
          "steps": [
            { "step": "place", "kind": "start", "emits": ["placed"], "compensated_on": ["refunded"], "compensated": ["cancelled"] },
            { "step": "complete", "kind": "local", "on": ["shipped"], "emits": ["completed"] }],
          "events": { "placed": event("order", &["writes", "reads"]), "refunded": event("payment", &["reads"]),
            "shipped": event("shipping", &["reads"]),
            "completed": { "topic": "order", "ending": "completed" }, "cancelled": { "topic": "order", "ending": "cancelled" } } },
        { "manifest": 1, "participant": "payment",
          "steps": [{ "step": "charge", "kind": "local", "on": ["placed"], "emits": ["charged"], "compensated_on": ["failed"], "compensated": ["refunded"] }],
          "events": { "placed": event("order", &["reads"]), "charged": event("payment", &["writes", "reads"]),
            "failed": event("shipping", &["reads"]), "refunded": event("payment", &["writes"]) } },
        { "manifest": 1, "participant": "shipping",
          "steps": [{ "step": "ship", "kind": "gate", "on": ["charged"], "emits": ["shipped"], "rejects": ["failed"] }],
          "events": { "charged": event("payment", &["reads"]), "shipped": event("shipping", &["writes"]), "failed": event("shipping", &["writes"]) } }
    ])
}

fn choreography(manifests: &Value) -> Choreography {
    Choreography::from(Manifest::read(&manifests.to_string()).unwrap())
}

/// The shop against the shop with edits: JSON pointers to members that are set.
fn edited(edits: &[(&str, Value)]) -> Diff {
    let mut new = shop();
    for (at, value) in edits {
        let (parent, member) = at.rsplit_once('/').unwrap();
        match new.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[member.parse::<usize>().unwrap()] = value.clone(),
            object => object[member] = value.clone(),
        }
    }
    diff(&choreography(&shop()), &choreography(&new))
}

fn codes(diff: &Diff) -> Vec<ChangeCode> {
    diff.changes.iter().map(|change| change.code).collect()
}

/// The order as `1 shipping, 2 payment`.
fn order(diff: &Diff) -> String {
    diff.order.iter().map(|d| format!("{} {}", d.turn, d.participant)).collect::<Vec<_>>().join(", ")
}

fn more(required: bool) -> Value {
    let required = if required { json!(["id", "more"]) } else { json!(["id"]) };
    json!({ "type": "object", "properties": { "id": { "type": "string" }, "more": { "type": "string" } }, "required": required })
}

#[test]
fn no_change_is_safe() {
    let same = edited(&[]);
    assert!(same.safe && same.changes.is_empty() && same.order.is_empty());
    assert_eq!(same.to_string(), "nothing changes for what runs\n");
    let version = edited(&[("/0/version", json!("2"))]);
    assert_eq!(version.to_string(), "nothing changes for what runs\n");
}

#[test]
fn each_unsafe_change_has_its_code() {
    use ChangeCode::*;
    let cases: [(ChangeCode, &[(&str, Value)]); 13] = [
        (Unreadable, &[("/1/events/placed/reads", more(true)), ("/0/events/placed/writes", more(true))]),
        (Moved, &[("/2/events/shipped/topic", json!("parcels"))]),
        (Moved, &[("/0/events/completed/ending", json!("cancelled"))]),
        (RecordUnreadable, &[("/1/events/charged/reads", more(true)), ("/1/events/charged/writes", more(true))]),
        (
            StepGone,
            &[("/0/steps/1", json!({ "step": "thank", "kind": "local", "on": ["charged"], "emits": ["completed"] }))],
        ),
        (StepRenamed, &[("/1/steps/0/step", json!("charge-card"))]),
        (TriggerGone, &[("/1/steps/0/on", json!(["refunded"]))]),
        (CompensationGone, &[("/1/steps/0/compensated_on", json!([]))]),
        (CompensationNew, &[("/1/steps/0/compensated_on", json!(["failed", "shipped"]))]),
        (KindChanged, &[("/1/steps/0/kind", json!("external"))]),
        (RetryBounded, &[("/1/steps/0/retry", json!({ "first_ms": 1, "cap_ms": 1, "attempts": 3 }))]),
        (JoinsChanged, &[("/1/steps/0/joins", json!(["other"]))]),
        (GroupChanged, &[("/1/group", json!("payment-2"))]),
    ];
    for (code, edits) in cases {
        let found = edited(edits);
        let change = found.changes.iter().find(|change| change.code == code);
        let change = change.unwrap_or_else(|| panic!("no {code} of {edits:?}:\n{found}"));
        assert_eq!(
            found.safe,
            found.changes.iter().all(|change| change.code.severity() < saga_choreography::Severity::Error)
        );
        assert!(found.to_string().contains(&format!("[{code}]: {}", change.message)), "{found}");
    }
}

#[test]
fn a_step_that_says_what_it_was_formerly_called_is_the_same_step() {
    let renamed = edited(&[("/1/steps/0/step", json!("charge-card")), ("/1/steps/0/formerly", json!(["charge"]))]);
    assert!(renamed.safe && renamed.changes.is_empty(), "{renamed}");
    assert_eq!(order(&renamed), "1 payment");
}

#[test]
fn a_participant_that_is_gone_is_unsafe() {
    let mut new = shop();
    new.as_array_mut().unwrap().remove(2);
    let gone = diff(&choreography(&shop()), &choreography(&new));
    assert!(codes(&gone).contains(&ChangeCode::ParticipantGone) && !gone.safe, "{gone}");
}

#[test]
fn who_hears_a_new_event_goes_first() {
    let new = edited(&[
        ("/0/steps/0/emits", json!(["placed", "gifted"])),
        ("/1/steps/0/on", json!(["placed", "gifted"])),
        ("/0/events/gifted", json!({ "topic": "order" })),
        ("/1/events/gifted", json!({ "topic": "order" })),
    ]);
    assert!(new.safe, "{new}");
    assert_eq!(order(&new), "1 payment, 2 order");
    assert_eq!(new.order[0].because, ["it hears Gifted before order publishes it"]);
}

#[test]
fn who_stops_publishing_goes_before_who_stops_hearing() {
    let new = edited(&[("/2/steps/0/rejects", json!([])), ("/1/steps/0/compensated_on", json!([]))]);
    assert_eq!(order(&new), "1 shipping, 2 payment");
    assert!(codes(&new).contains(&ChangeCode::CompensationGone), "sagas under way still bring it:\n{new}");
}

#[test]
fn an_optional_member_is_read_before_it_is_written() {
    let mut refusing = more(false);
    refusing["properties"].as_object_mut().unwrap().remove("more");
    refusing["additionalProperties"] = json!(false);
    let mut old = shop();
    old[1]["events"]["placed"]["reads"] = refusing;
    let mut new = old.clone();
    new[1]["events"]["placed"]["reads"] = more(false);
    new[0]["events"]["placed"]["writes"] = more(true);
    let diff = diff(&choreography(&old), &choreography(&new));
    assert!(diff.safe, "{diff}");
    assert_eq!(order(&diff), "1 payment, 2 order");
}

#[test]
fn two_that_wait_for_each_other_have_no_order() {
    let new = edited(&[
        ("/0/steps/0/emits", json!(["placed", "gifted"])),
        ("/1/steps/0/on", json!(["placed", "gifted"])),
        ("/0/events/gifted", json!({ "topic": "order" })),
        ("/1/events/gifted", json!({ "topic": "order" })),
        ("/1/steps/0/emits", json!(["charged", "given"])),
        ("/0/steps/1/on", json!(["shipped", "given"])),
        ("/1/events/given", json!({ "topic": "payment" })),
        ("/0/events/given", json!({ "topic": "payment" })),
    ]);
    assert_eq!(codes(&new), [ChangeCode::NoOrder]);
    assert!(!new.safe && new.order.is_empty());
}

#[test]
fn codes_have_one_name() {
    for (i, code) in ChangeCode::ALL.iter().enumerate() {
        assert_eq!(code.name(), format!("SD{:03}", i + 1));
    }
}
