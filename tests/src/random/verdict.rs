//! What the verifier says of a choreography, and how it may be blinded to show that its sight matters.

use std::collections::BTreeSet;

use saga_choreography::{
    Choreography, Code, Finding, Severity,
    explore::{Bounds, explore},
};
use saga_core::Manifest;

/// What only a run shows. Everything else the rules find without one.
pub const OF_RUNS: [Code; 6] = [
    Code::Uncompensated,
    Code::NoGate,
    Code::NoEnding,
    Code::TwoEndings,
    Code::SecondTrigger,
    Code::CompensatedThoughCompleted,
];

/// How much is explored of one choreography. Random ones are small; where this is not enough, nobody calls them sound.
const STATES: usize = 40_000;

/// See the top of the file.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// What was found by the exploration, and by the rules.
    pub findings: Vec<Finding>,
    /// Whether every run was explored.
    pub complete: bool,
}

impl Verdict {
    /// Of the verifier, which overlooks whatever has one of the codes in `blind`.
    pub fn of(manifests: &[Manifest], blind: &[Code]) -> Self {
        let choreography = Choreography::from(manifests.to_vec());
        let flow = choreography.flow();
        let explored = explore(&flow, &Bounds { states: STATES });
        let mut findings = explored.findings;
        findings.retain(|finding| !blind.contains(&finding.code));
        Self { findings, complete: explored.complete }
    }

    /// Nothing is wrong with any run.
    pub fn is_sound(&self) -> bool {
        self.complete && self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }

    /// The codes of the runs that were found.
    pub fn of_runs(&self) -> BTreeSet<Code> {
        self.findings.iter().map(|finding| finding.code).filter(|code| OF_RUNS.contains(code)).collect()
    }
}
