//! Pictures and documents of a choreography.
//!
//! The invariant: the same manifests give the same bytes, and nothing that a manifest says can break the format that it is drawn in.

mod asyncapi;
mod dot;
#[cfg(test)]
mod examples;
mod layout;
mod mermaid;
mod sequence;
mod svg;
mod table;
mod text;
mod tracks;

pub use sequence::{Path, PathError};
