//! OpenTelemetry for saga-core: one saga is one trace.
//!
//! ```text
//! order                      payment                     shipping
//! start place-order
//!   └─ send orders ─ ─ ─ ─ ─ process orders
//!                              └─ send payments ─ ─ ─ ─ ─ process payments
//!                                                            └─ ...
//! ```
//!
//! The dotted lines are the W3C headers that an event carries through the outbox and the broker, so the trace survives retries,
//! calls, parking and restarts. [`init`] sets a process up, [`Telemetry::observer`] is what a node is given, and
//! [`Telemetry::shutdown`] sends what is left. The invariant: telemetry may be lost, a saga never waits for it.

pub mod names;
mod observer;
mod propagation;
mod telemetry;

pub use observer::OtelObserver;
pub use telemetry::{Config, LogFormat, Telemetry, init, prepare};
