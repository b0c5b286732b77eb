//! What the client says goes to the log, each kind of line once in a while.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use rdkafka::{config::RDKafkaLogLevel, error::KafkaError};

use super::locked;

/// The same line of the client's log is written once in so long: a broker that is away says so twenty times a second.
const SAY_AGAIN: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Voice {
    said: Mutex<HashMap<String, Instant>>,
    last: Mutex<String>,
}

impl Voice {
    pub(super) fn may_say(&self, kind: &str) -> bool {
        let mut said = locked(&self.said);
        if said.get(kind).is_some_and(|at| at.elapsed() < SAY_AGAIN) {
            return false;
        }
        said.insert(kind.to_owned(), Instant::now());
        true
    }

    pub(super) fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            RDKafkaLogLevel::Debug => tracing::debug!(facility, "{line}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => tracing::info!(facility, "{line}"),
            _ if self.may_say(facility) => tracing::warn!(facility, "{line}"),
            _ => {}
        }
    }

    pub(super) fn error(&self, error: &KafkaError, reason: &str) {
        reason.clone_into(&mut locked(&self.last));
        if self.may_say(&format!("{error:?}")) {
            tracing::warn!(reason, "Kafka: {error}");
        }
    }

    pub(super) fn last(&self) -> String {
        locked(&self.last).clone()
    }
}
