//! Plays a choreography with the real pipeline: real nodes on SQLite, scripted steps, and a post that delays, doubles and reorders. The
//! player owns the time, and moves it to whatever comes next.
//!
//! The invariant: the same seed is the same play. Databases are used again for every choreography, emptied in between: making them
//! would take longer than playing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use saga_core::{
    Manifest, Participant,
    clock::Clock,
    envelope::Envelope,
    harness::{Decide, EFFECTS, Harness, Hook, Point, Rule},
    id::SagaId,
    node::{Answered, Node, Outgoing, Parts},
    observer::Unseen,
    participant::StepKind,
    step::Direction,
    store::{LedgerRow, Store, WorkRow},
    transport::BoxFuture,
};

use super::{
    dice::Dice,
    draft::PARTICIPANTS,
    post::{Post, later},
};
use crate::simulation::chance::Random;

/// Any time will do, in milliseconds since the Unix epoch.
const BEGIN: i64 = 1_800_000_000_000;
/// The unit of delays. A lease lasts sixteen of them.
const SLOT: Duration = Duration::from_secs(1);
/// Longer than any sum of delays: a play that goes on is one that never ends.
const SLOTS: u64 = 5_000;

/// One worker's databases.
#[derive(Debug)]
pub struct Player {
    stores: Vec<Store>,
    empty: Vec<&'static str>,
    dice: Arc<Dice>,
}

/// How to play.
#[derive(Debug, Clone)]
pub struct How {
    /// Decides everything.
    pub seed: u64,
    /// How many sagas are started.
    pub sagas: usize,
    /// The rules that every participant breaks.
    pub rules: Vec<Rule>,
}

/// What one saga left behind.
#[derive(Debug, Clone)]
pub struct Left {
    /// Which.
    pub saga: SagaId,
    /// Every event that it published, as often as it did, in order.
    pub events: Vec<Envelope>,
    /// The rows of its steps, with their participant.
    pub ledger: Vec<(&'static str, LedgerRow)>,
    /// What waits, with its participant.
    pub work: Vec<(&'static str, WorkRow)>,
    /// How often a step's code took effect: participant, step, direction.
    pub effects: Vec<(&'static str, String, String, i64)>,
    /// Of the events, those that came only of delivering everything once more when nothing moved any more.
    pub events_of_repetition: usize,
}

/// A participant at work.
struct Plays {
    index: usize,
    waits: bool,
    parts: Parts,
    /// Calls that are to be made, and when.
    calls: Vec<(u64, Outgoing)>,
    /// Answers that are under way, and when they come.
    answers: Vec<(u64, Answered)>,
    /// When a waiting row is due.
    due: Option<u64>,
}

/// Lets everything happen. In one play of four a step fails now and then after its work, so that reactions wait for each other.
struct Onlooker(Option<Mutex<Random>>);

impl Hook for Onlooker {
    fn reach(&self, _: Point) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn fails(&self, _: &str, _: Direction) -> bool {
        self.0.as_ref().is_some_and(|random| random.lock().unwrap_or_else(PoisonError::into_inner).below(30) == 0)
    }
}

impl Player {
    /// With databases in memory.
    pub async fn new() -> Result<Self> {
        let mut stores = Vec::new();
        let mut empty = Vec::new();
        for name in PARTICIPANTS {
            let store = Store::connect("sqlite::memory:", name).await?;
            store.migrate().await?;
            let mut tx = store.begin().await?;
            tx.conn().execute(EFFECTS, ()).await?;
            tx.commit().await?;
            stores.push(store);
            let tables = ["ledger", "outbox", "work", "started"].map(|table| format!("DELETE FROM {name}_{table};"));
            empty.push(&*(tables.concat() + "DELETE FROM effects").leak());
        }
        Ok(Self { stores, empty, dice: Arc::default() })
    }

    /// Who decides for the steps.
    pub fn decides(&self) -> Arc<dyn Decide> {
        Arc::clone(&self.dice) as _
    }

    /// Plays until nothing moves any more, and half of the time once more until everything that was said was said again. An error is
    /// one of the player itself, or of a participant that stopped.
    pub async fn play(&mut self, manifests: &[Manifest], how: &How) -> Result<Vec<Left>> {
        self.dice.cast(how.seed);
        for (store, empty) in self.stores.iter().zip(&self.empty) {
            let mut tx = store.begin().await?;
            for statement in empty.split(';') {
                tx.conn().execute(statement, ()).await?;
            }
            tx.commit().await?;
        }
        let casts = manifests.iter().map(|manifest| Participant::scripted(manifest, &self.decides()));
        let casts = casts.collect::<Result<Vec<_>, _>>()?;
        let index = |cast: &Participant| PARTICIPANTS.iter().position(|name| *name == cast.name());
        let mut hears = vec![Vec::new(); PARTICIPANTS.len()];
        for cast in &casts {
            let heard = cast.contracts().into_iter().flat_map(|step| [step.on, step.compensated_on].concat());
            hears[index(cast).context("an unknown participant")?].extend(heard.map(|event| event.name));
        }
        let clock = Clock::manual(BEGIN, how.seed);
        let post = Post::new(how.seed, hears);
        let fails = how.seed % 4 == 1;
        let onlooker = Onlooker(fails.then(|| Mutex::new(Random::new(how.seed ^ 2))));
        let harness = Harness::new(Arc::new(onlooker), how.rules.clone(), Some(post.sink()));
        let mut plays = Vec::new();
        for cast in casts {
            let index = index(&cast).context("an unknown participant")?;
            let waits = fails || cast.contracts().iter().any(|step| step.kind == StepKind::External);
            let store = self.stores[index].clone();
            let node = Node::observed(cast, store, post.source(index), post.sink(), Arc::new(Unseen), clock.clone())?;
            let parts = node.with_harness(&harness).into_parts();
            plays.push(Plays { index, waits, parts, calls: Vec::new(), answers: Vec::new(), due: None });
        }
        let mut game =
            Game { how, post, clock, plays, stores: &self.stores, random: Random::new(how.seed ^ 1), now: 0 };
        let sagas = game.start(manifests).await?;
        let before = game.post.published().len();
        if how.seed.is_multiple_of(2) {
            game.post.again();
            game.until_quiet(Vec::new(), &sagas).await?;
        }
        game.left(sagas, before).await
    }
}

struct Game<'p> {
    how: &'p How,
    post: Post,
    clock: Clock,
    plays: Vec<Plays>,
    stores: &'p [Store],
    random: Random,
    now: u64,
}

/// A request to the n-th saga.
type Asks = (u64, usize, &'static str, String);

impl Game<'_> {
    /// Starts every saga, and plays until nothing moves any more. With requests at any time, also when it is too late.
    async fn start(&mut self, manifests: &[Manifest]) -> Result<Vec<SagaId>> {
        let of_kind = |kind: StepKind| {
            let steps = manifests.iter().flat_map(|manifest| manifest.steps.iter().map(move |step| (manifest, step)));
            let steps = steps.filter(move |(_, step)| step.kind == kind);
            steps.map(|(manifest, step)| (manifest.participant.clone(), step.step.clone())).collect::<Vec<_>>()
        };
        let starts = of_kind(StepKind::Start);
        let mut sagas = Vec::new();
        let mut asks: Vec<Asks> = Vec::new();
        for n in 0..self.how.sagas {
            if starts.is_empty() {
                break;
            }
            let (participant, step) = &starts[n % starts.len()];
            let plays = self.at(participant)?;
            sagas.push(plays.parts.settling.starter().start_scripted(step, &n.to_string()).await?);
            for (participant, step) in of_kind(StepKind::Request) {
                if self.random.below(2) == 0 {
                    let at = later(0, &mut self.random) - 1;
                    let index = self.at(&participant)?.index;
                    asks.push((at, n, PARTICIPANTS[index], step));
                }
            }
        }
        self.until_quiet(asks, &sagas).await?;
        Ok(sagas)
    }

    fn at(&self, participant: &str) -> Result<&Plays> {
        self.plays.iter().find(|plays| PARTICIPANTS[plays.index] == participant).context("an unknown participant")
    }

    async fn until_quiet(&mut self, mut asks: Vec<Asks>, sagas: &[SagaId]) -> Result<()> {
        for plays in &mut self.plays {
            while plays.parts.publishing.turn().await {}
        }
        loop {
            let own = self.plays.iter().flat_map(|plays| {
                let calls = plays.calls.iter().map(|(at, _)| *at);
                calls.chain(plays.answers.iter().map(|(at, _)| *at)).chain(plays.due)
            });
            let Some(next) = own.chain(self.post.next()).chain(asks.iter().map(|(at, ..)| *at)).min() else {
                return Ok(());
            };
            if next > SLOTS {
                bail!("it goes on for ever");
            }
            self.clock.advance(SLOT * next.saturating_sub(self.now) as u32);
            self.now = self.now.max(next);
            for (_, n, participant, step) in asks.extract_if(.., |(at, ..)| *at <= next) {
                let starter = self.plays.iter().find(|plays| PARTICIPANTS[plays.index] == participant);
                let starter = starter.context("an unknown participant")?.parts.settling.starter();
                starter.request_scripted(&step, sagas[n]).await?;
            }
            for plays in &mut self.plays {
                plays.turn(self.now, &self.post, &mut self.random, &self.stores[plays.index]).await?;
            }
        }
    }

    async fn left(&self, sagas: Vec<SagaId>, before: usize) -> Result<Vec<Left>> {
        let new = |saga| Left {
            saga,
            events: Vec::new(),
            ledger: Vec::new(),
            work: Vec::new(),
            effects: Vec::new(),
            events_of_repetition: 0,
        };
        let mut left: Vec<Left> = sagas.iter().copied().map(new).collect();
        let of = |saga: SagaId| sagas.iter().position(|other| *other == saga).context("a saga that nobody started");
        for (i, event) in self.post.published().into_iter().enumerate() {
            let left = &mut left[of(event.saga)?];
            left.events_of_repetition += usize::from(i >= before);
            left.events.push(event);
        }
        for plays in &self.plays {
            let name = PARTICIPANTS[plays.index];
            let mut tx = self.stores[plays.index].begin().await?;
            let (ledger, work) = tx.read(&sagas).await?;
            for row in ledger {
                left[of(row.saga)?].ledger.push((name, row));
            }
            for row in work {
                left[of(row.saga)?].work.push((name, row));
            }
            let sql = "SELECT saga, step, direction, count(*) FROM effects GROUP BY saga, step, direction";
            for (saga, step, direction, count) in
                tx.conn().fetch_all::<(String, String, String, i64), _>(sql, ()).await?
            {
                let saga = sagas.iter().position(|other| other.to_string() == saga).context("an effect of no saga")?;
                left[saga].effects.push((name, step, direction, count));
            }
        }
        Ok(left)
    }
}

impl Plays {
    /// Everything that this participant can do now.
    async fn turn(&mut self, now: u64, post: &Post, random: &mut Random, store: &Store) -> Result<()> {
        for (_, call) in self.calls.extract_if(.., |(at, _)| *at <= now) {
            let answered = call.make().await;
            // Sometimes behind the end of its lease, when another attempt is under way.
            self.answers.push((later(now, random) - 1, answered));
        }
        let answers: Vec<_> = self.answers.extract_if(.., |(at, _)| *at <= now).map(|(_, answered)| answered).collect();
        let due = self.due.is_some_and(|due| due <= now);
        if !post.arrive(now, self.index) && answers.is_empty() && !due {
            // A request may have left something to publish.
            while self.parts.publishing.turn().await {}
            return Ok(());
        }
        let (calls, settled) = self.parts.settling.turn(answers, 500).await;
        settled?;
        // Mostly at once; seldom so late that there is no time left for it in its lease.
        self.calls.extend(calls.into_iter().map(|call| (now + (later(now, random) - 1 - now) / 3, call)));
        while self.parts.publishing.turn().await {}
        // Where nobody calls and nobody fails, nothing waits.
        let due = if self.waits { store.work_next_due().await? } else { None };
        // What is due and not asked for is held by its step; a node looks again at its next tick.
        let slot = |due: i64| ((due - BEGIN).max(0).unsigned_abs()).div_ceil(SLOT.as_millis() as u64);
        self.due = due.map(|due| slot(due).max(now + 1));
        Ok(())
    }
}
