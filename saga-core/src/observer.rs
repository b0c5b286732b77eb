//! Hooks for whoever watches: traces, metrics, a log of a test. All of them default to nothing.
//!
//! The invariant: an observer can change nothing. It hands out the trace context that an emission carries, and that is all
//! that comes back from it.

use std::time::Duration;

use crate::{
    envelope::TraceContext,
    event::Ending,
    id::{EventId, SagaId},
    step::Direction,
    store::WorkState,
};

/// A reaction that begins.
#[derive(Debug, Clone)]
pub struct Reaction<'a> {
    /// Who reacts.
    pub participant: &'a str,
    /// With which step.
    pub step: &'a str,
    /// Which way.
    pub direction: Direction,
    /// Of which saga.
    pub saga: SagaId,
    /// To which event; `None` for the start of a saga.
    pub event: Option<&'a EventId>,
    /// Its type.
    pub event_type: Option<&'a str>,
    /// Where it stood in the log.
    pub position: Option<(&'a str, i32, i64)>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// What of the reaction this is.
    pub phase: Phase,
    /// The context that the event carried.
    pub parent: &'a TraceContext,
}

/// Which part of a reaction is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The part inside the transaction.
    Settle,
    /// A call to another system.
    Call,
}

/// What became of a reaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done, and emitted (or had nothing to emit).
    Emitted,
    /// A business no.
    Rejected,
    /// Taken back.
    Compensated,
    /// A compensation without a forward.
    NothingDone,
    /// A call goes out after the commit.
    Called,
    /// A call was answered; its reaction is settled next.
    Answered,
    /// Failed, will be tried again.
    Deferred(String),
    /// Waits behind a deferred one of its saga.
    Parked,
    /// Needs a person.
    Stuck(String),
    /// Absorbed: settled before.
    Duplicate,
    /// Absorbed: forward after its compensation.
    Late,
}

impl Outcome {
    /// The word for logs, attributes and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Outcome::Emitted => "emitted",
            Outcome::Rejected => "rejected",
            Outcome::Compensated => "compensated",
            Outcome::NothingDone => "nothing_done",
            Outcome::Called => "called",
            Outcome::Answered => "answered",
            Outcome::Deferred(_) => "deferred",
            Outcome::Parked => "parked",
            Outcome::Stuck(_) => "stuck",
            Outcome::Duplicate => "duplicate",
            Outcome::Late => "late",
        }
    }
}

/// An event that a reaction emits.
#[derive(Debug, Clone)]
pub struct Emission<'a> {
    /// Its id.
    pub id: &'a EventId,
    /// Its type.
    pub event_type: &'a str,
    /// Where it goes.
    pub topic: &'a str,
    /// Set when it closes the saga.
    pub ending: Option<Ending>,
}

/// Something that is measured besides reactions.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Measure<'a> {
    /// A batch was committed: how many reactions, and how long it took.
    Batch {
        /// Reactions in it.
        reactions: usize,
        /// From begin to commit.
        took: Duration,
    },
    /// Everything fails at a step, or no longer: its breaker opened or closed.
    Breaker {
        /// Which step.
        step: &'a str,
        /// Which way.
        direction: Direction,
        /// True when it opened.
        open: bool,
    },
    /// A reaction has failed for longer than its step's declared patience. It goes on being retried.
    PatienceExceeded {
        /// Which step.
        step: &'a str,
        /// Which way.
        direction: Direction,
    },
    /// Sagas were forgotten, because they are old.
    Forgotten {
        /// How many.
        sagas: u64,
    },
    /// Sagas that started here have had no ending for too long, at the moment.
    Overdue {
        /// How many.
        sagas: u64,
    },
    /// Committed events that wait for the broker, at the moment.
    Outbox {
        /// How many.
        rows: u64,
    },
    /// Reactions that wait, at the moment.
    Work {
        /// For what.
        state: WorkState,
        /// How many.
        rows: u64,
    },
    /// Events came whose type nobody here reacts to.
    Passed {
        /// Their type.
        event_type: &'a str,
    },
    /// A saga started here.
    Started,
    /// Messages were acknowledged by the broker.
    Published {
        /// The topic.
        topic: &'a str,
        /// How many.
        messages: usize,
    },
    /// Messages were taken from a topic.
    Consumed {
        /// The topic.
        topic: &'a str,
        /// How many.
        messages: usize,
    },
}

/// Sees what a node does.
pub trait Observer: Send + Sync + 'static {
    /// A reaction begins. The span lives until its transaction has committed, or is dropped when it was rolled back.
    fn reaction(&self, _reaction: &Reaction<'_>) -> Box<dyn ReactionSpan> {
        Box::new(Unseen)
    }

    /// Something was measured.
    fn measure(&self, _participant: &str, _measure: &Measure<'_>) {}
}

impl std::fmt::Debug for dyn Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// One observed reaction.
pub trait ReactionSpan: Send {
    /// The span in which the step's own code runs, so that its logs and spans belong to the saga's trace.
    fn span(&self) -> tracing::Span {
        tracing::Span::none()
    }

    /// The reaction emits: the context to store with the event. `None` keeps the context that came with the trigger.
    fn emit(&mut self, _emission: &Emission<'_>) -> Option<TraceContext> {
        None
    }

    /// The transaction has committed.
    fn settle(self: Box<Self>, _outcome: &Outcome, _took: Duration) {}
}

/// Sees nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unseen;

impl Observer for Unseen {}
impl ReactionSpan for Unseen {}
