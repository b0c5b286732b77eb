//! Random small choreographies, played by the real pipeline and judged by what they leave behind: what a verifier says of a
//! choreography is held against what happens.
//!
//! ```text
//! seed ──► skeleton ──► mistakes ──► manifests ──► verifier ──► sound?  ┐
//!                                        └──► player ──► judge ──► bad? ┴──► never both
//! ```

mod dice;
mod draft;
mod generator;
mod judge;
mod mutation;
mod player;
mod post;
mod skeleton;
mod trial;
mod verdict;

pub use generator::choreography;
pub use judge::{Bad, judge};
pub use player::{How, Left, Player};
pub use trial::{Disagreement, Figures, Trials};
pub use verdict::Verdict;
