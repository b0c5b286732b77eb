//! The gateway's own record, over HTTP.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::observed::Record;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks the gateway at `url`, such as `http://127.0.0.1:8090`, for everything it knows.
pub async fn read(url: &str) -> Result<Record> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
    let answer = client.get(format!("{url}/record")).send().await.context("the gateway does not answer")?;
    answer.error_for_status()?.json().await.context("the gateway's record is of another form")
}
