//! What is said of a code is true: its example is wrong in this way.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{fs, path::Path};

use saga_choreography::{Choreography, Code, Options, explain, explore::Bounds};
use saga_core::Manifest;
use serde_json::{Value, json};

/// An excerpt as a manifest: events that it leaves out are in a topic of their publisher, and end sagas where their names say so.
fn whole(mut excerpt: Value) -> Manifest {
    let mut events = excerpt.get("events").cloned().unwrap_or_else(|| json!({}));
    for step in excerpt["steps"].as_array().unwrap() {
        let named = ["on", "emits", "rejects", "compensated_on", "compensated"];
        for name in named.iter().filter_map(|list| step.get(list)).flat_map(|list| list.as_array().unwrap()) {
            let name = name.as_str().unwrap();
            let mut event = json!({ "topic": name.split('.').next().unwrap() });
            for ending in ["completed", "cancelled"].iter().filter(|ending| name.contains(&format!(".{ending}."))) {
                event["ending"] = json!(ending);
            }
            events.as_object_mut().unwrap().entry(name).or_insert(event);
        }
    }
    excerpt["manifest"] = json!(1);
    excerpt["events"] = events;
    Manifest::read(&excerpt.to_string()).unwrap().remove(0)
}

fn example(code: Code) -> Option<Vec<Manifest>> {
    let (_, json) = code.section("Example").split_once("```json\n")?;
    let excerpts: Vec<Value> = serde_json::from_str(json.split_once("```").unwrap().0).unwrap();
    Some(excerpts.into_iter().map(whole).collect())
}

#[test]
fn every_example_is_wrong_in_the_way_that_it_shows() {
    let mut wrong = Vec::new();
    for code in Code::ALL.iter().copied().filter(|code| *code != Code::NotExplored) {
        let found = Choreography::from(example(code).unwrap()).check();
        if !found.iter().any(|finding| finding.code == code) {
            wrong.push(format!("the example of {code} shows instead:\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_bound_that_is_too_small_is_told() {
    let explore = Some(Bounds { states: 2 });
    let choreography = Choreography::from(example(Code::TwoEndings).unwrap());
    let report = choreography.verify(&Options { explore, ..Options::default() });
    assert!(report.findings.iter().any(|finding| finding.code == Code::NotExplored), "{}", report.findings);
    assert!(!report.not_covered().is_empty());
    assert!(example(Code::NotExplored).is_none(), "it has an example that this test should play");
}

#[test]
fn the_page_of_codes_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/codes.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, explain::page()).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == explain::page(),
        "docs/codes.md is not current; UPDATE_EXPECT=1 rewrites it"
    );
}
