//! What can be wrong with a choreography: codes that stay, and findings that name the place, the way there and the remedy.

use std::fmt;

use serde::Serialize;

use crate::codes::codes;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; breaks nothing by itself.
    Warning,
    /// Some saga ends badly, or never.
    Error,
}

codes! {
    /// What kind of finding it is. A code keeps its meaning for ever.
    Code,
    /// An event is heard that nobody publishes.
    Unpublished "SG001" Error "an event is heard, but nobody publishes it",
    /// An event is published that nobody hears, and that ends nothing.
    Unheard "SG002" Warning "an event is published, but nobody hears it and it ends nothing",
    /// Two participants publish the same event type.
    TwoPublishers "SG003" Error "two participants publish the same event type",
    /// Participants disagree on an event's topic, key or ending.
    Disagreement "SG004" Error "participants disagree on an event's topic, key or ending",
    /// What is written cannot be read.
    Schema "SG005" Error "an event as it is written cannot be read by one who hears it",
    /// More than one participant ends sagas.
    EndingsOfTwo "SG006" Error "two participants emit endings of the same sagas",
    /// Done and never taken back, although the saga is cancelled.
    Uncompensated "SG007" Error "a step stays done although its saga is cancelled",
    /// A compensation that no run can trigger.
    DeadCompensation "SG008" Error "a compensation can never be triggered",
    /// A step without compensation can be done in a cancelled saga.
    NoGate "SG009" Error "a step that cannot be taken back can run although its saga is cancelled",
    /// A no after the point of no return.
    RejectsAfterPivot "SG010" Error "a step may say no after one that cannot be taken back",
    /// Two points of no return that may both say no.
    TwoPivots "SG011" Error "two steps on one path may say no and cannot be taken back",
    /// Events that go in a circle.
    Cycle "SG012" Error "events go in a circle",
    /// A run that stops before an ending.
    NoEnding "SG013" Error "a saga can stop without an ending",
    /// A run with two endings.
    TwoEndings "SG014" Error "a saga can end twice",
    /// Two programs that take each other's events.
    GroupClash "SG015" Error "two participants share a name or a consumer group",
    /// A call that may fail for ever in silence.
    NoPatience "SG016" Warning "a call may fail for ever without an alarm",
    /// A participant that no saga comes to.
    Unreached "SG017" Warning "no saga reaches a participant",
    /// A second trigger needs a person.
    SecondTrigger "SG018" Error "a step can be triggered by two events of one saga",
    /// Taken back before what was built on it.
    CompensatedTooSoon "SG019" Error "a step is taken back before one that depends on it",
    /// A cancelling event that is heard by more than a gate.
    RawCancellation "SG020" Error "a step is taken back by an event that is neither a no nor a compensation",
    /// A completed saga in which something was taken back.
    CompensatedThoughCompleted "SG021" Error "a step is taken back or shut although its saga completes",
    /// A manifest that contradicts itself.
    IllDeclared "SG022" Error "a manifest contradicts itself",
    /// Nothing starts sagas.
    NoStart "SG023" Error "no step starts sagas",
    /// Exploration came to its bound.
    NotExplored "SG024" Warning "not every run was explored",
}

impl Code {
    /// The code that is called `name`, such as `SG007`; upper and lower case are the same.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name().eq_ignore_ascii_case(name))
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// The participant at which it is to be mended.
    pub participant: String,
    /// The step, where it is one step's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The event type, where it is one event's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// What is wrong, with names, in one sentence without a full stop.
    pub message: String,
    /// The path that shows it: one line per step taken, in order; a timeline where it comes of an exploration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<String>,
    /// What to do, in one sentence without a full stop.
    pub fix: String,
}

impl Finding {
    /// A finding of the code's own severity.
    pub fn new(code: Code, participant: &str, message: String, fix: String) -> Self {
        let (participant, severity) = (participant.to_owned(), code.severity());
        Self { code, severity, participant, step: None, event: None, message, path: Vec::new(), fix }
    }

    /// The same, at a step.
    #[must_use]
    pub fn step(self, step: &str) -> Self {
        Self { step: Some(step.to_owned()), ..self }
    }

    /// The same, of an event type.
    #[must_use]
    pub fn event(self, event: &str) -> Self {
        Self { event: Some(event.to_owned()), ..self }
    }

    /// The same, with the path that shows it.
    #[must_use]
    pub fn path(self, path: Vec<String>) -> Self {
        Self { path, ..self }
    }
}

/// Everything that was found: errors first, then by code and place. The same thing found in two ways is listed once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Sorts, and keeps of the same code at the same place the first, which the caller gives in the order of how much they show.
    pub fn of(found: impl IntoIterator<Item = Finding>) -> Self {
        let mut found: Vec<Finding> = found.into_iter().collect();
        fn place(f: &Finding) -> (std::cmp::Reverse<Severity>, Code, &String, &Option<String>, &Option<String>) {
            (std::cmp::Reverse(f.severity), f.code, &f.participant, &f.step, &f.event)
        }
        found.sort_by(|a, b| place(a).cmp(&place(b)));
        found.dedup_by(|later, kept| place(later) == place(kept));
        Self(found)
    }

    /// In order.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some saga ends badly, or never.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|finding| finding.severity == Severity::Error)
    }
}

impl<'f> IntoIterator for &'f Findings {
    type Item = &'f Finding;
    type IntoIter = std::slice::Iter<'f, Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.severity == Severity::Error { "error" } else { "warning" };
        writeln!(f, "{severity}[{}]: {}", self.code, self.message)?;
        for line in &self.path {
            writeln!(f, "    {line}")?;
        }
        writeln!(f, "  fix: {}", self.fix)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_one_name() {
        for (i, code) in Code::ALL.iter().enumerate() {
            assert_eq!(code.name(), format!("SG{:03}", i + 1));
            assert_eq!(Code::parse(&code.name().to_lowercase()), Some(*code));
        }
    }
}
