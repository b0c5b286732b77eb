//! `saga draw`, as people type it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

/// A desk that books and a bank that may say no.
const MANIFESTS: &str = r#"{
    "manifest": 1, "participant": "desk", "steps": [
        {"step": "book", "kind": "start", "emits": ["shop.room.booked.v1"], "compensated_on": ["shop.room.refused.v1"],
         "compensated": ["shop.room.freed.v1"]},
        {"step": "keep", "kind": "local", "on": ["shop.room.paid.v1"], "emits": ["shop.room.kept.v1"]}],
    "events": {
        "shop.room.booked.v1": {"topic": "desk"}, "shop.room.paid.v1": {"topic": "bank"}, "shop.room.refused.v1": {"topic": "bank"},
        "shop.room.kept.v1": {"topic": "desk", "ending": "completed"}, "shop.room.freed.v1": {"topic": "desk", "ending": "cancelled"}}
} {
    "manifest": 1, "participant": "bank", "steps": [
        {"step": "pay", "kind": "external", "on": ["shop.room.booked.v1"], "emits": ["shop.room.paid.v1"],
         "rejects": ["shop.room.refused.v1"]}],
    "events": {"shop.room.booked.v1": {"topic": "desk"}, "shop.room.paid.v1": {"topic": "bank"},
        "shop.room.refused.v1": {"topic": "bank"}}
}"#;

/// The exit code, what was printed, and what was said on standard error. No database is named, and none is needed.
fn draw(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saga"));
    command.arg("draw").args(arguments).env_remove("SAGA_DATABASE");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may say what is wrong without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn drawn(arguments: &[&str]) -> String {
    let (code, printed, error) = draw(arguments, MANIFESTS);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(printed.ends_with('\n'), "{printed}");
    printed
}

#[test]
fn every_format_is_drawn_from_standard_input() {
    assert!(drawn(&["-"]).starts_with("flowchart LR\n"));
    assert!(drawn(&["-", "--format", "mermaid"]).contains("desk_book -->|RoomBooked| bank_pay"));
    assert!(drawn(&["-", "--format", "dot"]).starts_with("digraph"));
    assert!(drawn(&["-", "--format", "svg"]).starts_with("<svg "));
    assert!(drawn(&["-", "--format", "table"]).starts_with("| participant |"));
    let happy = drawn(&["-", "--format", "sequence"]);
    assert!(happy.contains("RoomKept, and the saga is completed") && !happy.contains("RoomRefused"), "{happy}");
    let refused = drawn(&["-", "--format", "sequence", "--rejection", "RoomRefused"]);
    assert!(refused.contains("RoomFreed, and the saga is cancelled"), "{refused}");
    assert_eq!(drawn(&["-", "--format", "sequence", "--every-path"]).matches("```mermaid").count(), 2);
    let document: serde_json::Value = serde_json::from_str(&drawn(&["-", "-f", "asyncapi"])).unwrap();
    assert_eq!((&document["asyncapi"], &document["info"]["title"]), (&"3.0.0".into(), &"bank, desk".into()));
}

#[test]
fn a_part_is_drawn_into_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (manifests, out) = (dir.path().join("manifests.json"), dir.path().join("bank.json"));
    fs::write(&manifests, MANIFESTS).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let arguments = [&path(&manifests), "--format", "asyncapi", "--participant", "bank", "-o", &path(&out)];
    assert_eq!(draw(&arguments, ""), (Some(0), String::new(), String::new()));
    let document: serde_json::Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    let operations: Vec<&String> = document["operations"].as_object().unwrap().keys().collect();
    assert_eq!(operations, ["bank.receive.desk", "bank.send.bank"]);
}

#[test]
fn mistakes_are_explained() {
    for (arguments, input, said) in [
        (&["-", "--participant", "till"][..], MANIFESTS, "none of these: desk, bank"),
        (&["-", "-f", "sequence", "--rejection", "RoomLost"], MANIFESTS, "those that do say RoomRefused"),
        (&["-", "--rejection", "RoomRefused"], MANIFESTS, "for --format sequence"),
        (&["-", "-o", "no/such/folder/flow.svg"], MANIFESTS, "cannot be written"),
        (&[], "", "which manifests?"),
        (&["-"], "{}", "on standard input"),
        (&["--bin", "no/such/program"], "", "cannot be run"),
    ] {
        let (code, printed, error) = draw(arguments, input);
        assert!(code == Some(1) && printed.is_empty() && error.contains(said), "{arguments:?}: {code:?} {error}");
    }
}
