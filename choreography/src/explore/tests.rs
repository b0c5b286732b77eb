//! That the reduction loses no end, and that the search by hand sees what a model checker sees: over choreographies that are made up.

use std::collections::{BTreeSet, HashSet};

use stateright::{Checker as _, Model as _, Property};

use super::{
    OF_RUNS,
    model::{Model, Move, State},
    search::{Reach, search},
};
use crate::{Choreography, flow::Flow};

#[path = "../../tests/cast/mod.rs"]
mod cast;
mod made_up;

/// More than these unreduced states are not worth the wait.
const MOST: usize = 30_000;

/// Every end with what is wrong with it, and how far the search came.
fn ends(model: &Model<'_, '_>, next: impl Fn(&State) -> Vec<Move>) -> (HashSet<(State, usize)>, Reach) {
    let mut ends = HashSet::new();
    let reach = search(model, MOST, next, |end, way| {
        // Runs to one end differ in order only, so all the shortest have one length.
        ends.insert((end.clone(), way.moves().len()));
    });
    (ends, reach)
}

fn models<'f, 'm>(flow: &'f Flow<'m>) -> Vec<Model<'f, 'm>> {
    let starts = flow.step_ids().filter(|id| flow.step(*id).declared.kind == saga_core::participant::StepKind::Start);
    starts.map(|start| Model::of(flow, start)).collect()
}

#[test]
fn the_reduction_loses_no_end_and_adds_none() {
    let (mut compared, mut smaller, mut codes) = (0, 0, BTreeSet::new());
    for seed in 0..1_000 {
        let text = made_up::choreography(seed);
        let choreography = Choreography::from(cast::cast(&text));
        let flow = choreography.flow();
        for model in models(&flow) {
            let (all, reach) = ends(&model, |at| model.all_moves(at));
            if reach.left > 0 {
                continue;
            }
            let (few, reduced) = ends(&model, |at| model.few_moves(at));
            assert!(all == few, "seed {seed}: {} ends, {} with reduction\n{text}", all.len(), few.len());
            assert!(reduced.states <= reach.states, "seed {seed}: {} > {}\n{text}", reduced.states, reach.states);
            compared += 1;
            smaller += usize::from(reduced.states * 2 < reach.states);
            codes.extend(all.iter().flat_map(|(end, _)| model.faults(end)).map(|fault| fault.code));
        }
    }
    println!("{compared} compared, of which {smaller} had less than half the states; faults: {codes:?}");
    assert_eq!(codes, OF_RUNS.into(), "the choreographies that are made up do not go wrong in every way");
    assert!(compared > 900 && smaller > 300, "{compared} compared, {smaller} of them much smaller");
}

/// The same moves, explored by a model checker that knows nothing of the search.
struct Checked<'f>(Model<'f, 'f>);

impl stateright::Model for Checked<'static> {
    type State = Option<State>;
    type Action = Move;

    fn init_states(&self) -> Vec<Self::State> {
        vec![None]
    }

    fn actions(&self, at: &Self::State, moves: &mut Vec<Move>) {
        match at {
            None => moves.extend(self.0.begins().into_iter().map(|(first, _)| first)),
            Some(at) => moves.extend(self.0.all_moves(at)),
        }
    }

    fn next_state(&self, at: &Self::State, taken: Move) -> Option<Self::State> {
        Some(match at {
            None => self.0.begins().into_iter().find(|(first, _)| *first == taken).map(|(_, state)| state),
            Some(at) => Some(self.0.after(at, &taken)),
        })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("ends well", |model: &Self, at: &Option<State>| {
            at.as_ref().is_none_or(|at| !model.0.all_moves(at).is_empty() || model.0.faults(at).is_empty())
        })]
    }
}

#[test]
fn a_model_checker_sees_the_same() {
    let (mut bad, mut good) = (0, 0);
    let made_up = (0..60).map(made_up::choreography);
    for (seed, text) in cast::samples::SOUND.map(|(_, text)| text.to_owned()).into_iter().chain(made_up).enumerate() {
        // The checker's threads want a model that lives for ever.
        let choreography: &'static Choreography = Box::leak(Box::new(Choreography::from(cast::cast(&text))));
        let flow: &'static Flow<'static> = Box::leak(Box::new(choreography.flow()));
        for (model, checked) in models(flow).into_iter().zip(models(flow)) {
            let mut shortest = None;
            let reach = search(
                &model,
                MOST,
                |at| model.all_moves(at),
                |end, way| {
                    if !model.faults(end).is_empty() && shortest.is_none() {
                        shortest = Some(way.moves().len());
                    }
                },
            );
            if reach.left > 0 {
                continue;
            }
            // The nothing before the start is one state, and the start one step, more.
            let checker = Checked(checked).checker().spawn_bfs().join();
            let found = checker.discovery("ends well").map(|path| path.into_actions().len());
            assert_eq!(found, shortest, "seed {seed}\n{text}");
            match shortest {
                None => assert_eq!(checker.unique_state_count(), reach.states + 1, "seed {seed}\n{text}"),
                Some(_) => assert!(checker.unique_state_count() <= reach.states + 1, "seed {seed}\n{text}"),
            }
            *if shortest.is_some() { &mut bad } else { &mut good } += 1;
        }
    }
    assert!(bad > 20 && good >= cast::samples::SOUND.len(), "{bad} go wrong, {good} do not");
}

#[test]
fn a_run_is_followed_to_its_end_beyond_the_bound() {
    let text = "a begin start emits Begun\na ask request emits Asked\nb act local on Begun emits Acted\nc end local on Acted emits Completed";
    let choreography = Choreography::from(cast::cast(text));
    let flow = choreography.flow();
    for model in models(&flow) {
        let mut seen = 0;
        let reach = search(&model, 4, |at| model.all_moves(at), |_, _| seen += 1);
        assert!(reach.left > 0 && seen > 0, "{reach:?}");
    }
}
