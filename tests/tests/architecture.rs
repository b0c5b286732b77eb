//! The layers: dependencies point one way, and a name appears only where it belongs.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// From the bottom up; each may use those below it, and not those beside it.
const LAYERS: [&[&str]; 8] = [
    &["saga-compensation"],
    &["saga-core"],
    &["saga-choreography"],
    &["saga-observer"],
    &["saga-tracing"],
    &["saga-services", "saga-cli"],
    &["saga-tests"],
    &["xtask"],
];

/// Checks what the others left behind, so it shares nothing with them: a mistake here must not be repeated there.
const CHECKER: &str = "saga-checker";

#[test]
fn dependencies_point_one_way() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = std::process::Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let level = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), LAYERS.concat().len() + 1, "a new package belongs into the list of layers");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        if name == CHECKER {
            let uses: Vec<&str> =
                package["dependencies"].as_array().unwrap().iter().filter_map(|d| d["name"].as_str()).collect();
            assert!(uses.len() > 3 && uses.iter().all(|other| level(other).is_none()), "the checker uses {uses:?}");
            continue;
        }
        let own = level(name).unwrap_or_else(|| panic!("{name} is in no layer"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = dependency["name"].as_str().unwrap();
            assert_ne!(other, CHECKER, "{name} must not use what checks it");
            if let Some(below) = level(other) {
                assert!(below < own, "{name} must not depend on {other}");
            }
            let normal = dependency["kind"].is_null();
            assert!(!(normal && name == "saga-compensation"), "the verdicts depend on nothing, not on {other}");
        }
    }
}

#[test]
fn a_name_appears_only_where_it_belongs() {
    let rules: [(&str, &[&str]); 4] = [
        ("rdkafka", &["saga-core/src/transport/kafka/", "saga-core/src/transport/embedded.rs", "checker/src/"]),
        // Steps and their transaction are sqlx's to users; an error of it tells a conflict from a failure.
        (
            "sqlx",
            &[
                "saga-core/src/store/",
                "saga-core/src/error.rs",
                "saga-core/src/step.rs",
                "saga-core/src/pipeline.rs",
                "saga-core/src/reaction.rs",
                "services/src/", // user code
                "observer/src/store.rs",
                "tests/src/",
                "xtask/src/",
                "checker/src/",
            ],
        ),
        ("opentelemetry", &["tracing/src/", "tests/src/otlp.rs"]),
        // The verdicts, and whatever is asked inside a transaction without being part of it, do no I/O and read no clock.
        ("SystemTime::now", &["saga-core/src/clock.rs"]),
    ];
    for (name, allowed) in rules {
        for (file, code) in sources() {
            if allowed.iter().any(|place| file.starts_with(place)) {
                continue;
            }
            if let Some(line) = code.iter().position(|line| line.contains(name)) {
                panic!("{file}:{} names {name}, which belongs to {allowed:?}", line + 1);
            }
        }
    }
}

#[test]
fn what_is_pure_stays_pure() {
    let pure = ["compensation/src/", "saga-core/src/retry.rs", "saga-core/src/envelope/"];
    let pure = [&pure[..], &["choreography/src/", "saga-core/src/manifest.rs", "saga-core/src/timeline.rs"]].concat();
    let impure = ["tokio::", "std::fs", "std::net", "::now()", ".await", "async "];
    let mut seen = 0;
    for (file, code) in sources().into_iter().filter(|(file, _)| pure.iter().any(|place| file.starts_with(place))) {
        seen += 1;
        for (number, line) in code.iter().enumerate() {
            let found = impure.iter().find(|word| line.contains(**word));
            assert!(found.is_none(), "{file}:{}: {line}", number + 1);
        }
    }
    assert!(seen >= 8, "the pure files have moved");
}

#[test]
fn a_file_says_what_it_is_for() {
    for (file, _) in sources() {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        assert!(text.starts_with("//!"), "{file} does not open with what it is for");
        let name = Path::new(&file).file_stem().unwrap().to_str().unwrap();
        assert!(!["utils", "util", "common", "helpers", "manager"].contains(&name), "{file} is no noun");
    }
}

#[test]
fn the_scanner_sees_code_and_nothing_else() {
    let code = strip("//! rdkafka\nuse sqlx; // opentelemetry\n#[cfg(test)]\nmod tests { rdkafka }\n");
    assert_eq!(code, ["", "use sqlx; "]);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source file of every package, with its lines of code.
fn sources() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let folders = [
        "compensation",
        "saga-core",
        "choreography",
        "observer",
        "tracing",
        "services",
        "saga-cli",
        "tests",
        "checker",
        "xtask",
    ];
    let mut folders: Vec<PathBuf> = folders.iter().map(|package| root().join(package).join("src")).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                let code = strip(&fs::read_to_string(&path).unwrap());
                found.push((name, code));
            }
        }
    }
    assert!(found.len() > 40, "only {} files were found", found.len());
    found
}

/// The lines without comments, up to the tests.
fn strip(text: &str) -> Vec<String> {
    let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    lines.map(|line| line.split("//").next().unwrap_or_default().to_owned()).collect()
}
