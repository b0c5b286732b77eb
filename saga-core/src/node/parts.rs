//! A node taken apart, for a driver that decides what happens next: each part is moved by itself, and may be left where it is.

use super::{Error, Housekeeping, Limit, Node, Shared, Source, Starter, round};
use crate::{
    call::Call,
    harness::Harness,
    pipeline::Item,
    relay::{Publisher, Sweeper},
};

/// What a running node does at the same time.
#[derive(Debug)]
pub struct Parts {
    /// Batches.
    pub settling: Settling,
    /// Committed events to the broker.
    pub publishing: Publishing,
    /// Events that a crash left.
    pub sweeping: Sweeping,
    /// Old sagas.
    pub keeping: Keeping,
}

/// Settles batches.
pub struct Settling {
    shared: Shared,
    source: Box<dyn Source>,
    unsettled: Vec<Item>,
}

/// Publishes what was committed.
pub struct Publishing(Box<Publisher>);

/// Finds what a crash left.
pub struct Sweeping(Sweeper);

/// Forgets old sagas.
#[derive(Debug)]
pub struct Keeping(Housekeeping);

/// A call that is to be made.
#[derive(Debug)]
pub struct Outgoing {
    shared: Shared,
    call: Call,
}

/// What a call came to, to be handed to [`Settling::turn`].
#[derive(Debug, Clone)]
pub struct Answered(Item);

impl Node {
    /// Asks something of this node. Before anything else is done with it.
    #[must_use]
    pub fn with_harness(mut self, harness: &Harness) -> Self {
        self.shared.harness = harness.clone();
        self.publisher.ask(harness);
        self
    }

    /// The parts of this node. Dropping them is a crash.
    pub fn into_parts(self) -> Parts {
        let sweeping = Sweeping(self.publisher.sweeper());
        let keeping = Keeping(Housekeeping::new(self.shared.clone(), self.retention));
        let settling = Settling { shared: self.shared, source: self.source, unsettled: self.unsettled };
        Parts { settling, publishing: Publishing(Box::new(self.publisher)), sweeping, keeping }
    }
}

impl Settling {
    /// Starts sagas of this participant.
    pub fn starter(&self) -> Starter {
        Starter { shared: self.shared.clone() }
    }

    /// One batch of these answers, of what is queued and of what is due, at most `messages` of the latter two each. The calls to
    /// make, or `None` when there was nothing to do. After an error the batch is tried again by the next turn.
    pub async fn turn(&mut self, answers: Vec<Answered>, messages: usize) -> (Vec<Outgoing>, Result<bool, Error>) {
        self.unsettled.extend(answers.into_iter().map(|Answered(item)| item));
        let limit = Limit { messages, ..Limit::default() };
        let mut calls = Vec::new();
        let result = round(&self.shared, self.source.as_mut(), &mut self.unsettled, limit, &mut calls).await;
        (calls.into_iter().map(|call| Outgoing { shared: self.shared.clone(), call }).collect(), result)
    }
}

impl Publishing {
    /// Publishes what is queued now; false when nothing was.
    pub async fn turn(&mut self) -> bool {
        self.0.turn().await
    }
}

impl Sweeping {
    /// One sweep; how many rows it found, which are published by the next turn of [`Publishing`].
    pub async fn turn(&self) -> Result<usize, Error> {
        self.0.sweep().await
    }
}

impl Keeping {
    /// One round; how many sagas were forgotten.
    pub async fn turn(&mut self) -> Result<u64, Error> {
        self.0.round().await
    }
}

impl Outgoing {
    /// Makes the call.
    pub async fn make(self) -> Answered {
        Answered(Item::Answer(self.call.make(&self.shared).await))
    }
}

impl std::fmt::Debug for Settling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settling").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Publishing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publishing").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Sweeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweeping").finish_non_exhaustive()
    }
}
