//! The order service over HTTP, with its real node on an in-memory broker.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its support too")]

use std::net::SocketAddr;

use reqwest::{Client, RequestBuilder, StatusCode};
use saga_core::{node::Node, store::Store, transport::memory::MemoryBroker};
use saga_services::{api, order, problem, service::create_tables};
use serde_json::{Value, json};
use tokio::task::JoinSet;

struct Running {
    address: SocketAddr,
    http: Client,
    store: Store,
    _server: JoinSet<()>,
}

impl Running {
    async fn new() -> Self {
        let store = Store::connect("sqlite::memory:", "order").await.unwrap();
        store.migrate().await.unwrap();
        create_tables(&store, order::SCHEMA).await.unwrap();
        let broker = MemoryBroker::new(&[("order", 3), ("payment", 3), ("shipping", 3)]);
        let participant = order::participant();
        let source = broker.source("order", &participant.listens_to());
        let node = Node::new(participant, store.clone(), source, broker.sink()).unwrap();
        let routes = problem::complete(api::routes(node.starter(), store.clone()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { address, http: Client::new(), store, _server: server }
    }

    fn place(&self, key: &str, body: &Value) -> RequestBuilder {
        self.http.post(format!("http://{}/orders", self.address)).header("idempotency-key", key).json(body)
    }

    async fn show(&self, id: &str) -> (StatusCode, Value) {
        answer(self.http.get(format!("http://{}/orders/{id}", self.address))).await
    }

    async fn orders(&self) -> i64 {
        let mut tx = self.store.begin().await.unwrap();
        let count: Option<(i64,)> = tx.conn().fetch_optional("SELECT count(*) FROM orders", ()).await.unwrap();
        count.unwrap().0
    }
}

async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let problem = answer.headers()["content-type"] == "application/problem+json";
    assert_eq!(problem, !status.is_success(), "{status}");
    (status, answer.json().await.unwrap())
}

fn a_book() -> Value {
    json!({"customer": "ada", "item": "book", "quantity": 2, "unit_price_cents": 999})
}

#[tokio::test]
async fn an_order_is_placed_once_per_key_and_can_be_looked_at() {
    let order = Running::new().await;
    let (status, first) = answer(order.place("k-1", &a_book())).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, repeated) = answer(order.place("k-1", &a_book())).await;
    assert_eq!((status, &repeated), (StatusCode::OK, &first));

    let (status, shown) = order.show(first["id"].as_str().unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    let expected = json!({"state": "placed", "reason": null, "cents": 1998, "saga": first["saga"], "id": first["id"]});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&shown[field], value, "{field}");
    }
    assert_eq!(order.orders().await, 1);
}

#[tokio::test]
async fn a_key_means_one_request_however_it_is_written() {
    let order = Running::new().await;
    answer(order.place("k-1", &a_book())).await;
    let spaced = r#"{ "quantity": 2, "unit_price_cents": 999, "item": "book",  "customer": "ada" }"#;
    let spaced = order.place("k-1", &a_book()).body(spaced);
    assert_eq!(answer(spaced).await.0, StatusCode::OK);

    let mut other = a_book();
    other["quantity"] = json!(3);
    assert_eq!(answer(order.place("k-1", &other)).await.0, StatusCode::CONFLICT);
    assert_eq!(answer(order.place("k-2", &other)).await.0, StatusCode::CREATED);
    assert_eq!(order.orders().await, 2);
}

#[tokio::test]
async fn repetitions_at_the_same_time_place_one_order() {
    let order = Running::new().await;
    let mut requests = JoinSet::new();
    for _ in 0..20 {
        requests.spawn(answer(order.place("k-1", &a_book())));
    }
    let mut answers = requests.join_all().await;
    answers.sort_by_key(|(status, _)| *status);
    assert_eq!(answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count(), 1);
    assert!(answers.iter().all(|(_, body)| body == &answers[0].1));
    assert_eq!(order.orders().await, 1);
}

#[tokio::test]
async fn an_order_is_cancelled_once_and_shows_that_it_may_be() {
    let order = Running::new().await;
    let (_, placed) = answer(order.place("k-1", &a_book())).await;
    let id = placed["id"].as_str().unwrap();
    let cancel = |id: &str| order.http.post(format!("http://{}/orders/{id}/cancel", order.address));
    for _ in 0..2 {
        assert_eq!(answer(cancel(id)).await, (StatusCode::ACCEPTED, placed.clone()));
    }
    assert_eq!(order.show(id).await.1["state"], "cancelling");
    assert_eq!(order.store.outbox_len().await.unwrap(), 2, "one event placed it, one asks for its cancellation");
    assert_eq!(answer(cancel("0190f0f0-0000-7000-8000-000000000000")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_no_order_places_none() {
    let order = Running::new().await;
    for (field, value) in [
        ("customer", json!("")),
        ("item", json!("x\n")),
        ("quantity", json!(0)),
        ("quantity", json!(1.5)),
        ("unit_price_cents", json!(i64::MAX)),
        ("colour", json!("red")),
    ] {
        let mut wrong = a_book();
        wrong[field] = value;
        assert_eq!(answer(order.place("k", &wrong)).await.0, StatusCode::UNPROCESSABLE_ENTITY, "{field}");
    }
    let keyless = order.http.post(format!("http://{}/orders", order.address)).json(&a_book());
    assert_eq!(answer(keyless).await.0, StatusCode::BAD_REQUEST);
    for nothing in ["1", "0190f0f0-0000-7000-8000-000000000000", "%ff"] {
        assert_eq!(order.show(nothing).await.0, StatusCode::NOT_FOUND, "{nothing}");
    }
    assert_eq!(order.orders().await, 0);
}
