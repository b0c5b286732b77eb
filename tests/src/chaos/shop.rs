//! The whole shop, and what can be done to it.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    str::FromStr as _,
    sync::{Mutex as Blocking, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};
use tokio::{net::TcpListener, sync::Mutex, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    fault::{Fault, Planned},
    inspection::Inspection,
    instance::{Instance, port},
    journal::Journal,
    proxy::{Dialect, Proxy},
};
use crate::{
    processes::PARTICIPANTS,
    support::{Guarded, Kafka, Postgres, Stop},
};

const MIGRATE_BOUND: Duration = Duration::from_secs(60);
/// How often somebody looks whether a process has ended by itself.
const SUPERVISE_EVERY: Duration = Duration::from_millis(300);
/// Tells the instances that are started when they are needed.
const EXTRA: [&str; 3] = ["2", "3", "heir"];

/// A stop that was measured.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// Who.
    pub instance: String,
    /// From SIGTERM to the exit.
    pub took: Duration,
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Whether everything around it worked.
    pub in_peace: bool,
}

/// Three services, their gateway, and what they stand on.
#[derive(Debug)]
pub struct Shop {
    // First, so that the services end before what they stand on.
    instances: BTreeMap<String, Mutex<Instance>>,
    kafka_proxy: Proxy,
    postgres_proxy: Proxy,
    kafka: Mutex<Kafka>,
    postgres: Mutex<Postgres>,
    client: reqwest::Client,
    journal: Journal,
    stops: Blocking<Vec<Stopped>>,
    exits: Blocking<Vec<String>>,
    inspection: Inspection,
}

impl Shop {
    /// Starts everything, and waits until it is ready. Logs, the journal and the gateway's record go to `directory`.
    pub async fn open(directory: &Path) -> Result<Self> {
        let say = |line: &str| eprintln!("{line}");
        let kafka_listener = TcpListener::bind(("127.0.0.1", port()?)).await?;
        let postgres_listener = TcpListener::bind(("127.0.0.1", port()?)).await?;
        let (kafka_port, postgres_port) = (kafka_listener.local_addr()?.port(), postgres_listener.local_addr()?.port());
        let (kafka, postgres) = tokio::join!(Kafka::start_behind(kafka_port, &say), Postgres::start_to_crash(&say));
        let (kafka, postgres) = (kafka?, postgres?);
        let kafka_proxy = Proxy::start(kafka_listener, kafka.address().parse()?, Dialect::Kafka);
        let options = PgConnectOptions::from_str(postgres.url())?;
        let upstream = format!("{}:{}", options.get_host(), options.get_port()).parse()?;
        let postgres_proxy = Proxy::start(postgres_listener, upstream, Dialect::Postgres);

        let binaries = binaries()?;
        let (mut direct, mut instances) = (Vec::new(), BTreeMap::new());
        let record = format!("sqlite:{}", directory.join("gateway.db").display());
        let environment = vec![("GATEWAY_RECORD".to_owned(), record)];
        let gateway = Instance::new("gateway", binaries.join("gateway"), directory.to_owned(), environment)?;
        let gateway_url = gateway.url();
        instances.insert("gateway".to_owned(), Mutex::new(gateway));
        for name in PARTICIPANTS {
            let url = postgres.database(name).await?;
            let proxied = PgConnectOptions::from_str(&url)?.port(postgres_port).to_url_lossy().to_string();
            let environment = vec![
                ("SAGA_DATABASE".to_owned(), proxied),
                ("SAGA_BROKERS".to_owned(), format!("127.0.0.1:{kafka_port}")),
                ("SAGA_GROUP".to_owned(), name.to_owned()),
                ("SAGA_GATEWAY".to_owned(), gateway_url.clone()),
            ];
            direct.push(format!("{name}={url}"));
            let mut migrate = Guarded::command(binaries.join(name), Stop::default());
            migrate.args(["migrate", "--topics"]).envs(environment.iter().cloned());
            let (status, printed) = Guarded::output(&mut migrate, MIGRATE_BOUND).await?;
            ensure!(status.success(), "{name} migrate failed ({status}): {printed}");
            let names = EXTRA.map(|extra| format!("{name}-{extra}"));
            for instance in names.into_iter().chain([name.to_owned()]) {
                let process = Instance::new(&instance, binaries.join(name), directory.to_owned(), environment.clone())?;
                instances.insert(instance, Mutex::new(process));
            }
        }
        let inspection = Inspection {
            checker: binaries.join("saga-checker"),
            databases: direct.join(" "),
            brokers: kafka.direct().to_owned(),
            groups: PARTICIPANTS.map(|name| format!("{name}={name}")).join(" "),
            gateway: gateway_url,
            accepted: directory.join("accepted.jsonl"),
        };
        let shop = Self {
            instances,
            kafka_proxy,
            postgres_proxy,
            kafka: Mutex::new(kafka),
            postgres: Mutex::new(postgres),
            client: reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build()?,
            journal: Journal::create(&directory.join("journal.jsonl"))?,
            stops: Blocking::default(),
            exits: Blocking::default(),
            inspection,
        };
        for name in PARTICIPANTS.into_iter().chain(["gateway"]) {
            shop.instance(name)?.lock().await.start(&[])?;
        }
        shop.until_ready().await?;
        Ok(shop)
    }

    /// Where customers order.
    pub async fn url(&self) -> Result<String> {
        Ok(self.instance("order")?.lock().await.url())
    }

    /// Who says whether everything is right.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// What happened.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The stops until now.
    pub fn stops(&self) -> Vec<Stopped> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who ended by itself until now, and with which words.
    pub fn exits(&self) -> Vec<String> {
        self.exits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections were cut at a COMMIT, and at a produce request.
    pub fn sprung(&self) -> (u64, u64) {
        (self.postgres_proxy.sprung(), self.kafka_proxy.sprung())
    }

    /// A process by its name.
    pub fn instance(&self, name: &str) -> Result<&Mutex<Instance>> {
        self.instances.get(name).with_context(|| format!("there is no instance {name}"))
    }

    /// Waits until the gateway and one instance of each service can do their work.
    pub async fn until_ready(&self) -> Result<()> {
        for name in ["gateway"].into_iter().chain(PARTICIPANTS) {
            self.instance(name)?.lock().await.until_ready(&self.client).await?;
        }
        Ok(())
    }

    /// Nothing is cut or held back any more.
    pub fn mend(&self) {
        self.kafka_proxy.mend();
        self.postgres_proxy.mend();
    }

    /// Starts whoever has ended by itself, as whoever runs services does, and remembers it.
    pub async fn supervise(&self, stop: CancellationToken) -> Result<()> {
        while stop.run_until_cancelled(sleep(SUPERVISE_EVERY)).await.is_some() {
            for (name, instance) in &self.instances {
                // Somebody is at it.
                let Ok(mut instance) = instance.try_lock() else { continue };
                if let Some(words) = instance.ended() {
                    self.journal.tell("ended by itself", &json!({ "instance": name, "words": words }));
                    self.exits.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name}: {words}"));
                    instance.start(&[])?;
                }
            }
        }
        Ok(())
    }

    /// Breaks something, waits, and mends it.
    pub async fn inflict(&self, planned: &Planned) -> Result<()> {
        let Planned { lasts, fault, .. } = planned;
        let kind = fault.kind();
        let lasts = Duration::from_millis(*lasts);
        // On a slow machine the server may not be up again since it was killed last.
        let is_away = match fault {
            Fault::KillKafka => self.kafka.try_lock().is_err(),
            Fault::KillPostgres { .. } => self.postgres.try_lock().is_err(),
            _ => false,
        };
        if is_away {
            self.journal.tell("left out", &json!({ "fault": kind }));
            return Ok(());
        }
        self.journal.count(&kind, &serde_json::to_value(planned)?);
        match fault {
            Fault::Kill { instance } => {
                self.instance(instance)?.lock().await.kill().await?;
                sleep(lasts).await;
                self.instance(instance)?.lock().await.start(&[])?;
            }
            Fault::Freeze { instance } => self.freeze(instance, lasts).await?,
            Fault::Stop { instance } => {
                self.stop(instance, false).await?;
                sleep(lasts).await;
                self.instance(instance)?.lock().await.start(&[])?;
            }
            Fault::KillKafka => {
                let mut kafka = self.kafka.lock().await;
                kafka.crash().await?;
                sleep(lasts).await;
                kafka.start_again().await.context("Kafka does not start again")?;
            }
            Fault::KillPostgres { politely } => {
                let mut postgres = self.postgres.lock().await;
                postgres.crash(*politely).await?;
                sleep(lasts).await;
                postgres.start_again().await.context("PostgreSQL does not start again")?;
            }
            Fault::CutPostgres { moment } => self.postgres_proxy.cut(*moment),
            Fault::CutKafka { moment } => self.kafka_proxy.cut(*moment),
            Fault::StallPostgres => stall(&self.postgres_proxy, lasts).await,
            Fault::StallKafka => stall(&self.kafka_proxy, lasts).await,
            Fault::BadGateway { behaviour } => {
                let gateway = self.instance("gateway")?;
                gateway.lock().await.kill().await?;
                gateway.lock().await.start(behaviour)?;
                sleep(lasts).await;
                gateway.lock().await.kill().await?;
                gateway.lock().await.start(&[])?;
            }
            Fault::Scale { participant } => {
                let more = [format!("{participant}-2"), format!("{participant}-3")];
                for name in &more {
                    self.instance(name)?.lock().await.start(&[])?;
                }
                sleep(lasts).await;
                for name in &more {
                    self.stop(name, false).await?;
                }
            }
        }
        self.journal.tell("mended", &json!({ "fault": kind }));
        Ok(())
    }

    /// SIGTERM, measured. Somebody who has just ended by himself has nothing to be measured.
    pub async fn stop(&self, name: &str, in_peace: bool) -> Result<()> {
        let mut instance = self.instance(name)?.lock().await;
        if !instance.is_wanted() || instance.ended().is_some() {
            return Ok(());
        }
        let (took, code) = instance.stop().await?;
        self.journal.tell("stopped", &json!({ "instance": name, "ms": took.as_millis(), "code": code }));
        let stopped = Stopped { instance: name.to_owned(), took, code, in_peace };
        self.stops.lock().unwrap_or_else(PoisonError::into_inner).push(stopped);
        Ok(())
    }

    /// While the process is frozen its heir takes over, so that two play the part when it thaws.
    async fn freeze(&self, name: &str, lasts: Duration) -> Result<()> {
        let heir = format!("{name}-heir");
        self.instance(&heir)?.lock().await.start(&[])?;
        // It may have ended by itself a moment ago; then there is nothing to freeze.
        let frozen = self.instance(name)?.lock().await.signal("STOP").await.is_ok();
        sleep(lasts).await;
        if frozen {
            // Nobody else touches it meanwhile, see `Fault::breaks`.
            self.instance(name)?.lock().await.signal("CONT").await?;
        }
        sleep(lasts / 4).await;
        self.stop(&heir, false).await
    }
}

async fn stall(proxy: &Proxy, lasts: Duration) {
    proxy.stall(true);
    sleep(lasts).await;
    proxy.stall(false);
}

/// Beside this executable, unless `SAGA_BIN_DIR` says where.
fn binaries() -> Result<PathBuf> {
    let found = match env::var_os("SAGA_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => env::current_exe()?.parent().context("this executable has no directory")?.to_owned(),
    };
    for name in PARTICIPANTS.into_iter().chain(["gateway", "saga-checker"]) {
        let there = found.join(name).is_file();
        ensure!(there, "no {name} in {}; to build it: cargo build --workspace --bins", found.display());
    }
    Ok(found)
}
