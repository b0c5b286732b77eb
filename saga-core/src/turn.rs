//! The turns of calls: how many calls of a step go on at a time in this process, and how many wait until they may.
//!
//! The invariant: each step has its own in each direction, so that a system that is slow slows its own step only, and nothing that
//! takes back waits behind what does. A turn is counted as long as its call lives: it ends with the call, with the transaction that
//! would have leased it, or with the process. Who gets none waits in the work table ([`crate::work`]).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::step::Direction;

/// Calls that may wait, for each that may go on: at a second a call, the last of them is made within the margin of its lease.
const QUEUED_PER_CALL: usize = 15;

/// The turns of one participant in this process: one lane per step and direction.
#[derive(Debug)]
pub(crate) struct Turns(Vec<Lane>);

#[derive(Debug)]
struct Lane {
    /// Calls that go on or wait for that.
    places: Arc<Semaphore>,
    /// Calls that go on.
    going: Arc<Semaphore>,
    /// Whether some wait in the work table: they are older than what arrives.
    behind: AtomicBool,
}

/// The right to make one call, now or when those before it were made.
#[derive(Debug)]
pub(crate) struct Turn {
    _place: OwnedSemaphorePermit,
    going: Arc<Semaphore>,
}

impl Turns {
    /// For steps with so many calls at once.
    pub(crate) fn of(calls_at_once: impl Iterator<Item = usize>) -> Self {
        let lane = |calls: usize| Lane {
            places: Arc::new(Semaphore::new(calls + calls * QUEUED_PER_CALL)),
            going: Arc::new(Semaphore::new(calls)),
            behind: AtomicBool::new(false),
        };
        Self(calls_at_once.flat_map(|calls| [lane(calls), lane(calls)]).collect())
    }

    /// A turn, if there is room. What arrives (`waited` is false) gets none while others wait in the work table.
    pub(crate) fn take(&self, step: usize, direction: Direction, waited: bool) -> Option<Turn> {
        let lane = self.lane(step, direction);
        let place = if waited || !lane.behind.load(Ordering::Relaxed) {
            Arc::clone(&lane.places).try_acquire_owned().ok()
        } else {
            None
        };
        if place.is_none() {
            lane.behind.store(true, Ordering::Relaxed);
        }
        place.map(|place| Turn { _place: place, going: Arc::clone(&lane.going) })
    }

    /// How many turns could be taken now.
    pub(crate) fn room(&self, step: usize, direction: Direction) -> usize {
        self.lane(step, direction).places.available_permits()
    }

    /// Nobody waits in the work table any more.
    pub(crate) fn caught_up(&self, step: usize, direction: Direction) {
        self.lane(step, direction).behind.store(false, Ordering::Relaxed);
    }

    fn lane(&self, step: usize, direction: Direction) -> &Lane {
        &self.0[step * 2 + usize::from(direction == Direction::Compensation)]
    }
}

impl Turn {
    /// Waits until the call may go on; it does as long as what this returns is kept.
    pub(crate) fn comes(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<> {
        let going = Arc::clone(&self.going);
        async move { going.acquire_owned().await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORWARD: Direction = Direction::Forward;

    #[test]
    fn each_step_and_direction_has_its_own_room() {
        let turns = Turns::of([1, 1].into_iter());
        let mut taken: Vec<_> = (0..16).map(|_| turns.take(0, FORWARD, false).unwrap()).collect();
        assert!(turns.take(0, FORWARD, true).is_none());
        assert!(turns.take(0, Direction::Compensation, false).is_some(), "what takes back waits behind no forward");
        assert!(turns.take(1, FORWARD, false).is_some(), "nor does another step");
        taken.pop();
        assert_eq!(turns.room(0, FORWARD), 1);
        assert!(turns.take(0, FORWARD, false).is_none(), "what has waited comes first");
        assert!(turns.take(0, FORWARD, true).is_some());
        turns.caught_up(0, FORWARD);
        assert!(turns.take(0, FORWARD, false).is_some());
    }

    #[tokio::test]
    async fn of_those_that_have_a_place_only_so_many_go_on() {
        let turns = Turns::of([1].into_iter());
        let (first, second) = (turns.take(0, FORWARD, false).unwrap(), turns.take(0, FORWARD, false).unwrap());
        let going = first.comes().await.unwrap();
        let mut waits = std::pin::pin!(second.comes());
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(going);
        assert!(waits.await.is_some());
    }
}
