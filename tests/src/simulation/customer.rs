//! The customers: they order, ask again while they have no answer, and some change their minds.

use anyhow::Result;
use saga_core::{
    id::SagaId,
    node::Settling,
    start::{Requested, StartError, StartKey, Started, Starter},
};
use saga_services::order::{self, NewOrder};

use super::{
    chance::{Fault, Random},
    instance::{Rest, Task, Work},
    traffic::Timed,
    world::World,
};

/// What a customer asks for at last.
pub(super) enum Reply {
    /// An order.
    Placed(Result<Started<String>, StartError>),
    /// Its cancellation.
    Cancelled(Result<Requested, StartError>),
}

/// An order of a customer.
pub(super) struct Asked {
    /// What was asked for.
    pub(super) new: NewOrder,
    /// Its saga, once it is known.
    pub(super) saga: Option<SagaId>,
    /// Its id, once it is known.
    pub(super) order: Option<String>,
    /// The order service knows that it is to be cancelled.
    pub(super) cancelled: bool,
}

impl World<'_> {
    pub(super) async fn place(&mut self, order: usize) -> Result<()> {
        let new = self.asked[order].new.clone();
        // Without an answer, for whatever reason, the customer asks again.
        if self.asked[order].saga.is_none() {
            self.after(20_000, Timed::Place(order));
        }
        let Some(starter) = self.starter() else { return Ok(()) };
        let work = async move {
            let key = order.to_string();
            let key = StartKey { caller: "customer", key: &key, fingerprint: b"" };
            Reply::Placed(order::place(&starter, key, new).await)
        };
        self.ask(order, Box::pin(work)).await
    }

    pub(super) async fn cancel(&mut self, order: usize) -> Result<()> {
        let Asked { saga: Some(saga), order: Some(id), cancelled: false, .. } = &self.asked[order] else {
            return Ok(());
        };
        let (saga, id) = (*saga, id.clone());
        self.after(20_000, Timed::Cancel(order));
        let Some(starter) = self.starter() else { return Ok(()) };
        let work = async move { Reply::Cancelled(order::cancel(&starter, saga, id).await) };
        self.ask(order, Box::pin(work)).await
    }

    /// Of the order service, if it can be reached.
    fn starter(&self) -> Option<Starter> {
        let instance = &self.instances[0];
        let settling = instance.alive.as_ref()?.settling.as_ref();
        settling.filter(|_| instance.control.asleep_until().is_none()).map(Settling::starter)
    }

    async fn ask(&mut self, order: usize, rest: Rest<Reply>) -> Result<()> {
        self.counter += 1;
        self.go_on(0, Task { id: self.counter, ready: true, work: Work::Ask(order, rest) }).await
    }

    pub(super) fn replied(&mut self, order: usize, reply: Reply) {
        match reply {
            Reply::Placed(Ok(Started::New(saga, id) | Started::Repeated(saga, id))) => self.placed(order, saga, id),
            Reply::Cancelled(Ok(what)) => {
                self.ether.log(format_args!("the customer cancels order {order}: {what:?}"));
                self.asked[order].cancelled = true;
                self.timed.retain(|_, what| !matches!(what, Timed::Cancel(other) if *other == order));
            }
            Reply::Placed(Err(error)) | Reply::Cancelled(Err(error)) => {
                let error = anyhow::Error::from(error);
                self.ether.violated("requests", None, format!("the request for order {order} failed: {error:#}"));
            }
        }
    }

    fn placed(&mut self, order: usize, saga: SagaId, id: String) {
        if let Some(before) = self.asked[order].saga.filter(|before| *before != saga) {
            self.ether.violated("I1", Some(saga), format!("order {order} started two sagas: {before}, {saga}"));
        }
        if self.asked[order].saga.is_none() {
            self.ether.log(format_args!("order {order} is {saga}: {:?}", self.asked[order].new));
            self.timed.retain(|_, what| !matches!(what, Timed::Place(other) if *other == order));
            if let Some(force) = self.ether.strikes(Fault::Cancel, format_args!("order {order}")) {
                // At once, in the middle of it, or when all is over.
                let wait = (force >> 8) % [1, 1_500, 60_000][(force % 3) as usize];
                self.after(wait.cast_signed(), Timed::Cancel(order));
            }
            if let Some(force) = self.ether.strikes(Fault::AskedAgain, format_args!("order {order}")) {
                self.after((force % 60_000).cast_signed(), Timed::Place(order));
            }
        }
        self.asked[order].saga = Some(saga);
        self.asked[order].order = Some(id);
    }
}

/// Any order that a customer may place: most complete, some are declined, some find no stock.
pub(super) fn new_order(random: &mut Random) -> NewOrder {
    let customer = ["ada", "ada", "ada", "ada", "declined-bob", "declined-once-cy"][random.below(6)];
    let (item, quantity) = match random.below(8) {
        0 => ("lamp", 1),
        1 | 2 => ("chair", 10 + random.below(20) as i64),
        _ => ("book", 1 + random.below(3) as i64),
    };
    let cents = 100 + random.below(5_000) as i64;
    NewOrder { customer: customer.to_owned(), item: item.to_owned(), quantity, cents }
}
