//! The protocol, model-checked with the crate's own verdicts.
//!
//! The verdicts are pure functions, so whether they are *right* is a question about histories: every order of
//! deliveries, duplicates, crashes, lost leases, lost requests and lost replies. Two models walk through them. `saga`
//! takes one saga through three participants and another company's gateway; `relay` takes deliveries to offsets, ledger
//! and outbox.
//!
//! - `sound` explores the rules as they are: no history may violate a property.
//! - `broken` breaks one rule at a time and asserts that the model finds the fault, by the name of the property.
//! - `spare` breaks those rules that another rule backs up, and asserts that no harm comes of it; who holds the line
//!   then is said there.
//!
//! Not modelled: several sagas at once, batches, retention, stopping in order.
//!
//! `SAGA_MODEL=full cargo test -p saga-compensation --test protocol` goes through the millions of states that the
//! everyday run leaves out and names as left out. `-- --nocapture` shows the counts, and a shortest history per fault.

mod events;
mod explore;
mod gateway;
mod payment;
mod properties;
mod relay;
mod rules;
mod saga;
mod world;

mod broken;
mod sound;
mod spare;
