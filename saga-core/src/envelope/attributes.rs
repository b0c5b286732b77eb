//! An event's attributes before they are checked, from the headers of a message or from a JSON document.
//!
//! The rules of reading, the same for both: of several values of one name the last counts, whatever is in it (whoever adds a
//! header appends it, and an older value was meant to be replaced); an empty value is as good as none; an attribute that is no text
//! refuses the event by its name, unless nobody here depends on it: then it is left out.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    Envelope, Kind, MAX_HEADER_BYTES, MAX_HEADERS, Malformed, TraceContext, bounded, clip, is_attribute_name,
    problem_of, timestamp, wrong,
};
use crate::{event::Ending, id::EventId};

/// Every name that has a meaning here. `data` is reserved by CloudEvents; `datacontenttype` is a header of its own.
pub(super) const KNOWN: [&str; 16] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "data",
    "sagaid",
    "causationid",
    "sagastep",
    "sagaoutcome",
    "sagaending",
    "sagahops",
    "traceparent",
    "tracestate",
];

/// Nothing that a participant does depends on these, so an event is not lost for them.
const DISPENSABLE: [&str; 3] = ["time", "traceparent", "tracestate"];

const PREFIX: &str = "ce_";
const FORMATS: &str = "application/cloudevents";
const STRUCTURED: &str = "application/cloudevents+json";

/// How a message carries its event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Attributes in the headers, the data as the body.
    Binary,
    /// All in one JSON document.
    Structured,
    /// All in one document of another format, or several events in one.
    Foreign(String),
}

impl Mode {
    /// Told by the content type (Kafka protocol binding 1.0.2, section 3): case does not matter, parameters neither.
    pub(super) fn of(headers: &[(String, Vec<u8>)]) -> Self {
        let media_type = header(headers, "content-type").and_then(|value| std::str::from_utf8(value).ok());
        let media_type = essence(media_type.unwrap_or_default());
        if media_type.eq_ignore_ascii_case(STRUCTURED) {
            Self::Structured
        } else if strip_prefix(media_type, FORMATS).is_some() {
            Self::Foreign(clip(media_type, 80).to_owned())
        } else {
            Self::Binary
        }
    }
}

/// The last header of that name.
pub(super) fn header<'m>(headers: &'m [(String, Vec<u8>)], name: &str) -> Option<&'m [u8]> {
    let last = headers.iter().rev().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name));
    last.map(|(_, value)| value.as_slice())
}

/// The `ce_type` header, where it is a text.
pub(super) fn type_header(headers: &[(String, Vec<u8>)]) -> Option<&str> {
    std::str::from_utf8(header(headers, "ce_type")?).ok().filter(|text| !text.is_empty())
}

/// W3C headers. What is no text is as good as none: an event is not lost for its trace.
pub(super) fn trace_headers(headers: &[(String, Vec<u8>)]) -> TraceContext {
    let own = |name| std::str::from_utf8(header(headers, name)?).ok().map(ToOwned::to_owned);
    TraceContext { traceparent: own("traceparent"), tracestate: own("tracestate") }
}

type Attribute<'m> = (Cow<'m, str>, Cow<'m, [u8]>);

/// Names as in the specification, values as they came, in their order.
#[derive(Debug)]
pub(super) struct Attributes<'m>(Vec<Attribute<'m>>);

impl<'m> Attributes<'m> {
    /// Those of binary mode (Kafka protocol binding 1.0.2, section 3.2.3). Headers of other names are not CloudEvents'.
    pub(super) fn in_headers(headers: &'m [(String, Vec<u8>)]) -> Self {
        let named = headers.iter().filter_map(|(name, value)| {
            let name = strip_prefix(name, PREFIX)?;
            let upper = name.bytes().any(|byte| byte.is_ascii_uppercase());
            let name = if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) };
            is_attribute_name(&name).then_some((name, Cow::Borrowed(value.as_slice())))
        });
        Self(named.collect())
    }

    /// Those of structured mode, and the data's bytes (JSON event format 1.0.2). They are held to the bounds of headers.
    pub(super) fn in_document(document: &'m [u8]) -> Result<(Self, Vec<u8>), Malformed> {
        let wrong_document = |error: serde_json::Error| Malformed::Structured(error.to_string());
        let mut members: Members<'m> = serde_json::from_slice(document).map_err(wrong_document)?;
        let (json, base64) = (members.0.remove("data"), members.0.remove("data_base64"));
        bounded("the number of attributes", members.0.len(), MAX_HEADERS)?;
        let mut attributes: Vec<Attribute<'m>> = Vec::with_capacity(members.0.len());
        for (name, value) in members.0 {
            let known = KNOWN.contains(&name.as_str()) && !DISPENSABLE.contains(&name.as_str());
            let value = match value.get().as_bytes().first() {
                // Unset (section 2.2).
                Some(b'n') => continue,
                Some(b'"') => match serde_json::from_str::<String>(value.get()) {
                    Ok(text) => text,
                    Err(_) if known => return Err(wrong(&name, "not text".to_owned())),
                    Err(_) => continue,
                },
                // Integers and booleans are their own canonical text.
                Some(b'-' | b'0'..=b'9' | b't' | b'f') if !known || name == "sagahops" => value.get().to_owned(),
                _ if known => return Err(wrong(&name, "not text".to_owned())),
                _ => continue,
            };
            if is_attribute_name(&name) {
                attributes.push((Cow::Owned(name), Cow::Owned(value.into_bytes())));
            }
        }
        let bytes = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        bounded("the size of the attributes", bytes, MAX_HEADER_BYTES)?;
        let attributes = Self(attributes);
        let data = attributes.data(json, base64)?;
        Ok((attributes, data))
    }

    fn data(&self, json: Option<&RawValue>, base64: Option<&RawValue>) -> Result<Vec<u8>, Malformed> {
        let wrong = |problem: &str| Malformed::Structured(problem.to_owned());
        let set = |value: &&RawValue| value.get() != "null";
        match (json, base64.filter(set)) {
            (Some(json), Some(_)) if set(&json) => Err(wrong("it has both data and data_base64")),
            (_, Some(base64)) => {
                let text: String = serde_json::from_str(base64.get()).map_err(|_| wrong("data_base64 is no text"))?;
                BASE64_STANDARD.decode(text).map_err(|error| wrong(&format!("data_base64 is none: {error}")))
            }
            // A null is data, too: that is not the same as no data (section 3.1.1).
            (Some(json), None) if self.is_json()? => Ok(json.get().as_bytes().to_vec()),
            (Some(text), None) => {
                let text = serde_json::from_str::<String>(text.get());
                Ok(text.map_err(|_| wrong("its data is neither JSON by its datacontenttype, nor text"))?.into_bytes())
            }
            (None, None) => Ok(Vec::new()),
        }
    }

    /// Section 3.1.1: `*/json`, `*/*+json`, or nothing said.
    fn is_json(&self) -> Result<bool, Malformed> {
        let Some(media_type) = self.text("datacontenttype")? else { return Ok(true) };
        let media_type = essence(&media_type).to_ascii_lowercase();
        Ok(media_type.ends_with("/json") || media_type.ends_with("+json"))
    }

    fn text(&self, name: &'static str) -> Result<Option<String>, Malformed> {
        let Some((_, value)) = self.0.iter().rev().find(|(candidate, _)| candidate == name) else { return Ok(None) };
        let text = std::str::from_utf8(value).map_err(|_| wrong(name, "not UTF-8".to_owned()))?;
        Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
    }

    fn required(&self, name: &'static str) -> Result<String, Malformed> {
        self.text(name)?.ok_or(Malformed::Missing(name))
    }

    /// The event that they describe; its bounds are not checked yet. `sent` is the trace of the transport, which is newer than
    /// what the writer put into an attribute (CloudEvents' distributed tracing extension).
    pub(super) fn into_envelope(self, sent: TraceContext, body: Vec<u8>) -> Result<Envelope, Malformed> {
        match self.required("specversion")?.as_str() {
            "1.0" => {}
            other => return Err(wrong("specversion", format!("{:?}, expected \"1.0\"", clip(other, 20)))),
        }
        let (id, source, event_type) = (self.required("id")?, self.required("source")?, self.required("type")?);
        let saga = self.required("sagaid")?;
        let saga = saga.parse().map_err(|_| wrong("sagaid", format!("{:?}, expected a UUID", clip(&saga, 40))))?;
        let hops = match self.text("sagahops")? {
            None => 0,
            Some(text) => {
                text.parse().map_err(|_| wrong("sagahops", format!("{:?}, expected a number", clip(&text, 20))))?
            }
        };
        let dispensable = |name| self.text(name).ok().flatten();
        let trace = if sent.traceparent.is_some() {
            sent
        } else {
            TraceContext { traceparent: dispensable("traceparent"), tracestate: dispensable("tracestate") }
        };
        Ok(Envelope {
            id: EventId(id),
            source,
            event_type,
            time: dispensable("time").and_then(|text| timestamp::parse(&text)),
            subject: self.text("subject")?,
            saga,
            causation: self.text("causationid")?.map(EventId),
            step: self.text("sagastep")?,
            kind: self.text("sagaoutcome")?.and_then(|word| Kind::ALL.into_iter().find(|kind| kind.as_str() == word)),
            ending: self.text("sagaending")?.as_deref().and_then(Ending::parse),
            hops,
            trace: trace.bounded(),
            extensions: self.into_extensions(),
            body,
        })
    }

    fn into_extensions(self) -> BTreeMap<String, String> {
        let mut extensions = BTreeMap::new();
        for (name, value) in self.0.into_iter().filter(|(name, _)| !KNOWN.contains(&&**name)) {
            match std::str::from_utf8(&value) {
                Ok(text) if !text.is_empty() && problem_of(text, super::MAX_ATTRIBUTE).is_none() => {
                    extensions.insert(name.into_owned(), text.to_owned())
                }
                _ => extensions.remove(&*name),
            };
        }
        extensions
    }
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

fn strip_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The members of a JSON object, their values unread. A name that comes twice is refused: an attribute has one value, and two
/// readers could take another one each.
struct Members<'m>(BTreeMap<String, &'m RawValue>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    match members.entry(name) {
                        Entry::Vacant(place) => place.insert(value),
                        Entry::Occupied(other) => {
                            let name = clip(other.key(), 40);
                            return Err(A::Error::custom(format_args!("two of its members are called {name:?}")));
                        }
                    };
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
