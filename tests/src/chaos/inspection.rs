//! Asks `saga-checker`, in a process of its own, whether everything is quiet and whether it is right.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::support::{Guarded, Stop};

/// What it takes to read everything.
const BOUND: Duration = Duration::from_secs(240);

/// The checker and where to look.
#[derive(Debug)]
pub struct Inspection {
    /// The program.
    pub checker: PathBuf,
    /// `NAME=URL` of each participant's database, separated by spaces; past any proxy.
    pub databases: String,
    /// Kafka, past any proxy.
    pub brokers: String,
    /// `NAME=GROUP` of each participant, separated by spaces.
    pub groups: String,
    /// The gateway.
    pub gateway: String,
    /// The customers' list.
    pub accepted: PathBuf,
}

/// Whether everything came to rest.
#[derive(Debug, Clone)]
pub struct Quiet {
    /// Whether it did in time.
    pub is_quiet: bool,
    /// What is left, as JSON.
    pub left: Value,
}

impl Inspection {
    /// Waits until nothing goes on any more.
    pub async fn quiet(&self, within: Duration) -> Result<Quiet> {
        let within_text = within.as_secs_f64().to_string();
        let arguments = ["quiet", "--within", &within_text, "--groups", &self.groups];
        let (_, printed) = self.ask(&arguments, within + BOUND).await?;
        let line = printed.lines().find(|line| line.starts_with('{')).with_context(|| printed.clone())?;
        let told: Value = serde_json::from_str(line)?;
        Ok(Quiet { is_quiet: told["quiet"] == true, left: told["left"].clone() })
    }

    /// Whether every invariant holds, and what the checker says.
    pub async fn check(&self) -> Result<(bool, String)> {
        let accepted = self.accepted.to_str().context("the path of the customers' list is no text")?;
        self.ask(&["check", "--gateway", &self.gateway, "--accepted", accepted], BOUND).await
    }

    async fn ask(&self, arguments: &[&str], bound: Duration) -> Result<(bool, String)> {
        let mut command = Guarded::command(&self.checker, Stop { signal: "KILL", ..Stop::default() });
        command.args(arguments).env("CHECKER_DATABASES", &self.databases).env("SAGA_BROKERS", &self.brokers);
        let (status, printed) = Guarded::output(&mut command, bound).await.context("the checker")?;
        Ok((status.success(), printed))
    }
}
