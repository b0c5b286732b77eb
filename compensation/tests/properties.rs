//! One step under any sequence of deliveries.
//!
//! The verdicts are folded into one ledger row, the way a pipeline folds them, by whatever arrives: the trigger and
//! another trigger, compensations, answers that nobody asked for, in any order and any number. What must not depend on
//! the sequence is checked after every delivery. Whether a *saga* comes out right is what `protocol` explores.

use proptest::{collection::vec, prelude::*, sample::Index};
use saga_compensation::{Answer, Call, Compensation, Forward, Kind, Said, State, answer, compensation, forward};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Delivery {
    /// `rejects` is what a local step makes of it, should it run.
    Forward {
        trigger: u8,
        rejects: bool,
    },
    Compensation(Call),
    Answer {
        said: Said,
        earlier_unknown: bool,
    },
    /// The other system has taken the step back.
    TakenBack,
}

/// A step's row, and what it ever did.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    kind: Kind,
    row: Option<State>,
    trigger: u8,
    parked: bool,
    second_trigger: bool,
    /// What the ledger knows to be in effect.
    in_effect: bool,
    runs: u32,
    /// Compensated, nothing done, in doubt, or closed before a rejection: whatever answers for taking the step back.
    taken_back: u32,
}

impl Step {
    fn new(kind: Kind) -> Step {
        let (trigger, parked, second_trigger, in_effect) = (0, false, false, false);
        Step { kind, row: None, trigger, parked, second_trigger, in_effect, runs: 0, taken_back: 0 }
    }

    fn after(kind: Kind, deliveries: &[Delivery]) -> Step {
        deliveries.iter().fold(Step::new(kind), |step, delivery| step.deliver(*delivery))
    }

    fn deliver(mut self, delivery: Delivery) -> Step {
        match delivery {
            Delivery::Forward { trigger, rejects } => match forward(self.row, trigger == self.trigger) {
                Forward::Run => {
                    self.runs += 1;
                    self.trigger = trigger;
                    match (self.kind, rejects) {
                        (Kind::External, _) => self.row = Some(State::Calling),
                        (Kind::Local | Kind::Gate, true) => self.row = Some(State::Rejected),
                        (Kind::Local | Kind::Gate, false) => self.does(),
                    }
                }
                Forward::SecondTrigger => self.second_trigger = true,
                Forward::Duplicate | Forward::Late => {}
            },
            Delivery::Compensation(call) => {
                let verdict = compensation(self.kind, self.row, call);
                self.parked = verdict == Compensation::Wait;
                match verdict {
                    Compensation::Compensate if self.kind != Kind::External => {
                        self.takes_back(State::Compensated);
                        self.in_effect = false;
                    }
                    Compensation::Compensate | Compensation::InDoubt => self.takes_back(State::Compensating),
                    Compensation::NothingDone => self.takes_back(State::Void),
                    Compensation::Wait | Compensation::Duplicate | Compensation::Late => {}
                }
            }
            Delivery::Answer { said, earlier_unknown } => match answer(self.row, said, earlier_unknown) {
                Answer::Done => self.does(),
                Answer::Rejected => self.row = Some(State::Rejected),
                Answer::CloseThenReject => self.takes_back(State::Compensating),
                Answer::Late => {}
            },
            Delivery::TakenBack => {
                if self.row == Some(State::Compensating) {
                    self.row = Some(State::Compensated);
                    self.in_effect = false;
                }
            }
        }
        self
    }

    fn does(&mut self) {
        self.row = Some(State::Done);
        self.in_effect = true;
    }

    fn takes_back(&mut self, row: State) {
        self.row = Some(row);
        self.taken_back += 1;
    }

    /// What is on its way arrives: no lease lasts for ever, and no compensation fails for ever.
    fn in_the_end(self) -> Step {
        let step = if self.parked { self.deliver(Delivery::Compensation(Call::Open)) } else { self };
        step.deliver(Delivery::TakenBack)
    }
}

/// How far a row has come. A row only ever moves to a higher number.
fn rank(row: Option<State>) -> u8 {
    match row {
        None => 0,
        Some(State::Calling) => 1,
        Some(State::Done | State::Rejected) => 2,
        Some(State::Compensating) => 3,
        Some(State::Compensated | State::Void) => 4,
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Local), Just(Kind::External), Just(Kind::Gate)]
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let said = prop_oneof![Just(Said::Yes), Just(Said::No), Just(Said::NoAfterEffect)];
    prop_oneof![
        3 => (1..=2_u8, any::<bool>()).prop_map(|(trigger, rejects)| Delivery::Forward { trigger, rejects }),
        2 => prop_oneof![Just(Call::Running), Just(Call::Open)].prop_map(Delivery::Compensation),
        2 => (said, any::<bool>()).prop_map(|(said, earlier_unknown)| Delivery::Answer { said, earlier_unknown }),
        1 => Just(Delivery::TakenBack),
    ]
}

fn deliveries() -> impl Strategy<Value = Vec<Delivery>> {
    vec(delivery(), 0..16)
}

/// The same deliveries in another order: each is put in at a place of its own.
fn shuffled(deliveries: &[Delivery], places: &[Index]) -> Vec<Delivery> {
    let mut shuffled = Vec::new();
    for (delivery, place) in deliveries.iter().zip(places) {
        shuffled.insert(place.index(shuffled.len() + 1), *delivery);
    }
    shuffled
}

proptest! {
    #[test]
    fn a_row_moves_forward_once_and_closes(kind in kind(), deliveries in deliveries()) {
        let mut step = Step::new(kind);
        for delivery in deliveries {
            let next = step.deliver(delivery);
            prop_assert!(next.runs <= 1, "{delivery:?} ran it again: {step:?}");
            prop_assert!(next.taken_back <= 1, "{delivery:?} took it back again: {step:?}");
            prop_assert!(next.row == step.row || rank(next.row) > rank(step.row), "{delivery:?}: {step:?} -> {next:?}");
            step = next;
        }
    }

    #[test]
    fn a_duplicate_changes_nothing(
        kind in kind(),
        deliveries in deliveries(),
        (first, again) in any::<(Index, Index)>(),
    ) {
        prop_assume!(!deliveries.is_empty());
        let first = first.index(deliveries.len());
        let again = first + 1 + again.index(deliveries.len() - first);
        let delivery = deliveries[first];
        let (before, after) = (Step::after(kind, &deliveries[..first]), Step::after(kind, &deliveries[..=first]));
        // What is parked is not settled, an answer needs a call, and nobody takes back what nobody asked to.
        let settled = match delivery {
            Delivery::Forward { .. } => true,
            Delivery::Compensation(_) => !after.parked,
            Delivery::Answer { .. } => before.row.is_some(),
            Delivery::TakenBack => before.row == Some(State::Compensating),
        };
        prop_assume!(settled);

        let mut with_duplicate = deliveries.clone();
        with_duplicate.insert(again, delivery);
        prop_assert_eq!(Step::after(kind, &with_duplicate).in_the_end(), Step::after(kind, &deliveries).in_the_end());
    }

    #[test]
    fn a_compensation_leaves_no_effect_in_any_order(
        kind in prop_oneof![Just(Kind::Local), Just(Kind::External)],
        deliveries in deliveries(),
        places in vec(any::<Index>(), 18),
    ) {
        let needed = [Delivery::Forward { trigger: 1, rejects: false }, Delivery::Compensation(Call::Running)];
        let step = Step::after(kind, &shuffled(&[deliveries, needed.to_vec()].concat(), &places)).in_the_end();
        prop_assert!(!step.in_effect, "{step:?}");
        prop_assert!(matches!(step.row, Some(State::Compensated | State::Void)), "{step:?}");
        // Whoever compensates next hears of it, and hears of it once.
        prop_assert_eq!(step.taken_back, 1);
        prop_assert!(!step.parked);
    }

    #[test]
    fn a_gate_is_either_passed_or_closed(deliveries in deliveries(), places in vec(any::<Index>(), 18)) {
        let needed = [Delivery::Forward { trigger: 1, rejects: false }, Delivery::Compensation(Call::Open)];
        let step = Step::after(Kind::Gate, &shuffled(&[deliveries, needed.to_vec()].concat(), &places)).in_the_end();
        match step.row {
            Some(State::Done) => prop_assert!(step.in_effect && step.taken_back == 0, "{step:?}"),
            Some(State::Void) => prop_assert!(!step.in_effect && step.taken_back == 1, "{step:?}"),
            _ => prop_assert!(false, "{step:?}"),
        }
    }
}
