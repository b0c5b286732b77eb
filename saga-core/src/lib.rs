//! Choreography sagas on Kafka: independent services react to events, do one local database transaction each, and emit the next
//! event or the one that makes others compensate. Nobody orchestrates.

mod breaker;
mod call;
pub mod clock;
pub mod discard;
pub mod envelope;
pub mod error;
pub mod event;
#[cfg(feature = "harness")]
pub mod harness;
#[cfg(not(feature = "harness"))]
mod harness;
pub mod id;
mod ledger;
pub mod manifest;
pub mod node;
pub mod observer;
pub mod participant;
mod pipeline;
mod reaction;
pub mod redrive;
mod relay;
pub mod retention;
pub mod retry;
pub mod signal;
pub mod start;
pub mod step;
pub mod store;
pub mod timeline;
pub mod transport;
mod turn;
mod work;

pub use error::Error;
pub use event::{Event, Never, Nothing};
pub use manifest::Manifest;
pub use participant::Participant;
pub use saga_compensation::State;
pub use step::{Compensate, CompensateExternal, External, Gate, Local, Step, StepContext, StepResult};

/// What the macros of this crate name; not for direct use.
#[doc(hidden)]
pub mod private {
    pub use serde_json;
}
