//! What the documents say of the code is printed by the code. `UPDATE_EXPECT=1` rewrites the documents.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{fs, path::Path};

use saga_choreography::Choreography;
use saga_core::{
    harness::{Point, Rule},
    manifest,
};
use saga_services::{gateway::GatewayClient, order, payment, shipping};

#[test]
fn the_readme_shows_the_choreography_of_the_samples() {
    let gateway = GatewayClient::new("http://127.0.0.1:1").unwrap();
    let cast = [order::participant(), payment::participant(gateway), shipping::participant()];
    let choreography = Choreography::of(&cast);
    let shown =
        format!("```mermaid\n{}```\n\n{}", choreography.to_mermaid(), manifest::to_table(&choreography.manifests));
    generated("README.md", "choreography", &shown);
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
