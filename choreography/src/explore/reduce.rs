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

use saga_compensation::{self as verdict, State as Ledger};

use super::{
    model::{Model, Move, Row, State},
    set::Set,
};

/// What is to be expected of a step in a state, whatever happens elsewhere.
struct Outlook {
    cell: usize,
    /// The events, none of which was emitted yet, that would let something new happen.
    wakes: Set,
    forward: Prospect,
    backward: Prospect,
}

/// What has to happen before a step emits.
enum Prospect {
    /// Nothing: it may do so now.
    Open,
    /// One of the events that it hears.
    Heard,
    /// It never will.
    Closed,
}

impl Model<'_, '_> {
    /// Every move that is possible.
    pub(super) fn all_moves(&self, at: &State) -> Vec<Move> {
        let mut all = Vec::new();
        (0..self.steps.len()).for_each(|step| self.moves(at, step, &mut all));
        all
    }

    /// As few of the possible moves as lead to every end.
    pub(super) fn few_moves(&self, at: &State) -> Vec<Move> {
        let mut all = self.all_moves(at);
        let cell = |taken: &Move| self.steps[taken.step].cell;
        let Some(first) = all.first().map(cell) else { return all };
        if all.iter().all(|taken| cell(taken) == first) {
            return all;
        }
        let outlooks: Vec<Outlook> = (0..self.steps.len()).map(|step| self.outlook(at, step, at.rows[step])).collect();
        let mut fewest: Option<(usize, Set)> = None;
        let mut tried = Set::new(self.cells);
        for first in all.iter().map(cell) {
            if tried.contains(first) {
                continue;
            }
            tried.insert(first);
            let cells = self.closed(at, &outlooks, first);
            let count = all.iter().filter(|taken| cells.contains(cell(taken))).count();
            if fewest.as_ref().is_none_or(|(least, _)| count < *least) {
                fewest = Some((count, cells));
            }
        }
        if let Some((_, cells)) = fewest {
            all.retain(|taken| cells.contains(cell(taken)));
        }
        all
    }

    /// The cells, with `first` among them, in which the others can let nothing new happen.
    fn closed(&self, at: &State, outlooks: &[Outlook], first: usize) -> Set {
        let mut cells = Set::of(self.cells, [first]);
        loop {
            let mut foreseen = self.foreseen(at, outlooks, &cells);
            foreseen.remove(&at.emitted);
            let inside = outlooks.iter().filter(|outlook| cells.contains(outlook.cell));
            let mut wakers = Set::new(self.cells);
            for event in inside.flat_map(|outlook| outlook.wakes.both(&foreseen)) {
                wakers.insert(self.steps[self.emissions[event].step].cell);
            }
            if !cells.add(&wakers) {
                return cells;
            }
        }
    }

    /// Everything that steps outside of `cells` may yet emit while nothing happens in `cells`: never less.
    fn foreseen(&self, at: &State, outlooks: &[Outlook], cells: &Set) -> Set {
        let mut foreseen = at.emitted.clone();
        loop {
            let mut more = false;
            for (player, outlook) in self.steps.iter().zip(outlooks).filter(|(_, of)| !cells.contains(of.cell)) {
                for (prospect, heard, emits) in [
                    (&outlook.forward, &player.on, &player.forward),
                    (&outlook.backward, &player.compensated_on, &player.backward),
                ] {
                    let may = match prospect {
                        Prospect::Open => true,
                        Prospect::Heard => heard.meets(&foreseen),
                        Prospect::Closed => false,
                    };
                    more |= may && foreseen.add(emits);
                }
            }
            if !more {
                return foreseen;
            }
        }
    }

    fn outlook(&self, at: &State, step: usize, row: Row) -> Outlook {
        let player = &self.steps[step];
        let mut wakes = Set::new(self.emissions.len());
        let may_run = match verdict::forward(row.ledger, row.ledger.is_none() || player.first_trigger_wins) {
            // One that any trigger runs is run by the first.
            verdict::Forward::Run => !(row.forward_stuck || player.first_trigger_wins && player.on.meets(&at.emitted)),
            verdict::Forward::SecondTrigger => !row.second_trigger,
            verdict::Forward::Duplicate | verdict::Forward::Late => false,
        };
        if may_run {
            wakes.add(&player.on);
        }
        let can_be_taken_back = self.can_be_taken_back(row, player);
        if can_be_taken_back && !player.compensated_on.meets(&at.emitted) {
            wakes.add(&player.compensated_on);
        }
        let forward = match row.ledger {
            None if player.requestable && !row.withheld => Prospect::Open,
            None => Prospect::Heard,
            Some(Ledger::Calling) => Prospect::Open,
            Some(_) => Prospect::Closed,
        };
        let backward = if can_be_taken_back { Prospect::Heard } else { Prospect::Closed };
        Outlook { cell: player.cell, wakes, forward, backward }
    }
}
