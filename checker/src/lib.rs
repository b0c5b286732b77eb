//! What the sample sagas left behind, checked by somebody who trusts nothing of the toolkit.
//!
//! The databases are read by plain SQL, the topics by a bare Kafka client, the gateway by HTTP, and what the customers were told
//! comes from their own list. The invariant: this package depends on no other of the workspace, so that a mistake there is not
//! repeated here.

pub mod databases;
pub mod invariants;
pub mod observed;
pub mod quiet;
pub mod record;
pub mod topics;
