//! x
pub mod otlp;
