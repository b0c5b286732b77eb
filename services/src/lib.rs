//! Three services that sell things, and the payment gateway that one of them calls. Nobody orchestrates them: each reacts to
//! events of the others, in its own database.
//!
//! | file | is |
//! |---|---|
//! | [`events`] | what they tell each other: the only thing that they share |
//! | [`order`], [`payment`], [`shipping`] | their steps, their tables |
//! | [`api`] | HTTP in front of `order` |
//! | [`gateway`] | the other system that `payment` calls, with faults on request, and its client |
//! | [`service`] | the shell around a participant: options, connections, health, signals |
//! | [`process`] | what every binary is besides: signals, an exit code |
//! | [`problem`] | how every HTTP error looks |

pub mod api;
pub mod events;
pub mod gateway;
pub mod order;
pub mod payment;
pub mod problem;
pub mod process;
pub mod service;
pub mod shipping;
