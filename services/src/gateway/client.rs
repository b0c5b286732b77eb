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
pub struct GatewayClient(Way);

#[derive(Debug, Clone)]
enum Way {
    Http {
        client: reqwest::Client,
        url: String,
    },
    #[cfg(feature = "harness")]
    Line(std::sync::Arc<dyn Line>),
}

/// Another way to a gateway than HTTP, for a simulation that decides when a request arrives, and whether its answer does.
#[cfg(feature = "harness")]
pub trait Line: std::fmt::Debug + Send + Sync {
    /// Brings a JSON body to a path, and the JSON of the answer back. `Err` is why nobody knows whether it took effect.
    fn post(
        &self,
        path: &'static str,
        key: Option<String>,
        body: Vec<u8>,
    ) -> saga_core::transport::BoxFuture<'_, Result<Vec<u8>, String>>;
}

/// No answer, or none that can be read: nobody knows whether the request took effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// HTTP failed, or the gateway said that it did.
    #[error("the gateway gave no answer")]
    Http(#[from] reqwest::Error),
    /// A [`Line`] failed.
    #[cfg(feature = "harness")]
    #[error("the gateway gave no answer: {0}")]
    Line(String),
}

impl GatewayError {
    /// The status, where the gateway answered with one.
    pub fn status(&self) -> Option<reqwest::StatusCode> {
        match self {
            Self::Http(error) => error.status(),
            #[cfg(feature = "harness")]
            Self::Line(_) => None,
        }
    }
}

/// Shorter than a step's own timeout, so that the reason of a failure is the gateway's.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

impl GatewayClient {
    /// A client of the gateway at `url`, such as `http://127.0.0.1:8090`.
    pub fn new(url: &str) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(CALL_TIMEOUT)
            .connect_timeout(CALL_TIMEOUT)
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self(Way::Http { client, url: url.trim_end_matches('/').to_owned() }))
    }

    /// A client whose requests go another way.
    #[cfg(feature = "harness")]
    pub fn over(line: std::sync::Arc<dyn Line>) -> Self {
        Self(Way::Line(line))
    }

    /// Charges a customer. An error means that nobody knows whether it took effect.
    pub async fn charge(&self, key: IdempotencyKey, charge: &Charge) -> Result<ChargeAnswer, GatewayError> {
        self.post("charges", Some(key), charge).await
    }

    /// Gives the money of a charge back; the receipt of the refund.
    pub async fn refund(&self, key: IdempotencyKey, receipt: &str) -> Result<String, GatewayError> {
        let refunded: Refunded = self.post("refunds", Some(key), &Refund { receipt: receipt.to_owned() }).await?;
        Ok(refunded.receipt)
    }

    /// Closes the key of a charge: gives the money back if it took effect, and refuses it if it arrives later.
    pub async fn void(&self, key: IdempotencyKey) -> Result<Option<String>, GatewayError> {
        let voided: Voided = self.post("voids", None, &Void { key: key.to_string() }).await?;
        Ok(voided.receipt)
    }

    async fn post<A: DeserializeOwned>(
        &self,
        path: &'static str,
        key: Option<IdempotencyKey>,
        body: &impl Serialize,
    ) -> Result<A, GatewayError> {
        let (client, url) = match &self.0 {
            Way::Http { client, url } => (client, url),
            #[cfg(feature = "harness")]
            Way::Line(line) => {
                let unreadable = |error: serde_json::Error| GatewayError::Line(error.to_string());
                let body = serde_json::to_vec(body).map_err(unreadable)?;
                let answer = line.post(path, key.map(|key| key.to_string()), body).await;
                return serde_json::from_slice(&answer.map_err(GatewayError::Line)?).map_err(unreadable);
            }
        };
        let mut request = client.post(format!("{url}/{path}")).json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key.to_string());
        }
        Ok(request.send().await?.error_for_status()?.json().await?)
    }
}
