//! What every saga is doing, seen from outside: events and signals are read from the topics and folded into one row per saga.
//!
//! ```text
//! topics ──► Saga (what was seen, in any order) ──► View (what it means beside the choreography)
//! ```
//!
//! The invariant: sagas never depend on it. It publishes nothing that a participant hears, and its database can be deleted and
//! filled again from the topics.

pub mod intake;
pub mod saga;
pub mod store;
pub mod view;

pub use saga::Saga;
pub use store::Store;
pub use view::{Cast, View};
