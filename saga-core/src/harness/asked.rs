//! What can be asked of a node: where to stop for ever, which rule to break.

use std::{
    collections::BTreeSet,
    fmt,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use uuid::Uuid;

use crate::{
    error::Error,
    id::SagaId,
    node::Shared,
    step::Direction,
    store::{Changes, LedgerRow, OutboxRow, Tx, WorkRow},
    transport::{BoxFuture, Sink},
};

/// An enum whose variants have a name for command lines and a sentence that is their documentation, too.
macro_rules! named {
    ($(#[$meta:meta])* $of:ident $kind:literal $means:ident { $($variant:ident $name:literal $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $of { $(#[doc = $text] $variant,)+ }

        impl $of {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word for command lines and logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The sentence that explains it.
            pub const fn $means(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $of {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $of {
            type Err = UnknownName;

            fn from_str(name: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|one| one.name() == name).ok_or_else(|| UnknownName {
                    kind: $kind,
                    name: name.to_owned(),
                    known: Self::ALL.iter().map(|one| one.name()).collect(),
                })
            }
        }
    };
}

/// A name that is none of those that are known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {kind} {name:?}: expected one of {}", known.join(", "))]
pub struct UnknownName {
    kind: &'static str,
    name: String,
    known: Vec<&'static str>,
}

named! {
    /// A place where a process may die, or be held up.
    Point "point" leaves {
        Taken "taken" "Leaves nothing: the source still has the deliveries, the table still has the rows, an answer is lost with its process.",
        Begun "begun" "Leaves nothing: an empty transaction is rolled back.",
        Locked "locked" "Leaves nothing: the locks go with the connection.",
        Read "read" "Leaves nothing: only reading was done.",
        Folded "folded" "Leaves nothing: the steps' own writes are rolled back.",
        Written "written" "Leaves nothing: ledger, outbox and work are rolled back with the steps' own writes.",
        Committed "committed" "Leaves everything in the database, nothing of it published, no call made, the offsets behind.",
        BeforeOffsets "before-offsets" "Leaves the offsets behind: the deliveries come again and are absorbed.",
        AfterOffsets "after-offsets" "Leaves events in the outbox for the sweeper, and leases that have to end.",
        BeforePublish "before-publish" "Leaves the rows in the outbox: the sweeper publishes them.",
        BeforeDelete "before-delete" "Leaves rows in the outbox that are published: the sweeper publishes them once more.",
        AfterDelete "after-delete" "Leaves nothing to do.",
        BeforeCall "before-call" "Leaves a lease: the next attempt is made when it has ended.",
        AfterCall "after-call" "Leaves an effect that nobody here knows of: the next attempt asks under the same key.",
        BeforeStartCommit "before-start-commit" "Leaves no saga: whoever asked has to ask again.",
        AfterStartCommit "after-start-commit" "Leaves a saga whose first event is in the outbox, and a caller without an answer.",
        Swept "swept" "Leaves rows that are claimed: the next sweep after the claim publishes them.",
    }
}

impl Point {
    /// Whether a transaction is open there: whoever is held up inside one holds everybody up.
    pub const fn in_transaction(self) -> bool {
        matches!(self, Self::Begun | Self::Locked | Self::Read | Self::Folded | Self::Written | Self::BeforeStartCommit)
    }
}

named! {
    /// A rule that can be broken on purpose.
    Rule "rule" breaks {
        OffsetBeforeCommit "offset-before-commit" "Offsets are stored before the batch has committed.",
        PublishBeforeCommit "publish-before-commit" "Events are published before their transaction has committed.",
        NoLedgerCheck "no-ledger-check" "A forward runs whatever the ledger says.",
        BlindTransition "blind-transition" "A transition overwrites whatever state it finds.",
        ReadBeforeLock "read-before-lock" "The rows of a saga are read before its lock is held, which is what lock and read in one statement of PostgreSQL come to.",
        LockAndReadInOne "lock-and-read-in-one" "The statement that reads a saga's ledger takes its lock, too: on PostgreSQL it reads what was there before it waited. Broken on a real PostgreSQL; SQLite has no such statement.",
        RandomEventId "random-event-id" "Event ids are random.",
        VoidForgotten "void-forgotten" "A forward runs although its compensation came first.",
        CallingAsNone "calling-as-none" "A compensation takes a call of unknown outcome for one that was never made.",
        OutboxPagedById "outbox-paged-by-id" "The sweeper asks only for rows behind the last one that it saw.",
        ParkedOvertaken "parked-overtaken" "A reaction does not wait behind those of its saga that wait.",
        SecondAnswerOverwrites "second-answer-overwrites" "An answer is settled although another one has settled the step.",
        StuckCallWaits "stuck-call-waits" "A call that needs a person keeps its compensation waiting.",
        RefusalBelieved "refusal-believed" "A no is believed although an earlier attempt had an unknown outcome.",
        KeyPerAttempt "key-per-attempt" "Each attempt of a call carries a key of its own.",
        HorizonIgnored "horizon-ignored" "A reaction of a saga that is forgotten is taken for new.",
        LookUpInDoubt "look-up-in-doubt" "A call in doubt is looked up and taken back, and its key stays open. Broken by whoever stands between the step and the other system.",
    }
}

/// Decides what becomes of a node at each point.
pub trait Hook: Send + Sync + 'static {
    /// The point is reached. The node goes on when the future is ready; a crash is one that never is.
    fn reach(&self, point: Point) -> BoxFuture<'_, ()>;

    /// True when the answer to a commit is lost: it took effect, and nobody here knows.
    fn loses_commit(&self) -> bool {
        false
    }

    /// True when this step's own code is to fail now, as a step does whose database or other system is away.
    fn fails(&self, _step: &str, _direction: Direction) -> bool {
        false
    }
}

/// What is asked of one node. Cheap to clone; clones ask the same.
#[derive(Clone, Default)]
pub struct Harness(Option<Arc<Asked>>);

struct Asked {
    hook: Arc<dyn Hook>,
    rules: Vec<Rule>,
    sink: Option<Arc<dyn Sink>>,
    /// The last outbox row that a sweep saw, for [`Rule::OutboxPagedById`].
    last_swept: Mutex<Uuid>,
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Harness").field(&self.0.as_ref().map(|asked| &asked.rules)).finish()
    }
}

impl Harness {
    /// A node whose fate `hook` decides, and which breaks `rules`. `sink` is where [`Rule::PublishBeforeCommit`] publishes.
    pub fn new(hook: Arc<dyn Hook>, rules: Vec<Rule>, sink: Option<Arc<dyn Sink>>) -> Self {
        Self(Some(Arc::new(Asked { hook, rules, sink, last_swept: Mutex::new(Uuid::nil()) })))
    }

    /// What the variable `SAGA_CRASH_AT` asks of this process: `point` or `point:nth`. Nothing when it is not set.
    pub fn from_environment() -> Result<Self, UnknownName> {
        match std::env::var("SAGA_CRASH_AT") {
            Ok(text) => Ok(Self::new(Arc::new(text.parse::<CrashAt>()?), Vec::new(), None)),
            Err(_) => Ok(Self::default()),
        }
    }

    pub(crate) const fn none() -> Self {
        Self(None)
    }

    pub(crate) async fn reach(&self, point: Point) {
        if let Some(asked) = &self.0 {
            asked.hook.reach(point).await;
        }
    }

    pub(crate) fn breaks(&self, rule: Rule) -> bool {
        self.0.as_ref().is_some_and(|asked| asked.rules.contains(&rule))
    }

    pub(crate) fn fails(&self, step: &str, direction: Direction) -> bool {
        self.0.as_ref().is_some_and(|asked| asked.hook.fails(step, direction))
    }

    pub(crate) fn loses_commit(&self) -> bool {
        self.0.as_ref().is_some_and(|asked| asked.hook.loses_commit())
    }

    /// [`Rule::HorizonIgnored`].
    pub(crate) fn horizon(&self, forgotten: BTreeSet<SagaId>) -> BTreeSet<SagaId> {
        if self.breaks(Rule::HorizonIgnored) { BTreeSet::new() } else { forgotten }
    }

    /// [`Rule::PublishBeforeCommit`].
    pub(crate) async fn publish_early(&self, rows: &[OutboxRow]) {
        let asked = self.0.as_ref().filter(|_| self.breaks(Rule::PublishBeforeCommit));
        let Some(sink) = asked.and_then(|asked| asked.sink.as_ref()) else { return };
        let messages: Vec<_> = rows.iter().map(|row| row.message.clone()).collect();
        sink.publish(&messages).await;
    }

    /// [`Rule::OutboxPagedById`].
    pub(crate) fn page_by_id(&self, rows: &mut Vec<OutboxRow>) {
        let Some(asked) = self.0.as_ref().filter(|_| self.breaks(Rule::OutboxPagedById)) else { return };
        let mut last = asked.last_swept.lock().unwrap_or_else(PoisonError::into_inner);
        rows.retain(|row| row.id > *last);
        *last = rows.iter().map(|row| row.id).max().unwrap_or(*last);
    }
}

/// [`Rule::ReadBeforeLock`]: what the rows were before the transaction. Between the two, others may write.
pub(crate) async fn past(shared: &Shared, sagas: &[SagaId]) -> Result<Option<Rows>, Error> {
    if !shared.harness.breaks(Rule::ReadBeforeLock) {
        return Ok(None);
    }
    let mut tx = shared.store.begin().await?;
    tx.read(sagas).await.map(Some)
}

type Rows = (Vec<LedgerRow>, Vec<WorkRow>);

/// [`Rule::BlindTransition`]: expects whatever is there.
pub(crate) async fn expect_what_is_there(shared: &Shared, tx: &mut Tx, changes: &mut Changes) -> Result<(), Error> {
    if !shared.harness.breaks(Rule::BlindTransition) {
        return Ok(());
    }
    let updates = changes.ledger_updates.drain(..).map(|(_, row)| row);
    let rows: Vec<LedgerRow> = updates.chain(changes.ledger_inserts.drain(..)).collect();
    let sagas: Vec<SagaId> = rows.iter().map(|row| row.saga).collect();
    let (there, _) = tx.read(&sagas).await?;
    for row in rows {
        match there.iter().find(|other| other.saga == row.saga && other.step == row.step) {
            Some(other) => changes.ledger_updates.push((other.state, row)),
            None => changes.ledger_inserts.push(row),
        }
    }
    Ok(())
}

/// Ends this process when it reaches a point for the n-th time, as SIGKILL would: no destructor runs, nothing is flushed.
#[derive(Debug)]
pub struct CrashAt {
    point: Point,
    left: AtomicU64,
}

impl FromStr for CrashAt {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let (point, nth) = text.split_once(':').unwrap_or((text, "1"));
        let nth = nth.parse().ok().filter(|nth| *nth > 0);
        let left =
            nth.ok_or_else(|| UnknownName { kind: "count", name: text.to_owned(), known: vec!["point:1", ".."] })?;
        Ok(Self { point: point.parse()?, left: AtomicU64::new(left) })
    }
}

impl Hook for CrashAt {
    fn reach(&self, point: Point) -> BoxFuture<'_, ()> {
        if point == self.point && self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            eprintln!("crash at {point}, as asked");
            std::process::abort();
        }
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_asked_for_by_name_and_count() {
        let at: CrashAt = "committed:3".parse().unwrap();
        assert_eq!((at.point, at.left.into_inner()), (Point::Committed, 3));
        assert_eq!("taken".parse::<CrashAt>().unwrap().left.into_inner(), 1);
        let error = "comitted".parse::<CrashAt>().unwrap_err().to_string();
        assert!(error.contains("expected one of taken, begun"), "{error}");
        assert!("taken:0".parse::<CrashAt>().is_err());
    }

    #[test]
    fn nothing_is_asked_of_a_node_by_default() {
        let harness = Harness::default();
        assert!(Rule::ALL.iter().all(|rule| !harness.breaks(*rule)));
        assert!(!harness.fails("charge-customer", Direction::Forward));
    }
}
