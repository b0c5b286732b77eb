//! What the tests of the formats draw.

use saga_core::Manifest;
use serde_json::json;

use crate::Choreography;

/// A desk that books a room and pays for it, and a bank that may say no. `name` is put on every name.
fn named(name: impl Fn(&str) -> String) -> Choreography {
    let schema = json!({"type": "object", "properties": {"room": {"$ref": "#/$defs/Room"}}, "$defs": {"Room": {"type": "string"}}});
    let event = |topic: &str, ending: Option<&str>| {
        let mut event = json!({"topic": name(topic), "writes": schema});
        if let Some(ending) = ending {
            event["ending"] = json!(ending);
        }
        event
    };
    let (booked, paid, refused) =
        (name("shop.room.booked.v1"), name("shop.room.paid.v1"), name("shop.room.refused.v1"));
    let (kept, freed) = (name("shop.room.kept.v1"), name("shop.room.freed.v1"));
    let desk = json!({
        "manifest": 1, "participant": name("desk"), "version": name("0.1.0"),
        "steps": [
            {"step": name("book"), "kind": "start", "emits": [booked], "compensated_on": [refused], "compensated": [freed]},
            {"step": name("keep"), "kind": "local", "on": [paid], "emits": [kept]},
        ],
        "events": {
            &booked: event("desk", None), &paid: event("bank", None), &refused: event("bank", None),
            &kept: event("desk", Some("completed")), &freed: event("desk", Some("cancelled")),
        },
    });
    let bank = json!({
        "manifest": 1, "participant": name("bank"), "group": name("till"),
        "steps": [{"step": name("pay"), "kind": "external", "on": [booked], "emits": [paid], "rejects": [refused]}],
        "events": {&booked: event("desk", None), &paid: event("bank", None), &refused: event("bank", None)},
    });
    Choreography { manifests: Manifest::read(&json!([desk, bank]).to_string()).unwrap() }
}

pub(super) fn small() -> Choreography {
    named(str::to_owned)
}

/// Every name has in it what means something in some format.
pub(super) fn hostile() -> Choreography {
    named(|name| format!("{name}\"]|<script>\n}};%%{{end}}#'&\\`\u{1}"))
}

/// That the names change nothing but the names: as many lines and marks as with plain ones.
pub(super) fn assert_escaped(draw: impl Fn(&Choreography) -> String, marks: &[char]) {
    let (plain, hostile) = (draw(&small()), draw(&hostile()));
    assert_eq!(plain.lines().count(), hostile.lines().count(), "{hostile}");
    for mark in marks {
        assert_eq!(plain.matches(*mark).count(), hostile.matches(*mark).count(), "{mark} in {hostile}");
    }
    assert!(hostile.chars().all(|c| c == '\n' || !c.is_control()), "{hostile}");
}
