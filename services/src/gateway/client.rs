//! What the payment service says to its gateway, and the client that says it.

use std::time::Duration;

use saga_core::id::IdempotencyKey;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// `POST /charges`, under an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// What for.
    pub order: String,
    /// Whom.
    pub customer: String,
    /// How much.
    pub cents: i64,
}

/// The answer to a charge. A no is an answer, not an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum ChargeAnswer {
    /// The money is taken.
    Accepted {
        /// What names this charge in a refund.
        receipt: String,
    },
    /// No money is taken.
    Declined {
        /// Why.
        reason: String,
    },
}

/// `POST /refunds`, under an idempotency key of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Refund {
    pub(crate) receipt: String,
}

/// The answer to a refund.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Refunded {
    pub(crate) receipt: String,
}

/// `POST /voids`: closes the key of a charge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Void {
    pub(crate) key: String,
}

/// The answer to a void: the receipt of a refund, when there was something to give back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Voided {
    pub(crate) receipt: Option<String>,
}

/// Calls a gateway. It never tries again by itself: when and how often is the step's policy.
#[derive(Debug, Clone)]
pub struct GatewayClient {
    http: reqwest::Client,
    url: String,
}

/// Shorter than a step's own timeout, so that the reason of a failure is the gateway's.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

impl GatewayClient {
    /// A client of the gateway at `url`, such as `http://127.0.0.1:8090`.
    pub fn new(url: &str) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(CALL_TIMEOUT)
            .connect_timeout(CALL_TIMEOUT)
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned() })
    }

    /// Charges a customer. An error means that nobody knows whether it took effect.
    pub async fn charge(&self, key: IdempotencyKey, charge: &Charge) -> Result<ChargeAnswer, reqwest::Error> {
        self.post("charges", Some(key), charge).await
    }

    /// Gives the money of a charge back; the receipt of the refund.
    pub async fn refund(&self, key: IdempotencyKey, receipt: &str) -> Result<String, reqwest::Error> {
        let refunded: Refunded = self.post("refunds", Some(key), &Refund { receipt: receipt.to_owned() }).await?;
        Ok(refunded.receipt)
    }

    /// Closes the key of a charge: gives the money back if it took effect, and refuses it if it arrives later.
    pub async fn void(&self, key: IdempotencyKey) -> Result<Option<String>, reqwest::Error> {
        let voided: Voided = self.post("voids", None, &Void { key: key.to_string() }).await?;
        Ok(voided.receipt)
    }

    async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        key: Option<IdempotencyKey>,
        body: &impl Serialize,
    ) -> Result<A, reqwest::Error> {
        let mut request = self.http.post(format!("{}/{path}", self.url)).json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key.to_string());
        }
        request.send().await?.error_for_status()?.json().await
    }
}
