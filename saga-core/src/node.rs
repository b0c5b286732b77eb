//! A participant at work.
use crate::{
    clock::Clock,
    error::Error,
    observer::{Observer, Unseen},
    participant::Participant,
    relay::Relay,
    start::Starter,
    store::Store,
    transport::{Sink, Source},
};
use std::{future::Future, sync::Arc};

#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) participant: Arc<Participant>,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) relay: Relay,
}
impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}
/// x
#[derive(Debug)]
pub struct Node {
    shared: Shared,
}
/// x
#[derive(Debug, Clone)]
pub struct Health;
impl Health {
    /// Ok when ready, else why not.
    pub async fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}
#[expect(clippy::todo, reason = "stub")]
impl Node {
    /// x
    pub fn new(
        _participant: Participant,
        _store: Store,
        _source: Box<dyn Source>,
        _sink: Arc<dyn Sink>,
    ) -> Result<Self, Error> {
        let _ = Unseen;
        todo!()
    }
    /// x
    #[must_use]
    pub fn observer(self, _observer: Arc<dyn Observer>) -> Self {
        todo!()
    }
    /// x
    pub fn starter(&self) -> Starter {
        Starter { shared: self.shared.clone() }
    }
    /// x
    pub fn health(&self) -> Health {
        todo!()
    }
    /// x
    pub async fn run(self, _shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        todo!()
    }
}
