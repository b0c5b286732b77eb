//! Choreography sagas on Kafka: independent services react to events, do one local database transaction each, and emit the next
//! event or the one that makes others compensate. Nobody orchestrates.

pub mod clock;
pub mod envelope;
pub mod error;
pub mod event;
pub mod id;
pub mod observer;
pub mod retry;
pub mod step;
pub mod store;
pub mod transport;

pub use error::Error;
pub use event::{Event, Never, Nothing};
pub use saga_compensation::State;
pub use step::{CompensateExternal, Compensate, External, Gate, Local, Step, StepContext, StepResult};

/// What the macros of this crate name; not for direct use.
#[doc(hidden)]
pub mod private {
    pub use serde_json;
}
