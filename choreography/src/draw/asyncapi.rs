//! AsyncAPI 3.0 documents: what generators, registries and people outside of the toolkit read.
//!
//! The document says how events travel (topics, keys, headers, bodies) and, in the extension `x-saga`, what they are for.

use std::collections::{BTreeMap, BTreeSet};

use saga_core::{
    envelope::{MAX_ATTRIBUTE, MAX_HOPS, MAX_ID},
    event::Ending,
    manifest::{DeclaredEvent, FORMAT, Manifest},
    timeline::short,
};
use serde_json::{Map, Value, json};

use super::text;
use crate::Choreography;

/// Of the Kafka binding (asyncapi/bindings, folder kafka).
const BINDING: &str = "0.5.0";
/// The schema that the headers of every message keep to, in `components/schemas`.
const HEADERS: &str = "SagaHeaders";

impl Choreography {
    /// An AsyncAPI 3.0 document of everything that these participants send and receive: a channel per topic, a message per event
    /// type, and for each participant an operation per topic and direction. Of one participant, it is that service's own document.
    ///
    /// An event that a step names without declaring it is left out, because its topic is not known.
    pub fn to_asyncapi(&self) -> Value {
        let events = Events::of(&self.manifests);
        let mut channels = Map::new();
        for (topic, channel) in &events.channels {
            let messages = events.all.iter().filter(|event| event.declared.topic == *topic);
            let messages: Map<_, _> = messages
                .map(|event| (event.key.clone(), json!({"$ref": format!("#/components/messages/{}", event.key)})))
                .collect();
            let binding = json!({"kafka": {"topic": topic, "bindingVersion": BINDING}});
            channels.insert(channel.clone(), json!({"address": topic, "messages": messages, "bindings": binding}));
        }
        let mut schemas = Map::from_iter([(HEADERS.to_owned(), headers())]);
        let mut messages = Map::new();
        for event in &events.all {
            if let Some(schema) = event.declared.writes.as_ref().or(event.declared.reads.as_ref()) {
                let mut schema = match schema {
                    // AsyncAPI has no booleans where a body's schema stands: anything, and nothing.
                    Value::Bool(true) => json!({}),
                    Value::Bool(false) => json!({"not": {}}),
                    schema => schema.clone(),
                };
                rebase(&mut schema, &format!("#/components/schemas/{}", event.key));
                schemas.insert(event.key.clone(), schema);
            }
            messages.insert(event.key.clone(), event.message());
        }
        let names: BTreeSet<&str> = self.manifests.iter().map(|manifest| manifest.participant.as_str()).collect();
        let mut document = json!({
            "asyncapi": "3.0.0",
            "info": {
                "title": text::line(&names.into_iter().collect::<Vec<_>>().join(", ")),
                "version": version(&self.manifests),
                "description": "Events of a choreography saga. A message is a CloudEvent in binary mode: its attributes are in \
                                the headers, and the saga id is its key. Every message may come more than once and in any order.",
            },
            "defaultContentType": "application/json",
            "channels": channels,
            "operations": operations(&self.manifests, &events),
            "components": {"schemas": schemas, "messages": messages},
            "x-saga": {"manifest": FORMAT, "participants": self.manifests.iter().map(participant).collect::<Vec<_>>()},
        });
        document.sort_all_objects();
        document
    }
}

/// An event type that is declared.
#[derive(Debug)]
struct Declared<'m> {
    name: &'m str,
    /// By a publisher, if there is one.
    declared: &'m DeclaredEvent,
    /// Its name where AsyncAPI wants a key.
    key: String,
    published_by: Vec<&'m str>,
    heard_by: Vec<&'m str>,
}

#[derive(Debug)]
struct Events<'m> {
    all: Vec<Declared<'m>>,
    /// The key of each topic's channel.
    channels: BTreeMap<&'m str, String>,
}

impl<'m> Events<'m> {
    fn of(manifests: &'m [Manifest]) -> Self {
        let mut all = BTreeMap::<&'m str, Declared<'m>>::new();
        for manifest in manifests {
            for (name, declared) in &manifest.events {
                let publishes = manifest.steps.iter().any(|step| step.published().any(|event| event == name));
                let hears =
                    manifest.steps.iter().any(|step| step.on.iter().chain(&step.compensated_on).any(|on| on == name));
                let event = all.entry(name).or_insert_with(|| Declared {
                    name,
                    declared,
                    key: String::new(),
                    published_by: Vec::new(),
                    heard_by: Vec::new(),
                });
                if publishes && event.published_by.is_empty() {
                    event.declared = declared;
                }
                if publishes {
                    event.published_by.push(&manifest.participant);
                }
                if hears {
                    event.heard_by.push(&manifest.participant);
                }
            }
        }
        let mut taken = BTreeSet::from([HEADERS.to_owned()]);
        let mut all: Vec<_> = all.into_values().collect();
        for event in &mut all {
            event.key = key(event.name, &mut taken);
        }
        let topics: BTreeSet<&str> = all.iter().map(|event| event.declared.topic.as_str()).collect();
        let mut taken = BTreeSet::new();
        let channels = topics.into_iter().map(|topic| (topic, key(topic, &mut taken))).collect();
        Self { all, channels }
    }

    fn named(&self, name: &str) -> Option<&Declared<'m>> {
        self.all.iter().find(|event| event.name == name)
    }
}

impl Declared<'_> {
    fn message(&self) -> Value {
        let mut own = Map::from_iter([("ce_type".to_owned(), json!({"const": self.name}))]);
        if let Some(ending) = self.declared.ending {
            own.insert("ce_sagaending".to_owned(), json!({"const": ending}));
        }
        let headers = format!("#/components/schemas/{HEADERS}");
        let mut message = json!({
            "name": self.name,
            "title": text::line(&short(self.name)),
            "contentType": "application/json",
            "headers": {"type": "object", "allOf": [{"$ref": headers}, {"properties": own}]},
            "correlationId": {"description": "The saga id.", "location": "$message.header#/ce_sagaid"},
            "bindings": {"kafka": {"key": key_schema(&self.declared.key), "bindingVersion": BINDING}},
            "x-saga": {},
        });
        // Of those that the document is about: whoever else there is, is not known here.
        for (name, participants) in [("publishedBy", &self.published_by), ("heardBy", &self.heard_by)] {
            if !participants.is_empty() {
                message["x-saga"][name] = json!(participants);
            }
        }
        if let Some(ending) = self.declared.ending {
            message["x-saga"]["ending"] = json!(ending);
        }
        if self.declared.writes.is_some() || self.declared.reads.is_some() {
            message["payload"] = json!({"$ref": format!("#/components/schemas/{}", self.key)});
        }
        message
    }
}

fn key_schema(attribute: &str) -> Value {
    json!({"type": "string", "format": "uuid", "description": format!("The event's attribute {attribute}.")})
}

/// For each participant one operation per topic and direction.
fn operations(manifests: &[Manifest], events: &Events<'_>) -> Map<String, Value> {
    let mut operations = Map::new();
    let mut taken = BTreeSet::new();
    for manifest in manifests {
        // By action and topic: the messages, and which step does what with them.
        let mut found = BTreeMap::<(&str, &str), (BTreeSet<&str>, Vec<Value>)>::new();
        for step in &manifest.steps {
            let ways = [
                ("receive", "triggers", &step.on),
                ("receive", "compensates", &step.compensated_on),
                ("send", "done", &step.emits),
                ("send", "rejected", &step.rejects),
                ("send", "compensated", &step.compensated),
            ];
            for (action, way, names) in ways {
                for event in names.iter().filter_map(|name| events.named(name)) {
                    let (messages, steps) = found.entry((action, &event.declared.topic)).or_default();
                    messages.insert(&event.key);
                    steps.push(json!({"step": step.step, "event": event.name, "as": way}));
                }
            }
        }
        for ((action, topic), (messages, steps)) in found {
            let channel = &events.channels[topic];
            let refer = |key| json!({"$ref": format!("#/channels/{channel}/messages/{key}")});
            let participant = text::line(&manifest.participant);
            let mut operation = json!({
                "action": action,
                "title": format!("{participant} {action}s on {}", text::line(topic)),
                "channel": {"$ref": format!("#/channels/{channel}")},
                "messages": messages.into_iter().map(refer).collect::<Vec<_>>(),
                "x-saga": {"participant": manifest.participant, "steps": steps},
            });
            if action == "receive" {
                let group = json!({"type": "string", "enum": [manifest.consumer_group()]});
                operation["bindings"] = json!({"kafka": {"groupId": group, "bindingVersion": BINDING}});
            }
            operations.insert(key(&format!("{}.{action}.{topic}", manifest.participant), &mut taken), operation);
        }
    }
    operations
}

/// What `x-saga` says of a participant: its manifest without the events, which are messages here.
fn participant(manifest: &Manifest) -> Value {
    let group = manifest.consumer_group();
    json!({"participant": manifest.participant, "version": manifest.version, "group": group, "steps": manifest.steps})
}

/// The version of one, or of each.
fn version(manifests: &[Manifest]) -> String {
    let versions: BTreeSet<&str> = manifests.iter().map(|manifest| manifest.version.as_str()).collect();
    match versions.into_iter().collect::<Vec<_>>().as_slice() {
        [] | [""] => "unversioned".to_owned(),
        [all] => text::line(all),
        _ => text::line(
            &manifests.iter().map(|m| format!("{} {}", m.participant, m.version)).collect::<Vec<_>>().join(", "),
        ),
    }
}

/// A name where AsyncAPI allows only letters, digits, `.`, `-` and `_`, and each only once.
fn key(name: &str, taken: &mut BTreeSet<String>) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
    let key: String = name.chars().map(word).collect();
    let key = if key.is_empty() { "_".to_owned() } else { key };
    let mut unique = key.clone();
    for n in 2.. {
        if taken.insert(unique.clone()) {
            break;
        }
        unique = format!("{key}-{n}");
    }
    unique
}

/// A schema refers to parts of itself from its own root, which is elsewhere in the document: at `root`.
fn rebase(schema: &mut Value, root: &str) {
    match schema {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(target) if name == "$ref" => {
                        if let Some(rest) = target.strip_prefix('#') {
                            *target = format!("{root}{rest}");
                        }
                    }
                    // Values, not schemas. An object may be the schema of a property that is called so.
                    _ if ["const", "enum", "default", "examples"].contains(&name.as_str()) && !value.is_object() => {}
                    value => rebase(value, root),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rebase(item, root)),
        _ => {}
    }
}

/// The headers of every event, as `saga_core::envelope` writes them.
fn headers() -> Value {
    let text = |most: usize, what: &str| json!({"type": "string", "maxLength": most, "description": what});
    json!({
        "type": "object",
        "description": "CloudEvents 1.0 in binary mode, with the saga's attributes as extensions. Values are text.",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_sagaid"],
        "properties": {
            "ce_specversion": {"const": "1.0"},
            "ce_id": text(MAX_ID, "The event's id. The same event comes with the same id, however often it comes."),
            "ce_source": text(MAX_ATTRIBUTE, "/ and the name of the participant that published it."),
            "ce_type": text(MAX_ATTRIBUTE, "What happened."),
            "ce_time": {"type": "string", "format": "date-time"},
            "ce_subject": text(MAX_ATTRIBUTE, "What it is about in business terms."),
            "ce_sagaid": {"type": "string", "format": "uuid", "description": "The saga that it belongs to; also the key."},
            "ce_causationid": text(MAX_ID, "The id of the event that made it happen; a start has none."),
            "ce_sagastep": text(MAX_ATTRIBUTE, "The step that published it."),
            "ce_sagaoutcome": {
                "type": "string",
                "enum": ["done", "rejected", "compensated", "nothingdone"],
                "description": "What it is the outcome of.",
            },
            "ce_sagaending": {
                "type": "string",
                "enum": [Ending::Completed, Ending::Cancelled],
                "description": "How the saga ends with it.",
            },
            "ce_sagahops": {
                "type": "string",
                "pattern": "^[0-9]{1,3}$",
                "description": format!("Events since the start, at most {MAX_HOPS}."),
            },
            "content-type": {"const": "application/json"},
            "traceparent": text(MAX_ATTRIBUTE, "W3C Trace Context."),
            "tracestate": text(MAX_ATTRIBUTE, "W3C Trace Context."),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::expect_file;
    use saga_core::envelope::{Delivery, Envelope};

    use super::*;
    use crate::draw::examples::{assert_escaped, small};

    #[test]
    fn a_document_of_one_service() {
        let mut bank = small();
        bank.manifests.remove(0);
        expect_file!["bank.asyncapi.json"].assert_eq(&format!("{:#}\n", bank.to_asyncapi()));
    }

    #[test]
    fn merged_an_event_is_one_message_and_each_participant_has_its_operations() {
        let document = small().to_asyncapi();
        let keys = |pointer: &str| -> Vec<String> {
            document.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(keys("/channels"), ["bank", "desk"]);
        assert_eq!(keys("/operations"), ["bank.receive.desk", "bank.send.bank", "desk.receive.bank", "desk.send.desk"]);
        assert_eq!(keys("/components/messages").len(), 5);
        let paid = &document["components"]["messages"]["shop.room.paid.v1"]["x-saga"];
        assert_eq!(*paid, json!({"publishedBy": ["bank"], "heardBy": ["desk"]}));
    }

    /// Whoever adds a header to the envelope documents it.
    #[test]
    fn the_headers_are_those_that_an_envelope_has() {
        let declared = headers();
        let properties = declared["properties"].as_object().unwrap();
        let value = |name: &str, schema: &Value| match (name, &schema["const"], &schema["enum"][0]) {
            (_, Value::String(only), _) | (_, _, Value::String(only)) => only.clone(),
            ("ce_sagaid", ..) => "01a20d39-e473-7881-8be4-b5a5384f09a3".to_owned(),
            ("ce_sagahops", ..) => "7".to_owned(),
            ("ce_time", ..) => "2026-01-01T00:00:00Z".to_owned(),
            ("traceparent", ..) => "00-5fc333af041973e6cd11574c6bd04978-00f067aa0ba902b7-01".to_owned(),
            (name, ..) => format!("some-{name}"),
        };
        let headers =
            properties.iter().map(|(name, schema)| (name.clone(), value(name, schema).into_bytes())).collect();
        let delivery = Delivery {
            topic: Arc::from("desk"),
            partition: 0,
            offset: 0,
            epoch: 0,
            key: None,
            headers,
            body: b"{}".to_vec(),
        };
        let written = Envelope::decode(&delivery).unwrap().encode("desk").unwrap().headers;
        let written: BTreeSet<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(written, properties.keys().map(String::as_str).collect());
    }

    #[test]
    fn names_break_nothing() {
        assert_escaped(|choreography| format!("{:#}", choreography.to_asyncapi()), &[]);
    }
}
