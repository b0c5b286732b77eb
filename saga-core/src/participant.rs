//! The cast list of one participant, and the one place where steps lose their types.
//!
//! The invariant: no type here sees more than one participant's steps at run time.

use std::{fmt, time::Duration};

use saga_compensation::Kind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    event::{DecodeError, Encoded, EventType, Never, Outcome, Trigger},
    retry::Retry,
    step::{
        BoxError, CallContext, Compensate, CompensateExternal, Doubt, External, Gate, Local, MustSucceed, Step,
        StepContext, Stop,
    },
    transport::BoxFuture,
};

/// A participant: its name and its steps, one line each.
///
/// ```
/// # use saga_core::{Participant, Step, Local, StepContext, StepResult, Never, Event};
/// # #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)] struct Paid {}
/// # impl Event for Paid { const TYPE: &'static str = "shop.paid.v1"; const TOPIC: &'static str = "payment"; }
/// # #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)] struct Shipped {}
/// # impl Event for Shipped { const TYPE: &'static str = "shop.shipped.v1"; const TOPIC: &'static str = "shipping"; }
/// struct ShipOrder;
/// impl Step for ShipOrder {
///     const NAME: &'static str = "ship-order";
///     type On = Paid;
///     type Emits = Shipped;
///     type Rejects = Never;
///     type CompensatedOn = Never;
/// }
/// impl Local for ShipOrder {
///     async fn run(&self, _: Paid, cx: &mut StepContext<'_>) -> StepResult<Self> {
///         cx.execute("INSERT INTO shipments (saga) VALUES ($1)", (cx.saga().to_string(),)).await?;
///         Ok(Shipped {})
///     }
/// }
/// let shipping = Participant::new("shipping").step(ShipOrder);
/// assert!(shipping.check().is_ok());
/// ```
pub struct Participant {
    name: &'static str,
    steps: Vec<Box<dyn Erased>>,
}

impl Participant {
    /// A participant without steps. Its name begins its tables' names: lower-case letters, digits and `-`.
    pub fn new(name: &'static str) -> Self {
        Self { name, steps: Vec::new() }
    }

    /// Adds a step that works in the participant's database only.
    pub fn step<S: Local + Compensate>(self, step: S) -> Self {
        self.cast(AsLocal(step))
    }

    /// Adds a step that calls another system.
    pub fn external<S: External + CompensateExternal>(self, step: S) -> Self {
        self.cast(AsExternal(step))
    }

    /// Adds a step that a cancelling event may forestall, but not take back.
    pub fn gate<S: Gate>(self, step: S) -> Self {
        self.cast(AsGate(step))
    }

    /// Adds a step that starts sagas, by [`Starter::start`](crate::start::Starter::start).
    pub fn start<S: Step<On = Never> + Compensate>(self, step: S) -> Self {
        self.cast(AsStart(step, StepKind::Start))
    }

    /// Adds a step by which a request joins a saga that was started here, by
    /// [`Starter::request`](crate::start::Starter::request).
    pub fn request<S: Step<On = Never> + Compensate>(self, step: S) -> Self {
        self.cast(AsStart(step, StepKind::Request))
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What its steps declare, in their order.
    pub fn contracts(&self) -> Vec<Contract> {
        self.steps.iter().map(|step| step.contract()).collect()
    }

    /// The topics that it listens to, sorted.
    pub fn listens_to(&self) -> Vec<&'static str> {
        sorted(self.contracts().iter().flat_map(|c| c.on.iter().chain(&c.compensated_on)).map(|e| e.topic))
    }

    /// The topics that it publishes on, sorted.
    pub fn publishes_on(&self) -> Vec<&'static str> {
        sorted(self.contracts().iter().flat_map(Contract::published).map(|event| event.topic))
    }

    /// Refuses a cast list that contradicts itself: bad or repeated names, a gate without a cancelling event.
    pub fn check(&self) -> Result<(), Error> {
        crate::store::prefix(self.name)?;
        let wrong = |problem: String| Error::Declaration { participant: self.name.to_owned(), problem };
        let contracts = self.contracts();
        for (i, contract) in contracts.iter().enumerate() {
            let name = contract.name;
            let bad = contract.names().find(|name| {
                name.len() > 64
                    || !name.starts_with(|c: char| c.is_ascii_lowercase())
                    || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            });
            if let Some(bad) = bad {
                return Err(Error::Name { kind: "step", name: crate::envelope::clip(bad, 80).to_owned() });
            }
            if let Some(problem) = ill_named(contract, &contracts[..i]) {
                return Err(wrong(problem));
            }
            if let Some(both) = contract.on.iter().find(|on| contract.compensated_on.contains(on)) {
                return Err(wrong(format!("{name} is triggered and compensated by the same event {}", both.name)));
            }
            if contract.kind == StepKind::Gate && contract.compensated_on.is_empty() {
                return Err(wrong(format!("{name} is a gate, but hears no cancelling event: use `.step(..)`")));
            }
            if contract.kind == StepKind::External && !(1..=10_000).contains(&self.steps[i].calls_at_once()) {
                return Err(wrong(format!("{name} declares `CALLS_AT_ONCE` beyond 1 to 10000")));
            }
            let deaf = contract.kind == StepKind::External && contract.compensated_on.is_empty();
            if deaf && !contract.rejects.is_empty() {
                return Err(wrong(format!(
                    "{name} calls another system and may say no, so a no after a call of unknown outcome must close the call's \
                     key: declare `CompensatedOn` and implement `CompensateExternal`"
                )));
            }
            if let Some(problem) = contract.joins.iter().find_map(|other| ill_joined(contract, other, &contracts)) {
                return Err(wrong(problem));
            }
            for event in contract.published() {
                let clash =
                    contracts.iter().flat_map(Contract::published).find(|e| e.name == event.name && *e != event);
                if let Some(other) = clash {
                    return Err(wrong(format!("{} is declared on {} and on {}", event.name, event.topic, other.topic)));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn steps(&self) -> &[Box<dyn Erased>] {
        &self.steps
    }

    pub(crate) fn cast(mut self, step: impl Erased + 'static) -> Self {
        self.steps.push(Box::new(step));
        self
    }
}

impl fmt::Debug for Participant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Participant").field("name", &self.name).field("steps", &self.contracts()).finish()
    }
}

/// What keeps a step from bearing its names beside those of the steps `before` it in the cast.
fn ill_named(contract: &Contract, before: &[Contract]) -> Option<String> {
    let name = contract.name;
    if before.iter().any(|other| other.name == name) {
        return Some(format!("two steps are called {name}; a ledger row belongs to one step"));
    }
    let twice = contract.names().enumerate().find(|(i, one)| contract.names().take(*i).any(|earlier| earlier == *one));
    if let Some((_, twice)) = twice {
        return Some(format!("{name} names {twice} in `FORMERLY`, which it is already called"));
    }
    let shared = |other: &Contract| contract.names().find(|one| other.names().any(|theirs| theirs == *one));
    let (other, both) = before.iter().find_map(|other| Some((other.name, shared(other)?)))?;
    Some(format!("{other} and {name} both are or were called {both} (`FORMERLY`); a ledger row belongs to one step"))
}

/// What keeps a step from being joined with the step called `other`.
fn ill_joined(contract: &Contract, other: &str, contracts: &[Contract]) -> Option<String> {
    let name = contract.name;
    let Some(other) = contracts.iter().find(|step| step.name == other && step.name != name) else {
        return Some(format!("{name} joins {other}, which is no other step here"));
    };
    let group = |step: &Contract| {
        let mut group: Vec<_> = step.joins.iter().copied().chain([step.name]).collect();
        group.sort_unstable();
        group
    };
    let other_s = other.name;
    if group(contract) != group(other) {
        return Some(format!("{name} joins {other_s}, but the two do not name the same steps in `JOINS`"));
    }
    if contract.emits.is_empty() || contract.emits != other.emits {
        return Some(format!(
            "{name} joins {other_s}, but does not emit the same event: whichever is done last emits it"
        ));
    }
    let started = |step: &Contract| matches!(step.kind, StepKind::Start | StepKind::Request);
    (started(contract) || started(other)).then(|| format!("{name} joins {other_s}, but a request waits for nobody"))
}

fn sorted(topics: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut topics: Vec<_> = topics.collect();
    topics.sort_unstable();
    topics.dedup();
    topics
}

/// How a step joins the cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// [`Participant::start`].
    Start,
    /// [`Participant::request`].
    Request,
    /// [`Participant::step`].
    Local,
    /// [`Participant::external`].
    External,
    /// [`Participant::gate`].
    Gate,
}

impl StepKind {
    /// The word that tables carry.
    pub const fn as_str(self) -> &'static str {
        match self {
            StepKind::Start => "start",
            StepKind::Request => "request",
            StepKind::Local => "local",
            StepKind::External => "external",
            StepKind::Gate => "gate",
        }
    }

    /// How the verdicts take it: what its participant's rows are decided by.
    pub fn verdict_kind(self) -> Kind {
        match self {
            StepKind::Start | StepKind::Request | StepKind::Local => Kind::Local,
            StepKind::External => Kind::External,
            StepKind::Gate => Kind::Gate,
        }
    }
}

/// What a step declares, as a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    /// [`Step::NAME`].
    pub name: &'static str,
    /// How it joined the cast.
    pub kind: StepKind,
    /// [`Step::On`].
    pub on: Vec<EventType>,
    /// [`Step::Emits`].
    pub emits: Vec<EventType>,
    /// [`Step::Rejects`].
    pub rejects: Vec<EventType>,
    /// [`Step::CompensatedOn`].
    pub compensated_on: Vec<EventType>,
    /// What its compensation emits.
    pub compensated: Vec<EventType>,
    /// [`Step::JOINS`].
    pub joins: &'static [&'static str],
    /// [`Step::FORMERLY`].
    pub formerly: &'static [&'static str],
    /// [`Step::FIRST_TRIGGER_WINS`].
    pub first_trigger_wins: bool,
    /// [`Step::retry`].
    pub retry: Retry,
    /// [`Step::TIMEOUT`].
    pub timeout: Duration,
}

impl Contract {
    /// Every name that its rows may carry, the one for new sagas first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.formerly.iter().copied())
    }

    /// Every event type that the step may publish.
    pub fn published(&self) -> impl Iterator<Item = EventType> + '_ {
        self.emits.iter().chain(&self.rejects).chain(&self.compensated).copied()
    }
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) enum Ran {
    Emits(Option<Encoded>),
    Rejects(Option<Encoded>),
    RejectsAfterEffect(Option<Encoded>),
}

/// Why there was no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Try again.
    Retry(BoxError),
    /// The step gave up.
    GiveUp(String),
    /// Bytes that the step cannot read. Trying again would read the same.
    Undecodable(String),
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Failure::Undecodable(chain(&error))
    }
}

/// An error with its sources, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// An event's type and bytes, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire<'a> {
    pub(crate) event_type: &'a str,
    pub(crate) body: &'a [u8],
}

impl<'a> Wire<'a> {
    fn record(self) -> (&'a str, &'a [u8]) {
        (self.event_type, self.body)
    }
}

/// What a compensating call knows of the forward.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Known<'a> {
    /// What `run` recorded, and what takes it back.
    Done { record: Option<Wire<'a>>, why: Wire<'a> },
    /// The trigger of a call of unknown outcome.
    InDoubt { on: Wire<'a>, doubt: &'a Doubt },
}

pub(crate) type Settled<'a, T> = BoxFuture<'a, Result<T, Failure>>;

/// A step without its types.
pub(crate) trait Erased: Send + Sync {
    fn contract(&self) -> Contract;
    fn retry(&self) -> Retry;
    fn timeout(&self) -> Duration;
    fn calls_at_once(&self) -> usize;
    /// Inside the transaction; `reply` for an external step.
    fn run<'a>(&'a self, on: Wire<'a>, reply: Option<&'a [u8]>, cx: &'a mut StepContext<'_>) -> Settled<'a, Ran>;
    /// Outside any transaction.
    fn call<'a>(&'a self, on: Wire<'a>, cx: &'a CallContext) -> Settled<'a, Vec<u8>>;
    /// Outside any transaction.
    fn reverse<'a>(&'a self, known: Known<'a>, cx: &'a CallContext) -> Settled<'a, Vec<u8>>;
    /// Inside the transaction: `from` is the record of a database step, the reversal of an external one.
    fn compensate<'a>(
        &'a self,
        from: Option<Wire<'a>>,
        why: Wire<'a>,
        cx: &'a mut StepContext<'_>,
    ) -> Settled<'a, Option<Encoded>>;
    /// Inside the transaction.
    fn nothing_done<'a>(&'a self, why: Wire<'a>, cx: &'a mut StepContext<'_>) -> Settled<'a, Option<Encoded>>;
}

struct AsLocal<S>(S);
struct AsExternal<S>(S);
struct AsGate<S>(S);
struct AsStart<S>(S, StepKind);

fn contract<S: Step, C: Outcome>(step: &S, kind: StepKind) -> Contract {
    Contract {
        name: S::NAME,
        kind,
        on: S::On::types(),
        emits: S::Emits::types(),
        rejects: S::Rejects::types(),
        compensated_on: S::CompensatedOn::types(),
        compensated: C::types(),
        joins: S::JOINS,
        formerly: S::FORMERLY,
        first_trigger_wins: S::FIRST_TRIGGER_WINS,
        retry: step.retry(),
        timeout: S::TIMEOUT,
    }
}

fn encode<O: Outcome>(outcome: &O) -> Result<Option<Encoded>, Failure> {
    outcome.encode().map_err(|error| Failure::GiveUp(format!("what the step emits cannot be written as JSON: {error}")))
}

fn ran<E: Outcome, R: Outcome>(result: Result<E, Stop<R>>) -> Result<Ran, Failure> {
    match result {
        Ok(done) => encode(&done).map(Ran::Emits),
        Err(Stop::Reject(no)) => encode(&no).map(Ran::Rejects),
        Err(Stop::RejectAfterEffect(no)) => encode(&no).map(Ran::RejectsAfterEffect),
        Err(Stop::Retry(error)) => Err(Failure::Retry(error)),
        Err(Stop::GiveUp(why)) => Err(Failure::GiveUp(why)),
    }
}

fn succeeded<T>(result: MustSucceed<T>) -> Result<T, Failure> {
    match result {
        Ok(value) => Ok(value),
        Err(Stop::Reject(no) | Stop::RejectAfterEffect(no)) => match no {},
        Err(Stop::Retry(error)) => Err(Failure::Retry(error)),
        Err(Stop::GiveUp(why)) => Err(Failure::GiveUp(why)),
    }
}

pub(crate) fn json<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::Undecodable(format!("the {what} cannot be read: {error}")))
}

pub(crate) fn to_json<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value).map_err(|error| Failure::GiveUp(format!("the {what} cannot be written: {error}")))
}

/// The answer to a question that the pipeline never asks of this kind of step.
fn never_asked<T: Send>(question: &'static str) -> BoxFuture<'static, Result<T, Failure>> {
    Box::pin(
        async move { Err(Failure::GiveUp(format!("this kind of step has no `{question}`: a bug in the toolkit"))) },
    )
}

macro_rules! declared {
    ($kind:expr, $compensated:ty) => {
        declared!($compensated);
        fn contract(&self) -> Contract {
            contract::<S, $compensated>(&self.0, $kind)
        }
    };
    ($compensated:ty) => {
        fn retry(&self) -> Retry {
            self.0.retry()
        }
        fn timeout(&self) -> Duration {
            S::TIMEOUT
        }
        fn calls_at_once(&self) -> usize {
            S::CALLS_AT_ONCE
        }
    };
}

macro_rules! runs_locally {
    () => {
        fn run<'a>(&'a self, on: Wire<'a>, _: Option<&'a [u8]>, cx: &'a mut StepContext<'_>) -> Settled<'a, Ran> {
            Box::pin(async move { ran(self.0.run(S::On::decode(on.event_type, on.body)?, cx).await) })
        }
    };
}

macro_rules! calls_nobody {
    () => {
        fn call<'a>(&'a self, _: Wire<'a>, _: &'a CallContext) -> Settled<'a, Vec<u8>> {
            never_asked("call")
        }
        fn reverse<'a>(&'a self, _: Known<'a>, _: &'a CallContext) -> Settled<'a, Vec<u8>> {
            never_asked("reverse")
        }
    };
}

macro_rules! nothing_done {
    () => {
        fn nothing_done<'a>(&'a self, why: Wire<'a>, cx: &'a mut StepContext<'_>) -> Settled<'a, Option<Encoded>> {
            Box::pin(async move {
                let why = S::CompensatedOn::decode(why.event_type, why.body)?;
                encode(&succeeded(self.0.nothing_done(why, cx).await)?)
            })
        }
    };
}

macro_rules! compensates_locally {
    () => {
        fn compensate<'a>(
            &'a self,
            from: Option<Wire<'a>>,
            why: Wire<'a>,
            cx: &'a mut StepContext<'_>,
        ) -> Settled<'a, Option<Encoded>> {
            Box::pin(async move {
                let done = S::Emits::recorded(from.map(Wire::record))?;
                let why = S::CompensatedOn::decode(why.event_type, why.body)?;
                encode(&succeeded(self.0.compensate(done, why, cx).await)?)
            })
        }
    };
}

impl<S: Local + Compensate> Erased for AsLocal<S> {
    declared!(StepKind::Local, S::Compensated);
    runs_locally!();
    calls_nobody!();
    compensates_locally!();
    nothing_done!();
}

impl<S: Gate> Erased for AsGate<S> {
    declared!(StepKind::Gate, S::Compensated);
    runs_locally!();
    calls_nobody!();
    nothing_done!();

    fn compensate<'a>(
        &'a self,
        _: Option<Wire<'a>>,
        _: Wire<'a>,
        _: &'a mut StepContext<'_>,
    ) -> Settled<'a, Option<Encoded>> {
        never_asked("compensate")
    }
}

impl<S: Step<On = Never> + Compensate> Erased for AsStart<S> {
    declared!(S::Compensated);
    calls_nobody!();
    compensates_locally!();
    nothing_done!();

    fn contract(&self) -> Contract {
        contract::<S, S::Compensated>(&self.0, self.1)
    }

    fn run<'a>(&'a self, _: Wire<'a>, _: Option<&'a [u8]>, _: &'a mut StepContext<'_>) -> Settled<'a, Ran> {
        never_asked("run")
    }
}

impl<S: External + CompensateExternal> Erased for AsExternal<S> {
    declared!(StepKind::External, S::Compensated);
    nothing_done!();

    fn run<'a>(&'a self, on: Wire<'a>, reply: Option<&'a [u8]>, cx: &'a mut StepContext<'_>) -> Settled<'a, Ran> {
        Box::pin(async move {
            let reply = json("reply", reply.unwrap_or(b"null"))?;
            ran(self.0.run(S::On::decode(on.event_type, on.body)?, reply, cx).await)
        })
    }

    fn call<'a>(&'a self, on: Wire<'a>, cx: &'a CallContext) -> Settled<'a, Vec<u8>> {
        Box::pin(async move {
            let on = S::On::decode(on.event_type, on.body)?;
            to_json("reply", &succeeded(self.0.call(&on, cx).await)?)
        })
    }

    fn reverse<'a>(&'a self, known: Known<'a>, cx: &'a CallContext) -> Settled<'a, Vec<u8>> {
        Box::pin(async move {
            let reversal = match known {
                Known::Done { record, why } => {
                    let done = S::Emits::recorded(record.map(Wire::record))?;
                    let why = S::CompensatedOn::decode(why.event_type, why.body)?;
                    self.0.reverse(&done, &why, cx).await
                }
                Known::InDoubt { on, doubt } => {
                    self.0.in_doubt(&S::On::decode(on.event_type, on.body)?, doubt, cx).await
                }
            };
            to_json("reversal", &succeeded(reversal)?)
        })
    }

    fn compensate<'a>(
        &'a self,
        from: Option<Wire<'a>>,
        why: Wire<'a>,
        cx: &'a mut StepContext<'_>,
    ) -> Settled<'a, Option<Encoded>> {
        Box::pin(async move {
            let reversal = json("reversal", from.map_or(b"null".as_slice(), |wire| wire.body))?;
            let why = S::CompensatedOn::decode(why.event_type, why.body)?;
            encode(&succeeded(self.0.compensate(reversal, why, cx).await)?)
        })
    }
}
