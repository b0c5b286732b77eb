//! Breadth first, one thread: every end is come to by one of its shortest runs, and by the same one every time.
//!
//! By hand, and not by a model checker's: of such a one each property has a name that is known when it is compiled, and is refuted
//! once. Here what is looked for is found out on the way (which step of which choreography), and each of them is wanted with a
//! shortest run of its own. A test has `stateright` explore the same model, and compares.

use std::collections::HashSet;

use super::model::{Model, Move, State};

/// How far the search came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reach {
    /// Different states that were seen.
    pub(super) states: usize,
    /// Different ends among them: states in which nothing more can happen.
    pub(super) ends: usize,
    /// States that were seen and not followed.
    pub(super) left: usize,
}

/// A state's way from the start: the move that led there, and from where.
#[derive(Debug)]
pub(super) struct Ways(Vec<(u32, Move)>);

/// The way to an end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'w>(&'w Ways, u32);

impl Way<'_> {
    /// Every move from the start on, in order.
    pub(super) fn moves(self) -> Vec<Move> {
        let Self(Ways(ways), mut at) = self;
        let mut moves = Vec::new();
        loop {
            let (from, taken) = ways[at as usize];
            moves.push(taken);
            if from == at {
                moves.reverse();
                return moves;
            }
            at = from;
        }
    }
}

/// Visits every end that can be reached, until `most` states were seen. `next` says which moves to take in a state.
///
/// What is left then is not given up without a look: from each state that was not followed, one run goes on to its end.
pub(super) fn search(
    model: &Model<'_, '_>,
    most: usize,
    next: impl Fn(&State) -> Vec<Move>,
    mut end: impl FnMut(&State, Way<'_>),
) -> Reach {
    let most = most.min(u32::MAX as usize / 4);
    let (mut ways, mut seen, mut reach) = (Ways(Vec::new()), HashSet::new(), Reach::default());
    let mut edge: Vec<(u32, State)> = Vec::new();
    for (first, state) in model.begins() {
        if seen.insert(state.clone()) {
            edge.push((ways.root(first), state));
        }
    }
    while !edge.is_empty() {
        let mut further = Vec::new();
        for (i, (at, state)) in edge.iter().enumerate() {
            if seen.len() >= most {
                let left: Vec<(u32, State)> = edge.split_off(i).into_iter().chain(further).collect();
                (reach.states, reach.left) = (seen.len(), left.len());
                dive(model, left, most, &next, &mut ways, &mut seen, &mut reach, &mut end);
                return reach;
            }
            let moves = next(state);
            if moves.is_empty() {
                reach.ends += 1;
                end(state, Way(&ways, *at));
            }
            for taken in moves {
                let after = model.after(state, &taken);
                if !seen.contains(&after) {
                    seen.insert(after.clone());
                    further.push((ways.on(*at, taken), after));
                }
            }
        }
        edge = further;
    }
    reach.states = seen.len();
    reach
}

/// One run from each state that was left, until as many states again were seen.
#[allow(clippy::too_many_arguments, reason = "the search's own variables")]
fn dive(
    model: &Model<'_, '_>,
    left: Vec<(u32, State)>,
    most: usize,
    next: &impl Fn(&State) -> Vec<Move>,
    ways: &mut Ways,
    seen: &mut HashSet<State>,
    reach: &mut Reach,
    end: &mut impl FnMut(&State, Way<'_>),
) {
    for i in 0..left.len() {
        // Neighbours are alike, so those that come first are taken from everywhere (it is prime, so each has its turn).
        let (mut at, mut state) = left[(i * 7_919) % left.len()].clone();
        for depth in 0.. {
            if seen.len() >= most.saturating_mul(2) {
                reach.states = seen.len();
                return;
            }
            let moves = next(&state);
            // Not always the first: runs that begin alike shall not all end alike.
            let Some(taken) = moves.get((i * 31 + depth * 17) % moves.len().max(1)) else {
                reach.ends += 1;
                end(&state, Way(ways, at));
                break;
            };
            (at, state) = (ways.on(at, *taken), model.after(&state, taken));
            if !seen.insert(state.clone()) {
                break; // Left by somebody else, or followed before.
            }
        }
    }
    reach.states = seen.len();
}

impl Ways {
    fn root(&mut self, first: Move) -> u32 {
        self.0.push((self.len(), first));
        self.len() - 1
    }

    fn on(&mut self, from: u32, taken: Move) -> u32 {
        self.0.push((from, taken));
        self.len() - 1
    }

    /// At most one per state and one per run that was followed on, which are fewer than `u32::MAX`.
    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}
