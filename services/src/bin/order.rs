//! The order service.

use saga_services::{api, order, service};

fn main() -> std::process::ExitCode {
    service::Service {
        name: "order",
        http: "127.0.0.1:8081",
        schema: order::SCHEMA,
        participant: |_: &service::NoOptions| Ok(order::participant()),
        routes: api::routes,
    }
    .main()
}
