//! When a failed reaction is tried again: a pure function of the attempt and a seed.

use std::time::Duration;

/// How the wait grows, not yet a policy: say for how long with [`attempts`](Backoff::attempts),
/// [`for_at_most`](Backoff::for_at_most) or [`forever`](Backoff::forever).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a backoff is no policy until it is bounded, or says `.forever()`"]
pub struct Backoff {
    first: Duration,
    cap: Duration,
}

/// A retry policy.
///
/// ```
/// use {saga_core::retry::Retry, std::time::Duration};
/// let policy = Retry::exponential(Duration::from_millis(100), Duration::from_secs(10)).attempts(5);
/// assert!(policy.next(4, 0, 0).is_some());
/// assert!(policy.next(5, 0, 0).is_none());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    backoff: Backoff,
    attempts: Option<u32>,
    at_most: Option<Duration>,
    patience: Duration,
}

impl Default for Retry {
    /// For ever, from 200 ms up to once a minute: an outage of the other side must not make anything stuck.
    fn default() -> Self {
        Self::exponential(Duration::from_millis(200), Duration::from_secs(60)).forever()
    }
}

impl Retry {
    /// One attempt only.
    pub const fn never() -> Self {
        Self::fixed(Duration::ZERO).attempts(1)
    }

    /// The same wait before each attempt.
    pub const fn fixed(wait: Duration) -> Backoff {
        Backoff { first: wait, cap: wait }
    }

    /// A wait that doubles from `first` up to `cap`, less up to a quarter of it by chance, so that a crowd spreads out.
    pub const fn exponential(first: Duration, cap: Duration) -> Backoff {
        Backoff { first, cap }
    }

    /// How long a reaction may go on failing before an alarm is raised. It goes on being retried. [`Duration::MAX`] is no alarm.
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The declared patience; five minutes unless said otherwise.
    pub const fn declared_patience(&self) -> Duration {
        self.patience
    }

    /// The first wait and the longest one.
    pub const fn waits(&self) -> (Duration, Duration) {
        (self.backoff.first, self.backoff.cap)
    }

    /// How many attempts there are at most, where that is bounded.
    pub const fn bounded_attempts(&self) -> Option<u32> {
        self.attempts
    }

    /// For how long it is tried at most, where that is bounded.
    pub const fn bounded_time(&self) -> Option<Duration> {
        self.at_most
    }

    /// The same waits without an end, and never without a pause.
    pub(crate) fn unbounded(self) -> Self {
        let floor = Duration::from_millis(200);
        let backoff = Backoff { first: self.backoff.first.max(floor), cap: self.backoff.cap.max(floor) };
        Self { backoff, attempts: None, at_most: None, ..self }
    }

    /// The wait after failed attempt number `attempt` (from 1), or `None` when the policy is used up. `elapsed` is the time since
    /// the first attempt in milliseconds; `seed` spreads the waits.
    pub fn next(&self, attempt: u32, elapsed: i64, seed: u64) -> Option<Duration> {
        if self.attempts.is_some_and(|most| attempt >= most) {
            return None;
        }
        if self.at_most.is_some_and(|most| elapsed >= i64::try_from(most.as_millis()).unwrap_or(i64::MAX)) {
            return None;
        }
        let Backoff { first, cap } = self.backoff;
        let full = first.saturating_mul(1 << attempt.saturating_sub(1).min(30)).min(cap);
        if first == cap {
            return Some(full);
        }
        let quarter = u64::try_from(full.as_micros() / 4).unwrap_or(u64::MAX);
        Some(full - Duration::from_micros(if quarter == 0 { 0 } else { seed % quarter }))
    }

    /// One line for people, such as `exponential 200ms..60s, forever`.
    pub fn describe(&self) -> String {
        let Backoff { first, cap } = self.backoff;
        let wait = if first == cap { format!("fixed {first:?}") } else { format!("exponential {first:?}..{cap:?}") };
        match (self.attempts, self.at_most) {
            (Some(1), _) => "never".to_owned(),
            (Some(most), _) => format!("{wait}, {most} attempts"),
            (None, Some(most)) => format!("{wait}, for at most {most:?}"),
            (None, None) => format!("{wait}, forever"),
        }
    }
}

impl Backoff {
    /// At most `attempts` attempts, the first one included; then the reaction is stuck.
    pub const fn attempts(self, attempts: u32) -> Retry {
        Retry { backoff: self, attempts: Some(attempts), at_most: None, patience: PATIENCE }
    }

    /// For at most this long since the first attempt; then the reaction is stuck.
    pub const fn for_at_most(self, at_most: Duration) -> Retry {
        Retry { backoff: self, attempts: None, at_most: Some(at_most), patience: PATIENCE }
    }

    /// Until it works.
    pub const fn forever(self) -> Retry {
        Retry { backoff: self, attempts: None, at_most: None, patience: PATIENCE }
    }
}

/// Longer than a restart or a failover takes, shorter than a customer waits before calling.
const PATIENCE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_wait_grows_to_its_cap_and_never_below_three_quarters(attempt in 1u32..200, seed: u64) {
            let policy = Retry::exponential(Duration::from_millis(200), Duration::from_secs(60)).forever();
            let wait = policy.next(attempt, i64::MAX, seed).unwrap();
            let full = Duration::from_millis(200).saturating_mul(1 << (attempt - 1).min(30)).min(Duration::from_secs(60));
            prop_assert!(wait <= full && wait >= full - full / 4, "{wait:?} of {full:?}");
        }

        #[test]
        fn a_bounded_policy_ends(most in 1u32..50, attempt in 1u32..100) {
            let policy = Retry::fixed(Duration::from_secs(1)).attempts(most);
            prop_assert_eq!(policy.next(attempt, 0, 0).is_some(), attempt < most);
        }
    }

    #[test]
    fn a_policy_describes_itself() {
        assert_eq!(Retry::default().describe(), "exponential 200ms..60s, forever");
        assert_eq!(Retry::never().describe(), "never");
        assert_eq!(
            Retry::fixed(Duration::from_secs(1)).for_at_most(Duration::from_secs(9)).describe(),
            "fixed 1s, for at most 9s"
        );
    }
}
