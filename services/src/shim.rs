//! To be removed: stands in for what other crates of this workspace do not have yet, with the signatures that they will have.
#![allow(missing_docs, clippy::unused_async, reason = "to be removed")]

pub(crate) mod kafka {
    use saga_core::transport::{Sink, Source, TransportError};
    use std::{sync::Arc, time::Duration};

    #[derive(Debug, Clone)]
    #[expect(dead_code, reason = "to be removed")]
    pub(crate) struct KafkaConfig {
        pub(crate) brokers: String,
        pub(crate) group: String,
        pub(crate) extra: Vec<(String, String)>,
    }

    #[derive(Debug, Clone)]
    #[expect(dead_code, reason = "to be removed")]
    pub(crate) struct TopicSpec {
        pub(crate) name: String,
        pub(crate) partitions: i32,
        pub(crate) replication: i32,
        pub(crate) retention: Option<Duration>,
    }

    pub(crate) struct KafkaSource;
    pub(crate) struct KafkaSink;

    impl KafkaSource {
        pub(crate) fn connect(_: &KafkaConfig, _: &[&str]) -> Result<Box<dyn Source>, TransportError> {
            Err(TransportError::Closed)
        }
    }
    impl KafkaSink {
        pub(crate) fn connect(_: &KafkaConfig) -> Result<Arc<dyn Sink>, TransportError> {
            Err(TransportError::Closed)
        }
    }
    pub(crate) async fn create_topics(_: &KafkaConfig, _: &[TopicSpec]) -> Result<Vec<String>, TransportError> {
        Err(TransportError::Closed)
    }
}
