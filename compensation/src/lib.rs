//! The rules of doing and compensating one step of one saga, as pure functions.
//!
//! A step of a saga at a participant has one ledger row, and that row is in one [`State`] (or there is none yet).
//! Whatever arrives, an event that triggers the step ([`forward`]), an event that compensates it ([`compensation`]) or
//! the answer of a call to another system ([`answer`]), the state and a few facts decide what has to happen. Nothing
//! else does: no I/O, no clock, no memory of earlier calls. The pipeline asks these functions inside the transaction that holds
//! the saga's lock, and the model in `tests/` drives the same functions through every interleaving it can think of.
//!
//! ```text
//!              run                       reverse                    settled
//!   (none) ──────────► done / rejected ──────────► compensating ──────────► compensated
//!     │  └─► calling ──────▲        in doubt ──────────▲
//!     └────────────────────────── nothing done ───────────────────────────► void
//! ```
//!
//! The invariant: every arrow is taken at most once, and a row that is `compensated` or `void` never moves again.
//! So a duplicate changes nothing, and a forward that arrives after its compensation finds the door closed.

mod verdict;

pub use verdict::{
    Answer, Call, Compensation, Forward, Kind, ParseStateError, Said, State, answer, compensation, forward,
};
