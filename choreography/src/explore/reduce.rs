//! Of the orders that lead to the same, one: which steps to look at in a state so that no end is missed.
//!
//! Call steps of which one's moves depend on another's row a *cell* (joined steps; at one participant those that emit endings, and
//! its requests). A move reads its cell's rows and asks whether an event was emitted; it writes its cell's rows, and emits events that
//! no other cell emits. Emitted events stay. So:
//!
//! 1. Two moves of different cells commute, and neither forbids the other: each leaves alone what the other reads, but for events,
//!    of which there are only more.
//! 2. What is possible in a cell changes without a move of that cell only by an event that is new.
//!
//! Let `K` be cells such that no event that the others can emit *while nothing happens in `K`* lets anything new happen in `K`. Then
//! the moves `T` that are possible in `K` now are a persistent set: along any run that takes none of `T`, nothing ever happens in `K`
//! (by the choice of `K` and 2 nothing but `T` is possible there), so every move of that run commutes with every one of `T` (by 1).
//! If `T` is not empty, such a run has not come to its end, since `T` stays possible; so every run to an end takes a move of `T` at
//! some time, and by commuting, taking it first leads to the same end. Every end that can be reached at all is reached by taking only
//! `T` here, and by induction over the length of runs, which are finite, everywhere (Godefroid, *Partial-Order Methods for the
//! Verification of Concurrent Systems*, 1996, theorem 4.3). Equivalent runs are permutations of each other, so the shortest run to each
//! end is kept too. States on the way are not kept: only ends may be judged.
//!
//! `K` is grown from each cell in which something is possible: while an event from outside could let something new happen inside,
//! its publisher joins. All cells together are always such a `K`.

use super::{
    model::{Model, Move, State},
    set::Set,
};

impl Model<'_, '_> {
    /// Every move that is possible.
    pub(super) fn all_moves(&self, at: &State) -> Vec<Move> {
        let mut all = Vec::new();
        (0..self.steps.len()).for_each(|step| self.moves(at, step, &mut all));
        all
    }

    /// As few of the possible moves as lead to every end.
    pub(super) fn few_moves(&self, at: &State) -> Vec<Move> {
        let all = self.all_moves(at);
        let mut fewest: Option<(usize, Set)> = None;
        let mut tried = Set::new(self.cells);
        for first in &all {
            let cell = self.steps[first.step].cell;
            if tried.contains(cell) {
                continue;
            }
            tried.insert(cell);
            let cells = self.closed(at, cell);
            let count = all.iter().filter(|taken| cells.contains(self.steps[taken.step].cell)).count();
            if fewest.as_ref().is_none_or(|(least, _)| count < *least) {
                fewest = Some((count, cells));
            }
            if count == 1 {
                break;
            }
        }
        let Some((_, cells)) = fewest else { return all };
        all.into_iter().filter(|taken| cells.contains(self.steps[taken.step].cell)).collect()
    }

    /// The cells, with `first` among them, in which the others can let nothing new happen.
    fn closed(&self, at: &State, first: usize) -> Set {
        let mut cells = Set::of(self.cells, [first]);
        loop {
            let foreseen = self.foreseen(at, &cells);
            let wakers: Vec<usize> = foreseen
                .without(&at.emitted)
                .filter(|event| {
                    let inside = |step: &usize| cells.contains(self.steps[*step].cell);
                    (0..self.steps.len()).filter(inside).any(|step| self.wakes(at, step, *event))
                })
                .map(|event| self.steps[self.emissions[event].step].cell)
                .collect();
            if wakers.is_empty() {
                return cells;
            }
            wakers.into_iter().for_each(|cell| cells.insert(cell));
        }
    }
}
