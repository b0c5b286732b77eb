//! The decision table as a whole, so that no cell changes unseen.
//!
//! Why a cell is what it is, the other tests find out; but some are second lines of defence, which they do not miss.

use std::fmt::Write;

use saga_compensation::{Call, Kind, Said, State, answer, compensation, forward};

/// A row of the table for the absent ledger row and for each state.
fn table(cells: impl Fn(Option<State>) -> Vec<String>) -> String {
    let states = State::ALL.map(Some);
    let rows = [None].into_iter().chain(states);
    rows.fold(String::from("\n"), |mut table, row| {
        let name = row.map_or("none", State::as_str);
        let cells: String = cells(row).iter().map(|cell| format!("{cell:<17}")).collect();
        writeln!(table, "{}", format!("{name:<17}{cells}").trim_end()).expect("a string takes a line");
        table
    })
}

#[test]
fn forwards() {
    // By the event that the row was opened with, and by another.
    let cells = |row| [true, false].map(|same_trigger| format!("{:?}", forward(row, same_trigger))).to_vec();
    assert_eq!(
        table(cells),
        "
none             Run              Run
calling          Duplicate        SecondTrigger
done             Duplicate        SecondTrigger
rejected         Duplicate        SecondTrigger
compensating     Late             Late
compensated      Late             Late
void             Late             Late
"
    );
}

#[test]
fn compensations() {
    // Local, external, and the gate of a cancelling event, while nobody calls.
    let cells = |row| {
        let verdict = |kind| format!("{:?}", compensation(kind, row, Call::Open));
        [Kind::Local, Kind::External, Kind::Gate].map(verdict).to_vec()
    };
    assert_eq!(
        table(cells),
        "
none             NothingDone      NothingDone      NothingDone
calling          InDoubt          InDoubt          InDoubt
done             Compensate       Compensate       Late
rejected         NothingDone      InDoubt          NothingDone
compensating     Duplicate        Duplicate        Duplicate
compensated      Duplicate        Duplicate        Duplicate
void             Duplicate        Duplicate        Duplicate
"
    );
}

#[test]
fn only_a_running_call_is_waited_for() {
    for kind in [Kind::Local, Kind::External, Kind::Gate] {
        for row in [None].into_iter().chain(State::ALL.map(Some)) {
            let [running, open] = [Call::Running, Call::Open].map(|call| compensation(kind, row, call));
            if row == Some(State::Calling) {
                assert_eq!(format!("{running:?}"), "Wait");
            } else {
                assert_eq!(running, open, "{kind:?} {row:?}");
            }
        }
    }
}

#[test]
fn answers() {
    // Yes, no, no after another attempt of unknown outcome, and no although it took effect.
    let cells = |row| {
        let cases = [(Said::Yes, true), (Said::No, false), (Said::No, true), (Said::NoAfterEffect, false)];
        cases.map(|(said, earlier_unknown)| format!("{:?}", answer(row, said, earlier_unknown))).to_vec()
    };
    let settled = "Late             Late             Late             Late";
    assert_eq!(
        table(cells),
        format!(
            "
none             {settled}
calling          Done             Rejected         CloseThenReject  CloseThenReject
done             {settled}
rejected         {settled}
compensating     {settled}
compensated      {settled}
void             {settled}
"
        )
    );
}
