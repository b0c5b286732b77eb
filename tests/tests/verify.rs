//! `docs/verify.md` and the README show what `saga verify` prints. `UPDATE_EXPECT=1` rewrites them.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{fs, path::Path, time::Instant};

use saga_choreography::{Choreography, Code, Options, diff::diff, explore::NOT_MODELLED};
use saga_core::Manifest;
use saga_services::{gateway::GatewayClient, order, payment, shipping};
use serde_json::{Value, json};

const PAGE: &str = "docs/verify.md";

/// The samples as they are.
fn samples() -> Choreography {
    let gateway = GatewayClient::new("http://127.0.0.1:1").unwrap();
    Choreography::of([&order::participant(), &payment::participant(gateway), &shipping::participant()])
}

/// The samples, one member of one manifest changed: `at` is a JSON pointer into the array of manifests.
fn with(choreography: &Choreography, at: &str, value: Value) -> Choreography {
    let mut manifests = serde_json::to_value(&choreography.manifests).unwrap();
    let (parent, member) = at.rsplit_once('/').unwrap();
    manifests.pointer_mut(parent).unwrap()[member] = value;
    Choreography::from(Manifest::read(&manifests.to_string()).unwrap())
}

/// Payment waits for another type, which it knows as it knew the old one.
fn moved() -> Choreography {
    let known = serde_json::to_value(&samples().manifests[1].events["shop.order.placed.v1"]).unwrap();
    let declared = with(&samples(), "/1/events/shop.order.placed.v2", known);
    with(&declared, "/1/steps/0/on", json!(["shop.order.placed.v2"]))
}

fn forgotten() -> Choreography {
    with(&samples(), "/0/steps/0/compensated_on", json!(["shop.payment.declined.v1"]))
}

/// `OrderPlaced` with one more member that is required, as one participant knows it: order (0) writes it, payment (1) reads it.
fn currency(choreography: &Choreography, participant: usize, side: &str) -> Choreography {
    let event = format!("/{participant}/events/shop.order.placed.v1/{side}");
    let manifests = serde_json::to_value(&choreography.manifests).unwrap();
    let mut required = manifests.pointer(&format!("{event}/required")).unwrap().clone();
    required.as_array_mut().unwrap().push(json!("currency"));
    let more = with(choreography, &format!("{event}/properties/currency"), json!({ "type": "string" }));
    with(&more, &format!("{event}/required"), required)
}

/// Payment refunds as soon as the customer wants it.
fn cancellation() -> Choreography {
    let known = serde_json::to_value(&samples().manifests[2].events["shop.order.cancel-requested.v1"]).unwrap();
    let declared = with(&samples(), "/1/events/shop.order.cancel-requested.v1", known);
    with(&declared, "/1/steps/0/compensated_on", json!(["shop.shipment.failed.v1", "shop.order.cancel-requested.v1"]))
}

fn early() -> Choreography {
    let known = serde_json::to_value(&samples().manifests[2].events["shop.payment.charged.v1"]).unwrap();
    let declared = with(&samples(), "/0/events/shop.payment.charged.v1", known);
    with(&declared, "/0/steps/2/on", json!(["shop.payment.charged.v1"]))
}

#[test]
fn the_samples_are_sound_and_the_readme_shows_it() {
    let shown = verified("saga verify order.json payment.json shipping.json", &samples());
    assert!(samples().check().is_empty(), "{shown}");
    generated("README.md", "verify", &shown);
    generated(PAGE, "sound", &shown);
}

#[test]
fn the_page_shows_five_ways_to_break_them() {
    for (name, broken, expected) in [
        ("moved", moved(), Code::Unpublished),
        ("forgotten", forgotten(), Code::NoEnding),
        ("member", currency(&samples(), 1, "reads"), Code::Schema),
        ("cancellation", cancellation(), Code::RawCancellation),
        ("early", early(), Code::TwoEndings),
    ] {
        let findings = broken.check();
        assert!(findings.iter().any(|finding| finding.code == expected), "{name}:\n{findings}");
        generated(PAGE, &format!("broken {name}"), &verified("saga verify *.json", &broken));
    }
}

#[test]
fn the_page_shows_a_change_and_what_is_not_seen() {
    let (old, new) = (samples(), currency(&currency(&samples(), 0, "writes"), 1, "reads"));
    assert!(new.check().is_empty(), "{}", new.check());
    assert!(!diff(&old, &new).safe);
    generated(PAGE, "diff", &format!("```text\n$ saga diff --old deployed/ --new branch/\n{}```\n", diff(&old, &new)));
    let lines: String = NOT_MODELLED.iter().map(|line| format!("- {line}\n")).collect();
    generated(PAGE, "not-modelled", &lines);
    let workflow = fs::read_to_string(root().join("docs/verify.yml")).unwrap();
    generated(PAGE, "ci", &format!("```yaml\n{workflow}```\n"));
}

fn verified(command: &str, choreography: &Choreography) -> String {
    let began = Instant::now();
    let report = choreography.verify(&Options::default());
    format!("```text\n$ {command}\n{}```\n", report.text(began.elapsed()))
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A document is current when it says the same but for how long it took.
fn generated(file: &str, section: &str, content: &str) {
    let timeless = |text: &str| {
        let line = |line: &str| {
            line.rsplit_once(", in ").filter(|(_, time)| time.ends_with('s')).map_or(line, |(said, _)| said).to_owned()
        };
        text.lines().map(line).collect::<Vec<_>>()
    };
    let path = root().join(file);
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {section} -->\n"), format!("<!-- /{section} -->"));
    let (before, rest) = text.split_once(&begin).unwrap();
    let (shown, after) = rest.split_once(&end).unwrap();
    if timeless(shown) == timeless(content) {
        return;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return fs::write(&path, format!("{before}{begin}{content}{end}{after}")).unwrap();
    }
    panic!("{file} is not current in its section {section}; UPDATE_EXPECT=1 rewrites it. Expected:\n{content}");
}
