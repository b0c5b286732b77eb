//! A broker inside one process, for demonstrations and tests: real sockets and the real protocol, nothing kept.
//!
//! It is librdkafka's own mock. Its limits: memory only; 5 MiB for each partition, after which the oldest messages go silently;
//! no admin API, so topics are named at the start; a group waits 3 seconds for its first members (the setter is not in
//! the safe API), and at each later change for the session timeout less a second; a waiting fetch is not woken by a new message;
//! positions are refused while a group's members join, so that what was settled last comes again; transactions mean nothing.
//! Whoever uses it says so.

use std::{
    fmt,
    sync::mpsc::{self, Sender, SyncSender},
    thread::JoinHandle,
};

use rdkafka::{error::KafkaError, mocking::MockCluster};

use super::{
    TransportError,
    kafka::{KafkaConfig, client_error},
};
use crate::step::BoxError;

/// What clients of this broker set besides, or each member that comes or goes halts its group for nine seconds.
pub const SETTINGS: [(&str, &str); 2] = [("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "500")];

/// The mock numbers its brokers from one.
const ONLY_BROKER: i32 = 1;

/// A running broker; it ends when this is dropped.
pub struct EmbeddedBroker {
    address: String,
    /// Dropping it tells the thread to end. The cluster is a raw pointer and stays on the thread that made it.
    asked: Option<Sender<Leader>>,
    thread: Option<JoinHandle<()>>,
}

/// A partition is to have a leader, or none.
struct Leader {
    topic: String,
    partition: i32,
    there: bool,
    done: SyncSender<Result<(), KafkaError>>,
}

impl EmbeddedBroker {
    /// Starts a broker with these topics and their numbers of partitions.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self, TransportError> {
        let topics: Vec<(String, i32)> = topics.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let (started, outcome) = mpsc::sync_channel(1);
        let (asked, asks) = mpsc::channel::<Leader>();
        let host = move || {
            let cluster = MockCluster::new(1).and_then(|cluster| {
                for (name, partitions) in &topics {
                    cluster.create_topic(name, *partitions, 1)?;
                }
                Ok(cluster)
            });
            let address = cluster.as_ref().map(MockCluster::bootstrap_servers).map_err(Clone::clone);
            // Two ends: nobody waits for the start any more, or the broker was dropped.
            let (Ok(()), Ok(cluster)) = (started.send(address), cluster) else { return };
            for Leader { topic, partition, there, done } in asks {
                let leader = there.then_some(ONLY_BROKER);
                done.send(cluster.partition_leader(&topic, partition, leader)).ok(); // whoever asked may be gone
            }
        };
        let thread = std::thread::Builder::new()
            .name("embedded-broker".to_owned())
            .spawn(host)
            .map_err(|error| client_error("starting the thread of the embedded broker", error))?;
        let address = outcome
            .recv()
            .map_err(|error| client_error("starting the embedded broker", error))?
            .map_err(|error| client_error("starting the embedded broker", error))?;
        Ok(Self { address, asked: Some(asked), thread: Some(thread) })
    }

    /// What clients connect to, as `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Takes a partition's leader away, as when the brokers that have the partition are down, or gives it back.
    pub fn set_leader(&self, topic: &str, partition: i32, there: bool) -> Result<(), TransportError> {
        let failed = |error: BoxError| client_error("asking the embedded broker for another leader", error);
        let (done, outcome) = mpsc::sync_channel(1);
        let leader = Leader { topic: topic.to_owned(), partition, there, done };
        let asked = self.asked.as_ref().ok_or(TransportError::Closed)?;
        asked.send(leader).map_err(|_| TransportError::Closed)?;
        outcome.recv().map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
    }

    /// A configuration for a group on this broker.
    pub fn config(&self, group: &str) -> KafkaConfig {
        let extra = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        KafkaConfig { brokers: self.address.clone(), group: group.to_owned(), extra }
    }
}

impl fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBroker").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        drop(self.asked.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the embedded broker's thread panicked");
        }
    }
}
