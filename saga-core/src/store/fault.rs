//! What a database error is about: the reaction that met it, the company it was in, or the database itself.
//!
//! The invariant: what would meet every reaction alike is nobody's attempt. A full disk fails whoever writes next, and so it is an
//! outage although a step's own statement was the one to notice; counted against policies it would make every reaction stuck.

use std::error::Error as StdError;

/// Whose an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Two transactions in each other's way. Alone, a statement that still meets it is in its own way.
    Conflict,
    /// Too much at once, for a table of locks or for memory: less helps, and if even one reaction is too much, it is an outage.
    Crowded,
    /// The database cannot do its work at the moment: no attempt counts, consumption pauses, the database is probed.
    Outage,
    /// What was written cannot stand. At the end of a transaction this is the work of a step that swallowed an error or met a
    /// deferred constraint.
    Data,
}

/// SQLSTATE, or the class that its first two characters are (PostgreSQL, appendix A). A code goes before its class.
const POSTGRES: &[(&str, Fault)] = &[
    ("40001", Fault::Conflict), // serialization_failure
    ("40P01", Fault::Conflict), // deadlock_detected
    ("55P03", Fault::Conflict), // lock_not_available
    ("53200", Fault::Crowded),  // out_of_memory, the shared table of locks included
    ("53100", Fault::Outage),   // disk_full
    ("53300", Fault::Outage),   // too_many_connections
    ("57P01", Fault::Outage),   // admin_shutdown
    ("57P02", Fault::Outage),   // crash_shutdown
    ("57P03", Fault::Outage),   // cannot_connect_now
    ("57P04", Fault::Outage),   // database_dropped
    ("25006", Fault::Outage),   // read_only_sql_transaction: every transaction here may write, but not one on a replica
    ("08", Fault::Outage),      // connection exceptions
    ("58", Fault::Outage),      // errors of the system below PostgreSQL, such as io_error
    ("22", Fault::Data),        // data exceptions
    ("23", Fault::Data),        // broken constraints
    ("25", Fault::Data),        // aborted transactions
];

/// SQLite's result codes, extended or primary: the primary one is the lowest byte. An extended one goes before its primary one.
const SQLITE: &[(u32, Fault)] = &[
    (7, Fault::Crowded), // NOMEM
    (8, Fault::Outage),  // READONLY
    (10, Fault::Outage), // IOERR
    (13, Fault::Outage), // FULL
    (14, Fault::Outage), // CANTOPEN
    (19, Fault::Data), // CONSTRAINT; as COMMITHOOK, what follows a rollback that a step did not notice (see `sqlite.rs`)
];

/// Whose this error is; `None` for what concerns its reaction only. Sources are looked at, too: steps wrap what they pass on.
///
/// A lost connection has no code, and is told by what happens next: a statement that takes its connection down whenever it runs must
/// not pass for an outage.
pub(crate) fn fault(error: &(dyn StdError + 'static)) -> Option<Fault> {
    let mut next = Some(error);
    while let Some(error) = next {
        let code = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
        if let Some(code) = code.and_then(sqlx::error::DatabaseError::code) {
            return of_code(&code);
        }
        next = error.source();
    }
    None
}

/// SQLSTATE has five characters; SQLite's numbers have four digits at most.
fn of_code(code: &str) -> Option<Fault> {
    if code.len() == 5 {
        let find = |wanted: &str| POSTGRES.iter().find(|(code, _)| *code == wanted);
        return find(code).or_else(|| find(code.get(..2)?)).map(|(_, fault)| *fault);
    }
    let extended: u32 = code.parse().ok()?;
    let find = |wanted: u32| SQLITE.iter().find(|(code, _)| *code == wanted);
    find(extended).or_else(|| find(extended & 0xff)).map(|(_, fault)| *fault)
}

#[cfg(test)]
mod tests {
    use super::{
        Fault::{Data, Outage},
        *,
    };

    #[test]
    fn every_code_is_told_by_one_table() {
        for (code, fault) in POSTGRES {
            let code = if code.len() == 2 { format!("{code}001") } else { (*code).to_owned() };
            assert_eq!(of_code(&code), Some(*fault), "{code}");
        }
        for (code, fault) in SQLITE {
            assert_eq!(of_code(&code.to_string()), Some(*fault), "{code}");
        }
        // Of their classes: unique_violation, undefined_file, in_failed_sql_transaction; and one of class 25 that is no step's.
        assert_eq!(["23505", "58P01", "25P02"].map(of_code), [Data, Outage, Data].map(Some));
        assert_eq!(of_code("25006"), Some(Outage));
        // Extended: READONLY_DBMOVED, IOERR_WRITE, CANTOPEN_ISDIR, CONSTRAINT_UNIQUE, CONSTRAINT_COMMITHOOK.
        assert_eq!(["1032", "778", "526", "2067", "531"].map(of_code), [Outage, Outage, Outage, Data, Data].map(Some));
        // The reaction's own: syntax_error, undefined_table, raise_exception, query_canceled (a statement that took too long),
        // configuration_limit_exceeded; SQLite's ERROR and TOOBIG; and what is no code.
        for own in ["42601", "42P01", "P0001", "57014", "53400", "1", "18", "", "é23", "53éé"] {
            assert_eq!(of_code(own), None, "{own}");
        }
    }

    #[test]
    fn an_error_that_a_step_has_wrapped_is_the_same_error() {
        #[derive(Debug, thiserror::Error)]
        #[error("no stock could be reserved")]
        struct Wrapped(#[source] sqlx::Error);

        #[derive(Debug, thiserror::Error)]
        #[error("no room")]
        struct Full;
        impl sqlx::error::DatabaseError for Full {
            fn message(&self) -> &'static str {
                "no room"
            }
            fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
                Some("53100".into())
            }
            fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
                self
            }
            fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
                self
            }
            fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
                self
            }
            fn kind(&self) -> sqlx::error::ErrorKind {
                sqlx::error::ErrorKind::Other
            }
        }
        let full = || sqlx::Error::Database(Box::new(Full));
        assert_eq!(fault(&Wrapped(full())), Some(Outage));
        assert_eq!(fault(&crate::Error::database("running a step")(full())), Some(Outage));
        assert_eq!(fault(&Wrapped(sqlx::Error::RowNotFound)), None);
    }
}
