//! A report as SARIF 2.1.0 (OASIS), which code hosts show beside the code: the small part of the format that is used here.
//!
//! The invariant: the same findings give the same bytes, and a finding keeps its fingerprint as long as it is the same code at the same
//! place, whatever its text says.

use serde::Serialize;

use crate::{
    finding::{Code, Finding, Severity},
    report::{Exploration, Report},
};

/// A whole SARIF file.
#[derive(Debug, Serialize)]
pub struct Log {
    #[serde(rename = "$schema")]
    schema: &'static str,
    version: &'static str,
    runs: [Run; 1],
}

#[derive(Debug, Serialize)]
struct Run {
    tool: Tool,
    invocations: [Invocation; 1],
    artifacts: Vec<Artifact>,
    results: Vec<Record>,
    #[serde(rename = "columnKind")]
    column_kind: &'static str,
}

#[derive(Debug, Serialize)]
struct Tool {
    driver: Driver,
}

#[derive(Debug, Serialize)]
struct Driver {
    name: &'static str,
    version: &'static str,
    rules: Vec<Rule>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    id: &'static str,
    name: String,
    short_description: Text,
    full_description: Text,
    help: Help,
    default_configuration: Configuration,
}

#[derive(Debug, Serialize)]
struct Text {
    text: String,
}

#[derive(Debug, Serialize)]
struct Help {
    text: String,
    markdown: String,
}

#[derive(Debug, Serialize)]
struct Configuration {
    level: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    execution_successful: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_execution_notifications: Vec<Notification>,
}

#[derive(Debug, Serialize)]
struct Notification {
    level: &'static str,
    message: Text,
}

#[derive(Debug, Serialize)]
struct Artifact {
    location: ArtifactLocation,
}

#[derive(Debug, Clone, Serialize)]
struct ArtifactLocation {
    uri: String,
    index: usize,
}

/// A result; `Result` is taken.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    rule_id: &'static str,
    rule_index: usize,
    level: &'static str,
    message: Text,
    locations: [Location; 1],
    partial_fingerprints: Fingerprints,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    suppressions: Vec<Suppression>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    #[serde(skip_serializing_if = "Option::is_none")]
    physical_location: Option<PhysicalLocation>,
    logical_locations: Vec<LogicalLocation>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PhysicalLocation {
    artifact_location: ArtifactLocation,
    region: Region,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    start_line: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogicalLocation {
    name: String,
    fully_qualified_name: String,
    kind: &'static str,
}

/// `primaryLocationLineHash` is the one that code hosts compare; they compute it of the source line where it is missing, which a
/// manifest that is printed anew would change.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fingerprints {
    primary_location_line_hash: String,
}

#[derive(Debug, Serialize)]
struct Suppression {
    kind: &'static str,
}

/// Where the manifests are from, for [`log`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The participant whose manifest it is.
    pub participant: String,
    /// Its file as it was named, relative to the repository where a code host is to show it.
    pub file: String,
    /// The text of the file, in which the lines of steps are looked up; empty when there is none.
    pub text: String,
}

/// A report as SARIF. A finding is shown at its step's line in the file that holds the manifest of its participant.
pub fn log(report: &Report, sources: &[Source]) -> Log {
    let mut files: Vec<&str> = sources.iter().map(|source| source.file.as_str()).collect();
    files.sort_unstable();
    files.dedup();
    let location = |index: usize| ArtifactLocation { uri: uri(files[index]), index };
    let found = report.findings.iter().map(|finding| (finding, false));
    let allowed = report.allowed.iter().map(|finding| (finding, true));
    let record = |(finding, allowed): (&Finding, bool)| {
        let source = sources.iter().find(|source| source.participant == finding.participant);
        Record {
            rule_id: finding.code.name(),
            rule_index: Code::ALL.iter().position(|code| *code == finding.code).unwrap_or_default(),
            level: finding.severity.name(),
            message: Text { text: message(finding) },
            locations: [Location {
                physical_location: source.map(|source| PhysicalLocation {
                    artifact_location: location(files.binary_search(&source.file.as_str()).unwrap_or_default()),
                    region: Region { start_line: line(source, finding.step.as_deref()) },
                }),
                logical_locations: logical(finding),
            }],
            partial_fingerprints: Fingerprints { primary_location_line_hash: fingerprint(finding) },
            suppressions: if allowed { vec![Suppression { kind: "external" }] } else { vec![] },
        }
    };
    let level = match &report.exploration {
        Exploration::Explored(_) => Severity::Warning.name(),
        Exploration::Skipped(_) => "note",
    };
    let not_covered = report.not_covered().iter().map(|line| (level, line.clone()));
    let not_modelled = report.not_modelled().iter().map(|line| ("note", (*line).to_owned()));
    let notification = |(level, line)| Notification { level, message: Text { text: format!("not covered: {line}") } };
    Log {
        schema: "https://json.schemastore.org/sarif-2.1.0.json",
        version: "2.1.0",
        runs: [Run {
            tool: Tool {
                driver: Driver {
                    name: "saga verify",
                    version: env!("CARGO_PKG_VERSION"),
                    rules: Code::ALL.iter().copied().map(rule).collect(),
                },
            },
            invocations: [Invocation {
                execution_successful: true,
                tool_execution_notifications: not_covered.chain(not_modelled).map(notification).collect(),
            }],
            artifacts: (0..files.len()).map(|index| Artifact { location: location(index) }).collect(),
            results: found.chain(allowed).map(record).collect(),
            column_kind: "unicodeCodePoints",
        }],
    }
}

fn rule(code: Code) -> Rule {
    let text = code.explanation().trim().to_owned();
    Rule {
        id: code.name(),
        name: format!("{code:?}"),
        short_description: Text { text: code.title().to_owned() },
        full_description: Text { text: one_paragraph(code.section("What it means")) },
        help: Help { markdown: text.clone(), text },
        default_configuration: Configuration { level: code.severity().name() },
    }
}

fn message(finding: &Finding) -> String {
    let path: String = finding.path.iter().map(|line| format!("    {line}\n")).collect();
    let path = if path.is_empty() { String::new() } else { format!("\n{path}") };
    format!("{}.{path}\nFix: {}.", finding.message, finding.fix)
}

fn logical(finding: &Finding) -> Vec<LogicalLocation> {
    let of =
        |name: &str, whole: String, kind| LogicalLocation { name: name.to_owned(), fully_qualified_name: whole, kind };
    let participant = of(&finding.participant, finding.participant.clone(), "module");
    let step = finding.step.as_ref().map(|step| of(step, format!("{}/{step}", finding.participant), "function"));
    let event = finding.event.as_ref().map(|event| of(event, event.clone(), "type"));
    // The innermost first: viewers show that one.
    step.into_iter().chain([participant]).chain(event).collect()
}

/// The same place and the same code: that is the same finding, also when its wording or its path is another.
fn fingerprint(finding: &Finding) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}/{}/{}", finding.code, finding.participant, part(&finding.step), part(&finding.event))
}

/// The line, from 1, of the step's name behind its participant's name; the first line where it is not found.
fn line(source: &Source, step: Option<&str>) -> usize {
    let participant = |(_, text): &(usize, &str)| says(text, "participant", &source.participant);
    let mut lines = source.text.lines().enumerate().skip_while(|line| !participant(line)).peekable();
    let first = lines.peek().map_or(0, |(place, _)| *place);
    let step = step.and_then(|step| lines.find(|(_, text)| says(text, "step", step)));
    step.map_or(first, |(place, _)| place) + 1
}

/// Whether a line of JSON has this member with this text.
fn says(line: &str, member: &str, text: &str) -> bool {
    let text = serde_json::Value::from(text).to_string();
    line.contains(&format!("\"{member}\": {text}")) || line.contains(&format!("\"{member}\":{text}"))
}

/// A path as the relative URI that it is: whatever a URI gives a meaning to is escaped.
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn one_paragraph(markdown: &str) -> String {
    markdown.split("\n\n").next().unwrap_or_default().replace('\n', " ")
}
