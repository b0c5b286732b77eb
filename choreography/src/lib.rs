//! A choreography as a value: the manifests of all its participants side by side. Nobody plays it and nobody is asked by it at run
//! time; it is known before anything is deployed, so it can be checked, explored and drawn.
//!
//! ```text
//! manifests ──► Choreography ──► Flow ──► rules, exploration ──► Findings ──► text, JSON, SARIF
//!                                  └────► pictures and documents
//! ```
//!
//! In a service's tests:
//!
//! ```
//! # use saga_core::{Event, Never, Participant, Step, Compensate, StepContext, event::Ending, step::MustSucceed};
//! # use saga_choreography::Choreography;
//! # #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)] struct Noted {}
//! # impl Event for Noted {
//! #     const TYPE: &'static str = "shop.note.noted.v1"; const TOPIC: &'static str = "note";
//! #     const ENDING: Option<Ending> = Some(Ending::Completed);
//! # }
//! # struct Note;
//! # impl Step for Note {
//! #     const NAME: &'static str = "note"; type On = Never; type Emits = Noted; type Rejects = Never; type CompensatedOn = Never;
//! # }
//! let note = Participant::new("note").start(Note);
//! let findings = Choreography::of([&note]).check();
//! assert!(findings.is_empty(), "{findings}");
//! ```

mod codes;
pub mod diff;
pub mod draw;
pub mod explain;
pub mod explore;
pub mod finding;
pub mod flow;
pub mod report;
pub mod rules;
pub mod sarif;
pub mod schema;

use saga_core::{Manifest, Participant};

pub use finding::{Code, Finding, Findings, Severity};
pub use flow::Flow;
pub use report::{Options, Report};

/// The manifests of participants that play together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choreography {
    /// One per participant.
    pub manifests: Vec<Manifest>,
}

impl Choreography {
    /// The choreography that these participants play.
    pub fn of<'p>(participants: impl IntoIterator<Item = &'p Participant>) -> Self {
        Self { manifests: participants.into_iter().map(Manifest::of).collect() }
    }

    /// Who hears what and emits what, merged.
    pub fn flow(&self) -> Flow<'_> {
        Flow::of(&self.manifests)
    }
}

impl From<Vec<Manifest>> for Choreography {
    fn from(manifests: Vec<Manifest>) -> Self {
        Self { manifests }
    }
}
