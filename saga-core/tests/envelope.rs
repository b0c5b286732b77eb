//! What travels: whatever is encoded is decoded as it was, whatever comes is bounded, and nothing that comes panics.
#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::{collections::BTreeMap, sync::Arc};

use proptest::{collection, option, prelude::*, sample::select};
use saga_core::{
    envelope::{
        Delivery, Envelope, Kind, MAX_ATTRIBUTE, MAX_BODY, MAX_HEADER_BYTES, MAX_HEADERS, MAX_HOPS, MAX_ID,
        MAX_NESTING, Malformed, Message, TraceContext, event_type,
    },
    event::Ending,
    id::{EventId, SagaId},
};
use serde_json::{Value, json};

const SAGA: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn event() -> Envelope {
    Envelope {
        id: EventId("event-2".to_owned()),
        source: "/payment".to_owned(),
        event_type: "shop.payment.charged.v1".to_owned(),
        time: Some(1_522_949_460_123),
        subject: Some("order 4711".to_owned()),
        saga: SAGA.parse().unwrap(),
        causation: Some(EventId("event-1".to_owned())),
        step: Some("charge-customer".to_owned()),
        kind: Some(Kind::Done),
        ending: Some(Ending::Completed),
        hops: 2,
        trace: TraceContext {
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            tracestate: Some("vendor=1".to_owned()),
        },
        extensions: BTreeMap::from([("tenant".to_owned(), "north".to_owned())]),
        body: br#"{"order":4711}"#.to_vec(),
    }
}

/// As a broker would deliver it.
fn delivered(message: Message) -> Delivery {
    let headers = message.headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
    let key = Some(message.key.into_bytes());
    Delivery { topic: Arc::from(message.topic), partition: 0, offset: 0, epoch: 0, key, headers, body: message.body }
}

fn binary() -> Delivery {
    delivered(event().encode("payment").unwrap())
}

fn structured(document: impl Into<Vec<u8>>) -> Delivery {
    let headers = vec![("content-type".to_owned(), b"application/cloudevents+json; charset=UTF-8".to_vec())];
    Delivery { headers, body: document.into(), ..binary() }
}

fn document() -> Value {
    json!({
        "specversion": "1.0", "id": "event-2", "source": "/payment", "type": "shop.payment.charged.v1",
        "time": "2018-04-05T17:31:00.123Z", "subject": "order 4711", "sagaid": SAGA, "causationid": "event-1",
        "sagastep": "charge-customer", "sagaoutcome": "done", "sagaending": "completed", "sagahops": 2,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=1",
        "tenant": "north", "datacontenttype": "application/json", "data": {"order": 4711},
    })
}

/// The document with some members replaced.
fn document_with(members: Value) -> Delivery {
    let mut all = document();
    all.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    structured(all.to_string())
}

fn set(delivery: &mut Delivery, name: &str, value: &[u8]) {
    delivery.headers.retain(|(other, _)| other != name);
    delivery.headers.push((name.to_owned(), value.to_vec()));
}

/// The header's value replaced, what decoding then says.
fn refused_with(name: &str, value: impl AsRef<[u8]>) -> String {
    let mut delivery = binary();
    set(&mut delivery, name, value.as_ref());
    Envelope::decode(&delivery).unwrap_err().to_string()
}

fn text(most: usize) -> impl Strategy<Value = String> {
    "\\PC{1,200}".prop_map(move |mut text: String| {
        text.truncate(text.floor_char_boundary(most));
        text
    })
}

/// Any event that keeps to the bounds; some touch them.
fn any_event() -> impl Strategy<Value = Envelope> {
    let id = || prop_oneof![text(MAX_ID), Just("i".repeat(MAX_ID))];
    let attribute = || prop_oneof![9 => text(MAX_ATTRIBUTE), 1 => Just("a".repeat(MAX_ATTRIBUTE))];
    let cloud = (id(), attribute(), attribute(), option::of(-62_167_219_200_000..=253_402_300_799_999_i64));
    let saga = (any::<u128>(), option::of(id()), option::of(attribute()), 0..=MAX_HOPS);
    let ends = (
        option::of(select(vec![Kind::Done, Kind::Rejected, Kind::Compensated, Kind::NothingDone])),
        option::of(select(vec![Ending::Completed, Ending::Cancelled])),
    );
    let more = (
        option::of(attribute()),
        // The state means nothing without its parent.
        option::of((attribute(), option::of(attribute()))),
        // A prefix, so that none is by chance one that has a meaning.
        collection::btree_map("x[a-z0-9]{0,19}", text(200), 0..5),
        collection::vec(any::<u8>(), 0..100),
    );
    (cloud, saga, ends, more).prop_map(|(cloud, saga, ends, more)| Envelope {
        id: EventId(cloud.0),
        source: cloud.1,
        event_type: cloud.2,
        time: cloud.3,
        subject: more.0,
        saga: SagaId(uuid::Uuid::from_u128(saga.0)),
        causation: saga.1.map(EventId),
        step: saga.2,
        kind: ends.0,
        ending: ends.1,
        hops: saga.3,
        trace: more.1.map_or_else(TraceContext::default, |(traceparent, tracestate)| TraceContext {
            traceparent: Some(traceparent),
            tracestate,
        }),
        extensions: more.2,
        body: more.3,
    })
}

/// Any event at all.
fn wild_event() -> impl Strategy<Value = Envelope> {
    let wild =
        || prop_oneof![any::<String>(), Just("long".repeat(300)), Just(String::new()), Just("\u{85}".to_owned())];
    let deep = (0..2 * MAX_NESTING).prop_map(|depth| "[".repeat(depth).into_bytes());
    let extensions =
        collection::btree_map(prop_oneof!["[a-z]{1,3}", any::<String>(), Just("id".into())], wild(), 0..60);
    (any_event(), wild(), wild(), any::<i64>(), 0..3 * MAX_HOPS, extensions, deep, 0..128_u32).prop_map(
        |(event, one, other, time, hops, extensions, deep, which)| {
            let pick = |bit: u32| which & (1 << bit) != 0;
            Envelope {
                id: if pick(0) { EventId(one.clone()) } else { event.id },
                source: if pick(1) { one.clone() } else { event.source },
                subject: if pick(2) { Some(other.clone()) } else { event.subject },
                trace: TraceContext { traceparent: Some(other), tracestate: Some(one) },
                time: if pick(3) { Some(time) } else { event.time },
                hops: if pick(4) { hops } else { event.hops },
                extensions: if pick(5) { extensions } else { event.extensions },
                body: if pick(6) { deep } else { event.body },
                ..event
            }
        },
    )
}

fn any_delivery() -> impl Strategy<Value = Delivery> {
    let names = select(vec![
        "ce_specversion",
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_time",
        "ce_subject",
        "ce_sagaid",
        "ce_causationid",
        "ce_sagahops",
        "ce_sagaoutcome",
        "CE_ID",
        "ce_",
        "ce_data",
        "content-type",
        "traceparent",
        "tracestate",
    ]);
    let name = prop_oneof![3 => names.prop_map(str::to_owned), 1 => any::<String>()];
    let values = select(vec!["1.0", "256", "2018-04-05T17:31:00Z", SAGA, "application/cloudevents+json", "a"]);
    let value = prop_oneof![
        2 => values.prop_map(|text| text.as_bytes().to_vec()),
        1 => collection::vec(any::<u8>(), 0..40)
    ];
    let body = prop_oneof![collection::vec(any::<u8>(), 0..200), any::<String>().prop_map(String::into_bytes)];
    let key = option::of(prop_oneof![Just(SAGA.as_bytes().to_vec()), collection::vec(any::<u8>(), 0..40)]);
    let headers = collection::vec((name, value), 0..70);
    (key, headers, body).prop_map(|(key, headers, body)| Delivery { key, headers, body, ..binary() })
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_as_it_was(event in any_event()) {
        let message = event.clone().encode("payment").unwrap();
        prop_assert_eq!(&message.key, &event.saga.to_string());
        let delivery = delivered(message);
        prop_assert_eq!(event_type(&delivery), Some(event.event_type.clone()));
        prop_assert_eq!(Envelope::decode(&delivery), Ok(event));
    }

    /// The next participant never refuses what this one has published.
    #[test]
    fn whatever_encode_accepts_decode_accepts(event in wild_event()) {
        if let Ok(message) = event.encode("payment") {
            prop_assert!(Envelope::decode(&delivered(message)).is_ok());
        }
    }

    #[test]
    fn a_structured_event_is_the_same_event(event in any_event(), order in any::<i64>(), base64 in any::<bool>()) {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let data = json!({ "order": order });
        let event = Envelope { body: data.to_string().into_bytes(), ..event };
        let mut document = json!({
            "specversion": "1.0", "id": event.id, "source": event.source, "type": event.event_type,
            "subject": event.subject, "sagaid": event.saga, "causationid": event.causation, "sagastep": event.step,
            "sagaoutcome": event.kind.map(Kind::as_str), "sagaending": event.ending.map(Ending::as_str),
            "sagahops": event.hops, "time": event.time.map(saga_core::envelope::rfc3339),
            "traceparent": event.trace.traceparent, "tracestate": event.trace.tracestate,
        });
        document.as_object_mut().unwrap().extend(event.extensions.iter().map(|(name, value)| (name.clone(), json!(value))));
        let (member, value) =
            if base64 { ("data_base64", json!(BASE64_STANDARD.encode(&event.body))) } else { ("data", data) };
        document[member] = value;
        let delivery = Delivery { key: None, ..structured(document.to_string()) };
        prop_assert_eq!(event_type(&delivery), Some(event.event_type.clone()));
        prop_assert_eq!(Envelope::decode(&delivery), Ok(event));
    }

    #[test]
    fn nothing_that_comes_panics(delivery in any_delivery()) {
        event_type(&delivery);
        if let Err(refused) = Envelope::decode(&delivery) {
            // It becomes a row's reason: foreign text is never shown whole.
            prop_assert!(refused.to_string().len() < 400);
        }
    }

    /// The same near an event, where the reader gets further.
    #[test]
    fn a_damaged_event_is_refused_or_can_be_passed_on(
        damage in collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        in_document in any::<bool>(),
    ) {
        let mut delivery = if in_document { structured(document().to_string()) } else { binary() };
        for (place, byte) in damage {
            let values = delivery.headers.iter_mut().map(|(_, value)| value).chain([&mut delivery.body]);
            let mut bytes: Vec<&mut u8> = values.flatten().collect();
            let place = place.index(bytes.len());
            *bytes[place] = byte;
        }
        event_type(&delivery);
        if let Ok(event) = Envelope::decode(&delivery) {
            let again = delivered(event.clone().encode("payment").unwrap());
            prop_assert_eq!(Envelope::decode(&again), Ok(event));
        }
    }
}

#[test]
fn binary_mode_is_as_the_specification_says() {
    let Message { key, headers, body, topic } = event().encode("payment").unwrap();
    let shown: String = headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    expect_test::expect![[r#"
        ce_specversion: 1.0
        ce_id: event-2
        ce_source: /payment
        ce_type: shop.payment.charged.v1
        ce_time: 2018-04-05T17:31:00.123Z
        ce_subject: order 4711
        ce_sagaid: 01890a5d-ac96-774b-bcce-b302099a8057
        ce_causationid: event-1
        ce_sagastep: charge-customer
        ce_sagaoutcome: done
        ce_sagaending: completed
        ce_sagahops: 2
        ce_tenant: north
        content-type: application/json
        traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
        tracestate: vendor=1
    "#]]
    .assert_eq(&shown);
    assert_eq!((key.as_str(), topic.as_str(), body), (SAGA, "payment", event().body));
}

#[test]
fn a_structured_event_is_read_like_a_binary_one() {
    assert_eq!(Envelope::decode(&structured(document().to_string())), Ok(event()));
    // The media type's case does not matter (Kafka protocol binding, section 3), nor do parameters.
    for media_type in ["Application/CloudEvents+JSON", " application/cloudevents+json ;charset=utf-8"] {
        let mut delivery = structured(document().to_string());
        set(&mut delivery, "content-type", media_type.as_bytes());
        assert_eq!(Envelope::decode(&delivery), Ok(event()), "{media_type}");
    }
}

#[test]
fn another_format_is_named_and_its_headers_still_tell_the_type() {
    for media_type in ["application/cloudevents+avro", "application/cloudevents-batch+json"] {
        let mut delivery = binary();
        set(&mut delivery, "content-type", media_type.as_bytes());
        assert_eq!(event_type(&delivery).as_deref(), Some("shop.payment.charged.v1"));
        assert_eq!(
            Envelope::decode(&delivery).unwrap_err().to_string(),
            format!(
                "the attribute content-type is \"{media_type}\", expected application/cloudevents+json, or the media type of \
                 the body in binary mode"
            )
        );
    }
}

#[test]
fn the_data_of_a_structured_event_is_what_its_writer_meant() {
    let body = |members: Value| {
        let mut all = document();
        all.as_object_mut().unwrap().retain(|name, _| !name.starts_with("data"));
        all.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let event = Envelope::decode(&structured(all.to_string())).map_err(|refused| refused.to_string());
        event.map(|event| String::from_utf8_lossy(&event.body).into_owned())
    };
    let said = |what: &str| Ok(what.to_owned());
    assert_eq!(body(json!({ "data": {"order": 4711} })), said(r#"{"order":4711}"#));
    assert_eq!(body(json!({ "data_base64": "eyJvcmRlciI6NDcxMX0=" })), said(r#"{"order":4711}"#));
    // A JSON string is a JSON value, unless the content type says that the text is something else.
    assert_eq!(body(json!({ "data": "<a/>" })), said(r#""<a/>""#));
    assert_eq!(body(json!({ "data": "<a/>", "datacontenttype": "application/problem+json" })), said(r#""<a/>""#));
    assert_eq!(body(json!({ "data": "<a/>", "datacontenttype": "application/xml" })), said("<a/>"));
    // A null is data, its absence is none; a null beside the other one says that it is not set.
    assert_eq!(body(json!({ "data": null })), said("null"));
    assert_eq!(body(json!({})), said(""));
    assert_eq!(body(json!({ "data": null, "data_base64": "e30=" })), said("{}"));
    assert_eq!(body(json!({ "data": {}, "data_base64": null })), said("{}"));
    for (members, expected) in [
        (json!({ "data": {}, "data_base64": "e30=" }), "it has both data and data_base64"),
        (json!({ "data_base64": "e30" }), "data_base64 is none: Invalid padding"),
        (json!({ "data_base64": 7 }), "data_base64 is no text"),
        (
            json!({ "data": {}, "datacontenttype": "text/plain" }),
            "its data is neither JSON by its datacontenttype, nor text",
        ),
    ] {
        assert_eq!(body(members), Err(format!("the body is no structured CloudEvent: {expected}")));
    }
}

#[test]
fn what_is_no_structured_event_is_refused_with_its_problem() {
    let twice = document().to_string().replacen('{', r#"{"id":"event-1","#, 1);
    for (body, problem) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("[]", "invalid type: sequence, expected a JSON object at line 1 column 0"),
        (r#"{"id":"a""#, "EOF while parsing an object at line 1 column 9"),
        (twice.as_str(), r#"two of its members are called "id" at line 1 column"#),
    ] {
        let refused = Envelope::decode(&structured(body)).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("the body is no structured CloudEvent: {problem}")), "{refused}");
    }
    assert!(matches!(Envelope::decode(&structured(*b"{\"id\":\"\xff\"}")), Err(Malformed::Structured(_))));
    for name in ["id", "source", "type", "sagaid", "sagahops", "subject"] {
        let refused = Envelope::decode(&document_with(json!({ name: {"a": 1} }))).unwrap_err();
        assert_eq!(refused.to_string(), format!("the attribute {name} is not text"));
    }
    let refused = Envelope::decode(&document_with(json!({ "id": 7 }))).unwrap_err();
    assert_eq!(refused.to_string(), "the attribute id is not text");
}

#[test]
fn integers_and_nulls_of_a_structured_event_are_read() {
    let event = |members| Envelope::decode(&document_with(members)).unwrap();
    assert_eq!(event(json!({ "sagahops": "2" })).hops, 2);
    assert_eq!(event(json!({ "sagahops": null })).hops, 0);
    assert_eq!(event(json!({ "subject": null })).subject, None);
    let extensions = event(json!({ "tenant": null, "flag": true, "count": -5, "map": {}, "Upper": "a" })).extensions;
    let kept: Vec<(&str, &str)> = extensions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(kept, [("count", "-5"), ("flag", "true")]);
}

#[test]
fn the_trace_of_the_transport_is_newer_than_the_attribute() {
    let header = "00-1111111111111111111111111111111a-aaaaaaaaaaaaaaa1-01";
    let mut delivery = structured(document().to_string());
    set(&mut delivery, "traceparent", header.as_bytes());
    let trace = Envelope::decode(&delivery).unwrap().trace;
    assert_eq!(trace, TraceContext { traceparent: Some(header.to_owned()), tracestate: None });
    let mut delivery = binary();
    delivery.headers.retain(|(name, _)| !name.starts_with("trace"));
    set(&mut delivery, "ce_traceparent", header.as_bytes());
    assert_eq!(Envelope::decode(&delivery).unwrap().trace.traceparent.as_deref(), Some(header));
}

#[test]
fn an_event_is_not_lost_for_its_trace_or_its_time() {
    for bad in ["\u{7}".repeat(3), "t".repeat(MAX_ATTRIBUTE + 1)] {
        let trace = TraceContext { traceparent: Some(bad.clone()), tracestate: Some(bad.clone()) };
        let sent = Envelope { trace, ..event() }.encode("payment").unwrap();
        assert!(!sent.headers.iter().any(|(name, _)| name.starts_with("trace")));
        let mut delivery = binary();
        set(&mut delivery, "traceparent", bad.as_bytes());
        set(&mut delivery, "tracestate", b"\xff");
        set(&mut delivery, "ce_time", b"yesterday");
        let expected = Envelope { trace: TraceContext::default(), time: None, ..event() };
        assert_eq!(Envelope::decode(&delivery), Ok(expected));
    }
    let lost = json!({ "time": 5, "traceparent": {}, "tracestate": [] });
    assert!(Envelope::decode(&document_with(lost)).is_ok());
}

#[test]
fn every_missing_attribute_is_named() {
    for name in ["specversion", "id", "source", "type", "sagaid"] {
        let said = format!(
            "the message has no {name}: expected a CloudEvent in binary mode (ce_{name} header) or structured mode"
        );
        let mut without = binary();
        without.headers.retain(|(header, _)| *header != format!("ce_{name}"));
        assert_eq!(Envelope::decode(&without).unwrap_err().to_string(), said);
        // Empty is as good as missing.
        assert_eq!(refused_with(&format!("ce_{name}"), ""), said);
        assert_eq!(Envelope::decode(&document_with(json!({ name: null }))).unwrap_err().to_string(), said);
        assert_eq!(Envelope::decode(&document_with(json!({ name: "" }))).unwrap_err().to_string(), said);
    }
    let bare = Delivery { headers: Vec::new(), ..binary() };
    assert_eq!(event_type(&bare), None);
    assert_eq!(Envelope::decode(&bare), Err(Malformed::Missing("specversion")));
    for (event, name) in [
        (Envelope { id: EventId(String::new()), ..event() }, "id"),
        (Envelope { source: String::new(), ..event() }, "source"),
        (Envelope { event_type: String::new(), ..event() }, "type"),
    ] {
        assert_eq!(event.encode("payment"), Err(Malformed::Missing(name)));
    }
}

#[test]
fn an_unusable_attribute_is_refused_by_its_name() {
    for (name, value, said) in [
        ("ce_specversion", "0.3", r#"specversion is "0.3", expected "1.0""#),
        ("ce_sagaid", "4711", r#"sagaid is "4711", expected a UUID"#),
        ("ce_sagahops", "-1", r#"sagahops is "-1", expected a number"#),
        ("ce_sagahops", "4294967296", r#"sagahops is "4294967296", expected a number"#),
        ("ce_source", "a\nb", "source is not text: it has a control character"),
        ("ce_subject", "a\0", "subject is not text: it has a control character"),
        ("ce_id", "\u{9f}", "id is not text: it has a control character"),
    ] {
        assert_eq!(refused_with(name, value), format!("the attribute {said}"));
    }
    for name in ["id", "source", "type", "sagaid", "subject", "sagahops", "causationid", "sagastep"] {
        assert_eq!(refused_with(&format!("ce_{name}"), b"a\xffb"), format!("the attribute {name} is not UTF-8"));
    }
    // The same on the way out.
    let sent = Envelope { subject: Some("a\nb".to_owned()), ..event() }.encode("payment").unwrap_err();
    assert_eq!(sent.to_string(), "the attribute subject is not text: it has a control character");
    let sent = Envelope { time: Some(i64::MIN), ..event() }.encode("payment").unwrap_err();
    assert_eq!(sent.to_string(), "the attribute time is outside of the years 0000 to 9999");
}

#[test]
fn the_last_header_of_a_name_counts_whatever_is_in_it() {
    let with = |more: &[(&str, &[u8])]| {
        let mut delivery = binary();
        delivery.headers.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())));
        Envelope::decode(&delivery)
    };
    assert_eq!(with(&[("ce_subject", b"first"), ("ce_subject", b"last")]).unwrap().subject.as_deref(), Some("last"));
    assert_eq!(with(&[("CE_Subject", b"last")]).unwrap().subject.as_deref(), Some("last"));
    assert_eq!(with(&[("ce_subject", b"")]).unwrap().subject, None);
    assert_eq!(with(&[("traceparent", b"last")]).unwrap().trace.traceparent.as_deref(), Some("last"));
    assert_eq!(with(&[("ce_tenant", b"last")]).unwrap().extensions["tenant"], "last");
    // An older value was meant to be replaced, so it is not what counts when the newest cannot be read.
    assert_eq!(with(&[("ce_subject", b"\xff")]).unwrap_err().to_string(), "the attribute subject is not UTF-8");
    assert_eq!(with(&[("traceparent", b"\xff")]).unwrap().trace.traceparent, None);
    assert_eq!(with(&[("ce_tenant", b"\xff")]).unwrap().extensions, BTreeMap::new());
    let mut delivery = binary();
    delivery.headers.push(("ce_type".to_owned(), b"shop.other.v1".to_vec()));
    assert_eq!(event_type(&delivery).as_deref(), Some("shop.other.v1"));
    delivery.headers.push(("ce_type".to_owned(), b"\xff".to_vec()));
    assert_eq!(event_type(&delivery), None);
}

#[test]
fn an_unknown_attribute_is_kept_unless_it_is_no_text() {
    let mut delivery = binary();
    for (name, value) in [
        ("ce_dataschema", b"https://example.org/charged".as_slice()),
        ("ce_sequence", b"7"),
        ("ce_bell", b"\x07"),
        ("ce_bytes", b"\xff"),
        ("ce_long", &[b'a'; MAX_ATTRIBUTE + 1]),
        ("ce_no-name", b"a"),
        ("elsewhere", b"a"),
    ] {
        set(&mut delivery, name, value);
    }
    let extensions = Envelope::decode(&delivery).unwrap().extensions;
    let names: Vec<&str> = extensions.keys().map(String::as_str).collect();
    assert_eq!(names, ["dataschema", "sequence", "tenant"]);
    for name in ["", "no-name", "Upper", "id", "specversion", "data", "datacontenttype", "sagahops", "traceparent"] {
        let extensions = BTreeMap::from([(name.to_owned(), "a".to_owned())]);
        let refused = Envelope { extensions, ..event() }.encode("payment").unwrap_err().to_string();
        let said = "no extension: expected a name of lower-case letters and digits that has no meaning yet";
        assert_eq!(refused, format!("the attribute {name} is {said}"));
    }
}

#[test]
fn the_key_names_the_saga_or_nothing() {
    let other = "01890a5d-ac96-774b-bcce-b302099a8058";
    for key in [other.as_bytes(), b"", b"\xff", SAGA.to_uppercase().as_bytes()] {
        for delivery in [binary(), structured(document().to_string())] {
            let refused = Envelope::decode(&Delivery { key: Some(key.to_vec()), ..delivery }).unwrap_err();
            assert_eq!(refused.to_string(), format!("the message key is not the saga id {SAGA}"));
        }
    }
    assert_eq!(Envelope::decode(&Delivery { key: None, ..binary() }), Ok(event()));
}

/// Each bound holds on the way in and on the way out, to the byte.
#[test]
fn every_bound_is_exact_and_is_said() {
    type With = fn(String) -> Envelope;
    let encoded = |event: Envelope| event.encode("payment").map(|_| ()).map_err(|refused| refused.to_string());
    let ids: [(&str, With); 2] = [
        ("id", |id| Envelope { id: EventId(id), ..event() }),
        ("causationid", |id| Envelope { causation: Some(EventId(id)), ..event() }),
    ];
    let attributes: [(&str, With); 5] = [
        ("source", |source| Envelope { source, ..event() }),
        ("type", |event_type| Envelope { event_type, ..event() }),
        ("subject", |subject| Envelope { subject: Some(subject), ..event() }),
        ("sagastep", |step| Envelope { step: Some(step), ..event() }),
        ("tenant", |tenant| Envelope { extensions: BTreeMap::from([("tenant".to_owned(), tenant)]), ..event() }),
    ];
    for (bound, (name, with)) in
        ids.map(|one| (MAX_ID, one)).into_iter().chain(attributes.map(|one| (MAX_ATTRIBUTE, one)))
    {
        let said = format!("the attribute {name} is {} bytes long, the bound is {bound}", bound + 1);
        assert_eq!(encoded(with("a".repeat(bound))), Ok(()));
        assert_eq!(encoded(with("a".repeat(bound + 1))), Err(said.clone()));
        if name != "tenant" {
            assert_eq!(refused_with(&format!("ce_{name}"), "a".repeat(bound + 1)), said);
        }
    }

    let hops = |hops| encoded(Envelope { hops, ..event() });
    let circle = "the attribute sagahops is 257, the bound is 256: do these events go in a circle?";
    assert_eq!(hops(MAX_HOPS), Ok(()));
    assert_eq!(hops(MAX_HOPS + 1).unwrap_err(), circle);
    assert_eq!(refused_with("ce_sagahops", "257"), circle);

    for (size, said) in
        [(MAX_BODY, None), (MAX_BODY + 1, Some("the size of the body is 1000001, the bound is 1000000"))]
    {
        let body = vec![b' '; size];
        assert_eq!(encoded(Envelope { body: body.clone(), ..event() }).err().as_deref(), said);
        let decoded = Envelope::decode(&Delivery { body, ..binary() }).err().map(|refused| refused.to_string());
        assert_eq!(decoded.as_deref(), said);
    }
    let huge = structured(document().to_string() + &" ".repeat(MAX_BODY));
    assert_eq!(event_type(&huge), None);
    assert!(matches!(Envelope::decode(&huge), Err(Malformed::TooLarge { what: "the size of the body", .. })));
}

#[test]
fn the_headers_are_bounded_in_number_and_in_size() {
    let decoded = |delivery: &Delivery| Envelope::decode(delivery).map_err(|refused| refused.to_string());
    let mut delivery = binary();
    let some = delivery.headers.len();
    delivery.headers.resize(MAX_HEADERS, ("other".to_owned(), Vec::new()));
    assert_eq!(decoded(&delivery), Ok(event()));
    delivery.headers.push(("other".to_owned(), Vec::new()));
    assert_eq!(decoded(&delivery).unwrap_err(), "the number of headers is 65, the bound is 64");

    let mut delivery = binary();
    let size: usize = delivery.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    delivery.headers.push(("other".to_owned(), vec![b'a'; MAX_HEADER_BYTES - size - "other".len()]));
    assert_eq!(decoded(&delivery), Ok(event()));
    delivery.headers.push(("o".to_owned(), Vec::new()));
    assert_eq!(decoded(&delivery).unwrap_err(), "the size of the headers is 16385, the bound is 16384");

    let extended = |number: usize, size: usize| {
        let extensions = (0..number).map(|n| (format!("x{n:02}"), "a".repeat(size))).collect();
        Envelope { extensions, ..event() }.encode("payment").map(delivered).map_err(|refused| refused.to_string())
    };
    // The one extension of the example is replaced.
    let most = MAX_HEADERS - some + 1;
    assert!(Envelope::decode(&extended(most, 1).unwrap()).is_ok());
    assert_eq!(extended(most + 1, 1).unwrap_err(), "the number of headers is 65, the bound is 64");
    let refused = extended(16, MAX_ATTRIBUTE).unwrap_err();
    assert!(refused.starts_with("the size of the headers is 1"), "{refused}");

    let many: serde_json::Map<String, Value> = (0..MAX_HEADERS).map(|n| (format!("x{n}"), json!("a"))).collect();
    let refused = decoded(&document_with(Value::Object(many))).unwrap_err();
    assert_eq!(refused, "the number of attributes is 80, the bound is 64");
    let refused = decoded(&document_with(json!({ "tenant": "a".repeat(MAX_HEADER_BYTES) }))).unwrap_err();
    assert!(refused.starts_with("the size of the attributes is 1"), "{refused}");
}

/// As deep as the next participant can read, and not deeper.
#[test]
fn the_body_is_nested_as_deep_as_a_step_can_read() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
    assert!(serde_json::from_slice::<Value>(&nested(MAX_NESTING)).is_ok());
    assert!(serde_json::from_slice::<Value>(&nested(MAX_NESTING + 1)).is_err());

    let said = "the nesting of the body is 128, the bound is 127";
    assert!(Envelope { body: nested(MAX_NESTING), ..event() }.encode("payment").is_ok());
    let refused = Envelope { body: nested(MAX_NESTING + 1), ..event() }.encode("payment").unwrap_err();
    assert_eq!(refused.to_string(), said);
    let refused = Envelope::decode(&Delivery { body: nested(MAX_NESTING + 1), ..binary() }).unwrap_err();
    assert_eq!(refused.to_string(), said);

    // Reading a document takes no stack, however deep it is, and its data is held to the same bound.
    let document = |depth: usize| {
        let data = String::from_utf8(nested(depth)).unwrap();
        structured(document().to_string().replace(r#"{"order":4711}"#, &data))
    };
    assert!(Envelope::decode(&document(MAX_NESTING)).is_ok());
    assert_eq!(Envelope::decode(&document(MAX_NESTING + 1)).unwrap_err().to_string(), said);
    let deep = document(400_000);
    assert_eq!(event_type(&deep).as_deref(), Some("shop.payment.charged.v1"));
    assert!(matches!(Envelope::decode(&deep), Err(Malformed::TooLarge { got: 400_000, .. })));

    // Brackets in a text nest nothing, and a quote in a text does not end it.
    let text = json!({ "reason": "[".repeat(200), "other": format!("\\\"{}", "{".repeat(200)) });
    let body = text.to_string().into_bytes();
    assert_eq!(Envelope { body, ..event() }.encode("payment").err(), None);
}
