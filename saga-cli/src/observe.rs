//! `saga observe`: fills the observer's tables from the topics until it is told to stop.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use saga_choreography::Choreography;
use saga_core::{
    clock::Clock,
    signal,
    transport::kafka::{KafkaConfig, KafkaSource},
};
use saga_observer::{Cast, Store, intake};
use tokio::signal::unix::{SignalKind, signal};

use crate::{manifests::Manifests, observed::Observed};

pub(crate) const LONG: &str = "\
Watch the topics of a choreography, and keep for every saga where it is and what it waits for

Sagas never depend on it: stop it, delete its tables, start it again, and it fills them from the
topics. Several observers that share a PostgreSQL share the work.";

const EXAMPLES: &str = "\
Examples:
  saga observe --bin target/release/order --bin target/release/payment --bin target/release/shipping
  saga observe manifests/*.json --observer postgres://saga@db/observer --brokers kafka:9092";

/// See [`LONG`].
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ObserveCommand {
    #[command(flatten)]
    manifests: Manifests,
    /// Kafka's bootstrap servers
    #[arg(long, env = "SAGA_BROKERS", default_value = "127.0.0.1:9092")]
    brokers: String,
    /// The topic on which participants tell what waits; empty for none
    #[arg(long, env = "SAGA_SIGNALS", default_value = signal::TOPIC)]
    signals: String,
    /// A setting of the Kafka client, such as security.protocol=SASL_SSL; may be repeated, or separated by commas.
    /// For passwords, use the environment
    #[arg(long, env = "SAGA_KAFKA_CONFIG", hide_env_values = true, value_name = "KEY=VALUE", value_delimiter = ',')]
    kafka_config: Vec<String>,
    #[command(flatten)]
    observed: Observed,
}

impl ObserveCommand {
    pub(crate) async fn run(&self) -> anyhow::Result<ExitCode> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let choreography: Choreography = self.manifests.read().await?;
        let store = Store::open(&self.observed.url, Clock::system().time_ordered_uuid()).await;
        let store = store.context("the observer's tables cannot be opened")?;
        store.remember(&choreography.manifests).await?;
        let signals = Some(self.signals.as_str()).filter(|topic| !topic.is_empty());
        let topics = intake::topics(&choreography.manifests, signals);
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let source = KafkaSource::connect(&self.kafka(&store)?, &names)?;
        let cast = Cast::of(choreography.flow());
        println!("observing {}; look with saga list, saga show, saga stuck", topics.join(", "));
        let told = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        intake::run(&store, &cast, source, told).await?;
        Ok(ExitCode::SUCCESS)
    }

    fn kafka(&self, store: &Store) -> anyhow::Result<KafkaConfig> {
        let extra = self.kafka_config.iter().map(|pair| KafkaConfig::setting(pair)).collect::<Result<_, _>>()?;
        Ok(KafkaConfig { brokers: self.brokers.clone(), group: store.group(), extra })
    }
}
