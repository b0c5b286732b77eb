//! What the documents say of the code is printed by the code. `UPDATE_EXPECT=1` rewrites the documents.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{fs, path::Path};

use saga_core::Choreography;
use saga_services::{gateway::GatewayClient, order, payment, shipping};

#[test]
fn the_readme_shows_the_choreography_of_the_samples() {
    let gateway = GatewayClient::new("http://127.0.0.1:1").unwrap();
    let cast = [order::participant(), payment::participant(gateway), shipping::participant()];
    let choreography = Choreography::of(&cast);
    let shown = format!("```mermaid\n{}```\n\n{}", choreography.to_mermaid(), choreography.to_table());
    generated("README.md", "choreography", &shown);
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
