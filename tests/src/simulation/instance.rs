//! One process of a participant, moved step by step: what it is in the middle of, whether it sleeps, and how it dies.
//!
//! The invariant: one future is polled at a time, and it stops only where it is done, dead, asleep, or waits for the gateway. So
//! the databases' threads never run beside each other, and the same seed is the same run.

use std::{
    collections::BTreeMap,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use saga_core::{
    harness::{Hook, Point},
    id::{EventId, SagaId},
    node::{Answered, Keeping, Outgoing, Publishing, Settling, Sweeping},
    observer::{Emission, Observer, Outcome, Phase, Reaction, ReactionSpan},
    step::Direction,
    timeline::short,
    transport::BoxFuture,
};

use super::{
    chance::Fault,
    customer::Reply,
    ether::{Effect, Ether, Membership},
};

/// One process as the driver holds it.
#[derive(Debug)]
pub(super) struct Instance {
    /// Of which participant.
    pub(super) participant: &'static str,
    /// What logs and faults call it.
    pub(super) control: Arc<Control>,
    /// What is there while it lives.
    pub(super) alive: Option<Alive>,
}

/// A living process.
pub(super) struct Alive {
    /// Idle, or in a task.
    pub(super) settling: Option<Settling>,
    /// Idle, or in a task.
    pub(super) publishing: Option<Publishing>,
    /// Sweeps are tasks that share it.
    pub(super) sweeping: Arc<Sweeping>,
    /// Forgets old sagas.
    pub(super) keeping: Keeping,
    /// What is under way.
    pub(super) tasks: Vec<Task>,
    /// Answers that the next batch takes along.
    pub(super) answers: Vec<Answered>,
    /// Something may have come since it last found nothing to do.
    pub(super) expects: bool,
    /// Something may wait for the broker.
    pub(super) owes: bool,
    /// A sweep is due.
    pub(super) sweeps: bool,
    /// Its place in the group.
    pub(super) membership: Membership,
}

/// Something that an instance is in the middle of.
pub(super) struct Task {
    /// Names it.
    pub(super) id: u64,
    /// False while it waits for the gateway.
    pub(super) ready: bool,
    /// Its rest.
    pub(super) work: Work,
}

/// A future that is moved by hand.
pub(super) type Rest<T> = Pin<Box<dyn Future<Output = T>>>;

/// The kinds of tasks.
pub(super) enum Work {
    /// A batch.
    Settle(Rest<(Settling, Vec<Outgoing>, Result<bool, saga_core::Error>)>),
    /// What was committed goes out.
    Publish(Rest<(Publishing, bool)>),
    /// What a crash left goes out.
    Sweep(Rest<Result<usize, saga_core::Error>>),
    /// A call.
    Call(Rest<Answered>),
    /// A customer's request, by the number of the order.
    Ask(usize, Rest<Reply>),
}

/// What a task came to.
pub(super) enum Done {
    /// A batch.
    Settled(Settling, Vec<Outgoing>, Result<bool, saga_core::Error>),
    /// What was committed is out; whether there was anything.
    Published(Publishing, bool),
    /// What a crash left is out.
    Swept(Result<usize, saga_core::Error>),
    /// A call was answered, or failed.
    Answered(Answered),
    /// A customer has a reply.
    Replied(usize, Reply),
}

/// Where a task stopped.
pub(super) enum Stopped {
    /// At its end.
    Done(Box<Done>),
    /// Its process died.
    Crashed,
    /// Its process sleeps.
    Asleep,
    /// For the gateway.
    Waits,
}

impl Work {
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Done> {
        match self {
            Work::Settle(rest) => {
                rest.as_mut().poll(cx).map(|(part, calls, result)| Done::Settled(part, calls, result))
            }
            Work::Publish(rest) => rest.as_mut().poll(cx).map(|(part, busy)| Done::Published(part, busy)),
            Work::Sweep(rest) => rest.as_mut().poll(cx).map(Done::Swept),
            Work::Call(rest) => rest.as_mut().poll(cx).map(Done::Answered),
            Work::Ask(order, rest) => rest.as_mut().poll(cx).map(|reply| Done::Replied(*order, reply)),
        }
    }

    /// For the journal.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Work::Settle(_) => "settles",
            Work::Publish(_) => "publishes",
            Work::Sweep(_) => "sweeps",
            Work::Call(_) => "calls",
            Work::Ask(..) => "serves a customer",
        }
    }
}

impl Task {
    /// Moves it as far as it goes.
    pub(super) async fn go_on(&mut self, control: &Control) -> Stopped {
        control.enter(self.id);
        poll_fn(|cx| {
            if let Poll::Ready(done) = self.work.poll(cx) {
                return Poll::Ready(Stopped::Done(Box::new(done)));
            }
            let mut state = control.state();
            if state.crashed {
                Poll::Ready(Stopped::Crashed)
            } else if state.asleep_until.is_some() {
                Poll::Ready(Stopped::Asleep)
            } else if std::mem::take(&mut state.waits) {
                Poll::Ready(Stopped::Waits)
            } else {
                Poll::Pending // For its database, whose thread wakes us.
            }
        })
        .await
    }
}

impl fmt::Debug for Alive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alive").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

/// A reaction whose transaction has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reacted {
    /// Whose.
    pub(super) saga: SagaId,
    /// With which step.
    pub(super) step: String,
    /// Which way.
    pub(super) direction: Direction,
    /// To which event.
    pub(super) event: Option<EventId>,
    /// What became of it.
    pub(super) outcome: Outcome,
}

/// Decides what becomes of an instance at each point, and sees what it does.
#[derive(Debug)]
pub(super) struct Control {
    /// Such as `payment#2`; the same before and after a crash.
    pub(super) name: String,
    ether: Ether,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    crashed: bool,
    asleep_until: Option<i64>,
    waits: bool,
    task: u64,
    reached: BTreeMap<Point, u64>,
    steps: BTreeMap<(String, Direction), u64>,
    /// Of the transaction that is open.
    emitted: Vec<Effect>,
    reacted: Vec<Reacted>,
    slept: bool,
}

impl Control {
    /// Of an instance that is awake.
    pub(super) fn new(name: String, ether: Ether) -> Self {
        Self { name, ether, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, task: u64) {
        let mut state = self.state();
        state.task = task;
        state.waits = false;
    }

    /// The task that is being moved waits for the gateway; its name.
    pub(super) fn waits(&self) -> u64 {
        let mut state = self.state();
        state.waits = true;
        state.task
    }

    /// Until when it sleeps.
    pub(super) fn asleep_until(&self) -> Option<i64> {
        self.state().asleep_until
    }

    /// It goes on.
    pub(super) fn wake(&self) {
        self.state().asleep_until = None;
    }

    /// A new process in its place.
    pub(super) fn revive(&self) {
        let mut state = self.state();
        state.crashed = false;
        state.asleep_until = None;
        state.emitted.clear();
        state.reacted.clear();
        state.slept = false;
    }

    /// A batch was held up on its way.
    pub(super) fn slept(&self) {
        self.state().slept = true;
    }

    /// What was settled since this was last asked, and whether others may have come in between.
    pub(super) fn reacted(&self) -> (Vec<Reacted>, bool) {
        let mut state = self.state();
        (std::mem::take(&mut state.reacted), std::mem::take(&mut state.slept))
    }

    fn decide(&self, point: Point) {
        let nth = {
            let mut state = self.state();
            match point {
                Point::Begun => state.emitted.clear(),
                Point::Committed | Point::AfterStartCommit => {
                    let emitted = std::mem::take(&mut state.emitted);
                    emitted.into_iter().for_each(|effect| self.ether.commit(effect));
                }
                _ => {}
            }
            let nth = state.reached.entry(point).or_default();
            *nth += 1;
            *nth
        };
        let name = &self.name;
        // Where one saga's fate is decided, and not a whole batch's: rarely reached, and worth more.
        let weight = match point {
            Point::BeforeCall | Point::AfterCall => 12,
            Point::BeforeStartCommit | Point::AfterStartCommit | Point::Swept => 8,
            _ => 1,
        };
        if self.ether.strikes_more(Fault::Crash, weight, format_args!("{name} {point} ({nth})")).is_some() {
            self.state().crashed = true;
            self.ether.state().seen.insert(format!("crash at {point}"));
        } else if point.in_transaction() {
            // Whoever is held up inside a transaction holds everybody up, which is the same as nobody moving.
        } else if let Some(force) =
            self.ether.strikes_more(Fault::Sleep, weight, format_args!("{name} {point} ({nth})"))
        {
            // Beyond the session (10 s) always, beyond a lease (45 s) often.
            let wakes = self.ether.clock.now() + 11_000 + (force % 90_000).cast_signed();
            self.state().asleep_until = Some(wakes);
        } else if let Some(force) = self.ether.strikes(Fault::Pause, format_args!("{name} {point} ({nth})")) {
            let wakes = self.ether.clock.now() + 1 + (force % 200).cast_signed();
            self.state().asleep_until = Some(wakes);
        }
    }
}

/// A handle that core and steps hold: the same control.
#[derive(Debug)]
pub(super) struct Reins(pub(super) Arc<Control>);

impl Hook for Reins {
    fn reach(&self, point: Point) -> BoxFuture<'_, ()> {
        self.0.decide(point);
        Box::pin(poll_fn(|_| {
            let state = self.0.state();
            // Nobody wakes this: the driver polls again when the instance may go on, and never when it has died.
            if state.crashed || state.asleep_until.is_some() { Poll::Pending } else { Poll::Ready(()) }
        }))
    }

    fn loses_commit(&self) -> bool {
        let nth = self.0.state().reached.get(&Point::Committed).copied().unwrap_or_default();
        let name = &self.0.name;
        self.0.ether.strikes(Fault::CommitUnknown, format_args!("{name} ({nth})")).is_some()
    }

    fn fails(&self, step: &str, direction: Direction) -> bool {
        let nth = {
            let mut state = self.0.state();
            let nth = state.steps.entry((step.to_owned(), direction)).or_default();
            *nth += 1;
            *nth
        };
        let name = &self.0.name;
        let weight = if direction == Direction::Compensation { 5 } else { 1 };
        let what = format_args!("{name} {step} {direction} ({nth})");
        self.0.ether.strikes_more(Fault::StepFails, weight, what).is_some()
    }
}

impl Observer for Reins {
    fn reaction(&self, reaction: &Reaction<'_>) -> Box<dyn ReactionSpan> {
        if reaction.position.is_none() && reaction.phase == Phase::Settle {
            self.0.state().emitted.clear(); // A request: it has no point at its beginning.
        }
        let on = reaction.event_type.map(short);
        let reacted = Reacted {
            saga: reaction.saga,
            step: reaction.step.to_owned(),
            direction: reaction.direction,
            // A request is no reaction: it waits behind nothing.
            event: reaction.event.filter(|_| reaction.position.is_some()).cloned(),
            outcome: Outcome::Answered,
        };
        Box::new(Seen { control: Arc::clone(&self.0), reacted, on, attempt: reaction.attempt, emitted: None })
    }
}

struct Seen {
    control: Arc<Control>,
    reacted: Reacted,
    on: Option<String>,
    attempt: u32,
    emitted: Option<String>,
}

impl ReactionSpan for Seen {
    fn emit(&mut self, emission: &Emission<'_>) -> Option<saga_core::envelope::TraceContext> {
        let Reacted { saga, step, .. } = &self.reacted;
        let participant = self.control.name.split('#').next().unwrap_or_default();
        let forward = EventId::derive(*saga, participant, step, Direction::Forward, emission.event_type);
        // A no that waited for its key to be closed is still the forward's.
        let direction = if forward == *emission.id { Direction::Forward } else { Direction::Compensation };
        let (saga, step, id) = (*saga, step.clone(), emission.id.clone());
        self.control.state().emitted.push(Effect { saga, step, direction, id });
        self.emitted = Some(short(emission.event_type));
        None
    }

    fn settle(self: Box<Self>, outcome: &Outcome, _: Duration) {
        let Self { control, mut reacted, on, attempt, emitted } = *self;
        let Reacted { saga, step, direction, .. } = &reacted;
        let (on, name) = (on.unwrap_or_default(), &control.name);
        let emitted = emitted.map(|event| format!(" -> {event}")).unwrap_or_default();
        let why = match outcome {
            Outcome::Deferred(why) | Outcome::Stuck(why) => format!(": {why}"),
            _ => String::new(),
        };
        let what = outcome.as_str();
        control
            .ether
            .log(format_args!("{name} {step} {direction} {on} of {saga} attempt {attempt}: {what}{why}{emitted}"));
        control.ether.state().seen.insert(format!("{step} {direction} {what}"));
        reacted.outcome = outcome.clone();
        control.state().reacted.push(reacted);
    }
}
