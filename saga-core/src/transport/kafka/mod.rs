//! Kafka, by librdkafka, with every default that could lose or reorder messages overridden and kept.
//!
//! ```text
//! broker ── reader, on its own thread ── queue ── source: receive()
//!              │         ▲
//!   membership: commits  └── positions ── source: settled()
//! ```
//!
//! What it keeps: a position is stored only after [`Source::settled`](super::Source::settled), and only under the assignment that
//! the deliveries were read under, because thread, callbacks and positions meet under one lock. A partition without a committed
//! position starts at its beginning; one whose position the broker no longer has is an error, never reset. The thread polls
//! whatever happens, so the group never takes a slow participant for a dead one.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rdkafka::{
    Message as _,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, Headers},
};

use crate::{envelope::Delivery, step::BoxError, transport::TransportError};

mod config;
mod lag;
mod log;
mod membership;
mod queue;
mod reader;
mod sink;
mod source;
mod topics;
mod voice;

pub use config::KafkaConfig;
pub use lag::{Lag, lag, skip};
pub use log::{inject, read_all};
pub use sink::KafkaSink;
pub use source::KafkaSource;
pub use topics::{TopicSpec, create_topics};

/// How long topics may be missing: one that was just created takes a moment to be known everywhere.
const MISSING_FOR: Duration = Duration::from_secs(5);
/// How long closing may take: what it could not commit is delivered again, which is always allowed.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// Longest pause between two looks at what was settled and at closing.
const POLL: Duration = Duration::from_millis(50);
/// How long [`read_all`] and requests wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub(crate) fn client_error(context: &str, source: impl Into<BoxError>) -> TransportError {
    TransportError::Client { context: context.to_owned(), source: source.into() }
}

/// Waiting does not mend it: somebody has to change permissions or settings.
fn is_refusal(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed)
    )
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn delivery(message: &BorrowedMessage<'_>, topic: Arc<str>, epoch: u64) -> Delivery {
    let headers = message.headers().map(|headers| {
        let headers = headers.iter();
        headers.map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect()
    });
    Delivery {
        topic,
        partition: message.partition(),
        offset: message.offset(),
        epoch,
        key: message.key().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        body: message.payload().unwrap_or_default().to_vec(),
    }
}
