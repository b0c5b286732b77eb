//! From a delivery to what it publishes: offsets, ledger and outbox of one participant.
//!
//! One partition, two instances, a few deliveries of different sagas. A commit may answer *unknown*, an acknowledgement
//! and a message may be lost, an instance may crash, the partition may move while the old owner still works. Whatever
//! happens, each delivery has its effect once, and what it emits reaches the broker.

use saga_compensation::{Forward, State, forward};
use stateright::{Model, Property};

/// Two deliveries show every order between two of them; a third only repeats the pairs.
const DELIVERIES: u8 = 2;

/// Ids are drawn only where the outbox is paged by them, and without end then: the search stops here.
const LAST_ID: u8 = 7;

pub(crate) const EFFECT_ONCE: &str = "a delivery has its effect at most once";
pub(crate) const NOTHING_UNCOMMITTED: &str = "nothing is published that was not committed";
pub(crate) const NO_DELIVERY_LOST: &str = "quiet: every delivery is settled";
pub(crate) const NO_EMISSION_LOST: &str = "quiet: every emission is published, the outbox is empty";
pub(crate) const ALL_DONE: &str = "everything is settled, published and behind the offset";

/// A set of deliveries, and of their outbox rows and messages: each has one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Set(u8);

impl Set {
    const ALL: Set = Set((1 << DELIVERIES) - 1);

    fn has(self, one: u8) -> bool {
        self.0 >> one & 1 == 1
    }

    fn add(&mut self, one: u8) {
        self.0 |= 1 << one;
    }

    fn remove(&mut self, one: u8) {
        self.0 &= !(1 << one);
    }

    fn is_within(self, other: Set) -> bool {
        self.0 & !other.0 == 0
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Instance {
    /// The first delivery whose offset this instance has not stored.
    position: u8,
    settled: Set,
    /// Committed, not yet handed to the producer.
    memory: Set,
    sent: Set,
    acknowledged: Set,
    open: Option<Transaction>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Transaction {
    delivery: u8,
    /// Drawn when the transaction begins, so ids do not become visible in their order.
    outbox_id: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Partition {
    ledger: Set,
    effects: [u8; DELIVERIES as usize],
    outbox: Set,
    outbox_ids: [u8; DELIVERIES as usize],
    next_id: u8,
    last_paged: u8,
    published: Set,
    offset: u8,
    owner: u8,
    instances: [Instance; 2],
    crashes: u8,
    moves: u8,
    losses: u8,
}

/// What COMMIT answers, and what it did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Commit {
    Known,
    UnknownButDone,
    UnknownAndGone,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Begin(u8, u8),
    Commit(u8, Commit),
    Send(u8, u8),
    Append { instance: u8, message: u8, acknowledged: bool },
    LoseMessage(u8, u8),
    DeleteRow(u8, u8),
    StoreOffset(u8),
    Sweep(u8, u8),
    Crash(u8),
    Rebalance,
}

/// The rules of publishing and of offsets, each of which can be broken alone, and how often things go wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relay {
    pub(crate) forward: fn(Option<State>, bool) -> Forward,
    pub(crate) contiguous: bool,
    pub(crate) store_after_commit: bool,
    pub(crate) sweeper: bool,
    pub(crate) page_by_id: bool,
    pub(crate) delete_after_acknowledgement: bool,
    pub(crate) publish_after_commit: bool,
    /// An unknown commit is read again rather than taken for done.
    pub(crate) read_again: bool,
    /// Who lost the partition stores no offset for it.
    pub(crate) fence: bool,
    pub(crate) crashes: u8,
    pub(crate) moves: u8,
    pub(crate) losses: u8,
}

impl Relay {
    pub(crate) const SOUND: Relay = Relay {
        forward,
        contiguous: true,
        store_after_commit: true,
        sweeper: true,
        page_by_id: false,
        delete_after_acknowledgement: true,
        publish_after_commit: true,
        read_again: true,
        fence: true,
        crashes: 1,
        moves: 1,
        losses: 1,
    };

    fn lets_in(&self, partition: &Partition, delivery: u8) -> bool {
        let row = partition.ledger.has(delivery).then_some(State::Done);
        (self.forward)(row, true) == Forward::Run
    }

    /// A crash, a lost message and a moved partition may happen, need not; the partition's owner does all the rest.
    fn quiet(&self, partition: &Partition) -> bool {
        // Where ids run out the search stops, and a state at that edge only looks quiet.
        if partition.next_id >= LAST_ID {
            return false;
        }
        let mut actions = Vec::new();
        self.actions(partition, &mut actions);
        actions.into_iter().all(|action| match action {
            Action::Crash(_) | Action::Rebalance | Action::LoseMessage(..) => true,
            Action::Begin(instance, _) if instance != partition.owner => true,
            _ => self.next_state(partition, action).is_none(),
        })
    }
}

impl Model for Relay {
    type State = Partition;
    type Action = Action;

    fn init_states(&self) -> Vec<Partition> {
        let mut partition = Partition::default();
        partition.instances[1].position = DELIVERIES;
        vec![partition]
    }

    fn actions(&self, partition: &Partition, actions: &mut Vec<Action>) {
        for i in 0..2 {
            let [mine, other] = [i, 1 - i].map(|i| partition.instances[usize::from(i)]);
            if mine.open.is_some() {
                let outcomes = [Commit::Known, Commit::UnknownButDone, Commit::UnknownAndGone];
                actions.extend(outcomes.map(|outcome| Action::Commit(i, outcome)));
            } else {
                let locked = |delivery| other.open.is_some_and(|open| open.delivery == delivery);
                let free = |delivery: &u8| !mine.settled.has(*delivery) && !locked(*delivery);
                actions.extend((mine.position..DELIVERIES).filter(free).map(|delivery| Action::Begin(i, delivery)));
            }
            for message in 0..DELIVERIES {
                if mine.memory.has(message) {
                    actions.push(Action::Send(i, message));
                }
                if mine.sent.has(message) {
                    let append = |acknowledged| Action::Append { instance: i, message, acknowledged };
                    actions.extend([true, false].map(append));
                    if partition.losses < self.losses {
                        actions.push(Action::LoseMessage(i, message));
                    }
                }
                if mine.acknowledged.has(message) {
                    actions.push(Action::DeleteRow(i, message));
                }
                let in_flight = mine.memory.has(message) || mine.sent.has(message) || mine.acknowledged.has(message);
                let paged = self.page_by_id && partition.outbox_ids[usize::from(message)] <= partition.last_paged;
                if self.sweeper && partition.outbox.has(message) && !in_flight && !paged {
                    actions.push(Action::Sweep(i, message));
                }
            }
            if mine.settled != Set::default() {
                actions.push(Action::StoreOffset(i));
            }
            if partition.crashes < self.crashes {
                actions.push(Action::Crash(i));
            }
        }
        if partition.moves < self.moves {
            actions.push(Action::Rebalance);
        }
    }

    fn next_state(&self, last: &Partition, action: Action) -> Option<Partition> {
        let mut next = *last;
        match action {
            Action::Begin(instance, delivery) => next.begin(self, instance, delivery),
            Action::Commit(instance, outcome) => next.commit(self, instance, outcome)?,
            Action::Send(instance, message) => {
                let sender = next.instance(instance);
                sender.memory.remove(message);
                sender.sent.add(message);
                if !self.delete_after_acknowledgement {
                    next.outbox.remove(message);
                }
            }
            Action::Append { instance, message, acknowledged } => {
                next.published.add(message);
                let sender = next.instance(instance);
                sender.sent.remove(message);
                if acknowledged {
                    sender.acknowledged.add(message);
                }
            }
            Action::LoseMessage(instance, message) => {
                next.losses += 1;
                next.instance(instance).sent.remove(message);
            }
            Action::DeleteRow(instance, message) => {
                next.instance(instance).acknowledged.remove(message);
                next.outbox.remove(message);
            }
            Action::StoreOffset(instance) => next.store_offset(self, instance),
            Action::Sweep(instance, message) => {
                next.instance(instance).sent.add(message);
                next.last_paged = next.last_paged.max(next.outbox_ids[usize::from(message)]);
            }
            Action::Crash(instance) => {
                next.crashes += 1;
                let position = if next.owner == instance { next.offset } else { DELIVERIES };
                *next.instance(instance) = Instance { position, ..Instance::default() };
            }
            Action::Rebalance => {
                next.moves += 1;
                next.owner = 1 - next.owner;
                let (owner, position) = (next.owner, next.offset);
                let gains = next.instance(owner);
                gains.position = position;
                gains.settled = Set::default();
            }
        }
        (next != *last && next.next_id <= LAST_ID).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(EFFECT_ONCE, |_, p: &Partition| p.effects.iter().all(|effects| *effects <= 1)),
            Property::always(NOTHING_UNCOMMITTED, |_, p: &Partition| p.published.is_within(p.ledger)),
            Property::always(NO_DELIVERY_LOST, |relay: &Relay, p: &Partition| p.ledger == Set::ALL || !relay.quiet(p)),
            Property::always(NO_EMISSION_LOST, |relay: &Relay, p: &Partition| {
                let published = p.ledger.is_within(p.published) && p.outbox == Set::default();
                published || !relay.quiet(p)
            }),
            Property::sometimes(ALL_DONE, |relay: &Relay, p: &Partition| {
                let done = p.published == Set::ALL && p.outbox == Set::default() && p.offset == DELIVERIES;
                done && relay.quiet(p)
            }),
        ]
    }
}

impl Partition {
    fn instance(&mut self, instance: u8) -> &mut Instance {
        &mut self.instances[usize::from(instance)]
    }

    fn begin(&mut self, relay: &Relay, instance: u8, delivery: u8) {
        if relay.page_by_id {
            self.next_id += 1;
        }
        let outbox_id = self.next_id;
        let emits_now = !relay.publish_after_commit && relay.lets_in(self, delivery);
        let begins = self.instance(instance);
        begins.open = Some(Transaction { delivery, outbox_id });
        if emits_now {
            begins.memory.add(delivery);
        }
        if !relay.store_after_commit && self.owner == instance {
            self.offset = self.offset.max(delivery + 1);
        }
    }

    fn commit(&mut self, relay: &Relay, instance: u8, outcome: Commit) -> Option<()> {
        let Transaction { delivery, outbox_id } = self.instance(instance).open.take()?;
        let runs = relay.lets_in(self, delivery);
        if runs && outcome != Commit::UnknownAndGone {
            let place = usize::from(delivery);
            self.ledger.add(delivery);
            self.effects[place] = (self.effects[place] + 1).min(2);
            self.outbox.add(delivery);
            self.outbox_ids[place] = outbox_id;
        }
        if outcome == Commit::Known || !relay.read_again {
            let settles = self.instance(instance);
            settles.settled.add(delivery);
            if runs {
                settles.memory.add(delivery);
            }
        }
        Some(())
    }

    fn store_offset(&mut self, relay: &Relay, instance: u8) {
        let Instance { position, settled, .. } = *self.instance(instance);
        let offset = if relay.contiguous {
            (position..DELIVERIES).find(|delivery| !settled.has(*delivery)).unwrap_or(DELIVERIES)
        } else {
            (position..DELIVERIES).rfind(|delivery| settled.has(*delivery)).map_or(position, |delivery| delivery + 1)
        };
        self.instance(instance).position = offset;
        if self.owner == instance || !relay.fence {
            self.offset = offset;
        }
    }
}
