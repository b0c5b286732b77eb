//! What one lane has handed to the broker and not heard of yet, and which of it is worth waiting for.
//!
//! A row is *awaited* at first: the next round begins when nothing is awaited any more. What is not acknowledged in time makes its
//! partition slow, and what is in flight for a slow partition keeps nobody waiting. It is bounded: the client's queue is one for
//! all partitions, and the slow ones must not fill it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

/// How long a round waits for an acknowledgement: longer than a broker takes that is only busy, and what the others lose once when
/// a partition loses its leader. Less than a part of a stop.
pub(super) const PATIENCE: Duration = Duration::from_millis(400);
/// Rows in flight that nobody waits for, at most, and a round.
pub(super) const MOST_SLOW: usize = 4_000;
/// The same in bytes: with the rounds of both lanes, well within the client's queue of 64 MiB.
pub(super) const MOST_SLOW_BYTES: usize = 16 << 20;
/// Claims that are remembered for when their partition is back: the others end by themselves.
const MOST_LEFT: usize = 10_000;

/// A partition of a topic.
pub(super) type Place = (Arc<str>, i32);

/// A row in flight.
#[derive(Debug)]
pub(super) struct Flying {
    pub(super) place: Place,
    pub(super) saga: String,
    /// The end of its claim, if it has one: that of the sweep that brought it, or the one that holds it.
    pub(super) claim: Option<i64>,
    bytes: usize,
    since: Instant,
    awaited: bool,
}

/// A partition that does not take what it is given, at the moment.
#[derive(Debug)]
struct Slow {
    since: Instant,
    rows: usize,
    /// Rows that had no room in flight and are claimed, with the ends of their claims.
    left: HashMap<Uuid, i64>,
}

impl Slow {
    fn new(since: Instant) -> Self {
        Self { since, rows: 0, left: HashMap::new() }
    }
}

#[derive(Debug, Default)]
pub(super) struct Flight {
    rows: HashMap<Uuid, Flying>,
    slow: BTreeMap<Place, Slow>,
    awaited: usize,
    unawaited: usize,
    unawaited_bytes: usize,
    /// When the last round began.
    begun: Option<Instant>,
}

impl Flight {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Rows that the round waits for.
    pub(super) fn awaited(&self) -> usize {
        self.awaited
    }

    /// When waiting ends.
    pub(super) fn patient_until(&self) -> Option<Instant> {
        self.begun.filter(|_| self.awaited > 0).map(|begun| begun + PATIENCE)
    }

    /// Takes a row in, or leaves it: `false` when its partition is slow and has enough in flight.
    pub(super) fn begin(
        &mut self,
        id: Uuid,
        place: Place,
        saga: &str,
        bytes: usize,
        claim: Option<i64>,
        now: Instant,
    ) -> bool {
        let awaited = match self.slow.get_mut(&place) {
            None => true,
            Some(slow) if self.unawaited >= MOST_SLOW || self.unawaited_bytes + bytes > MOST_SLOW_BYTES => {
                if slow.left.len() < MOST_LEFT {
                    slow.left.extend(claim.map(|claim| (id, claim)));
                }
                return false;
            }
            Some(slow) => {
                slow.rows += 1;
                false
            }
        };
        if awaited {
            self.awaited += 1;
            self.begun = Some(now);
        } else {
            self.unawaited += 1;
            self.unawaited_bytes += bytes;
        }
        self.rows.insert(id, Flying { place, saga: saga.to_owned(), claim, bytes, since: now, awaited });
        true
    }

    /// Nobody waits any longer for what the round has not heard of: its partitions are slow.
    pub(super) fn give_up_waiting(&mut self, now: Instant) {
        for row in self.rows.values_mut().filter(|row| row.awaited) {
            row.awaited = false;
            self.slow.entry(row.place.clone()).or_insert_with(|| Slow::new(now)).rows += 1;
            self.unawaited += 1;
            self.unawaited_bytes += row.bytes;
        }
        self.awaited = 0;
    }

    /// Claims what nobody waits for and is not claimed beyond `soon`, until `until`; returns it.
    pub(super) fn hold(&mut self, soon: i64, until: i64) -> Vec<Uuid> {
        let mut held = Vec::new();
        for (id, row) in &mut self.rows {
            if !row.awaited && row.claim.is_none_or(|claim| claim < soon) {
                row.claim = Some(until);
                held.push(*id);
            }
        }
        held
    }

    /// Forgets all of it. Returns the claims.
    pub(super) fn give_up(&mut self) -> Vec<(Uuid, i64)> {
        let claims = self.rows.drain().filter_map(|(id, row)| Some((id, row.claim?))).collect();
        *self = Self::default();
        claims
    }

    /// A result came. Returns the row, and the claims that may end now because its partition is no longer slow.
    pub(super) fn heard(&mut self, id: Uuid, acknowledged: bool, now: Instant) -> Option<(Flying, Vec<(Uuid, i64)>)> {
        let row = self.rows.remove(&id)?;
        if row.awaited {
            self.awaited -= 1;
            return Some((row, Vec::new()));
        }
        self.unawaited -= 1;
        self.unawaited_bytes -= row.bytes;
        let Some(slow) = self.slow.get_mut(&row.place) else { return Some((row, Vec::new())) };
        slow.rows = slow.rows.saturating_sub(1);
        // Acknowledged as fast as an awaited one: what is handed over from here on is worth waiting for.
        let fast = acknowledged && now < row.since + PATIENCE;
        let again = if slow.rows == 0 || fast { self.slow.remove(&row.place) } else { None };
        Some((row, again.into_iter().flat_map(|slow| slow.left).collect()))
    }

    /// The slow partitions, since when they are, and what is in flight for each.
    pub(super) fn slow(&self) -> impl Iterator<Item = (&Place, Instant, usize)> {
        self.slow.iter().map(|(place, slow)| (place, slow.since, slow.rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        flight: Flight,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { flight: Flight::default(), now: Instant::now() }
        }

        fn begin(&mut self, id: usize, partition: i32, bytes: usize) -> bool {
            let place = (Arc::from("orders"), partition);
            self.flight.begin(Uuid::from_u128(id as u128), place, "saga", bytes, Some(7), self.now)
        }

        /// It is acknowledged. Returns what is claimed no longer.
        fn hear(&mut self, id: usize) -> Vec<(Uuid, i64)> {
            self.flight.heard(Uuid::from_u128(id as u128), true, self.now).expect("it is in flight").1
        }

        fn slow(&self) -> Vec<(i32, usize)> {
            self.flight.slow().map(|((_, partition), _, rows)| (*partition, rows)).collect()
        }
    }

    #[test]
    fn a_slow_partition_keeps_nobody_waiting_and_is_bounded() {
        let mut bench = Bench::new();
        assert!(bench.begin(0, 0, 1) && bench.begin(1, 1, 1));
        bench.hear(1);
        assert_eq!((bench.flight.awaited(), bench.slow()), (1, vec![]));
        bench.flight.give_up_waiting(bench.now);
        assert_eq!((bench.flight.awaited(), bench.slow(), bench.flight.patient_until()), (0, vec![(0, 1)], None));

        (2..=MOST_SLOW).for_each(|id| assert!(bench.begin(id, 0, 1)));
        assert_eq!((bench.flight.awaited(), bench.slow()), (0, vec![(0, MOST_SLOW)]));
        assert!(!bench.begin(9_999, 0, 1), "no room");
        assert!(bench.begin(10_000, 1, 1), "the others have theirs");
        assert_eq!(bench.flight.awaited(), 1);

        bench.now += PATIENCE;
        assert_eq!(bench.hear(0), [], "an old one says nothing about the next");
        assert!(bench.begin(10_001, 0, 1), "and makes room");
        assert_eq!(bench.hear(10_001), [(Uuid::from_u128(9_999), 7)], "a fresh one says that it is back");
        assert!(bench.begin(10_002, 0, 1));
        assert_eq!((bench.flight.awaited(), bench.slow()), (2, vec![]));
        (2..=MOST_SLOW).for_each(|id| assert_eq!(bench.hear(id), []));
        assert_eq!((bench.flight.unawaited, bench.flight.unawaited_bytes), (0, 0));
    }

    #[test]
    fn what_is_slow_is_held_in_time() {
        let mut bench = Bench::new();
        let id = Uuid::from_u128;
        assert!(bench.begin(0, 0, 1) && bench.flight.hold(9, 30).is_empty(), "it is awaited");
        bench.flight.give_up_waiting(bench.now);
        assert!(bench.flight.hold(7, 30).is_empty(), "the sweep's claim lasts");
        assert_eq!((bench.flight.hold(8, 30), bench.flight.hold(8, 31)), (vec![id(0)], vec![]));
        assert_eq!(bench.flight.give_up(), [(id(0), 30)]);
        assert!(bench.flight.is_empty() && bench.slow().is_empty());
    }

    #[test]
    fn large_rows_are_bounded_by_their_bytes() {
        let mut bench = Bench::new();
        assert!(bench.begin(0, 0, MOST_SLOW_BYTES - 1));
        bench.flight.give_up_waiting(bench.now);
        assert!(!bench.begin(1, 0, 2));
        assert!(bench.begin(2, 0, 1));
        bench.now += PATIENCE;
        assert_eq!((bench.hear(0), bench.slow()), (vec![], vec![(0, 1)]));
        assert_eq!(bench.hear(2), [(Uuid::from_u128(1), 7)], "the last one, however old");
        assert!(bench.flight.is_empty() && bench.slow().is_empty());
    }
}
