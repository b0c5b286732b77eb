//! One suite that every store passes: SQLite in memory, SQLite in a file, and PostgreSQL where `SAGA_TEST_POSTGRES` is the URL
//! of a database in which tables may be created.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "each test awaits what it spawns")]

use std::time::Duration;

use saga_core::{
    Error, State,
    clock::Clock,
    envelope::{Delivery, Message, TraceContext},
    event::Ending,
    id::{EventId, ReactionId, SagaId},
    step::Direction,
    store::{
        Changes, Conn, DiscardedRow, Due, FailedAttempt, Lane, LedgerRow, Note, OutboxEntry, OutboxRow, Record,
        StartedRow, Store, Tx, Which, WorkRow, WorkState,
    },
};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// How long something that must wait is watched while it waits.
const A_WHILE: Duration = Duration::from_millis(150);
/// How long something that must come may take.
const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Memory,
    File,
    Postgres,
}

/// A database of its own for one test; on PostgreSQL, tables of its own.
struct Bench {
    engine: Engine,
    url: String,
    participant: String,
    store: Store,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn open(engine: Engine) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let url = match engine {
            Engine::Memory => "sqlite::memory:".to_owned(),
            Engine::File => format!("sqlite:{}", dir.path().join("store.db").display()),
            Engine::Postgres => match std::env::var("SAGA_TEST_POSTGRES") {
                Ok(url) => url,
                Err(_) => {
                    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "SAGA_TEST_POSTGRES is required here");
                    eprintln!("SKIPPED: set SAGA_TEST_POSTGRES=postgres://USER@HOST/NAME to test on PostgreSQL");
                    return None;
                }
            },
        };
        let participant = format!("t-{:016x}", Clock::system().random());
        let store = Store::connect(&url, &participant).await.unwrap();
        Some(Self { engine, url, participant, store, _dir: dir })
    }

    /// The tables as another process would open them; in memory there is only one.
    async fn again(&self) -> Store {
        match self.engine {
            Engine::Memory => self.store.clone(),
            Engine::File | Engine::Postgres => Store::connect(&self.url, &self.participant).await.unwrap(),
        }
    }

    async fn raw(&self, template: &str) {
        let mut tx = self.store.begin().await.unwrap();
        let sql = AssertSqlSafe(template.replace("{p}", &self.participant.replace('-', "_")));
        match tx.conn() {
            Conn::Postgres(conn) => drop(sqlx::raw_sql(sql).execute(conn).await.unwrap()),
            Conn::Sqlite(conn) => drop(sqlx::raw_sql(sql).execute(conn).await.unwrap()),
        }
        tx.commit().await.unwrap();
    }

    async fn close(self) {
        if self.engine == Engine::Postgres {
            self.raw("DROP TABLE IF EXISTS {p}_ledger, {p}_outbox, {p}_work, {p}_started, {p}_discarded, {p}_meta")
                .await;
        }
    }
}

macro_rules! on_every_store {
    ($($name:ident),* $(,)?) => {
        on_every_store!(@ memory Engine::Memory, $($name)*);
        on_every_store!(@ file Engine::File, $($name)*);
        on_every_store!(@ postgres Engine::Postgres, $($name)*);
    };
    (@ $module:ident $engine:expr, $($name:ident)*) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    if let Some(bench) = Bench::open($engine).await {
                        bench.store.migrate().await.unwrap();
                        super::$name(&bench).await;
                        bench.close().await;
                    }
                }
            )*

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn tables_are_made_once_by_many() {
                if let Some(bench) = Bench::open($engine).await {
                    super::tables_are_made_once_by_many(&bench).await;
                    bench.close().await;
                }
            }
        }
    };
}

on_every_store!(
    a_ledger_row_keeps_every_field,
    a_work_row_keeps_every_field,
    an_outbox_row_keeps_every_field,
    a_transition_from_another_state_writes_nothing,
    a_transition_of_a_missing_row_writes_nothing,
    a_ledger_row_is_inserted_once,
    a_transaction_whose_write_failed_cannot_commit,
    work_is_overwritten_and_deleted,
    work_is_read_in_pages,
    work_is_read_by_id,
    what_is_discarded_is_kept,
    due_work_comes_in_order,
    leases_of_a_stopping_process_are_due_at_once,
    the_outbox_is_claimed_by_one_at_a_time,
    two_sweepers_never_claim_the_same_row,
    a_refused_row_is_never_claimed_again,
    a_refused_row_is_claimed_again_when_a_person_says_so,
    the_outbox_is_read_in_pages,
    a_claim_is_released_by_who_made_it,
    a_start_is_remembered,
    starts_with_one_key_wait_for_each_other,
    a_saga_is_in_one_transaction_at_a_time,
    a_dropped_transaction_leaves_nothing,
    five_hundred_rows_in_one_transaction,
    steps_write_in_the_same_transaction,
    two_participants_share_a_database,
    a_newer_database_is_refused,
    old_sagas_are_forgotten_whole,
    open_sagas_are_found_in_a_range,
    due_work_is_asked_for_by_lane,
);

fn saga(n: u128) -> SagaId {
    SagaId(Uuid::from_u128(n))
}

fn ledger_row(saga: SagaId, step: &str, state: State) -> LedgerRow {
    LedgerRow {
        saga,
        step: step.to_owned(),
        state,
        trigger: EventId("trigger".to_owned()),
        trigger_type: "shop.order.placed.v1".to_owned(),
        trigger_body: None,
        record: None,
        reply: None,
        attempts: 0,
        rejecting: false,
        ending: None,
        trace: TraceContext::default(),
        hops: 0,
        changed_at: 0,
        record_topic: None,
        record_subject: None,
        compensation: None,
        notes: Vec::new(),
    }
}

fn full_ledger_row(saga: SagaId, step: &str, state: State) -> LedgerRow {
    LedgerRow {
        trigger: EventId("it's \"any\" text: ü → 𝄞 \\x00 %s $1".to_owned()),
        trigger_body: Some(vec![0, 0xff, 0xfe, b'\'', 0]),
        record: Some(Record { event_type: "shop.payment.charged.v1".to_owned(), body: br#"{"a":"\u0000"}"#.to_vec() }),
        reply: Some(Vec::new()),
        attempts: u32::MAX,
        rejecting: true,
        ending: Some(Ending::Cancelled),
        trace: TraceContext {
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
            tracestate: Some("vendor=1".to_owned()),
        },
        hops: 255,
        changed_at: i64::MAX,
        record_topic: Some("payment".to_owned()),
        record_subject: Some("ü 4711".to_owned()),
        compensation: Some(outbox_row(1, 0).message),
        notes: vec![
            Note {
                at: 5,
                reaction: ReactionId(Uuid::from_u128(9)),
                who: "ada".to_owned(),
                reason: "\u{0} \"no\"".to_owned(),
            },
            Note { at: 6, reaction: ReactionId(Uuid::from_u128(8)), who: String::new(), reason: "again".to_owned() },
        ],
        ..ledger_row(saga, step, state)
    }
}

fn work_row(id: u128, saga: SagaId) -> WorkRow {
    WorkRow {
        id: ReactionId(Uuid::from_u128(id)),
        saga,
        step: "charge-customer".to_owned(),
        direction: Direction::Forward,
        state: WorkState::Deferred,
        seq: 0,
        delivery: Delivery {
            topic: "order".into(),
            partition: 0,
            offset: 0,
            epoch: 0,
            key: None,
            headers: Vec::new(),
            body: Vec::new(),
        },
        due_at: None,
        attempts: 0,
        lease_owner: None,
        failures: Vec::new(),
        since: 0,
        counted: 0,
        counted_from: 0,
        told: 0,
        told_on: None,
        reason: String::new(),
        blocks: false,
    }
}

fn outbox_row(id: u128, created_at: i64) -> OutboxRow {
    OutboxRow {
        id: Uuid::from_u128(id),
        message: Message {
            topic: "payment".to_owned(),
            key: saga(id).to_string(),
            headers: vec![("ce_id".to_owned(), "ü \u{0} \"".to_owned()), ("ce_id".to_owned(), String::new())],
            body: vec![0, 0xff, b'{'],
        },
        created_at,
    }
}

fn start(caller: &str, key: &str) -> StartedRow {
    StartedRow {
        caller: caller.to_owned(),
        key: key.to_owned(),
        fingerprint: vec![0, 0xff],
        saga: saga(9),
        answer: r#"{"order":9}"#.to_owned(),
        created_at: 77,
    }
}

async fn write(store: &Store, changes: Changes) -> Result<(), Error> {
    let mut tx = store.begin().await?;
    tx.write(&changes).await?;
    tx.commit().await
}

async fn insert(store: &Store, rows: Vec<LedgerRow>) {
    write(store, Changes { ledger_inserts: rows, ..Changes::default() }).await.unwrap();
}

async fn wait_for(store: &Store, rows: Vec<WorkRow>) {
    write(store, Changes { work: rows, ..Changes::default() }).await.unwrap();
}

async fn publish(store: &Store, rows: Vec<OutboxRow>) {
    write(store, Changes { outbox: rows, ..Changes::default() }).await.unwrap();
}

/// Begins, locks and reads, as the pipeline does.
async fn enter(store: &Store, sagas: &[SagaId]) -> (Tx, Vec<LedgerRow>, Vec<WorkRow>) {
    let mut tx = store.begin().await.unwrap();
    tx.lock(sagas).await.unwrap();
    let (ledger, work) = tx.read(sagas).await.unwrap();
    (tx, ledger, work)
}

fn ids(rows: &[OutboxRow]) -> Vec<u128> {
    rows.iter().map(|row| row.id.as_u128()).collect()
}

async fn tables_are_made_once_by_many(bench: &Bench) {
    let Err(Error::Schema { participant, found: 0, needed }) = bench.store.check().await else {
        panic!("a database without tables passed the check");
    };
    assert_eq!(participant, bench.participant);
    assert!(needed > 0);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = bench.again().await;
        tasks.spawn(async move { store.migrate().await });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap().unwrap();
    }
    insert(&bench.store, vec![ledger_row(saga(1), "a", State::Done)]).await;
    bench.store.migrate().await.unwrap();
    bench.store.check().await.unwrap();
    assert_eq!(bench.store.ledger(saga(1)).await.unwrap().len(), 1, "a second migration keeps what is there");
}

async fn a_ledger_row_keeps_every_field(bench: &Bench) {
    let rows: Vec<_> = [("b", State::Void), ("a", State::Calling), ("a-b", State::Done), ("c", State::Compensating)]
        .map(|(step, state)| full_ledger_row(saga(1), step, state))
        .to_vec();
    insert(&bench.store, rows.clone()).await;
    insert(&bench.store, vec![ledger_row(saga(2), "a", State::Rejected)]).await;

    let read = bench.store.ledger(saga(1)).await.unwrap();
    assert_eq!(read, [&rows[1], &rows[2], &rows[0], &rows[3]].map(Clone::clone), "ordered by step");
    let (tx, read, _) = enter(&bench.store, &[saga(2), saga(3), saga(2)]).await;
    assert_eq!(read, [ledger_row(saga(2), "a", State::Rejected)]);
    drop(tx);

    let now = LedgerRow { reply: Some(vec![0xfe]), record: None, ..full_ledger_row(saga(1), "a", State::Compensated) };
    let changes = Changes { ledger_updates: vec![(State::Calling, now.clone())], ..Changes::default() };
    write(&bench.store, changes).await.unwrap();
    assert_eq!(bench.again().await.ledger(saga(1)).await.unwrap()[0], now);
    assert_eq!(bench.store.ledger_steps().await.unwrap(), ["a", "a-b", "b", "c"]);
}

async fn a_work_row_keeps_every_field(bench: &Bench) {
    let full = WorkRow {
        direction: Direction::Compensation,
        state: WorkState::Calling,
        seq: i64::MAX,
        delivery: Delivery {
            topic: "order.ü".into(),
            partition: i32::MAX,
            offset: i64::MAX,
            epoch: 0,
            key: Some(vec![0, 0xc3, 0x28]),
            headers: vec![
                ("ce_id".to_owned(), vec![0, 0xff]),
                ("ce_id".to_owned(), Vec::new()),
                ("\u{0}\"".to_owned(), vec![1]),
            ],
            body: vec![0xff, 0, 0xfe],
        },
        due_at: Some(-1),
        attempts: u32::MAX,
        lease_owner: Some(Uuid::from_u128(u128::MAX)),
        failures: vec![FailedAttempt { at: 5, attempt: 1, error: "it \u{0} broke\n".to_owned() }],
        since: i64::MIN,
        counted: u32::MAX,
        counted_from: i64::MIN,
        told: i64::MAX,
        told_on: Some("signals.ü".to_owned()),
        reason: "no such \"customer\"".to_owned(),
        blocks: true,
        ..work_row(1, saga(1))
    };
    // The epoch is the one field that is not kept.
    let written = WorkRow { delivery: Delivery { epoch: 7, ..full.delivery.clone() }, ..full.clone() };
    let stuck = WorkRow { state: WorkState::Stuck, step: String::new(), ..work_row(2, SagaId(Uuid::nil())) };
    wait_for(&bench.store, vec![written, stuck.clone(), work_row(3, saga(1))]).await;

    let all = bench.store.work(10).await.unwrap();
    assert_eq!(all, [stuck.clone(), work_row(3, saga(1)), full.clone()], "ordered by saga and seq");
    assert_eq!(bench.store.work(1).await.unwrap(), [stuck]);
    let (_tx, _, read) = enter(&bench.store, &[saga(1)]).await;
    assert_eq!(read, [work_row(3, saga(1)), full]);
}

async fn an_outbox_row_keeps_every_field(bench: &Bench) {
    publish(&bench.store, vec![outbox_row(1, i64::MAX - 1)]).await;
    assert_eq!(
        bench.store.outbox_claim(0, i64::MAX, 1, 10).await.unwrap(),
        [outbox_row(1, i64::MAX - 1)],
        "headers in their order, bytes untouched"
    );
}

async fn a_transition_from_another_state_writes_nothing(bench: &Bench) {
    insert(&bench.store, vec![ledger_row(saga(1), "a", State::Done), ledger_row(saga(1), "b", State::Calling)]).await;
    let before = bench.store.ledger(saga(1)).await.unwrap();
    let changes = Changes {
        ledger_inserts: vec![ledger_row(saga(2), "a", State::Done)],
        ledger_updates: vec![
            (State::Calling, ledger_row(saga(1), "b", State::Done)),
            (State::Calling, ledger_row(saga(1), "a", State::Compensated)),
        ],
        outbox: vec![outbox_row(1, 0)],
        work: vec![work_row(1, saga(1))],
        ..Changes::default()
    };
    let error = write(&bench.store, changes).await.unwrap_err();
    assert!(matches!(error, Error::Transition { expected: 2, count: 1 }), "{error:?}");
    assert_eq!(bench.store.ledger(saga(1)).await.unwrap(), before);
    assert_eq!(bench.store.ledger(saga(2)).await.unwrap(), []);
    assert_eq!(bench.store.outbox_len().await.unwrap(), 0);
    assert_eq!(bench.store.work(1).await.unwrap(), []);
}

async fn a_transition_of_a_missing_row_writes_nothing(bench: &Bench) {
    let changes = Changes {
        ledger_updates: vec![(State::Done, ledger_row(saga(1), "a", State::Compensated))],
        ..Changes::default()
    };
    let error = write(&bench.store, changes).await.unwrap_err();
    assert!(matches!(error, Error::Transition { expected: 1, count: 0 }), "{error:?}");
}

async fn a_ledger_row_is_inserted_once(bench: &Bench) {
    insert(&bench.store, vec![ledger_row(saga(1), "a", State::Done)]).await;
    let changes = Changes {
        ledger_inserts: vec![ledger_row(saga(2), "a", State::Done), ledger_row(saga(1), "a", State::Void)],
        ..Changes::default()
    };
    let error = write(&bench.store, changes).await.unwrap_err();
    assert!(matches!(error, Error::Database { .. }), "{error:?}");
    assert_eq!(bench.store.ledger(saga(1)).await.unwrap()[0].state, State::Done);
    assert_eq!(bench.store.ledger(saga(2)).await.unwrap(), []);
}

async fn a_transaction_whose_write_failed_cannot_commit(bench: &Bench) {
    insert(&bench.store, vec![ledger_row(saga(1), "a", State::Done)]).await;
    let mut tx = bench.store.begin().await.unwrap();
    tx.write(&Changes { outbox: vec![outbox_row(1, 0)], ..Changes::default() }).await.unwrap();
    let twice = Changes { ledger_inserts: vec![ledger_row(saga(1), "a", State::Done)], ..Changes::default() };
    tx.write(&twice).await.unwrap_err();
    tx.commit().await.unwrap_err();
    assert_eq!(bench.store.outbox_len().await.unwrap(), 0);
}

async fn work_is_overwritten_and_deleted(bench: &Bench) {
    wait_for(&bench.store, vec![work_row(1, saga(1)), work_row(2, saga(1))]).await;
    let parked = WorkRow { state: WorkState::Parked, attempts: 3, due_at: Some(4), ..work_row(1, saga(1)) };
    let last = WorkRow { attempts: 4, ..parked.clone() };
    let changes = Changes {
        work: vec![parked, work_row(3, saga(2)), last.clone()],
        work_done: vec![ReactionId(Uuid::from_u128(2)), ReactionId(Uuid::from_u128(99))],
        ..Changes::default()
    };
    write(&bench.store, changes).await.unwrap();
    assert_eq!(bench.store.work(10).await.unwrap(), [last, work_row(3, saga(2))]);

    let both = Changes {
        work: vec![work_row(3, saga(2))],
        work_done: vec![ReactionId(Uuid::from_u128(3))],
        ..Changes::default()
    };
    write(&bench.store, both).await.unwrap();
    assert_eq!(bench.store.work(10).await.unwrap().len(), 2, "what is deleted and written waits");
}

async fn work_is_read_in_pages(bench: &Bench) {
    let row = |id, saga, seq| WorkRow { seq, ..work_row(id, saga) };
    // Two messages without a saga, and two sagas; written in no order.
    let nobody = SagaId(Uuid::nil());
    let stuck = WorkRow { state: WorkState::Stuck, step: String::new(), since: 50, ..row(9, nobody, 0) };
    let first = WorkRow { step: "a".to_owned(), since: 50, ..row(4, saga(1), 1) };
    let rows = [stuck, row(10, nobody, 0), first, row(3, saga(1), 2), row(5, saga(1), 2), row(1, saga(2), 1)];
    wait_for(&bench.store, rows.iter().rev().cloned().collect()).await;

    let all = Which::default();
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = bench.store.work_page(&all, after, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.place());
        pages.push(page.len());
        assert_eq!(page[..], rows[pages.iter().sum::<usize>() - page.len()..][..page.len()]);
    }
    assert_eq!(pages, [4, 2]);

    let ids = async |which: Which| -> Vec<u128> {
        bench.store.work_page(&which, None, 99).await.unwrap().iter().map(|row| row.id.0.as_u128()).collect()
    };
    assert_eq!(ids(Which { saga: Some(saga(1)), ..all.clone() }).await, [4, 3, 5]);
    assert_eq!(ids(Which { saga: Some(nobody), ..all.clone() }).await, [9, 10]);
    assert_eq!(ids(Which { saga: Some(saga(7)), ..all.clone() }).await, [0u128; 0]);
    assert_eq!(ids(Which { step: Some("a".to_owned()), ..all.clone() }).await, [4]);
    assert_eq!(ids(Which { step: Some("a' OR 1=1".to_owned()), ..all.clone() }).await, [0u128; 0]);
    assert_eq!(ids(Which { state: Some(WorkState::Stuck), ..all.clone() }).await, [9]);
    assert_eq!(ids(Which { since: Some(49), ..all.clone() }).await, [10, 3, 5, 1]);
    assert_eq!(ids(Which { since: Some(50), saga: Some(saga(1)), ..all }).await, [4, 3, 5]);
}

async fn work_is_read_by_id(bench: &Bench) {
    wait_for(&bench.store, vec![work_row(1, saga(1)), work_row(2, saga(1)), work_row(3, saga(2))]).await;
    let id = |id| ReactionId(Uuid::from_u128(id));
    assert_eq!(bench.store.work_row(id(2)).await.unwrap(), Some(work_row(2, saga(1))));
    assert_eq!(bench.store.work_row(id(4)).await.unwrap(), None);
    let mut tx = bench.store.begin().await.unwrap();
    let rows = tx.work_rows(&[id(3), id(4), id(1), id(3)]).await.unwrap();
    assert_eq!(rows, [work_row(1, saga(1)), work_row(3, saga(2))]);
    assert_eq!(tx.work_rows(&[]).await.unwrap(), []);
}

async fn what_is_discarded_is_kept(bench: &Bench) {
    let waited = WorkRow {
        state: WorkState::Stuck,
        delivery: Delivery {
            key: Some(vec![0xff]),
            headers: vec![("ce_id".to_owned(), vec![0, 0xff])],
            body: vec![0xfe, 0],
            offset: 7,
            ..work_row(1, saga(1)).delivery
        },
        attempts: 3,
        failures: vec![FailedAttempt { at: 5, attempt: 1, error: "it broke".to_owned() }],
        since: 4,
        counted_from: 4,
        reason: "given up".to_owned(),
        ..work_row(1, saga(1))
    };
    let discarded = |id: u128, at| DiscardedRow {
        work: WorkRow { id: ReactionId(Uuid::from_u128(id)), ..waited.clone() },
        why: "paid by hand, see ticket 12".to_owned(),
        who: "ada".to_owned(),
        at,
    };
    wait_for(&bench.store, vec![waited.clone()]).await;
    let changes = Changes {
        work_done: vec![waited.id],
        discarded: vec![discarded(1, 10), discarded(2, 30)],
        ..Changes::default()
    };
    write(&bench.store, changes).await.unwrap();
    // A message may come again, and be discarded again.
    write(&bench.store, Changes { discarded: vec![discarded(1, 20)], ..Changes::default() }).await.unwrap();

    assert_eq!(bench.store.work(9).await.unwrap(), []);
    let kept = bench.store.discarded(None, 9).await.unwrap();
    assert_eq!(kept, [discarded(2, 30), discarded(1, 20), discarded(1, 10)], "the newest first");
    assert_eq!(bench.store.discarded(None, 1).await.unwrap(), [discarded(2, 30)]);
    assert_eq!(bench.store.discarded(Some(saga(1)), 9).await.unwrap().len(), 3);
    assert_eq!(bench.store.discarded(Some(saga(2)), 9).await.unwrap(), []);
    let id = |id| ReactionId(Uuid::from_u128(id));
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.discarded(&[id(1), id(3)]).await.unwrap(), [id(1)]);
}

async fn due_work_comes_in_order(bench: &Bench) {
    assert_eq!(bench.store.work_next_due().await.unwrap(), None);
    let row = |id, due_at| WorkRow { due_at, ..work_row(id, saga(id + 100)) };
    wait_for(&bench.store, vec![row(1, Some(30)), row(2, Some(10)), row(3, None), row(4, Some(20)), row(5, Some(31))])
        .await;
    let due = async |now, room| {
        let lane = Lane { step: "charge-customer", direction: Direction::Forward, room };
        let due = bench.store.work_due(now, &[lane]).await.unwrap();
        due.into_iter().map(|due| (due.id.0.as_u128(), due.saga)).collect::<Vec<_>>()
    };
    let pair = |id: u128| (id, saga(id + 100));
    assert_eq!(due(30, 10).await, [pair(2), pair(4), pair(1)]);
    assert_eq!(due(30, 2).await, [pair(2), pair(4)]);
    assert_eq!(due(9, 2).await, []);
    assert_eq!(bench.store.work_next_due().await.unwrap(), Some(10));
}

async fn leases_of_a_stopping_process_are_due_at_once(bench: &Bench) {
    let (mine, other) = (Some(Uuid::from_u128(50)), Some(Uuid::from_u128(51)));
    let row = |id, state, lease_owner| WorkRow { state, lease_owner, due_at: Some(900), ..work_row(id, saga(1)) };
    wait_for(
        &bench.store,
        vec![
            row(1, WorkState::Calling, mine),
            row(2, WorkState::Calling, other),
            row(3, WorkState::Deferred, None),
            row(4, WorkState::Stuck, mine),
        ],
    )
    .await;
    bench.store.release_leases(Uuid::from_u128(50), 5).await.unwrap();
    let rows: Vec<_> =
        bench.store.work(10).await.unwrap().into_iter().map(|row| (row.due_at, row.lease_owner)).collect();
    assert_eq!(rows, [(Some(5), None), (Some(900), other), (Some(900), None), (Some(900), mine)]);
}

async fn the_outbox_is_claimed_by_one_at_a_time(bench: &Bench) {
    let store = &bench.store;
    publish(store, vec![outbox_row(1, 300), outbox_row(2, 100), outbox_row(3, 200), outbox_row(4, 200)]).await;
    assert_eq!(store.outbox_len().await.unwrap(), 4);
    assert_eq!(ids(&store.outbox_claim(1_000, 100, 2_000, 10).await.unwrap()), [0u128; 0], "all too young");
    assert_eq!(ids(&store.outbox_claim(1_000, 300, 2_000, 2).await.unwrap()), [2, 3], "oldest first");
    assert_eq!(ids(&store.outbox_claim(1_000, 300, 2_000, 2).await.unwrap()), [4], "no row twice");
    assert_eq!(ids(&store.outbox_claim(1_999, 300, 3_000, 9).await.unwrap()), [0u128; 0]);
    assert_eq!(ids(&store.outbox_claim(2_000, 301, 3_000, 9).await.unwrap()), [2, 3, 4, 1], "again after the claim");
    store.outbox_delete(&[Uuid::from_u128(2), Uuid::from_u128(1), Uuid::from_u128(77)]).await.unwrap();
    store.outbox_delete(&[]).await.unwrap();
    assert_eq!(store.outbox_len().await.unwrap(), 2);
    assert_eq!(ids(&store.outbox_claim(9_000, 9_000, 9_999, 9).await.unwrap()), [3, 4]);
}

async fn two_sweepers_never_claim_the_same_row(bench: &Bench) {
    publish(&bench.store, (1..=100).map(|id| outbox_row(id, 0)).collect()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = bench.again().await;
        tasks.spawn(async move {
            let mut claimed = Vec::new();
            for _ in 0..10 {
                claimed.extend(ids(&store.outbox_claim(10, 10, 20, 10).await.unwrap()));
            }
            claimed
        });
    }
    let mut claimed = tasks.join_all().await.concat();
    claimed.sort_unstable();
    assert_eq!(claimed, (1..=100).collect::<Vec<_>>());
}

async fn a_refused_row_is_never_claimed_again(bench: &Bench) {
    let store = &bench.store;
    publish(store, vec![outbox_row(1, 0), outbox_row(2, 0)]).await;
    store.outbox_refuse(Uuid::from_u128(1), "the broker says: too large").await.unwrap();
    assert_eq!(ids(&store.outbox_claim(10, 10, 11, 9).await.unwrap()), [2]);
    assert_eq!(ids(&store.outbox_claim(1_000, 10, 1_001, 9).await.unwrap()), [2]);
    assert_eq!(store.outbox_len().await.unwrap(), 2, "and stays to be seen");
}

async fn a_refused_row_is_claimed_again_when_a_person_says_so(bench: &Bench) {
    let store = &bench.store;
    publish(store, vec![outbox_row(1, 0), outbox_row(2, 0)]).await;
    assert_eq!(ids(&store.outbox_claim(10, 10, 1_000, 1).await.unwrap()), [1]);
    store.outbox_refuse(Uuid::from_u128(1), "too large").await.unwrap();
    assert_eq!(store.outbox_retry(&[1, 2, 77].map(Uuid::from_u128)).await.unwrap(), 1, "one was refused");
    assert_eq!(store.outbox_retry(&[]).await.unwrap(), 0);
    assert_eq!(ids(&store.outbox_claim(10, 10, 11, 9).await.unwrap()), [1, 2], "its claim ended, too");
}

async fn the_outbox_is_read_in_pages(bench: &Bench) {
    let store = &bench.store;
    let mut other = outbox_row(4, 200);
    other.message.key = saga(9).to_string();
    publish(store, vec![outbox_row(3, 200), outbox_row(1, 300), outbox_row(2, 100), other.clone()]).await;
    let entry = |row, refused: Option<&str>| OutboxEntry { row, claimed_until: 0, refused: refused.map(str::to_owned) };
    let all = async |after, limit| store.outbox_page(true, None, after, limit).await.unwrap();
    assert_eq!(all(None, 2).await, [entry(outbox_row(2, 100), None), entry(outbox_row(3, 200), None)]);
    let after = Some((200, Uuid::from_u128(3)));
    assert_eq!(all(after, 9).await, [entry(other.clone(), None), entry(outbox_row(1, 300), None)]);
    assert_eq!(store.outbox_page(false, None, None, 9).await.unwrap(), []);

    store.outbox_refuse(Uuid::from_u128(1), "too large").await.unwrap();
    store.outbox_refuse(Uuid::from_u128(4), "no topic").await.unwrap();
    let refused = [entry(other, Some("no topic")), entry(outbox_row(1, 300), Some("too large"))];
    assert_eq!(store.outbox_page(false, None, None, 9).await.unwrap(), refused);
    assert_eq!(store.outbox_page(false, Some(saga(9)), None, 9).await.unwrap(), refused[..1]);
    assert_eq!(store.outbox_page(true, Some(saga(8)), None, 9).await.unwrap(), []);
    store.outbox_claim(1_000, 1_000, 2_000, 9).await.unwrap();
    let claims: Vec<i64> = all(None, 9).await.iter().map(|entry| entry.claimed_until).collect();
    assert_eq!(claims, [2_000, 2_000, 0, 0], "what is refused is not claimed");
}

async fn a_claim_is_released_by_who_made_it(bench: &Bench) {
    let store = &bench.store;
    publish(store, vec![outbox_row(1, 0), outbox_row(2, 0), outbox_row(3, 0)]).await;
    assert_eq!(ids(&store.outbox_claim(10, 10, 20, 2).await.unwrap()), [1, 2]);
    assert_eq!(ids(&store.outbox_claim(20, 10, 50, 1).await.unwrap()), [1], "somebody else's");
    store.outbox_release(&[1, 2, 3, 77].map(Uuid::from_u128), 20, 15).await.unwrap();
    store.outbox_release(&[], 20, 15).await.unwrap();
    store.outbox_hold(&[3, 77].map(Uuid::from_u128), 17).await.unwrap();
    store.outbox_hold(&[1, 3].map(Uuid::from_u128), 12).await.unwrap();
    assert_eq!(ids(&store.outbox_claim(15, 10, 16, 9).await.unwrap()), [2]);
    assert_eq!(ids(&store.outbox_claim(17, 10, 18, 9).await.unwrap()), [2, 3], "a claim is not shortened by another");
}

async fn a_start_is_remembered(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.started("shop", "k").await.unwrap(), None);
    tx.insert_started(&start("shop", "k")).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.started("shop", "k").await.unwrap(), Some(start("shop", "k")));
    assert_eq!(tx.started("shop", "other").await.unwrap(), None);
    assert_eq!(tx.started("other", "k").await.unwrap(), None);
    tx.insert_started(&start("shop", "k")).await.unwrap_err();
    tx.commit().await.unwrap_err();
}

async fn starts_with_one_key_wait_for_each_other(bench: &Bench) {
    let mut first = bench.store.begin().await.unwrap();
    assert_eq!(first.started("shop", "k").await.unwrap(), None);
    let store = bench.again().await;
    let mut second = spawn(async move { store.begin().await.unwrap().started("shop", "k").await.unwrap() });
    assert!(tokio::time::timeout(A_WHILE, &mut second).await.is_err(), "the second start did not wait");
    first.insert_started(&start("shop", "k")).await.unwrap();
    first.commit().await.unwrap();
    let seen = tokio::time::timeout(SOON, second).await.expect("the second start still waits").unwrap();
    assert_eq!(seen, Some(start("shop", "k")));
}

async fn a_saga_is_in_one_transaction_at_a_time(bench: &Bench) {
    let (mut first, ledger, _) = enter(&bench.store, &[saga(1), saga(2)]).await;
    assert_eq!(ledger, []);
    let other = bench.again().await;
    if bench.engine == Engine::Postgres {
        let passes = tokio::time::timeout(SOON, enter(&other, &[saga(3)])).await;
        passes.expect("another saga waits").0.commit().await.unwrap();
    }
    let mut second = spawn(async move { enter(&other, &[saga(2), saga(3)]).await.1 });
    assert!(tokio::time::timeout(A_WHILE, &mut second).await.is_err(), "the saga was in two transactions");
    let rows = vec![ledger_row(saga(2), "a", State::Done)];
    first.write(&Changes { ledger_inserts: rows.clone(), ..Changes::default() }).await.unwrap();
    first.commit().await.unwrap();
    let seen = tokio::time::timeout(SOON, second).await.expect("the lock outlived its transaction").unwrap();
    assert_eq!(seen, rows, "what the first committed is what the second reads");
}

async fn a_dropped_transaction_leaves_nothing(bench: &Bench) {
    let (mut tx, ..) = enter(&bench.store, &[saga(1)]).await;
    let changes = Changes {
        ledger_inserts: vec![ledger_row(saga(1), "a", State::Done)],
        outbox: vec![outbox_row(1, 0)],
        work: vec![work_row(1, saga(1))],
        ..Changes::default()
    };
    tx.write(&changes).await.unwrap();
    tx.insert_started(&start("shop", "k")).await.unwrap();
    drop(tx);

    let (mut tx, ledger, work) = tokio::time::timeout(SOON, enter(&bench.store, &[saga(1)])).await.unwrap();
    assert_eq!((ledger, work), (Vec::new(), Vec::new()));
    assert_eq!(tx.started("shop", "k").await.unwrap(), None);
    tx.commit().await.unwrap();
    assert_eq!(bench.store.outbox_len().await.unwrap(), 0);
}

async fn five_hundred_rows_in_one_transaction(bench: &Bench) {
    let store = &bench.store;
    let sagas: Vec<_> = (1..=500).map(saga).collect();
    let (mut tx, ..) = enter(store, &sagas).await;
    tx.write(&Changes {
        ledger_inserts: sagas.iter().map(|saga| full_ledger_row(*saga, "a", State::Calling)).collect(),
        outbox: (1..=500).map(|id| outbox_row(id, 0)).collect(),
        work: sagas.iter().map(|saga| work_row(saga.0.as_u128(), *saga)).collect(),
        ..Changes::default()
    })
    .await
    .unwrap();
    tx.commit().await.unwrap();

    let (mut tx, ledger, work) = enter(store, &sagas).await;
    assert_eq!(ledger, sagas.iter().map(|saga| full_ledger_row(*saga, "a", State::Calling)).collect::<Vec<_>>());
    assert_eq!(work, sagas.iter().map(|saga| work_row(saga.0.as_u128(), *saga)).collect::<Vec<_>>());
    tx.write(&Changes {
        ledger_updates: ledger
            .into_iter()
            .map(|row| (row.state, LedgerRow { state: State::Done, hops: 7, ..row }))
            .collect(),
        work_done: work.iter().map(|row| row.id).collect(),
        ..Changes::default()
    })
    .await
    .unwrap();
    tx.commit().await.unwrap();

    let (_tx, ledger, work) = enter(store, &sagas).await;
    assert_eq!(work, []);
    assert_eq!(ledger.len(), 500);
    assert!(ledger.iter().all(|row| row.state == State::Done && row.hops == 7));
    drop(_tx);
    let claimed = store.outbox_claim(1, 1, 2, 1_000).await.unwrap();
    assert_eq!(ids(&claimed), (1..=500).collect::<Vec<_>>());
    store.outbox_delete(&claimed.iter().map(|row| row.id).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(store.outbox_len().await.unwrap(), 0);
}

async fn steps_write_in_the_same_transaction(bench: &Bench) {
    // The second round would find the table, had the first transaction kept it.
    for _ in 0..2 {
        let mut tx = bench.store.begin().await.unwrap();
        let mut conn = tx.conn();
        conn.execute("CREATE TEMPORARY TABLE parcels (n BIGINT NOT NULL)", ()).await.unwrap();
        assert_eq!(conn.execute("INSERT INTO parcels (n) VALUES ($1), ($2)", (7i64, 8i64)).await.unwrap(), 2);
        let one: Option<(i64,)> =
            conn.reborrow().fetch_optional("SELECT n FROM parcels WHERE n > $1", (7i64,)).await.unwrap();
        assert_eq!(one, Some((8,)));
        let all: Vec<(i64,)> = conn.fetch_all("SELECT n FROM parcels ORDER BY n", ()).await.unwrap();
        assert_eq!(all, [(7,), (8,)]);
        tx.write(&Changes { outbox: vec![outbox_row(1, 0)], ..Changes::default() }).await.unwrap();
    }
    assert_eq!(bench.store.outbox_len().await.unwrap(), 0);
}

async fn two_participants_share_a_database(bench: &Bench) {
    if bench.engine == Engine::Memory {
        return; // Each connection is a database of its own there.
    }
    let participant = format!("{}-b", bench.participant);
    let other = Store::connect(&bench.url, &participant).await.unwrap();
    assert!(matches!(other.check().await, Err(Error::Schema { found: 0, .. })));
    other.migrate().await.unwrap();
    insert(&bench.store, vec![ledger_row(saga(1), "a", State::Done)]).await;
    assert_eq!(other.ledger(saga(1)).await.unwrap(), []);
    if bench.engine == Engine::Postgres {
        let (_tx, ..) = enter(&bench.store, &[saga(1)]).await;
        let passes = tokio::time::timeout(SOON, enter(&other, &[saga(1)])).await;
        drop(passes.expect("one participant waits for another"));
        drop(_tx);
        bench
            .raw("DROP TABLE {p}_b_ledger, {p}_b_outbox, {p}_b_work, {p}_b_started, {p}_b_discarded, {p}_b_meta")
            .await;
    }
}

/// A saga that started at this millisecond (RFC 9562, section 5.7).
fn started_at(millis: u128, version: u128) -> SagaId {
    SagaId(Uuid::from_u128((millis << 80) | (version << 76) | (2 << 62) | millis))
}

async fn old_sagas_are_forgotten_whole(bench: &Bench) {
    let store = &bench.store;
    let of = |saga: SagaId, step: &str| ledger_row(saga, step, State::Done);
    let [old, waits, foreign, young] = [started_at(100, 7), started_at(101, 7), started_at(102, 4), started_at(900, 7)];
    // Started here, and not ended; ended; about to end.
    let [open, ended, ending] = [110, 111, 112].map(|at| started_at(at, 7));
    let close = |saga| LedgerRow { ending: Some(Ending::Completed), ..of(saga, "close") };
    let closing = LedgerRow { rejecting: true, state: State::Compensating, ..close(ending) };
    insert(store, vec![of(old, "a"), of(old, "b"), of(waits, "a"), of(foreign, "a"), of(young, "a")]).await;
    insert(store, vec![of(open, "place"), of(ended, "place"), close(ended), of(ending, "place"), closing]).await;
    wait_for(store, vec![work_row(1, waits)]).await;
    let mut tx = store.begin().await.unwrap();
    tx.insert_started(&StartedRow { saga: old, ..start("shop", "old") }).await.unwrap();
    tx.insert_started(&StartedRow { saga: young, ..start("shop", "young") }).await.unwrap();
    tx.commit().await.unwrap();

    assert_eq!(store.horizon().await.unwrap(), 0);
    assert_eq!(store.prune(500, &["place"], 100).await.unwrap(), 2);
    assert_eq!(store.prune(400, &["place"], 100).await.unwrap(), 0);
    assert_eq!(store.horizon().await.unwrap(), 500, "it is never lowered");
    assert_eq!(store.ledger(old).await.unwrap(), []);
    for (saga, rows) in [(waits, 1), (foreign, 1), (young, 1), (open, 1), (ending, 2)] {
        assert_eq!(store.ledger(saga).await.unwrap().len(), rows, "{saga}");
    }
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.horizon().await.unwrap(), 500);
    assert_eq!(tx.started("shop", "old").await.unwrap(), None);
    assert!(tx.started("shop", "young").await.unwrap().is_some());
    drop(tx);

    let more: Vec<_> = (200..320).map(|at| of(started_at(at, 7), "a")).collect();
    insert(store, more).await;
    assert_eq!(store.prune(500, &["place"], 100).await.unwrap(), 100);
    assert_eq!(store.prune(500, &["place"], 100).await.unwrap(), 20);
}

async fn open_sagas_are_found_in_a_range(bench: &Bench) {
    let store = &bench.store;
    let [before, open, ended, undone, after] = [100, 200, 201, 202, 900].map(|at| started_at(at, 7));
    let place = |saga: SagaId| ledger_row(saga, "place", State::Done);
    let closed = |saga: SagaId| LedgerRow { ending: Some(Ending::Completed), ..ledger_row(saga, "close", State::Done) };
    let taken_back = LedgerRow { state: State::Compensated, ..place(undone) };
    insert(store, vec![place(before), place(open), place(ended), closed(ended), taken_back, place(after)]).await;
    let (from, to) = (started_at(150, 7), started_at(500, 7));
    assert_eq!(store.open_sagas("place", from, to, 10).await.unwrap(), [open]);
    assert_eq!(store.open_sagas("close", from, to, 10).await.unwrap(), []);
    assert_eq!(store.still_open("place", &[ended, open, undone, after]).await.unwrap(), [open, after]);
    assert_eq!(store.still_open("place", &[]).await.unwrap(), []);
    assert_eq!(store.open_sagas("place", before, started_at(999, 7), 2).await.unwrap(), [before, open]);
}

/// What a step cannot take is not read: however much of it there is, the others have their turn.
async fn due_work_is_asked_for_by_lane(bench: &Bench) {
    let store = &bench.store;
    let row = |id, due_at| WorkRow { due_at: Some(due_at), ..work_row(id, saga(id)) };
    wait_for(
        store,
        vec![
            row(1, 10),
            row(2, 11),
            row(3, 12),
            row(4, 51),
            WorkRow { step: "other".to_owned(), ..row(5, 40) },
            WorkRow { direction: Direction::Compensation, ..row(6, 20) },
            WorkRow { step: "of-another-version".to_owned(), ..row(7, 9) },
            WorkRow { state: WorkState::Calling, step: "other".to_owned(), ..row(8, 30) },
        ],
    )
    .await;
    let lane = |step, direction, room| Lane { step, direction, room };
    let asked = [
        lane("charge-customer", Direction::Compensation, 9),
        lane("charge-customer", Direction::Forward, 2),
        lane("other", Direction::Forward, 9),
    ];
    let ids = |due: Vec<Due>| due.into_iter().map(|due| (due.id.0.as_u128(), due.lane)).collect::<Vec<_>>();
    let due = ids(store.work_due(50, &asked).await.unwrap());
    assert_eq!(due, [(1, 1), (6, 0), (8, 2), (2, 1), (5, 2)], "the first of each lane comes before the second of any");
    assert_eq!(ids(store.work_due(50, &asked[2..]).await.unwrap()), [(8, 0), (5, 0)]);
    assert_eq!(store.work_due(50, &[]).await.unwrap(), []);
    let counts = store.work_counts().await.unwrap();
    assert_eq!(counts, [(WorkState::Calling, 1), (WorkState::Deferred, 7)]);
}

async fn a_newer_database_is_refused(bench: &Bench) {
    bench.raw("INSERT INTO {p}_meta (version) VALUES (1000)").await;
    assert!(matches!(bench.store.check().await, Err(Error::Schema { found: 1000, .. })));
    assert!(matches!(bench.store.migrate().await, Err(Error::Schema { found: 1000, .. })));
}

/// Several processes that start at once find no file, and each of them switches it to a write-ahead log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_created_by_many_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store.db").display());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let url = url.clone();
        tasks.spawn(async move {
            let store = Store::connect(&url, &format!("p{}", n % 2)).await?;
            store.migrate().await?;
            store.check().await
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap().unwrap();
    }
}

/// A task whose handle the test keeps.
#[expect(clippy::disallowed_methods, reason = "the caller awaits it")]
fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    tokio::spawn(work)
}
