//! The breaker of a step: while everything fails there, one reaction probes and the others wait.
//!
//! ```text
//! closed ── five failures in a row, of three sagas ──► open ── a reaction of the step succeeds ──► closed
//!                                                      │ ▲
//!                                                      └─┘ one probe a second, then every two, .. every 30 s
//! ```
//!
//! The invariant: a failure while the breaker is open counts against nobody's policy. Nobody becomes stuck because of an outage, and
//! an outage is not hammered by everybody who waits for its end. A breaker lives in one process: it protects, it proves nothing.
//! (Nygard, *Release It!*, 2nd edition, section 5.2.)

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    clock::millis,
    id::{ReactionId, SagaId},
    step::Direction,
};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
/// From so many sagas at least: one saga that always fails has a problem of its own.
const SAGAS: usize = 3;
/// The wait before the first probe.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait between two probes: what a recovery is noticed late by, at most.
const LONGEST: Duration = Duration::from_secs(30);

/// The breakers of one participant in this process: one per step and direction.
#[derive(Debug)]
pub(crate) struct Breakers(Vec<Mutex<Breaker>>);

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    sagas: BTreeSet<SagaId>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    probe_at: i64,
    wait: Duration,
    /// The last one that got the probe: it may be settled more than once before it counts.
    probe: Option<ReactionId>,
}

/// Whether a reaction may run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Go,
    /// Not before this time, in milliseconds since the Unix epoch.
    Hold(i64),
}

impl Breakers {
    pub(crate) fn of(steps: usize) -> Self {
        Self((0..steps * 2).map(|_| Mutex::default()).collect())
    }

    /// May it run? Of those that ask while it is open, one gets the probe.
    pub(crate) fn ask(&self, step: usize, direction: Direction, id: ReactionId, now: i64) -> Admission {
        self.with(step, direction, |breaker| match &mut breaker.open {
            Some(open) if now < open.probe_at && open.probe != Some(id) => Admission::Hold(open.probe_at),
            Some(open) => {
                open.probe = Some(id);
                // Should the probe be lost, another follows.
                open.probe_at = now.saturating_add(millis(open.wait));
                Admission::Go
            }
            None => Admission::Go,
        })
    }

    /// How many reactions are worth asking: a probe, while everything fails; `None` for any number.
    pub(crate) fn room(&self, step: usize, direction: Direction, now: i64) -> Option<usize> {
        self.with(step, direction, |breaker| breaker.open.as_ref().map(|open| usize::from(open.probe_at <= now)))
    }

    /// True when this closed it.
    pub(crate) fn succeeded(&self, step: usize, direction: Direction) -> bool {
        self.with(step, direction, |breaker| std::mem::take(breaker).open.is_some())
    }

    /// What a failure means for its own policy, and for the others.
    pub(crate) fn failed(&self, step: usize, direction: Direction, saga: SagaId, now: i64) -> Verdict {
        self.with(step, direction, |breaker| {
            if let Some(open) = &mut breaker.open {
                // Its probe failed, or what needs none (see `Fold::compensation`) did when one was due. Those that were under way when
                // it opened say nothing new. What is excused is never due at once, or it would fail at each tick.
                if open.probe.take().is_some() || open.probe_at <= now {
                    open.wait = (open.wait * 2).min(LONGEST);
                    open.probe_at = now.saturating_add(millis(open.wait));
                }
                return Verdict::Excused(open.probe_at);
            }
            breaker.failures += 1;
            if breaker.sagas.len() < SAGAS {
                breaker.sagas.insert(saga);
            }
            if breaker.failures < FAILURES || breaker.sagas.len() < SAGAS {
                return Verdict::Counts;
            }
            let probe_at = now.saturating_add(millis(FIRST));
            breaker.open = Some(Open { probe_at, wait: FIRST, probe: None });
            Verdict::Opens(probe_at)
        })
    }

    /// Which are open, as indices of steps.
    pub(crate) fn open(&self) -> Vec<(usize, Direction)> {
        let open = |(i, breaker): (usize, &Mutex<Breaker>)| {
            let open = breaker.lock().unwrap_or_else(PoisonError::into_inner).open.is_some();
            open.then_some((i / 2, if i % 2 == 0 { Direction::Forward } else { Direction::Compensation }))
        };
        self.0.iter().enumerate().filter_map(open).collect()
    }

    fn with<T>(&self, step: usize, direction: Direction, f: impl FnOnce(&mut Breaker) -> T) -> T {
        let breaker = &self.0[step * 2 + usize::from(direction == Direction::Compensation)];
        f(&mut breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It counts against the policy of its reaction.
    Counts,
    /// It was the last straw: the breaker is open from now on. Excused, too.
    Opens(i64),
    /// Everything fails here. The next attempt is at this time, in milliseconds since the Unix epoch.
    Excused(i64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const FORWARD: Direction = Direction::Forward;

    fn saga(n: u128) -> SagaId {
        SagaId(Uuid::from_u128(n))
    }

    fn id(n: u128) -> ReactionId {
        ReactionId(Uuid::from_u128(n))
    }

    #[test]
    fn one_saga_that_always_fails_opens_nothing() {
        let breakers = Breakers::of(1);
        for _ in 0..100 {
            assert_eq!(breakers.failed(0, FORWARD, saga(1), 0), Verdict::Counts);
        }
        assert_eq!(breakers.ask(0, FORWARD, id(1), 0), Admission::Go);
    }

    #[test]
    fn while_it_is_open_one_reaction_probes_at_growing_intervals() {
        let breakers = Breakers::of(2);
        for n in 0..4 {
            assert_eq!(breakers.failed(1, FORWARD, saga(n), 0), Verdict::Counts);
        }
        assert_eq!(breakers.failed(1, FORWARD, saga(9), 0), Verdict::Opens(1_000));
        assert_eq!(breakers.open(), [(1, FORWARD)]);
        assert_eq!(breakers.ask(0, FORWARD, id(1), 0), Admission::Go, "another step has a breaker of its own");
        assert_eq!(breakers.ask(1, Direction::Compensation, id(1), 0), Admission::Go, "and so has the other direction");

        let mut now = 0;
        for wait in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            assert_eq!(breakers.ask(1, FORWARD, id(1), now), Admission::Hold(now + wait));
            now += wait;
            assert_eq!(breakers.ask(1, FORWARD, id(1), now), Admission::Go, "the probe");
            assert!(matches!(breakers.ask(1, FORWARD, id(2), now), Admission::Hold(_)), "there is one of it");
            assert_eq!(breakers.ask(1, FORWARD, id(1), now), Admission::Go, "which may be settled again");
            assert!(matches!(breakers.failed(1, FORWARD, saga(1), now), Verdict::Excused(_)));
        }
        assert!(breakers.succeeded(1, FORWARD));
        assert_eq!(breakers.ask(1, FORWARD, id(2), now), Admission::Go);
        assert!(!breakers.succeeded(1, FORWARD), "it was closed before");
    }

    #[test]
    fn what_fails_without_having_asked_is_a_probe_when_one_is_due() {
        let breakers = Breakers::of(1);
        for n in 0..5 {
            breakers.failed(0, FORWARD, saga(n), 0);
        }
        assert_eq!(breakers.failed(0, FORWARD, saga(1), 999), Verdict::Excused(1_000), "it was under way");
        assert_eq!(breakers.failed(0, FORWARD, saga(1), 1_000), Verdict::Excused(3_000));
        assert_eq!(breakers.room(0, FORWARD, 2_999), Some(0), "so that it does not fail at each tick");
    }
}
