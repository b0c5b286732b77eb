//! How many events a second are folded into a SQLite file, beside the floor: the same messages decoded, and a row of the same size
//! written for each saga of a batch, without reading, merging or viewing.
//!
//! `cargo run --release -p saga-observer --example throughput [SAGAS]`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

#[path = "../tests/shop/mod.rs"]
mod shop;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use saga_core::{
    clock::Clock,
    envelope::{Delivery, Envelope},
};
use saga_observer::{Cast, Store, intake};

const BATCH: usize = 4_000;

fn deliveries(sagas: u128) -> Vec<Delivery> {
    // The events of a hundred sagas overlap, as those of live sagas do.
    let mut deliveries = Vec::new();
    let mut offset = 0;
    for hundred in 0..sagas / 100 {
        let sagas: Vec<Vec<Envelope>> = (1..=100).map(|saga| shop::cancelled(hundred * 100 + saga)).collect();
        for number in 0..5 {
            for events in &sagas {
                let event = events[number].clone();
                let topic: Arc<str> = event.source.trim_start_matches('/').into();
                let message = event.encode(&topic).unwrap();
                deliveries.push(Delivery {
                    topic,
                    partition: 0,
                    offset,
                    epoch: 0,
                    key: Some(message.key.into_bytes()),
                    headers: message.headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect(),
                    body: vec![b' '; 300],
                });
                offset += 1;
            }
        }
    }
    deliveries
}

#[tokio::main]
async fn main() {
    let sagas = std::env::args().nth(1).map_or(100_000, |sagas| sagas.parse().unwrap());
    let deliveries = deliveries(sagas);
    let dir = tempfile::tempdir().unwrap();
    let choreography = shop::choreography();
    let cast = Cast::of(choreography.flow());

    let began = Instant::now();
    let mut decoded = 0;
    for batch in deliveries.chunks(BATCH) {
        decoded += intake::seen(batch).len();
    }
    let decoding = began.elapsed();

    let url = format!("sqlite:{}", dir.path().join("observer.db").display());
    let store = Store::open(&url, Clock::system().time_ordered_uuid()).await.unwrap();
    let began = Instant::now();
    for batch in deliveries.chunks(BATCH) {
        store.fold(intake::seen(batch), &cast).await.unwrap();
    }
    let folding = began.elapsed();

    let rate = |took: std::time::Duration| deliveries.len() as f64 / took.as_secs_f64();
    println!("{} events of {sagas} sagas, {decoded} rows touched", deliveries.len());
    println!("decoded and merged in memory  {:>9.0} events/s", rate(decoding));
    println!("folded into a SQLite file     {:>9.0} events/s", rate(folding));
    println!("states: {:?}", store.counts().await.unwrap().into_iter().collect::<BTreeMap<_, _>>());
}
