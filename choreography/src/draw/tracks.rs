//! Between two layers arrows run level, each beside the others: on which of how many tracks.
//!
//! ```text
//!      a        b           what comes from one place stays one line until it has to part
//!      │        └────────┐  track 0
//!      └──────┬──────┐   │  track 1
//!             ▼      ▼   ▼
//! ```

/// An arrow on its way from one layer to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Leg {
    /// Where it comes from; legs of one source share a track.
    pub(super) source: usize,
    /// Where it leaves the layer above.
    pub(super) from: f64,
    /// Where it enters the layer below.
    pub(super) to: f64,
}

/// Nearer than this, two lines look like one.
const NEAR: f64 = 7.0;

/// For each leg its track, counted from above, or nothing where it runs straight down; and how many tracks there are.
pub(super) fn tracks(legs: &[Leg]) -> (Vec<Option<usize>>, usize) {
    let mut groups: Vec<Vec<Leg>> = Vec::new();
    for leg in legs.iter().filter(|leg| !leg.is_straight()) {
        match groups.iter_mut().find(|group| group[0].source == leg.source && group[0].from == leg.from) {
            Some(group) => group.push(*leg),
            None => groups.push(vec![*leg]),
        }
    }
    // Each goes where it is least wrong among those before it; then each once more, among all.
    let mut order: Vec<Vec<Leg>> = Vec::new();
    for group in groups.clone() {
        insert(&mut order, group);
    }
    for group in groups {
        order.retain(|other| *other != group);
        insert(&mut order, group);
    }
    let mut placed: Vec<(usize, Vec<Leg>)> = Vec::new();
    for group in order {
        let (left, right) = span(&group);
        let meets = |other: &Vec<Leg>| span(other).0 < right + NEAR && left < span(other).1 + NEAR;
        let track = placed.iter().filter(|(_, other)| meets(other)).map(|(track, _)| track + 1).max().unwrap_or(0);
        placed.push((track, group));
    }
    let track = |leg: &Leg| placed.iter().find(|(_, group)| group.contains(leg)).map(|(track, _)| *track);
    let count = placed.iter().map(|(track, _)| track + 1).max().unwrap_or(0);
    (legs.iter().map(track).collect(), count)
}

/// At the first of the places where the fewest lines cross.
fn insert(order: &mut Vec<Vec<Leg>>, group: Vec<Leg>) {
    let wrong = |at: usize| -> usize {
        let above = order[..at].iter().map(|other| cost(other, &group));
        above.chain(order[at..].iter().map(|other| cost(&group, other))).sum()
    };
    let at = (0..=order.len()).min_by_key(|at| wrong(*at)).unwrap_or_default();
    order.insert(at, group);
}

impl Leg {
    pub(super) fn is_straight(&self) -> bool {
        (self.from - self.to).abs() < 0.5
    }
}

fn span(group: &[Leg]) -> (f64, f64) {
    let ends = || group.iter().flat_map(|leg| [leg.from, leg.to]);
    (ends().fold(f64::INFINITY, f64::min), ends().fold(f64::NEG_INFINITY, f64::max))
}

/// How many lines cross when `upper` runs above `lower`. Two that would lie on each other are worse than any crossing.
fn cost(upper: &[Leg], lower: &[Leg]) -> usize {
    let inside = |x: f64, group: &[Leg]| span(group).0 < x && x < span(group).1;
    // The upper one comes down through the lower one, and the lower one from above through the upper one.
    let down = upper.iter().filter(|leg| inside(leg.to, lower)).count();
    let from_above = usize::from(inside(lower[0].from, upper));
    let on_each_other = upper.iter().filter(|leg| (leg.to - lower[0].from).abs() < NEAR).count();
    down + from_above + 100 * on_each_other
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(source: usize, from: f64, to: f64) -> Leg {
        Leg { source, from, to }
    }

    #[test]
    fn lines_do_not_cross_where_they_need_not() {
        // Both go right: the one that comes from further right runs above.
        assert_eq!(tracks(&[leg(0, 0.0, 100.0), leg(1, 50.0, 150.0)]), (vec![Some(1), Some(0)], 2));
        // Both go left: the other way round.
        assert_eq!(tracks(&[leg(0, 100.0, 0.0), leg(1, 150.0, 50.0)]), (vec![Some(0), Some(1)], 2));
    }

    #[test]
    fn lines_share_a_track_only_where_they_do_not_meet() {
        let apart = [leg(0, 0.0, 40.0), leg(1, 60.0, 90.0), leg(2, 95.0, 95.0)];
        assert_eq!(tracks(&apart), (vec![Some(0), Some(0), None], 1));
        // One source, one line.
        assert_eq!(tracks(&[leg(0, 50.0, 0.0), leg(0, 50.0, 100.0)]), (vec![Some(0), Some(0)], 1));
        // Where one comes in the other goes out: it must not lie on it.
        assert_eq!(tracks(&[leg(0, 0.0, 50.0), leg(1, 50.0, 100.0)]), (vec![Some(1), Some(0)], 2));
        // Also when something that has nothing to do with them was there before.
        let three = [leg(1, 892.0, 962.0), leg(1, 876.0, 801.0), leg(2, 962.0, 978.0)];
        assert_eq!(tracks(&three), (vec![Some(1), Some(0), Some(0)], 2));
    }
}
