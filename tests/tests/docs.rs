//! What the documents say of the code is printed by the code. `UPDATE_EXPECT=1` rewrites the documents.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{fs, path::Path};

use saga_choreography::Choreography;
use saga_core::{
    Manifest,
    harness::{Point, Rule},
};
use saga_services::{gateway::GatewayClient, order, payment, shipping};

fn samples() -> Choreography {
    let gateway = GatewayClient::new("http://127.0.0.1:1").unwrap();
    Choreography::of(&[order::participant(), payment::participant(gateway), shipping::participant()])
}

#[test]
fn the_readme_shows_the_choreography_of_the_samples() {
    let choreography = samples();
    let shown = format!("```mermaid\n{}```\n\n{}", choreography.to_mermaid(), choreography.to_table());
    generated("README.md", "choreography", &shown);
}

/// `tests/asyncapi.rs` has the document and the schema read by other people's tools.
#[test]
fn the_samples_are_drawn_in_every_format() {
    let choreography = samples();
    whole("docs/choreography.svg", &choreography.to_svg());
    whole("docs/choreography.asyncapi.json", &format!("{:#}\n", choreography.to_asyncapi()));
    generated("docs/pictures.md", "mermaid", &format!("```mermaid\n{}```\n", choreography.to_mermaid()));
    generated("docs/pictures.md", "sequence", &choreography.to_sequences().unwrap());
    generated("docs/pictures.md", "dot", &format!("```dot\n{}```\n", choreography.to_dot()));
    generated("docs/pictures.md", "table", &choreography.to_table());
}

#[test]
fn the_schema_of_manifests_is_committed() {
    whole("docs/manifest.schema.json", &format!("{:#}\n", Manifest::json_schema()));
}

/// `tests/simulation.rs: nothing_is_violated_and_everything_happens` fails when one of these points is never crashed at.
#[test]
fn the_architecture_shows_where_a_process_may_die_and_what_is_left_then() {
    let mut shown = "| dies at | in the transaction | what is left, and what repairs it |\n|---|---|---|\n".to_owned();
    for point in Point::ALL {
        let inside = if point.in_transaction() { "yes" } else { "" };
        shown += &format!("| `{}` | {inside} | {} |\n", point.name(), point.leaves());
    }
    generated("ARCHITECTURE.md", "points", &shown);
}

/// `tests/simulation.rs: every_rule_has_a_control` fails when one of these rules is never broken.
#[test]
fn the_architecture_shows_which_rules_are_broken_on_purpose() {
    let mut shown = "| rule | broken on purpose |\n|---|---|\n".to_owned();
    for rule in Rule::ALL {
        shown += &format!("| `{}` | {} |\n", rule.name(), rule.breaks());
    }
    generated("ARCHITECTURE.md", "rules", &shown);
}

/// A file that is printed as a whole.
fn whole(file: &str, content: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    if fs::read_to_string(&path).is_ok_and(|shown| shown == content) {
        return;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return fs::write(&path, content).unwrap();
    }
    panic!("{file} is not current; UPDATE_EXPECT=1 rewrites it");
}

fn generated(file: &str, section: &str, content: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {section} -->\n"), format!("<!-- /{section} -->"));
    let (before, rest) = text.split_once(&begin).unwrap();
    let (shown, after) = rest.split_once(&end).unwrap();
    if shown == content {
        return;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return fs::write(&path, format!("{before}{begin}{content}{end}{after}")).unwrap();
    }
    panic!("{file} is not current in its section {section}; UPDATE_EXPECT=1 rewrites it. Expected:\n{content}");
}
