//! One saga is one trace: the spans of three services, received over OTLP, hang together by parent and child.

use saga_core::timeline::Timeline;
use saga_tests::{
    otlp::OtlpReceiver,
    stage::{PARTICIPANTS, Stage},
    world::{Order, World},
};
use saga_tracing::{Config, LogFormat, Telemetry, prepare};

async fn observed(receiver: &OtlpReceiver, stage: &mut Stage) -> Vec<Telemetry> {
    let mut telemetries = Vec::new();
    for name in PARTICIPANTS {
        let config =
            Config { service: name.to_owned(), otlp: Some(receiver.endpoint()), log: LogFormat::Text, sample: 1.0 };
        let (telemetry, dispatch) = prepare(config).expect("the endpoint is a URL");
        stage.observe(name, telemetry.observer(), dispatch).await.expect("it starts again");
        telemetries.push(telemetry);
    }
    telemetries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_saga_is_one_trace_also_when_payment_was_restarted_in_between() {
    let receiver = OtlpReceiver::start().await.unwrap();
    let mut stage = Stage::new(21).await.unwrap();
    let telemetries = observed(&receiver, &mut stage).await;
    stage.kill("payment").await.unwrap();
    let saga = stage.place(&Order::of_a_sold_out_lamp()).await.unwrap();
    stage.settle().await.unwrap();
    stage.start("payment").await.unwrap();
    let timeline = stage.ended(saga).await.unwrap();
    for telemetry in telemetries {
        telemetry.shutdown().await.unwrap();
    }

    let spans = receiver.spans();
    let traces: std::collections::BTreeSet<_> = spans.iter().map(|span| &span.trace_id).collect();
    assert_eq!(traces.len(), 1, "one saga is one trace:\n{spans:#?}");
    let conversation = "messaging.message.conversation_id";
    assert!(spans.iter().all(|span| span.attributes.get(conversation).is_none_or(|id| *id == saga.to_string())));
    let edges = receiver.edges();
    for edge in [
        "order: send order -> payment: process order",
        "payment: send payment -> shipping: process payment",
        "shipping: send shipping -> payment: process shipping",
        "payment: send payment -> order: process payment",
    ] {
        assert!(edges.iter().any(|line| line == edge), "{edge} is missing:\n{}", edges.join("\n"));
    }
    assert_eq!(timeline, Timeline::of(saga, stage.events()));
}
