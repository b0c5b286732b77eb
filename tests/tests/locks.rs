//! Two instances at one saga, on a real PostgreSQL: the lock is taken in one statement, and what it protects is read in another.
//!
//! In one statement the read would see what was there before the wait. The simulation cannot show this, as SQLite has no such
//! statement; here it is done, and the damage is seen.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

#[path = "../../saga-core/tests/toy/mod.rs"]
mod toy;

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use anyhow::Result;
use saga_core::{
    Error, Event as _,
    discard::{Discard, discard},
    harness::{Harness, Hook, Point, Rule},
    id::SagaId,
    store::Store,
    transport::BoxFuture,
};
use saga_tests::{processes::wait_for, support::require_postgres};
use tokio::sync::Notify;
use toy::*;

/// Holds its node up inside the first transaction that has locked, read and run its steps.
#[derive(Default)]
struct Holds {
    before: AtomicBool,
    reached: Notify,
    go: Notify,
}

impl Hook for Holds {
    fn reach(&self, point: Point) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if point == Point::Folded && !self.before.swap(true, Ordering::Relaxed) {
                self.reached.notify_one();
                self.go.notified().await;
            }
        })
    }
}

struct Passes;
impl Hook for Passes {
    fn reach(&self, _: Point) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Two instances of one participant on one database, each with a broker that delivers it the same events.
struct Two {
    first: Toy,
    second: Toy,
}

impl Two {
    async fn on(url: &str) -> Result<Self> {
        let first = Toy::on(url, []).await;
        let store = Store::connect(url, "toy").await?;
        let second = Toy::with(store, first.clock.clone(), first.script.clone());
        Ok(Self { first, second })
    }

    /// Delivers an event to both: the second instance comes while the first is inside its transaction, waits for the saga's lock, and
    /// only then does the first one commit. Both break `rules`. What became of the second one's batch.
    async fn contend(&mut self, saga: SagaId, event_type: &str, rules: &[Rule]) -> Result<Result<bool, Error>> {
        let holds = Arc::new(Holds::default());
        self.first.node = self.first.another().with_harness(&Harness::new(holds.clone(), rules.to_vec(), None));
        self.second.node = self.second.another().with_harness(&Harness::new(Arc::new(Passes), rules.to_vec(), None));
        for toy in [&self.first, &self.second] {
            toy.send(saga, event_type, event_type);
        }
        let Self { first, second } = self;
        let store = first.store.clone();
        let waits = async || {
            let sql = "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database \
                       WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted";
            let waiting: Option<(i64,)> = store.fetch_optional(sql, ()).await?;
            Ok(waiting.filter(|(waiting,)| *waiting == 1))
        };
        let (held, waited, seen) = tokio::join!(
            first.node.turn(),
            async {
                holds.reached.notified().await;
                second.node.turn().await
            },
            async {
                let seen = wait_for("the second instance to wait for the lock", Duration::from_secs(8), waits).await;
                holds.go.notify_one();
                seen
            }
        );
        seen?;
        held?;
        Ok(waited)
    }

    /// How often the step was run, and how many of its effects there are.
    async fn done(&self, saga: SagaId) -> (usize, i64) {
        let runs = self.first.script.seen().iter().filter(|line| line.starts_with("run ")).count();
        (runs, self.first.effects(saga).await)
    }
}

#[tokio::test]
async fn two_deliveries_at_two_instances_have_one_effect() -> Result<()> {
    let Some(postgres) = require_postgres() else { return Ok(()) };
    let mut two = Two::on(&postgres.database("locks").await?).await?;
    let saga = two.first.saga();
    assert!(two.contend(saga, Asked::TYPE, &[]).await??);
    assert_eq!(two.done(saga).await, (1, 1), "whoever waited for the lock reads what its holder wrote");
    Ok(())
}

/// The step runs a second time. What saves the saga is the second line of defence: the row cannot be inserted twice, so that what
/// the second run wrote is rolled back.
#[tokio::test]
async fn a_lock_in_the_statement_that_reads_is_seen() -> Result<()> {
    let Some(postgres) = require_postgres() else { return Ok(()) };
    let mut two = Two::on(&postgres.database("locks").await?).await?;
    let saga = two.first.saga();
    assert!(two.contend(saga, Asked::TYPE, &[Rule::LockAndReadInOne]).await??);
    assert_eq!(two.done(saga).await, (2, 1), "the past was read: no row, though one was there before the lock was");
    Ok(())
}

/// Without the second line of defence there are two effects.
#[tokio::test]
async fn a_lock_in_the_statement_that_reads_does_damage() -> Result<()> {
    let Some(postgres) = require_postgres() else { return Ok(()) };
    let mut two = Two::on(&postgres.database("locks").await?).await?;
    let saga = two.first.saga();
    let rules = [Rule::LockAndReadInOne, Rule::BlindTransition];
    assert!(two.contend(saga, Asked::TYPE, &rules).await??);
    assert_eq!(two.done(saga).await, (2, 2), "one event, two effects");
    // With the lock alone there is one: the second line is not what usually holds.
    let saga = two.first.saga();
    assert!(two.contend(saga, Asked::TYPE, &[Rule::BlindTransition]).await??);
    assert_eq!(two.first.effects(saga).await, 1);
    Ok(())
}

/// A message that is no event names no saga whose lock could be held. It has one all the same: otherwise an instance that took it
/// before a person discarded it at another one, and was slow since, would bring it back.
#[tokio::test]
async fn a_message_that_is_no_event_does_not_come_back_after_it_was_discarded() -> Result<()> {
    let Some(postgres) = require_postgres() else { return Ok(()) };
    let Two { mut first, mut second } = Two::on(&postgres.database("locks").await?).await?;
    for toy in [&first, &second] {
        assert!(toy.broker.inject("toy", None, &[], b"no event"));
    }
    let saga = second.saga();
    second.send(saga, Asked::TYPE, "a1");
    second.script.then(Todo::HangThenAgree); // in the same batch
    let Toy { node: slow, script, .. } = &mut second;
    let person = async {
        while script.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(first.node.turn().await?);
        let waiting = first.store.work(9).await?;
        let reaction = waiting[0].id;
        let what = Discard { reaction, reason: "a test", who: "ada", taken_back: false, dry_run: false };
        discard(&first.store, &first.clock, "toy", &what).await?;
        script.let_go();
        Ok::<_, anyhow::Error>(waiting.len())
    };
    let (settled, waited) = tokio::join!(slow.turn(), person);
    assert!(settled? && waited? == 1);
    assert_eq!(first.store.work(9).await?, []);
    assert_eq!(first.effects(saga).await, 1);
    Ok(())
}
