//! The driver: whose turn it is, what arrives when, who dies and who is started again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use saga_core::{
    clock::Clock,
    event::Ending,
    harness::Harness,
    node::Node,
    retention::Retention,
    signal,
    store::Store,
    transport::memory::{Faults, MemoryBroker},
};
use saga_services::{
    gateway::{Behaviour, Gateway},
    order, payment, service, shipping,
};

use super::{
    BEGIN, Play, Played, Violation, cast,
    chance::{Chance, Random},
    customer::{Asked, new_order},
    ether::{Calls, Ether, Listens, Publishes},
    instance::{Alive, Control, Instance, Reins},
    moves::Choice,
    traffic::Timed,
    waiting::Waits,
};
use crate::stage::{PARTICIPANTS, TOPICS};

/// Faults strike for so long, in milliseconds; orders are placed in the first third of it.
const UNREST: i64 = 180_000;
/// When faults have stopped, everything ends within so long: some leases (45 s), some of the longest waits between attempts (60 s),
/// and the slowest requests (130 s).
const PEACE: i64 = 30 * 60_000;
/// Sagas are remembered for so long: as short as it may be.
const KEEP: Duration = Duration::from_secs(3_600);
/// Steps that one order may take at most, on average, before somebody spins.
const STEPS: usize = 20_000;
/// Who plays what: payment twice, in one group and on one database.
const INSTANCES: [(&str, &str); 4] =
    [("order", "order#1"), ("payment", "payment#1"), ("payment", "payment#2"), ("shipping", "shipping#1")];

/// Everything there is.
pub(super) struct World<'p> {
    pub(super) play: &'p Play,
    pub(super) ether: Ether,
    pub(super) gateway: Gateway,
    pub(super) stores: BTreeMap<&'static str, Store>,
    pub(super) asked: Vec<Asked>,
    /// The gateway forgets its refusals.
    pub(super) forgets: bool,
    /// Everybody has forgotten every saga.
    pub(super) forgotten: bool,
    /// Payment never gives up.
    pub(super) patient: bool,
    pub(super) instances: Vec<Instance>,
    pub(super) timed: BTreeMap<(i64, u64), Timed>,
    pub(super) counter: u64,
    pub(super) random: Random,
    /// What waited at each participant when its last batch had been settled.
    pub(super) waiting: BTreeMap<&'static str, Vec<Waits>>,
    /// When the next row of each participant's work table is due.
    pub(super) due: BTreeMap<&'static str, Option<i64>>,
    deadline: i64,
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
        let (forgets, patient) =
            (chance.of_seed("forgets").is_multiple_of(3), !chance.of_seed("patient").is_multiple_of(3));
        let mut random = Random::new(chance.of_seed("turns"));
        let faults = Faults { seed: chance.of_seed("order of deliveries"), reorder: true, ..Faults::default() };
        let topics: Vec<(&str, i32)> = TOPICS.map(|topic| (topic, 3)).into_iter().chain([(signal::TOPIC, 1)]).collect();
        let broker = MemoryBroker::with_faults(&topics, faults);
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
        let asked = (0..play.sagas)
            .map(|_| Asked { new: new_order(&mut random), saga: None, order: None, cancelled: false })
            .collect();
        let mut world = World {
            play,
            ether,
            gateway,
            stores,
            asked,
            forgets,
            forgotten: false,
            patient,
            instances: instances.into(),
            timed: BTreeMap::new(),
            counter: 0,
            random,
            waiting: BTreeMap::new(),
            due: BTreeMap::new(),
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

    pub(super) fn at(&mut self, at: i64, what: Timed) {
        self.counter += 1;
        self.timed.insert((at, self.counter), what);
    }

    pub(super) fn after(&mut self, wait: i64, what: Timed) {
        self.at(self.ether.now() + wait, what);
    }

    fn advance(&self, millis: i64) {
        self.ether.clock.advance(Duration::from_millis(millis.max(0).unsigned_abs()));
    }

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
            } else if let Some(next) = self.next() {
                self.advance(next - self.ether.now());
            } else if !self.goes_on(rounds).await? {
                return Ok(());
            } else {
                rounds += 1;
                self.deadline = self.ether.now() + PEACE;
            }
        }
        Ok(())
    }

    /// When nothing moves any more: what comes next, if anything does.
    async fn goes_on(&mut self, rounds: u32) -> Result<bool> {
        match (rounds, self.play.seed % 4) {
            (0, _) => self.person().await?,
            // Whatever came, comes once more: optional, because it would mend what only a redelivery mends.
            (1, 0) => {
                self.check().await?;
                self.again();
            }
            // .. and once more when everybody has forgotten it.
            (1, 1) => {
                self.check().await?;
                self.advance(3 * KEEP.as_millis() as i64);
                for alive in self.instances.iter_mut().filter_map(|instance| instance.alive.as_mut()) {
                    let sagas = alive.keeping.turn().await?;
                    self.ether.log(format_args!("{sagas} sagas are forgotten"));
                }
                self.forgotten = true;
                self.again();
            }
            _ => {
                self.check().await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Every event that was published can be read once more.
    fn again(&mut self) {
        self.ether.log(format_args!("everything comes once more"));
        for delivery in TOPICS.iter().flat_map(|topic| self.ether.broker.messages(topic)) {
            let headers: Vec<_> = delivery.headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
            self.ether.broker.inject(&delivery.topic, delivery.key.as_deref(), &headers, &delivery.body);
        }
        self.expect();
    }

    /// The next moment at which something happens by itself.
    fn next(&self) -> Option<i64> {
        let mut next = self.timed.first_key_value().map(|((at, _), _)| *at);
        let mut least = |at: i64| next = Some(next.map_or(at, |other| other.min(at)));
        for instance in self.instances.iter().filter(|instance| instance.alive.is_some()) {
            if let Some(wakes) = instance.control.asleep_until() {
                least(wakes - BEGIN);
            }
        }
        for (name, due) in &self.due {
            // Whoever sleeps or is busy looks when it goes on.
            let looks = |instance: &Instance| {
                instance.participant == *name
                    && instance.control.asleep_until().is_none()
                    && instance.alive.as_ref().is_some_and(|alive| alive.settling.is_some())
            };
            if let Some(due) = due.filter(|_| self.instances.iter().any(looks)) {
                least(due - BEGIN);
            }
        }
        next
    }

    fn choices(&mut self) -> Vec<Choice> {
        let now = self.ether.now();
        for instance in &mut self.instances {
            let due = self.due.get(instance.participant).copied().flatten();
            if let Some(alive) = instance.alive.as_mut().filter(|_| due.is_some_and(|due| due - BEGIN <= now)) {
                alive.expects = true;
            }
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
    pub(super) fn expect(&mut self) {
        for alive in self.instances.iter_mut().filter_map(|instance| instance.alive.as_mut()) {
            alive.expects = true;
        }
    }

    pub(super) async fn start(&mut self, i: usize) -> Result<()> {
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
        let retention = Retention::keep(KEEP).shorter_than_topics();
        let parts = node.signalling(signal::TOPIC).remembering(retention).with_harness(&harness).into_parts();
        self.instances[i].alive = Some(Alive {
            settling: Some(parts.settling),
            publishing: Some(parts.publishing),
            sweeping: Arc::new(parts.sweeping),
            keeping: parts.keeping,
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

    async fn close(self) -> Result<Played> {
        let violation = self.ether.state().violation.clone();
        let told = match violation {
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
            seen: state.seen.clone(),
        })
    }

    /// Sagas that have completed and that were cancelled, by what was published.
    fn ended(&self) -> (usize, usize) {
        let mut ended = (BTreeSet::new(), BTreeSet::new());
        for event in self.ether.events() {
            match event.ending {
                Some(Ending::Completed) => _ = ended.0.insert(event.saga),
                Some(Ending::Cancelled) => _ = ended.1.insert(event.saga),
                None => {}
            }
        }
        (ended.0.len(), ended.1.len())
    }
}
