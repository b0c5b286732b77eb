//! `saga verify`: a whole choreography, checked before it is deployed.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use saga_choreography::{
    Choreography, Code, Finding, Options, Report, Severity,
    explore::Bounds,
    report::{Exploration, Policy},
    sarif,
};
use saga_core::Manifest;
use serde::Serialize;

use crate::{manifests::Manifests, text::plain};

pub(crate) const LONG: &str = "\
Check a whole choreography before it is deployed

It reads what the services say of themselves and looks for sagas that end badly or never: events
that nobody hears, bodies that cannot be read, steps that stay done though the saga is cancelled,
and runs that stop, end twice or need a person. Rules look at what is declared; exploration plays
every run that the toolkit's rules allow, with every event late, doubled and out of order. Nothing
is asked of a broker or of a database.";

const EXAMPLES: &str = "\
Examples:
  order describe --json > order.json          once for each service
  saga verify order.json payment.json shipping.json
  saga verify --bin target/release/order --bin target/release/payment --bin target/release/shipping
  saga verify manifests/*.json --deny warnings --allow SG002
  saga verify manifests/*.json --format sarif -o saga.sarif
  saga explain SG007                          what a code means, and how to mend it

Exit codes:
  0  nothing was found that is an error
  1  an error was found, or a warning that is denied
  2  the command line or a manifest cannot be used";

/// See [`LONG`].
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct VerifyCommand {
    #[command(flatten)]
    manifests: Manifests,
    /// As what: for people, for programs, or for a code host's list of findings
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Write to this file instead of standard output; the summary is still printed
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Take these for errors: codes, or `warnings` for all of them; may be repeated
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = denied)]
    deny: Vec<Denied>,
    /// Accept findings of these codes: they are counted, and not shown; may be repeated
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = code)]
    allow: Vec<Code>,
    /// Apply the rules only, and do not play the runs
    #[arg(long, conflicts_with = "max_states")]
    no_explore: bool,
    /// How many states to look at, at the most, for each step that starts sagas: about 200 bytes each
    #[arg(long, value_name = "N", default_value_t = Bounds::default().states)]
    max_states: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Findings with the run that shows each, and what to do
    Text,
    /// One JSON object
    Json,
    /// SARIF 2.1.0
    Sarif,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denied {
    Warnings,
    Code(Code),
}

fn denied(name: &str) -> Result<Denied, String> {
    if name.eq_ignore_ascii_case("warnings") {
        return Ok(Denied::Warnings);
    }
    code(name).map(Denied::Code).map_err(|error| format!("{error}, or `warnings` for all of them"))
}

/// A code by its name. The error lists them all.
pub(crate) fn code(name: &str) -> Result<Code, String> {
    let all = || Code::ALL.iter().map(|code| code.name()).collect::<Vec<_>>().join(" ");
    Code::parse(name).ok_or_else(|| format!("there is no such code; the codes are {}", all()))
}

/// What `--format json` prints.
#[derive(Debug, Serialize)]
struct Json<'r> {
    passed: bool,
    participants: usize,
    steps: usize,
    events: usize,
    findings: &'r saga_choreography::Findings,
    allowed: &'r saga_choreography::Findings,
    explored: Option<JsonExplored>,
    not_covered: &'r [String],
    not_modelled: &'r [&'r str],
    millis: u128,
}

#[derive(Debug, Serialize)]
struct JsonExplored {
    states: usize,
    complete: bool,
}

impl VerifyCommand {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let policy = self.policy()?;
        let sourced = self.manifests.sourced().await?;
        let choreography = Choreography::from(sourced.iter().map(|(_, manifest)| manifest.clone()).collect::<Vec<_>>());
        let explore = (!self.no_explore).then_some(Bounds { states: self.max_states });
        let began = Instant::now();
        let report = choreography.verify(&Options { explore, policy });
        let took = began.elapsed();
        let shown = match self.format {
            Format::Text => text(&report, took),
            Format::Json => json(&report, took)?,
            Format::Sarif => serde_json::to_string_pretty(&sarif::log(&report, &self.sources(&sourced)))? + "\n",
        };
        match &self.output {
            Some(path) => {
                let plain = anstream::adapter::strip_str(&shown).to_string();
                std::fs::write(path, plain).with_context(|| format!("{} cannot be written", path.display()))?;
                print(&summary(&report, took))?;
            }
            None => print(&shown)?,
        }
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn policy(&self) -> anyhow::Result<Policy> {
        let code = |denied: &Denied| if let Denied::Code(code) = denied { Some(*code) } else { None };
        let policy = Policy {
            deny_warnings: self.deny.contains(&Denied::Warnings),
            deny: self.deny.iter().filter_map(code).collect(),
            allow: self.allow.iter().copied().collect(),
        };
        let both = policy.deny.intersection(&policy.allow).map(|code| code.name()).collect::<Vec<_>>().join(" ");
        ensure!(both.is_empty(), "both denied and allowed: {both}");
        Ok(policy)
    }

    /// Where each manifest is from. A program is no text, and standard input is gone: there are no lines to show of these.
    fn sources(&self, sourced: &[(PathBuf, Manifest)]) -> Vec<sarif::Source> {
        let stdin = Path::new("-");
        let text = |path: &PathBuf| {
            let file = path != stdin && self.manifests.files.contains(path);
            if file { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() }
        };
        let source = |(path, manifest): &(PathBuf, Manifest)| sarif::Source {
            participant: manifest.participant.clone(),
            file: if path == stdin { "stdin".to_owned() } else { path.display().to_string() },
            text: text(path),
        };
        sourced.iter().map(source).collect()
    }
}

/// To a terminal with its colours; without them elsewhere, and where `NO_COLOR` says so. A reader that has seen enough is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("the output cannot be written")
        }
        _ => Ok(()),
    }
}

/// [`Report::text`] in colours.
fn text(report: &Report, took: Duration) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        painted(&mut text, finding);
        text.push('\n');
    }
    text + &summary(report, took)
}

fn painted(text: &mut String, finding: &Finding) {
    let severity = match finding.severity {
        Severity::Error => AnsiColor::Red.on_default().bold(),
        Severity::Warning => AnsiColor::Yellow.on_default().bold(),
    };
    let (bold, dimmed, fix) = (Style::new().bold(), Style::new().dimmed(), AnsiColor::Cyan.on_default());
    for (place, line) in finding.to_string().lines().enumerate() {
        // Names are somebody else's text. Writing to a String cannot fail.
        let line = plain(line, 2_000);
        let _ = match (place, line.split_once(": ")) {
            (0, Some((head, message))) => writeln!(text, "{severity}{head}{severity:#}{bold}: {message}{bold:#}"),
            (_, Some(("  fix", what))) => writeln!(text, "  {fix}fix:{fix:#} {what}"),
            _ => writeln!(text, "{dimmed}{line}{dimmed:#}"),
        };
    }
}

fn summary(report: &Report, took: Duration) -> String {
    let summary = report.summary(took);
    let (first, rest) = summary.split_once('\n').unwrap_or((&summary, ""));
    let style = if report.passed() { AnsiColor::Green } else { AnsiColor::Red }.on_default().bold();
    let rest: String = rest.lines().map(|line| plain(line, 2_000) + "\n").collect();
    format!("{style}{first}{style:#}\n{rest}")
}

fn json(report: &Report, took: Duration) -> anyhow::Result<String> {
    let explored = match &report.exploration {
        Exploration::Explored(explored) => Some(JsonExplored { states: explored.states, complete: explored.complete }),
        Exploration::Skipped(_) => None,
    };
    let json = Json {
        passed: report.passed(),
        participants: report.participants,
        steps: report.steps,
        events: report.events,
        findings: &report.findings,
        allowed: &report.allowed,
        explored,
        not_covered: report.not_covered(),
        not_modelled: report.not_modelled(),
        millis: took.as_millis(),
    };
    Ok(serde_json::to_string_pretty(&json)? + "\n")
}
