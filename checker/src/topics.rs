//! The topics, read from their beginnings by a bare Kafka client.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{BorrowedMessage, Headers as _},
};

use crate::observed::Event;

/// The topics of the samples.
pub const TOPICS: [&str; 3] = ["order", "payment", "shipping"];

const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence while there should be more.
const SILENCE: Duration = Duration::from_secs(30);

/// A client that joins no group and commits nothing.
pub fn client(brokers: &str, group: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", group);
    config.set("enable.auto.commit", "false").set("enable.partition.eof", "false").set("auto.offset.reset", "error");
    config.create().context("no client of Kafka")
}

/// The partitions of all topics with the offset behind their last message.
pub fn ends(client: &BaseConsumer) -> Result<BTreeMap<(String, i32), i64>> {
    let mut ends = BTreeMap::new();
    for topic in TOPICS {
        let metadata = client.fetch_metadata(Some(topic), TIMEOUT).context("Kafka does not answer")?;
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        for partition in partitions {
            let (_, high) = client.fetch_watermarks(topic, partition.id(), TIMEOUT)?;
            ends.insert((topic.to_owned(), partition.id()), high);
        }
    }
    Ok(ends)
}

/// Every message that was in a topic when this was called. Blocks.
pub fn read(brokers: &str) -> Result<Vec<Event>> {
    let client = client(brokers, "saga-checker")?;
    let mut ends = ends(&client)?;
    ends.retain(|_, end| *end > 0);
    let mut assignment = TopicPartitionList::new();
    for (topic, partition) in ends.keys() {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    client.assign(&assignment)?;
    let mut events = Vec::new();
    let mut heard = Instant::now();
    while !ends.is_empty() {
        match client.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let place = (message.topic().to_owned(), message.partition());
                if ends.get(&place).is_some_and(|end| message.offset() + 1 >= *end) {
                    ends.remove(&place);
                }
                events.push(event(&message));
            }
            Some(Err(error)) if heard.elapsed() > SILENCE => return Err(error.into()),
            None if heard.elapsed() > SILENCE => {
                bail!("Kafka is silent, and these were not read to their end: {ends:?}")
            }
            Some(Err(_)) | None => {}
        }
    }
    Ok(events)
}

fn event(message: &BorrowedMessage<'_>) -> Event {
    let headers = message.headers();
    let header = |name: &str| {
        let found = headers.into_iter().flat_map(|all| all.iter()).find(|header| header.key == name);
        found.and_then(|header| header.value).map(|value| String::from_utf8_lossy(value).into_owned())
    };
    let text = |name: &str| header(name).unwrap_or_default();
    Event {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        id: text("ce_id"),
        source: text("ce_source"),
        event_type: text("ce_type"),
        time: text("ce_time"),
        saga: text("ce_sagaid"),
        step: text("ce_sagastep"),
        outcome: text("ce_sagaoutcome"),
        causation: header("ce_causationid"),
        ending: header("ce_sagaending"),
        hops: text("ce_sagahops").parse().unwrap_or_default(),
        body: message.payload().unwrap_or_default().to_vec(),
    }
}
