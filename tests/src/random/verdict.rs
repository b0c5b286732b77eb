//! What the verifier says of a choreography, and how it may be blinded to show that its sight matters.

use std::collections::BTreeSet;

use saga_choreography::{
    Choreography, Code, Finding, Severity,
    explore::{Bounds, OF_RUNS, explore},
    rules,
};
use saga_core::Manifest;

/// How much is explored of one choreography. Random ones are small; where this is not enough, nobody calls them sound.
const STATES: usize = 40_000;

/// See the top of the file.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// What the exploration found.
    pub runs: Vec<Finding>,
    /// What the rules found, without playing.
    pub rules: Vec<Finding>,
    /// Whether every run was explored.
    pub complete: bool,
}

impl Verdict {
    /// Of the verifier, whose exploration overlooks whatever has one of the codes in `blind`.
    pub fn of(manifests: &[Manifest], blind: &[Code]) -> Self {
        let choreography = Choreography::from(manifests.to_vec());
        let flow = choreography.flow();
        let explored = explore(&flow, &Bounds { states: STATES });
        let mut runs = explored.findings;
        runs.retain(|finding| !blind.contains(&finding.code));
        Self { runs, rules: rules::findings(&flow), complete: explored.complete }
    }

    /// No run ends badly. That is the most that can be held against what happens: the rules refuse more.
    pub fn ends_well(&self) -> bool {
        self.complete && !has_errors(&self.runs)
    }

    /// What `saga verify` calls sound: no run ends badly, and no rule is broken.
    pub fn is_sound(&self) -> bool {
        self.ends_well() && !has_errors(&self.rules)
    }

    /// The codes of the bad ends that the exploration found.
    pub fn codes(&self) -> BTreeSet<Code> {
        self.runs.iter().map(|finding| finding.code).filter(|code| OF_RUNS.contains(code)).collect()
    }
}

fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}
