//! Everything that a seed decides: what goes wrong, and whose turn it is.
//!
//! The invariant: whether a fault strikes follows from the seed and from what it would strike (the third call of a key, the
//! seventh time that an instance reaches a point), never from what struck before. So a fault can be taken away and the
//! others stay, which is what lets a schedule shrink.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// An instance dies, and is started again later.
    Crash,
    /// An instance is held up for moments, between two statements that others may come between.
    Pause,
    /// An instance sleeps, perhaps beyond its lease and its session, and then goes on.
    Sleep,
    /// The broker gives an instance's partitions away although it lives.
    Rebalance,
    /// A transaction is committed, and the answer to that is lost.
    CommitUnknown,
    /// A step's own code fails after all of its work.
    StepFails,
    /// A message does not reach the broker, and the publisher is told so.
    MessageLost,
    /// A message reaches the broker, and the publisher is told that it did not.
    AcknowledgementLost,
    /// A message is acknowledged, and readable only later.
    MessageLate,
    /// A message comes once more, at once or much later.
    MessageTwice,
    /// A request never reaches the gateway; its caller waits in vain.
    RequestLost,
    /// A request reaches the gateway when its caller has given up.
    RequestSlow,
    /// The gateway fails before a request takes effect.
    RequestFails,
    /// A request takes effect, and its answer is lost.
    AnswerLost,
    /// A customer cancels.
    Cancel,
    /// Somebody who got an answer asks once more, under the same key.
    AskedAgain,
}

impl Fault {
    /// One in so many, on an average day.
    const fn rate(self) -> u64 {
        match self {
            Self::Crash => 400,
            Self::Pause => 25,
            Self::Sleep => 250,
            Self::Rebalance => 12,
            Self::CommitUnknown => 100,
            Self::StepFails => 25,
            Self::MessageLost | Self::AcknowledgementLost => 25,
            Self::MessageLate => 12,
            Self::MessageTwice => 10,
            Self::RequestLost | Self::RequestFails => 20,
            Self::RequestSlow => 10,
            Self::AnswerLost => 12,
            Self::Cancel => 3,
            Self::AskedAgain => 8,
        }
    }
}

/// A fault that struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    /// Names it in a schedule.
    pub id: u64,
    /// What.
    pub fault: Fault,
    /// Whom.
    pub what: String,
    /// When, in milliseconds since the beginning of the run.
    pub at: i64,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9} {:?}: {}", seconds(self.at), self.fault, self.what)
    }
}

/// Milliseconds as people read them.
pub fn seconds(millis: i64) -> String {
    format!("{}.{:03}s", millis / 1000, millis % 1000)
}

/// SplitMix64: every seed is as good as any other.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end.max(1) as u64) as usize
    }
}

const fn mix(bits: u64) -> u64 {
    let z = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a, which needs no allocation for a text that is only formatted to be hashed.
struct Hash(u64);

impl fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

/// The faults of one run.
#[derive(Debug)]
pub struct Chance {
    seed: u64,
    /// Where only some faults may strike.
    allowed: Option<BTreeSet<u64>>,
    healed: bool,
    /// Those that struck, in order.
    pub struck: Vec<Strike>,
}

impl Chance {
    /// All faults that the seed holds, or only those that are allowed.
    pub const fn new(seed: u64, allowed: Option<BTreeSet<u64>>) -> Self {
        Self { seed, allowed, healed: false, struck: Vec::new() }
    }

    /// A number that belongs to the seed and to a name: what sort of day it is.
    pub fn of_seed(&self, name: &str) -> u64 {
        self.hash(format_args!("{name}"))
    }

    /// Whether a fault strikes, `weight` times as often as it does elsewhere; if so, with how much force (any number).
    pub fn strikes(&mut self, fault: Fault, weight: u64, at: i64, what: fmt::Arguments<'_>) -> Option<u64> {
        if self.healed {
            return None;
        }
        let id = self.hash(format_args!("{fault:?} {what}"));
        // Every seed leaves some faults out and has others more often: what hides behind noise shows on a calm day.
        let rate = match self.hash(format_args!("{fault:?} rate")) % 8 {
            0 | 1 => return None,
            2 => fault.rate() / 3 + 1,
            3 => fault.rate() * 4,
            _ => fault.rate(),
        };
        let rate = rate.div_ceil(weight.max(1));
        if !mix(id).is_multiple_of(rate) || self.allowed.as_ref().is_some_and(|allowed| !allowed.contains(&id)) {
            return None;
        }
        self.struck.push(Strike { id, fault, what: what.to_string(), at });
        Some(mix(id.wrapping_add(1)))
    }

    /// From now on nothing goes wrong.
    pub fn heal(&mut self) {
        self.healed = true;
    }

    /// Whether nothing goes wrong any more.
    pub const fn healed(&self) -> bool {
        self.healed
    }

    fn hash(&self, text: fmt::Arguments<'_>) -> u64 {
        let mut hash = Hash(0xcbf2_9ce4_8422_2325);
        // A hash takes any text.
        let _ = hash.write_fmt(text);
        mix(hash.0 ^ mix(self.seed))
    }
}
