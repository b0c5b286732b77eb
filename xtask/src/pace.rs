//! Orders at a pace of their own, whether or not the shop keeps up, and how long each took.
//!
//! The invariant: an order is due at its own moment, however late the ones before it are, and its time counts from that moment. So
//! a shop that stalls for a second shows a second at every order of that second, and not at one of them (no coordinated omission).

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use saga_core::{
    envelope::{Delivery, Envelope},
    id::SagaId,
    transport::{
        Limit, Position, Source, SourceStatus,
        kafka::{KafkaConfig, KafkaSource, skip},
    },
};
use saga_tests::{
    processes::{Processes, wait_for},
    world::Order,
};
use tokio::time::{interval, sleep_until};

use crate::demo::progress;

/// The topic on which every saga of the shop ends.
const ENDINGS: [&str; 1] = ["order"];
/// Longer than any group takes to be joined.
const JOINED_WITHIN: Duration = Duration::from_secs(30);
/// The longest time without any progress.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);

/// What came of it.
#[derive(Debug)]
pub(crate) struct Paced {
    rate: u32,
    took: Duration,
    accepted: Vec<Duration>,
    ended: Vec<Duration>,
}

/// Places `rate` orders a second and returns when all of them have ended. The endings are heard from the broker, by a group of its
/// own, as another service would hear them: after the transaction that wrote them, and after they were published.
pub(crate) async fn place(world: &Processes, orders: &[Order], rate: u32) -> Result<Paced> {
    let mut source = listen(world).await?;
    let begin = Instant::now();
    let due = |i: usize| begin + Duration::from_secs_f64(i as f64 / f64::from(rate));
    let mut posts = FuturesUnordered::new();
    let mut next = 0;
    // An ending may be heard before the answer to its order is.
    let mut open: HashMap<SagaId, Instant> = HashMap::new();
    let mut heard: HashMap<SagaId, Instant> = HashMap::new();
    let mut accepted = Vec::with_capacity(orders.len());
    let mut ended = Vec::with_capacity(orders.len());
    let mut moved = Instant::now();
    let mut ticks = interval(LOOK);
    while ended.len() < orders.len() {
        tokio::select! {
            () = sleep_until(due(next).into()), if next < orders.len() => {
                while next < orders.len() && due(next) <= Instant::now() {
                    let order = next;
                    posts.push(async move { (order, world.post(&orders[order]).await) });
                    next += 1;
                }
            }
            Some((order, answer)) = posts.next() => {
                let (saga, _) = answer.with_context(|| format!("the order service does not keep up with {rate} orders/s"))?;
                moved = Instant::now();
                accepted.push(moved - due(order));
                match heard.remove(&saga) {
                    Some(at) => ended.push(at - due(order)),
                    None => drop(open.insert(saga, due(order))),
                }
            }
            deliveries = source.receive(Limit::default()) => {
                let deliveries = deliveries?;
                moved = Instant::now();
                let events = deliveries.iter().filter_map(|delivery| Envelope::decode(delivery).ok());
                for Envelope { saga, .. } in events.filter(|event| event.ending.is_some()) {
                    match open.remove(&saga) {
                        Some(due) => ended.push(moved - due),
                        None => drop(heard.insert(saga, moved)),
                    }
                }
                source.settled(&positions(&deliveries))?;
            }
            _ = ticks.tick() => {
                progress(&format!("placed {} of {} orders, {} have ended", accepted.len(), orders.len(), ended.len()));
                if moved.elapsed() > PATIENCE {
                    bail!("of {} orders {} were accepted, and nothing moves", orders.len(), accepted.len());
                }
            }
        }
    }
    let took = begin.elapsed();
    source.close().await?;
    Ok(Paced { rate, took, accepted, ended })
}

/// A reader of what comes from now on, that has its partitions.
async fn listen(world: &Processes) -> Result<Box<dyn Source>> {
    let config = KafkaConfig { group: format!("{}-listener", world.kafka().group), ..world.kafka().clone() };
    skip(&config, &ENDINGS).await?;
    let source = KafkaSource::connect(&config, &ENDINGS)?;
    wait_for("the listener to join its group", JOINED_WITHIN, async || {
        Ok(matches!(source.status(), SourceStatus::Ready(_)).then_some(()))
    })
    .await?;
    Ok(source)
}

fn positions(deliveries: &[Delivery]) -> Vec<Position> {
    let position = |one: &Delivery| Position {
        topic: one.topic.clone(),
        partition: one.partition,
        next: one.offset + 1,
        epoch: one.epoch,
    };
    deliveries.iter().map(position).collect()
}

impl fmt::Display for Paced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        let of = format!("{} sagas at {} orders/s, in {seconds:.1} s", self.ended.len(), self.rate);
        writeln!(f, "{of:<44} {:>10} {:>10} {:>10}", "p50", "p99", "max")?;
        for (what, times) in [("accepted by POST /orders", &self.accepted), ("ending heard from Kafka", &self.ended)] {
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| format!("{:.1} ms", percentile(times, part)));
            writeln!(f, "  due to {what:<35} {p50:>10} {p99:>10} {max:>10}")?;
        }
        write!(f, "An order is due at its moment, however late those before it are.")
    }
}

/// In milliseconds, by nearest rank: so many of the times are at most this. Zero when there are none.
fn percentile(times: &[Duration], part: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|part| percentile(&times, part)), [100.0, 198.0, 200.0]);
        assert_eq!(percentile(&times[..1], 0.5), 200.0);
        assert_eq!(percentile(&[], 0.99), 0.0);
    }
}
