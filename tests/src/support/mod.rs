//! A real Kafka, a real PostgreSQL and a real Jaeger for tests.
//!
//! `cargo xtask test` starts both once ([`Kafka::start`], [`Postgres::start`]) and tells the tests where they are by
//! two environment variables; a test asks with [`require_kafka`] and [`require_postgres`]. So a test never starts a
//! server, and the same test runs against a server that somebody else keeps (set the variable yourself).
//!
//! ```no_run
//! # async fn a_test() -> anyhow::Result<()> {
//! use saga_tests::support::{require_kafka, require_postgres};
//!
//! let (Some(kafka), Some(postgres)) = (require_kafka(), require_postgres()) else {
//!     return Ok(()); // said loudly on stderr; a failure under CI=true
//! };
//! let orders: String = postgres.database("orders").await?; // postgres://..., fresh and empty
//! let bootstrap_servers: &str = kafka.address();
//! # Ok(())
//! # }
//! ```
//!
//! The invariant: everything listens on 127.0.0.1 only, and nothing started here outlives the process that started it,
//! not even one that was killed (see [`Guarded`]).

mod docker;
mod guarded;
mod jaeger;
mod jaeger_binary;
mod kafka;
mod maven;
mod node;
mod postgres;
mod postgres_binaries;

use std::env;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

pub use guarded::{Guarded, Stop};
pub use jaeger::Jaeger;
pub use jaeger_binary::jaeger_binary;
pub use kafka::Kafka;
pub use node::{Node, require_node};
pub use postgres::Postgres;

/// Where Kafka is: `host:port`.
pub const KAFKA_VARIABLE: &str = "SAGA_TEST_KAFKA";
/// Where PostgreSQL is, and as whom: `postgres://user:password@host:port/database`; the user may create databases.
pub const POSTGRES_VARIABLE: &str = "SAGA_TEST_POSTGRES";
/// Where the program of Jaeger 2 is, a path.
pub const JAEGER_VARIABLE: &str = "SAGA_TEST_JAEGER";
/// Set to 1, this makes a missing server a failure instead of a skip, as `CI=true` does.
pub const REQUIRE_VARIABLE: &str = "SAGA_TEST_REQUIRE";
/// A file to which skipped tests add a line each, so that the summary at the end of a run can name them.
pub const SKIPS_VARIABLE: &str = "SAGA_TEST_SKIPS";

/// Told what is going on while a server starts, a line at a time.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// A server that could not be had, and what to do about it.
#[derive(Debug, Clone)]
pub struct Missing {
    /// The name of what could not be had: `Apache Kafka 4.3.1`.
    pub what: String,
    /// Which ways were tried and why each failed.
    pub why: String,
    /// The line that installs what is missing; none when everything is installed and yet the server did not start,
    /// which is a failure and not a gap.
    pub install: Option<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {}: {}", self.what, self.why)?;
        match &self.install {
            Some(line) => write!(f, "; to install what is missing: {line}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Missing {}

/// The Kafka that tests share, or none after saying loudly that this test is skipped.
///
/// # Panics
///
/// Where nothing may be skipped: under `CI=true` and `SAGA_TEST_REQUIRE=1`.
#[must_use]
#[track_caller]
pub fn require_kafka() -> Option<Kafka> {
    let address = variable(KAFKA_VARIABLE);
    address.map(Kafka::at).or_else(|| skip("Kafka", KAFKA_VARIABLE))
}

/// The PostgreSQL that tests share, or none after saying loudly that this test is skipped.
///
/// # Panics
///
/// Where nothing may be skipped: under `CI=true` and `SAGA_TEST_REQUIRE=1`.
#[must_use]
#[track_caller]
pub fn require_postgres() -> Option<Postgres> {
    let url = variable(POSTGRES_VARIABLE);
    url.map(Postgres::at).or_else(|| skip("PostgreSQL", POSTGRES_VARIABLE))
}

/// Whether a missing server is a failure: under `CI=true` and `SAGA_TEST_REQUIRE=1`.
#[must_use]
pub fn everything_is_required() -> bool {
    ["CI", REQUIRE_VARIABLE].into_iter().filter_map(variable).any(|value| value != "0" && value != "false")
}

#[track_caller]
fn skip<T>(what: &str, name: &str) -> Option<T> {
    lacking(what, &format!("{name} is not set; `cargo xtask test` starts {what} and sets it"))
}

#[track_caller]
fn lacking<T>(what: &str, why: &str) -> Option<T> {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(!everything_is_required(), "{test} needs {what}, and {why}");
    // Straight to stderr: what goes through `eprintln!` is hidden when the test passes, and a skipped test passes.
    let line = format!("SKIPPED: {test} needs {what}, and {why}\n");
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
    if let Some(skips) = variable(SKIPS_VARIABLE) {
        let file = OpenOptions::new().append(true).create(true).open(skips);
        // One write per line: appends of several processes do not mix.
        let _ = file.and_then(|mut file| file.write_all(format!("{test} (needs {what})\n").as_bytes()));
    }
    None
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Cargo's target directory, wherever it was moved to: the tagged directory that this executable was built into.
/// Downloads are kept below it, so that `cargo clean` removes them.
fn target_dir() -> PathBuf {
    let executable = env::current_exe().unwrap_or_default();
    let tagged = |dir: &&Path| dir.join("CACHEDIR.TAG").is_file();
    match executable.ancestors().find(tagged) {
        Some(dir) => dir.to_owned(),
        None => env::temp_dir().join("saga-target"),
    }
}

/// Ports on loopback that nobody listens on. Held together while they are chosen, so that they differ.
fn free_ports<const N: usize>() -> std::io::Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// The executable of that name on PATH.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The end of a log, for an error message.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let ports: [u16; 8] = free_ports().unwrap();
        let distinct: std::collections::BTreeSet<u16> = ports.into_iter().collect();
        assert_eq!(distinct.len(), 8);
    }

    #[test]
    fn the_target_directory_is_above_this_test() {
        assert!(env::current_exe().unwrap().starts_with(target_dir()));
    }

    #[test]
    fn a_missing_server_names_the_line_that_installs_it() {
        let missing =
            Missing { what: "Kafka".into(), why: "no Java".into(), install: Some("apt-get install -y maven".into()) };
        let said = missing.to_string();
        assert!(said.ends_with("to install what is missing: apt-get install -y maven"), "{said}");
    }

    #[test]
    fn the_end_of_a_log_skips_blank_lines() {
        assert_eq!(last_lines("a\n\nb\n\nc\n", 2), "b\nc");
    }
}
