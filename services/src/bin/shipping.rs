//! The shipping service.

use saga_services::{service, shipping};

fn main() -> std::process::ExitCode {
    service::Service {
        name: "shipping",
        http: "127.0.0.1:8083",
        schema: shipping::SCHEMA,
        participant: |_: &service::NoOptions| Ok(shipping::participant()),
        routes: service::no_routes,
    }
    .main()
}
