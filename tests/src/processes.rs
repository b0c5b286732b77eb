//! The real binaries, one process each, against a broker and databases.
//!
//! The invariant: nothing started here outlives this process, and one world at a time uses a broker: the names of topics are
//! fixed, so that two worlds on one broker would react to each other's events. What an earlier world left on the topics of a broker
//! is nobody's business: the groups begin at the end.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use saga_core::{
    clock::Clock,
    envelope::{Delivery, Envelope},
    id::SagaId,
    signal,
    store::{Store, WorkRow, WorkState},
    timeline::Timeline,
    transport::{
        Position,
        embedded::EmbeddedBroker,
        kafka::{KafkaConfig, Lag, inject, lag, read_all, skip},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub use crate::stage::PARTICIPANTS;
use crate::{
    stage::cast,
    support::{Guarded, Stop},
    world::{Order, Totals, World},
};

/// Longer than a group needs to settle after a member was killed.
const BOUND: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
/// As many customers order at the same time.
const AT_ONCE: usize = 64;
/// Partitions of each topic, as many as `migrate --topics` creates.
const PARTITIONS: i32 = 6;
/// At least what the two events of a saga on the topic `order`, the fullest, take with their headers. A test measures it.
pub const BYTES_OF_A_SAGA: u64 = 2_000;
/// What one partition of the embedded broker is filled with: of its 5 MiB, as keys do not spread evenly.
const PARTITION_BYTES: u64 = 4 << 20;

/// A customer's cancellation decides nothing yet.
const ORDERS: &str =
    "SELECT CASE WHEN state IN ('placed', 'cancelling') THEN 'open' ELSE state END, count(*) FROM orders
    GROUP BY 1";

/// What to run the services on.
#[derive(Debug, Clone, Default)]
pub struct Setting {
    /// A Kafka, as `host:port`; without one an embedded broker.
    pub kafka: Option<String>,
    /// Settings for clients of that Kafka.
    pub kafka_settings: Vec<(String, String)>,
    /// An empty database for each participant, by its name; without one a SQLite file.
    pub databases: BTreeMap<String, String>,
    /// Where to send traces.
    pub otlp: Option<String>,
    /// Partitions of each topic; without it six.
    pub partitions: Option<i32>,
}

/// Running services.
#[derive(Debug)]
pub struct Processes {
    // First, so that the services stop before the broker.
    running: BTreeMap<String, Guarded>,
    ports: BTreeMap<String, u16>,
    /// Where the log of each process begins in its instance's file.
    begun: BTreeMap<String, usize>,
    databases: BTreeMap<String, String>,
    stores: BTreeMap<String, Store>,
    orders: BTreeMap<SagaId, String>,
    /// Where the topics began for this world; what came before belongs to others.
    begins: Vec<Position>,
    kafka: KafkaConfig,
    otlp: Option<String>,
    binaries: PathBuf,
    client: reqwest::Client,
    broker: Option<EmbeddedBroker>,
    directory: TempDir,
}

/// How many partitions each topic of the embedded broker needs, for so many sagas, to keep every message until the slowest has
/// read it: beyond 5 MiB a partition loses its oldest ones.
pub fn partitions_for(sagas: u64) -> i32 {
    let needed = (sagas * BYTES_OF_A_SAGA).div_ceil(PARTITION_BYTES);
    i32::try_from(needed).unwrap_or(i32::MAX).max(PARTITIONS)
}

impl Processes {
    /// Starts the gateway and the three services, and waits until they are ready.
    pub async fn start(setting: Setting) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("saga-").tempdir()?;
        let binaries = binaries()?;
        let group = format!("saga-{}", SagaId::mint(&Clock::system()));
        let partitions = setting.partitions.unwrap_or(PARTITIONS);
        let (broker, kafka) = match setting.kafka {
            Some(brokers) => (None, KafkaConfig { brokers, group, extra: setting.kafka_settings }),
            None => {
                let topics = PARTICIPANTS.map(|topic| (topic, partitions)).into_iter().chain([(signal::TOPIC, 1)]);
                let broker = EmbeddedBroker::start(&topics.collect::<Vec<_>>())?;
                let config = broker.config(&group);
                (Some(broker), config)
            }
        };
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
        let mut world = Self {
            running: BTreeMap::new(),
            ports: BTreeMap::new(),
            begun: BTreeMap::new(),
            databases: setting.databases,
            stores: BTreeMap::new(),
            orders: BTreeMap::new(),
            begins: Vec::new(),
            kafka,
            otlp: setting.otlp,
            binaries,
            client,
            broker,
            directory,
        };
        for name in PARTICIPANTS {
            let file = format!("sqlite:{}", world.directory.path().join(format!("{name}.db")).display());
            world.databases.entry(name.to_owned()).or_insert(file);
        }
        world.spawn("gateway", "gateway")?;
        for name in PARTICIPANTS {
            let mut migrate = world.command(name)?;
            migrate.arg("migrate");
            if world.broker.is_none() {
                migrate.args(["--topics", "--partitions", &partitions.to_string()]);
            }
            let (status, printed) = Guarded::output(&mut migrate, BOUND).await?;
            ensure!(status.success(), "{name} migrate failed ({status}): {printed}");
            let store = Store::connect(&world.databases[name], name).await?;
            world.stores.insert(name.to_owned(), store);
        }
        if world.broker.is_none() {
            for name in PARTICIPANTS {
                let begins = skip(&world.group_config(name), &world.listens_to(name)?).await?;
                world.begins.extend(begins);
            }
        }
        world.until_ready("gateway").await?;
        for name in PARTICIPANTS {
            world.spawn(name, name)?;
        }
        for name in PARTICIPANTS {
            world.until_ready(name).await?;
        }
        Ok(world)
    }

    /// Another process of a participant, in the same group and on the same database, known as `instance`.
    pub async fn start_another(&mut self, participant: &str, instance: &str) -> Result<()> {
        self.spawn(participant, instance)?;
        self.until_ready(instance).await
    }

    /// Where the logs and the SQLite files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves the logs and the SQLite files where they are, for somebody to look at.
    pub fn keep_directory(&mut self) {
        self.directory.disable_cleanup(true);
    }

    /// The address of the HTTP of a service or the gateway.
    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}", self.ports.get(name).copied().unwrap_or_default())
    }

    /// The broker, with a group that nobody is in.
    pub fn kafka(&self) -> &KafkaConfig {
        &self.kafka
    }

    /// The resident memory of each process, in bytes; empty where the system does not tell it as Linux does.
    pub fn memory(&self) -> BTreeMap<&str, u64> {
        let resident = |process: &Guarded| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()?)).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
        };
        let all = self.running.iter();
        all.filter_map(|(name, process)| Some((name.as_str(), resident(process)?))).collect()
    }

    /// How many orders have ended, by the order service's database alone: cheap enough to ask often.
    pub async fn ended_orders(&self) -> Result<u64> {
        let sql = "SELECT 'all', count(*) FROM orders WHERE state IN ('completed', 'cancelled')";
        let [ended] = self.sums("order", sql, ["all"]).await?;
        Ok(ended)
    }

    /// Asks for the cancellation of an order that was placed here, as its customer does.
    pub async fn cancel(&self, saga: SagaId) -> Result<()> {
        let order = self.orders.get(&saga).context("that saga was not started here")?;
        let url = format!("{}/orders/{order}/cancel", self.url("order"));
        self.client.post(url).send().await?.error_for_status()?;
        Ok(())
    }

    /// Places an order over HTTP and returns its saga and its id, without remembering it for [`World::ended`].
    pub async fn post(&self, order: &Order) -> Result<(SagaId, String)> {
        let body = json!({ "customer": order.customer, "item": order.item, "quantity": order.quantity,
            "unit_price_cents": order.cents });
        let request = self.client.post(format!("{}/orders", self.url("order"))).json(&body);
        let key = SagaId::mint(&Clock::system()).to_string();
        let answer = request.header("Idempotency-Key", key).send().await?.error_for_status()?;
        let placed: Value = answer.json().await?;
        let saga: SagaId = placed["saga"].as_str().context("the answer names no saga")?.parse()?;
        Ok((saga, placed["id"].as_str().context("the answer names no order")?.to_owned()))
    }

    /// What the databases and the gateway say now.
    pub async fn count(&self) -> Result<Totals> {
        let record: Value = self.client.get(format!("{}/record", self.url("gateway"))).send().await?.json().await?;
        let made = |what: &str| {
            let rows = record[what].as_array().map(Vec::as_slice).unwrap_or_default();
            rows.iter().filter(|row| row["receipt"].is_string()).count() as u64
        };
        let [open, completed, cancelled] = self.sums("order", ORDERS, ["open", "completed", "cancelled"]).await?;
        let [charged, refunded, declined] = self
            .sums("payment", "SELECT state, count(*) FROM payments GROUP BY state", ["charged", "refunded", "declined"])
            .await?;
        let [shipped] = self.sums("shipping", "SELECT 'all', count(*) FROM shipments", ["all"]).await?;
        let taken = "SELECT 'all', CAST(sum(initial - free) AS BIGINT) FROM stock";
        let [taken] = self.sums("shipping", taken, ["all"]).await?;
        Ok(Totals {
            open,
            completed,
            cancelled,
            charged,
            refunded,
            declined,
            shipped,
            taken,
            gateway_charges: made("charges"),
            gateway_refunds: made("refunds"),
        })
    }

    async fn sums<const N: usize>(&self, name: &str, sql: &'static str, keys: [&str; N]) -> Result<[u64; N]> {
        let mut tx = self.store(name)?.begin().await?;
        let rows: Vec<(String, i64)> = tx.conn().fetch_all(sql, ()).await?;
        let of = |key| rows.iter().find(|(k, _)| k == key).map_or(0, |(_, n)| u64::try_from(*n).unwrap_or(0));
        Ok(keys.map(of))
    }

    fn store(&self, participant: &str) -> Result<&Store> {
        self.stores.get(participant).context("no such participant")
    }

    async fn events(&self) -> Result<Vec<Delivery>> {
        let mut events = read_all(&self.kafka, &PARTICIPANTS).await?;
        let is_of_others = |event: &Delivery| {
            let place = |begin: &Position| (begin.topic == event.topic) && begin.partition == event.partition;
            self.begins.iter().any(|begin| place(begin) && event.offset < begin.next)
        };
        events.retain(|event| !is_of_others(event));
        Ok(events)
    }

    /// The broker, with the group of a participant.
    fn group_config(&self, participant: &str) -> KafkaConfig {
        KafkaConfig { group: format!("{}-{participant}", self.kafka.group), ..self.kafka.clone() }
    }

    fn listens_to(&self, participant: &str) -> Result<Vec<&'static str>> {
        let (_, cast) = cast(participant, &self.url("gateway"))?;
        Ok(cast.listens_to())
    }

    /// Waits until nothing moves: every group has settled its topics up to their ends, no database has work that time alone
    /// would wake or events to publish, and after all this was seen nothing had been published meanwhile. What waits for a
    /// person may go on waiting.
    async fn quiet(&self) -> Result<()> {
        let begin = Instant::now();
        let mut before: Option<Vec<Lag>> = None;
        loop {
            let mut lags = Vec::new();
            let mut busy = Vec::new();
            for name in PARTICIPANTS {
                let lag = lag(&self.group_config(name), &self.listens_to(name)?).await?;
                if lag.behind > 0 {
                    busy.push(format!("{name} has not settled {} messages", lag.behind));
                }
                lags.push(lag);
            }
            for name in PARTICIPANTS {
                let store = self.store(name)?;
                // In this order: work that is done leaves its events in the outbox in the same transaction.
                if store.work_next_due().await?.is_some() {
                    busy.push(format!("{name} has work to do"));
                }
                if store.outbox_len().await? > 0 {
                    busy.push(format!("{name} has events to publish"));
                }
            }
            if busy.is_empty() && before.as_ref() == Some(&lags) {
                return Ok(());
            }
            ensure!(begin.elapsed() < BOUND, "after {} s something still moves: {busy:?}", BOUND.as_secs());
            before = busy.is_empty().then_some(lags);
            tokio::time::sleep(POLL).await;
        }
    }

    fn command(&self, name: &str) -> Result<tokio::process::Command> {
        let mut command = Guarded::command(self.binaries.join(name), Stop { signal: "KILL", ..Stop::default() });
        command.current_dir(self.directory.path());
        if name == "gateway" {
            return Ok(command);
        }
        // By the environment: every user of the machine sees an argument, and the URL may hold a password.
        command.env("SAGA_DATABASE", self.databases.get(name).context("no such participant")?);
        command.env("SAGA_BROKERS", &self.kafka.brokers).env("SAGA_GROUP", self.group_config(name).group);
        if !self.kafka.extra.is_empty() {
            let extra: Vec<String> = self.kafka.extra.iter().map(|(key, value)| format!("{key}={value}")).collect();
            command.env("SAGA_KAFKA_CONFIG", extra.join(","));
        }
        if name == "payment" {
            command.env("SAGA_GATEWAY", self.url("gateway"));
        }
        if let Some(otlp) = &self.otlp {
            command.env("SAGA_OTLP", otlp);
        }
        Ok(command)
    }

    fn spawn(&mut self, name: &str, instance: &str) -> Result<()> {
        let log = self.directory.path().join(format!("{instance}.log"));
        let log = File::options().append(true).create(true).open(log)?;
        // The system chooses the port, and the process says which: a port that was free before may be another's by now.
        self.ports.remove(instance);
        self.begun.insert(instance.to_owned(), usize::try_from(log.metadata()?.len())?);
        let mut command = self.command(name)?;
        command.env("SAGA_HTTP", "127.0.0.1:0").stdout(log.try_clone()?).stderr(log);
        self.running.insert(instance.to_owned(), Guarded::spawn(&mut command)?);
        Ok(())
    }

    /// The port that the process says it serves at, once it does.
    fn said_port(&self, instance: &str, log: &Path) -> Option<u16> {
        let text = std::fs::read(log).ok()?;
        let new = String::from_utf8_lossy(text.get(*self.begun.get(instance)?..)?).into_owned();
        new.lines().find_map(|line| line.split_once(": at http://127.0.0.1:")?.1.trim().parse().ok())
    }

    async fn until_ready(&mut self, instance: &str) -> Result<()> {
        let log = self.directory.path().join(format!("{instance}.log"));
        let begin = Instant::now();
        loop {
            if let Some(port) = self.said_port(instance, &log) {
                self.ports.insert(instance.to_owned(), port);
                let answer = self.client.get(format!("{}/ready", self.url(instance))).send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    return Ok(());
                }
            }
            let ended = self.running.get_mut(instance).and_then(Guarded::ended);
            if ended.is_some() || begin.elapsed() > BOUND {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                bail!("{instance} did not become ready ({ended:?}); its log:\n{log}");
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl World for Processes {
    async fn place(&mut self, order: &Order) -> Result<SagaId> {
        let (saga, order) = self.post(order).await?;
        self.orders.insert(saga, order);
        Ok(saga)
    }

    async fn place_all(&mut self, orders: &[Order]) -> Result<Vec<SagaId>> {
        let this = &*self;
        let posts = stream::iter(orders).map(|order| this.post(order)).buffered(AT_ONCE);
        let placed: Vec<(SagaId, String)> = posts.try_collect().await?;
        let sagas = placed.iter().map(|(saga, _)| *saga).collect();
        self.orders.extend(placed);
        Ok(sagas)
    }

    async fn inject(&mut self, messages: &[Delivery]) -> Result<()> {
        Ok(inject(&self.kafka, messages).await?)
    }

    async fn ended(&mut self, saga: SagaId) -> Result<Timeline> {
        // A saga that an injected message started has no order to ask for.
        if let Some(order) = self.orders.get(&saga) {
            let url = format!("{}/orders/{order}", self.url("order"));
            wait_for("the order to end", BOUND, async || {
                let shown: Value = self.client.get(&url).send().await?.error_for_status()?.json().await?;
                Ok((shown["state"] == "completed" || shown["state"] == "cancelled").then_some(()))
            })
            .await?;
        }
        // The database knows it a little before the topic does.
        wait_for("the last event of the saga", BOUND, async || {
            let events = self.events().await?;
            let timeline = Timeline::of(saga, events.iter().filter_map(|event| Envelope::decode(event).ok()));
            Ok(timeline.ending().is_some().then_some(timeline))
        })
        .await
    }

    async fn totals(&mut self) -> Result<Totals> {
        self.quiet().await?;
        self.count().await
    }

    async fn stuck(&mut self, participant: &str) -> Result<Vec<WorkRow>> {
        self.quiet().await?;
        let mut rows = self.store(participant)?.work(u32::MAX).await?;
        rows.retain(|row| row.state == WorkState::Stuck);
        Ok(rows)
    }

    async fn redeliver(&mut self, times: u32) -> Result<()> {
        let events = self.events().await?;
        let again: Vec<Delivery> = (0..times).flat_map(|_| events.iter().cloned()).collect();
        inject(&self.kafka, &again).await?;
        self.quiet().await
    }

    async fn kill(&mut self, participant: &str) -> Result<()> {
        drop(self.running.remove(participant).context("it does not run")?);
        Ok(())
    }

    async fn start(&mut self, participant: &str) -> Result<()> {
        self.start_another(participant, participant).await
    }
}

/// Asks until there is an answer, with a bound.
pub async fn wait_for<T, F>(what: &str, bound: Duration, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        ensure!(begin.elapsed() < bound, "waited {} s for {what}", bound.as_secs());
        tokio::time::sleep(POLL).await;
    }
}

/// Beside this executable, or one level up from it where it is a test in `deps`.
fn binaries() -> Result<PathBuf> {
    let found = match env::var_os("SAGA_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let executable = env::current_exe()?;
            let directory = executable.parent().context("this executable has no directory")?;
            let is_deps = directory.ends_with("deps");
            directory.parent().filter(|_| is_deps).unwrap_or(directory).to_owned()
        }
    };
    for name in PARTICIPANTS.into_iter().chain(["gateway"]) {
        let there = found.join(name).is_file();
        ensure!(there, "no {name} in {}; to build it: cargo build --workspace --bins", found.display());
    }
    Ok(found)
}
