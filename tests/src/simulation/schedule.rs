//! From a run that failed to the fewest orders and faults that still fail.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Play, Played, play};

/// The orders and the faults of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// By their numbers.
    pub orders: BTreeSet<usize>,
    /// By their ids.
    pub faults: BTreeSet<u64>,
}

/// Takes away what can be taken away, greedily, in ever smaller pieces, with at most `tries` runs. What is left fails, too, if
/// not always by the same invariant. Returns the last run that failed.
pub fn shrink(failed: &Play, played: Played, mut tries: usize) -> Result<(Play, Played)> {
    let mut best = (failed.clone(), played);
    let orders: Vec<usize> = (0..failed.sagas).filter(|order| failed.places(*order)).collect();
    let mut attempt = |orders: &[usize], faults: &[u64], best: &mut (Play, Played)| -> Result<bool> {
        if tries == 0 {
            return Ok(false);
        }
        tries -= 1;
        let only = Schedule { orders: orders.iter().copied().collect(), faults: faults.iter().copied().collect() };
        let candidate = Play { only: Some(only), ..failed.clone() };
        let played = play(&candidate)?;
        let fails = played.violation.is_some();
        if fails {
            *best = (candidate, played);
        }
        Ok(fails)
    };
    let ids = |played: &Played| played.faults.iter().map(|strike| strike.id).collect::<Vec<u64>>();
    let all = ids(&best.1);
    let orders = smallest(orders, |orders| attempt(orders, &all, &mut best))?;
    // A whole kind at a time, then one by one: most kinds have nothing to do with it.
    for kind in best.1.faults.iter().map(|strike| strike.fault).collect::<BTreeSet<_>>() {
        let others = best.1.faults.iter().filter(|strike| strike.fault != kind);
        let others: Vec<u64> = others.map(|strike| strike.id).collect();
        attempt(&orders, &others, &mut best)?;
    }
    let faults = ids(&best.1);
    let faults = smallest(faults, |faults| attempt(&orders, faults, &mut best))?;
    smallest(orders, |orders| attempt(orders, &faults, &mut best))?;
    Ok(best)
}

/// Removes ever smaller pieces as long as the rest still fails.
fn smallest<T: Clone>(mut items: Vec<T>, mut fails: impl FnMut(&[T]) -> Result<bool>) -> Result<Vec<T>> {
    let mut piece = items.len().div_ceil(2);
    while piece > 0 && !items.is_empty() {
        let mut begin = 0;
        while begin < items.len() {
            let end = (begin + piece).min(items.len());
            let rest = [&items[..begin], &items[end..]].concat();
            if fails(&rest)? {
                items = rest;
            } else {
                begin = end;
            }
        }
        piece /= 2;
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_rest_that_fails_is_found() {
        let needed = [3, 7];
        let left = smallest((0..40).collect(), |items: &[i32]| Ok(needed.iter().all(|need| items.contains(need))));
        assert_eq!(left.unwrap(), needed);
        assert_eq!(smallest(vec![1, 2, 3], |_| Ok(true)).unwrap(), Vec::<i32>::new());
    }
}
