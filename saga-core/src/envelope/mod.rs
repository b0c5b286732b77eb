//! How an event travels: CloudEvents 1.0 in Kafka messages, with the saga's attributes as extensions.
//!
//! Written in binary mode, read in binary and in structured mode (CloudEvents Kafka protocol binding 1.0.2, sections 3.2 and 3.3).
//! The message key is the saga id. Bytes from the network are bounded before anything is made of them.
//!
//! The invariant: what is emitted is held to the same bounds, by the same function, so nothing leaves that the next participant
//! would refuse.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

mod attributes;
mod timestamp;

pub use timestamp::rfc3339;

use attributes::{Attributes, KNOWN, Mode};

use crate::{
    event::Ending,
    id::{EventId, SagaId},
};

/// Longest body, in bytes. Below Kafka's default `max.message.bytes` (1,048,588) with room for the headers.
pub const MAX_BODY: usize = 1_000_000;
/// Most headers of one message.
pub const MAX_HEADERS: usize = 64;
/// Most bytes in all headers of one message, names included.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Longest attribute value, in bytes.
pub const MAX_ATTRIBUTE: usize = 1024;
/// Longest event id, in bytes; ours have 36, and they stand in keys and indexes.
pub const MAX_ID: usize = 256;
/// Most objects and arrays of the body within each other. As deep as `serde_json` reads, because every event is read by it.
pub const MAX_NESTING: usize = 127;
/// Most emissions between the start of a saga and an event. More than any honest choreography needs, so a loop becomes stuck.
pub const MAX_HOPS: u32 = 256;

/// W3C Trace Context headers as they came, or as they are to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// `traceparent`.
    pub traceparent: Option<String>,
    /// `tracestate`.
    pub tracestate: Option<String>,
}

/// The trace that a `traceparent` names (W3C Trace Context, section 3.2.2: version, trace id, parent id, flags).
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    Some(id).filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl TraceContext {
    /// Without what is too long or no text: a trace may be cut, an event may not be lost for it (W3C Trace Context, section
    /// 3.3.1.5). The state means nothing without its parent (the same, processing model).
    pub(crate) fn bounded(self) -> Self {
        let good = |value: &String| !value.is_empty() && problem_of(value, MAX_ATTRIBUTE).is_none();
        let traceparent = self.traceparent.filter(good);
        let tracestate = self.tracestate.filter(|state| traceparent.is_some() && good(state));
        Self { traceparent, tracestate }
    }
}

/// What an event is the outcome of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A step that was done.
    Done,
    /// A step that said no.
    Rejected,
    /// A step that was taken back.
    Compensated,
    /// A compensation that found nothing to take back.
    NothingDone,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Done, Self::Rejected, Self::Compensated, Self::NothingDone];

    /// The word that the header carries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Rejected => "rejected",
            Self::Compensated => "compensated",
            Self::NothingDone => "nothingdone",
        }
    }
}

/// A message as it came from the broker, bytes untouched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Where it stood.
    pub topic: Arc<str>,
    /// Where it stood.
    pub partition: i32,
    /// Where it stood.
    pub offset: i64,
    /// Which assignment of the partition it was read under. Offsets are stored only for the present one.
    pub epoch: u64,
    /// The message key.
    pub key: Option<Vec<u8>>,
    /// In their order; names may repeat.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The message value; empty for a tombstone.
    pub body: Vec<u8>,
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub topic: String,
    /// The message key: the saga id.
    pub key: String,
    /// In binary mode the event's attributes.
    pub headers: Vec<(String, String)>,
    /// The event's JSON.
    pub body: Vec<u8>,
}

/// An event with its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// CloudEvents `id`.
    pub id: EventId,
    /// CloudEvents `source`: `/` and the participant's name for ours.
    pub source: String,
    /// CloudEvents `type`.
    pub event_type: String,
    /// CloudEvents `time`, in milliseconds since the Unix epoch.
    pub time: Option<i64>,
    /// CloudEvents `subject`.
    pub subject: Option<String>,
    /// Extension `sagaid`.
    pub saga: SagaId,
    /// Extension `causationid`: the event whose reaction emitted this one. None for the start of a saga.
    pub causation: Option<EventId>,
    /// Extension `sagastep`: the step that emitted it.
    pub step: Option<String>,
    /// Extension `sagaoutcome`.
    pub kind: Option<Kind>,
    /// Extension `sagaending`.
    pub ending: Option<Ending>,
    /// Extension `sagahops`: emissions since the start.
    pub hops: u32,
    /// W3C Trace Context.
    pub trace: TraceContext,
    /// Attributes that mean nothing here, by their names: kept as they came, so whoever passes the event on loses nothing. They
    /// describe this event (`dataschema`, `sequence`), so what a reaction to it emits does not inherit them.
    pub extensions: BTreeMap<String, String>,
    /// The event's bytes.
    pub body: Vec<u8>,
}

/// Why a message is no event that a participant could react to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A required attribute is missing.
    #[error("the message has no {0}: expected a CloudEvent in binary mode (ce_{0} header) or structured mode")]
    Missing(&'static str),
    /// An attribute is there, but unusable.
    #[error("the attribute {name} is {problem}")]
    Attribute {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The message is larger than the bounds allow.
    #[error("{what} is {got}, the bound is {bound}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        got: usize,
        /// How large it may be.
        bound: usize,
    },
    /// The content type promises a structured CloudEvent, and the body is none.
    #[error("the body is no structured CloudEvent: {0}")]
    Structured(String),
    /// The message key names another saga than the event.
    #[error("the message key is not the saga id {0}")]
    Key(SagaId),
}

impl Envelope {
    /// Reads a message. The caller has looked at [`event_type`] first, so a message that nobody here reacts to is never refused.
    ///
    /// A message without a key is read: only one that names another saga is refused.
    pub fn decode(delivery: &Delivery) -> Result<Self, Malformed> {
        bounded("the size of the body", delivery.body.len(), MAX_BODY)?;
        bounded_headers(delivery.headers.iter().map(|(name, value)| name.len() + value.len()))?;
        let (attributes, data) = match Mode::of(&delivery.headers) {
            Mode::Binary => (Attributes::in_headers(&delivery.headers), Cow::Borrowed(&delivery.body)),
            Mode::Structured => {
                let (attributes, data) = Attributes::in_document(&delivery.body)?;
                (attributes, Cow::Owned(data))
            }
            Mode::Foreign(media_type) => {
                let expected = "expected application/cloudevents+json, or the media type of the body in binary mode";
                return Err(wrong("content-type", format!("{media_type:?}, {expected}")));
            }
        };
        let trace = attributes::trace_headers(&delivery.headers);
        let envelope = attributes.into_envelope(trace, data.into_owned())?;
        envelope.check()?;
        match &delivery.key {
            Some(key) if key.as_slice() != envelope.saga.to_string().as_bytes() => Err(Malformed::Key(envelope.saga)),
            _ => Ok(envelope),
        }
    }

    /// The message to publish, in binary mode. An attribute that is empty is left out, a trace that is out of bounds, too.
    pub fn encode(self, topic: &str) -> Result<Message, Malformed> {
        self.check()?;
        let trace = self.trace.bounded();
        let mut headers: Vec<(String, String)> = Vec::with_capacity(15 + self.extensions.len());
        let mut put = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                headers.push((name.to_owned(), value));
            }
        };
        put("ce_specversion", Some("1.0".to_owned()));
        put("ce_id", Some(self.id.0));
        put("ce_source", Some(self.source));
        put("ce_type", Some(self.event_type));
        put("ce_time", self.time.map(rfc3339));
        put("ce_subject", self.subject);
        put("ce_sagaid", Some(self.saga.to_string()));
        put("ce_causationid", self.causation.map(|id| id.0));
        put("ce_sagastep", self.step);
        put("ce_sagaoutcome", self.kind.map(|kind| kind.as_str().to_owned()));
        put("ce_sagaending", self.ending.map(|ending| ending.as_str().to_owned()));
        put("ce_sagahops", Some(self.hops.to_string()));
        for (name, value) in self.extensions {
            put(&format!("ce_{name}"), Some(value));
        }
        put("content-type", Some("application/json".to_owned()));
        put("traceparent", trace.traceparent);
        put("tracestate", trace.tracestate);
        bounded_headers(headers.iter().map(|(name, value)| name.len() + value.len()))?;
        Ok(Message { topic: topic.to_owned(), key: self.saga.to_string(), headers, body: self.body })
    }

    /// What holds of every event, whether it comes or goes.
    fn check(&self) -> Result<(), Malformed> {
        bounded("the size of the body", self.body.len(), MAX_BODY)?;
        bounded("the nesting of the body", nesting(&self.body), MAX_NESTING)?;
        for (name, value) in [("id", &self.id.0), ("source", &self.source), ("type", &self.event_type)] {
            if value.is_empty() {
                return Err(Malformed::Missing(name));
            }
        }
        let causation = self.causation.as_ref().map(|id| &id.0);
        for (name, value, bound) in [
            ("id", Some(&self.id.0), MAX_ID),
            ("source", Some(&self.source), MAX_ATTRIBUTE),
            ("type", Some(&self.event_type), MAX_ATTRIBUTE),
            ("subject", self.subject.as_ref(), MAX_ATTRIBUTE),
            ("causationid", causation, MAX_ID),
            ("sagastep", self.step.as_ref(), MAX_ATTRIBUTE),
        ] {
            if let Some(problem) = value.and_then(|value| problem_of(value, bound)) {
                return Err(wrong(name, problem));
            }
        }
        for (name, value) in &self.extensions {
            if !is_attribute_name(name) || KNOWN.contains(&name.as_str()) {
                let expected = "no extension: expected a name of lower-case letters and digits that has no meaning yet";
                return Err(wrong(clip(name, 40), expected.to_owned()));
            }
            if let Some(problem) = problem_of(value, MAX_ATTRIBUTE) {
                return Err(wrong(clip(name, 40), problem));
            }
        }
        if self.time.is_some_and(|time| !timestamp::EXPRESSIBLE.contains(&time)) {
            return Err(wrong("time", "outside of the years 0000 to 9999".to_owned()));
        }
        if self.hops > MAX_HOPS {
            let problem = format!("{}, the bound is {MAX_HOPS}: do these events go in a circle?", self.hops);
            return Err(wrong("sagahops", problem));
        }
        Ok(())
    }
}

/// The type of the event in a message, read without touching anything else; `None` when the message has none.
pub fn event_type(delivery: &Delivery) -> Option<String> {
    if Mode::of(&delivery.headers) != Mode::Structured {
        return attributes::type_header(&delivery.headers).map(ToOwned::to_owned);
    }
    #[derive(Deserialize)]
    struct TypeOnly {
        #[serde(rename = "type")]
        event_type: Option<String>,
    }
    bounded("the size of the body", delivery.body.len(), MAX_BODY).ok()?;
    serde_json::from_slice::<TypeOnly>(&delivery.body).ok()?.event_type.filter(|text| !text.is_empty())
}

fn bounded_headers(sizes: impl ExactSizeIterator<Item = usize>) -> Result<(), Malformed> {
    bounded("the number of headers", sizes.len(), MAX_HEADERS)?;
    bounded("the size of the headers", sizes.sum(), MAX_HEADER_BYTES)
}

fn bounded(what: &'static str, got: usize, bound: usize) -> Result<(), Malformed> {
    if got > bound { Err(Malformed::TooLarge { what, got, bound }) } else { Ok(()) }
}

fn wrong(name: &str, problem: String) -> Malformed {
    Malformed::Attribute { name: name.to_owned(), problem }
}

/// What keeps a text from being an attribute. CloudEvents 1.0, type system, String: no control characters; PostgreSQL's text could
/// not hold a NUL.
fn problem_of(text: &str, bound: usize) -> Option<String> {
    if text.len() > bound {
        Some(format!("{} bytes long, the bound is {bound}", text.len()))
    } else {
        text.chars().any(char::is_control).then(|| "not text: it has a control character".to_owned())
    }
}

/// CloudEvents 1.0, naming conventions.
fn is_attribute_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// How many objects and arrays of a JSON text are within each other at most, found without recursion and without memory. Of what
/// is no JSON, some number.
fn nesting(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut text, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'[' | b'{' if !text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// At most `bytes` bytes of a text, cut at a character: foreign text is never shown whole.
pub(crate) fn clip(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
