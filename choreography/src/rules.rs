//! What can be judged by looking at the declarations, without playing a saga.
//!
//! The invariant: a rule speaks only where it is sure, so a sound choreography has no finding. Where the answer depends on who comes
//! first, the rules are silent and the exploration speaks. They are fast: fifty services are judged in a few milliseconds.

mod declared;
mod events;
mod noes;
mod paths;
mod runs;
mod twice;

use crate::{finding::Finding, flow::Flow};

/// Everything that the rules find, in the order of the rules.
pub fn findings(flow: &Flow<'_>) -> Vec<Finding> {
    let mut found = declared::findings(flow);
    found.extend(events::findings(flow));
    found.extend(paths::findings(flow));
    found.extend(noes::findings(flow));
    found
}
