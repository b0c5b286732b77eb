//! What can go wrong, in one enum.

use crate::transport::TransportError;

/// Errors of this crate. `Display` says what was expected; the source says why it was not so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database did not do what it was asked.
    #[error("the database failed while {doing}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// A URL of an unknown kind; it is not shown, because it may hold a password.
    #[error("the database URL is neither postgres://USER@HOST/NAME nor sqlite:FILE")]
    DatabaseUrl,
    /// A row holds what this version cannot read.
    #[error("the {table} table holds {what}, which this version does not know")]
    Row {
        /// Which table.
        table: &'static str,
        /// What it holds.
        what: String,
    },
    /// A ledger row was not in the state that its transition expected. A bug, or somebody wrote to the tables.
    #[error("{count} of {expected} ledger rows were in the state that their transition expects: nothing was written")]
    Transition {
        /// Rows that were to change.
        expected: u64,
        /// Rows that would have changed.
        count: u64,
    },
    /// The tables are missing or of another version.
    #[error("the tables of {participant} are of version {found}, this binary needs {needed}: run `migrate`")]
    Schema {
        /// Whose tables.
        participant: String,
        /// 0 when there are none.
        found: i64,
        /// What this binary was built for.
        needed: i64,
    },
    /// A name of a form that is not allowed.
    #[error("{name:?} is no {kind} name: expected at most 30 of a-z, 0-9 and -, beginning with a letter")]
    Name {
        /// Participant or step.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// The cast list contradicts itself.
    #[error("the participant {participant} is declared wrongly: {problem}")]
    Declaration {
        /// Whose.
        participant: String,
        /// What is wrong, and the fix.
        problem: String,
    },
    /// The ledger holds rows of steps that this binary lacks.
    #[error(
        "the ledger of {participant} names steps that this binary lacks: {steps:?}; is this an older binary, or was a step renamed \
         that does not say so in `FORMERLY`?"
    )]
    UnknownSteps {
        /// Whose.
        participant: String,
        /// Their names.
        steps: Vec<String>,
    },
    /// Sagas would be forgotten too soon.
    #[error("the retention of {participant} is refused: {problem}")]
    Retention {
        /// Whose.
        participant: String,
        /// What is wrong, and the fix.
        problem: String,
    },
    /// The task that publishes committed events panicked: they are in the outbox, and the next start publishes them.
    #[error("the relay of {participant} panicked, a bug: {panic}")]
    Relay {
        /// Whose.
        participant: String,
        /// What it said.
        panic: String,
    },
    /// The transport cannot go on.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// JSON that could not be written.
    #[error("a value could not be written as JSON")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// Names what was being done when the database failed.
    pub(crate) fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }
}
