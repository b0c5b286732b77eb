//! The real binary beside an embedded broker: it watches, it answers, it stops when it is told to.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../observer/tests/shop/mod.rs"]
mod shop;

use std::{
    path::Path,
    process::{Child, Command, Output},
    time::{Duration, Instant},
};

use saga_core::{
    id::SagaId,
    transport::{embedded::EmbeddedBroker, kafka::KafkaSink},
};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(60);

fn saga(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saga"));
    command.current_dir(dir).env("SAGA_OBSERVER", format!("sqlite:{}", dir.join("observer.db").display()));
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Ends with the test, however that ends.
struct Observer(Child);

impl Drop for Observer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn what_the_topics_say_is_listed_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::start(&[("order", 2), ("payment", 2), ("shipping", 2)]).unwrap();
    let sink = KafkaSink::connect(&broker.config("shop")).unwrap();
    for saga in 1..=3 {
        // The third one has come as far as the charge.
        for event in shop::cancelled(saga).into_iter().take(if saga == 3 { 2 } else { 5 }) {
            let topic = event.source.trim_start_matches('/').to_owned();
            assert!(saga_core::transport::Sink::publish(&*sink, &[event.encode(&topic).unwrap()]).await[0].is_ok());
        }
    }
    let asked = saga(dir.path()).arg("list").output().unwrap();
    assert!(!asked.status.success() && text(&asked).contains("saga observe"), "{}", text(&asked));

    std::fs::write(dir.path().join("shop.json"), shop::manifests()).unwrap();
    let config = broker.config("").extra.into_iter().map(|(name, value)| format!("{name}={value}"));
    let mut observe = saga(dir.path());
    observe.args(["observe", "shop.json", "--brokers", broker.address(), "--signals", ""]);
    observe.args(["--kafka-config", &config.collect::<Vec<_>>().join(",")]);
    let mut observer = Observer(observe.spawn().unwrap());
    let began = Instant::now();
    let listed = loop {
        let listed = saga(dir.path()).args(["list", "--json"]).output().unwrap();
        let rows: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        let states: Vec<_> = rows.as_array().into_iter().flatten().map(|row| row["state"].clone()).collect();
        if states == ["running", "cancelled", "cancelled"] {
            break rows;
        }
        assert!(began.elapsed() < SOON, "{}", text(&listed));
        assert!(observer.0.try_wait().unwrap().is_none(), "the observer has ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(listed[0]["awaited"], "shipping/ship-order");

    let shown = saga(dir.path()).args(["show", "order 2"]).output().unwrap();
    let expected = "\
order     place-order      OrderPlaced
payment   charge-customer  OrderPlaced     -> PaymentCharged
shipping  ship-order       PaymentCharged  -> ShipmentFailed   rejected: out of stock
payment   charge-customer  ShipmentFailed  -> PaymentRefunded  compensated
order     place-order      PaymentRefunded -> OrderCancelled   compensated, cancelled
";
    assert!(text(&shown).contains(expected), "{}", text(&shown));
    let third = SagaId(Uuid::from_u128(3)).to_string();
    let shown = text(&saga(dir.path()).args(["show", &third]).output().unwrap());
    assert!(shown.contains("for shipping/ship-order reacts to PaymentCharged"), "{shown}");
    assert!(shown.contains("then      order/complete-order"), "{shown}");
    let shown = text(&saga(dir.path()).args(["show", &third, "--mermaid"]).output().unwrap());
    assert!(shown.contains("  payment--xshipping: PaymentCharged, awaited\n"), "{shown}");

    let stuck = saga(dir.path()).arg("stuck").output().unwrap();
    assert!(stuck.status.success() && text(&stuck).contains("nothing is stuck"), "{}", text(&stuck));
    let stuck = saga(dir.path()).args(["stuck", "--waiting", "1m"]).output().unwrap();
    assert_eq!(stuck.status.code(), Some(3), "{}", text(&stuck));
    assert!(text(&stuck).contains(&third), "{}", text(&stuck));

    let killed = Command::new("kill").arg(observer.0.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert!(observer.0.wait().unwrap().success(), "told to stop, it stops");
}
