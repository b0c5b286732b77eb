//! `saga verify`, `saga explain` and `saga diff` as a person or a script meets them: texts, exit codes, the shape of JSON.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use saga_choreography::{Choreography, Options};
use saga_core::Manifest;
use serde_json::Value;

/// A sound choreography of one step.
const SOUND: &str = r#"{"manifest":1,"participant":"note","steps":[{"step":"note","kind":"start","emits":["noted"]}],
    "events":{"noted":{"topic":"note","ending":"completed"}}}"#;
/// The same, but nothing ends the saga.
const BROKEN: &str = r#"{"manifest":1,"participant":"note","steps":[{"step":"note","kind":"start","emits":["noted"]}],
    "events":{"noted":{"topic":"note"}}}"#;

struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.put("sound.json", SOUND);
        desk.put("broken.json", BROKEN);
        desk
    }

    fn put(&self, file: &str, text: &str) {
        let path = self.0.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.0.path().join(file)).unwrap()
    }

    fn saga(&self, args: &str) -> Said {
        self.saga_with(args, |command| command)
    }

    fn saga_with(&self, args: &str, more: impl FnOnce(&mut Command) -> &mut Command) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saga"));
        let variables = ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"];
        command.args(args.split_whitespace()).current_dir(self.0.path());
        variables.iter().for_each(|name| {
            command.env_remove(name);
        });
        let Output { status, stdout, stderr } = more(&mut command).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
    }
}

#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

#[test]
fn exit_codes_tell_clean_from_found_from_unusable() {
    let desk = Desk::new();
    let sound = desk.saga("verify sound.json");
    assert_eq!((sound.code, sound.err.as_str()), (0, ""));
    assert!(sound.out.starts_with("1 participant, 1 step, 1 event; "), "{}", sound.out);
    assert!(sound.out.contains(": nothing found, in "), "{}", sound.out);
    let broken = desk.saga("verify broken.json");
    assert_eq!(broken.code, 1);
    assert!(broken.out.contains("error[SG013]: "), "{}", broken.out);
    assert!(broken.out.ends_with("`saga explain SG013` says more\n"), "{}", broken.out);
    for unusable in
        ["verify", "verify missing.json", "verify sound.json --deny SG999", "verify sound.json --format odd"]
    {
        assert_eq!(desk.saga(unusable).code, 2, "{unusable}");
    }
}

#[test]
fn the_text_is_what_a_test_fails_with_and_colours_only_a_terminal() {
    let desk = Desk::new();
    let report = Choreography::from(Manifest::read(BROKEN).unwrap()).verify(&Options::default());
    let timeless = |text: &str| text.replace(text.split(", in ").nth(1).unwrap().lines().next().unwrap(), "");
    let plain = desk.saga("verify broken.json").out;
    assert_eq!(timeless(&plain), timeless(&report.text(Duration::ZERO)));
    assert!(plain.starts_with(&report.findings.to_string()), "{plain}");
    let painted = desk.saga_with("verify broken.json", |command| command.env("CLICOLOR_FORCE", "1")).out;
    assert!(painted.contains("\u{1b}["), "{painted}");
    let mut bare = String::new();
    let mut parts = painted.split("\u{1b}[");
    bare += parts.next().unwrap();
    parts.for_each(|part| bare += part.split_once('m').unwrap().1);
    assert_eq!(timeless(&bare), timeless(&plain));
    let refused = desk.saga_with("verify broken.json", |command| command.env("NO_COLOR", "1"));
    assert!(!refused.out.contains('\u{1b}'), "{}", refused.out);
}

#[test]
fn findings_are_denied_and_allowed_by_code() {
    let desk = Desk::new();
    // Its only warning: nobody hears what it says beside the ending.
    let text = SOUND.replace(r#"["noted"]"#, r#"["noted","whispered"]"#);
    desk.put("warned.json", &text.replace(r#""events":{"#, r#""events":{"whispered":{"topic":"note"},"#));
    let codes = |args: &str| {
        let said = desk.saga(&format!("verify warned.json --no-explore --format json {args}"));
        let json: Value = serde_json::from_str(&said.out).unwrap();
        let of = |list: &str| {
            json[list].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        (said.code, of("findings"), of("allowed"))
    };
    let (code, found, allowed) = codes("");
    assert!(found.contains(&"SG002".to_owned()) && allowed.is_empty(), "{found:?}");
    let others = found.iter().filter(|code| *code != "SG002").cloned().collect::<Vec<_>>().join(",");
    let allow = if others.is_empty() { String::new() } else { format!("--allow {others}") };
    assert_eq!((code == 1, codes(&allow).0), (!others.is_empty(), 0));
    assert_eq!(codes(&format!("{allow} --deny sg002")).0, 1);
    assert_eq!(codes(&format!("{allow} --deny warnings")).0, 1);
    let (code, found, allowed) = codes(&format!("{allow} --deny warnings --allow SG002"));
    assert_eq!((code, found.len()), (0, 0));
    assert!(allowed.contains(&"SG002".to_owned()));
    let unknown = desk.saga("verify sound.json --allow SG999");
    assert!(unknown.err.contains("SG001 SG002") && unknown.err.contains("SG024"), "{}", unknown.err);
    let both = desk.saga("verify sound.json --allow SG002,SG005 --deny SG005");
    assert_eq!((both.code, both.err.as_str()), (2, "saga: both denied and allowed: SG005\n"));
}

#[test]
fn json_says_how_far_it_looked() {
    let desk = Desk::new();
    let json: Value = serde_json::from_str(&desk.saga("verify broken.json --format json").out).unwrap();
    assert_eq!(
        (&json["passed"], &json["participants"], &json["steps"], &json["events"]),
        (&false.into(), &1.into(), &1.into(), &1.into())
    );
    assert_eq!(json["explored"]["complete"], true);
    assert!(json["explored"]["states"].as_u64().unwrap() > 0 && !json["not_modelled"].as_array().unwrap().is_empty());
    let finding = &json["findings"][0];
    for member in ["code", "severity", "participant", "message", "fix"] {
        assert!(finding[member].is_string(), "{member} of {finding}");
    }
    let unexplored = desk.saga("verify sound.json --no-explore");
    assert!(unexplored.out.contains("not covered: exploration was not asked for"), "{}", unexplored.out);
}

#[test]
fn sarif_goes_to_a_file_and_the_summary_to_the_terminal() {
    let desk = Desk::new();
    let said = desk.saga("verify broken.json --format sarif -o out.sarif");
    assert_eq!(said.code, 1);
    assert!(said.out.starts_with("1 participant, "), "{}", said.out);
    let sarif: Value = serde_json::from_str(&desk.text("out.sarif")).unwrap();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "broken.json");
}

/// The same manifest twice, a name twice, a step twice: told, and no reason to fall over.
#[test]
fn what_contradicts_itself_is_told() {
    let desk = Desk::new();
    let twice = desk.saga("verify sound.json broken.json sound.json");
    assert_eq!(twice.code, 1, "{twice:?}");
    assert!(twice.out.contains("error[SG015]: "), "{}", twice.out);
    assert!(twice.out.contains("not covered: no run was explored: SG015 must be mended first"), "{}", twice.out);
    let step = r#"{"step":"note","kind":"start","emits":["noted"]}"#;
    desk.put("steps.json", &SOUND.replace(step, &format!("{step},{step}")));
    let steps = desk.saga("verify steps.json");
    assert!(steps.code == 1 && steps.out.contains("SG022"), "{steps:?}");
    desk.put("hostile.json", &BROKEN.replace("\"note\"", "\"\\u001b[2Jnote\""));
    assert!(!desk.saga("verify hostile.json").out.contains('\u{1b}'));
}

#[test]
fn a_code_is_explained() {
    let desk = Desk::new();
    let one = desk.saga("explain sg007");
    assert_eq!(one.code, 0);
    assert!(one.out.starts_with("# SG007: ") && one.out.contains("## How to mend it"), "{}", one.out);
    let all = desk.saga("explain");
    assert_eq!(all.out.lines().count(), saga_choreography::Code::ALL.len());
    let unknown = desk.saga("explain SG999");
    assert!(unknown.code == 2 && unknown.err.contains("SG001 SG002"), "{unknown:?}");
}

#[test]
fn a_change_is_safe_or_not() {
    let desk = Desk::new();
    desk.put("old/note.json", SOUND);
    desk.put("new/note.json", &SOUND.replace(r#""step":"note""#, r#""step":"jot""#));
    assert_eq!(desk.saga("diff old old").out, "nothing changes for what runs\n");
    let renamed = desk.saga("diff old/ new/");
    assert_eq!(renamed.code, 1);
    assert!(renamed.out.starts_with("error[SD005]: note/note seems to be called jot now"), "{}", renamed.out);
    let json: Value =
        serde_json::from_str(&desk.saga("diff --old old/note.json --new new/note.json --json").out).unwrap();
    assert_eq!((&json["safe"], &json["changes"][0]["code"]), (&false.into(), &"SD005".into()));
    assert_eq!(json["order"][0]["participant"], "note");
    for unusable in
        ["diff", "diff old", "diff old missing.json", "diff --old old", "diff old new --json --old old --new new"]
    {
        assert_eq!(desk.saga(unusable).code, 2, "{unusable}");
    }
}

#[test]
fn help_shows_examples_and_exit_codes() {
    let desk = Desk::new();
    for command in ["verify", "diff"] {
        let help = desk.saga(&format!("{command} --help")).out;
        assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    }
}
