//! What the steps of a random choreography decide. Nothing is remembered: a seed, a saga, a step and a question make the answer.

use std::sync::Mutex;

use saga_core::{
    harness::{Decide, Question},
    id::SagaId,
};
use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::PoisonError,
};

/// After so many attempts a call is answered: what never comes is a delay, and no end.
const LOST_AT_MOST: u32 = 3;

/// Decides by a seed, which is exchanged for each play: participants are made once and played often.
#[derive(Debug, Default)]
pub(super) struct Dice(Mutex<u64>);

impl Dice {
    /// From now on by this seed.
    pub(super) fn cast(&self, seed: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seed;
    }
}

impl Decide for Dice {
    fn decide(&self, saga: SagaId, step: &str, question: Question, options: usize) -> usize {
        // Its keys are fixed, so the same question has the same answer in every process.
        let mut hash = DefaultHasher::new();
        let seed = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (seed, saga, step, question).hash(&mut hash);
        let bits = hash.finish();
        match question {
            Question::Call(_, attempt) => usize::from(attempt <= LOST_AT_MOST && bits.is_multiple_of(4)),
            Question::AfterEffect => usize::from(bits.is_multiple_of(4)),
            _ => (bits % options.max(1) as u64) as usize,
        }
    }
}
