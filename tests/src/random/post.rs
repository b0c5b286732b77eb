//! What lies between the participants of a random choreography: every message reaches every participant that hears it, once or
//! twice, sooner or later, in any order.
//!
//! The invariant: nothing is lost. Losing is a delay, and what is late is lost for long enough.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::pending;
use saga_core::{
    envelope::{Delivery, Envelope, Message},
    transport::{BoxFuture, Limit, Position, PublishError, Sink, Source, SourceStatus, TransportError},
};

use super::draft::PARTICIPANTS;
use crate::simulation::chance::Random;

/// Clones are the same post.
#[derive(Debug, Clone)]
pub(super) struct Post(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: Random,
    /// In the unit of [`Post::now`].
    now: u64,
    /// The event types that each participant hears.
    hears: Vec<Vec<&'static str>>,
    published: Vec<(Envelope, Delivery)>,
    /// For each participant, with the time at which it comes.
    under_way: Vec<Vec<(u64, Delivery)>>,
    arrived: Vec<Vec<Delivery>>,
}

/// When something comes that is sent now: mostly soon, sometimes so late that everything else is over. What takes longer comes on a
/// coarser grid, so that it comes in batches, and in any order within them.
pub(super) fn later(now: u64, random: &mut Random) -> u64 {
    let (longest, grid) = [(1, 1), (1, 1), (1, 1), (3, 4), (3, 4), (6, 4), (24, 16), (64, 64)][random.below(8)];
    (now + 1 + random.below(longest) as u64).next_multiple_of(grid)
}

impl Post {
    /// `hears` are the event types that each of [`PARTICIPANTS`] hears.
    pub(super) fn new(seed: u64, hears: Vec<Vec<&'static str>>) -> Self {
        let nobody = || PARTICIPANTS.iter().map(|_| Vec::new()).collect();
        let under_way = PARTICIPANTS.iter().map(|_| Vec::new()).collect();
        let state =
            State { random: Random::new(seed), now: 0, hears, published: Vec::new(), under_way, arrived: nobody() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a participant can read at this time is there, in any order; whether that is anything.
    pub(super) fn arrive(&self, now: u64, participant: usize) -> bool {
        let mut state = self.state();
        state.now = now;
        let State { random, under_way, arrived, .. } = &mut *state;
        let (there, later) = std::mem::take(&mut under_way[participant]).into_iter().partition(|(at, _)| *at <= now);
        under_way[participant] = later;
        let there: Vec<(u64, Delivery)> = there;
        let arrived = &mut arrived[participant];
        arrived.extend(there.into_iter().map(|(_, delivery)| delivery));
        for upper in (1..arrived.len()).rev() {
            arrived.swap(upper, random.below(upper + 1));
        }
        !arrived.is_empty()
    }

    /// When the next message comes to somebody.
    pub(super) fn next(&self) -> Option<u64> {
        self.state().under_way.iter().flatten().map(|(at, _)| *at).min()
    }

    /// Every event that was published, in order, each as often as it was.
    pub(super) fn published(&self) -> Vec<Envelope> {
        self.state().published.iter().map(|(event, _)| event.clone()).collect()
    }

    /// Everything comes once more, soon.
    pub(super) fn again(&self) {
        let mut state = self.state();
        let State { now, hears, published, under_way, .. } = &mut *state;
        for (event, delivery) in published.iter() {
            for (hears, under_way) in hears.iter().zip(under_way.iter_mut()) {
                if hears.contains(&event.event_type.as_str()) {
                    under_way.push((*now + 1, delivery.clone()));
                }
            }
        }
    }

    pub(super) fn source(&self, participant: usize) -> Box<dyn Source> {
        Box::new(Receives { post: self.clone(), participant })
    }

    pub(super) fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(Sends(self.clone()))
    }
}

struct Receives {
    post: Post,
    participant: usize,
}

impl Source for Receives {
    fn receive(&mut self, _: Limit) -> BoxFuture<'_, Result<Vec<Delivery>, TransportError>> {
        let arrived = std::mem::take(&mut self.post.state().arrived[self.participant]);
        // Who moves the participant hands out what arrives, so nobody has to be woken.
        if arrived.is_empty() { Box::pin(pending()) } else { Box::pin(std::future::ready(Ok(arrived))) }
    }

    fn settled(&mut self, _: &[Position]) -> Result<(), TransportError> {
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        SourceStatus::Ready(1)
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), TransportError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

struct Sends(Post);

impl Sink for Sends {
    fn publish<'a>(&'a self, messages: &'a [Message]) -> BoxFuture<'a, Vec<Result<(), PublishError>>> {
        let mut state = self.0.state();
        let State { random, now, hears, published, under_way, .. } = &mut *state;
        let mut results = Vec::with_capacity(messages.len());
        for message in messages {
            let headers = message.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes()));
            let delivery = Delivery {
                topic: Arc::from(message.topic.as_str()),
                partition: 0,
                offset: published.len() as i64,
                epoch: 0,
                key: Some(message.key.clone().into_bytes()),
                headers: headers.collect(),
                body: message.body.clone(),
            };
            let event = match Envelope::decode(&delivery) {
                Ok(event) => event,
                Err(malformed) => {
                    results.push(Err(PublishError { permanent: true, reason: malformed.to_string() }));
                    continue;
                }
            };
            for (hears, under_way) in hears.iter().zip(under_way.iter_mut()) {
                if hears.contains(&event.event_type.as_str()) {
                    under_way.push((later(*now, random), delivery.clone()));
                    if random.below(4) == 0 {
                        under_way.push((later(*now, random), delivery.clone()));
                    }
                }
            }
            published.push((event, delivery));
            results.push(Ok(()));
        }
        Box::pin(std::future::ready(results))
    }
}
