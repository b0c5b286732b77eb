//! Every name that leaves the process: attributes, which are log fields too, metrics and spans.
//!
//! The `messaging.*` names are those of the OpenTelemetry semantic conventions for messaging and Kafka; what the conventions do
//! not know is under `saga.*`.

/// Target of the spans of reactions, and the name of the tracer and the meter.
pub const SCOPE: &str = "saga";

/// Which process of a service: a resource attribute.
pub const INSTANCE: &str = "service.instance.id";

/// Always [`KAFKA`].
pub const MESSAGING_SYSTEM: &str = "messaging.system";
/// The value of [`MESSAGING_SYSTEM`].
pub const KAFKA: &str = "kafka";
/// What is done with a message, in the words of this project: [`SEND`], [`PROCESS`].
pub const OPERATION_NAME: &str = "messaging.operation.name";
/// What is done with a message, in the words of the conventions: [`SEND`], [`PROCESS`].
pub const OPERATION_TYPE: &str = "messaging.operation.type";
/// Hands an event to the broker.
pub const SEND: &str = "send";
/// Reacts to an event.
pub const PROCESS: &str = "process";
/// Takes messages from a topic.
pub const RECEIVE: &str = "receive";
/// The topic.
pub const DESTINATION: &str = "messaging.destination.name";
/// The partition, as text: the conventions want a string.
pub const PARTITION: &str = "messaging.destination.partition.id";
/// The offset.
pub const OFFSET: &str = "messaging.kafka.offset";
/// The event's id.
pub const MESSAGE_ID: &str = "messaging.message.id";
/// The saga's id.
pub const CONVERSATION_ID: &str = "messaging.message.conversation_id";
/// Why a reaction did not succeed: the word of its outcome.
pub const ERROR_TYPE: &str = "error.type";

/// Who reacts.
pub const PARTICIPANT: &str = "saga.participant";
/// With which step.
pub const STEP: &str = "saga.step";
/// Which way: `forward` or `compensation`.
pub const DIRECTION: &str = "saga.direction";
/// 1 for the first attempt.
pub const ATTEMPT: &str = "saga.attempt";
/// The event's type.
pub const EVENT_TYPE: &str = "saga.event.type";
/// What became of a reaction; [`ROLLED_BACK`] when its transaction did not commit.
pub const OUTCOME: &str = "saga.outcome";
/// How a saga ended.
pub const ENDING: &str = "saga.ending";
/// The outcome of a span whose transaction did not commit: what it would have sent was not sent.
pub const ROLLED_BACK: &str = "rolled_back";

/// Histogram, seconds: one reaction inside its transaction.
pub const PROCESS_DURATION: &str = "messaging.process.duration";
/// Histogram, seconds: one call to another system.
pub const CALL_DURATION: &str = "saga.call.duration";
/// Histogram, seconds: one batch, from begin to commit.
pub const BATCH_DURATION: &str = "saga.batch.duration";
/// Histogram: reactions in one batch.
pub const BATCH_SIZE: &str = "saga.batch.size";
/// Counter: reactions and calls, by outcome.
pub const REACTIONS: &str = "saga.reactions";
/// Counter: sagas that started here.
pub const STARTED: &str = "saga.started";
/// Counter: sagas that were closed here, by ending.
pub const ENDED: &str = "saga.ended";
/// Counter: events whose type nobody here reacts to.
pub const PASSED: &str = "saga.events.passed";
/// Up-down counter: steps at which everything fails, so that one reaction probes and the others wait.
pub const BREAKERS_OPEN: &str = "saga.breakers.open";
/// Counter: reactions that have failed for longer than their step's patience.
pub const PATIENCE_EXCEEDED: &str = "saga.patience.exceeded";
/// Counter: sagas that were forgotten because they are old.
pub const FORGOTTEN: &str = "saga.forgotten";
/// Gauge: sagas that started here and have had no ending for too long.
pub const OVERDUE: &str = "saga.overdue";
/// Gauge: committed events that wait for the broker.
pub const OUTBOX_ROWS: &str = "saga.outbox.rows";
/// Gauge: reactions that wait, by [`WORK_STATE`].
pub const WORK_ROWS: &str = "saga.work.rows";
/// What a waiting reaction waits for: `calling`, `deferred`, `parked` or `stuck`.
pub const WORK_STATE: &str = "saga.work.state";
/// Counter: messages that the broker acknowledged.
pub const SENT_MESSAGES: &str = "messaging.client.sent.messages";
/// Counter: messages taken from a topic.
pub const CONSUMED_MESSAGES: &str = "messaging.client.consumed.messages";

/// Span around the reaction to an event.
pub fn process_span(topic: &str) -> String {
    format!("process {topic}")
}

/// Span around the emission of an event.
pub fn send_span(topic: &str) -> String {
    format!("send {topic}")
}

/// Span around the start of a saga.
pub fn start_span(step: &str) -> String {
    format!("start {step}")
}

/// Span around a request that joins a saga.
pub fn request_span(step: &str) -> String {
    format!("request {step}")
}

/// Span around a call to another system.
pub fn call_span(step: &str) -> String {
    format!("call {step}")
}
