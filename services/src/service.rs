//! The shell around a participant: options, connections, health, signals.
//!
//! The invariant: a service that runs has tables and topics that somebody made on purpose (`migrate`), and stops within five
//! seconds of being told to.

use std::{fmt, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{Router, http::StatusCode, routing::get};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use saga_core::{
    Manifest, Participant,
    clock::Clock,
    id::SagaId,
    manifest,
    node::{Health, Node},
    retention::Retention,
    signal,
    start::Starter,
    store::Store,
    transport::kafka::{KafkaConfig, KafkaSink, KafkaSource, TopicSpec, create_topics},
};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::{
    problem::{self, Problem},
    process::{Signals, exit, probe, serve, until_told},
};

/// How long stopping may take, from the signal to the exit. Container runtimes kill after ten seconds.
const GRACE: Duration = Duration::from_secs(5);

/// What of it is kept for sending the last spans.
const FLUSH: Duration = Duration::from_secs(1);

/// What a service brings along. `O` are options of its own; [`NoOptions`] when it has none.
#[derive(Debug)]
pub struct Service<O> {
    /// The participant's name.
    pub name: &'static str,
    /// Where it serves HTTP unless told otherwise.
    pub http: &'static str,
    /// Its own tables.
    pub schema: &'static [&'static str],
    /// Its cast.
    pub participant: fn(&O) -> anyhow::Result<Participant>,
    /// Its own routes, beside `/health` and `/ready`.
    pub routes: fn(Starter, Store) -> Router,
}

/// No options beside those that every service has.
#[derive(Debug, Clone, Args)]
pub struct NoOptions {}

/// The routes of a service that nobody calls.
pub fn no_routes(_: Starter, _: Store) -> Router {
    Router::new()
}

#[derive(Debug, Parser)]
#[command(version, about = "A service of the sample shop", max_term_width = 100)]
struct Cli<O: Args> {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    own: O,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play the part, until told to stop; also without a command
    Run,
    /// Create or upgrade the tables
    Migrate(Migrate),
    /// Print what it declares: its manifest, for `saga verify`, or a table for people
    Describe {
        /// The manifest, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the running service on this machine whether it is ready
    Health,
}

#[derive(Debug, Args)]
struct Migrate {
    /// Create the topics that it publishes on, too
    #[arg(long)]
    topics: bool,
    /// Partitions of a new topic
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// Replicas of a new topic
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    replication: i32,
    /// How long a new topic keeps its events
    #[arg(long, default_value = "7days", value_parser = humantime::parse_duration)]
    retention: Duration,
}

#[derive(Debug, Args)]
struct Options {
    /// Kafka's bootstrap servers
    #[arg(long, env = "SAGA_BROKERS", default_value = "127.0.0.1:9092", global = true)]
    brokers: String,
    /// postgres://USER:PASSWORD@HOST/NAME or sqlite:FILE [default: sqlite:NAME.db]. Every user of the machine sees an
    /// argument: where the URL has a password, use the environment
    #[arg(long, env = "SAGA_DATABASE", hide_env_values = true, global = true)]
    database: Option<String>,
    /// Where to send traces and metrics, such as http://127.0.0.1:4317; also OTEL_EXPORTER_OTLP_ENDPOINT
    #[arg(long, env = "SAGA_OTLP", global = true)]
    otlp: Option<String>,
    /// Where to serve HTTP
    // Each service has another default, which `main` sets.
    #[arg(long, env = "SAGA_HTTP", required = false, global = true)]
    http: SocketAddr,
    /// The consumer group [default: the service's name]
    #[arg(long, env = "SAGA_GROUP", global = true)]
    group: Option<String>,
    /// A setting of the Kafka client, such as security.protocol=SASL_SSL; may be repeated, or separated by commas.
    /// For passwords, use the environment
    // Not parsed here: the message of a parser would repeat the value.
    #[arg(
        long,
        env = "SAGA_KAFKA_CONFIG",
        hide_env_values = true,
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        global = true
    )]
    kafka_config: Vec<String>,
    /// How long sagas are remembered; at least as long as the topics keep their events, or they may run again for nothing
    #[arg(long, env = "SAGA_KEEP", default_value = "30days", value_parser = humantime::parse_duration, global = true)]
    keep: Duration,
    /// Forget sagas although the topics still hold their events
    #[arg(long, env = "SAGA_KEEP_SHORTER_THAN_TOPICS", global = true)]
    keep_shorter_than_topics: bool,
    /// When a saga without an ending is counted as overdue, where it started
    #[arg(long, env = "SAGA_OVERDUE", default_value = "1h", value_parser = humantime::parse_duration, global = true)]
    overdue: Duration,
    /// The topic on which stuck reactions are told; empty for none
    #[arg(long, env = "SAGA_SIGNALS", default_value = signal::TOPIC, global = true)]
    signals: String,
    /// How to write the log
    #[arg(long, env = "SAGA_LOG", default_value = "text", global = true)]
    log: Log,
    /// Which part of the sagas to trace, from 0 to 1
    #[arg(long, env = "SAGA_SAMPLE", default_value_t = 1.0, value_parser = share, global = true)]
    sample: f64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Log {
    Text,
    Json,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "expected 0 to 1".to_owned())
}

impl Options {
    fn database(&self, name: &str) -> String {
        self.database.clone().unwrap_or_else(|| format!("sqlite:{name}.db"))
    }

    fn kafka(&self, name: &str) -> anyhow::Result<KafkaConfig> {
        Ok(KafkaConfig {
            brokers: self.brokers.clone(),
            group: self.group.clone().unwrap_or_else(|| name.to_owned()),
            extra: self.kafka_config.iter().map(|pair| KafkaConfig::setting(pair)).collect::<Result<_, _>>()?,
        })
    }

    fn retention(&self) -> Retention {
        let retention = Retention::keep(self.keep).overdue_after(self.overdue);
        if self.keep_shorter_than_topics { retention.shorter_than_topics() } else { retention }
    }

    /// The topic of its signals, if it publishes any.
    fn signals(&self) -> Option<&str> {
        Some(self.signals.as_str()).filter(|topic| !topic.is_empty())
    }

    fn telemetry(&self, name: &str) -> saga_tracing::Config {
        let named = |variable| std::env::var(variable).ok().filter(|value| !value.is_empty());
        saga_tracing::Config {
            service: name.to_owned(),
            otlp: self.otlp.clone().or_else(|| named("OTEL_EXPORTER_OTLP_ENDPOINT")),
            log: match self.log {
                Log::Text => saga_tracing::LogFormat::Text,
                Log::Json => saga_tracing::LogFormat::Json,
            },
            sample: self.sample,
        }
    }
}

impl<O: Args + fmt::Debug> Service<O> {
    /// Does what the command line says.
    pub fn main(self) -> ExitCode {
        let command = Cli::<O>::command().name(self.name).mut_arg("http", |http| http.default_value(self.http));
        let parsed = Cli::<O>::from_arg_matches(&command.get_matches());
        let cli = parsed.unwrap_or_else(|error| error.exit());
        exit(self.name, self.dispatch(cli))
    }

    async fn dispatch(self, cli: Cli<O>) -> anyhow::Result<()> {
        let participant = (self.participant)(&cli.own)?;
        participant.check()?;
        match cli.command.unwrap_or(Command::Run) {
            Command::Run => self.run(participant, &cli.options).await,
            Command::Migrate(how) => self.migrate(&participant, &cli.options, &how).await,
            Command::Describe { json } => {
                print!("{}", describe(&participant, &cli.options, json)?);
                Ok(())
            }
            Command::Health => probe(cli.options.http).await,
        }
    }

    async fn migrate(&self, participant: &Participant, options: &Options, how: &Migrate) -> anyhow::Result<()> {
        let store = connect(options, self.name).await?;
        store.migrate().await.context("the toolkit's tables could not be created")?;
        create_tables(&store, self.schema).await.context("the service's own tables could not be created")?;
        println!("{}: the tables are there", self.name);
        if how.topics {
            let names: Vec<&str> = participant.publishes_on().into_iter().chain(options.signals()).collect();
            let topics: Vec<_> = names
                .iter()
                .map(|&name| TopicSpec {
                    name: name.to_owned(),
                    partitions: how.partitions,
                    replication: how.replication,
                    retention: Some(how.retention),
                })
                .collect();
            let kafka = options.kafka(self.name)?;
            let created = create_topics(&kafka, &topics).await.context("the topics could not be created")?;
            println!("{}: the topics {names:?} are there, {} of them new", self.name, created.len());
        }
        Ok(())
    }

    async fn run(self, participant: Participant, options: &Options) -> anyhow::Result<()> {
        let telemetry = saga_tracing::init(options.telemetry(self.name)).context("telemetry could not be set up")?;
        let played = self.play(participant, options, telemetry.observer()).await;
        let lost = match tokio::time::timeout(FLUSH, telemetry.shutdown()).await {
            Ok(sent) => sent.err(),
            Err(late) => Some(late.into()),
        };
        if let Some(error) = lost {
            // No reason to fail: the saga's own records are elsewhere.
            eprintln!("{}: the last spans were not sent: {error:#}", self.name);
        }
        played
    }

    async fn play(
        &self,
        participant: Participant,
        options: &Options,
        observer: Arc<dyn saga_core::observer::Observer>,
    ) -> anyhow::Result<()> {
        let mut signals = Signals::listen()?;
        let starting = async {
            let store = connect(options, self.name).await?;
            store.check().await.with_context(|| format!("the database is not ready for {}", self.name))?;
            // What serves HTTP has connections of its own: a flood of requests must not keep the participant from settling.
            let requests = store.apart().await.context("the database cannot be reached")?;
            let kafka = options.kafka(self.name)?;
            let source = KafkaSource::connect(&kafka, &participant.listens_to()).context("no source of events")?;
            let sink = KafkaSink::connect(&kafka).context("no way to publish events")?;
            let node = Node::observed(participant, store, source, sink, observer, Clock::system())?;
            #[cfg(feature = "harness")]
            let node = node.with_harness(&saga_core::harness::Harness::from_environment()?);
            let node = node.remembering(options.retention());
            let node = match options.signals() {
                Some(topic) => node.signalling(topic),
                None => node,
            };
            let listener = TcpListener::bind(options.http)
                .await
                .with_context(|| format!("HTTP cannot be served at {}", options.http))?;
            anyhow::Ok((requests, node, listener))
        };
        let (requests, node, listener) = tokio::select! {
            started = starting => started?,
            () = signals.next() => return Ok(()),
        };
        let routes = (self.routes)(node.starter().over(requests.clone()), requests).merge(health(node.health()));
        let http = listener.local_addr()?;
        println!("{}: at http://{http}", self.name);
        tracing::info!(service = self.name, %http, brokers = %options.brokers, "playing");
        until_told(&mut signals, GRACE - FLUSH, |stop| async move {
            // Whichever ends first ends the other.
            let done = stop.clone();
            let node = async {
                let _ends = done.drop_guard();
                let ended = node.run(stop.cancelled()).await.context("the participant stopped");
                // Now, because requests that hang may keep the other half until the deadline, and then nobody reads this.
                ended.inspect_err(|error| tracing::error!(error = &**error as &dyn std::error::Error, "stopping"))
            };
            let (node, served) = tokio::join!(node, serve(listener, problem::complete(routes), stop.clone()));
            node.and(served)
        })
        .await
    }
}

/// A service that has never had its database ends, and whoever runs it starts it again: a wrong address must not look like an outage.
/// One that has had it waits for it.
async fn connect(options: &Options, name: &str) -> anyhow::Result<Store> {
    let url = options.database(name);
    let store = Store::connect(&url, name).await;
    store.with_context(|| {
        format!(
            "the database {} cannot be reached: start it, or say with SAGA_DATABASE or --database where it is",
            without_secrets(&url)
        )
    })
}

/// A database's URL, fit for a log: no user, no password, no parameters.
fn without_secrets(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
        _ => url.to_owned(),
    }
}

/// Runs the statements of a service's own schema, each of which may have been run before.
pub async fn create_tables(store: &Store, schema: &[&'static str]) -> anyhow::Result<()> {
    let mut tx = store.begin().await?;
    // No saga has the nil id: its lock keeps two of these apart, because IF NOT EXISTS alone can fail when both create.
    tx.lock(&[SagaId(Uuid::nil())]).await?;
    for statement in schema {
        tx.conn().execute(statement, ()).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// `/health`: the process lives. `/ready`: it has its database and its partitions.
fn health(node: Health) -> Router {
    let ready = async move || match node.ready().await {
        Ok(()) => {
            // Still ready with these: another instance would fare no better.
            let (steps, partitions) = (node.failing_steps(), node.slow_partitions());
            let mut said = "ready".to_owned();
            if !steps.is_empty() {
                said += &format!(", but everything fails at {}", steps.join(", "));
            }
            if !partitions.is_empty() {
                said += &format!(", but events wait for the broker at {}", partitions.join(", "));
            }
            Ok(said)
        }
        Err(why) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)),
    };
    Router::new().route("/health", get(async || "alive")).route("/ready", get(ready))
}

/// What `describe` prints: this participant's part of a choreography.
fn describe(participant: &Participant, options: &Options, json: bool) -> anyhow::Result<String> {
    let group = options.group.as_deref().unwrap_or(participant.name());
    let manifest = Manifest::of(participant).version(env!("CARGO_PKG_VERSION")).group(group);
    Ok(if json { serde_json::to_string_pretty(&manifest)? + "\n" } else { manifest::to_table(&[manifest]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_without_its_password() {
        for (url, named) in [
            ("postgres://order:s3@cret@db:5432/shop?password=x", "postgres://db:5432/shop"),
            ("postgres://db/shop", "postgres://db/shop"),
            ("sqlite:order.db", "sqlite:order.db"),
        ] {
            let shown = without_secrets(url);
            assert!(shown == named && !shown.contains("order:"), "{url}: {shown}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed_and_hides_secrets() {
        let mut command = Cli::<NoOptions>::command().mut_arg("http", |http| http.default_value("127.0.0.1:1"));
        command.clone().debug_assert();
        assert!(command.render_long_help().to_string().contains("SAGA_DATABASE"));
        let cli = |args: &[&str]| {
            let matches = command.clone().try_get_matches_from([&["service"], args].concat())?;
            Cli::<NoOptions>::from_arg_matches(&matches)
        };
        let given = cli(&["migrate", "--topics", "--kafka-config", "a=1,b=2=3", "--http", "127.0.0.1:9"]).unwrap();
        assert_eq!(given.options.kafka("order").unwrap().extra, [("a".into(), "1".into()), ("b".into(), "2=3".into())]);
        assert_eq!(given.options.http.port(), 9);
        assert_eq!(cli(&[]).unwrap().options.http.port(), 1);
        assert!(matches!(given.command, Some(Command::Migrate(Migrate { topics: true, partitions: 6, .. }))));
        assert!(cli(&["--sample", "1.1"]).is_err());
        let mistaken = cli(&["--kafka-config", "hunter2"]).unwrap().options.kafka("order").unwrap_err();
        assert!(!format!("{mistaken:#}").contains("hunter2"));
    }
}
