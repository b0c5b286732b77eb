//! How every HTTP error looks: problem details for HTTP APIs (RFC 9457), whatever went wrong.
//!
//! The invariant: no error of these services leaves as plain text, and none shows what only an operator should see.

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// An order has four short fields; this is room enough, and little to hold in memory for every open connection.
const BODY_LIMIT: usize = 16 * 1024;

/// A caller that takes longer than this to send so little is not worth its connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// An error as HTTP tells it.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
}

impl Problem {
    /// A problem whose kind the status says; `detail` says what was expected.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        // "about:blank" means that the title is the status's own phrase (RFC 9457, section 4.2.1).
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

/// Answers unknown routes and methods with a problem too, and bounds every body. Applied last, when all routes are there.
pub fn complete(routes: Router) -> Router {
    routes
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know that method")
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
}

/// A JSON body, read within bounds of size and time.
#[derive(Debug)]
pub struct Input<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected content-type: application/json"));
        }
        let body = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state))
            .await
            .map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive"))?
            .map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => {
                    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body may have {BODY_LIMIT} bytes at most"))
                }
                status => Problem::new(status, "the body could not be read"),
            })?;
        serde_json::from_slice(&body).map(Input).map_err(|error| {
            let status = if error.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
            Problem::new(status, error.to_string())
        })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// The caller's `Idempotency-Key`, of 1 to 200 visible ASCII characters.
pub fn idempotency_key(headers: &HeaderMap) -> Result<&str, Problem> {
    let wrong = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, detail);
    let mut values = headers.get_all("idempotency-key").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(wrong("expected one Idempotency-Key header, the same whenever the request is repeated"));
    };
    let bytes = value.as_bytes();
    match value.to_str() {
        Ok(key) if (1..=200).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic) => Ok(key),
        _ => Err(wrong("an Idempotency-Key has 1 to 200 visible ASCII characters")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_header_of_visible_ascii() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("idempotency-key", value.parse().unwrap());
            }
            idempotency_key(&headers).map(str::to_owned).map_err(|problem| problem.status)
        };
        assert_eq!(with(&["k-1"]), Ok("k-1".to_owned()));
        assert_eq!(with(&["x".repeat(200).as_str()]), Ok("x".repeat(200)));
        for wrong in [&[][..], &[""], &["a b"], &["a", "b"], &["\u{e9}"], &["x".repeat(201).as_str()]] {
            assert_eq!(with(wrong), Err(400), "{wrong:?}");
        }
    }
}
