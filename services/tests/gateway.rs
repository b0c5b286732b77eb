//! The payment gateway over HTTP: what the payment service relies on, and the faults that tests ask for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its support too")]

use std::{net::SocketAddr, time::Duration};

use reqwest::StatusCode;
use saga_core::id::IdempotencyKey;
use saga_services::gateway::{Behaviour, Charge, ChargeAnswer, Gateway, GatewayClient};
use serde_json::Value;
use tokio::task::JoinSet;
use uuid::Uuid;

struct Running {
    address: SocketAddr,
    client: GatewayClient,
    _server: JoinSet<()>,
}

impl Running {
    async fn with(behaviour: Behaviour) -> Self {
        let gateway = Gateway::open("sqlite::memory:", behaviour).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, gateway.routes()).await.unwrap() });
        Self { address, client: GatewayClient::new(&format!("http://{address}/")).unwrap(), _server: server }
    }

    async fn record(&self) -> Value {
        reqwest::get(format!("http://{}/record", self.address)).await.unwrap().json().await.unwrap()
    }

    /// Charged, refunded, kept.
    async fn totals(&self) -> [i64; 3] {
        let record = self.record().await;
        ["charged", "refunded", "kept"].map(|name| record["totals"][name].as_i64().unwrap())
    }
}

fn key(n: u128) -> IdempotencyKey {
    IdempotencyKey(Uuid::from_u128(n))
}

fn charge(customer: &str, cents: i64) -> Charge {
    Charge { order: "o-1".to_owned(), customer: customer.to_owned(), cents }
}

fn declined(reason: &str) -> ChargeAnswer {
    ChargeAnswer::Declined { reason: reason.to_owned() }
}

#[tokio::test]
async fn a_key_takes_effect_once_and_means_one_charge() {
    let gateway = Running::with(Behaviour::default()).await;
    let first = gateway.client.charge(key(1), &charge("ada", 700)).await.unwrap();
    assert_eq!(gateway.client.charge(key(1), &charge("ada", 700)).await.unwrap(), first);
    let other = gateway.client.charge(key(1), &charge("ada", 701)).await.unwrap_err();
    assert_eq!(other.status(), Some(StatusCode::CONFLICT));
    assert_eq!(gateway.totals().await, [700, 0, 700]);
}

#[tokio::test]
async fn a_charge_is_declined_over_the_limit_or_by_the_customers_name() {
    let gateway = Running::with(Behaviour::default()).await;
    assert_eq!(gateway.client.charge(key(1), &charge("ada", 100_001)).await.unwrap(), declined("over the limit"));
    assert_eq!(gateway.client.charge(key(2), &charge("declined-bob", 1)).await.unwrap(), declined("card declined"));
    assert_eq!(gateway.totals().await, [0, 0, 0]);
}

#[tokio::test]
async fn a_charge_is_refunded_once() {
    let gateway = Running::with(Behaviour::default()).await;
    let ChargeAnswer::Accepted { receipt } = gateway.client.charge(key(1), &charge("ada", 700)).await.unwrap() else {
        panic!("declined");
    };
    let first = gateway.client.refund(key(2), &receipt).await.unwrap();
    assert_eq!(gateway.client.refund(key(2), &receipt).await.unwrap(), first);
    let again = gateway.client.refund(key(3), &receipt).await.unwrap_err();
    assert_eq!(again.status(), Some(StatusCode::CONFLICT));
    assert_eq!(gateway.client.void(key(1)).await.unwrap(), None);
    assert_eq!(gateway.totals().await, [700, 700, 0]);
}

#[tokio::test]
async fn a_voided_key_is_dead_whether_its_charge_came_before_or_after() {
    let gateway = Running::with(Behaviour::default()).await;
    gateway.client.charge(key(1), &charge("ada", 700)).await.unwrap();
    let refund = gateway.client.void(key(1)).await.unwrap();
    assert!(refund.is_some());
    assert_eq!(gateway.client.void(key(1)).await.unwrap(), refund);
    assert_eq!(gateway.client.charge(key(1), &charge("ada", 700)).await.unwrap(), declined("voided"));

    assert_eq!(gateway.client.void(key(2)).await.unwrap(), None);
    assert_eq!(gateway.client.charge(key(2), &charge("ada", 700)).await.unwrap(), declined("voided"));
    assert_eq!(gateway.totals().await, [700, 700, 0]);
}

#[tokio::test]
async fn a_failed_request_has_no_effect_and_a_lost_answer_has_one() {
    let gateway = Running::with(Behaviour { fail_every: 2, ..Behaviour::default() }).await;
    gateway.client.charge(key(1), &charge("ada", 1)).await.unwrap();
    assert!(gateway.client.charge(key(2), &charge("ada", 20)).await.unwrap_err().status().is_some());
    assert_eq!(gateway.totals().await, [1, 0, 1]);

    let gateway = Running::with(Behaviour { lose_every: 2, ..Behaviour::default() }).await;
    gateway.client.charge(key(1), &charge("ada", 1)).await.unwrap();
    assert!(gateway.client.charge(key(2), &charge("ada", 20)).await.unwrap_err().status().is_some());
    assert_eq!(gateway.totals().await, [21, 0, 21]);
}

#[tokio::test]
async fn a_request_takes_effect_although_its_caller_hung_up() {
    let gateway = Running::with(Behaviour { slow_ms: 300, ..Behaviour::default() }).await;
    let charge = charge("ada", 700);
    let call = gateway.client.charge(key(1), &charge);
    tokio::time::timeout(Duration::from_millis(100), call).await.unwrap_err();
    assert_eq!(gateway.totals().await, [0, 0, 0]);
    tokio::time::timeout(Duration::from_secs(10), async {
        while gateway.totals().await != [700, 0, 700] {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_forgotten_refusal_may_become_a_charge() {
    let ask = async |forget_refusals| {
        let gateway = Running::with(Behaviour { forget_refusals, ..Behaviour::default() }).await;
        let charge = charge("declined-once-eve", 700);
        assert!(matches!(gateway.client.charge(key(1), &charge).await.unwrap(), ChargeAnswer::Declined { .. }));
        gateway.client.charge(key(1), &charge).await.unwrap()
    };
    assert!(matches!(ask(false).await, ChargeAnswer::Declined { .. }));
    assert!(matches!(ask(true).await, ChargeAnswer::Accepted { .. }));
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let gateway = Running::with(Behaviour::default()).await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", gateway.address);
    let json = |body: String| {
        http.post(url("/charges")).header("idempotency-key", "k").header("content-type", "application/json").body(body)
    };
    let good = serde_json::to_string(&charge("ada", 1)).unwrap();
    for (request, status) in [
        (http.get(url("/nowhere")), 404),
        (http.delete(url("/charges")), 405),
        (http.post(url("/charges")).header("idempotency-key", "k").body(good.clone()), 415),
        (json("{".to_owned()), 400),
        (json("{}".to_owned()), 422),
        (json(format!("\"{}\"", "x".repeat(20_000))), 413),
        (http.post(url("/charges")).header("content-type", "application/json").body(good), 400),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["status"], status);
        for field in ["type", "title", "detail"] {
            assert!(problem[field].is_string(), "{problem}");
        }
    }
}
