//! How an event travels: CloudEvents 1.0 in Kafka messages, with the saga's attributes as extensions.
//!
//! Written in binary mode, read in binary and in structured mode (CloudEvents Kafka protocol binding 1.0.2, sections 3.2 and 3.3).
//! The message key is the saga id. Bytes from the network are bounded before anything is made of them, and the same bounds hold
//! for what is emitted, so that nothing leaves that the next participant would refuse.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::value::RawValue;

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
/// Longest event id, in bytes.
pub const MAX_ID: usize = 256;
/// Most emissions between the start of a saga and an event. More than any honest choreography needs, so a loop becomes stuck.
pub const MAX_HOPS: u32 = 256;

const STRUCTURED: &str = "application/cloudevents+json";

/// W3C Trace Context headers as they came, or as they are to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// `traceparent`.
    pub traceparent: Option<String>,
    /// `tracestate`.
    pub tracestate: Option<String>,
}

impl TraceContext {
    pub(crate) fn bounded(self) -> Self {
        let bounded = |value: &String| value.len() <= MAX_ATTRIBUTE;
        Self { traceparent: self.traceparent.filter(bounded), tracestate: self.tracestate.filter(bounded) }
    }
}

/// What an event is the outcome of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
        name: &'static str,
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
    pub fn decode(delivery: &Delivery) -> Result<Self, Malformed> {
        check_bounds(delivery)?;
        let envelope =
            if is_structured(delivery) { structured(&delivery.headers, &delivery.body)? } else { binary(delivery)? };
        match &delivery.key {
            Some(key) if key.as_slice() != envelope.saga.to_string().as_bytes() => Err(Malformed::Key(envelope.saga)),
            _ => Ok(envelope),
        }
    }

    /// The message to publish, in binary mode.
    pub fn encode(self, topic: &str) -> Result<Message, Malformed> {
        bounded("the body", self.body.len(), MAX_BODY)?;
        let mut headers: Vec<(String, String)> = Vec::with_capacity(14);
        let mut put = |name: &str, value: Option<String>| {
            if let Some(value) = value {
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
        put("content-type", Some("application/json".to_owned()));
        put("traceparent", self.trace.traceparent);
        put("tracestate", self.trace.tracestate);
        for (_, value) in &headers {
            bounded("a header", value.len(), MAX_ATTRIBUTE)?;
        }
        Ok(Message { topic: topic.to_owned(), key: self.saga.to_string(), headers, body: self.body })
    }
}

/// The type of the event in a message, read without touching anything else; `None` when the message has none.
pub fn event_type(delivery: &Delivery) -> Option<String> {
    if !is_structured(delivery) {
        return header(&delivery.headers, "ce_type").map(ToOwned::to_owned);
    }
    #[derive(Deserialize)]
    struct TypeOnly {
        #[serde(rename = "type")]
        event_type: Option<String>,
    }
    bounded("the body", delivery.body.len(), MAX_BODY).ok()?;
    serde_json::from_slice::<TypeOnly>(&delivery.body).ok()?.event_type
}

fn check_bounds(delivery: &Delivery) -> Result<(), Malformed> {
    bounded("the body", delivery.body.len(), MAX_BODY)?;
    bounded("the number of headers", delivery.headers.len(), MAX_HEADERS)?;
    let bytes = delivery.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    bounded("the size of the headers", bytes, MAX_HEADER_BYTES)
}

fn bounded(what: &'static str, got: usize, bound: usize) -> Result<(), Malformed> {
    if got > bound { Err(Malformed::TooLarge { what, got, bound }) } else { Ok(()) }
}

fn is_structured(delivery: &Delivery) -> bool {
    header(&delivery.headers, "content-type").is_some_and(|value| value.starts_with(STRUCTURED))
}

/// The last header of that name that is UTF-8: whoever adds a header appends it.
fn header<'d>(headers: &'d [(String, Vec<u8>)], name: &str) -> Option<&'d str> {
    headers
        .iter()
        .rev()
        .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
        .and_then(|(_, value)| std::str::from_utf8(value).ok())
}

fn trace_of(headers: &[(String, Vec<u8>)]) -> TraceContext {
    let own = |name| header(headers, name).map(ToOwned::to_owned);
    TraceContext { traceparent: own("traceparent"), tracestate: own("tracestate") }
}

/// The attributes of an event before they are checked, however they came.
#[derive(Deserialize)]
struct Attributes {
    specversion: Option<String>,
    id: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    time: Option<String>,
    subject: Option<String>,
    sagaid: Option<String>,
    causationid: Option<String>,
    sagastep: Option<String>,
    sagaoutcome: Option<String>,
    sagaending: Option<String>,
    #[serde(default, deserialize_with = "number_or_text")]
    sagahops: Option<String>,
    traceparent: Option<String>,
    tracestate: Option<String>,
}

/// CloudEvents integers may be JSON numbers, and a careless writer quotes them.
fn number_or_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    Ok(Option::<Either>::deserialize(deserializer)?.map(|either| match either {
        Either::Number(number) => number.to_string(),
        Either::Text(text) => text,
    }))
}

fn binary(delivery: &Delivery) -> Result<Envelope, Malformed> {
    let attribute = |name: &str| header(&delivery.headers, name).map(ToOwned::to_owned);
    let trace = trace_of(&delivery.headers);
    Attributes {
        specversion: attribute("ce_specversion"),
        id: attribute("ce_id"),
        source: attribute("ce_source"),
        event_type: attribute("ce_type"),
        time: attribute("ce_time"),
        subject: attribute("ce_subject"),
        sagaid: attribute("ce_sagaid"),
        causationid: attribute("ce_causationid"),
        sagastep: attribute("ce_sagastep"),
        sagaoutcome: attribute("ce_sagaoutcome"),
        sagaending: attribute("ce_sagaending"),
        sagahops: attribute("ce_sagahops"),
        traceparent: trace.traceparent,
        tracestate: trace.tracestate,
    }
    .check(delivery.body.clone())
}

fn structured(headers: &[(String, Vec<u8>)], body: &[u8]) -> Result<Envelope, Malformed> {
    #[derive(Deserialize)]
    struct Data<'b> {
        #[serde(borrow)]
        data: Option<&'b RawValue>,
        data_base64: Option<String>,
    }
    let wrong = |error: serde_json::Error| Malformed::Structured(error.to_string());
    let mut attributes: Attributes = serde_json::from_slice(body).map_err(wrong)?;
    let data: Data<'_> = serde_json::from_slice(body).map_err(wrong)?;
    let bytes = match (data.data, data.data_base64) {
        (Some(_), Some(_)) => return Err(Malformed::Structured("it has both data and data_base64".to_owned())),
        (Some(json), None) => json.get().as_bytes().to_vec(),
        (None, Some(text)) => BASE64_STANDARD.decode(text).map_err(|error| Malformed::Structured(error.to_string()))?,
        (None, None) => Vec::new(),
    };
    // The transport's headers are newer than what the writer put into the body.
    let trace = trace_of(headers);
    if trace.traceparent.is_some() {
        attributes.traceparent = trace.traceparent;
        attributes.tracestate = trace.tracestate;
    }
    attributes.check(bytes)
}

impl Attributes {
    fn check(self, body: Vec<u8>) -> Result<Envelope, Malformed> {
        let all = [&self.source, &self.event_type, &self.time, &self.subject, &self.causationid, &self.sagastep];
        for value in all.into_iter().flatten() {
            bounded("an attribute", value.len(), MAX_ATTRIBUTE)?;
        }
        let wrong = |name, problem: String| Malformed::Attribute { name, problem };
        // CloudEvents 1.0, section 3.1 (type system, String): no control characters. PostgreSQL's text could not hold a NUL.
        for value in all.into_iter().chain([&self.id, &self.traceparent, &self.tracestate]).flatten() {
            if value.chars().any(char::is_control) {
                return Err(wrong("context", "not text: it has a control character".to_owned()));
            }
        }
        match self.specversion.as_deref() {
            Some("1.0") => {}
            Some(other) => return Err(wrong("specversion", format!("{:?}, expected \"1.0\"", clip(other, 20)))),
            None => return Err(Malformed::Missing("specversion")),
        }
        let id = self.id.filter(|id| !id.is_empty()).ok_or(Malformed::Missing("id"))?;
        bounded("the event id", id.len(), MAX_ID)?;
        let saga = self.sagaid.ok_or(Malformed::Missing("sagaid"))?;
        let saga = saga.parse().map_err(|_| wrong("sagaid", format!("{:?}, expected a UUID", clip(&saga, 40))))?;
        let hops = match self.sagahops {
            None => 0,
            Some(text) => {
                text.parse().map_err(|_| wrong("sagahops", format!("{:?}, expected a number", clip(&text, 20))))?
            }
        };
        if hops > MAX_HOPS {
            return Err(wrong("sagahops", format!("{hops}, the bound is {MAX_HOPS}: do these events go in a circle?")));
        }
        Ok(Envelope {
            id: EventId(id),
            source: self.source.ok_or(Malformed::Missing("source"))?,
            event_type: self.event_type.ok_or(Malformed::Missing("type"))?,
            time: self.time.and_then(|text| parse_rfc3339(&text)),
            subject: self.subject,
            saga,
            causation: self.causationid.map(EventId),
            step: self.sagastep,
            kind: self.sagaoutcome.and_then(|word| Kind::ALL.into_iter().find(|kind| kind.as_str() == word)),
            ending: self.sagaending.as_deref().and_then(Ending::parse),
            hops,
            // What is passed on is held to the bounds of what is emitted; a trace may be cut, an event may not be lost for it
            // (W3C Trace Context, section 3.3.1.5).
            trace: TraceContext { traceparent: self.traceparent, tracestate: self.tracestate }.bounded(),
            body,
        })
    }
}

/// At most `bytes` bytes of a text, cut at a character: foreign text is never shown whole.
pub(crate) fn clip(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Milliseconds since the Unix epoch in the form of RFC 3339.
pub fn rfc3339(millis: i64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(millis.unsigned_abs());
    humantime::format_rfc3339_millis(time).to_string()
}

fn parse_rfc3339(text: &str) -> Option<i64> {
    let since = humantime::parse_rfc3339_weak(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
