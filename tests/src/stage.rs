//! The three real participants in one process: the in-memory broker, SQLite in memory, a clock that is moved by hand.
//!
//! The invariant: nothing here waits. Every participant takes its turn until nobody has anything to do; then the clock jumps to the
//! moment at which the next row is due. So a retry an hour from now costs no time, and the same seed gives the same run.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use saga_core::{
    clock::Clock,
    envelope::Envelope,
    id::SagaId,
    node::Node,
    observer::Unseen,
    start::{StartKey, Started},
    store::Store,
    timeline::Timeline,
    transport::memory::MemoryBroker,
};
use saga_services::{gateway, order, payment, shipping};

use crate::world::{Order, Totals, World};

/// Any time will do; this one is in a year of five digits of days since the epoch.
const BEGIN: i64 = 1_800_000_000_000;
/// More turns than any scenario needs: beyond it somebody spins.
const TURNS: usize = 1_000_000;

/// The participants and what they stand on.
#[derive(Debug)]
pub struct Stage {
    /// The broker, for tests that look at messages or send their own.
    pub broker: MemoryBroker,
    /// The time, which stands still unless the stage moves it.
    pub clock: Clock,
    /// The payment gateway, with its faults and its record.
    pub gateway: gateway::Running,
    stores: BTreeMap<&'static str, Store>,
    nodes: BTreeMap<&'static str, Node>,
    placed: u64,
}
