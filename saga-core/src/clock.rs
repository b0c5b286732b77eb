//! Time and chance, handed in, so that a test can own both.
//!
//! The invariant: this is the only file that asks the machine what time it is or for a random number.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use uuid::Uuid;

/// Where a node takes the time and its random numbers from. Cheap to clone; clones share their time.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Manual(Arc<Mutex<Manual>>),
}

#[derive(Debug)]
struct Manual {
    now: i64,
    state: u64,
}

impl Clock {
    /// The machine's own time and random numbers.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A time that stands still until it is told to go on, and random numbers from a seed.
    pub fn manual(now: i64, seed: u64) -> Self {
        Self(Source::Manual(Arc::new(Mutex::new(Manual { now, state: seed }))))
    }

    /// Milliseconds since the Unix epoch.
    pub fn now(&self) -> i64 {
        match &self.0 {
            Source::System => {
                #[expect(clippy::disallowed_methods, reason = "the one place that asks for the time")]
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }
            Source::Manual(manual) => manual.lock().unwrap_or_else(PoisonError::into_inner).now,
        }
    }

    /// Moves a manual clock on; the machine's own cannot be moved and ignores it.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(manual) = &self.0 {
            let mut manual = manual.lock().unwrap_or_else(PoisonError::into_inner);
            manual.now = manual.now.saturating_add(millis(by));
        }
    }

    /// 64 random bits.
    pub fn random(&self) -> u64 {
        match &self.0 {
            Source::System => {
                #[expect(clippy::disallowed_methods, reason = "the one place that asks for chance")]
                let bits = Uuid::new_v4().as_u64_pair();
                bits.0.rotate_left(32) ^ bits.1
            }
            Source::Manual(manual) => {
                // SplitMix64 (Steele, Lea, Flood 2014): tiny, and every seed is as good as any other.
                let mut manual = manual.lock().unwrap_or_else(PoisonError::into_inner);
                manual.state = manual.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = manual.state;
                let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
        }
    }

    /// A UUIDv7 of now.
    pub fn time_ordered_uuid(&self) -> Uuid {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.random().to_be_bytes());
        random[8..].copy_from_slice(&self.random().to_be_bytes()[..2]);
        uuid::Builder::from_unix_timestamp_millis(self.now().unsigned_abs(), &random).into_uuid()
    }
}

/// A span of time in the unit that every table counts in.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
