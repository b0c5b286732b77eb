//! Customers: they order at a steady rate, and repeat a request under its key until they have an answer.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use saga_core::{clock::Clock, id::SagaId};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// Longer than the service takes to say that it does not know.
const TIMEOUT: Duration = Duration::from_secs(12);
/// The first pause before a request is repeated; each further one is twice as long, up to the longest.
const AGAIN: Duration = Duration::from_millis(250);
const LONGEST_AGAIN: Duration = Duration::from_secs(4);
/// A customer who has no answer after that has found a defect.
const PATIENCE: Duration = Duration::from_secs(240);

/// What customers did.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Orders that were accepted.
    pub accepted: u64,
    /// Requests that were repeated.
    pub repeated: u64,
    /// Answers to cancellations: 202 and 409.
    pub cancellations: BTreeMap<u16, u64>,
    /// Answers that nobody should get, and customers without any.
    pub complaints: Vec<String>,
}

/// The customers of a shop, and the list of what they were told.
#[derive(Debug, Clone)]
pub struct Customers {
    client: reqwest::Client,
    shop: String,
    random: Clock,
    list: Arc<Mutex<File>>,
    tally: Arc<Mutex<Tally>>,
}

impl Customers {
    /// Customers of the order service at `shop`, whose list goes to `file`.
    pub fn new(shop: String, seed: u64, file: &Path) -> Result<Self> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
        let list = Arc::new(Mutex::new(File::create(file)?));
        Ok(Self { client, shop, random: Clock::manual(0, seed), list, tally: Arc::default() })
    }

    /// What they did until now.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Orders `per_second` until told to stop, and then waits until everybody has an answer.
    pub async fn order(&self, per_second: f64, stop: CancellationToken) -> Result<()> {
        ensure!(per_second > 0.0, "expected a rate above 0");
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
        let mut waiting = JoinSet::new();
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let customer = self.clone();
            let body = self.draw();
            let cancels =
                (self.random.random() % 100 < 15).then(|| Duration::from_millis(self.random.random() % 3_000));
            waiting.spawn(async move { customer.one(body, cancels).await });
            while let Some(done) = waiting.try_join_next() {
                done??;
            }
        }
        while let Some(done) = waiting.join_next().await {
            done??;
        }
        Ok(())
    }

    /// What somebody wants: most of it can be had.
    fn draw(&self) -> Value {
        let (kind, quantity) = (self.random.random() % 100, 1 + self.random.random() % 3);
        let (customer, item, cents) = match kind {
            0..10 => ("declined-bob", "book", 1_250),
            10..15 => ("declined-once-eve", "book", 1_250),
            15..20 => ("ada", "book", 90_000),
            20..30 => ("ada", "lamp", 3_000),
            30..35 => ("ada", "chair", 5_000),
            _ => ("ada", "book", 1_250),
        };
        json!({ "customer": customer, "item": item, "quantity": quantity, "unit_price_cents": cents })
    }

    async fn one(self, body: Value, cancels: Option<Duration>) -> Result<()> {
        let key = SagaId::mint(&Clock::system()).to_string();
        let url = format!("{}/orders", self.shop);
        let place = || self.client.post(&url).header("Idempotency-Key", &key).json(&body);
        let Some((status, answer)) = self.insist(place).await else {
            return Ok(());
        };
        if !status.is_success() {
            self.complain(format!("an order was answered {status}: {answer}"));
            return Ok(());
        }
        let text = |name: &str| answer[name].as_str().map(str::to_owned).with_context(|| answer.to_string());
        let (order, saga) = (text("id")?, text("saga")?);
        let number = |name: &str| body[name].as_i64().unwrap_or_default();
        let cents = number("quantity") * number("unit_price_cents");
        let line = json!({ "key": key, "order": order, "saga": saga, "item": body["item"],
            "quantity": body["quantity"], "cents": cents });
        writeln!(self.list.lock().unwrap_or_else(PoisonError::into_inner), "{line}")?;
        self.count(|tally| tally.accepted += 1);
        if let Some(after) = cancels {
            tokio::time::sleep(after).await;
            let url = format!("{}/orders/{order}/cancel", self.shop);
            if let Some((status, answer)) = self.insist(|| self.client.post(&url)).await {
                self.count(|tally| *tally.cancellations.entry(status.as_u16()).or_default() += 1);
                if ![StatusCode::ACCEPTED, StatusCode::CONFLICT].contains(&status) {
                    self.complain(format!("a cancellation was answered {status}: {answer}"));
                }
            }
        }
        Ok(())
    }

    /// Repeats a request until somebody answers it, with a yes or a no.
    async fn insist(&self, request: impl Fn() -> reqwest::RequestBuilder) -> Option<(StatusCode, Value)> {
        let (begin, mut again) = (Instant::now(), AGAIN);
        while begin.elapsed() < PATIENCE {
            if let Ok(answer) = request().send().await
                && !answer.status().is_server_error()
            {
                let status = answer.status();
                if let Ok(body) = answer.json().await {
                    return Some((status, body));
                }
            }
            self.count(|tally| tally.repeated += 1);
            tokio::time::sleep(again + Duration::from_millis(self.random.random() % 250)).await;
            again = (again * 2).min(LONGEST_AGAIN);
        }
        self.complain(format!("no answer within {PATIENCE:?}"));
        None
    }

    fn count(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn complain(&self, what: String) {
        self.count(|tally| tally.complaints.push(what));
    }
}
