//! Scenarios and end-to-end tests, with the support that starts Kafka and PostgreSQL.

pub mod otlp;
pub mod scenario;
pub mod stage;
pub mod support;
pub mod world;
