//! Pictures and documents of a choreography.

mod mermaid;
