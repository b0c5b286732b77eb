//! The corpus: broken choreographies that each show their code, and sound ones that show nothing, not even a warning.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{fs, path::PathBuf};

use saga_choreography::{
    Choreography, Code, Finding, Findings,
    explore::{Bounds, explore},
    rules,
};
use saga_core::Manifest;

/// Broken files whose code shows only where sagas are played: it depends on who comes first.
const EXPLORED: &[&str] = &["SG014-cancelled-twice", "SG018-a-no-and-its-compensation", "SG021-a-gift-that-is-refused"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../corpus")
}

/// The files of one kind by name, sorted.
fn files(kind: &str) -> Vec<(String, Choreography)> {
    let mut all: Vec<_> = fs::read_dir(folder().join(kind)).unwrap().map(|file| file.unwrap().path()).collect();
    all.sort();
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let manifests = Manifest::read(&fs::read_to_string(&path).unwrap());
        let manifests = manifests.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        (name, Choreography::from(manifests))
    };
    all.into_iter().map(read).collect()
}

fn judged(choreography: &Choreography) -> Findings {
    Findings::of(rules::findings(&choreography.flow()))
}

fn explored(choreography: &Choreography) -> Vec<Finding> {
    let explored = explore(&choreography.flow(), &Bounds::default());
    assert!(explored.complete);
    explored.findings
}

/// `SG007-a-leg-hears-one-no-only` shows SG007.
fn code(name: &str) -> Code {
    Code::parse(&name[..5]).unwrap_or_else(|| panic!("{name} begins with no code"))
}

#[test]
fn whatever_is_broken_shows_its_code() {
    let mut wrong = String::new();
    for (name, choreography) in files("broken") {
        let found = judged(&choreography);
        let shown = found.iter().any(|finding| finding.code == code(&name));
        if shown == EXPLORED.contains(&name.as_str()) {
            wrong += &format!("{name}: {}\n{found}\n", if shown { "shown without exploring" } else { "not shown" });
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn what_the_rules_leave_open_is_shown_by_playing() {
    for (name, choreography) in files("broken").iter().filter(|(name, _)| EXPLORED.contains(&name.as_str())) {
        let found = explored(choreography);
        assert!(found.iter().any(|finding| finding.code == code(name)), "{name}: {}", Findings::of(found));
    }
}

#[test]
fn what_is_sound_shows_nothing() {
    let mut wrong = String::new();
    for (name, choreography) in files("sound") {
        let found = Findings::of(judged(&choreography).iter().cloned().chain(explored(&choreography)));
        if !found.is_empty() {
            wrong += &format!("{name}:\n{found}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A finding that a reader cannot follow is half a finding.
#[test]
fn a_finding_names_a_participant_and_says_what_to_do() {
    for (name, choreography) in files("broken") {
        for finding in &judged(&choreography) {
            let known = choreography.manifests.iter().any(|manifest| manifest.participant == finding.participant);
            assert!(known, "{name}: no participant is called {}", finding.participant);
            assert!(!finding.message.ends_with('.') && !finding.fix.is_empty(), "{name}: {finding}");
        }
    }
}

/// `UPDATE_EXPECT=1` rewrites it.
#[test]
fn the_table_of_the_corpus_is_current() {
    let path = folder().join("README.md");
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- corpus -->\n", "<!-- /corpus -->");
    let (before, rest) = text.split_once(begin).unwrap();
    let (shown, after) = rest.split_once(end).unwrap();
    let mut table = "| broken | code | title |\n|---|---|---|\n".to_owned();
    for (name, _) in files("broken") {
        let code = code(&name);
        table += &format!("| [{}](broken/{name}.json) | {code} | {} |\n", name[6..].replace('-', " "), code.title());
    }
    table += "\n| sound | participants |\n|---|---|\n";
    for (name, choreography) in files("sound") {
        let who: Vec<&str> = choreography.manifests.iter().map(|manifest| manifest.participant.as_str()).collect();
        table += &format!("| [{}](sound/{name}.json) | {} |\n", name.replace('-', " "), who.join(", "));
    }
    if shown == table {
        return;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return fs::write(&path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    }
    panic!("corpus/README.md is not current; UPDATE_EXPECT=1 rewrites it. Expected:\n{table}");
}
