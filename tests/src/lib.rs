//! Scenarios and end-to-end tests, with the support that starts Kafka and PostgreSQL.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../docs/verify.md")]
#[derive(Debug)]
pub struct Verify;

pub mod chaos;
pub mod otlp;
pub mod processes;
pub mod random;
pub mod scenario;
pub mod simulation;
pub mod stage;
pub mod support;
pub mod trace;
pub mod world;
