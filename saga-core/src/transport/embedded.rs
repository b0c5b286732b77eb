//! A broker inside one process, for demonstrations and tests: real sockets and the real protocol, nothing kept.
//!
//! It is librdkafka's own mock. Its limits: memory only; 5 MiB for each partition, after which the oldest messages go silently;
//! no admin API, so topics are named at the start; a group waits 3 seconds for its first members (the setter is not in
//! the safe API); a waiting fetch is not woken by a new message; transactions mean nothing. Whoever uses it says so.

use std::{
    fmt,
    sync::mpsc::{self, Sender},
    thread::JoinHandle,
};

use rdkafka::mocking::MockCluster;

use super::{
    TransportError,
    kafka::{KafkaConfig, client_error},
};

/// A running broker; it ends when this is dropped.
pub struct EmbeddedBroker {
    address: String,
    /// Dropping it tells the thread to end. The cluster is a raw pointer and stays on the thread that made it.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Starts a broker with these topics and their numbers of partitions.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self, TransportError> {
        let topics: Vec<(String, i32)> = topics.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let (started, outcome) = mpsc::sync_channel(1);
        let (stop, stopped) = mpsc::channel::<()>();
        let host = move || {
            let cluster = MockCluster::new(1).and_then(|cluster| {
                for (name, partitions) in &topics {
                    cluster.create_topic(name, *partitions, 1)?;
                }
                Ok(cluster)
            });
            let address = cluster.as_ref().map(MockCluster::bootstrap_servers).map_err(Clone::clone);
            // Both ends: nobody waits for the start any more, or the broker was dropped.
            if started.send(address).is_ok() && cluster.is_ok() {
                stopped.recv().ok();
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
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// What clients connect to, as `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A configuration for a group on this broker.
    pub fn config(&self, group: &str) -> KafkaConfig {
        KafkaConfig { brokers: self.address.clone(), group: group.to_owned(), extra: Vec::new() }
    }
}

impl fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBroker").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the embedded broker's thread panicked");
        }
    }
}
