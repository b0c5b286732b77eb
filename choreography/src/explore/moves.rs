//! What can happen in a state, and what it leads to.
//!
//! An emitted event never leaves the set, so it may be delivered to each hearer at once, late, out of order or several times; a
//! delivery that the verdict absorbs leads nowhere and is no move. A move is therefore always progress: a step's row goes forward in
//! `none → calling → done or rejected → compensated or void`, or gets a mark that stays. There are no circles, and every run comes
//! to a state in which nothing more can happen.
//!
//! Three things of the toolkit need no states of their own, because whatever they lead to happens without them too:
//!
//! - *The lease of a call, and how often it was made.* It may run out, and the call be made again, at any moment that it has not been
//!   answered. So a compensation may wait for the answer, or find the call open and go in doubt; and a no may be believed, or come
//!   after an attempt of unknown outcome and close the call's key first. Both are moves of every call.
//! - *`compensating`.* Such a row absorbs what a compensated one absorbs, and how long its call takes is how late its event is
//!   delivered. So the row closes at once. Only where its event may not go out, for it would be a second ending, does it stay.
//! - *Reactions that wait behind another one of their saga.* A delivery that comes later is the same. Where one event is heard by two
//!   steps of one participant this allows more runs than there are: the toolkit settles both together unless one of them fails. And
//!   what waits behind a second ending waits for a person; here it goes on, in a run that is found to be a bad one already.
//!
//! The invariant: what the toolkit's verdicts decide is asked of them here, and nothing is decided twice.

use saga_compensation::{self as verdict, Call, Said, State as Ledger};
use saga_core::participant::StepKind;

use super::{
    model::{Model, Move, Player, Row, State, What},
    set::Set,
};

impl Model<'_, '_> {
    /// How a saga can begin: the start step emits one of its events.
    pub(super) fn begins(&self) -> Vec<(Move, State)> {
        let start = &self.steps[self.start];
        let nothing =
            State { rows: vec![Row::default(); self.steps.len()].into(), emitted: Set::new(self.emissions.len()) };
        outcomes(&start.emits)
            .map(|emits| Move { step: self.start, cause: None, what: What::Done, emits, stuck: false })
            .map(|first| (first, self.after(&nothing, &first)))
            .collect()
    }

    /// What can happen next at a step, whatever else happens elsewhere.
    pub(super) fn moves(&self, at: &State, step: usize, out: &mut Vec<Move>) {
        let (player, row) = (&self.steps[step], at.rows[step]);
        let ended = at.emitted.meets(&player.endings);
        let ends = |emits: Option<usize>| emits.is_some_and(|e| self.emissions[e].ending.is_some());
        let go = |cause, what, emits| Move { step, cause, what, emits, stuck: ended && ends(emits) };
        if player.requestable && row.ledger.is_none() && !row.withheld && !ended {
            out.push(go(None, What::Withheld, None));
            out.extend(outcomes(&player.emits).map(|emits| go(None, What::Requested, emits)));
        }
        // Of joined steps the last one to be done emits.
        let last = player.joins.iter().all(|other| at.rows[*other].ledger == Some(Ledger::Done));
        let done = |cause| {
            let joined = (!last).then(|| go(cause, What::Joined, None));
            let emits = outcomes(&player.emits).filter(move |_| last).map(move |emits| go(cause, What::Done, emits));
            joined.into_iter().chain(emits)
        };
        for cause in player.on.both(&at.emitted) {
            let same = row.ledger.is_none() || row.opened == Some(cause) || player.first_trigger_wins;
            match verdict::forward(row.ledger, same) {
                verdict::Forward::Run if !row.forward_stuck => {
                    if player.kind == StepKind::External {
                        out.push(go(Some(cause), What::Called, None));
                    } else {
                        out.extend(done(Some(cause)));
                        out.extend(player.rejects.iter().map(|no| go(Some(cause), What::Rejected, Some(*no))));
                    }
                    if player.first_trigger_wins {
                        break; // Another trigger leads to the same.
                    }
                }
                verdict::Forward::SecondTrigger if !row.second_trigger => {
                    out.push(go(Some(cause), What::SecondTrigger, None));
                }
                _ => {}
            }
        }
        if row.ledger == Some(Ledger::Calling) && !row.forward_stuck {
            let said = [(Said::Yes, false), (Said::No, false), (Said::No, true)];
            for (said, earlier_unknown) in said {
                let nos = player.rejects.iter().filter(|_| said == Said::No);
                match verdict::answer(row.ledger, said, earlier_unknown) {
                    verdict::Answer::Done => out.extend(done(row.opened)),
                    verdict::Answer::Rejected => out.extend(nos.map(|no| go(row.opened, What::Rejected, Some(*no)))),
                    verdict::Answer::CloseThenReject => {
                        out.extend(nos.map(|no| go(row.opened, What::RejectedInDoubt, Some(*no))));
                    }
                    verdict::Answer::Late => {}
                }
            }
        }
        // Whichever event takes it back, it leads to the same.
        let why = player.compensated_on.both(&at.emitted).next();
        if why.is_some() && !row.compensation_stuck {
            let what = match verdict::compensation(player.verdicts, row.ledger, Call::Open) {
                verdict::Compensation::Compensate => What::Compensated,
                verdict::Compensation::InDoubt => What::InDoubt,
                verdict::Compensation::NothingDone => What::NothingDone,
                verdict::Compensation::Wait | verdict::Compensation::Duplicate | verdict::Compensation::Late => return,
            };
            out.extend(outcomes(&player.compensated).map(|emits| go(why, what, emits)));
        }
    }

    /// Whether an event that compensates the step would let something happen.
    pub(super) fn can_be_taken_back(&self, row: Row, player: &Player) -> bool {
        use verdict::Compensation::{Compensate, InDoubt, NothingDone};
        let verdict = verdict::compensation(player.verdicts, row.ledger, Call::Open);
        !row.compensation_stuck && matches!(verdict, Compensate | InDoubt | NothingDone)
    }

    /// Where a move leads.
    pub(super) fn after(&self, at: &State, taken: &Move) -> State {
        let mut next = at.clone();
        let external = self.steps[taken.step].kind == StepKind::External;
        let row = &mut next.rows[taken.step];
        let (to, opens) = match taken.what {
            What::SecondTrigger => {
                row.second_trigger = true;
                return next;
            }
            What::Withheld => {
                row.withheld = true;
                return next;
            }
            What::Called => (Ledger::Calling, true),
            What::Requested | What::Done | What::Joined => (Ledger::Done, true),
            What::Rejected => (Ledger::Rejected, true),
            What::RejectedInDoubt => (Ledger::Compensated, true),
            What::Compensated | What::InDoubt => (Ledger::Compensated, false),
            What::NothingDone => (Ledger::Void, false),
        };
        if taken.stuck {
            // The transaction is rolled back, and the reaction waits for a person. A call that takes back was made by then.
            match taken.what {
                What::RejectedInDoubt | What::Compensated | What::InDoubt if external => {
                    row.ledger = Some(Ledger::Compensating);
                    row.rejecting = taken.what == What::RejectedInDoubt;
                    (row.forward_stuck, row.compensation_stuck) = (false, true);
                }
                What::Compensated | What::InDoubt | What::NothingDone => row.compensation_stuck = true,
                _ => row.forward_stuck = true,
            }
            return next;
        }
        row.ledger = Some(to);
        row.rejecting = taken.what == What::RejectedInDoubt;
        if opens {
            row.opened = taken.cause.filter(|_| !self.steps[taken.step].first_trigger_wins);
        } else {
            // Of a step that is closed no forward waits any more, and none is told from another.
            (row.opened, row.forward_stuck) = (None, false);
        }
        if let Some(event) = taken.emits {
            next.emitted.insert(event);
        }
        next
    }
}

/// One of these events, or nothing where there is none.
fn outcomes(events: &[usize]) -> impl Iterator<Item = Option<usize>> + '_ {
    events.iter().copied().map(Some).chain(events.is_empty().then_some(None))
}
