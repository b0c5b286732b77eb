//! What participants tell each other: events, and the sets of events that a step hears or leaves behind.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How a saga ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// Everything that the saga is for was done.
    Completed,
    /// Everything that was done is compensated.
    Cancelled,
}

impl Ending {
    /// The word that tables and headers carry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Ending::Completed => "completed",
            Ending::Cancelled => "cancelled",
        }
    }

    /// The ending that a word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        [Ending::Completed, Ending::Cancelled].into_iter().find(|ending| ending.as_str() == word)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that happened, as a serde type: a fact in the past tense that others may react to.
///
/// ```
/// use saga_core::{Event, event::Ending};
/// #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// struct OrderCompleted { order: i64 }
/// impl Event for OrderCompleted {
///     const TYPE: &'static str = "shop.order.completed.v1"; // reverse DNS, with a version
///     const TOPIC: &'static str = "order";                  // one topic per publishing participant
///     const ENDING: Option<Ending> = Some(Ending::Completed);
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    note = "an event is a serde type with a `JsonSchema` and `impl Event` (TYPE and TOPIC)"
)]
pub trait Event: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The CloudEvents type: reverse DNS and a version, such as `shop.payment.charged.v1`.
    const TYPE: &'static str;
    /// The Kafka topic that it is published on.
    const TOPIC: &'static str;
    /// Set on an event that closes its saga. Only one participant of a choreography may emit those.
    const ENDING: Option<Ending> = None;

    /// What the event is about in business terms, such as an order number (CloudEvents `subject`). Not secret: it is shown.
    fn subject(&self) -> Option<String> {
        None
    }
}

/// An event type as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventType {
    /// [`Event::TYPE`].
    pub name: &'static str,
    /// [`Event::TOPIC`].
    pub topic: &'static str,
    /// [`Event::ENDING`].
    pub ending: Option<Ending>,
    /// What its body looks like.
    pub shape: Shape,
}

impl EventType {
    /// The declaration of `E`.
    pub const fn of<E: Event>() -> Self {
        Self { name: E::TYPE, topic: E::TOPIC, ending: E::ENDING, shape: Shape(SchemaGenerator::root_schema_for::<E>) }
    }
}

/// What an event's body looks like, as JSON Schema (draft 2020-12) with everything in place: only a type that contains itself is
/// referred to. Two shapes are equal: an event is known by its type, and whether shapes agree is asked of their schemas.
#[derive(Clone, Copy)]
pub struct Shape(fn(&mut SchemaGenerator) -> Schema);

impl Shape {
    /// Of the bodies that are written.
    pub fn written(&self) -> serde_json::Value {
        self.schema(SchemaSettings::draft2020_12().for_serialize())
    }

    /// Of the bodies that can be read: a field with a default need not be there.
    pub fn read(&self) -> serde_json::Value {
        self.schema(SchemaSettings::draft2020_12().for_deserialize())
    }

    fn schema(&self, settings: SchemaSettings) -> serde_json::Value {
        let settings = settings.with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        });
        (self.0)(&mut settings.into_generator()).to_value()
    }
}

impl PartialEq for Shape {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Shape {}

impl std::hash::Hash for Shape {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shape")
    }
}

/// An event's type and bytes, as they travel and as the ledger records them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// What the bytes are, with the topic that they belong on.
    pub event: EventType,
    /// [`Event::subject`].
    pub subject: Option<String>,
    /// JSON.
    pub body: Vec<u8>,
}

/// Bytes that are not the event that their type promises.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are no JSON, or not of the declared shape.
    #[error("the body of a {event_type} is not what this participant expects")]
    Body {
        /// The type that was promised.
        event_type: String,
        /// Where and why serde gave up.
        #[source]
        source: serde_json::Error,
    },
    /// The type is none of those declared here.
    #[error("expected one of {expected:?}, got {got}")]
    Type {
        /// The valid answers.
        expected: Vec<&'static str>,
        /// What came.
        got: String,
    },
    /// The ledger row records nothing, but the step's declaration says that it must.
    #[error("the ledger row records no event, but {expected:?} was expected")]
    NoRecord {
        /// What a row of this step should record.
        expected: Vec<&'static str>,
    },
}

/// What a step can react to: an event, a [`one_of!`](crate::one_of) enum of events, or [`Never`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a trigger",
    note = "a trigger is an `Event`, a `one_of!` enum of events, or `Never`"
)]
pub trait Trigger: Sized + Send + Sync + 'static {
    /// The events that it stands for.
    fn types() -> Vec<EventType>;
    /// Reads an event that arrived.
    fn decode(event_type: &str, body: &[u8]) -> Result<Self, DecodeError>;
}

/// What a step can leave behind: an event, a [`one_of!`](crate::one_of) enum of events, [`Nothing`], or [`Never`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an outcome",
    note = "an outcome is an `Event`, a `one_of!` enum of events, `Nothing`, or `Never`"
)]
pub trait Outcome: Sized + Send + Sync + 'static {
    /// The events that it stands for.
    fn types() -> Vec<EventType>;
    /// The bytes to publish and to record; `None` for [`Nothing`].
    fn encode(&self) -> Result<Option<Encoded>, serde_json::Error>;
    /// Reads back what the ledger recorded.
    fn recorded(record: Option<(&str, &[u8])>) -> Result<Self, DecodeError>;
}

impl<E: Event> Trigger for E {
    fn types() -> Vec<EventType> {
        vec![EventType::of::<E>()]
    }

    fn decode(event_type: &str, body: &[u8]) -> Result<Self, DecodeError> {
        if event_type != E::TYPE {
            return Err(DecodeError::Type { expected: vec![E::TYPE], got: event_type.to_owned() });
        }
        serde_json::from_slice(body).map_err(|source| DecodeError::Body { event_type: E::TYPE.to_owned(), source })
    }
}

impl<E: Event> Outcome for E {
    fn types() -> Vec<EventType> {
        vec![EventType::of::<E>()]
    }

    fn encode(&self) -> Result<Option<Encoded>, serde_json::Error> {
        Ok(Some(Encoded { event: EventType::of::<E>(), subject: self.subject(), body: serde_json::to_vec(self)? }))
    }

    fn recorded(record: Option<(&str, &[u8])>) -> Result<Self, DecodeError> {
        match record {
            Some((event_type, body)) => <E as Trigger>::decode(event_type, body),
            None => Err(DecodeError::NoRecord { expected: vec![E::TYPE] }),
        }
    }
}

/// Cannot happen: nothing to react to, no way to say no.
#[derive(Debug, Clone, Copy)]
pub enum Never {}

impl Trigger for Never {
    fn types() -> Vec<EventType> {
        vec![]
    }

    fn decode(event_type: &str, _: &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::Type { expected: vec![], got: event_type.to_owned() })
    }
}

impl Outcome for Never {
    fn types() -> Vec<EventType> {
        vec![]
    }

    fn encode(&self) -> Result<Option<Encoded>, serde_json::Error> {
        match *self {}
    }

    fn recorded(_: Option<(&str, &[u8])>) -> Result<Self, DecodeError> {
        Err(DecodeError::NoRecord { expected: vec![] })
    }
}

/// Done, and nobody needs to hear of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nothing;

impl Outcome for Nothing {
    fn types() -> Vec<EventType> {
        vec![]
    }

    fn encode(&self) -> Result<Option<Encoded>, serde_json::Error> {
        Ok(None)
    }

    fn recorded(_: Option<(&str, &[u8])>) -> Result<Self, DecodeError> {
        Ok(Nothing)
    }
}

/// An enum of events that can stand as a [`Trigger`] and as an [`Outcome`].
///
/// ```
/// # use saga_core::{Event, one_of};
/// # macro_rules! event { ($n:ident) => {
/// #     #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)] struct $n {}
/// #     impl Event for $n { const TYPE: &'static str = stringify!($n); const TOPIC: &'static str = "payment"; } } }
/// # event!(PaymentDeclined); event!(PaymentRefunded);
/// one_of! {
///     /// Why an order cannot go on.
///     enum NotPaid { PaymentDeclined, PaymentRefunded }
/// }
/// ```
#[macro_export]
macro_rules! one_of {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($event:ident),+ $(,)? }) => {
        $(#[$meta])*
        $vis enum $name {
            $(#[doc = concat!("[`", stringify!($event), "`]")] $event($event)),+
        }
        $(impl From<$event> for $name {
            fn from(event: $event) -> Self {
                Self::$event(event)
            }
        })+
        impl $crate::event::Trigger for $name {
            fn types() -> Vec<$crate::event::EventType> {
                vec![$($crate::event::EventType::of::<$event>()),+]
            }
            fn decode(event_type: &str, body: &[u8]) -> Result<Self, $crate::event::DecodeError> {
                $(if event_type == <$event as $crate::Event>::TYPE {
                    return <$event as $crate::event::Trigger>::decode(event_type, body).map(Self::$event);
                })+
                Err($crate::event::DecodeError::Type {
                    expected: vec![$(<$event as $crate::Event>::TYPE),+],
                    got: event_type.to_owned(),
                })
            }
        }
        impl $crate::event::Outcome for $name {
            fn types() -> Vec<$crate::event::EventType> {
                <Self as $crate::event::Trigger>::types()
            }
            fn encode(&self) -> Result<Option<$crate::event::Encoded>, $crate::private::serde_json::Error> {
                match self {
                    $(Self::$event(event) => $crate::event::Outcome::encode(event)),+
                }
            }
            fn recorded(record: Option<(&str, &[u8])>) -> Result<Self, $crate::event::DecodeError> {
                match record {
                    Some((event_type, body)) => <Self as $crate::event::Trigger>::decode(event_type, body),
                    None => Err($crate::event::DecodeError::NoRecord {
                        expected: vec![$(<$event as $crate::Event>::TYPE),+],
                    }),
                }
            }
        }
    };
}
