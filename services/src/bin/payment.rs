//! The payment service.

use saga_services::{gateway::GatewayClient, payment, service};

#[derive(Debug, clap::Args)]
struct Gateway {
    /// The payment gateway
    #[arg(long, env = "SAGA_GATEWAY", default_value = "http://127.0.0.1:8090", global = true)]
    gateway: String,
}

fn main() -> std::process::ExitCode {
    service::Service {
        name: "payment",
        http: "127.0.0.1:8082",
        schema: payment::SCHEMA,
        participant: |own: &Gateway| Ok(payment::participant(GatewayClient::new(&own.gateway)?)),
        routes: service::no_routes,
    }
    .main()
}
