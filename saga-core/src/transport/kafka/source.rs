//! The participant's end of the consumer.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rdkafka::consumer::BaseConsumer;
use tokio::sync::oneshot;

use super::{
    CLOSE_WITHIN, client_error,
    config::{KafkaConfig, Kind, creation_error},
    locked,
    membership::Membership,
    queue::{Shared, take},
    reader::Reader,
    topics::longest_retention,
    voice::Voice,
};
use crate::{
    envelope::Delivery,
    transport::{BoxFuture, Limit, Position, Source, SourceStatus, TransportError},
};

/// Makes sources.
#[derive(Debug)]
pub struct KafkaSource;

impl KafkaSource {
    /// Joins the group in the background and returns at once; [`Source::status`] says when partitions are assigned. Only a
    /// refused setting is an error here.
    pub fn connect(config: &KafkaConfig, topics: &[&str]) -> Result<Box<dyn Source>, TransportError> {
        if config.group.trim().is_empty() {
            let reason = "expected the participant's name".to_owned();
            return Err(TransportError::Setting { name: "group".to_owned(), reason });
        }
        let mut client = config.client(Kind::Consumer)?;
        client.set("group.id", &config.group);
        let shared = Arc::new(Shared::default());
        let membership = Membership { shared: Arc::clone(&shared), voice: Voice::default() };
        let consumer: BaseConsumer<Membership> = client.create_with_context(membership).map_err(creation_error)?;
        let (done, ended) = oneshot::channel();
        let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
        let reading =
            Reading { shared: Arc::clone(&shared), ended: Some(ended), config: config.clone(), topics: topics.clone() };
        let reader = Reader { consumer, shared: Arc::clone(&shared), topics, probed: Instant::now(), paused: false };
        std::thread::Builder::new()
            .name(format!("kafka-{}", config.group))
            .spawn(move || reader.live(done))
            .map_err(|error| client_error("starting the consumer's thread", error))?;
        Ok(Box::new(reading))
    }
}

struct Reading {
    shared: Arc<Shared>,
    ended: Option<oneshot::Receiver<Result<(), TransportError>>>,
    config: KafkaConfig,
    topics: Vec<String>,
}

impl Source for Reading {
    fn receive(&mut self, limit: Limit) -> BoxFuture<'_, Result<Vec<Delivery>, TransportError>> {
        Box::pin(async move {
            loop {
                {
                    let mut queue = locked(&self.shared.queue);
                    if !queue.deliveries.is_empty() {
                        let batch = take(&mut queue, limit);
                        drop(queue);
                        self.shared.room.notify_all();
                        return Ok(batch);
                    }
                    if let Some(error) = queue.failed.take() {
                        return Err(error);
                    }
                    if queue.ended {
                        return Err(TransportError::Closed);
                    }
                }
                self.shared.arrived.notified().await;
            }
        })
    }

    fn settled(&mut self, positions: &[Position]) -> Result<(), TransportError> {
        let mut queue = locked(&self.shared.queue);
        for position in positions {
            let assigned =
                queue.assigned.get_mut(&*position.topic).and_then(|topic| topic.get_mut(&position.partition));
            if let Some(assigned) = assigned.filter(|now| now.epoch == position.epoch && now.settled < position.next) {
                assigned.settled = position.next;
                queue.settled.insert((Arc::clone(&position.topic), position.partition), position.next);
            }
        }
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        let queue = locked(&self.shared.queue);
        if queue.ended || queue.failed.is_some() {
            let reason = queue.failed.as_ref().map_or_else(|| "closed".to_owned(), ToString::to_string);
            return SourceStatus::NotReady(reason);
        }
        match &queue.not_ready {
            Some(reason) => SourceStatus::NotReady(reason.clone()),
            None if !queue.joined => SourceStatus::NotReady("waiting for the group's assignment".to_owned()),
            None => SourceStatus::Ready(queue.assigned.values().map(BTreeMap::len).sum()),
        }
    }

    fn retention(&self) -> BoxFuture<'static, Result<Option<Duration>, TransportError>> {
        let (config, topics) = (self.config.clone(), self.topics.clone());
        Box::pin(async move { Ok(longest_retention(&config, &topics).await) })
    }

    fn close(mut self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>> {
        self.stop();
        let ended = self.ended.take();
        Box::pin(async move {
            let Some(ended) = ended else { return Ok(()) };
            match tokio::time::timeout(CLOSE_WITHIN, ended).await {
                Ok(Ok(left)) => locked(&self.shared.queue).failed.take().map_or(left, Err),
                Ok(Err(gone)) => Err(client_error("leaving the group", gone)),
                Err(late) => Err(client_error("leaving the group: what was settled last may come again", late)),
            }
        })
    }
}

impl Reading {
    fn stop(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.room.notify_all();
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.stop();
    }
}
