//! The driver: whose turn it is, what arrives when, who dies and who is started again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result};
use saga_core::{
    clock::Clock,
    envelope::Message,
    harness::{Harness, Rule},
    id::{ReactionId, SagaId},
    node::{Node, Outgoing, Settling},
    observer::Outcome,
    start::{StartKey, Started},
    step::Direction,
    store::{Store, WorkRow},
    transport::memory::{Faults, MemoryBroker},
};
use saga_services::{
    gateway::{Behaviour, Gateway},
    order::{self, NewOrder},
    payment, service, shipping,
};
use tokio::sync::oneshot;

use super::{
    BEGIN, Play, Played, Violation,
    cast::{self, CancelRequested},
    chance::{Chance, Fault, Random},
    ether::{CALL_TIMEOUT, Calls, Ether, Listens, Publishes, Request},
    instance::{Alive, Control, Done, Instance, Reacted, Reins, Stopped, Task, Work},
};
use crate::stage::{PARTICIPANTS, TOPICS};

/// Faults strike for so long, in milliseconds; orders are placed in the first third of it.
const UNREST: i64 = 180_000;
/// When faults have stopped, everything ends within so long: some leases (45 s), some of the longest waits between attempts (60 s),
/// and the slowest requests (130 s).
const PEACE: i64 = 30 * 60_000;
/// Steps that one order may take at most, on average, before somebody spins.
const STEPS: usize = 20_000;
/// How often everybody looks for due work while there is something to do, in milliseconds.
const DUE_EVERY: i64 = 100;

/// Who plays what: payment twice, in one group and on one database.
const INSTANCES: [(&str, &str); 4] =
    [("order", "order#1"), ("payment", "payment#1"), ("payment", "payment#2"), ("shipping", "shipping#1")];

/// What happens at a time.
enum Timed {
    Place(usize),
    Cancel(usize),
    Readable(Box<Message>),
    Arrives(Box<Request>, bool),
    Answers(oneshot::Sender<Result<Vec<u8>, String>>, u64, Result<Vec<u8>, String>),
    Start(usize),
    Expel(usize),
    Rebalance(u32),
    Sweep(usize),
    Heal,
}

/// What can be done next.
#[derive(Clone, Copy)]
enum Choice {
    GoOn(usize, usize),
    Settle(usize),
    Publish(usize),
    Sweep(usize),
}

/// An order of a customer.
pub(super) struct Asked {
    pub(super) new: NewOrder,
    pub(super) saga: Option<SagaId>,
    pub(super) order: Option<String>,
}

pub(super) struct World<'p> {
    pub(super) play: &'p Play,
    pub(super) ether: Ether,
    pub(super) gateway: Gateway,
    pub(super) stores: BTreeMap<&'static str, Store>,
    pub(super) asked: Vec<Asked>,
    /// The gateway forgets its refusals.
    pub(super) forgets: bool,
    /// Payment never gives up.
    patient: bool,
    instances: Vec<Instance>,
    timed: BTreeMap<(i64, u64), Timed>,
    counter: u64,
    random: Random,
    /// What waited at each participant when its last batch had been settled.
    waiting: BTreeMap<&'static str, Vec<Waits>>,
    looked: i64,
    deadline: i64,
}

/// A row of the work table.
struct Waits {
    id: ReactionId,
    saga: SagaId,
    step: String,
    direction: Direction,
    seq: i64,
    blocks: bool,
}

/// See [`super::play`].
pub(super) async fn play(play: &Play) -> Result<Played> {
    let mut world = World::new(play).await?;
    world.run().await?;
    world.close().await
}

impl<'p> World<'p> {
    async fn new(play: &'p Play) -> Result<World<'p>> {
        let chance = Chance::new(play.seed, play.faults());
        let (forgets, patient) = (chance.of_seed("forgets") % 3 == 0, chance.of_seed("patient") % 3 != 0);
        let mut random = Random::new(chance.of_seed("turns"));
        let faults = Faults { seed: chance.of_seed("order of deliveries"), reorder: true, ..Faults::default() };
        let broker = MemoryBroker::with_faults(&TOPICS.map(|topic| (topic, 3)), faults);
        let clock = Clock::manual(BEGIN, chance.of_seed("ids"));
        let behaviour = Behaviour { forget_refusals: forgets, ..Behaviour::default() };
        let gateway = Gateway::open("sqlite::memory:", behaviour).await?;
        let mut stores = BTreeMap::new();
        for (name, schema) in PARTICIPANTS.into_iter().zip([order::SCHEMA, payment::SCHEMA, shipping::SCHEMA]) {
            let store = Store::connect("sqlite::memory:", name).await?;
            store.migrate().await?;
            service::create_tables(&store, schema).await?;
            stores.insert(name, store);
        }
        let ether = Ether::new(broker, clock, chance);
        let instances = INSTANCES.map(|(participant, name)| Instance {
            participant,
            control: Arc::new(Control::new(name.to_owned(), ether.clone())),
            alive: None,
        });
        let asked = (0..play.sagas).map(|_| Asked { new: new_order(&mut random), saga: None, order: None }).collect();
        let mut world = World {
            play,
            ether,
            gateway,
            stores,
            asked,
            forgets,
            patient,
            instances: instances.into(),
            timed: BTreeMap::new(),
            counter: 0,
            random,
            waiting: BTreeMap::new(),
            looked: 0,
            deadline: UNREST + PEACE,
        };
        for order in 0..play.sagas {
            let at = world.random.below(UNREST as usize / 3) as i64;
            if play.places(order) {
                world.at(at, Timed::Place(order));
            }
        }
        world.at(UNREST, Timed::Heal);
        world.at(5_000, Timed::Rebalance(0));
        for instance in 0..world.instances.len() {
            world.start(instance).await?;
        }
        Ok(world)
    }

    fn at(&mut self, at: i64, what: Timed) {
        self.counter += 1;
        self.timed.insert((at, self.counter), what);
    }

    fn after(&mut self, wait: i64, what: Timed) {
        self.at(self.ether.now() + wait, what);
    }

    fn advance(&self, millis: i64) {
        self.ether.clock.advance(std::time::Duration::from_millis(millis.max(0).unsigned_abs()));
    }

    // ---- the loop --------------------------------------------------------------------------------------------------------

    /// Until nothing moves any more, a person has looked after what was stuck, and nothing moves again.
    async fn run(&mut self) -> Result<()> {
        let mut steps = STEPS * (self.play.sagas + 10) / 10;
        let mut rounds = 0;
        while self.ether.state().violation.is_none() {
            if steps == 0 || self.ether.now() > self.deadline {
                let left = self.left().await?;
                self.ether.violated(
                    "liveness",
                    left.0,
                    format!("not everything has ended long after the last fault: {}", left.1),
                );
                return Ok(());
            }
            steps -= 1;
            self.happen().await?;
            let choices = self.choices();
            if let Some(choice) = choices.get(self.random.below(choices.len())).copied() {
                self.act(choice).await?;
                let pause = self.random.below(8) as i64;
                self.advance(pause);
            } else if let Some(next) = self.next().await? {
                self.advance(next - self.ether.now());
            } else if rounds == 0 {
                rounds += 1;
                self.deadline = self.ether.now() + PEACE;
                self.person().await?;
            } else if rounds == 1 && self.play.seed.is_multiple_of(4) {
                // Whatever came, comes once more: optional, because it would mend what only a redelivery mends.
                rounds += 1;
                self.check().await?;
                let events: Vec<_> = TOPICS.iter().flat_map(|topic| self.ether.broker.messages(topic)).collect();
                for delivery in events {
                    let headers: Vec<_> = delivery.headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
                    self.ether.broker.inject(&delivery.topic, delivery.key.as_deref(), &headers, &delivery.body);
                }
                self.expect();
            } else {
                return self.check().await;
            }
        }
        Ok(())
    }

    /// The next moment at which something happens by itself.
    async fn next(&mut self) -> Result<Option<i64>> {
        let mut next = self.timed.first_key_value().map(|((at, _), _)| *at);
        let mut least = |at: i64| next = Some(next.map_or(at, |other| other.min(at)));
        for instance in self.instances.iter().filter(|instance| instance.alive.is_some()) {
            if let Some(wakes) = instance.control.asleep_until() {
                least(wakes - BEGIN);
            }
        }
        let now = self.ether.now();
        for (name, store) in &self.stores {
            let awake = |instance: &&mut Instance| {
                instance.participant == *name
                    && instance.control.asleep_until().is_none()
                    && instance.alive.as_ref().is_some_and(|alive| alive.settling.is_some())
            };
            let mut awake = self.instances.iter_mut().filter(awake).peekable();
            if awake.peek().is_none() {
                continue;
            }
            if let Some(due) = store.work_next_due().await? {
                least((due - BEGIN).max(now));
                if due - BEGIN <= now {
                    awake.filter_map(|instance| instance.alive.as_mut()).for_each(|alive| alive.expects = true);
                }
            }
        }
        Ok(next)
    }

    fn choices(&mut self) -> Vec<Choice> {
        let now = self.ether.now();
        if now - self.looked >= DUE_EVERY {
            self.looked = now;
            self.expect();
        }
        let mut choices = Vec::new();
        for (i, instance) in self.instances.iter().enumerate() {
            let Some(alive) = &instance.alive else { continue };
            match instance.control.asleep_until() {
                Some(wakes) if wakes - BEGIN > now => continue,
                Some(_) => instance.control.wake(),
                None => {}
            }
            choices.extend((0..alive.tasks.len()).filter(|t| alive.tasks[*t].ready).map(|t| Choice::GoOn(i, t)));
            if alive.settling.is_some() && (alive.expects || !alive.answers.is_empty()) {
                choices.push(Choice::Settle(i));
            }
            if alive.publishing.is_some() && alive.owes {
                choices.push(Choice::Publish(i));
            }
            if alive.sweeps {
                choices.push(Choice::Sweep(i));
            }
        }
        choices
    }

    /// Somebody may have something to do.
    fn expect(&mut self) {
        for alive in self.instances.iter_mut().filter_map(|instance| instance.alive.as_mut()) {
            alive.expects = true;
        }
    }

    // ---- what an instance does --------------------------------------------------------------------------------------------

    async fn act(&mut self, choice: Choice) -> Result<()> {
        self.counter += 1;
        let id = self.counter;
        let messages = [1, 2, 5, 500][self.random.below(4)];
        let (i, work) = match choice {
            Choice::GoOn(i, t) => {
                let alive = self.instances[i].alive.as_mut().context("a task of a dead instance")?;
                let task = alive.tasks.remove(t);
                return self.go_on(i, task).await;
            }
            Choice::Settle(i) => {
                let alive = self.instances[i].alive.as_mut().context("a dead instance")?;
                let answers = std::mem::take(&mut alive.answers);
                let mut part = alive.settling.take().context("a batch is being settled")?;
                let work = async move {
                    let (calls, result) = part.turn(answers, messages).await;
                    (part, calls, result)
                };
                (i, Work::Settle(Box::pin(work)))
            }
            Choice::Publish(i) => {
                let alive = self.instances[i].alive.as_mut().context("a dead instance")?;
                let mut part = alive.publishing.take().context("it is publishing")?;
                let work = async move {
                    let busy = part.turn().await;
                    (part, busy)
                };
                (i, Work::Publish(Box::pin(work)))
            }
            Choice::Sweep(i) => {
                let alive = self.instances[i].alive.as_mut().context("a dead instance")?;
                alive.sweeps = false;
                let part = Arc::clone(&alive.sweeping);
                (i, Work::Sweep(Box::pin(async move { part.turn().await })))
            }
        };
        self.go_on(i, Task { id, ready: true, work }).await
    }

    async fn go_on(&mut self, i: usize, mut task: Task) -> Result<()> {
        let control = Arc::clone(&self.instances[i].control);
        let stopped = task.go_on(&control).await;
        self.under_way();
        let participant = self.instances[i].participant;
        match stopped {
            Stopped::Crashed => {
                drop(task);
                self.instances[i].alive = None;
                let wait = 50 + self.random.below(15_000) as i64;
                self.after(wait, Timed::Start(i));
                self.look_at_work(participant).await?;
            }
            Stopped::Asleep | Stopped::Waits => {
                let settles = matches!(task.work, Work::Settle(_));
                task.ready = matches!(stopped, Stopped::Asleep);
                if settles {
                    // What it has committed is told when it goes on, and others may have come in between.
                    self.look_at_work(participant).await?;
                    control.slept();
                }
                if let Some(wakes) = control.asleep_until().filter(|wakes| wakes - BEGIN > self.ether.now() + 10_000) {
                    self.ether.log(format_args!(
                        "{} sleeps while it {} until {}",
                        control.name,
                        task.work.name(),
                        super::chance::seconds(wakes - BEGIN)
                    ));
                    self.after(10_000, Timed::Expel(i));
                }
                if let Some(alive) = &mut self.instances[i].alive {
                    alive.tasks.push(task);
                }
            }
            Stopped::Done(done) => self.done(i, *done).await?,
        }
        Ok(())
    }

    async fn done(&mut self, i: usize, done: Done) -> Result<()> {
        match done {
            Done::Settled(part, calls, result) => self.settled(i, part, calls, result).await?,
            Done::Published(part, busy) => {
                if let Some(alive) = &mut self.instances[i].alive {
                    alive.publishing = Some(part);
                    alive.owes = busy;
                }
                if busy {
                    self.expect();
                }
            }
            Done::Swept(result) => {
                let participant = self.instances[i].participant;
                if result.is_ok_and(|rows| rows > 0) {
                    self.expect();
                }
                if self.stores[participant].outbox_len().await? > 0 {
                    self.sweep_later(i);
                }
            }
            Done::Answered(answer) => {
                if let Some(alive) = &mut self.instances[i].alive {
                    alive.answers.push(answer);
                }
            }
            Done::Started(order, result) => {
                if let Some(alive) = &mut self.instances[i].alive {
                    alive.owes = true;
                }
                self.sweep_later(i);
                self.placed(order, result);
            }
        }
        Ok(())
    }

    async fn settled(
        &mut self,
        i: usize,
        part: Settling,
        calls: Vec<Outgoing>,
        result: Result<bool, saga_core::Error>,
    ) -> Result<()> {
        let participant = self.instances[i].participant;
        let name = self.instances[i].control.name.clone();
        let begin = self.counter;
        self.counter += calls.len() as u64;
        let Some(alive) = &mut self.instances[i].alive else { return Ok(()) };
        alive.settling = Some(part);
        alive.owes = true;
        alive.expects = !matches!(result, Ok(false));
        for (call, id) in calls.into_iter().zip(begin + 1..) {
            alive.tasks.push(Task { id, ready: true, work: Work::Call(Box::pin(call.make())) });
        }
        match result {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error @ saga_core::Error::Transition { .. }) => {
                self.ether.violated("expected states", None, format!("{name}: {error}"));
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                self.ether.violated("a node stops", None, format!("{name}: {error}"));
            }
        }
        self.sweep_later(i);
        let (reacted, slept) = self.instances[i].control.reacted();
        if !slept {
            self.overtaken(participant, &reacted);
        }
        self.look_at_work(participant).await
    }

    fn sweep_later(&mut self, i: usize) {
        let participant = self.instances[i].participant;
        let queued =
            |what: &Timed| matches!(what, Timed::Sweep(other) if self.instances[*other].participant == participant);
        if !self.timed.values().any(queued) {
            let wait = 5_100 + self.random.below(4_000) as i64;
            self.after(wait, Timed::Sweep(i));
        }
    }

    /// Nobody ran although an earlier reaction of the same saga waits.
    fn overtaken(&mut self, participant: &'static str, reacted: &[Reacted]) {
        let waiting = self.waiting.entry(participant).or_default();
        for Reacted { saga, step, direction, event, outcome } in reacted {
            let Some(event) = event else { continue };
            let id = ReactionId::derive(*saga, step, *direction, event);
            let own = waiting.iter().find(|row| row.id == id).map(|row| row.seq);
            let ran = matches!(outcome, Outcome::Emitted | Outcome::Rejected | Outcome::Called);
            let waits = matches!(outcome, Outcome::Deferred(_) | Outcome::Parked | Outcome::Stuck(_) | Outcome::Called);
            let before = waiting
                .iter()
                .find(|row| row.saga == *saga && row.blocks && row.id != id && own.is_none_or(|own| row.seq < own));
            if let Some(before) = before.filter(|_| ran && *direction == Direction::Forward) {
                let text =
                    format!("{participant}: {step} ran although {} {} waits before it", before.step, before.direction);
                self.ether.violated("parked in order", Some(*saga), text);
                return;
            }
            waiting.retain(|row| {
                let closed =
                    *direction == Direction::Compensation && !matches!(outcome, Outcome::Parked | Outcome::Deferred(_));
                row.id != id
                    && !(closed && row.saga == *saga && row.step == *step && row.direction == Direction::Forward)
            });
            if waits {
                let (step, blocks) = (step.clone(), !matches!(outcome, Outcome::Stuck(_)));
                waiting.push(Waits {
                    id,
                    saga: *saga,
                    step,
                    direction: *direction,
                    seq: own.unwrap_or(i64::MAX),
                    blocks,
                });
            }
        }
    }

    async fn look_at_work(&mut self, participant: &'static str) -> Result<()> {
        let rows = self.stores[participant].work(100_000).await?;
        let waits = |row: WorkRow| {
            let WorkRow { id, saga, step, direction, seq, blocks, .. } = row;
            Waits { id, saga, step, direction, seq, blocks }
        };
        self.waiting.insert(participant, rows.into_iter().map(waits).collect());
        Ok(())
    }

    /// Requests and messages that were handed over in the last step.
    fn under_way(&mut self) {
        let (requests, late) = {
            let mut state = self.ether.state();
            (std::mem::take(&mut state.requests), std::mem::take(&mut state.late))
        };
        for (at, message) in late {
            self.at(at - BEGIN, Timed::Readable(Box::new(message)));
        }
        for request in requests {
            let what = request.name.clone();
            let latency = 3 + self.random.below(40) as i64;
            let strikes = |fault| self.ether.strikes(fault, format_args!("{what}"));
            let timed_out = || Err("no answer within the caller's patience".to_owned());
            if strikes(Fault::RequestLost).is_some() {
                self.after(CALL_TIMEOUT, Timed::Answers(request.answer, request.task, timed_out()));
            } else if let Some(force) = strikes(Fault::RequestSlow) {
                let travels = CALL_TIMEOUT + 500 + (force % 120_000).cast_signed();
                let Request { path, key, body, task, name, answer } = request;
                let (gone, _) = oneshot::channel();
                self.after(CALL_TIMEOUT, Timed::Answers(answer, task, timed_out()));
                self.after(
                    travels,
                    Timed::Arrives(Box::new(Request { path, key, body, task, name, answer: gone }), false),
                );
            } else if strikes(Fault::RequestFails).is_some() {
                let failed = Err("the gateway failed before the request took effect".to_owned());
                self.after(latency, Timed::Answers(request.answer, request.task, failed));
            } else {
                self.after(latency, Timed::Arrives(Box::new(request), true));
            }
        }
    }

    // ---- what happens at its time -------------------------------------------------------------------------------------------

    async fn happen(&mut self) -> Result<()> {
        while let Some(entry) = self.timed.first_entry().filter(|entry| entry.key().0 <= self.ether.now()) {
            match entry.remove() {
                Timed::Place(order) => self.place(order).await?,
                Timed::Cancel(order) => self.cancel(order)?,
                Timed::Readable(message) => {
                    self.ether.log(format_args!("a late message of {} can be read", message.key));
                    self.ether.store(&message);
                    self.expect();
                }
                Timed::Arrives(request, listens) => self.arrive(*request, listens).await?,
                Timed::Answers(answer, task, what) => {
                    // Nobody may listen any more.
                    let _ = answer.send(what);
                    let tasks = self.instances.iter_mut().filter_map(|instance| instance.alive.as_mut());
                    tasks
                        .flat_map(|alive| &mut alive.tasks)
                        .filter(|other| other.id == task)
                        .for_each(|task| task.ready = true);
                }
                Timed::Start(i) => self.start(i).await?,
                Timed::Expel(i) => {
                    let asleep = self.instances[i].control.asleep_until().is_some();
                    if asleep && let Some(alive) = &self.instances[i].alive {
                        let membership = alive.membership.lock().map(|mut membership| membership.take());
                        self.ether.log(format_args!("{} is no member any more", self.instances[i].control.name));
                        drop(membership);
                        self.expect();
                    }
                }
                Timed::Rebalance(nth) => self.rebalance(nth),
                Timed::Sweep(i) => {
                    let participant = self.instances[i].participant;
                    let alive = self.instances.iter_mut().filter(|other| other.participant == participant);
                    let alive: Vec<_> = alive.filter_map(|instance| instance.alive.as_mut()).collect();
                    if alive.is_empty() {
                        self.sweep_later(i);
                    }
                    self.instances
                        .iter_mut()
                        .filter(|other| other.participant == participant)
                        .filter_map(|instance| instance.alive.as_mut())
                        .for_each(|alive| alive.sweeps = true);
                }
                Timed::Heal => {
                    self.ether.log(format_args!("from now on nothing goes wrong"));
                    self.ether.state().chance.heal();
                }
            }
        }
        Ok(())
    }

    fn rebalance(&mut self, nth: u32) {
        for i in 0..self.instances.len() {
            let name = self.instances[i].control.name.clone();
            if self.ether.strikes(Fault::Rebalance, format_args!("{name} ({nth})")).is_some()
                && let Some(alive) = &self.instances[i].alive
            {
                drop(alive.membership.lock().map(|mut membership| membership.take()));
            }
        }
        self.expect();
        if !self.ether.state().chance.healed() {
            let wait = 1_000 + self.random.below(5_000) as i64;
            self.after(wait, Timed::Rebalance(nth + 1));
        }
    }

    async fn arrive(&mut self, request: Request, listens: bool) -> Result<()> {
        let Request { path, key, body, task, name, answer } = request;
        let said = if path == "voids" && self.play.rules.contains(&Rule::LookUpInDoubt) {
            self.look_up(&body).await?
        } else {
            self.gateway.serve(path, key, &body).await
        };
        let text = match &said {
            Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Err(why) => why.clone(),
        };
        self.ether.log(format_args!("gateway {name}: {text}"));
        if !listens {
            return Ok(());
        }
        let latency = 3 + self.random.below(40) as i64;
        if self.ether.strikes(Fault::AnswerLost, format_args!("{name}")).is_some() {
            self.after(
                CALL_TIMEOUT,
                Timed::Answers(answer, task, Err("no answer within the caller's patience".to_owned())),
            );
        } else {
            self.after(latency, Timed::Answers(answer, task, said));
        }
        Ok(())
    }

    /// [`Rule::LookUpInDoubt`]: takes back what took effect, and leaves the key open for what still travels.
    async fn look_up(&self, body: &[u8]) -> Result<Result<Vec<u8>, String>> {
        let void: serde_json::Value = serde_json::from_slice(body)?;
        let key = void["key"].as_str().unwrap_or_default();
        let refund = serde_json::to_vec(&serde_json::json!({ "receipt": format!("charge-{key}") }))?;
        let refunded = self.gateway.serve("refunds", Some(format!("look-up-{key}")), &refund).await;
        Ok(refunded.or_else(|_| Ok(br#"{"receipt":null}"#.to_vec())))
    }

    async fn start(&mut self, i: usize) -> Result<()> {
        let Instance { participant, control, .. } = &self.instances[i];
        control.revive();
        let (participant, control, ether) = (*participant, Arc::clone(control), self.ether.clone());
        self.ether.log(format_args!("{} starts", control.name));
        let line = Arc::new(Calls { ether: ether.clone(), control: Arc::clone(&control) });
        let cast = cast::participant(participant, line, self.patient);
        let membership = Arc::new(Mutex::new(None));
        let topics = cast.listens_to();
        let source = Listens { ether: ether.clone(), group: participant, topics, membership: Arc::clone(&membership) };
        let reins = Arc::new(Reins(Arc::clone(&control)));
        let sink = Arc::new(Publishes(ether.clone()));
        let harness = Harness::new(reins.clone(), self.play.rules.clone(), Some(sink.clone()));
        let store = self.stores[participant].clone();
        let node = Node::observed(cast, store, Box::new(source), sink, reins, ether.clock.clone())?;
        node.check().await?;
        let parts = node.with_harness(&harness).into_parts();
        self.instances[i].alive = Some(Alive {
            settling: Some(parts.settling),
            publishing: Some(parts.publishing),
            sweeping: Arc::new(parts.sweeping),
            tasks: Vec::new(),
            answers: Vec::new(),
            expects: true,
            owes: false,
            sweeps: false,
            membership,
        });
        self.sweep_later(i);
        Ok(())
    }

    // ---- customers ------------------------------------------------------------------------------------------------------------

    async fn place(&mut self, order: usize) -> Result<()> {
        let i = 0;
        let asleep = self.instances[i].control.asleep_until().is_some();
        let starter = self.instances[i].alive.as_ref().and_then(|alive| alive.settling.as_ref()).map(Settling::starter);
        let Some(starter) = starter.filter(|_| !asleep) else {
            self.after(700, Timed::Place(order));
            return Ok(());
        };
        let new = self.asked[order].new.clone();
        let work = async move {
            let key = order.to_string();
            let key = StartKey { caller: "customer", key: &key, fingerprint: b"" };
            order::place(&starter, key, new).await
        };
        self.counter += 1;
        let task = Task { id: self.counter, ready: true, work: Work::Start(order, Box::pin(work)) };
        // Without an answer, for whatever reason, the customer asks again.
        if self.asked[order].saga.is_none() {
            self.after(20_000, Timed::Place(order));
        }
        self.go_on(i, task).await
    }

    fn placed(&mut self, order: usize, result: Result<Started<String>, saga_core::start::StartError>) {
        let (saga, id) = match result {
            Ok(Started::New(saga, id) | Started::Repeated(saga, id)) => (saga, id),
            Err(error) => return self.ether.log(format_args!("order {order} was not placed: {error}")),
        };
        if let Some(before) = self.asked[order].saga.filter(|before| *before != saga) {
            self.ether.violated("I1", Some(saga), format!("order {order} started two sagas: {before}, {saga}"));
        }
        if self.asked[order].saga.is_none() {
            self.ether.log(format_args!("order {order} is {saga}: {:?}", self.asked[order].new));
            self.timed.retain(|_, what| !matches!(what, Timed::Place(other) if *other == order));
            if let Some(force) = self.ether.strikes(Fault::Cancel, format_args!("order {order}")) {
                let wait = if force.is_multiple_of(2) { 0 } else { (force >> 8) % 60_000 };
                self.after(wait.cast_signed(), Timed::Cancel(order));
            }
            if let Some(force) = self.ether.strikes(Fault::AskedAgain, format_args!("order {order}")) {
                self.after((force % 60_000).cast_signed(), Timed::Place(order));
            }
        }
        self.asked[order].saga = Some(saga);
        self.asked[order].order = Some(id);
    }

    fn cancel(&mut self, order: usize) -> Result<()> {
        let Asked { saga: Some(saga), order: Some(id), .. } = &self.asked[order] else { return Ok(()) };
        let body = serde_json::to_vec(&CancelRequested { order: id.clone() })?;
        let saga = saga.to_string();
        let id = format!("cancel-{order}");
        let headers: Vec<(String, String)> = [
            ("ce_specversion", "1.0"),
            ("ce_type", <CancelRequested as saga_core::Event>::TYPE),
            ("ce_id", &id),
            ("ce_source", "/customer"),
            ("ce_sagaid", &saga),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        self.ether.log(format_args!("the customer cancels order {order}"));
        self.ether.store(&Message { topic: "order".to_owned(), key: saga, headers, body });
        self.expect();
        Ok(())
    }

    // ---- the end ----------------------------------------------------------------------------------------------------------------

    /// Looks at what is stuck and tries it again. A compensation that waits for that has waited for a person.
    async fn person(&mut self) -> Result<()> {
        for (name, store) in &self.stores {
            for row in store.work(100_000).await? {
                if row.direction == Direction::Compensation && row.state == saga_core::store::WorkState::Parked {
                    let text = format!("{name}: the compensation of {} waits for a person", row.step);
                    self.ether.violated("nobody waits for a person", Some(row.saga), text);
                }
            }
            let mut tx = store.begin().await?;
            let again = match *name {
                "order" => {
                    "UPDATE order_work SET state = 'deferred', due_at = $1, reason = '' WHERE state = 'stuck' AND blocks"
                }
                "payment" => {
                    "UPDATE payment_work SET state = 'deferred', due_at = $1, reason = '' WHERE state = 'stuck' AND blocks"
                }
                _ => {
                    "UPDATE shipping_work SET state = 'deferred', due_at = $1, reason = '' WHERE state = 'stuck' AND blocks"
                }
            };
            let rows = tx.conn().execute(again, (self.ether.clock.now(),)).await?;
            tx.commit().await?;
            if rows > 0 {
                self.ether.log(format_args!("a person tries {rows} reactions of {name} again"));
            }
        }
        Ok(())
    }

    async fn close(self) -> Result<Played> {
        let told = match self.ether.state().violation.clone() {
            Some(Violation { saga: Some(saga), .. }) => Some(self.tell(saga).await?),
            _ => None,
        };
        let ended = self.ended();
        let state = self.ether.state();
        Ok(Played {
            journal: state.journal.clone(),
            faults: state.chance.struck.clone(),
            violation: state.violation.clone(),
            saga: told,
            ended,
        })
    }

    /// Sagas that have completed and that were cancelled, by what was published.
    fn ended(&self) -> (usize, usize) {
        let mut ended = (BTreeSet::new(), BTreeSet::new());
        for event in self.ether.events() {
            match event.ending {
                Some(saga_core::event::Ending::Completed) => _ = ended.0.insert(event.saga),
                Some(saga_core::event::Ending::Cancelled) => _ = ended.1.insert(event.saga),
                None => {}
            }
        }
        (ended.0.len(), ended.1.len())
    }
}

/// Any order that a customer may place: most complete, some are declined, some find no stock.
fn new_order(random: &mut Random) -> NewOrder {
    let customer = ["ada", "ada", "ada", "declined-bob", "declined-once-cy", "declined-once-di"][random.below(6)];
    let (item, quantity) = match random.below(8) {
        0 => ("lamp", 1),
        1 | 2 => ("chair", 10 + random.below(20) as i64),
        _ => ("book", 1 + random.below(3) as i64),
    };
    let cents = 100 + random.below(5_000) as i64;
    NewOrder { customer: customer.to_owned(), item: item.to_owned(), quantity, cents }
}
