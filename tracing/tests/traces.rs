//! What three services export while they play a saga, seen by a collector.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[allow(dead_code, unreachable_pub, reason = "the collector is shared with the end-to-end tests")]
#[path = "../../tests/src/otlp.rs"]
mod otlp;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use otlp::{OtlpReceiver, ReceivedSpan};
use saga_core::{
    envelope::TraceContext,
    event::Ending,
    id::{EventId, SagaId},
    observer::{Emission, Measure, Observer, Outcome, Phase, Reaction},
    step::Direction,
};
use saga_tracing::{Config, LogFormat, Telemetry, names, prepare};
use tracing::Dispatch;

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

struct Service {
    name: &'static str,
    telemetry: Telemetry,
    dispatch: Dispatch,
    observer: Arc<dyn Observer>,
}

/// What a service hears, does and sends.
struct Turn<'t> {
    phase: Phase,
    step: &'t str,
    hears: Option<&'t str>,
    sends: Option<(&'t str, Option<Ending>)>,
    becomes: Option<Outcome>,
}

impl Service {
    fn new(name: &'static str, otlp: Option<String>) -> Self {
        Self::sampling(name, otlp, 1.0)
    }

    fn sampling(name: &'static str, otlp: Option<String>, sample: f64) -> Self {
        let config = Config { service: name.to_owned(), otlp, log: LogFormat::Text, sample };
        let (telemetry, dispatch) = prepare(config).unwrap();
        let observer = telemetry.observer();
        Self { name, telemetry, dispatch, observer }
    }

    /// One reaction; gives back the context that its emission carries.
    fn plays(&self, turn: &Turn<'_>, parent: &TraceContext) -> TraceContext {
        tracing::dispatcher::with_default(&self.dispatch, || {
            let event = EventId(format!("event-for-{}", turn.step));
            let mut reaction = self.observer.reaction(&Reaction {
                participant: self.name,
                step: turn.step,
                direction: Direction::Forward,
                saga: SagaId(Default::default()),
                event: turn.hears.is_some().then_some(&event),
                event_type: turn.hears.map(|_| "SomethingHappened"),
                position: turn.hears.map(|topic| (topic, 3, 41)),
                attempt: 1,
                phase: turn.phase,
                parent,
            });
            reaction.span().in_scope(|| {
                drop(tracing::info_span!("own work").entered());
                // What exports must not be exported, and details are not worth it.
                drop(tracing::info_span!(target: "h2::client", "transport").entered());
                drop(tracing::info_span!(target: "tonic::transport", "transport").entered());
                drop(tracing::info_span!(target: "opentelemetry_sdk", "transport").entered());
                drop(tracing::debug_span!("detail").entered());
            });
            let carries = turn.sends.and_then(|(topic, ending)| {
                let id = EventId(format!("event-from-{}", turn.step));
                reaction.emit(&Emission { id: &id, event_type: "SomethingHappened", topic, ending })
            });
            if let Some(outcome) = &turn.becomes {
                reaction.settle(outcome, Duration::from_millis(1));
            }
            carries.unwrap_or_else(|| parent.clone())
        })
    }

    async fn stops(self) {
        self.telemetry.shutdown().await.unwrap();
    }
}

fn turn<'t>(step: &'t str, hears: Option<&'t str>, sends: Option<&'t str>) -> Turn<'t> {
    let sends = sends.map(|topic| (topic, None));
    Turn { phase: Phase::Settle, step, hears, sends, becomes: Some(Outcome::Emitted) }
}

fn carried(traceparent: &str) -> TraceContext {
    TraceContext { traceparent: Some(traceparent.to_owned()), tracestate: Some("vendor=1".to_owned()) }
}

fn named<'s>(spans: &'s [ReceivedSpan], name: &str) -> &'s ReceivedSpan {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name:?} in {spans:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_is_one_trace_across_its_services() {
    let collector = OtlpReceiver::start().await.unwrap();
    let [order, payment, shipping] =
        ["order", "payment", "shipping"].map(|name| Service::new(name, Some(collector.endpoint())));

    let placed = order.plays(&turn("place-order", None, Some("orders")), &TraceContext::default());
    let called = Turn { phase: Phase::Call, becomes: Some(Outcome::Answered), ..turn("charge", Some("orders"), None) };
    payment.plays(&called, &placed);
    let charged = payment.plays(&turn("charge", Some("orders"), Some("payments")), &placed);
    let shipped = shipping.plays(&turn("ship", Some("payments"), Some("shipments")), &charged);
    let closing =
        Turn { sends: Some(("orders", Some(Ending::Completed))), ..turn("complete-order", Some("shipments"), None) };
    order.plays(&closing, &shipped);
    let consumed = Measure::Consumed { topic: "shipments", messages: 1 };
    order.observer.measure("order", &consumed);
    order.observer.measure("order", &Measure::Started);
    for service in [order, payment, shipping] {
        service.stops().await;
    }

    let edges = collector.edges();
    assert_eq!(
        edges,
        [
            "order: process shipments -> order: own work",
            "order: process shipments -> order: send orders",
            "order: send orders -> payment: call charge",
            "order: send orders -> payment: process orders",
            "order: start place-order -> order: own work",
            "order: start place-order -> order: send orders",
            "payment: call charge -> payment: own work",
            "payment: process orders -> payment: own work",
            "payment: process orders -> payment: send payments",
            "payment: send payments -> shipping: process payments",
            "shipping: process payments -> shipping: own work",
            "shipping: process payments -> shipping: send shipments",
            "shipping: send shipments -> order: process shipments",
        ]
    );
    let spans = collector.spans();
    assert_eq!(spans.iter().filter(|span| span.parent_span_id.is_none()).count(), 1, "one root");
    assert!(spans.iter().all(|span| span.trace_id == spans[0].trace_id), "one trace");
    assert_eq!(spans.len(), edges.len() + 1, "no span of the export itself: {spans:#?}");

    let process = named(&spans, "process orders");
    assert_eq!(process.kind, "consumer");
    assert_eq!(named(&spans, "send payments").kind, "producer");
    assert_eq!(named(&spans, "call charge").kind, "client");
    assert_eq!(named(&spans, "start place-order").kind, "internal");
    let expected = [
        (names::MESSAGING_SYSTEM, "kafka"),
        (names::OPERATION_NAME, "process"),
        (names::OPERATION_TYPE, "process"),
        (names::DESTINATION, "orders"),
        (names::PARTITION, "3"),
        (names::OFFSET, "41"),
        (names::MESSAGE_ID, "event-for-charge"),
        (names::CONVERSATION_ID, "00000000-0000-0000-0000-000000000000"),
        (names::PARTICIPANT, "payment"),
        (names::STEP, "charge"),
        (names::DIRECTION, "forward"),
        (names::ATTEMPT, "1"),
        (names::EVENT_TYPE, "SomethingHappened"),
        (names::OUTCOME, "emitted"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(process.attributes, expected.into_iter().collect());
    let metrics: Vec<String> = collector.metrics().into_keys().filter(|name| name.starts_with("order ")).collect();
    assert_eq!(
        metrics,
        [
            "order messaging.client.consumed.messages",
            "order messaging.process.duration",
            "order saga.ended",
            "order saga.reactions",
            "order saga.started",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_the_child_of_the_request_that_asked_for_it() {
    let collector = OtlpReceiver::start().await.unwrap();
    let order = Service::new("order", Some(collector.endpoint()));
    tracing::dispatcher::with_default(&order.dispatch, || {
        let _request = tracing::info_span!("POST /orders").entered();
        order.plays(&turn("place-order", None, Some("orders")), &TraceContext::default());
        // What happens to be current is not the parent of a delivery.
        order.plays(&turn("complete-order", Some("shipments"), None), &carried(SAMPLED));
    });
    order.stops().await;
    assert!(collector.edges().contains(&"order: POST /orders -> order: start place-order".to_owned()));
    let spans = collector.spans();
    let delivered = named(&spans, "process shipments");
    assert_eq!(delivered.parent_span_id.as_deref(), Some("b7ad6b7169203331"));
    assert_eq!(delivered.trace_id, "0af7651916cd43dd8448eb211c80319c");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_says_so_and_what_was_rolled_back_too() {
    let collector = OtlpReceiver::start().await.unwrap();
    let payment = Service::new("payment", Some(collector.endpoint()));
    let deferred = Outcome::Deferred("the gateway is away".to_owned());
    payment.plays(&Turn { becomes: Some(deferred), ..turn("charge", Some("orders"), None) }, &carried(SAMPLED));
    payment.plays(&Turn { becomes: None, ..turn("refund", Some("shipments"), Some("payments")) }, &carried(SAMPLED));
    payment.stops().await;

    let spans = collector.spans();
    let failed = named(&spans, "process orders");
    assert!(failed.error);
    assert_eq!(failed.attributes[names::ERROR_TYPE], "deferred");
    for name in ["process shipments", "send payments"] {
        assert_eq!(named(&spans, name).attributes[names::OUTCOME], names::ROLLED_BACK);
    }
    assert!(!collector.metrics().contains_key("payment saga.ended"));
}

#[tokio::test(flavor = "multi_thread")]
async fn below_an_unsampled_parent_nothing_is_recorded_and_its_headers_go_on() {
    let collector = OtlpReceiver::start().await.unwrap();
    let payment = Service::new("payment", Some(collector.endpoint()));
    let parent = carried(UNSAMPLED);
    assert_eq!(payment.plays(&turn("charge", Some("orders"), Some("payments")), &parent), parent);
    payment.stops().await;
    assert_eq!(collector.spans(), []);
    assert!(collector.metrics().contains_key("payment saga.reactions"), "metrics are not sampled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_is_not_sampled_at_its_start_is_sampled_nowhere() {
    let collector = OtlpReceiver::start().await.unwrap();
    let order = Service::sampling("order", Some(collector.endpoint()), 0.0);
    let payment = Service::new("payment", Some(collector.endpoint()));
    let placed = order.plays(&turn("place-order", None, Some("orders")), &TraceContext::default());
    assert!(placed.traceparent.as_deref().is_some_and(|header| header.ends_with("-00")), "{placed:?}");
    payment.plays(&turn("charge", Some("orders"), Some("payments")), &placed);
    order.stops().await;
    payment.stops().await;
    assert_eq!(collector.spans(), []);
}

#[test]
fn without_an_endpoint_there_is_no_runtime_needed_and_the_context_goes_on() {
    let payment = Service::new("payment", None);
    for parent in [carried(SAMPLED), carried(UNSAMPLED), TraceContext::default()] {
        assert_eq!(payment.plays(&turn("charge", Some("orders"), Some("payments")), &parent), parent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_never_answers_slows_nothing() {
    let refuses = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    // Accepted by the kernel, and never read.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for address in [refuses, silent.local_addr().unwrap()] {
        let payment = Service::new("payment", Some(format!("http://{address}")));
        let begin = Instant::now();
        // More spans than the queue has room for.
        for _ in 0..10_000 {
            payment.plays(&turn("charge", Some("orders"), Some("payments")), &carried(SAMPLED));
        }
        let played = begin.elapsed();
        let begin = Instant::now();
        let result = payment.telemetry.shutdown().await;
        let stopped = begin.elapsed();
        assert!(played < Duration::from_secs(20), "{played:?}");
        assert!(stopped < Duration::from_secs(3), "{stopped:?}");
        assert!(result.is_err(), "what was lost is said");
    }
}

#[tokio::test]
async fn a_wrong_configuration_says_what_was_expected() {
    let config = |otlp: &str, sample| Config {
        service: "order".to_owned(),
        otlp: Some(otlp.to_owned()),
        log: LogFormat::Json,
        sample,
    };
    let wrong = prepare(config("localhost:4317", 1.0)).unwrap_err();
    assert!(wrong.to_string().contains("expected a URL such as http://localhost:4317"), "{wrong}");
    let wrong = prepare(config("http://localhost:4317", 1.5)).unwrap_err();
    assert!(wrong.to_string().contains("expected 0 to 1"), "{wrong}");
}
