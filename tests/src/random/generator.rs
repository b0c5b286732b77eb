//! Random choreographies: a sound skeleton and up to three mistakes, so that about a third stays sound.
//!
//! The invariant: the same seed is the same choreography, and each participant of it passes its own check, so that it can be played.

use std::sync::Arc;

use anyhow::Result;
use saga_core::{Manifest, harness::Decide};

use super::{draft::Draft, mutation::mutate, skeleton::skeleton};
use crate::simulation::chance::Random;

/// What may be asked of a small choreography at most.
const MOST_STEPS: usize = 9;

/// The choreography of a seed, and how many mistakes were made in it.
pub fn choreography(seed: u64, decide: &Arc<dyn Decide>) -> Result<(Vec<Manifest>, usize)> {
    let mut random = Random::new(seed);
    let mut draft = skeleton(&mut random);
    let wanted = [0, 1, 1, 1, 2, 2, 3][random.below(7)];
    let mut made = 0;
    for nth in 0..wanted {
        // Some mistakes are none, or nobody would get past the participant's own check with them.
        for _ in 0..10 {
            let mut next: Draft = draft.clone();
            mutate(&mut next, &mut random, nth);
            let changed = format!("{next:?}") != format!("{draft:?}");
            if changed && next.steps.len() <= MOST_STEPS && next.manifests(decide).is_ok() {
                draft = next;
                made += 1;
                break;
            }
        }
    }
    Ok((draft.manifests(decide)?, made))
}
