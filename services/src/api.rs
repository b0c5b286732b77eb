//! HTTP in front of the order service: placing an order, asking what became of it, and cancelling it.
//!
//! The invariant: an order is placed once per `Idempotency-Key`, however often the request is repeated while its saga is remembered.

use std::time::{Duration, UNIX_EPOCH};

use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use saga_core::{
    id::SagaId,
    start::{Requested, StartError, StartKey, Started, Starter},
    store::Store,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    order::{self, NewOrder},
    problem::{Input, Problem, idempotency_key},
};

/// Longer than a busy database takes, shorter than a caller waits.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whose idempotency keys these are. There is one caller, because these routes do not tell callers apart.
const CALLER: &str = "http";

/// The routes of the order service.
pub fn routes(starter: Starter, store: Store) -> Router {
    Router::new()
        .route("/orders", post(place))
        .route("/orders/{id}", get(show))
        .route("/orders/{id}/cancel", post(cancel))
        .with_state(Orders { starter, store })
}

#[derive(Debug, Clone)]
struct Orders {
    starter: Starter,
    store: Store,
}

/// The body of `POST /orders`. Written again as JSON it is the request's fingerprint: spaces and the order of fields do not
/// make another request of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceRequest {
    customer: String,
    item: String,
    quantity: i64,
    unit_price_cents: i64,
}

impl PlaceRequest {
    fn check(self) -> Result<NewOrder, Problem> {
        let wrong = |detail: &str| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        let named = |text: &str| (1..=100).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        if !named(&self.customer) {
            return Err(wrong("customer: expected 1 to 100 characters, none of them a control character"));
        }
        if !named(&self.item) {
            return Err(wrong("item: expected 1 to 100 characters, none of them a control character"));
        }
        if !(1..=1000).contains(&self.quantity) {
            return Err(wrong("quantity: expected 1 to 1000"));
        }
        if self.unit_price_cents < 1 {
            return Err(wrong("unit_price_cents: expected at least 1"));
        }
        let cents = self
            .unit_price_cents
            .checked_mul(self.quantity)
            .ok_or_else(|| wrong("quantity times unit_price_cents is more than can be charged"))?;
        Ok(NewOrder { customer: self.customer, item: self.item, quantity: self.quantity, cents })
    }
}

async fn place(
    State(orders): State<Orders>,
    headers: HeaderMap,
    Input(request): Input<PlaceRequest>,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let fingerprint = serde_json::to_vec(&request).map_err(|error| unknown(&error))?;
    let new = request.check()?;
    let key = StartKey { caller: CALLER, key, fingerprint: &fingerprint };
    let started = tokio::time::timeout(TIMEOUT, order::place(&orders.starter, key, new))
        .await
        .map_err(|late| unknown(&late))?
        .map_err(|error| match error {
            StartError::OtherRequest => Problem::new(StatusCode::CONFLICT, error.to_string()),
            StartError::GaveUp(why) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why),
            error => unknown(&error),
        })?;
    let (status, saga, id) = match started {
        Started::New(saga, id) => (StatusCode::CREATED, saga, id),
        Started::Repeated(saga, id) => (StatusCode::OK, saga, id),
    };
    let location = format!("/orders/{id}");
    Ok((status, [(header::LOCATION, location)], Json(Placed { id, saga: saga.to_string() })).into_response())
}

/// The database failed, perhaps at commit: the order may be there. A repetition with the same key finds out.
fn unknown(error: &(dyn std::error::Error + 'static)) -> Problem {
    tracing::error!(error, "an order could not be placed");
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "the order may or may not have been placed: repeat the request with the same Idempotency-Key",
    )
}

#[derive(Debug, Serialize)]
struct Placed {
    id: String,
    saga: String,
}

#[derive(Debug, sqlx::FromRow)]
struct OrderRow {
    id: String,
    saga: String,
    customer: String,
    item: String,
    quantity: i64,
    cents: i64,
    state: String,
    reason: Option<String>,
    placed_at: i64,
}

#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    saga: String,
    customer: String,
    item: String,
    quantity: i64,
    cents: i64,
    state: String,
    reason: Option<String>,
    placed_at: String,
}

async fn show(State(orders): State<Orders>, id: Result<Path<String>, PathRejection>) -> Result<Json<Shown>, Problem> {
    let OrderRow { id, saga, customer, item, quantity, cents, state, reason, placed_at } =
        existing(&orders.store, id).await?;
    let placed_at = UNIX_EPOCH + Duration::from_millis(placed_at.unsigned_abs());
    let placed_at = humantime::format_rfc3339_millis(placed_at).to_string();
    Ok(Json(Shown { id, saga, customer, item, quantity, cents, state, reason, placed_at }))
}

/// 202: the request is recorded, and `GET` shows later whether it came in time. Repeating it changes nothing.
async fn cancel(
    State(orders): State<Orders>,
    id: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<Cancelling>), Problem> {
    let OrderRow { id, saga, .. } = existing(&orders.store, id).await?;
    let failed = |error: &(dyn std::error::Error + 'static)| {
        tracing::error!(error, "an order could not be cancelled");
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the cancellation may or may not have been recorded: repeat the request",
        )
    };
    let of_saga: SagaId = saga.parse().map_err(|error| failed(&error))?;
    let requested = tokio::time::timeout(TIMEOUT, order::cancel(&orders.starter, of_saga, id.clone()))
        .await
        .map_err(|late| failed(&late))?
        .map_err(|error| match error {
            StartError::UnknownSaga(_) => Problem::new(
                StatusCode::GONE,
                "the order is too old: its saga is forgotten, and nothing can be cancelled",
            ),
            error => failed(&error),
        })?;
    match requested {
        Requested::New | Requested::Repeated => Ok((StatusCode::ACCEPTED, Json(Cancelling { id, saga }))),
        Requested::Ended(ending) => {
            Err(Problem::new(StatusCode::CONFLICT, format!("the order is {ending}: it cannot be cancelled any more")))
        }
    }
}

#[derive(Debug, Serialize)]
struct Cancelling {
    id: String,
    saga: String,
}

async fn existing(store: &Store, id: Result<Path<String>, PathRejection>) -> Result<OrderRow, Problem> {
    let missing = || Problem::new(StatusCode::NOT_FOUND, "there is no such order");
    let id: Uuid = id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(missing)?;
    let row = tokio::time::timeout(TIMEOUT, find(store, id)).await.unwrap_or_else(|late| Err(late.into()));
    let row = row.map_err(|error| {
        tracing::error!(error = &*error as &dyn std::error::Error, "an order could not be read");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the order cannot be read at the moment")
    })?;
    row.ok_or_else(missing)
}

async fn find(store: &Store, id: Uuid) -> Result<Option<OrderRow>, Box<dyn std::error::Error + Send + Sync>> {
    let columns =
        "SELECT id, saga, customer, item, quantity, cents, state, reason, placed_at FROM orders WHERE id = $1";
    Ok(store.fetch_optional(columns, (id.to_string(),)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> PlaceRequest {
        PlaceRequest { customer: "ada".to_owned(), item: "book".to_owned(), quantity: 2, unit_price_cents: 999 }
    }

    #[test]
    fn an_order_costs_quantity_times_price() {
        assert_eq!(request().check().unwrap().cents, 1998);
    }

    #[test]
    fn everything_in_an_order_has_bounds() {
        for wrong in [
            PlaceRequest { customer: String::new(), ..request() },
            PlaceRequest { customer: "a\nb".to_owned(), ..request() },
            PlaceRequest { item: "x".repeat(101), ..request() },
            PlaceRequest { quantity: 0, ..request() },
            PlaceRequest { quantity: 1001, ..request() },
            PlaceRequest { unit_price_cents: 0, ..request() },
            PlaceRequest { unit_price_cents: i64::MAX, ..request() },
        ] {
            assert!(wrong.clone().check().is_err(), "{wrong:?}");
        }
    }
}
