//! Where the observer keeps what it has seen.

use anyhow::{Context as _, bail};
use clap::Args;
use saga_observer::Store;

use crate::database::is_there;

/// What every command is told that asks an observer's tables.
#[derive(Debug, Args)]
pub(crate) struct Observed {
    /// The observer's tables: sqlite:FILE or postgres://USER@HOST/NAME
    #[arg(
        long = "observer",
        env = "SAGA_OBSERVER",
        hide_env_values = true,
        value_name = "URL",
        default_value = "sqlite:observer.db",
        help_heading = "Observer"
    )]
    pub(crate) url: String,
}

impl Observed {
    /// Opens what an observer has filled. Errors never show the URL, which may hold a password.
    pub(crate) async fn open(&self) -> anyhow::Result<Store> {
        is_there(&self.url).context("the observer's tables cannot be opened; does `saga observe` run, and where?")?;
        match Store::existing(&self.url).await.context("the observer's tables cannot be opened")? {
            Some(store) => Ok(store),
            None => bail!("no observer of this version keeps its tables there: start one with `saga observe`"),
        }
    }
}
