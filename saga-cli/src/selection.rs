//! Which waiting rows are meant.

use std::str::FromStr as _;

use clap::Args;
use saga_core::{
    clock::Clock,
    id::{ReactionId, SagaId},
    store::{Place, Store, Which, WorkRow, WorkState},
};

/// How many rows are read at once. Each may hold a body of a megabyte.
const PAGE: u32 = 100;

/// The filters that listing and redriving have in common. A row must pass all that are given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct Selection {
    /// Only the rows of this saga
    #[arg(long, value_name = "ID", value_parser = SagaId::from_str)]
    pub(crate) saga: Option<SagaId>,
    /// Only the rows of this step
    #[arg(long, value_name = "NAME")]
    pub(crate) step: Option<String>,
    /// Only rows whose reason or last error contains this text, in upper or lower case
    #[arg(long, value_name = "TEXT")]
    pub(crate) error: Option<String>,
    /// Only rows that have waited at least this long: 10m, 2h, 3days
    #[arg(long, value_name = "TIME")]
    pub(crate) older_than: Option<humantime::Duration>,
}

/// The id of a reaction, as `saga work` shows it.
pub(crate) fn reaction(text: &str) -> Result<ReactionId, String> {
    text.parse().map(ReactionId).map_err(|error: uuid::Error| error.to_string())
}

impl Selection {
    fn which(&self, state: Option<WorkState>, clock: &Clock) -> Which {
        let age = self.older_than.map_or(0, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        Which { saga: self.saga, step: self.step.clone(), state, since: Some(clock.now().saturating_sub(age)) }
    }

    fn passes(&self, row: &WorkRow) -> bool {
        let Some(text) = &self.error else { return true };
        let text = text.to_lowercase();
        let last = row.failures.last().map_or("", |failure| failure.error.as_str());
        [row.reason.as_str(), last].iter().any(|said| said.to_lowercase().contains(&text))
    }

    /// The rows that pass, in the order of their sagas, a bounded number at a time.
    pub(crate) fn rows<'s>(&'s self, store: &'s Store, state: Option<WorkState>, clock: &Clock) -> Rows<'s> {
        Rows { selection: self, store, which: self.which(state, clock), after: None, ended: false }
    }
}

/// See [`Selection::rows`]. What is written while this reads on is behind it, or is left for the next time.
#[derive(Debug)]
pub(crate) struct Rows<'s> {
    selection: &'s Selection,
    store: &'s Store,
    which: Which,
    after: Option<Place>,
    ended: bool,
}

impl Rows<'_> {
    /// The next rows, `most` of them at most; none when there are no more.
    pub(crate) async fn next(&mut self, most: usize) -> anyhow::Result<Vec<WorkRow>> {
        let mut found = Vec::new();
        while !self.ended && found.len() < most {
            let page = self.store.work_page(&self.which, self.after, PAGE).await?;
            self.ended = page.len() < PAGE as usize;
            for row in page {
                if found.len() == most {
                    // The rest of the page is read again.
                    self.ended = false;
                    break;
                }
                self.after = Some(row.place());
                if self.selection.passes(&row) {
                    found.push(row);
                }
            }
        }
        Ok(found)
    }
}
