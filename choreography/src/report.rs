//! What a verification says: findings, how far it looked, and what it makes of both under a caller's policy.
//!
//! The invariant: a report never claims more than was looked at. What was not explored is in it, and why.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    Choreography,
    explore::{Bounds, Explored, NOT_MODELLED, explore},
    finding::{Code, Finding, Findings, Severity},
    rules,
};

/// How to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How far to explore; `None` applies the rules only.
    pub explore: Option<Bounds>,
    /// What the caller makes of the findings.
    pub policy: Policy,
}

impl Default for Options {
    /// Every rule, exploration within the default bounds, every code at its own severity.
    fn default() -> Self {
        Self { explore: Some(Bounds::default()), policy: Policy::default() }
    }
}

/// What a caller makes of the findings: which ones count more than they do by themselves, and which ones not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Every warning is an error.
    pub deny_warnings: bool,
    /// These are errors.
    pub deny: BTreeSet<Code>,
    /// These are known, and accepted. Stronger than `deny_warnings`.
    pub allow: BTreeSet<Code>,
}

/// What was found, and how far it was looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How many manifests there are.
    pub participants: usize,
    /// How many steps they declare.
    pub steps: usize,
    /// How many event types they name.
    pub events: usize,
    /// What is wrong.
    pub findings: Findings,
    /// What is wrong and was accepted by the caller.
    pub allowed: Findings,
    /// How far the runs were explored.
    pub exploration: Exploration,
}

/// How far the runs of a choreography were explored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exploration {
    /// So far. Its findings are in the report.
    Explored(Explored),
    /// Not at all, and why.
    Skipped(String),
}

impl Choreography {
    /// Everything that can be said of it before it runs.
    pub fn verify(&self, options: &Options) -> Report {
        let flow = self.flow();
        let by_rules = rules::findings(&flow);
        let exploration = match &options.explore {
            None => Exploration::Skipped("exploration was not asked for".to_owned()),
            Some(bounds) => match obstacle(&by_rules) {
                Some(obstacle) => Exploration::Skipped(obstacle),
                None => Exploration::Explored(explore(&flow, bounds)),
            },
        };
        // Where a rule and a run show the same thing, the run shows more.
        let by_runs = match &exploration {
            Exploration::Explored(explored) => explored.findings.clone(),
            Exploration::Skipped(_) => vec![],
        };
        let (allowed, findings): (Vec<_>, Vec<_>) =
            by_runs.into_iter().chain(by_rules).partition(|finding| options.policy.allow.contains(&finding.code));
        Report {
            participants: self.manifests.len(),
            steps: flow.steps.len(),
            events: flow.events.len(),
            findings: Findings::of(findings.into_iter().map(|finding| options.policy.weigh(finding))),
            allowed: Findings::of(allowed),
            exploration,
        }
    }

    /// What is wrong with it, by every rule and by exploration within the default bounds. Empty when nothing is. Printed, it is what
    /// `saga verify` prints.
    pub fn check(&self) -> Findings {
        self.verify(&Options::default()).findings
    }
}

/// Why there are no runs to speak of: manifests of which it is not clear what they play.
fn obstacle(findings: &[Finding]) -> Option<String> {
    let unclear = [Code::GroupClash, Code::IllDeclared];
    let codes: BTreeSet<&str> =
        findings.iter().filter(|finding| unclear.contains(&finding.code)).map(|finding| finding.code.name()).collect();
    let codes = codes.into_iter().collect::<Vec<_>>().join(" and ");
    (!codes.is_empty()).then(|| format!("no run was explored: {codes} must be mended first"))
}

impl Policy {
    fn weigh(&self, finding: Finding) -> Finding {
        let denied = self.deny_warnings || self.deny.contains(&finding.code);
        Finding { severity: if denied { Severity::Error } else { finding.severity }, ..finding }
    }
}

impl Report {
    /// Nothing that counts as an error was found.
    pub fn passed(&self) -> bool {
        !self.findings.has_errors()
    }

    /// What was not looked at in this verification, one thing a line; what no verification looks at is in [`NOT_MODELLED`].
    pub fn not_covered(&self) -> &[String] {
        match &self.exploration {
            Exploration::Explored(explored) => &explored.not_covered,
            Exploration::Skipped(why) => std::slice::from_ref(why),
        }
    }

    /// The whole report for people, as `saga verify` prints it: the findings, and the [summary](Self::summary).
    pub fn text(&self, took: Duration) -> String {
        let findings: String = self.findings.iter().map(|finding| format!("{finding}\n")).collect();
        findings + &self.summary(took)
    }

    /// The last lines of a report: how much was looked at, what was found, how long it took, what was not covered.
    pub fn summary(&self, took: Duration) -> String {
        let number = |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        let found: Vec<String> = [
            (number(Severity::Error), "error"),
            (number(Severity::Warning), "warning"),
            (self.allowed.len(), "allowed finding"),
        ]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| count(number, what))
        .collect();
        let found = if found.is_empty() { "nothing found".to_owned() } else { found.join(", ") };
        let explored = match &self.exploration {
            Exploration::Explored(explored) => {
                let all = if explored.complete { "all there are" } else { "not all" };
                format!("; {} ({all})", count(explored.states, "state"))
            }
            Exploration::Skipped(_) => String::new(),
        };
        let (participants, steps, events) =
            (count(self.participants, "participant"), count(self.steps, "step"), count(self.events, "event"));
        let mut summary = format!("{participants}, {steps}, {events}{explored}: {found}, in {}\n", short(took));
        for line in self.not_covered() {
            summary += &format!("not covered: {line}\n");
        }
        if let Some(finding) = self.findings.iter().next() {
            summary += &format!("`saga explain {}` says more\n", finding.code);
        }
        summary
    }

    /// What no verification looks at, whatever its options.
    pub fn not_modelled(&self) -> &'static [&'static str] {
        NOT_MODELLED
    }
}

/// `0.4 ms`, `12.0 ms`, `1.3 s`.
fn short(took: Duration) -> String {
    let seconds = took.as_secs_f64();
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1_000.0) } else { format!("{seconds:.1} s") }
}

/// `1 step`, `2 steps`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
