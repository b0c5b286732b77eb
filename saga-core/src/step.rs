//! Steps: the page a service author reads.
//!
//! A step's contract is [`Step`]: names and types, always in the same place. Its behaviour is a second trait:
//!
//! | the step | implements | and, when `CompensatedOn` is not `Never` | joins the cast with |
//! |---|---|---|---|
//! | works in its own database | [`Local`] | [`Compensate`] | [`Participant::step`](crate::Participant::step) |
//! | calls another system | [`External`] | [`CompensateExternal`] | [`Participant::external`](crate::Participant::external) |
//! | must not run once its saga is cancelled, but stays done | [`Local`] | [`Gate`] | [`Participant::gate`](crate::Participant::gate) |
//! | starts sagas (`On = Never`) | | [`Compensate`] | [`Participant::start`](crate::Participant::start) |
//! | joins a saga by a request (`On = Never`) | | [`Compensate`] | [`Participant::request`](crate::Participant::request) |
//!
//! Three things to know. `?` on any error means *try again*; a business no must be said ([`reject`]), and so must giving up
//! ([`give_up`]). A step may run several times for one event before one of its transactions commits, so it keeps its effects in
//! the [`StepContext`], never in `&self`. And what a rejecting `run` wrote is kept: a no is an answer, not a failure.

use std::{fmt, future::Future, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    event::{Never, Outcome, Trigger},
    id::{IdempotencyKey, SagaId},
    retry::Retry,
    store::{Conn, Params, Row},
};

/// Which way a reaction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Doing.
    Forward,
    /// Taking back.
    Compensation,
}

impl Direction {
    /// The word that tables and logs carry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Compensation => "compensation",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Any error, on its way to the work table.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a step did not emit. Not an `Error` itself, so that `?` on any error means "try again".
#[derive(Debug)]
#[must_use]
pub enum Stop<R> {
    /// A business no. Never retried; what the step wrote is kept.
    Reject(R),
    /// A business no although the call took effect: it is taken back first ([`CompensateExternal::in_doubt`]), then said.
    RejectAfterEffect(R),
    /// Something failed: try again by the step's [`Retry`] policy.
    Retry(BoxError),
    /// It will never work: a person has to look.
    GiveUp(String),
}

impl<R, E: std::error::Error + Send + Sync + 'static> From<E> for Stop<R> {
    fn from(error: E) -> Self {
        Stop::Retry(Box::new(error))
    }
}

/// Says a business no.
pub fn reject<T, R>(event: impl Into<R>) -> Result<T, Stop<R>> {
    Err(Stop::Reject(event.into()))
}

/// Says a business no although the call took effect; see [`Stop::RejectAfterEffect`].
pub fn reject_after_effect<T, R>(event: impl Into<R>) -> Result<T, Stop<R>> {
    Err(Stop::RejectAfterEffect(event.into()))
}

/// Says that trying again is of no use: the reaction becomes stuck, with the reason.
pub fn give_up<T, R>(why: impl Into<String>) -> Result<T, Stop<R>> {
    Err(Stop::GiveUp(why.into()))
}

/// Asks for another attempt, for errors that `?` does not take (such as `anyhow::Error`).
pub fn retry<T, R>(why: impl Into<BoxError>) -> Result<T, Stop<R>> {
    Err(Stop::Retry(why.into()))
}

/// What `run` returns.
pub type StepResult<S> = Result<<S as Step>::Emits, Stop<<S as Step>::Rejects>>;

/// What cannot say no returns: a call, a compensation.
pub type MustSucceed<T> = Result<T, Stop<Never>>;

/// The contract of a step: what it is called, what it hears, what it leaves behind.
pub trait Step: Send + Sync + 'static {
    /// Imperative and stable, such as `charge-customer`: ledger rows and ids carry it. Lower-case letters, digits and `-`.
    const NAME: &'static str;
    /// What triggers it.
    type On: Trigger;
    /// What it emits when done.
    type Emits: Outcome;
    /// What it emits as a business no; [`Never`] when it cannot say no.
    type Rejects: Outcome;
    /// What takes it back; [`Never`] when nothing does.
    type CompensatedOn: Trigger;

    /// True when any of the events of `On` may come and the first one counts: later ones of the same saga are duplicates
    /// then. Otherwise a second trigger needs a person.
    const FIRST_TRIGGER_WINS: bool = false;
    /// The other steps of this participant that must be done before what this one emits goes out: a join of parallel branches.
    /// All of them name each other and emit the same event; whichever is done last emits it, once. Its `run` finds what the others
    /// did in the participant's own tables.
    const JOINS: &'static [&'static str] = &[];
    /// What the step was called before. A saga that knows it by one of these names goes on under that name, with the ids and
    /// idempotency keys that come of it: otherwise a call would be made a second time under another key. New sagas know the new one.
    /// Rows show the name that they go under, and so `saga work --step` is asked for that one.
    ///
    /// An instance that knows only the old name must not run beside one that knows the new one: it would take a saga that the other
    /// has settled for new. Where they have to, deploy the old name first with the new one in this list, then the new name with the
    /// old one in it: the list says what else the step is called, in either direction of time.
    const FORMERLY: &'static [&'static str] = &[];
    /// How long one run, call or compensation may take before it counts as failed.
    const TIMEOUT: Duration = Duration::from_secs(30);
    /// How many calls of an external step one process makes at a time, in each direction. Fifteen times as many may wait for their
    /// turn, leased; what exceeds them waits in the work table, and is no attempt.
    const CALLS_AT_ONCE: usize = 64;

    /// When to try again, and for how long. The default never stops trying.
    fn retry(&self) -> Retry {
        Retry::default()
    }
}

/// A step that works in its participant's own database only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no database step: `Local` is not implemented",
    note = "a step that calls another system implements `External` and is registered with `.external(..)`"
)]
pub trait Local: Step {
    /// Does the step inside the open transaction.
    fn run(&self, on: Self::On, cx: &mut StepContext<'_>) -> impl Future<Output = StepResult<Self>> + Send
    where
        Self: Sized;
}

/// How a database step is taken back.
#[diagnostic::on_unimplemented(
    message = "`{Self}` declares `CompensatedOn` but not how: `Compensate` is not implemented",
    label = "this step says it can be compensated",
    note = "implement `Compensate` for `{Self}`, or declare `type CompensatedOn = Never`"
)]
pub trait Compensate: Step {
    /// What a compensation emits.
    type Compensated: Outcome;

    /// Takes back what `run` recorded for this saga.
    fn compensate(
        &self,
        done: Self::Emits,
        why: Self::CompensatedOn,
        cx: &mut StepContext<'_>,
    ) -> impl Future<Output = MustSucceed<Self::Compensated>> + Send;

    /// The compensation came although nothing was done (it overtook its forward, or the step said no). The chain of
    /// compensations must go on, so this emits like a compensation.
    fn nothing_done(
        &self,
        why: Self::CompensatedOn,
        cx: &mut StepContext<'_>,
    ) -> impl Future<Output = MustSucceed<Self::Compensated>> + Send;
}

#[diagnostic::do_not_recommend]
impl<S: Step<CompensatedOn = Never>> Compensate for S {
    type Compensated = Never;

    async fn compensate(&self, _: S::Emits, why: Never, _: &mut StepContext<'_>) -> MustSucceed<Never> {
        match why {}
    }

    async fn nothing_done(&self, why: Never, _: &mut StepContext<'_>) -> MustSucceed<Never> {
        match why {}
    }
}

/// A step that must not run once its saga is cancelled, but has nothing to take back when it has run: it decides which of the
/// two came first. A cancelling event from outside (a customer changes their mind) is heard by such a step only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no gate: `Gate` is not implemented",
    note = "a step that can be taken back implements `Compensate` and is registered with `.step(..)`"
)]
pub trait Gate: Local {
    /// What closing the gate emits.
    type Compensated: Outcome;

    /// The cancelling event came first: the step will never run.
    fn nothing_done(
        &self,
        why: Self::CompensatedOn,
        cx: &mut StepContext<'_>,
    ) -> impl Future<Output = MustSucceed<Self::Compensated>> + Send;
}

/// A step that calls another system, outside any transaction, and then settles inside one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` calls nothing: `External` is not implemented",
    note = "a step that works in its own database only implements `Local` and is registered with `.step(..)`"
)]
pub trait External: Step {
    /// What the other system answers; kept in the ledger.
    type Reply: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Calls. May be repeated, also at the same time as itself, always with the same [`CallContext::idempotency_key`]. A business
    /// no of the other system is a reply, not an error: an error means that nobody knows.
    fn call(&self, on: &Self::On, cx: &CallContext) -> impl Future<Output = MustSucceed<Self::Reply>> + Send;

    /// Settles the answer inside the open transaction.
    fn run(
        &self,
        on: Self::On,
        reply: Self::Reply,
        cx: &mut StepContext<'_>,
    ) -> impl Future<Output = StepResult<Self>> + Send
    where
        Self: Sized;
}

/// How an external step is taken back: by another call, under a key of its own. There is no other form for it, because a
/// refund made inside a transaction that may run twice is a double refund waiting to happen.
#[diagnostic::on_unimplemented(
    message = "`{Self}` declares `CompensatedOn` but not how: `CompensateExternal` is not implemented",
    label = "this external step says it can be compensated",
    note = "implement `CompensateExternal` for `{Self}`, or declare `type CompensatedOn = Never`"
)]
pub trait CompensateExternal: Step {
    /// What a compensation emits.
    type Compensated: Outcome;
    /// What the other system answers to a reversal.
    type Reversal: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Calls to take back what `run` recorded. May be repeated, always with the same key.
    fn reverse(
        &self,
        done: &Self::Emits,
        why: &Self::CompensatedOn,
        cx: &CallContext,
    ) -> impl Future<Output = MustSucceed<Self::Reversal>> + Send;

    /// Nobody knows whether the call under [`Doubt::forward_key`] took effect, or still will. Must leave that key dead: taken
    /// back if it took effect, refused if it arrives later. Looking it up and finding nothing is no answer, because the
    /// request may still travel.
    fn in_doubt(
        &self,
        on: &Self::On,
        doubt: &Doubt,
        cx: &CallContext,
    ) -> impl Future<Output = MustSucceed<Self::Reversal>> + Send;

    /// Settles the reversal inside the open transaction.
    fn compensate(
        &self,
        reversal: Self::Reversal,
        why: Self::CompensatedOn,
        cx: &mut StepContext<'_>,
    ) -> impl Future<Output = MustSucceed<Self::Compensated>> + Send;

    /// The compensation came before any call was made. See [`Compensate::nothing_done`].
    fn nothing_done(
        &self,
        why: Self::CompensatedOn,
        cx: &mut StepContext<'_>,
    ) -> impl Future<Output = MustSucceed<Self::Compensated>> + Send;
}

#[diagnostic::do_not_recommend]
impl<S: Step<CompensatedOn = Never>> CompensateExternal for S {
    type Compensated = Never;
    type Reversal = ();

    async fn reverse(&self, _: &S::Emits, why: &Never, _: &CallContext) -> MustSucceed<()> {
        match *why {}
    }

    async fn in_doubt(&self, _: &S::On, doubt: &Doubt, _: &CallContext) -> MustSucceed<()> {
        give_up(format!(
            "{} said no after a call of unknown outcome ({} attempts), and cannot close the call's key: \
             implement `CompensateExternal::in_doubt`",
            S::NAME,
            doubt.attempts
        ))
    }

    async fn compensate(&self, (): (), why: Never, _: &mut StepContext<'_>) -> MustSucceed<Never> {
        match why {}
    }

    async fn nothing_done(&self, why: Never, _: &mut StepContext<'_>) -> MustSucceed<Never> {
        match why {}
    }
}

/// What a call knows of itself.
#[derive(Debug, Clone)]
pub struct CallContext {
    pub(crate) saga: SagaId,
    pub(crate) key: IdempotencyKey,
    pub(crate) attempt: u32,
}

impl CallContext {
    /// The saga on whose behalf the call is made.
    pub fn saga(&self) -> SagaId {
        self.saga
    }

    /// The same for every attempt of this call, and for no other call.
    pub fn idempotency_key(&self) -> IdempotencyKey {
        self.key
    }

    /// 1 for the first attempt.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

/// A call of which nobody knows whether it took effect.
#[derive(Debug, Clone)]
pub struct Doubt {
    /// The key that the forward call carried.
    pub forward_key: IdempotencyKey,
    /// How often it was tried.
    pub attempts: u32,
}

/// The open transaction in which a step does its work, and what it may know of the reaction.
#[derive(Debug)]
pub struct StepContext<'t> {
    pub(crate) conn: Conn<'t>,
    pub(crate) saga: SagaId,
    pub(crate) now: i64,
}

impl StepContext<'_> {
    /// The saga that is being played.
    pub fn saga(&self) -> SagaId {
        self.saga
    }

    /// The time of this attempt, in milliseconds since the Unix epoch.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// Runs a statement and returns how many rows it touched. `$1`, `$2` .. work on both engines.
    pub async fn execute<P: Params>(&mut self, sql: &'static str, params: P) -> Result<u64, sqlx::Error> {
        self.conn.execute(sql, params).await
    }

    /// The first row of a query, if there is one.
    pub async fn fetch_optional<T: Row, P: Params>(
        &mut self,
        sql: &'static str,
        params: P,
    ) -> Result<Option<T>, sqlx::Error> {
        self.conn.fetch_optional(sql, params).await
    }

    /// Every row of a query.
    pub async fn fetch_all<T: Row, P: Params>(&mut self, sql: &'static str, params: P) -> Result<Vec<T>, sqlx::Error> {
        self.conn.fetch_all(sql, params).await
    }

    /// The whole sqlx connection, for what the methods above cannot do. Begin and commit nothing on it: the transaction is the
    /// pipeline's.
    pub fn connection(&mut self) -> Conn<'_> {
        self.conn.reborrow()
    }
}
