//! Chaos: the real binaries on a real Kafka and a real PostgreSQL, while everything that can break is broken.
//!
//! ```text
//! customers ──HTTP──► order ─┐            ┌─ proxy ─ PostgreSQL      faults, drawn from a seed:
//!                    payment ─┼───────────┤                          kill -9, freeze, stop, restart, cut, stall, scale,
//!   gateway ◄─────── shipping ┘            └─ proxy ─ Kafka           a broken gateway
//! ```
//!
//! The invariant: nothing here judges. What customers were told goes to a file, and `saga-checker`, which shares no code with the
//! toolkit, says whether anything was lost, done twice or left undone.

pub mod customers;
pub mod fault;
pub mod inspection;
pub mod instance;
pub mod journal;
pub mod points;
pub mod proxy;
pub mod run;
pub mod shop;
