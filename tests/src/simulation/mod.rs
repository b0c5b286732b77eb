//! The three real participants under a deterministic driver: one seed decides everything that goes wrong, and in which order.
//!
//! ```text
//!  customers ─► order#1 ─┐                        ┌─ payment#1 ─┐
//!                        ├─ network ─ broker ─────┤             ├─ line ─► the real gateway's record
//!  cancellations ────────┘  (late, lost, twice)   ├─ payment#2 ─┘  (lost, slow, answers lost)
//!                                                 └─ shipping#1
//! ```
//!
//! The pipeline, the relay, the calls, the stores on SQLite and the steps are those of a running service. The driver moves one
//! future at a time, from one point of [`saga_core::harness`] to the next, on a clock that it moves itself. It does not use tokio's
//! paused time: that runs on by itself whenever everybody waits for a database's thread.
//!
//! The invariant: the same seed is the same run, byte for byte; and a fault that is taken away leaves the others where they were.

use std::{collections::BTreeSet, fmt};

use anyhow::Result;
use saga_core::{harness::Rule, id::SagaId};

mod cast;
pub mod chance;
mod check;
mod customer;
mod ether;
mod instance;
mod moves;
mod observed;
mod schedule;
mod traffic;
mod waiting;
mod world;

pub use schedule::{Schedule, shrink};

use chance::Strike;

/// Any time will do, in milliseconds since the Unix epoch.
const BEGIN: i64 = 1_800_000_000_000;

/// What to play.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Play {
    /// Decides everything.
    pub seed: u64,
    /// How many orders are placed.
    pub sagas: usize,
    /// The rules that every instance breaks.
    pub rules: Vec<Rule>,
    /// Only some of the orders and of the faults, if not all.
    pub only: Option<Schedule>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// What happened, a line each: equal for equal plays.
    pub journal: String,
    /// What went wrong on purpose.
    pub faults: Vec<Strike>,
    /// The first thing that must not have happened.
    pub violation: Option<Violation>,
    /// The saga that it happened to, as a timeline with its rows.
    pub saga: Option<String>,
    /// Sagas that completed, and that were cancelled.
    pub ended: (usize, usize),
    /// Which crashes and outcomes there were: what was never seen was never tested.
    pub seen: BTreeSet<String>,
}

/// Something that must not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub rule: &'static str,
    /// Whose, if it is one's.
    pub saga: Option<SagaId>,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}

/// Plays one seed to its end. Errors are those of the simulation itself.
pub fn play(play: &Play) -> Result<Played> {
    // One thread for everything but the databases; no time, no signals.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(world::play(play))
}

impl Play {
    /// A seed with nothing broken.
    pub const fn sound(seed: u64, sagas: usize) -> Self {
        Self { seed, sagas, rules: Vec::new(), only: None }
    }

    fn places(&self, order: usize) -> bool {
        self.only.as_ref().is_none_or(|only| only.orders.contains(&order))
    }

    fn faults(&self) -> Option<BTreeSet<u64>> {
        self.only.as_ref().map(|only| only.faults.clone())
    }
}
